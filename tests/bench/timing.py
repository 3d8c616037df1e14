"""Whether the time of an answer tells hidden from absent: Welch's t-test over paired requests to a real service.

For whoever holds a token and a clock. Each pair asks once for what is hidden
and once for what never was, in random order, over one kept connection. As in
dudect (Reparaz, Balasch, Verbauwhede 2017) the slowest answers are left out at
several limits, common to both classes, and the largest |t| of all counts. A
claim stands where it stays below 4.5.

``python -m tests.bench.timing [--pairs 20000] [--only NAME,...]``
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from statistics import fmean, median, variance

from tests.bench.feeding import Figures
from tests.support.hospitals import directory, lanes, links
from tests.support.service import Feeder, Service, consent, patient_at, running

LIMIT = 4.5
PAIRS = 20_000
_CROPS = (1.0, 0.99, 0.95, 0.9, 0.75)
"""Shares of all answers that are kept, the quickest first."""
_WARM = 300
_OTHER_VERSION = "aaaabbbbccccddddeeee"
_TENANT = ("P0017", "P0014")
"""Somebody who permits all but conditions, and somebody who permits nothing."""


@dataclass(frozen=True, slots=True)
class Interaction:
    """Two paths that must not be told apart, and whether that is claimed or only measured."""

    name: str
    hidden: Callable[[], str]
    absent: Callable[[], str]
    is_claimed: bool


@dataclass(frozen=True, slots=True)
class Stage:
    """A running service, one requester's headers, and what is hidden from them."""

    service: Service
    headers: dict[str, str]
    stranger: str
    stranger_record: str
    person: str
    condition: str


