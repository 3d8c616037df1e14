"""The tables of all releases, what R4 calls their types, and the validators of R4B and R5."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.reference_text import ReferenceKind, parse_reference
from fhir_bridge.fhir.releases import RENAMED, WITHOUT_R4, id_in_r4, type_in_r4
from fhir_bridge.fhir.subjects import codes
from fhir_bridge.fhir.tables import definitions_of, r4, r4b
from fhir_bridge.fhir.validate import validate_r4, validate_r4b, validate_r5
from tests.unit.fhir.fhir_samples import changed, errors, observation


def test_every_type_of_every_release_has_a_type_in_r4() -> None:
    for release in ("STU3", "R4B", "R5"):
        for name in definitions_of(release).resource_types():
            assert type_in_r4(name) in r4().resource_types(), (release, name)


def test_only_types_that_r4_lacks_are_renamed_or_become_basic() -> None:
    assert not (RENAMED.keys() | WITHOUT_R4) & r4().resource_types()
    known = set().union(*(definitions_of(release).resource_types() for release in ("STU3", "R4B", "R5")))
    assert known >= RENAMED.keys() | WITHOUT_R4
    assert not RENAMED.keys() & WITHOUT_R4


def test_references_to_types_of_every_release_are_read() -> None:
    for name in (*RENAMED, *WITHOUT_R4):
        assert parse_reference(f"{name}/1").kind is ReferenceKind.RELATIVE


def test_ids_of_types_that_become_basic_tell_the_types_apart() -> None:
    assert id_in_r4("Transport", "1") != id_in_r4("NutritionIntake", "1")
    assert id_in_r4("Patient", "1") == "1"


def test_r4b_has_r4_and_what_it_added() -> None:
    # R4B's own list of changes (R4B history.html): SubscriptionTopic came, MedicinalProduct went.
    assert {"Patient", "SubscriptionTopic", "MedicinalProductDefinition"} <= r4b().resource_types()
    assert "MedicinalProduct" not in r4b().resource_types()
    assert r4b().types["Patient"] is r4().types["Patient"]


ENCOUNTER: dict[str, Any] = {"resourceType": "Encounter", "id": "e", "status": "completed"}
R5_ENCOUNTERS = [
    ({"class": [{"text": "ward"}], "actualPeriod": {"start": "2026-01-01"}}, set()),
    ({"period": {"start": "2026-01-01"}}, {("structure", "Encounter.period")}),
    ({"status": "finished"}, {("code-invalid", "Encounter.status")}),
    ({"class": {"text": "ward"}}, {("structure", "Encounter.class")}),
    ({"virtualService": [{"maxParticipants": 0}]}, {("value", "Encounter.virtualService[0].maxParticipants")}),
    ({"careTeam": [{"reference": "Patient/1"}]}, {("invalid", "Encounter.careTeam[0].reference")}),
]


@pytest.mark.parametrize(("more", "expected"), R5_ENCOUNTERS)
def test_r5_is_judged_by_its_own_definitions(more: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    assert errors(validate_r5(changed(ENCOUNTER, more))) == expected


def test_integer64_is_a_string_in_json() -> None:
    def size(value: Any) -> list[Issue]:
        attachment = {"contentType": "text/plain", "size": value}
        return validate_r5({"resourceType": "Patient", "id": "p", "photo": [attachment]})

    for text in ("0", "9223372036854775807", "-1"):
        assert errors(size(text)) == set(), text
    for wrong in ("9223372036854775808", "1.0", "", "01", 7):
        assert errors(size(wrong)) != set(), wrong


def test_r4b_takes_what_r4_does_not_have() -> None:
    product = {"resourceType": "NutritionProduct", "id": "n", "status": "active"}
    assert errors(validate_r4b(product)) == set()
    assert errors(validate_r4(product)) == {("structure", "$this")}
    assert errors(validate_r4b(observation())) == set()


def test_no_other_release_is_loaded_for_those_who_send_r4() -> None:
    code = """
import json
from fhir_bridge.fhir import tables
from fhir_bridge.normalize import load_ruleset, preview
from fhir_bridge.model.ingest import FhirVersion
from pathlib import Path
rules = load_ruleset(Path("mappings/northgate"))
preview({"resourceType": "Patient", "id": "p"}, FhirVersion.R4, rules)
print(json.dumps([each.cache_info().currsize for each in (tables.r4, tables.stu3, tables.r4b, tables.r5)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=240)
    assert json.loads(done.stdout) == [1, 0, 0, 0]


def test_consents_that_name_a_code_find_it_in_what_r4_has_no_element_for() -> None:
    def concept(code: str) -> dict[str, Any]:
        return {"coding": [{"system": "s", "code": code}]}

    prefix = "http://hl7.org/fhir/5.0/StructureDefinition/extension-NutritionIntake."
    record = {
        "resourceType": "Basic",
        "code": concept("basic"),
        "extension": [
            {"url": prefix + "code", "valueCodeableConcept": concept("named")},
            {"url": prefix + "statusReason", "valueCodeableConcept": concept("qualifies")},
            {
                "url": prefix + "consumedItem",
                "extension": [{"url": "type", "valueCodeableConcept": concept("eaten")}],
            },
            {
                "url": prefix + "reason",
                "extension": [
                    {"url": "concept", "valueCodeableConcept": concept("why")},
                    {"url": "reference", "valueReference": {"reference": "Condition/c"}},
                ],
            },
            {"url": "http://example.org/code", "valueCodeableConcept": concept("other")},
        ],
    }
    assert codes(record) == ("s|basic", "s|named", "s|eaten", "s|why")
