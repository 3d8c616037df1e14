"""Bundles of a whole patient, taken in by ours and by HAPI in turn: resources a second, by one client and by four.

Ours validates, normalises, seals, commits durably and anchors before it
answers; HAPI validates nothing. The bundles are one patient's records under
other ids each time, so nothing is sent twice.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import msgspec

from tests.bench.feeding import FEED, Figures, server_pid
from tests.bench.gauge import cpu_of, percentile, tree
from tests.bench.hapi import database_beside_us
from tests.bench.wire import Answer, over_tcp, post_all
from tests.support.copies import Named, copy_of
from tests.support.hapi import Hapi, hapi
from tests.support.hospitals import directory, lanes
from tests.support.service import FHIR_JSON, Service, running

PERSON = "P0022"
"""536 records at northgate."""
CLIENTS = (1, 4)
AIMS = {f"ingest_beside_hapi_{clients}.ratio": "5 or more" for clients in CLIENTS}
_HEAP = "3g"
_HEADERS = {"Content-Type": FHIR_JSON, "Accept": FHIR_JSON}


class _Request(msgspec.Struct):
    method: str
    url: str


class _Entry(msgspec.Struct, rename="camel"):
    full_url: str
    resource: msgspec.Raw
    request: _Request


class _Transaction(msgspec.Struct, rename="camel"):
    entry: list[_Entry]
    resource_type: str = "Bundle"
    type: str = "transaction"


def ingest_beside_hapi(rounds: int, bundles: int) -> dict[str, Figures]:
    """Measure ``rounds`` turns of ``bundles`` bundles for each number of clients."""
    with (
        TemporaryDirectory(prefix="fhir-bridge-bench-") as place,
        database_beside_us(Path(place)) as (database, name),
    ):
        folder = Path(place)
        with running(folder / "data") as ours, hapi(folder, database=database, heap=_HEAP) as theirs:
            ours.add_institutions([FEED])
            ours.ingest(FEED, directory(FEED))
            theirs.wait_ready()
            theirs.load([each["resource"] for each in json.loads(directory(FEED))["entry"]])
            made = transactions()
            _turn(ours, theirs, list(itertools.islice(made, 6)), 2)
            return {
                f"ingest_beside_hapi_{clients}": {
                    "database": name,
                    **_measured(ours, theirs, made, clients, rounds, bundles),
                }
                for clients in CLIENTS
            }


def _measured(ours: Service, theirs: Hapi, made: Iterator[bytes], clients: int, rounds: int, bundles: int) -> Figures:
    own, others, own_times, others_times = [], [], [], []
    resources, cpu_s, wall_s = 0, 0.0, 0.0
    for _ in range(rounds):
        sent = list(itertools.islice(made, bundles))
        with cpu_of(server_pid(ours)) as cpu:
            (rate, times), (other, other_times) = _turn(ours, theirs, sent, clients)
        resources += _size(sent)
        cpu_s += cpu.total_s
        wall_s += _size(sent) / rate
        own.append(rate)
        others.append(other)
        own_times += times
        others_times += other_times
    return {
        "resources_per_s": round(median(own)),
        "hapi_resources_per_s": round(median(others)),
        "ratio": round(median(own) / median(others), 2),
        "bundle_p95_ms": round(percentile(own_times, 0.95) * 1000),
        "hapi_bundle_p95_ms": round(percentile(others_times, 0.95) * 1000),
        "cpu_us_per_resource": round(cpu_s / resources * 1e6),
        # The client's share is in it, and whatever else ran.
        "cores_not_used_percent": round((1 - cpu_s / (wall_s * (os.cpu_count() or 1))) * 100),
        "resident_mib": sum(each.resident for each in tree(server_pid(ours)).values()) >> 20,
    }


def _turn(
    ours: Service, theirs: Hapi, sent: list[bytes], clients: int
) -> tuple[tuple[float, list[float]], tuple[float, list[float]]]:
    size = _size(sent)

    def timed(port: int, headers: dict[str, str]) -> tuple[float, list[float]]:
        begun = time.perf_counter()
        answers: list[Answer] = post_all(over_tcp(port), "/fhir", headers, sent, in_flight=clients)
        return size / (time.perf_counter() - begun), [each.seconds for each in answers]

    return timed(ours.port, _HEADERS | ours.token(FEED)), timed(theirs.port, _HEADERS)


def _size(sent: list[bytes]) -> int:
    return sum(len(msgspec.json.decode(each, type=_Transaction).entry) for each in sent)


def transactions() -> Iterator[bytes]:
    """Yield transactions of a whole patient's records, each patient under ids of its own."""
    (lane,) = lanes(FEED, [PERSON])
    for number in itertools.count(1):
        _, bodies = copy_of(lane, number)
        newest = {(named.type, named.id): body for body, named in ((body, Named.of(body)) for body in bodies)}
        entries = [
            _Entry(
                f"https://northgate.example.org/fhir/{kind}/{id_}",
                msgspec.Raw(body),
                _Request("PUT", f"{kind}/{id_}"),
            )
            for (kind, id_), body in newest.items()
        ]
        yield msgspec.json.encode(_Transaction(entries))
