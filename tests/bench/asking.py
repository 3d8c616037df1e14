"""Questions over real HTTP: ``$everything`` and pages of searches.

Consent is evaluated and every body decrypted for each answer; nothing that was
shown is kept. Opened index rows stay in memory, so the first answer is told apart.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.feeding import Figures, server_pid
from tests.bench.gauge import cpu_of, percentile
from tests.bench.wire import ask, over_tcp
from tests.support.hospitals import patients
from tests.support.service import Service, consent, load, patient_at, running

PEOPLE = {"1000": "P0018", "3000": "P0013"}
"""People whose linked charts at all three hospitals hold about so many records (997 and 3,015)."""

ASKER = "northgate"
_WARM_UP = 3
_SEARCHES = {
    "first_page": "Observation?patient={patient}",
    "by_code_newest_first": "Observation?patient={patient}&code={code}&_sort=-date",
    "by_date": "Observation?patient={patient}&date=ge{year}&_count=50",
}


def answers(rounds: int) -> dict[str, Figures]:
    """Measure for each person, with consent given to the asker for the charts of all hospitals."""
    with TemporaryDirectory(prefix="fhir-bridge-bench-") as folder, running(Path(folder) / "data") as service:
        institutions = service.add_institutions()
        load(service, tuple(PEOPLE.values()))
        named = {size: permit(service, person, institutions[ASKER]) for size, person in PEOPLE.items()}
        service.stop()
        service.start()
        found: dict[str, Figures] = {}
        for size, patient in named.items():
            found[f"everything_{size}"] = _everything(service, patient, rounds)
        biggest = list(named.values())[-1]
        for name, query in _SEARCHES.items():
            filled = query.format(patient=biggest, **_criteria(service, biggest))
            found[f"search_{name}"] = _repeated(service, f"/fhir/{filled}", rounds)
    return found


def permit(service: Service, person: str, institution: str) -> str:
    """Let the person permit the institution everything; return the id of the asker's own Patient."""
    home = patient_at(person, ASKER)
    canonical, agent = service.enrol(home)
    for other in patients():
        if other.person == person and other.hospital != ASKER:
            service.enrol(other)
    body = json.dumps(consent(canonical, institution)).encode()
    made = service.http.post("/fhir/Consent", content=body, headers=agent)
    if made.status_code != 201:
        raise RuntimeError(f"the consent was not taken: {made.status_code} {made.text[:300]}")
    return canonical


def _criteria(service: Service, patient: str) -> dict[str, str]:
    """Return the code and the year of an Observation that this patient has."""
    resources = service.entries("Observation", service.token(ASKER), patient=patient, _count="200")
    body = next(each for each in map(json.loads, resources) if "effectiveDateTime" in each)
    coding = body["code"]["coding"][0]
    return {"code": f"{coding['system']}|{coding['code']}", "year": body["effectiveDateTime"][:4]}


def _everything(service: Service, patient: str, rounds: int) -> Figures:
    return _repeated(service, f"/fhir/Patient/{patient}/$everything", rounds)


def _repeated(service: Service, path: str, rounds: int) -> Figures:
    connection = over_tcp(service.port)()
    headers = service.token(ASKER)
    first = ask(connection, "GET", path, headers)
    for _ in range(_WARM_UP):
        ask(connection, "GET", path, headers)
    with cpu_of(server_pid(service)) as cpu:
        times = [_timed(connection, path, headers) for _ in range(rounds)]
    bundle = json.loads(first.body)
    return {
        "entries": len(bundle.get("entry", ())),
        "total": bundle.get("total"),
        "bytes": len(first.body),
        "first_ms": round(first.seconds * 1000, 1),
        "p50_ms": round(percentile(times, 0.5) * 1000, 1),
        "p95_ms": round(percentile(times, 0.95) * 1000, 1),
        "cpu_ms": round(cpu.total_s / rounds * 1000, 1),
    }


def _timed(connection: http.client.HTTPConnection, path: str, headers: Mapping[str, str]) -> float:
    return ask(connection, "GET", path, headers).seconds
