"""References, compartments, timeline and outcomes."""

from typing import Any

import pytest

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.compartment import is_in_patient_compartment, patient_references
from fhir_bridge.fhir.dates import interval
from fhir_bridge.fhir.outcome import operation_outcome
from fhir_bridge.fhir.references import ReferenceKind, literal_targets, parse_reference, walk
from fhir_bridge.fhir.tables import patient_compartment, r4
from fhir_bridge.fhir.timeline import DATING_ELEMENTS, dated
from fhir_bridge.fhir.validate import validate_r4
from tests.unit.fhir.fhir_samples import Json, errors, examples, observation

UUID = "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"

# Forms of FHIR R4 references.html#literal and http.html#trules.
REFERENCES: list[tuple[str, ReferenceKind, str | None, str | None]] = [
    ("Patient/1", ReferenceKind.RELATIVE, "Patient", "1"),
    ("Patient/a.B-9", ReferenceKind.RELATIVE, "Patient", "a.B-9"),
    ("Patient/1/_history/2", ReferenceKind.RELATIVE, "Patient", "1"),
    ("https://x.example/fhir/Patient/1", ReferenceKind.ABSOLUTE, "Patient", "1"),
    ("http://x.example:80/Patient/1/_history/2", ReferenceKind.ABSOLUTE, "Patient", "1"),
    (UUID, ReferenceKind.URN, None, None),
    ("urn:oid:1.2.3", ReferenceKind.URN, None, None),
    ("#c", ReferenceKind.CONTAINED, None, "c"),
    ("#", ReferenceKind.CONTAINED, None, ""),
    ("Patient?identifier=http://s|v", ReferenceKind.CONDITIONAL, "Patient", None),
    ("Nothing/1", ReferenceKind.OTHER, None, None),
    ("patient/1", ReferenceKind.OTHER, None, None),
    ("Patient/", ReferenceKind.OTHER, None, None),
    ("Patient/a b", ReferenceKind.OTHER, None, None),
    ("Patient/" + "1" * 65, ReferenceKind.OTHER, None, None),
    ("/Patient/1", ReferenceKind.OTHER, None, None),
    ("ftp://x.example/Patient/1", ReferenceKind.OTHER, None, None),
    ("http://x.example/other", ReferenceKind.OTHER, None, None),
    ("", ReferenceKind.OTHER, None, None),
]


@pytest.mark.parametrize(("text", "kind", "type_name", "local_id"), REFERENCES)
def test_every_form_of_a_reference_is_told(
    text: str, kind: ReferenceKind, type_name: str | None, local_id: str | None
) -> None:
    parsed = parse_reference(text)
    assert (parsed.kind, parsed.type, parsed.id) == (kind, type_name, local_id)


def test_parts_of_a_reference_are_read() -> None:
    parsed = parse_reference("https://x.example/fhir/Patient/1/_history/2")
    assert (parsed.base, parsed.version) == ("https://x.example/fhir", "2")
    assert parse_reference("Practitioner?identifier=http://s|v").identifier == ("http://s", "v")
    assert parse_reference("Practitioner?identifier=http%3A%2F%2Fs%7Cv").identifier == ("http://s", "v")
    assert parse_reference("Practitioner?identifier=v").identifier == (None, "v")
    assert parse_reference("Practitioner?identifier=|v").identifier == ("", "v")
    assert parse_reference("Practitioner?name=v").identifier is None
    assert parse_reference("Practitioner?identifier=a|b&active=true").identifier is None


def _slow_walk(value: Any) -> list[str]:
    """Every string under a key ``reference``, which in these examples is nothing but a Reference."""
    if isinstance(value, list):
        return [t for item in value for t in _slow_walk(item)]
    if not isinstance(value, dict):
        return []
    own = [value["reference"]] if isinstance(value.get("reference"), str) else []
    return own + [t for key, item in value.items() if key != "text" for t in _slow_walk(item)]


def test_the_walk_finds_every_reference_of_the_examples() -> None:
    found = 0
    for example in examples("r4"):
        texts = sorted(r["reference"] for r in walk(example) if "reference" in r)
        assert texts == sorted(_slow_walk(example)), (example["resourceType"], example["id"])
        found += len(texts)
    assert found > 1000


def test_the_walk_reaches_extensions_and_contained_resources_and_nothing_else() -> None:
    resource = observation(
        contained=[{"resourceType": "Patient", "id": "c", "managingOrganization": {"reference": "Organization/1"}}],
        subject={"reference": "#c", "extension": [{"url": "u", "valueReference": {"reference": "Device/2"}}]},
        _status={"extension": [{"url": "u", "valueReference": {"reference": "Device/3"}}]},
    )
    assert {r["reference"] for r in walk(resource)} == {"Organization/1", "#c", "Device/2", "Device/3"}
    expression: Json = {"resourceType": "PlanDefinition", "status": "draft", "library": ["Library/1"]}
    assert list(walk(expression)) == []
    assert list(walk({"resourceType": "Nothing", "subject": {"reference": "Patient/1"}})) == []


