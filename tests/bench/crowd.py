"""A page at 64 times the patients: two services that differ in how many people they hold, asked in turn.

Each patient has a small chart, sent through the real line, and a consent of the own that permits the asker everything
but a sensitive topic. Every question is about the next patient, so that none is asked twice while others wait; all
charts were asked about before. Small charts, because the number of people is what is compared.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.client import HTTPConnection
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.feeding import Figures, server_pid
from tests.bench.gauge import cpu_of, percentile
from tests.bench.made_up import ASKER, SENSITIVE, Chart, admit, permit, send
from tests.bench.wire import ask, over_tcp
from tests.support.service import Service, running

AIMS = {"crowd_page_of_20.ratio": "1.5 or less"}
FEW, TIMES = 8, 64
_RECORDS = 40
_HIDDEN_EVERY = 20
_BLOCK = 10
_TOKEN_S = 200


@dataclass(slots=True)
class _Side:
    """One of the two services: whom to ask about next, and what the answers took."""

    service: Service
    connection: HTTPConnection
    patients: Iterator[str]
    headers: dict[str, str] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    entries: int = 0


def crowd(rounds: int, times: int = TIMES) -> dict[str, Figures]:
    """Measure a page of 20 Observations; ``ratio`` is the p50 with many patients over that with few."""
    with TemporaryDirectory(prefix="fhir-bridge-bench-") as folder, ExitStack() as stack:
        held = (FEW, FEW * times)
        services = [stack.enter_context(running(Path(folder) / f"patients-{number}")) for number in held]
        patients = [_filled(service, number) for service, number in zip(services, held, strict=True)]
        sides = [_warmed(*each) for each in zip(services, patients, strict=True)]
        return {"crowd_page_of_20": _in_turn(sides, rounds, held)}


def _filled(service: Service, number: int) -> list[str]:
    charts = [Chart(f"crowd-{each}", _RECORDS, _HIDDEN_EVERY) for each in range(number)]
    admit(service)
    send(service, charts)
    return [permit(service, chart.patient, **SENSITIVE) for chart in charts]


def _warmed(service: Service, patients: list[str]) -> _Side:
    side = _Side(service, over_tcp(service.port)(), cycle(patients), service.token(ASKER))
    for _ in range(2 * len(patients)):
        _ask(side)
    side.times.clear()
    return side


def _in_turn(sides: list[_Side], rounds: int, held: tuple[int, int]) -> Figures:
    renewed = float("-inf")
    for number in range(rounds):
        if time.monotonic() - renewed > _TOKEN_S:
            renewed = time.monotonic()
            for side in sides:
                side.connection.close()
                side.connection, side.headers = over_tcp(side.service.port)(), side.service.token(ASKER)
        for side in sides if number % 2 else reversed(sides):
            with cpu_of(server_pid(side.service)) as cpu:
                for _ in range(_BLOCK):
                    _ask(side)
            side.cpu_s += cpu.total_s
    few, many = sides
    figures: Figures = {"entries": few.entries, "many_entries": many.entries}
    for name, side, patients in (("", few, held[0]), ("many_", many, held[1])):
        figures[f"{name}patients"] = patients
        figures |= {f"{name}p{share}_ms": round(percentile(side.times, share / 100) * 1000, 1) for share in (50, 95)}
        figures[f"{name}cpu_ms"] = round(side.cpu_s / rounds / _BLOCK * 1000, 2)
    figures["ratio"] = round(percentile(many.times, 0.5) / percentile(few.times, 0.5), 2)
    figures["cpu_ratio"] = round(many.cpu_s / few.cpu_s, 2)
    return figures


def _ask(side: _Side) -> None:
    path = f"/fhir/Observation?patient={next(side.patients)}&_count=20"
    answer = ask(side.connection, "GET", path, side.headers)
    side.times.append(answer.seconds)
    side.entries = len(json.loads(answer.body)["entry"])
