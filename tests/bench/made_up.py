"""Made-up patients of one hospital with as many Observations as a benchmark wants, sent through the real line.

Each Observation is about as large as a hospital's. One in so many is of a sensitive topic, which the consents here
keep from whoever asks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.bench.wire import over_socket, post_all
from tests.support.hospitals import Patient, directory
from tests.support.service import FHIR_JSON, Service, consent

HOME, ASKER = "northgate", "harbor"
CODES = tuple(f"{8000 + number}-{number % 10}" for number in range(60))
SENSITIVE = {
    "securityLabel": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "PSY"}],
}
_BUNDLE = 500
_IN_FLIGHT = 6
_STEP = timedelta(minutes=97)
_BEGAN = datetime(2006, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Chart:
    """A patient and what is sent of them; ``hidden_every`` 50 makes every fiftieth Observation a sensitive one."""

    local_id: str
    records: int
    hidden_every: int | None = None

    @property
    def patient(self) -> Patient:
        """The patient as the operator's means name one."""
        return Patient("bench", HOME, self.local_id, "", "")


def admit(service: Service) -> None:
    """Admit the hospital that holds the charts and the one that asks, with the holder's directory."""
    service.add_institutions([HOME, ASKER])
    service.ingest(HOME, directory(HOME))


def send(service: Service, charts: Sequence[Chart]) -> None:
    """Send charts in transactions of 500, each answered when it is anchored."""
    connect, headers = over_socket(service.data / "control.sock"), {"Content-Type": FHIR_JSON}
    people = [json.dumps({"resourceType": "Patient", "id": chart.local_id}).encode() for chart in charts]
    for messages in (people, [bundle for chart in charts for bundle in _bundles(chart)]):
        post_all(connect, f"/ingest?institution={HOME}", headers, messages, in_flight=_IN_FLIGHT)


def permit(service: Service, patient: Patient, **deny: Any) -> str:
    """Let a patient permit the asker everything but ``deny``; return the patient's id."""
    name, agent = service.enrol(patient)
    institutions = {each["name"]: each["id"] for each in service.ask("/institutions")}
    made = service.http.post("/fhir/Consent", json=consent(name, institutions[ASKER], deny=deny), headers=agent)
    if made.status_code != 201:
        raise RuntimeError(f"the consent was not taken: {made.status_code} {made.text[:300]}")
    return name


def _bundles(chart: Chart) -> Iterator[bytes]:
    for start in range(0, chart.records, _BUNDLE):
        entries = [_entry(chart, number) for number in range(start, min(start + _BUNDLE, chart.records))]
        yield json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries}).encode()


def _entry(chart: Chart, number: int) -> dict[str, Any]:
    code, record = CODES[number % len(CODES)], f"{chart.local_id}-o-{number}"
    body: dict[str, Any] = {
        "resourceType": "Observation",
        "id": record,
        "status": "final",
        "category": [
            {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/observation-category",
                        "code": "vital-signs",
                        "display": "Vital signs",
                    }
                ]
            }
        ],
        "code": {"coding": [{"system": "http://loinc.org", "code": code, "display": f"Measurement {code}"}]},
        "subject": {"reference": f"Patient/{chart.local_id}"},
        "effectiveDateTime": (_BEGAN + number * _STEP).isoformat(),
        "issued": (_BEGAN + number * _STEP).isoformat(),
        "valueQuantity": {
            "value": number % 997,
            "unit": "mmol/L",
            "system": "http://unitsofmeasure.org",
            "code": "mmol/L",
        },
    }
    if chart.hidden_every and number % chart.hidden_every == 0:
        body["meta"] = {"security": SENSITIVE["securityLabel"]}
    return {
        "fullUrl": f"https://northgate.example.org/fhir/Observation/{record}",
        "resource": body,
        "request": {"method": "PUT", "url": f"Observation/{record}"},
    }