def test_a_reference_can_be_rewritten_in_place() -> None:
    resource = observation()
    for reference in walk(resource):
        reference["reference"] = "Patient/other"
    assert resource["subject"] == {"reference": "Patient/other"}
    assert literal_targets(resource) == ("Patient/other",)


def test_stu3_references_are_found_where_stu3_has_them() -> None:
    request: Json = {
        "resourceType": "MedicationRequest",
        "requester": {"agent": {"reference": "Practitioner/1"}, "onBehalfOf": {"reference": "Organization/1"}},
    }
    assert [r["reference"] for r in walk(request, release="STU3")] == ["Practitioner/1", "Organization/1"]


COMPARTMENT: list[tuple[Json, list[str]]] = [
    (observation(performer=[{"reference": "Patient/p2"}]), ["Patient/p1", "Patient/p2"]),
    (observation(subject={"reference": UUID}), [UUID]),
    (observation(subject={"reference": "https://x.example/Patient/1"}), ["https://x.example/Patient/1"]),
    (observation(subject={"reference": "Group/1"}), []),
    (observation(subject={"display": "x"}), []),
    (
        {
            "resourceType": "Coverage",
            "subscriber": {"reference": "Patient/s"},
            "beneficiary": {"reference": "Patient/b"},
            "payor": [{"reference": "Organization/o"}],
        },
        ["Patient/b", "Patient/s"],
    ),
    (
        {
            "resourceType": "Appointment",
            "participant": [{"actor": {"reference": "Practitioner/x"}}, {"actor": {"reference": "Patient/x"}}],
        },
        ["Patient/x"],
    ),
    ({"resourceType": "Consent", "patient": {"reference": "Patient/1"}}, ["Patient/1"]),
    ({"resourceType": "Group", "member": [{"entity": {"reference": "Patient/1"}}]}, ["Patient/1"]),
    ({"resourceType": "Provenance", "target": [{"reference": "Patient/1"}]}, ["Patient/1"]),
    ({"resourceType": "Organization", "partOf": {"reference": "Organization/1"}}, []),
    ({"resourceType": "Nothing"}, []),
    ({}, []),
]


@pytest.mark.parametrize(("resource", "expected"), COMPARTMENT)
def test_the_patient_compartment_follows_its_definition(resource: Json, expected: list[str]) -> None:
    assert patient_references(resource) == expected


def test_every_type_of_the_compartment_has_a_path() -> None:
    assert all(is_in_patient_compartment(name) for name in patient_compartment())
    assert not is_in_patient_compartment("Organization")


def test_dating_elements_exist_and_are_dates() -> None:
    types = r4().types
    for name, paths in DATING_ELEMENTS.items():
        for path in paths:
            here = name
            for step in path.split("."):
                keys = {k: t for e in types[here].elements.values() for k, t in e.json_keys().items()}
                here = keys[step]
            assert here in ("date", "dateTime", "instant", "Period"), (name, path)


def test_every_clinical_type_of_the_compartment_is_dated() -> None:
    timeless = {"Patient", "Person", "Group", "BodyStructure", "MolecularSequence"}
    assert set(patient_compartment()) - timeless - set(DATING_ELEMENTS) == set()


def test_clinical_time_comes_before_the_time_of_recording() -> None:
    start = interval("2020-05")
    assert start is not None
    assert dated(observation(effectiveDateTime="2020-05", issued="2021-01-01T00:00:00Z")) == (start[0], start)
    issued = interval("2021-01-01T00:00:00Z")
    assert issued is not None
    assert dated(observation(effectiveDateTime=None, issued="2021-01-01T00:00:00Z")) == (issued[0], issued)
    assert dated(observation(effectiveDateTime=None)) == (None, None)


def test_a_period_open_at_its_start_sorts_by_its_end() -> None:
    end = interval("2020")
    assert end is not None
    key, covered = dated({"resourceType": "Encounter", "period": {"end": "2020"}})
    assert key == end[0]
    assert covered is not None
    assert covered[0] < end[0]


def test_an_outcome_is_valid_fhir_and_says_what_and_where() -> None:
    issue = Issue("error", "value", "must be a date", "Patient.birthDate")
    outcome = operation_outcome([issue, Issue("warning", "business-rule", "odd")])
    assert outcome["issue"][0] == {
        "severity": "error",
        "code": "value",
        "diagnostics": "must be a date",
        "expression": ["Patient.birthDate"],
    }
    for made in (outcome, operation_outcome([])):
        assert errors(validate_r4(made)) == set()
