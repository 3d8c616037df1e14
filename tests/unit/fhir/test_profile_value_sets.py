"""Which value sets of a package can be listed without a terminology server (FHIR R4 valueset.html#compositions)."""

from typing import Any

import pytest

from fhir_bridge.fhir.profiles.expansion import NotListed, Terms
from fhir_bridge.fhir.tables import r4
from tests.unit.fhir.profile_samples import BASE, code_system, value_set

Json = dict[str, Any]
COLOURS = f"{BASE}/CodeSystem/colours"
CONCEPTS: list[Json] = [
    {"code": "warm", "concept": [{"code": "red", "property": [{"code": "paint", "valueCode": "oil"}]}]},
    {"code": "blue"},
]
GENDERS = "http://hl7.org/fhir/administrative-gender"


def codes(*sets: Json, content: str = "complete", ask: str = "some") -> dict[str, frozenset[str]]:
    """What the set ``some`` lists."""
    systems = {COLOURS: code_system("colours", CONCEPTS, content)}
    found = Terms({each["url"]: each for each in sets}, systems, r4()).codes(f"{BASE}/ValueSet/{ask}|1.0")
    return dict(found)


def filtered(*filters: tuple[str, str, str]) -> Json:
    rows = [{"property": name, "op": op, "value": value} for name, op, value in filters]
    return value_set("some", {"include": [{"system": COLOURS, "filter": rows}]})


@pytest.mark.parametrize(
    ("asked", "listed"),
    [
        (filtered(("concept", "is-a", "warm")), {"warm", "red"}),
        (filtered(("concept", "descendent-of", "warm")), {"red"}),
        (filtered(("paint", "=", "oil")), {"red"}),
        (filtered(("concept", "is-a", "warm"), ("concept", "is-a", "red")), {"red"}),
        (value_set("some", {"include": [{"system": COLOURS}]}), {"warm", "red", "blue"}),
    ],
)
def test_a_complete_code_system_is_listed_by_its_hierarchy_and_properties(asked: Json, listed: set[str]) -> None:
    assert codes(asked) == {COLOURS: listed}


def test_sets_and_whole_systems_of_the_standard_come_from_its_tables() -> None:
    genders = {"male", "female", "other", "unknown"}
    assert codes(value_set("some", {"include": [{"system": GENDERS}]})) == {GENDERS: genders}
    by_set = {"include": [{"valueSet": ["http://hl7.org/fhir/ValueSet/administrative-gender|4.0.1"]}]}
    assert codes(value_set("some", by_set)) == {GENDERS: genders}


def test_a_whole_expansion_stands_in_for_what_cannot_be_worked_out() -> None:
    contains = [{"abstract": True, "code": "all", "system": "s", "contains": [{"system": "s", "code": "a"}]}]
    compose = {"include": [{"system": "http://snomed.info/sct"}]}
    assert codes(value_set("some", compose, expansion={"total": 2, "contains": contains})) == {"s": {"a"}}
    narrow = [{"name": "activeOnly", "valueBoolean": True}]
    unclosed = [{"url": "http://hl7.org/fhir/StructureDefinition/valueset-unclosed", "valueBoolean": True}]
    for part in (
        {"total": 3, "contains": contains},
        {"offset": 0, "contains": contains},
        {"parameter": narrow, "contains": contains},
        {"parameter": [{"name": "count", "valueInteger": 2}], "contains": contains},
        {"extension": unclosed, "contains": contains},
    ):
        with pytest.raises(NotListed, match=r"snomed\.info/sct is not in the packages"):
            codes(value_set("some", compose, expansion=part))


@pytest.mark.parametrize(
    ("sets", "why"),
    [
        ((filtered(("concept", "regex", "r.*")),), "needs a terminology server"),
        ((value_set("some", {"include": [{"system": "http://loinc.org"}]}),), r"loinc\.org is not in the packages"),
        ((value_set("some", {"include": [{"valueSet": [f"{BASE}/ValueSet/some"]}]}),), "includes itself"),
        ((value_set("some", {"include": [{}]}),), "neither system nor value set"),
        ((value_set("some", {"include": []}),), "lists no code"),
        (({k: v for k, v in value_set("some", {}).items() if k != "compose"},), "neither compose nor"),
        ((), "is in no package"),
    ],
)
def test_what_cannot_be_listed_says_why(sets: tuple[Json, ...], why: str) -> None:
    with pytest.raises(NotListed, match=why):
        codes(*sets)


def test_a_code_system_of_which_only_a_part_is_there_is_not_listed_as_whole() -> None:
    with pytest.raises(NotListed, match="not in the packages as a whole"):
        codes(value_set("some", {"include": [{"system": COLOURS}]}), content="fragment")


@pytest.mark.parametrize("name", ["parent", "subsumedBy"])
def test_a_hierarchy_that_properties_tell_is_one(name: str) -> None:
    below = [
        {"code": "scarlet", "property": [{"code": name, "valueCode": "red"}]},
        {"code": "red", "property": [{"code": name, "valueCode": "warm"}]},
    ]
    system = code_system("colours", [{"code": "warm"}, *below, {"code": "blue"}])
    asked = filtered(("concept", "is-a", "warm"))
    found = Terms({asked["url"]: asked}, {COLOURS: system}, r4()).codes(asked["url"])
    assert found == {COLOURS: {"warm", "red", "scarlet"}}


@pytest.mark.parametrize("name", ["concept", "unheard-of"])
def test_a_filter_by_what_the_system_does_not_define_is_not_listed(name: str) -> None:
    with pytest.raises(NotListed, match="needs a terminology server"):
        codes(filtered((name, "=", "oil")))
