"""Which chart a record belongs to."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_bridge.model.ids import canonical_id, chart_id, directory_id
from fhir_bridge.normalize import Ruleset, load_ruleset
from tests.unit.normalize.bench import KEY, MAPPINGS, observation, patient, run

MEDICATION = {"resourceType": "Medication", "id": "m1", "code": {"text": "x"}}


@pytest.fixture(scope="module")
def northgate() -> Ruleset:
    return load_ruleset(MAPPINGS / "northgate")


def chart(local: str) -> str:
    return chart_id(KEY, canonical_id(KEY, "Patient", local))


def order(local: str, medicine: str) -> dict[str, Any]:
    return {
        "resourceType": "MedicationRequest",
        "id": f"r-{local}",
        "status": "active",
        "intent": "order",
        "medicationReference": {"reference": f"Medication/{medicine}"},
        "subject": {"reference": f"Patient/{local}"},
    }


@pytest.mark.parametrize(
    "resource",
    [
        patient(),
        observation(),
        {"resourceType": "Device", "id": "d", "patient": {"reference": "Patient/p1"}},
        {"resourceType": "Coverage", "id": "c", "status": "active", "beneficiary": {"reference": "Patient/p1"}},
        {
            "resourceType": "Immunization",
            "id": "i",
            "patient": {"reference": "https://northgate.example.org/fhir/Patient/p1"},
        },
    ],
    ids=lambda r: str(r["resourceType"]),
)
def test_a_record_about_a_patient_is_in_that_chart(northgate: Ruleset, resource: dict[str, Any]) -> None:
    (record,) = run(resource, ruleset=northgate, kind="single").records
    assert record.chart.chart == chart("p1")
    assert record.chart.patient_id == canonical_id(KEY, "Patient", "p1")


@pytest.mark.parametrize("name", ["Organization", "Practitioner", "PractitionerRole", "Location", "Endpoint"])
def test_administrative_records_are_in_the_directory(northgate: Ruleset, name: str) -> None:
    (record,) = run({"resourceType": name, "id": "x"}, ruleset=northgate, kind="single").records
    assert record.chart.chart == directory_id(KEY)
    assert record.chart.is_directory


def test_a_medication_follows_the_order_that_names_it_among_two_patients(northgate: Ruleset) -> None:
    other = {**MEDICATION, "id": "m2"}
    records = run(MEDICATION, other, order("p1", "m1"), order("p2", "m2"), ruleset=northgate).records
    assert [r.chart.chart for r in records] == [chart("p1"), chart("p2"), chart("p1"), chart("p2")]


def test_a_record_follows_through_another_one_without_a_patient(northgate: Ruleset) -> None:
    substance = {"resourceType": "Substance", "id": "s1", "code": {"text": "x"}}
    medicine = {**MEDICATION, "ingredient": [{"itemReference": {"reference": "Substance/s1"}}]}
    records = run(substance, medicine, order("p1", "m1"), order("p2", "m9"), ruleset=northgate).records
    assert [r.chart.chart for r in records][:2] == [chart("p1"), chart("p1")]


def test_a_transaction_about_one_patient_tells_whose_its_other_records_are(northgate: Ruleset) -> None:
    records = run(MEDICATION, observation(), ruleset=northgate).records
    assert [r.chart.chart for r in records] == [chart("p1"), chart("p1")]


@pytest.mark.parametrize(
    ("kind", "others"),
    [
        ("single", []),
        ("batch", [observation()]),
        ("transaction", [{"resourceType": "Organization", "id": "o"}]),
        ("transaction", [patient("p1"), patient("p2")]),
    ],
)
def test_a_record_that_nothing_places_is_quarantined(
    northgate: Ruleset, kind: str, others: list[dict[str, Any]]
) -> None:
    done = run(MEDICATION, *others, ruleset=northgate, kind=kind)
    assert [(q.index, q.issues[0].code) for q in done.quarantined] == [(0, "business-rule")]
    assert len(done.records) == len(others)


def test_another_hospitals_patient_gets_a_chart_of_its_own_at_the_writer(northgate: Ruleset) -> None:
    foreign = {"reference": "https://harbor.example.org/fhir/Patient/p1"}
    (record,) = run(observation(subject=foreign), ruleset=northgate).records
    assert record.chart.chart not in (chart("p1"), "")
    assert record.chart.patient_id is not None
