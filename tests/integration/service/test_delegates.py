"""Delegates over HTTP: own key, own name, scope and period; ended at once; no chain longer than one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc.jwk import ECKey

from fhir_bridge.adapters.access import request_token
from fhir_bridge.adapters.ambient import SystemRandomness
from fhir_bridge.errors import NotAuthenticated
from tests.support.service import Service

pytestmark = pytest.mark.slow

UNTIL = f"{datetime.now(UTC).year + 1}-06-30"
SCOPE = "patient/*.rs patient/Consent.cu"


@dataclass
class Scene:
    """A service with two patients of northgate and their agents."""

    service: Service
    patient: str
    agent: dict[str, str]
    other: str
    stranger: dict[str, str]

    def call(self, who: Mapping[str, str], operation: str, patient: str = "", **values: str) -> httpx.Response:
        """Call an operation on a patient."""
        listed = [{"name": name.rstrip("_"), "valueString": value} for name, value in values.items()]
        return self.service.http.post(
            f"/fhir/Patient/{patient or self.patient}/${operation}",
            headers=dict(who),
            json={"resourceType": "Parameters", "parameter": listed},
        )

    def named(self, **changes: str) -> tuple[str, dict[str, Any]]:
        """Name a delegate; return the id and credentials."""
        private = ECKey.generate_key("P-384")
        private.ensure_kid()
        public = json.dumps(private.as_dict(private=False))
        done = self.call(
            self.agent, "delegate", **{"name": "Ada", "key": public, "scope": SCOPE, "until": UNTIL} | changes
        )
        assert done.status_code == 200, done.text
        told = {each["name"]: each["valueString"] for each in done.json()["parameter"]}
        return told["delegate"], {
            "client_id": told["client_id"],
            "private_jwk": dict(private.as_dict(private=True)),
            "token_url": f"{self.service.base_url}/token",
        }

    def token(self, credentials: dict[str, Any]) -> dict[str, str]:
        """Return a delegate's headers."""
        now = datetime.now(UTC)
        return {"Authorization": f"Bearer {request_token(self.service.http, credentials, now, SystemRandomness())}"}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    service = Service(tmp_path_factory.mktemp("delegates") / "data")
    try:
        service.start().add_institutions(("northgate",))
        (patient, agent), (other, stranger) = (_enrolled(service, name) for name in ("p-1", "p-2"))
        yield Scene(service, patient, agent, other, stranger)
    finally:
        service.close()


def _enrolled(service: Service, local: str) -> tuple[str, dict[str, str]]:
    bundle = {"resourceType": "Patient", "id": local, "gender": "female"}
    headers = service.token("northgate") | {"Content-Type": "application/fhir+json"}
    assert service.http.put(f"/fhir/Patient/{local}", headers=headers, json=bundle).status_code == 201
    done = service.order("/patients", {"institution": "northgate", "patient": local})
    return done["patient"], service._token(Path(done["credentials"]), {})


def _consent(patient: str) -> dict[str, Any]:
    tho = "http://terminology.hl7.org/CodeSystem"
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": {"coding": [{"system": f"{tho}/consentscope", "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": f"Patient/{patient}"},
        "dateTime": "2026-01-01",
        "policyRule": {"coding": [{"system": f"{tho}/v3-ActCode", "code": "OPTOUT"}]},
    }


def test_a_delegate_reads_and_consents_in_an_own_name(scene: Scene) -> None:
    delegate, credentials = scene.named()
    who = scene.token(credentials)
    assert scene.service.get(f"Patient/{scene.patient}", who).status_code == 200
    written = scene.service.http.post("/fhir/Consent", headers=who, json=_consent(scene.patient))
    assert written.status_code == 201
    assert written.json()["meta"]["source"] == f"urn:fhir-bridge:delegate:{delegate}"
    events = [json.loads(each) for each in scene.service.entries("AuditEvent", scene.agent, patient=scene.patient)]
    readers = [a["who"]["reference"] for e in events for a in e["agent"] if a.get("requestor")]
    assert f"RelatedPerson/{delegate}" in readers
    notices = [d for e in events for entity in e["entity"] for d in entity.get("detail", ())]
    assert {"type": "delegate", "valueString": delegate} in notices
    assert {"type": "name", "valueString": "Ada"} in notices


