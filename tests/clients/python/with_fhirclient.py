"""What fhirclient, the SMART client, does with the service; prints what it saw as one JSON object."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fhirclient.client import FHIRClient
from fhirclient.models.bundle import Bundle
from fhirclient.models.observation import Observation
from fhirclient.models.patient import Patient

GIVEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "shared.json").read_text())
BASE = os.environ["FHIR_BASE"]


def server_with(token: str) -> Any:
    """Return a server whose way to sign in is what its CapabilityStatement names; the token comes from there."""
    smart = FHIRClient(settings={"app_id": "tests", "api_base": BASE})
    smart.prepare()
    assert smart.server.auth.auth_type == "oauth2", smart.server.auth.auth_type
    smart.server.auth.access_token = os.environ[token]
    assert smart.server.ready
    return smart.server


def error_of(work: Callable[[], object]) -> list[str]:
    try:
        work()
    except Exception as error:
        answer = getattr(error, "response", None)
        return [type(error).__name__, "" if answer is None else answer.text]
    return ["none", ""]


def observation(number: int, patient: str) -> dict[str, Any]:
    when = f"2026-01-01T10:{number:02d}:00Z"
    return {**GIVEN["observation"], "subject": {"reference": f"Patient/{patient}"}, "effectiveDateTime": when}


def main() -> None:
    server = server_with("FHIR_TOKEN")
    body = json.loads(json.dumps(GIVEN["patient"]).replace("MRN", "fhirclient"))
    created = Patient(Patient(body).create(server))
    read = Patient.read(created.id, server)
    found = Patient.where({"identifier": "https://northgate.example.org/mrn|fhirclient"}).perform_resources(server)
    entries = [
        {
            "fullUrl": f"urn:uuid:00000000-0000-4000-8000-0000000002{number:02d}",
            "resource": observation(number, created.id),
            "request": {"method": "POST", "url": "Observation"},
        }
        for number in range(GIVEN["observations"])
    ]
    bundle = Bundle({"resourceType": "Bundle", "type": "transaction", "entry": entries})
    stored = Bundle(server.post_json("", bundle.as_json()).json())
    pages = Observation.where({"patient": created.id, "_count": str(GIVEN["page"])}).perform_resources_iter(server)
    everything = Bundle(server.request_json(f"Patient/{created.id}/$everything?_count=100"))
    read.active = False
    read.update(server)
    told = {
        "created": created.id,
        "read": [read.gender, read.identifier[0].value],
        "found": [each.id for each in found],
        "stored": [each.response.status for each in stored.entry],
        "paged": [each.id for each in pages],
        "everything": [each.resource.resource_type for each in everything.entry],
        "updated": Patient.read(created.id, server).active,
        "errors": {
            "404": error_of(lambda: Patient.read(GIVEN["absent"], server)),
            "400": error_of(lambda: server.post_json("Patient", GIVEN["invalid"])),
            "401": error_of(lambda: Patient.read(created.id, server_with("FHIR_BAD_TOKEN"))),
            "403": error_of(lambda: Patient(body).create(server_with("FHIR_NARROW_TOKEN"))),
        },
    }
    print(json.dumps(told))


main()
