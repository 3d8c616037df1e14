"""Ingest over real HTTP into a real service: by the embedded bus, and by ``POST /fhir``."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.gauge import cpu_of, percentile, sync_calls, tree
from tests.bench.wire import Answer, Connect, ask, entry_count, over_socket, over_tcp, post_all
from tests.support.hospitals import FOLDER, Lane, directory
from tests.support.kafka_broker import KafkaBroker
from tests.support.kafka_sending import produce
from tests.support.service import FHIR_JSON, Service, running

IN_FLIGHT = 24
FEED = "northgate"
_WARM_UP = 8
_HEADERS = {"Content-Type": FHIR_JSON}

Figures = dict[str, float | int | str | None]


@dataclass(frozen=True, slots=True)
class Fed:
    """A service that has taken its directory, with how to reach it and what to send."""

    service: Service
    control: Connect
    public: Connect
    messages: list[bytes]
    pid: int


def server_pid(service: Service) -> int:
    """Return the process that listens on the control socket, as the kernel knows it."""
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(str(service.data / "control.sock"))
        raw = asked.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[0])


def messages(limit: int | None) -> list[bytes]:
    """Return northgate's transactions, one an encounter, in the order of its file."""
    return gzip.decompress((FOLDER / FEED / "events.ndjson.gz").read_bytes()).splitlines()[:limit]


@contextmanager
def fed(limit: int | None) -> Iterator[Fed]:
    """Start a service on an empty data directory, workers warm, directory loaded."""
    with TemporaryDirectory(prefix="fhir-bridge-bench-") as folder, running(Path(folder) / "data") as service:
        service.add_institutions([FEED])
        control = over_socket(service.data / "control.sock")
        place = Fed(service, control, over_tcp(service.port), messages(limit), server_pid(service))
        post_all(control, _ingest(), _HEADERS, [directory(FEED)] * _WARM_UP, in_flight=_WARM_UP)
        yield place


def by_spool(limit: int | None) -> Figures:
    """Feed everything through the embedded bus; each message is answered when it is anchored."""
    with fed(limit) as place:
        with cpu_of(place.pid) as cpu:
            answers = post_all(place.control, _ingest(), _HEADERS, place.messages, in_flight=IN_FLIGHT)
        taken = entry_count(answers)
        memory = tree(place.pid)
        stored = place.service.ask("/status")["counters"]["stored"]
        place.service.stop()
        sizes = _sizes(place.service.data)
    return (
        _rates(taken, cpu.wall_s, answers)
        | {
            "cpu_ms_per_resource_main": round(cpu.main_s / taken * 1000, 3),
            "cpu_ms_per_resource_workers": round(cpu.workers_s / taken * 1000, 3),
            "resident_main_mib": memory[place.pid].resident >> 20,
            "peak_main_mib": memory[place.pid].peak >> 20,
            "peak_all_mib": sum(each.peak for each in memory.values()) >> 20,
            "stored": stored,
        }
        | {f"bytes_per_resource_{name}": round(size / stored) for name, size in sizes.items()}
    )


def by_http(limit: int | None) -> Figures:
    """Post every transaction to ``/fhir``."""
    with fed(limit) as place:
        headers = _HEADERS | place.service.token(FEED)
        with cpu_of(place.pid) as cpu:
            answers = post_all(place.public, "/fhir", headers, place.messages, in_flight=IN_FLIGHT)
        taken = sum(answer.body.count(b'"response"') for answer in answers)
    return _rates(taken, cpu.wall_s, answers) | {"cpu_ms_per_resource": round(cpu.total_s / taken * 1000, 3)}


def by_kafka(limit: int | None) -> Figures:
    """Let everything wait on a broker's topic, keyed by patient, then time from the first read to the last anchor."""
    with TemporaryDirectory(prefix="fhir-bridge-bench-") as folder:
        data, sent = Path(folder) / "data", messages(limit)
        with running(data) as service:
            service.add_institutions([FEED])
            service.ingest(FEED, directory(FEED))
        broker = KafkaBroker(Path(folder) / "kafka")
        broker.start()
        try:
            lanes_ = [Lane(FEED, str(number % 24), (body,)) for number, body in enumerate(sent)]
            with running(data, kafka=broker.bootstrap) as service:
                pid, before = server_pid(service), _stored(service)
                wanted = sum(body.count(b'"request"') for body in sent)
                with cpu_of(pid) as cpu:
                    asyncio.run(produce(broker.bootstrap, lanes_))
                    while service.ask("/status")["counters"]["messages"] < len(sent):
                        time.sleep(0.1)
                stored = _stored(service) - before
        finally:
            broker.stop()
    return {
        "resources": wanted,
        "stored": stored,
        "seconds": round(cpu.wall_s, 2),
        "resources_per_s": round(wanted / cpu.wall_s),
        "cpu_ms_per_resource": round(cpu.total_s / wanted * 1000, 3),
    }


