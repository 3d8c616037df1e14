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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from statistics import fmean, median, variance
from typing import Any

from tests.bench.feeding import Figures
from tests.support.hospitals import Patient
from tests.support.service import Service, consent, running

LIMIT = 4.5
PAIRS = 20_000
_CROPS = (1.0, 0.99, 0.95, 0.9, 0.75)
"""Shares of all answers that are kept, the quickest first."""
_WARM = 1_000
_OTHER_VERSION = "aaaabbbbccccddddeeee"
_ASKER, _HOLDERS = "northgate", ("harbor", "cedar")
_PEOPLE = 80
"""So many people are asked about; every other one of them is a patient of both holders."""
_CONDITIONS = {"class": [{"system": "http://hl7.org/fhir/resource-types", "code": "Condition"}]}


@dataclass(frozen=True, slots=True)
class Interaction:
    """Two paths that must not be told apart, and whether that is claimed or only measured."""

    name: str
    hidden: Callable[[], str]
    absent: Callable[[], str]
    is_claimed: bool


@dataclass(frozen=True, slots=True)
class Stage:
    """A running service, and charts of one kind that somebody asks about.

    Attributes:
        patients: Canonical ids of the charts' patients.
        observations, conditions: One of each chart.
    """

    service: Service
    patients: Sequence[str]
    observations: Sequence[str]
    conditions: Sequence[str]

    def token(self) -> dict[str, str]:
        """Return headers of the one who asks, good for five minutes."""
        return self.service.token(_ASKER, practitioner="dr-a")


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
    figures: dict[str, Figures] = {}
    for is_open, interactions in ((False, _of_hidden_charts), (True, _of_open_charts)):
        with tempfile.TemporaryDirectory() as folder, _staged(Path(folder), is_open) as stage:
            chosen = [each for each in interactions(stage) if not only or each.name in only]
            figures |= {f"timing_{each.name}": _compare(stage, each, pairs) for each in chosen}
    return figures


class _Ids:
    """Draws ids of what is hidden, and ids that nobody has.

    Hidden ids are drawn from all charts: what stands in for an id nobody used is drawn from them as well. So both
    classes hold linked charts and single ones, and what is compared is what an attacker compares: whether the time
    of an answer says from which of the two classes an id is.
    """

    def __init__(self) -> None:
        self._chance = random.Random(7)

    def pair(self, name: str, path: str, hidden: Sequence[str]) -> Interaction:
        return Interaction(
            name, lambda: path.format(self._chance.choice(hidden)), lambda: path.format(self._unused()), True
        )

    def _unused(self) -> str:
        return "".join(self._chance.choices("abcdefghijklmnopqrstuvwxyz234567", k=32))


def _of_hidden_charts(stage: Stage) -> list[Interaction]:
    pair = _Ids().pair
    return [
        pair("read_of_hidden_chart", "Observation/{}", stage.observations),
        pair("vread_of_hidden_chart", f"Observation/{{}}/_history/{_OTHER_VERSION}", stage.observations),
        pair("history_of_hidden_chart", "Observation/{}/_history", stage.observations),
        pair("provenance_of_hidden_chart", f"Provenance/{{}}-{_OTHER_VERSION}", stage.observations),
        pair("everything_of_hidden_chart", "Patient/{}/$everything", stage.patients),
        pair("search_of_hidden_chart", "Observation?patient={}", stage.patients),
    ]


def _of_open_charts(stage: Stage) -> list[Interaction]:
    chance = random.Random(8)

    def search(type_name: str) -> Callable[[], str]:
        return lambda: f"{type_name}?patient={chance.choice(stage.patients)}"

    return [
        _Ids().pair("read_in_open_chart", "Condition/{}", stage.conditions),
        Interaction("search_in_open_chart", search("Condition"), search("Flag"), False),
    ]


def _compare(stage: Stage, interaction: Interaction, pairs: int) -> Figures:
    chance = random.Random(1)
    samples: dict[bool, list[int]] = {True: [], False: []}
    lengths: dict[bool, set[tuple[int, int]]] = {True: set(), False: set()}
    connection = HTTPConnection("127.0.0.1", stage.service.port, timeout=60)
    headers, renewed = stage.token(), time.monotonic()
    for number in range(-_WARM, pairs):
        if time.monotonic() - renewed > 200:  # a token lasts five minutes
            headers, renewed = stage.token(), time.monotonic()
        order = (True, False) if chance.random() < 0.5 else (False, True)
        for is_hidden in order:
            path = (interaction.hidden if is_hidden else interaction.absent)()
            begin = time.perf_counter_ns()
            connection.request("GET", f"/fhir/{path}", headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            taken = time.perf_counter_ns() - begin
            if answer.status not in (200, 404):
                raise AssertionError(f"{interaction.name}: answered {answer.status}, so nothing is compared")
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
def _staged(folder: Path, is_open: bool) -> Iterator[Stage]:
    """Run a service with people of whom everything is hidden from the asker, or (``is_open``) their conditions."""
    with running(folder / "data", FHIR_BRIDGE_INGEST_WORKERS="0") as service:
        ids = service.add_institutions((_ASKER, *_HOLDERS))
        people = [f"person-{number}" for number in range(_PEOPLE)]
        held = [(holder, name) for at, name in enumerate(people) for holder in _HOLDERS[: 1 + at % 2]]
        for holder, name in held:
            service.ingest(holder, _chart(name))
        rows = [{"person": name, "institution": holder, "patient": name} for holder, name in held]
        service.order("/links", {"rows": rows})
        permitted = ids[_ASKER] if is_open else ids[_HOLDERS[1]]
        for name in people:
            _sign(service, name, permitted, deny=_CONDITIONS if is_open else None)
        yield Stage(
            service,
            [service.ask("/patients/resolve", patient=name, institution=holder)["patient"] for holder, name in held],
            *(
                [_ids(service, holder, each, name)[0] for holder, name in held]
                for each in ("Observation", "Condition")
            ),
        )


def _chart(name: str) -> bytes:
    """Return a transaction of a Patient, eight Observations and four Conditions."""
    subject = {"subject": {"reference": f"Patient/{name}"}, "code": {"text": "something"}}
    records: list[dict[str, Any]] = [{"resourceType": "Patient", "id": name}]
    records += [{"resourceType": "Observation", "id": f"{name}-o{n}", "status": "final", **subject} for n in range(8)]
    records += [{"resourceType": "Condition", "id": f"{name}-c{n}", **subject} for n in range(4)]
    entries = [
        {"resource": each, "request": {"method": "PUT", "url": f"{each['resourceType']}/{each['id']}"}}
        for each in records
    ]
    return json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries}).encode()


def _sign(service: Service, name: str, institution: str, deny: Mapping[str, Any] | None) -> None:
    """Let a patient permit an institution everything but ``deny``."""
    patient, agent = service.enrol(Patient("bench", _HOLDERS[0], name, "", ""))
    body = consent(patient, institution, deny=deny)
    service.http.post("/fhir/Consent", headers=agent, json=body).raise_for_status()


def _ids(service: Service, holder: str, type_name: str, patient: str) -> list[str]:
    found = service.entries(type_name, service.token(holder), patient=patient)
    return [str(json.loads(each)["id"]) for each in found]


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
