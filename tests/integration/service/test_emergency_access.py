"""Emergency access over HTTP: role, purpose, reason, time box; the patient is told; all patients answer alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.service import Service

pytestmark = pytest.mark.slow

ROLES = "http://terminology.hl7.org/CodeSystem/practitioner-role"
DOCTOR = {"practitioner": "dr-h", "purpose": "BTG", "role": f"{ROLES}|doctor"}
REASON = {"name": "reason", "valueString": "unconscious after a fall"}
NOBODY = "aaaaaaaaaaaaaaaaaaaa"
_RANDOM = ("date", "x-request-id")
DICOM_EMERGENCY_OVERRIDE_STARTED = "110127"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("emergency") / "data")
    try:
        running.start().add_institutions(("northgate", "harbor"))
        yield running
    finally:
        running.close()


def _sent(service: Service, local: str) -> str:
    """Send a Patient and an Observation of northgate; return the canonical Patient id."""
    who = service.token("northgate")
    for type_name, name, body in (
        ("Patient", local, {"gender": "female"}),
        ("Observation", f"o-{local}", {"status": "final", "code": {"text": "x"}, "subject": _ref(local)}),
    ):
        done = service.http.put(
            f"/fhir/{type_name}/{name}",
            headers=who | {"Content-Type": "application/fhir+json"},
            content=json.dumps({"resourceType": type_name, "id": name} | body),
        )
        assert done.status_code == 201, done.text
    return str(service.ask("/patients/resolve", patient=local, institution="northgate")["patient"])


def _known(service: Service) -> str:
    try:
        return str(service.ask("/patients/resolve", patient="p-refused", institution="northgate")["patient"])
    except AssertionError:
        return _sent(service, "p-refused")


def _ref(local: str) -> dict[str, str]:
    return {"reference": f"Patient/{local}"}


def _enrol(service: Service, local: str) -> dict[str, str]:
    done = service.order("/patients", {"institution": "northgate", "patient": local})
    return service._token(Path(done["credentials"]), {})


def _open(service: Service, who: Mapping[str, str], patient: str, *parameters: Any) -> httpx.Response:
    body = {"resourceType": "Parameters", "parameter": list(parameters or (REASON,))}
    return service.http.post(f"/fhir/Patient/{patient}/$emergency-access", headers=dict(who), json=body)


def _seen(service: Service, who: Mapping[str, str], patient: str) -> int:
    answer = service.get("Observation", who, patient=patient)
    return int(answer.json()["total"])


def test_opened_charts_are_seen_until_then_nothing(service: Service) -> None:
    patient = _sent(service, "p-open")
    doctor = service.token("harbor", **DOCTOR)
    assert _seen(service, doctor, patient) == 0
    assert _open(service, doctor, patient).status_code == 200
    assert _seen(service, doctor, patient) == 1
    # Neither a colleague nor the same person without purpose or role.
    assert _seen(service, service.token("harbor", **DOCTOR | {"practitioner": "dr-x"}), patient) == 0
    assert _seen(service, service.token("harbor", **DOCTOR | {"purpose": "TREAT"}), patient) == 0
    assert _seen(service, service.token("harbor", **DOCTOR | {"role": f"{ROLES}|ict"}), patient) == 0


def test_the_patient_reads_who_when_where_and_why(service: Service) -> None:
    patient = _sent(service, "p-told")
    agent = _enrol(service, "p-told")
    _open(service, service.token("harbor", **DOCTOR), patient)
    events = [json.loads(each) for each in service.entries("AuditEvent", agent, patient=patient)]
    notice = next(e for e in events if e.get("subtype", [{}])[0].get("code") == DICOM_EMERGENCY_OVERRIDE_STARTED)
    harbor = next(i["id"] for i in service.ask("/institutions") if i["name"] == "harbor")
    named = {agent["who"].get("reference") for agent in notice["agent"]}
    told = {d["type"]: d["valueString"] for entity in notice["entity"] for d in entity.get("detail", ())}
    assert {"Practitioner/dr-h", f"Organization/{harbor}"} <= named
    assert told["reason"] == REASON["valueString"]
    assert notice["recorded"] < told["until"]
    assert notice["purposeOfEvent"][0]["coding"][0]["code"] == "BTG"


def test_an_explicit_denial_stands_and_looks_like_an_unknown_patient(service: Service) -> None:
    patient = _sent(service, "p-denies")
    agent = _enrol(service, "p-denies")
    assert service.http.post("/fhir/Consent", headers=agent, json=_denial(patient)).status_code == 201
    doctor = service.token("harbor", **DOCTOR)
    answers = []
    for asked in (patient, NOBODY):
        opened = _open(service, doctor, asked, REASON, {"name": "minutes", "valuePositiveInt": 5})
        kept = [(name, value) for name, value in opened.headers.items() if name not in _RANDOM]
        seen = service.get(f"Patient/{asked}/$everything", doctor)
        shape = {**opened.json(), "parameter": [each["name"] for each in opened.json()["parameter"]]}
        answers.append((opened.status_code, kept, shape, len(opened.content), seen.status_code, seen.content))
    assert answers[0] == answers[1]
    assert answers[0][0] == 200


def _denial(patient: str) -> dict[str, Any]:
    tho = "http://terminology.hl7.org/CodeSystem"
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": {"coding": [{"system": f"{tho}/consentscope", "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": f"Patient/{patient}"},
        "dateTime": "2026-01-01",
        "policyRule": {"coding": [{"system": f"{tho}/v3-ActCode", "code": "OPTOUT"}]},
        "provision": {"type": "deny", "purpose": [{"system": f"{tho}/v3-ActReason", "code": "ETREAT"}]},
    }


@pytest.mark.parametrize(
    ("extras", "parameters", "status"),
    [
        (DOCTOR | {"role": f"{ROLES}|ict"}, (REASON,), 403),
        ({"practitioner": "dr-h", "purpose": "BTG"}, (REASON,), 403),
        ({"purpose": "BTG", "role": f"{ROLES}|doctor"}, (REASON,), 403),
        (DOCTOR | {"purpose": "TREAT"}, (REASON,), 403),
        (DOCTOR, ({"name": "minutes", "valuePositiveInt": 5},), 400),
        (DOCTOR, ({"name": "reason", "valueString": "   x     "},), 400),
        (DOCTOR, (REASON, {"name": "minutes", "valuePositiveInt": 61}), 400),
        (DOCTOR, (REASON, {"name": "minutes", "valuePositiveInt": 0}), 400),
        (DOCTOR, (REASON, REASON), 400),
        (DOCTOR, (REASON, {"name": "more", "valueString": "x"}), 400),
    ],
    ids=["role", "no role", "nobody", "purpose", "no reason", "blank", "too long", "no time", "twice", "unknown"],
)
def test_a_refusal_is_the_same_on_every_patient(
    service: Service, extras: dict[str, str], parameters: tuple[Any, ...], status: int
) -> None:
    known = _known(service)
    who = service.token("harbor", **extras)
    answers = [_open(service, who, patient, *parameters) for patient in (known, NOBODY)]
    assert [each.status_code for each in answers] == [status, status]
    assert answers[0].content == answers[1].content
    assert _seen(service, who, known) == 0


def test_a_patients_agent_opens_nothing(service: Service) -> None:
    patient = _sent(service, "p-agent")
    assert _open(service, _enrol(service, "p-agent"), patient).status_code == 403


def test_a_restart_keeps_what_is_open_and_the_policies_are_on_the_ledger_once(service: Service) -> None:
    patient = _sent(service, "p-again")
    doctor = service.token("harbor", **DOCTOR)
    _open(service, doctor, patient)
    height = service.ask("/status")["height"]
    service.stop()
    service.start()
    assert _seen(service, service.token("harbor", **DOCTOR), patient) == 1
    assert service.ask("/status")["height"] <= height + 2
    assert service.fsck() == []
