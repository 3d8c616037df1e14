"""An R5 Consent over HTTP: in force as its R4 counterpart, served as R4, and withdrawn by its own status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Service

pytestmark = pytest.mark.slow

R5 = "application/fhir+json; fhirVersion=5.0"


def _consent(patient: str, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Consent",
        "id": "c5",
        "status": "active",
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "subject": {"reference": f"Patient/{patient}"},
        "date": "2026-01-01",
        "decision": "permit",
    } | more


def test_an_r5_consent_permits_and_its_withdrawal_is_never_refused(tmp_path: Path) -> None:
    service = Service(tmp_path / "data")
    try:
        service.start().add_institutions(("northgate", "harbor"))
        who = service.token("northgate") | {"Content-Type": "application/fhir+json"}
        body = {"resourceType": "Patient", "id": "p", "gender": "female"}
        assert service.http.put("/fhir/Patient/p", headers=who, json=body).status_code == 201
        done = service.order("/patients", {"institution": "northgate", "patient": "p"})
        patient = done["patient"]
        agent = service._token(Path(done["credentials"]), {}) | {"Content-Type": R5}
        harbor = service.token("harbor")

        def seen() -> int:
            return service.get(f"Patient/{patient}", harbor).status_code

        assert seen() == 404
        stored = service.http.put("/fhir/Consent/c5", headers=agent, json=_consent(patient))
        assert stored.status_code == 201
        assert stored.json()["policyRule"]["coding"][0]["code"] == "OPTIN"
        assert "decision" not in stored.json()
        assert seen() == 200
        unclear = _consent(patient, provision=[{"expression": {"language": "text/fhirpath", "expression": "true"}}])
        assert service.http.put("/fhir/Consent/c5", headers=agent, json=unclear).status_code == 200
        assert seen() == 404
        assert service.http.put("/fhir/Consent/c5", headers=agent, json=_consent(patient)).status_code == 200
        assert seen() == 200
        withdrawal = _consent(patient, status="not-done", unheardOf=1)
        assert service.http.put("/fhir/Consent/c5", headers=agent, json=withdrawal).status_code == 200
        assert seen() == 404
    finally:
        service.close()
