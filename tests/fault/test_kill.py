"""kill -9 in the middle of an ingest, twenty times: nothing lost, nothing doubled, everything provable.

The killed run and a calm one start from the same keys, so their plain text can
be compared item by item: records, versions, index rows and dead letters.
Each kill finds messages that the bus holds and the vault does not. The moments
are random; the seed is in the failure message. ``SOAK_ROUNDS=20`` repeats the
whole, with another seed each time.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fhir_bridge.lines.checking import Finding
from fhir_bridge.wiring import check
from tests.support.hospitals import BROKEN, EIGHT, VERSIONS, Lane, directory, lanes
from tests.support.kafka_broker import KafkaBroker
from tests.support.kafka_sending import produce
from tests.support.service import Feeder, Service, running
from tests.support.state import State, autopsy, committed, digest_of, read_state, spooled, verify_every_receipt

KILLS = 20
AHEAD = 12
"""Messages that a topic may hold beyond what is committed; fewer than are left at the last kill."""
STILLBORN = 0.2
"""Share of the lives that are ended while they start, perhaps while they recover."""
ROUNDS = int(os.environ.get("SOAK_ROUNDS", "1"))
FINISH_LIMIT_S = 900.0
# Small groups: many commits, so that a kill can fall between, before and inside them.
# And index segments are merged all the while.
SETTINGS = {
    "FHIR_BRIDGE_INGEST_GROUP_MAX_MESSAGES": "8",
    "FHIR_BRIDGE_INGEST_GROUP_MAX_BYTES": "65536",
    "FHIR_BRIDGE_INDEX_MERGE_AT": "3",
}
FAULTY = ("bad-gender.json", "json-truncated.json", "bundle-atomic.json", "unknown-nested.json", "type-missing.json")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2_400)]


def feed() -> list[Lane]:
    """Eight people at three hospitals, and messages that must become dead letters."""
    faulty = [Lane("northgate", name, ((BROKEN / name).read_bytes(),)) for name in FAULTY]
    return [lane for name in VERSIONS for lane in lanes(name, EIGHT)] + faulty


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with three hospitals and their directories, before any patient.

    The dead letter makes northgate's key for ids of letters, so that both runs share it.
    """
    data = tmp_path_factory.mktemp("kill") / "seed"
    with running(data) as service:
        service.add_institutions()
        for name in VERSIONS:
            service.ingest(name, directory(name))
        service.ingest("northgate", (BROKEN / "type-number.json").read_bytes())
    return data


@pytest.fixture(scope="module")
def calm(seed: Path) -> State:
    """What an undisturbed run over the embedded bus comes to."""
    data = seed.with_name("calm")
    shutil.copytree(seed, data)
    with running(data, **SETTINGS) as service:
        Feeder(service, feed()).run()
    state = read_state(data)
    assert sum(state.records.values()) > 6_957
    assert len(state.letters) == len(FAULTY) + 1
    return state


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    started = KafkaBroker(tmp_path_factory.mktemp("kafka"), **{"message.max.bytes": str(16 << 20)})
    started.start()
    yield started
    started.stop()


class Killer:
    """Kills and restarts a service at random moments, each while the bus holds what the vault does not."""

    def __init__(self, service: Service, bus: str, given: Callable[[Path], int], total: int) -> None:
        self._service = service
        self._bus = bus
        self._given = given
        self._total = total
        self._random = random.Random(time.time_ns())
        self.number = self._random.randrange(1 << 32)
        self._random.seed(self.number)
        self.kills = 0
        self.is_dead = threading.Lock()
        """Held while nobody may look at the files of a killed service: see ``autopsy``."""
        self.uncommitted: list[int] = []

    def run(self) -> None:
        """Kill ``KILLS`` times, some lives before they serve; the last life is left to finish."""
        while self.kills < KILLS:
            if self._random.random() < STILLBORN:
                time.sleep(self._random.uniform(0.0, 3.0))
            else:
                # Not only once it serves: what waits on a bus is read before, and by a quick machine read up.
                self._wait_for_progress()
            with self.is_dead:
                self._service.kill()
                with autopsy(self._service.data) as body:
                    waiting = self._given(body) - committed(body, self._bus)
                self._service.launch()
            if waiting > 0:
                self.kills += 1
                self.uncommitted.append(waiting)

    def _wait_for_progress(self) -> None:
        """Let a life commit its share of the work, and then a random moment pass."""
        share = self._total * self.kills // (KILLS + 2)
        deadline = time.monotonic() + FINISH_LIMIT_S
        while committed(self._service.data, self._bus) < share or self._is_idle():
            assert time.monotonic() < deadline, f"no progress; seed {self.number}; {self._service.log_tail()}"
            assert self._service.is_running, f"ended by itself; seed {self.number}; {self._service.log_tail()}"
            time.sleep(0.005)
        time.sleep(self._random.choice((0.0, 0.01, 0.05, 0.2)) * self._random.random())

    def _is_idle(self) -> bool:
        return self._given(self._service.data) == committed(self._service.data, self._bus)


