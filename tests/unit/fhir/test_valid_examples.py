"""HL7's own examples are valid; the same with one thing broken are not, and the place is told.

The faults are planted by rules of the standard that need no table: any object may be emptied, any array may become
a single value, any element may be misspelt. So every type and element of the examples is tried, not those somebody
thought of.
"""

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.second_opinion import second_opinion
from fhir_bridge.fhir.validate import validate_r4, validate_stu3
from tests.unit.fhir.fhir_samples import Json, errors, examples

VALIDATORS: dict[str, Callable[[Any], list[Issue]]] = {"r4": validate_r4, "stu3": validate_stu3}
RELEASES = pytest.mark.parametrize("release", ["r4", "stu3"])

# HL7's own R4 examples that break a rule of R4; accepted, and flagged.
FLAGGED_EXAMPLES = {
    ("ActivityDefinition", "heart-valve-replacement", "invariant"),
    ("Basic", "referral", "not-supported"),
    ("DiagnosticReport", "example-pgx", "value"),
    ("DeviceMetric", "example", "invalid"),
    ("MedicationRequest", "medrx0301", "invalid"),
    ("Observation", "clinical-gender", "invalid"),
    ("Questionnaire", "zika-virus-exposure-assessment", "invariant"),
}


@RELEASES
def test_every_official_example_is_accepted(release: str) -> None:
    found = {(e["resourceType"], e["id"], *errors(VALIDATORS[release](e))) for e in examples(release)}
    assert {f for f in found if len(f) > 2} == set()


def test_few_official_examples_are_flagged_for_structure() -> None:
    found = {
        (e["resourceType"], e["id"], i.code)
        for e in examples("r4")
        for i in validate_r4(e)
        if i.code not in ("business-rule", "code-invalid")
    }
    assert found == FLAGGED_EXAMPLES


@RELEASES
def test_fhir_resources_accepts_what_we_accept(release: str) -> None:
    """The 18 of 744 examples it wrongly refuses are of types outside these sets."""
    for example in examples(release):
        assert not second_opinion(example, release=release.upper()), (example["resourceType"], example["id"])


def _objects(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every object and array with its place, narrative and resources inside resources left out."""
    if isinstance(value, (dict, list)):
        yield place, value
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in ("contained", "resource", "div"):
                yield from _objects(item, f"{place}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _objects(item, f"{place}[{index}]")


def _pick(release: str, wanted: type, seed: int) -> Iterator[tuple[Json, str, Any]]:
    """One object (or array) of each example, chosen by ``seed``: the copy, the place, the live object."""
    chooser = random.Random(seed)
    for example in examples(release):
        made = copy.deepcopy(example)
        found = [(p, o) for p, o in _objects(made, made["resourceType"]) if isinstance(o, wanted)]
        if found:
            yield made, *chooser.choice(found)


SEEDS = pytest.mark.parametrize("seed", range(3))


@RELEASES
@SEEDS
def test_a_misspelt_element_is_refused_where_it_stands(release: str, seed: int) -> None:
    for made, place, holder in _pick(release, dict, seed):
        holder["zzNoSuchElement"] = "Zzcanary"
        issues = VALIDATORS[release](made)
        assert ("structure", place) in errors(issues)
        assert "anary" not in repr(issues)


@RELEASES
@SEEDS
def test_an_empty_object_is_refused_where_it_stands(release: str, seed: int) -> None:
    for made, place, holder in _pick(release, dict, seed):
        if holder is made:
            continue
        holder.clear()
        assert any(p.startswith(place) for _, p in errors(VALIDATORS[release](made))), place


@RELEASES
@SEEDS
def test_an_empty_array_is_refused_where_it_stands(release: str, seed: int) -> None:
    for made, place, holder in _pick(release, list, seed):
        holder.clear()
        assert ("structure", place) in errors(VALIDATORS[release](made))


@RELEASES
@SEEDS
def test_a_single_value_for_an_array_is_refused_where_it_stands(release: str, seed: int) -> None:
    for made, place, holder in _pick(release, dict, seed):
        lists = [k for k, v in holder.items() if isinstance(v, list) and k != "contained"]
        if lists:
            holder[lists[0]] = holder[lists[0]][0]
            assert ("structure", f"{place}.{lists[0]}") in errors(VALIDATORS[release](made))


@RELEASES
@SEEDS
def test_an_array_for_a_single_value_is_refused_where_it_stands(release: str, seed: int) -> None:
    for made, place, holder in _pick(release, dict, seed):
        single = [k for k, v in holder.items() if not isinstance(v, list) and k not in ("resourceType", "resource")]
        if single:
            holder[single[-1]] = [holder[single[-1]]]
            assert ("structure", f"{place}.{single[-1]}") in errors(VALIDATORS[release](made))


@RELEASES
@pytest.mark.parametrize("value", ["", "   ", None, {}, 7.5])
def test_a_value_of_a_wrong_kind_is_refused_where_it_stands(release: str, value: Any) -> None:
    for made, place, holder in _pick(release, dict, 5):
        texts = [k for k, v in holder.items() if isinstance(v, str) and k not in ("resourceType", "div")]
        if texts:
            key = texts[0]
            holder[key] = value
            assert any(p.startswith(f"{place}.{key}") for _, p in errors(VALIDATORS[release](made))), (place, key)


@RELEASES
def test_a_resource_without_a_known_type_is_refused(release: str) -> None:
    for value in (7, None, "", "patient", "Pateint", "DomainResource", "Element", "Period", ["Patient"], {"a": 1}):
        assert errors(VALIDATORS[release]({"resourceType": value, "id": "x"})) == {("structure", "$this")}
    for value in ({}, [], "Patient", None, 3):
        assert errors(VALIDATORS[release](value)) == {("structure", "$this")}


@pytest.mark.parametrize("fault", ["id", "status", "subject", "code"])
def test_faults_of_contained_resources_are_found(fault: str) -> None:
    value: Any = {"id": "a b", "status": "zz", "subject": {"reference": "Medication/1"}, "code": None}[fault]
    contained: Json = {
        "resourceType": "Observation",
        "id": "c",
        "status": "final",
        "code": {"text": "x"},
        "subject": {"reference": "Patient/1"},
    }
    contained[fault] = value
    holder = {
        "resourceType": "DiagnosticReport",
        "contained": [contained],
        "status": "final",
        "code": {"text": "x"},
        "result": [{"reference": "#" + contained["id"]}],
    }
    assert any(p.startswith(f"DiagnosticReport.contained[0].{fault}") for _, p in errors(validate_r4(holder)))
