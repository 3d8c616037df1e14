"""One chart of 100,000 records: filled through the real line, asked over real HTTP, cold and warm.

The asker is another hospital with the patient's consent, which permits everything but a sensitive
topic, so that consent is evaluated and enforced for each answer. A second consent that denies one
record by its id shows what deciding row by row costs.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.feeding import Figures, server_pid
from tests.bench.gauge import cpu_of, percentile, tree
from tests.bench.made_up import ASKER, CODES, HOME, SENSITIVE, Chart, admit, permit, send
from tests.bench.wire import ask, over_tcp
from tests.support.hospitals import Patient
from tests.support.service import Service, running

RECORDS = 100_000
_CHART = "large-chart"
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
        patient = permit(service, _patient(), **SENSITIVE)
        service.stop()
        return {"large_chart_filling": filled} | questions(service, patient, rounds)


def fill(service: Service, records: int) -> Figures:
    """Send a patient's Observations in transactions of 500, each answered when it is anchored."""
    admit(service)
    started = time.perf_counter()
    send(service, [Chart(_CHART, records, hidden_every=50)])
    seconds = time.perf_counter() - started
    return {"records": records, "seconds": round(seconds, 1), "resources_per_s": round(records / seconds)}


def questions(service: Service, patient: str, rounds: int) -> dict[str, Figures]:
    """Ask a service that has not started yet: each question cold, in a process of its own, then warm."""
    found: dict[str, Figures] = {}
    for name, query in _QUESTIONS.items():
        service.start()
        connection, headers = over_tcp(service.port)(), service.token(ASKER)
        path = "/fhir/" + query.format(patient=patient, code=f"http://loinc.org|{CODES[7]}", record=_one(service))
        found[f"large_chart_{name}"] = _asked(service, connection, path, headers, rounds)
        if name == "newest_50":
            found["large_chart_everything"] = _everything(service, connection, patient, headers)
        service.stop()
    service.start()
    record = {"meaning": "instance", "reference": {"reference": f"Observation/{_one(service)}"}}
    permit(service, _patient(), data=[record])
    path = "/fhir/" + _QUESTIONS["newest_50"].format(patient=patient)
    found["large_chart_judged_row_by_row"] = _asked(
        service, over_tcp(service.port)(), path, service.token(ASKER), rounds
    )
    service.stop()
    return found


def _patient() -> Patient:
    return Chart(_CHART, 0).patient


def _one(service: Service) -> str:
    """Return the canonical id of a record that the asker may read."""
    patient = service.ask("/patients/resolve", patient=_CHART, institution=HOME)["patient"]
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
