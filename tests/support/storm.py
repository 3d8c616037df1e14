"""A long stream of single records from the hospitals' data, and faults that come while it is taken in.

Patients are sent again under other ids until there are enough records. Of all
records 30 % are resent ones; what is in one lane keeps its order, lanes overtake
each other at random.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped]
from aiokafka.errors import KafkaError  # type: ignore[import-untyped]

from tests.support.copies import Named, copy_of
from tests.support.hospitals import Lane, lanes
from tests.support.service import Service
from tests.support.state import committed

HOSPITAL = "northgate"
DUPLICATES = 0.3
"""Share of all records that were sent before."""
_UNACKNOWLEDGED = 2_000


def limit_s(count: int) -> float:
    """Return how many seconds sending or taking in so many records may last on a busy machine."""
    return 1_800 + count / 100


def stream(count: int, chance: random.Random) -> list[Lane]:
    """Return lanes of single resources, ``count`` in all."""
    made: list[Lane] = []
    left = count
    for copy in itertools.count():
        for lane in lanes(HOSPITAL):
            key, messages = copy_of(lane, copy)
            sent = list(_with_duplicates(messages, chance))[:left]
            made.append(Lane(HOSPITAL, key, tuple(sent)))
            left -= len(sent)
            if not left:
                return made
    raise AssertionError


def names(sent: Sequence[Lane]) -> set[tuple[str, str]]:
    """Return type and local id of everything sent."""
    named = (Named.of(message) for lane in sent for message in lane.messages)
    return {(each.type, each.id) for each in named}


def _with_duplicates(messages: Sequence[bytes], chance: random.Random) -> Iterator[bytes]:
    for at, message in enumerate(messages):
        yield message
        while chance.random() < DUPLICATES:
            yield messages[chance.randrange(at + 1)]


async def produce(bootstrap: str, topic: str, sent: Sequence[Lane], chance: random.Random) -> None:
    """Send all, through losses of brokers; what was not acknowledged is sent again, with what came after it."""
    queues = [deque((lane.key.encode(), message) for message in lane.messages) for lane in sent]
    order: list[tuple[bytes, bytes]] = []
    while queues:
        queue = chance.choice(queues[:40])
        order.append(queue.popleft())
        if not queue:
            queues.remove(queue)
    done, deadline = 0, time.monotonic() + limit_s(len(order))
    while done < len(order):
        assert time.monotonic() < deadline, f"{done} of {len(order)} sent"
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, acks="all")
        try:
            await producer.start()
            waiting: deque[asyncio.Future[object]] = deque()
            for key, message in order[done:]:
                waiting.append(await producer.send(topic, message, key=key))
                while len(waiting) >= _UNACKNOWLEDGED:
                    await waiting[0]
                    waiting.popleft()
                    done += 1
            while waiting:
                await waiting[0]
                waiting.popleft()
                done += 1
        except KafkaError:
            await asyncio.sleep(0.5)
        finally:
            await producer.stop()


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens once this share of the stream is committed."""

    share: float
    happen: Callable[[], None]


class Storm:
    """Kills pure rooms and the service, a moment chosen by progress each, until the whole stream is taken in."""

    def __init__(self, service: Service, total: int, chance: random.Random) -> None:
        self._service = service
        self._total = total
        self._chance = chance
        self.rooms_killed = self.services_killed = 0

    def rage(self, faults: Sequence[Fault]) -> None:
        """Let each fault happen when its share is reached."""
        for fault in sorted(faults, key=lambda each: each.share):
            self.wait(int(fault.share * self._total))
            fault.happen()

    def wait(self, wanted: int) -> None:
        """Wait until so many records are committed."""
        deadline = time.monotonic() + limit_s(self._total)
        while (found := committed(self._service.data, "kafka")) < wanted:
            assert time.monotonic() < deadline, f"{found} of {wanted}: {self._service.log_tail()}"
            assert self._service.is_running, f"ended by itself: {self._service.log_tail()}"
            time.sleep(0.02)

    def kill_room(self) -> None:
        """Kill one worker process; a service that has just begun is given time to have one, while there is work."""
        deadline = time.monotonic() + limit_s(self._total)
        while committed(self._service.data, "kafka") < self._total:
            if rooms := _rooms(self._service.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._chance.choice(rooms), signal.SIGKILL)
                    self.rooms_killed += 1
                return
            assert time.monotonic() < deadline, f"no worker: {self._service.log_tail()}"
            assert self._service.is_running, f"ended by itself: {self._service.log_tail()}"
            time.sleep(0.02)

    def kill_service(self) -> None:
        """Kill the service and start it with another number of worker processes."""
        self._service.kill()
        self._service.launch(FHIR_BRIDGE_INGEST_WORKERS=str(self._chance.randrange(1, 4)))
        self.services_killed += 1


def _rooms(pid: int) -> list[int]:
    """Return the worker processes of a service."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            command = Path(f"/proc/{child}/cmdline")
            if command.exists() and b"spawn_main" in command.read_bytes():
                found.append(child)
    return found
