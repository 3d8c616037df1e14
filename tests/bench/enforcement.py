"""What enforcement costs: the same rows through a patient's consent and through a policy that permits everything.

Two charts of one hospital in one service, asked by another hospital in turn. The first patient permits the asker
everything but a sensitive topic. No consent is about the second chart: the network's default policy permits all of
it. It holds what the asker is shown of the first, so rows and totals of the answers are the same; what differs is
that a consent is evaluated, and one record in fifty is held back.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tests.bench.feeding import Figures, server_pid
from tests.bench.gauge import cpu_of
from tests.bench.made_up import ASKER, HOME, SENSITIVE, Chart, admit, permit, send
from tests.bench.wire import ask, over_tcp
from tests.support.service import Service, running

AIMS = {
    "enforcement_page_of_20.cost_percent": "15 or less",
    "enforcement_sorted_200.cost_percent": "15 or less",
}
_HIDDEN_EVERY = 50
_SHOWN = 980
_CLIENTS = 2
_WARM_UP = 30
_BLOCK = 10
"""Requests of each client before it is the other chart's turn."""

_PERMIT_ALL = {"id": "all", "kind": "default", "citation": "for the benchmark", "provision": {"type": "permit"}}
_QUESTIONS = {
    "page_of_20": "Observation?patient={patient}&_count=20",
    "sorted_200": "Observation?patient={patient}&_sort=-date&_count=200",
}


@dataclass(slots=True)
class _Side:
    """One of the two charts: what is asked, and what each block of requests took."""

    path: str
    wall_s: list[float]
    cpu_s: float = 0.0


def enforcement(rounds: int) -> dict[str, Figures]:
    """Measure every question; ``cost_percent`` is the throughput that enforcement takes, of what there is without."""
    with TemporaryDirectory(prefix="fhir-bridge-bench-") as folder:
        policies = Path(folder) / "policies.json"
        policies.write_text(json.dumps({"format": 1, "policies": [_PERMIT_ALL]}))
        with running(Path(folder) / "data", FHIR_BRIDGE_CONSENT_POLICIES_FILE=str(policies)) as service:
            consented, open_to_all = _filled(service)
            return {
                f"enforcement_{name}": _in_turn(service, query, consented, open_to_all, rounds)
                for name, query in _QUESTIONS.items()
            }


def _filled(service: Service) -> tuple[str, str]:
    """Fill both charts; return the patients' ids, that of the one with a consent first."""
    held = _SHOWN * _HIDDEN_EVERY // (_HIDDEN_EVERY - 1)
    charts = [Chart("consented", held, _HIDDEN_EVERY), Chart("open-to-all", _SHOWN)]
    admit(service)
    send(service, charts)
    other = service.ask("/patients/resolve", patient=charts[1].local_id, institution=HOME)["patient"]
    return permit(service, charts[0].patient, **SENSITIVE), str(other)


def _in_turn(service: Service, query: str, consented: str, open_to_all: str, rounds: int) -> Figures:
    headers, pid = service.token(ASKER), server_pid(service)
    connections = [over_tcp(service.port)() for _ in range(_CLIENTS)]
    sides = [_Side(f"/fhir/{query.format(patient=patient)}", []) for patient in (consented, open_to_all)]
    shown = [_shown(connections[0], side.path, headers) for side in sides]
    if shown[0] != shown[1]:
        raise RuntimeError(f"the two charts do not show the same: {shown}")
    for number in range(rounds):
        for side in sides if number % 2 else reversed(sides):
            with cpu_of(pid) as cpu:
                _block(connections, side.path, headers)
            side.wall_s.append(cpu.wall_s)
            side.cpu_s += cpu.total_s
    for each in connections:
        each.close()
    (entries, total), requests = shown[0], _BLOCK * _CLIENTS
    with_consent, without = sides
    rates = [other / own for own, other in zip(with_consent.wall_s, without.wall_s, strict=True)]
    return {
        "entries": entries,
        "total": total,
        "consent_per_s": round(requests / median(with_consent.wall_s), 1),
        "permit_all_per_s": round(requests / median(without.wall_s), 1),
        "cost_percent": round((1 - median(rates)) * 100, 1),
        "consent_cpu_ms": round(with_consent.cpu_s / requests / rounds * 1000, 2),
        "permit_all_cpu_ms": round(without.cpu_s / requests / rounds * 1000, 2),
        "cpu_cost_percent": round((1 - without.cpu_s / with_consent.cpu_s) * 100, 1),
    }


def _shown(connection: HTTPConnection, path: str, headers: Mapping[str, str]) -> tuple[int, int | None]:
    """Return how many entries a page has and the total, asked until both are warm."""
    for _ in range(_WARM_UP):
        answer = json.loads(ask(connection, "GET", path, headers).body)
    return len(answer["entry"]), answer.get("total")


def _block(connections: Sequence[HTTPConnection], path: str, headers: Mapping[str, str]) -> None:
    """Let every client ask its share, all at once."""
    failures: list[BaseException] = []

    def work(connection: HTTPConnection) -> None:
        try:
            for _ in range(_BLOCK):
                ask(connection, "GET", path, headers)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(each,)) for each in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
