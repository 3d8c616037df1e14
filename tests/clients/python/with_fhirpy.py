"""What fhirpy does with the service; prints what it saw as one JSON object."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fhirpy import SyncFHIRClient

GIVEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "shared.json").read_text())
BASE = os.environ["FHIR_BASE"]


def client_with(token: str) -> Any:
    return SyncFHIRClient(BASE, authorization=f"Bearer {os.environ[token]}")


def error_of(work: Callable[[], object]) -> list[str]:
    try:
        work()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ["none", ""]


def observation(number: int, patient: str) -> dict[str, Any]:
    when = f"2026-01-01T10:{number:02d}:00Z"
    return {**GIVEN["observation"], "subject": {"reference": f"Patient/{patient}"}, "effectiveDateTime": when}


def main() -> None:
    client = client_with("FHIR_TOKEN")
    body = json.loads(json.dumps(GIVEN["patient"]).replace("MRN", "fhirpy"))
    patient = client.resource("Patient", **body)
    patient.save()
    read = client.reference("Patient", patient.id).to_resource()
    found = client.resources("Patient").search(identifier="https://northgate.example.org/mrn|fhirpy").fetch_all()
    entries = [
        {
            "fullUrl": f"urn:uuid:00000000-0000-4000-8000-0000000001{number:02d}",
            "resource": observation(number, patient.id),
            "request": {"method": "POST", "url": "Observation"},
        }
        for number in range(GIVEN["observations"])
    ]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    stored = client.execute("", method="post", data=bundle)
    pages = client.resources("Observation").search(patient=patient.id).limit(GIVEN["page"])
    everything = client.execute(f"Patient/{patient.id}/$everything", method="get", params={"_count": 100})
    read["active"] = False
    read.save()
    told = {
        "created": patient.id,
        "read": [read.gender, read.get_by_path(["identifier", 0, "value"])],
        "found": [each.id for each in found],
        "stored": [each["response"]["status"] for each in stored["entry"]],
        "paged": [each.id for each in pages.fetch_all()],
        "everything": [each["resource"]["resourceType"] for each in everything["entry"]],
        "updated": client.reference("Patient", patient.id).to_resource().active,
        "errors": {
            "404": error_of(lambda: client.reference("Patient", GIVEN["absent"]).to_resource()),
            "400": error_of(lambda: client.resource("Patient", birthDate="yesterday").save()),
            "401": error_of(lambda: client_with("FHIR_BAD_TOKEN").reference("Patient", patient.id).to_resource()),
            "403": error_of(lambda: client_with("FHIR_NARROW_TOKEN").resource("Patient", **body).save()),
        },
    }
    print(json.dumps(told))


main()