async def judge(data: Path, calm: State, killer: Killer) -> None:
    """The same final state, a clean fsck, and every receipt good."""
    told = f"seed {killer.number}, uncommitted at the kills: {killer.uncommitted}"
    assert len(killer.uncommitted) == KILLS, told
    state = read_state(data)
    assert state.lost(calm) == set(), told
    assert state.doubled(calm) == set(), told
    assert state.histories == calm.histories, told
    assert state.letters == calm.letters, told
    assert await digest_of(data) == await digest_of(data.with_name("calm")), told
    assert [found for found in check(data, deep=True) if isinstance(found, Finding)] == [], told
    assert await verify_every_receipt(data) == sum(calm.records.values()), told


@pytest.mark.parametrize("round_", range(ROUNDS))
async def test_kills_over_the_embedded_bus_change_nothing(seed: Path, calm: State, round_: int) -> None:
    data = seed.with_name(f"killed-{round_}")
    shutil.copytree(seed, data)
    service = Service(data, **SETTINGS)
    feeder = Feeder(service, feed())
    try:
        service.start()
        before = spooled(data)
        killer = Killer(service, "spool", spooled, before + feeder.total)
        sending = threading.Thread(target=feeder.run)
        sending.start()
        killer.run()
        sending.join(FINISH_LIMIT_S)
        assert not sending.is_alive(), f"seed {killer.number}: {service.log_tail()}"
        assert len(feeder.answered) == feeder.total
        service.stop()
        await judge(data, calm, killer)
    finally:
        feeder.abandon()
        service.close()


@pytest.mark.kafka
@pytest.mark.parametrize("round_", range(ROUNDS))
async def test_kills_over_kafka_change_nothing(seed: Path, calm: State, broker: KafkaBroker, round_: int) -> None:
    data = seed.with_name(f"killed-kafka-{round_}")
    shutil.copytree(seed, data)
    bus = f"kafka://{broker.bootstrap}?prefix=round{round_}"
    service = Service(data, kafka=bus, **SETTINGS)
    try:
        service.start()
        total = sum(len(lane.messages) for lane in feed())
        # Sent as they are taken, so that a quick life does not read the topic up before it is killed.
        sent = 0

        def is_little_ahead(count: int) -> bool:
            nonlocal sent
            sent = count
            if not killer.is_dead.acquire(blocking=False):
                return False
            try:
                return count - committed(data, "kafka") < AHEAD
            finally:
                killer.is_dead.release()

        killer = Killer(service, "kafka", lambda _: sent, total)
        sending = asyncio.create_task(
            produce(broker.bootstrap, feed(), prefix=f"round{round_}", may_send=is_little_ahead)
        )
        await asyncio.to_thread(killer.run)
        assert await sending == total
        deadline = time.monotonic() + FINISH_LIMIT_S
        while committed(data, "kafka") < total:
            assert time.monotonic() < deadline, f"seed {killer.number}: {service.log_tail()}"
            time.sleep(0.1)
        service.wait_ready()
        service.stop()
        assert committed(data, "kafka") == total, "each message is counted once"
        await judge(data, calm, killer)
    finally:
        service.close()
