"""Bundles of a whole patient, taken in by ours and HAPI in turn: resources a second by one client, four, and Kafka.

Ours validates, normalises, seals, commits durably and anchors before it
answers; HAPI validates nothing. The bundles are one patient's records under
other ids each time, so nothing is sent twice. What ours reads from a Kafka topic
stands beside four clients of HAPI, which reads from none.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import msgspec

from tests.bench.feeding import FEED, Figures, server_pid
from tests.bench.gauge import cpu_of, percentile, tree
from tests.bench.hapi import database_beside_us
from tests.bench.wire import over_tcp, post_all
from tests.support.copies import Named, copy_of
from tests.support.hapi import hapi
from tests.support.hospitals import Lane, directory, lanes
from tests.support.kafka_broker import KafkaBroker
from tests.support.kafka_sending import produce
from tests.support.service import FHIR_JSON, Service, running
from tests.support.state import committed, unanchored

PERSON = "P0022"
"""536 records at northgate."""
CLIENTS = (1, 4)
AIMS = {f"ingest_beside_hapi_{each}.ratio": "5 or more" for each in (*CLIENTS, "kafka")}
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


_Turn = tuple[float, list[float]]
"""Seconds for all of a turn, and for each bundle if each is answered."""
_Way = Callable[[list[bytes]], _Turn]


def ingest_beside_hapi(rounds: int, bundles: int) -> dict[str, Figures]:
    """Measure ``rounds`` turns of ``bundles`` bundles for each way in."""
    with (
        TemporaryDirectory(prefix="fhir-bridge-bench-") as place,
        database_beside_us(Path(place)) as (database, name),
        hapi(Path(place), database=database, heap=_HEAP) as theirs,
    ):
        theirs.wait_ready()
        theirs.load([each["resource"] for each in json.loads(directory(FEED))["entry"]])
        made, found = transactions(), {}
        with _ours(Path(place) / "by-http") as ours:
            for clients in CLIENTS:
                ways = _posting(ours.port, clients, lambda: ours.token(FEED)), _posting(theirs.port, clients)
                found[f"ingest_beside_hapi_{clients}"] = _measured(ours, ways, made, rounds, bundles)
        with _kafka(Path(place)) as broker, _ours(Path(place) / "by-kafka", kafka=broker.bootstrap) as ours:
            ways = _sending(ours, broker), _posting(theirs.port, max(CLIENTS))
            found["ingest_beside_hapi_kafka"] = _measured(ours, ways, made, rounds, bundles)
    return {part: {"database": name, **figures} for part, figures in found.items()}


def _measured(ours: Service, ways: tuple[_Way, _Way], made: Iterator[bytes], rounds: int, bundles: int) -> Figures:
    """Give the same bundles to one way after the other, ours first, after a few untimed ones."""
    for way in ways:
        way(list(itertools.islice(made, 6)))
    walls: tuple[list[float], list[float]] = ([], [])
    times: tuple[list[float], list[float]] = ([], [])
    sizes: list[int] = []
    with cpu_of(server_pid(ours)) as cpu:
        for _ in range(rounds):
            sent = list(itertools.islice(made, bundles))
            sizes.append(sum(len(msgspec.json.decode(each, type=_Transaction).entry) for each in sent))
            for way, wall, each in zip(ways, walls, times, strict=True):
                took, answered = way(sent)
                wall.append(took)
                each += answered
    own, others = (median(size / took for size, took in zip(sizes, wall, strict=True)) for wall in walls)
    figures: Figures = {
        "resources_per_s": round(own),
        "hapi_resources_per_s": round(others),
        "ratio": round(own / others, 2),
        "cpu_us_per_resource": round(cpu.total_s / sum(sizes) * 1e6),
        # The client's share is in it, a broker's, and whatever else ran.
        "cores_not_used_percent": round((1 - cpu.total_s / (sum(walls[0]) * (os.cpu_count() or 1))) * 100),
        "resident_mib": sum(each.resident for each in tree(server_pid(ours)).values()) >> 20,
    }
    for name, answered in zip(("bundle_p95_ms", "hapi_bundle_p95_ms"), times, strict=True):
        figures |= {name: round(percentile(answered, 0.95) * 1000)} if answered else {}
    return figures


@contextmanager
def _ours(data: Path, kafka: str | None = None) -> Iterator[Service]:
    with running(data) as service:
        service.add_institutions([FEED])
        service.ingest(FEED, directory(FEED))
    with running(data, kafka=kafka) as service:
        yield service


@contextmanager
def _kafka(folder: Path) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(folder / "kafka")
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def _posting(port: int, clients: int, token: Callable[[], Mapping[str, str]] = dict) -> _Way:
    def post(sent: list[bytes]) -> _Turn:
        headers = {**_HEADERS, **token()}
        begun = time.perf_counter()
        answers = post_all(over_tcp(port), "/fhir", headers, sent, in_flight=clients)
        return time.perf_counter() - begun, [each.seconds for each in answers]

    return post


def _sending(ours: Service, broker: KafkaBroker) -> _Way:
    """Return what sends each bundle under a key of its own and waits until all are anchored."""
    numbers = itertools.count()

    def send(sent: list[bytes]) -> _Turn:
        lanes_ = [Lane(FEED, str(next(numbers)), (body,)) for body in sent]
        wanted = committed(ours.data, "kafka") + len(sent)
        begun = time.perf_counter()
        asyncio.run(produce(broker.bootstrap, lanes_))
        while committed(ours.data, "kafka") < wanted or unanchored(ours.data):
            time.sleep(0.02)
        return time.perf_counter() - begun, []

    return send


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
