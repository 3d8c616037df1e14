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
SOMEBODY = {"display": "somebody"}
BESIDE = {"extension": [{"url": "http://example.org/beside", "valueString": "kept beside"}]}
CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"


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


# HL7's STU3 page on claim-use and R4's define these codes in the same words (codesystem-claim-use.html).
@pytest.mark.parametrize(
    ("sent", "use"), [("complete", "claim"), ("proposed", "preauthorization"), ("exploratory", "predetermination")]
)
def test_a_proposed_claim_asks_for_authorization(sent: str, use: str) -> None:
    assert told("STU3", "Claim", use=sent, patient=SUBJECT)["use"] == use


@pytest.mark.parametrize(
    ("release", "kind", "element", "value"),
    [
        ("R5", "CommunicationRequest", "intent", "order"),
        ("R5", "Condition", "clinicalStatus", {"coding": [{"system": CLINICAL, "code": "unknown"}]}),
        ("R5", "ResearchSubject", "status", "retired"),
        ("STU3", "ResearchStudy", "status", "stopped"),
    ],
)
def test_a_code_without_counterpart_that_does_no_harm_is_kept_beside(
    release: str, kind: str, element: str, value: Any
) -> None:
    found = told(release, kind, subject=SUBJECT, **{element: value})
    number = {"R5": "5.0", "STU3": "3.0"}[release]
    url = f"http://hl7.org/fhir/{number}/StructureDefinition/extension-{kind}.{element}"
    assert [each for each in found["extension"] if each["url"] == url and value in each.values()]
    assert element not in found


def test_what_nobody_knows_of_a_condition_is_no_reason_to_keep_it_back() -> None:
    system = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
    found = told("STU3", "Condition", subject=SUBJECT, verificationStatus="unknown")
    (kept,) = found["extension"]
    assert kept["valueCodeableConcept"] == {"coding": [{"system": system, "code": "unknown"}]}
    absent = {
        "extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]
    }
    assert told("STU3", "Condition", subject=SUBJECT, _verificationStatus=absent)["verificationStatus"] == absent


def test_what_stands_beside_a_status_follows_it_into_the_concept() -> None:
    found = told("STU3", "Condition", subject=SUBJECT, clinicalStatus="active", _clinicalStatus=BESIDE)
    assert found["clinicalStatus"] == {**BESIDE, "coding": [{"system": CLINICAL, "code": "active"}]}
    assert "_clinicalStatus" not in found


@pytest.mark.parametrize("release_and_type", [("R5", "NutritionIntake"), ("R5", "DeviceDispense")])
def test_a_type_without_counterpart_that_was_entered_in_error_is_kept_back(release_and_type: tuple[str, str]) -> None:
    release, kind = release_and_type
    with pytest.raises(RecordRefused) as refused:
        told(release, kind, status="entered-in-error", subject=SUBJECT)
    assert [i.expression for i in refused.value.issues] == [f"{kind}.status"]


@pytest.mark.parametrize(
    ("taken", "status", "expected"),
    [
        ("y", "active", "active"),
        ("n", "completed", "not-taken"),
        ("unk", "active", "unknown"),
        ("unk", "completed", "unknown"),
        ("unk", "entered-in-error", "entered-in-error"),
        ("na", "intended", "intended"),
    ],
)
def test_r4_does_not_say_taken_where_nobody_knows(taken: str, status: str, expected: str) -> None:
    found = told("STU3", "MedicationStatement", subject=SUBJECT, taken=taken, status=status)
    assert found["status"] == expected


@pytest.mark.parametrize(
    ("sent", "status"), [("achieved", "completed"), ("behind-target", "active"), ("sustaining", "active")]
)
def test_how_far_a_goal_is_stays_beside_its_wider_status(sent: str, status: str) -> None:
    found = told("STU3", "Goal", subject=SUBJECT, description=SOUP, status=sent)
    assert found["lifecycleStatus"] == status
    (kept,) = found["_lifecycleStatus"]["extension"]
    assert kept["valueCode"] == sent


@pytest.mark.parametrize(
    ("release", "kind", "sent"),
    [
        ("STU3", "MedicationRequest", {"requester": {**BESIDE, "agent": SOMEBODY}}),
        ("STU3", "DiagnosticReport", {"performer": [{**BESIDE, "actor": SOMEBODY}]}),
        ("STU3", "Observation", {"related": [{**BESIDE, "type": "has-member", "target": SOMEBODY}]}),
        ("STU3", "Device", {"version": "1", "_version": BESIDE}),
        ("STU3", "ImagingStudy", {"series": [{"instance": [{"sopClass": "urn:oid:1.2", "_sopClass": BESIDE}]}]}),
        ("STU3", "VisionPrescription", {"dispense": [{"prism": 1, "_prism": BESIDE, "base": "up"}]}),
        ("R5", "Encounter", {"reason": [{**BESIDE, "value": [{"concept": SOUP}]}]}),
        ("R5", "Encounter", {"reason": [{"value": [{**BESIDE, "reference": SOMEBODY}]}]}),
        ("R5", "AuditEvent", {"outcome": {**BESIDE, "code": {"code": "0"}}}),
        ("R5", "AuditEvent", {"outcome": {"code": {**BESIDE, "code": "0"}}}),
        ("R5", "Practitioner", {"communication": [{**BESIDE, "language": SOUP}]}),
    ],
)
def test_an_extension_of_a_part_that_r4_lacks_is_not_lost(release: str, kind: str, sent: dict[str, Any]) -> None:
    assert "kept beside" in str(told(release, kind, **sent))