def t_statistic(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Welch's t of two samples; 0 where neither varies and both agree."""
    spread = math.sqrt(variance(first) / len(first) + variance(second) / len(second))
    difference = fmean(first) - fmean(second)
    if spread == 0:
        return 0.0 if difference == 0 else math.copysign(math.inf, difference)
    return difference / spread


def largest_t(hidden: Sequence[int], absent: Sequence[int]) -> float:
    """Return the t of largest size over all crops, hidden against absent."""
    pooled = sorted([*hidden, *absent])
    found = []
    for share in _CROPS:
        limit = pooled[max(0, math.ceil(share * len(pooled)) - 1)]
        kept = [[each for each in sample if each <= limit] for sample in (hidden, absent)]
        if min(map(len, kept)) > 1:
            found.append(t_statistic(*kept))
    return max(found, key=abs)


def measure(pairs: int = PAIRS, only: Sequence[str] = ()) -> dict[str, Figures]:
    """Return figures of every interaction."""
    with tempfile.TemporaryDirectory() as folder, _staged(Path(folder)) as stage:
        chosen = [each for each in _interactions(stage) if not only or each.name in only]
        return {f"timing_{each.name}": _compare(stage, each, pairs) for each in chosen}


def _interactions(stage: Stage) -> list[Interaction]:
    """Ids nobody used are new each time, for an attacker's would be; the hidden ones are those there are."""
    chance = random.Random(7)

    def unused() -> str:
        return "".join(chance.choices("abcdefghijklmnopqrstuvwxyz234567", k=32))

    def of(path: str, record_id: Callable[[], str]) -> Callable[[], str]:
        return lambda: path.format(record_id())

    def pair(name: str, path: str, hidden: str, *, is_claimed: bool = True) -> Interaction:
        return Interaction(name, of(path, lambda: hidden), of(path, unused), is_claimed)

    return [
        pair("read_of_hidden_chart", "Observation/{}", stage.stranger_record),
        pair("read_in_open_chart", "Condition/{}", stage.condition),
        pair("vread_of_hidden_chart", f"Observation/{{}}/_history/{_OTHER_VERSION}", stage.stranger_record),
        pair("history_of_hidden_chart", "Observation/{}/_history", stage.stranger_record),
        pair("provenance_of_hidden_chart", f"Provenance/{{}}-{_OTHER_VERSION}", stage.stranger_record),
        pair("everything_of_hidden_chart", "Patient/{}/$everything", stage.stranger),
        pair("search_of_hidden_chart", "Observation?patient={}", stage.stranger),
        Interaction(
            "search_in_open_chart",
            lambda: f"Condition?patient={stage.person}",
            lambda: f"Flag?patient={stage.person}",
            False,
        ),
    ]


def _compare(stage: Stage, interaction: Interaction, pairs: int) -> Figures:
    chance = random.Random(1)
    samples: dict[bool, list[int]] = {True: [], False: []}
    lengths: dict[bool, set[tuple[int, int]]] = {True: set(), False: set()}
    connection = HTTPConnection("127.0.0.1", stage.service.port, timeout=60)
    headers, renewed = dict(stage.headers), time.monotonic()
    for number in range(-_WARM, pairs):
        if time.monotonic() - renewed > 200:  # a token lasts five minutes
            headers, renewed = stage.service.token("northgate", practitioner="dr-a"), time.monotonic()
        order = (True, False) if chance.random() < 0.5 else (False, True)
        for is_hidden in order:
            path = (interaction.hidden if is_hidden else interaction.absent)()
            begin = time.perf_counter_ns()
            connection.request("GET", f"/fhir/{path}", headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            taken = time.perf_counter_ns() - begin
            lengths[is_hidden].add((answer.status, len(body)))
            if number >= 0:
                samples[is_hidden].append(taken)
    connection.close()
    if interaction.is_claimed and lengths[True] != lengths[False]:
        raise AssertionError(f"{interaction.name}: the answers differ, so time need not: {lengths}")
    t = largest_t(samples[True], samples[False])
    middle = {is_hidden: median(taken) / 1000 for is_hidden, taken in samples.items()}
    return {
        "pairs": pairs,
        "t": round(t, 2),
        "claimed": f"|t| < {LIMIT}" if interaction.is_claimed else "no",
        "hidden_p50_us": round(middle[True], 1),
        "absent_p50_us": round(middle[False], 1),
        "difference_p50_us": round(middle[True] - middle[False], 1),
    }


@contextmanager
def _staged(folder: Path) -> Iterator[Stage]:
    person, stranger = _TENANT
    with running(folder / "data", FHIR_BRIDGE_INGEST_WORKERS="0") as service:
        ids = service.add_institutions(("northgate", "harbor"))
        for name in ("northgate", "harbor"):
            service.ingest(name, directory(name))
        Feeder(service, lanes("northgate", (person,))).run()
        Feeder(service, lanes("harbor", (person, stranger))).run()
        service.order("/links", {"rows": [row for row in links((person,)) if row["institution"] != "cedar"]})
        patient, agent = service.enrol(patient_at(person, "northgate"))
        kind = {"system": "http://hl7.org/fhir/resource-types", "code": "Condition"}
        body = consent(patient, ids["northgate"], deny={"class": [kind]})
        service.http.post("/fhir/Consent", headers=agent, json=body).raise_for_status()
        own = service.token("harbor")
        local = {name: patient_at(name, "harbor").local_id for name in _TENANT}
        hidden = json.loads(service.get(f"Patient/{local[stranger]}", own).content)["id"]
        yield Stage(
            service,
            service.token("northgate", practitioner="dr-a"),
            str(hidden),
            _first(service, own, "Observation", local[stranger]),
            patient,
            _first(service, own, "Condition", local[person]),
        )


def _first(service: Service, headers: dict[str, str], type_name: str, patient: str) -> str:
    found = next(service.entries(type_name, headers, patient=patient, _count="1"))
    return str(json.loads(found)["id"])


def main() -> int:
    """Measure; exit with 1 if a claim does not stand."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    results = measure(options.pairs, [each for each in options.only.split(",") if each])
    failed = False
    for name, figures in results.items():
        print(name, ", ".join(f"{key}={value}" for key, value in figures.items()))
        failed |= figures["claimed"] != "no" and abs(float(str(figures["t"]))) >= LIMIT
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