def test_a_delegate_does_not_see_another_patient(scene: Scene) -> None:
    who = scene.token(scene.named()[1])
    assert scene.service.get(f"Patient/{scene.other}", who).status_code == 404


def test_a_delegation_ends_at_once_and_only_by_the_patients_agent(scene: Scene) -> None:
    delegate, credentials = scene.named()
    who = scene.token(credentials)
    assert scene.call(who, "end-delegation", delegate=delegate).status_code == 403
    assert scene.call(scene.stranger, "end-delegation", delegate=delegate).status_code == 404
    assert scene.call(scene.stranger, "end-delegation", scene.other, delegate=delegate).status_code == 404
    assert scene.service.get(f"Patient/{scene.patient}", who).status_code == 200
    for _ in range(2):
        assert scene.call(scene.agent, "end-delegation", delegate=delegate).status_code == 200
    assert scene.service.get(f"Patient/{scene.patient}", who).status_code == 401
    with pytest.raises(NotAuthenticated):
        scene.token(credentials)


def test_a_delegate_names_nobody(scene: Scene) -> None:
    who = scene.token(scene.named()[1])
    answer = scene.call(who, "delegate", name="Bob", key="{}", scope=SCOPE, until=UNTIL)
    assert answer.status_code == 403


def test_nobody_names_a_delegate_of_another_patient(scene: Scene) -> None:
    answers = [scene.call(scene.stranger, "delegate", name="x", patient=p) for p in (scene.patient, "a" * 20)]
    assert [each.status_code for each in answers] == [404, 404]
    assert answers[0].content == answers[1].content
    institution = scene.service.token("northgate")
    assert scene.call(institution, "delegate", name="x").status_code == 403


def test_a_scope_is_a_fence(scene: Scene) -> None:
    who = scene.token(scene.named(scope="patient/Observation.rs")[1])
    assert scene.service.get(f"Patient/{scene.patient}", who).status_code == 403
    assert scene.service.http.post("/fhir/Consent", headers=who, json=_consent(scene.patient)).status_code == 403


def test_before_its_period_a_delegation_is_nothing(scene: Scene) -> None:
    later = f"{datetime.now(UTC).year + 1}-01-01"
    with pytest.raises(NotAuthenticated):
        scene.token(scene.named(from_=later)[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": "system/*.rs"},
        {"scope": "patient/*.cruds"},
        {"scope": ""},
        {"scope": "patient/Observation.rs?x=y"},
        {"until": "2020-01-01"},
        {"until": "2999-01-01"},
        {"until": "soon"},
        {"from_": "soon"},
        {"key": "{}"},
        {"key": "x"},
        {"key": '{"kty":"oct","k":"AAAA","kid":"1"}'},
        {"name": " "},
        {"more": "x"},
    ],
    ids=repr,
)
def test_what_cannot_be_is_refused(scene: Scene, changes: dict[str, str]) -> None:
    private = ECKey.generate_key("P-384")
    private.ensure_kid()
    public = json.dumps(private.as_dict(private=False))
    given = {"name": "Ada", "key": public, "scope": SCOPE, "until": UNTIL}
    assert scene.call(scene.agent, "delegate", **given | changes).status_code == 400


def test_a_private_key_is_refused(scene: Scene) -> None:
    private = ECKey.generate_key("P-384")
    private.ensure_kid()
    whole = json.dumps(private.as_dict(private=True))
    assert scene.call(scene.agent, "delegate", name="A", key=whole, scope=SCOPE, until=UNTIL).status_code == 400
