"""HAPI FHIR's JPA server beside us: the same questions about the same records, in turn, in one run.

Both hold what eight people brought to three hospitals. HAPI keeps it in
PostgreSQL, or in an H2 file where there is no PostgreSQL, and is told to reuse
no stored result. Ours evaluates consent, records the access durably and
decrypts each record for every answer; HAPI does none of these.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fhir_bridge.model.ids import DIRECTORY_TYPES
from tests.bench.asking import permit
from tests.bench.feeding import Figures, server_pid
from tests.bench.gauge import cpu_of, percentile
from tests.bench.wire import ask, over_tcp
from tests.support.hapi import Hapi, hapi
from tests.support.hospitals import EIGHT, VERSIONS, directory, lanes, patients
from tests.support.postgres import find_postgres, postgres
from tests.support.service import Feeder, Service, running

ASKER = "northgate"
PERSON = "P0022"
"""536 records at the asker's hospital."""

_WARM_UP = 30
_HEAP = "3g"
_NO_CACHE = {"Cache-Control": "no-cache", "Accept": "application/fhir+json"}


@dataclass(frozen=True, slots=True)
class _Question:
    name: str
    path: str
    aim: float


@dataclass(frozen=True, slots=True)
class _Both:
    ours: Service
    theirs: Hapi
    patient: str
    database: str


def beside_hapi(rounds: int) -> dict[str, Figures]:
    """Measure every question; ``ratio`` is HAPI's p50 over ours."""
    with TemporaryDirectory(prefix="fhir-bridge-bench-") as folder, _both(Path(folder)) as both:
        return {f"hapi_{each.name}": _in_turn(both, each, rounds) for each in _questions(both)}


def _questions(both: _Both) -> list[_Question]:
    of = f"patient={both.patient}"
    return [
        _Question("everything", f"Patient/{both.patient}/$everything?_count=1000", 15),
        _Question("page_of_20", f"Observation?{of}&_count=20", 5),
        _Question("sorted_200", f"Observation?{of}&_sort=-date&_count=200", 5),
        _Question("read", f"Patient/{both.patient}", 2),
    ]


def _in_turn(both: _Both, question: _Question, rounds: int) -> Figures:
    headers = both.ours.token(ASKER)
    ours, theirs = over_tcp(both.ours.port)(), over_tcp(both.theirs.port)()
    path = f"/fhir/{question.path}"
    own: list[float] = []
    others: list[float] = []
    for _ in range(_WARM_UP):
        found, beside = ask(ours, "GET", path, headers), ask(theirs, "GET", path, _NO_CACHE)
    with cpu_of(server_pid(both.ours)) as cpu, cpu_of(both.theirs.pid) as other_cpu:
        for _ in range(rounds):
            own.append(ask(ours, "GET", path, headers).seconds)
            others.append(_timed(theirs, path))
    figures: Figures = {"database": both.database, "entries": _entries(found.body)}
    figures["hapi_entries"] = _entries(beside.body)
    for name, times in (("", own), ("hapi_", others)):
        figures |= {f"{name}p{share}_ms": round(percentile(times, share / 100) * 1000, 1) for share in (50, 95)}
    figures["cpu_ms"] = round(cpu.total_s / rounds * 1000, 1)
    figures["hapi_cpu_ms"] = round(other_cpu.total_s / rounds * 1000, 1)
    figures["ratio"] = round(percentile(others, 0.5) / percentile(own, 0.5), 1)
    figures["aim"] = f"{question.aim:g} or more"
    return figures


def _timed(connection: http.client.HTTPConnection, path: str) -> float:
    return ask(connection, "GET", path, _NO_CACHE).seconds


def _entries(body: bytes) -> int:
    answer = json.loads(body)
    return len(answer.get("entry", ())) if answer["resourceType"] == "Bundle" else 1


@contextmanager
def database_beside_us(folder: Path) -> Iterator[tuple[tuple[str, str], str]]:
    """Serve HAPI's database; yield its JDBC URL and user, and its name."""
    programs = find_postgres()
    if programs is None:
        yield (f"jdbc:h2:file:{folder}/h2/hapi", "sa"), "H2 file"
    else:
        with postgres(programs) as database:
            yield database, f"PostgreSQL {programs.parent.name}"


@contextmanager
def _both(folder: Path) -> Iterator[_Both]:
    with database_beside_us(folder) as (database, name), _loaded(folder, database, name) as both:
        yield both


@contextmanager
def _loaded(folder: Path, database: tuple[str, str], name: str) -> Iterator[_Both]:
    with running(folder / "data") as ours, hapi(folder, database=database, heap=_HEAP) as theirs:
        institutions = ours.add_institutions()
        for each in VERSIONS:
            ours.ingest(each, directory(each))
        Feeder(ours, [lane for each in VERSIONS for lane in lanes(each, EIGHT)]).run()
        theirs.wait_ready()
        for each in VERSIONS:
            for records in _held_by(ours, each):
                theirs.load(records)
        yield _Both(ours, theirs, permit(ours, PERSON, institutions[ASKER]), name)


def _held_by(service: Service, hospital: str) -> Iterator[list[dict[str, Any]]]:
    """Yield what a hospital holds, as it is served: its directory, then each person."""
    headers = service.token(hospital)
    shown = [_served(service, name, headers, _count="1000") for name in sorted(DIRECTORY_TYPES)]
    yield [each for records in shown for each in records if f'"{hospital}"' in json.dumps(each["meta"])]
    for patient in patients():
        if patient.hospital == hospital and patient.person in EIGHT:
            yield _served(service, f"Patient/{patient.local_id}/$everything", service.token(hospital))


def _served(service: Service, path: str, headers: dict[str, str], **params: str) -> list[dict[str, Any]]:
    return [json.loads(each) for each in service.entries(path, headers, **params)]