def _stored(service: Service) -> int:
    return int(service.ask("/status")["counters"]["stored"])


def at_a_rate(resources_per_s: float, limit: int) -> Figures:
    """Send at a fixed rate below what the service can do: how long from arrival to visible?"""
    with fed(limit) as place:
        size = sum(message.count(b'"request"') for message in place.messages) / len(place.messages)
        rate = resources_per_s / size
        answers = post_all(place.control, _ingest(), _HEADERS, place.messages, in_flight=IN_FLIGHT * 2, per_s=rate)
    figures = _rates(entry_count(answers), len(answers) / rate, answers)
    return figures | {"offered_resources_per_s": round(resources_per_s)}


def single_posts(count: int) -> Figures:
    """Create one Observation after the other, each answered when it is durable and anchored."""
    with fed(60) as place:
        post_all(place.control, _ingest(), _HEADERS, place.messages, in_flight=IN_FLIGHT)
        bodies = _observations(count)
        headers = _HEADERS | place.service.token(FEED)
        connection = place.public()
        ask(connection, "POST", "/fhir/Observation", headers, bodies[0])
        with cpu_of(place.pid) as cpu:
            taken = [ask(connection, "POST", "/fhir/Observation", headers, body).seconds for body in bodies[1:]]
    return {
        "posts": len(taken),
        "p50_ms": round(percentile(taken, 0.5) * 1000, 1),
        "p99_ms": round(percentile(taken, 0.99) * 1000, 1),
        "cpu_ms": round(cpu.total_s / len(taken) * 1000, 1),
    }


def sync_counts(limit: int) -> Figures:
    """Count fsync and fdatasync under the same load, in a run of its own; and for single posts."""
    with fed(limit) as place:
        answers: list[Answer] = []

        def feed() -> None:
            answers.extend(post_all(place.control, _ingest(), _HEADERS, place.messages, in_flight=IN_FLIGHT))

        calls = sync_calls(place.pid, feed)
        posts = _observations(20)
        headers = _HEADERS | place.service.token(FEED)

        def post() -> None:
            post_all(place.public, "/fhir/Observation", headers, posts, in_flight=1)

        single = sync_calls(place.pid, post)
    if calls is None or single is None:
        return {"how": "not counted: strace is missing or may not attach"}
    return {
        "how": "strace attached to all processes, runs apart from those that are timed",
        "fsync_per_1000_resources": round(calls["fsync"] / entry_count(answers) * 1000, 1),
        "fdatasync_per_1000_resources": round(calls["fdatasync"] / entry_count(answers) * 1000, 1),
        "fsync_per_single_post": round(single["fsync"] / len(posts), 2),
        "fdatasync_per_single_post": round(single["fdatasync"] / len(posts), 2),
    }


def _ingest() -> str:
    return f"/ingest?institution={FEED}"


def _rates(taken: int, wall_s: float, answers: list[Answer]) -> Figures:
    times = [answer.seconds for answer in answers]
    return {
        "resources": taken,
        "seconds": round(wall_s, 2),
        "resources_per_s": round(taken / wall_s),
        "message_p50_ms": round(percentile(times, 0.5) * 1000, 1),
        "message_p99_ms": round(percentile(times, 0.99) * 1000, 1),
    }


def _observations(count: int) -> list[bytes]:
    """Return Observations that differ, made of one that the hospital sent."""
    entries = (entry["resource"] for message in messages(None) for entry in json.loads(message)["entry"])
    model = next(each for each in entries if each["resourceType"] == "Observation" and "valueQuantity" in each)
    model.pop("id")
    model.pop("encounter", None)
    return [
        json.dumps(model | {"note": [{"text": f"measurement {number} of {time.time_ns()}"}]}).encode()
        for number in range(count)
    ]


def _sizes(data: Path) -> dict[str, int]:
    """Return bytes on disk after the service has ended, by part."""
    parts = {"vault": "vault.db*", "ledger": "ledger/*", "keys": "keys/*", "spool": "spool.db*"}
    sizes = {
        name: sum(file.stat().st_size for file in data.glob(pattern) if file.is_file())
        for name, pattern in parts.items()
    }
    return sizes | {"all": sum(sizes.values())}
