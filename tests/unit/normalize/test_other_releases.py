"""R5 and STU3 become R4: what each page of R4 says the element is called, and what it lacks, in an extension.

Expected forms are written from R4's pages and the "R4 Diff" of R5's.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from fhir_bridge.errors import RecordRefused
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize import Ruleset, load_ruleset, preview
from tests.unit.normalize.bench import MAPPINGS

EXTENSION = "http://hl7.org/fhir/5.0/StructureDefinition/extension-"
SUBJECT = {"reference": "Patient/p"}
SOUP = {"text": "soup"}


@cache
def core() -> Ruleset:
    return load_ruleset(MAPPINGS / "core")


def told(release: str, kind: str, **sent: Any) -> dict[str, Any]:
    """What becomes of a resource, without what every one has."""
    body = preview({"resourceType": kind, "id": "x", **sent}, FhirVersion[release], core()).body
    assert body.pop("id") == "x"
    return body


R5: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "Encounter",
        {"status": "completed", "class": [{"coding": [{"code": "IMP"}]}], "actualPeriod": {"start": "2026"}},
        {"status": "finished", "class": {"code": "IMP"}, "period": {"start": "2026"}},
    ),
    (
        "Encounter",
        {
            "status": "in-progress",
            "class": [{"coding": [{"code": "IMP"}]}],
            "admission": {"origin": {"reference": "Location/l"}},
            "specialCourtesy": [SOUP],
            "reason": [{"value": [{"concept": SOUP, "reference": {"reference": "Condition/c"}}]}],
            "diagnosis": [
                {
                    "condition": [
                        {"reference": {"reference": "Condition/a"}},
                        {"reference": {"reference": "Condition/b"}},
                    ]
                }
            ],
        },
        {
            "status": "in-progress",
            "class": {"code": "IMP"},
            "hospitalization": {"origin": {"reference": "Location/l"}, "specialCourtesy": [SOUP]},
            "reasonCode": [SOUP],
            "reasonReference": [{"reference": "Condition/c"}],
            "diagnosis": [{"condition": {"reference": "Condition/a"}}, {"condition": {"reference": "Condition/b"}}],
        },
    ),
    (
        "MedicationRequest",
        {
            "status": "active",
            "intent": "order",
            "subject": SUBJECT,
            "medication": {"reference": {"reference": "Medication/m"}},
            "reason": [{"concept": SOUP}],
            "dosageInstruction": [{"asNeeded": True, "asNeededFor": [SOUP]}],
        },
        {
            "status": "active",
            "intent": "order",
            "subject": SUBJECT,
            "medicationReference": {"reference": "Medication/m"},
            "reasonCode": [SOUP],
            "dosageInstruction": [{"asNeededCodeableConcept": SOUP}],
        },
    ),
    (
        "MedicationStatement",
        {
            "status": "recorded",
            "subject": SUBJECT,
            "medication": {"concept": SOUP},
            "effectiveDateTime": "2026-01",
        },
        {
            "status": "unknown",
            "_status": {"extension": [{"url": EXTENSION + "MedicationStatement.status", "valueCode": "recorded"}]},
            "subject": SUBJECT,
            "medicationCodeableConcept": SOUP,
            "effectiveDateTime": "2026-01",
        },
    ),
    (
        "Consent",
        {
            "status": "active",
            "category": [SOUP],
            "subject": SUBJECT,
            "date": "2026-01-01",
            "decision": "permit",
            "provision": [{"code": [SOUP], "provision": [{"purpose": [{"code": "TREAT"}]}]}],
        },
        {
            "status": "active",
            "category": [SOUP],
            "patient": SUBJECT,
            "dateTime": "2026-01-01",
            "policyRule": {
                "coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "OPTIN"}]
            },
            "provision": {
                "provision": [
                    {
                        "type": "deny",
                        "code": [SOUP],
                        "provision": [{"type": "permit", "purpose": [{"code": "TREAT"}]}],
                    }
                ]
            },
            "scope": {
                "extension": [
                    {"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}
                ]
            },
        },
    ),
    (
        "NutritionIntake",
        {"status": "completed", "subject": SUBJECT, "consumedItem": [{"type": SOUP}]},
        {
            "resourceType": "Basic",
            "extension": [
                {"url": EXTENSION + "NutritionIntake.status", "valueCode": "completed"},
                {
                    "url": EXTENSION + "NutritionIntake.consumedItem",
                    "extension": [{"url": "type", "valueCodeableConcept": SOUP}],
                },
            ],
            "subject": SUBJECT,
            "code": {"coding": [{"system": "http://hl7.org/fhir/fhir-types", "code": "NutritionIntake"}]},
        },
    ),
    (
        "Patient",
        {"photo": [{"size": "2147483647"}, {"contentType": "x", "size": "9000000000", "pages": 3}]},
        {
            "photo": [
                {"size": 2147483647},
                {
                    "extension": [
                        {"url": EXTENSION + "Attachment.size", "valueString": "9000000000"},
                        {"url": EXTENSION + "Attachment.pages", "valuePositiveInt": 3},
                    ],
                    "contentType": "x",
                },
            ]
        },
    ),
]


@pytest.mark.parametrize(("kind", "sent", "expected"), R5, ids=[f"{kind}-{n}" for n, (kind, _, _) in enumerate(R5)])
def test_r5(kind: str, sent: dict[str, Any], expected: dict[str, Any]) -> None:
    assert told("R5", kind, **sent) == {"resourceType": kind, **expected}


@pytest.mark.parametrize(
    ("code", "status"),
    [("taking", "active"), ("not-taking", "not-taken"), ("on-hold", "on-hold"), ("stopped", "stopped")],
)
def test_whether_a_medicine_is_taken_is_never_lost(code: str, status: str) -> None:
    adherence = {"code": {"coding": [{"code": code}]}}
    found = told("R5", "MedicationStatement", status="recorded", medication={"concept": SOUP}, adherence=adherence)
    assert found["status"] == status


def test_what_was_entered_in_error_never_looks_valid() -> None:
    with pytest.raises(RecordRefused) as refused:
        told("R5", "AppointmentResponse", participantStatus="entered-in-error", appointment={"display": "a"})
    assert [i.expression for i in refused.value.issues] == ["AppointmentResponse.participantStatus"]


def test_the_second_of_several_is_kept_where_r4_has_one_place() -> None:
    found = told("R5", "Encounter", status="planned", **{"class": [{"coding": [{"code": "AMB"}]}, SOUP]})
    assert found["class"] == {"code": "AMB"}
    assert found["extension"] == [{"url": EXTENSION + "Encounter.class", "valueCodeableConcept": SOUP}]


def test_what_is_beside_a_primitive_goes_where_it_goes() -> None:
    absent = {"extension": [{"url": "u", "valueCode": "masked"}]}
    found = told("R5", "Encounter", status="planned", plannedStartDate="2026-01-01", _plannedStartDate=absent)
    (moved,) = found["extension"]
    assert moved == {
        "url": EXTENSION + "Encounter.plannedStartDate",
        "valueDateTime": "2026-01-01",
        "_valueDateTime": absent,
    }


def test_r4b_is_r4() -> None:
    assert told("R4B", "Patient", gender="male", photo=[{"size": 3}]) == {
        "resourceType": "Patient",
        "gender": "male",
        "photo": [{"size": 3}],
    }


def test_exceptions_of_an_stu3_consent_are_provisions_of_r4() -> None:
    found = told(
        "STU3",
        "Consent",
        status="active",
        patient=SUBJECT,
        policyRule="http://example.org/policy",
        purpose=[{"code": "TREAT"}],
        **{"except": [{"type": "deny", "code": [{"code": "1"}]}]},
    )
    assert found["provision"] == {
        "purpose": [{"code": "TREAT"}],
        "provision": [{"type": "deny", "code": [{"coding": [{"code": "1"}]}]}],
    }
    assert found["policyRule"]["coding"] == [{"system": "urn:ietf:rfc:3986", "code": "http://example.org/policy"}]
