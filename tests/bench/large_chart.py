"""One chart of 100,000 records: filled through the real line, asked over real HTTP, cold and warm.

The asker is another hospital with the patient's consent, which permits everything but a sensitive
topic, so that consent is evaluated and enforced for each answer. A second consent that denies one
record by its id shows what deciding row by row costs.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.bench.feeding import Figures, server_pid
from tests.bench.gauge import cpu_of, percentile, tree
from tests.bench.wire import ask, over_socket, over_tcp, post_all
from tests.support.hospitals import Patient, directory
from tests.support.service import FHIR_JSON, Service, consent, running

RECORDS = 100_000
HOME, ASKER = "northgate", "harbor"
_PATIENT = Patient("bench", HOME, "large-chart", "", "")
_BUNDLE = 500
_IN_FLIGHT = 6
_STEP = timedelta(minutes=97)
_BEGAN = datetime(2006, 1, 1, tzinfo=UTC)
_CODES = tuple(f"{8000 + number}-{number % 10}" for number in range(60))
_SENSITIVE = {
    "securityLabel": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "PSY"}],
}
_QUESTIONS = {
    "newest_50": "Observation?patient={patient}&_sort=-date&_count=50",
    "page_of_20": "Observation?patient={patient}",
    "newest_of_code": "Observation?patient={patient}&code={code}&_sort=-date&_count=50",
    "read": "Observation/{record}",
}


def large_chart(records: int, rounds: int) -> dict[str, Figures]:
    """Fill a chart, start the service anew, and ask."""
    with TemporaryDirectory(prefix="fhir-bridge-bench-") as folder, running(Path(folder) / "data") as service:
        filled = fill(service, records)
        patient = permit(service, deny=_SENSITIVE)
        service.stop()
        return {"large_chart_filling": filled} | questions(service, patient, rounds)


def fill(service: Service, records: int) -> Figures:
    """Send a patient's Observations in transactions of 500, each answered when it is anchored."""
    service.add_institutions([HOME, ASKER])
    service.ingest(HOME, directory(HOME))
    service.ingest(HOME, json.dumps({"resourceType": "Patient", "id": _PATIENT.local_id}).encode())
    connect, headers = over_socket(service.data / "control.sock"), {"Content-Type": FHIR_JSON}
    started = time.perf_counter()
    post_all(connect, f"/ingest?institution={HOME}", headers, list(_bundles(records)), in_flight=_IN_FLIGHT)
    seconds = time.perf_counter() - started
    return {"records": records, "seconds": round(seconds, 1), "resources_per_s": round(records / seconds)}


def permit(service: Service, *, deny: Mapping[str, Any]) -> str:
    """Let the patient permit the asker everything but ``deny``; return the patient's id."""
    patient, agent = service.enrol(_PATIENT)
    institutions = {each["name"]: each["id"] for each in service.ask("/institutions")}
    made = service.http.post("/fhir/Consent", json=consent(patient, institutions[ASKER], deny=deny), headers=agent)
    if made.status_code != 201:
        raise RuntimeError(f"the consent was not taken: {made.status_code} {made.text[:300]}")
    return patient


def questions(service: Service, patient: str, rounds: int) -> dict[str, Figures]:
    """Ask a service that has not started yet: each question cold, in a process of its own, then warm."""
    found: dict[str, Figures] = {}
    for name, query in _QUESTIONS.items():
        service.start()
        connection, headers = over_tcp(service.port)(), service.token(ASKER)
        path = "/fhir/" + query.format(patient=patient, code=f"http://loinc.org|{_CODES[7]}", record=_one(service))
        found[f"large_chart_{name}"] = _asked(service, connection, path, headers, rounds)
        if name == "newest_50":
            found["large_chart_everything"] = _everything(service, connection, patient, headers)
        service.stop()
    service.start()
    record = {"meaning": "instance", "reference": {"reference": f"Observation/{_one(service)}"}}
    permit(service, deny={"data": [record]})
    path = "/fhir/" + _QUESTIONS["newest_50"].format(patient=patient)
    found["large_chart_judged_row_by_row"] = _asked(
        service, over_tcp(service.port)(), path, service.token(ASKER), rounds
    )
    service.stop()
    return found


def _one(service: Service) -> str:
    """Return the canonical id of a record that the asker may read."""
    patient = service.ask("/patients/resolve", patient=_PATIENT.local_id, institution=HOME)["patient"]
    page = service.get("Observation", service.token(HOME), patient=patient, _count="2")
    return str(page.json()["entry"][1]["resource"]["id"])


def _asked(
    service: Service, connection: http.client.HTTPConnection, path: str, headers: Mapping[str, str], rounds: int
) -> Figures:
    first = ask(connection, "GET", path, headers)
    for _ in range(3):
        ask(connection, "GET", path, headers)
    with cpu_of(server_pid(service)) as cpu:
        times = [ask(connection, "GET", path, headers).seconds for _ in range(rounds)]
    return {
        "total": json.loads(first.body).get("total"),
        "first_ms": round(first.seconds * 1000, 1),
        "p50_ms": round(percentile(times, 0.5) * 1000, 1),
        "p95_ms": round(percentile(times, 0.95) * 1000, 1),
        "cpu_ms": round(cpu.main_s / rounds * 1000, 1),
        "resident_mib": tree(server_pid(service))[server_pid(service)].resident >> 20,
    }


def _everything(
    service: Service, connection: http.client.HTTPConnection, patient: str, headers: Mapping[str, str]
) -> Figures:
    """Read the whole of it and keep nothing, as a client that streams does."""
    pid = server_pid(service)
    before = tree(pid)[pid]
    started = time.perf_counter()
    with cpu_of(pid) as cpu:
        connection.request("GET", f"/fhir/Patient/{patient}/$everything", headers=dict(headers))
        answer = connection.getresponse()
        size = len(answer.read(1))
        first_byte = time.perf_counter() - started
        while chunk := answer.read(1 << 16):
            size += len(chunk)
    return {
        "bytes": size,
        "first_byte_ms": round(first_byte * 1000, 1),
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_s": round(cpu.main_s, 2),
        "resident_before_mib": before.resident >> 20,
        "peak_mib": tree(pid)[pid].peak >> 20,
    }


def _bundles(records: int) -> Iterator[bytes]:
    for start in range(0, records, _BUNDLE):
        entries = [_entry(number) for number in range(start, min(start + _BUNDLE, records))]
        yield json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries}).encode()


def _entry(number: int) -> dict[str, Any]:
    """Return one of the Observations: about as large as a hospital's, one in fifty of a sensitive topic."""
    code = _CODES[number % len(_CODES)]
    body: dict[str, Any] = {
        "resourceType": "Observation",
        "id": f"o-{number}",
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
        "subject": {"reference": f"Patient/{_PATIENT.local_id}"},
        "effectiveDateTime": (_BEGAN + number * _STEP).isoformat(),
        "issued": (_BEGAN + number * _STEP).isoformat(),
        "valueQuantity": {
            "value": number % 997,
            "unit": "mmol/L",
            "system": "http://unitsofmeasure.org",
            "code": "mmol/L",
        },
    }
    if number % 50 == 0:
        body["meta"] = {"security": _SENSITIVE["securityLabel"]}
    return {
        "fullUrl": f"https://northgate.example.org/fhir/Observation/o-{number}",
        "resource": body,
        "request": {"method": "PUT", "url": f"Observation/o-{number}"},
    }
