"""A long stream by Kafka while brokers, worker processes and the service are killed: it ends like a quiet one.

``STORM_RECORDS`` says how many records; 50,000 take five minutes. Both runs read the same
topic from its beginning, from the same keys, so that what they come to can be
compared item by item.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import threading
import time
from collections.abc import Collection
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition  # type: ignore[import-untyped]

from fhir_bridge.lines.checking import Finding
from fhir_bridge.wiring import check
from tests.support.hospitals import BROKEN, directory
from tests.support.kafka_broker import KafkaBroker
from tests.support.kafka_cluster import kafka_cluster
from tests.support.service import Service, running
from tests.support.state import State, digest_of, read_state
from tests.support.storm import HOSPITAL, Fault, Storm, limit_s, names, produce, stream

RECORDS = int(os.environ.get("STORM_RECORDS", "50000"))
ROOMS_KILLED, SERVICES_KILLED = 20, 4
TOPIC = f"fhir.{HOSPITAL}.in"

pytestmark = [pytest.mark.slow, pytest.mark.kafka, pytest.mark.timeout(7_200 + RECORDS // 25)]


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    """A data directory with the hospital and its directory, before any patient.

    The dead letter makes the key for ids of letters, so that both runs share it.
    """
    data = tmp_path / "seed"
    with running(data) as service:
        service.add_institutions([HOSPITAL])
        service.ingest(HOSPITAL, directory(HOSPITAL))
        service.ingest(HOSPITAL, (BROKEN / "type-number.json").read_bytes())
    return data


async def test_a_storm_ends_like_a_calm(seed: Path, tmp_path: Path) -> None:
    number = time.time_ns() % (1 << 32)
    chance = random.Random(number)
    sent = stream(RECORDS, chance)
    stormy, calm = tmp_path / "stormy", tmp_path / "calm"
    for data in (stormy, calm):
        shutil.copytree(seed, data)
    with kafka_cluster(tmp_path / "kafka") as cluster:
        url = f"kafka://{cluster.bootstrap}?replication_factor=3"
        # So that a backlog is many groups, each sealed while the one before it is written.
        service = Service(stormy, kafka=url, FHIR_BRIDGE_INGEST_GROUP_MAX_MESSAGES="32").start()
        sending = threading.Thread(target=lambda: asyncio.run(produce(cluster.bootstrap, TOPIC, sent, chance)))
        storm = Storm(service, RECORDS, random.Random(number))
        try:
            sending.start()
            storm.rage(_faults(storm, cluster.brokers[1], cluster.brokers[2]))
            sending.join(limit_s(RECORDS))
            assert not sending.is_alive(), number
            total = await _total(cluster.bootstrap)
            storm.wait(total)
            service.wait_ready()
            service.stop()
        finally:
            service.close()
        assert total >= RECORDS
        assert storm.services_killed == SERVICES_KILLED
        assert storm.rooms_killed > ROOMS_KILLED // 4, "else there was no storm"
        quiet = Service(calm, kafka=url).start()
        try:
            Storm(quiet, total, chance).wait(total)
            quiet.stop()
        finally:
            quiet.close()
    one, other = read_state(stormy), read_state(calm)
    assert one.lost(other) == set(), number
    assert one.doubled(other) == set(), number
    assert one.histories == other.histories, number
    assert one.letters == other.letters, number
    assert await digest_of(stormy) == await digest_of(calm), number
    before = read_state(seed)
    taken, set_aside = (len(now) - len(then) for now, then in zip(_parts(one), _parts(before), strict=True))
    assert taken + set_aside == len(names(sent)), number
    assert {reason for _, _, reason, _ in one.letters - before.letters} <= {"quarantined"}, number
    assert [found for found in check(stormy) if isinstance(found, Finding)] == [], number


def _parts(state: State) -> tuple[Collection[object], Collection[object]]:
    return state.histories, state.letters


def _faults(storm: Storm, *brokers: KafkaBroker) -> list[Fault]:
    """Faults over the whole stream; each broker is away for a fifth of it, one after the other."""
    faults = [Fault((at + 0.5) / ROOMS_KILLED, storm.kill_room) for at in range(ROOMS_KILLED)]
    faults += [Fault((at + 0.6) / SERVICES_KILLED, storm.kill_service) for at in range(SERVICES_KILLED)]
    for at, broker in enumerate(brokers):
        begin = 0.15 + 0.4 * at
        faults += [Fault(begin, broker.kill), Fault(begin + 0.2, broker.start)]
    return faults


async def _total(bootstrap: str) -> int:
    """Return how many records the topic holds, resent ones included."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        partitions = [TopicPartition(TOPIC, each) for each in consumer.partitions_for_topic(TOPIC) or ()]
        if not partitions:
            await consumer._client.force_metadata_update()
            partitions = [TopicPartition(TOPIC, each) for each in consumer.partitions_for_topic(TOPIC)]
        return sum((await consumer.end_offsets(partitions)).values())
    finally:
        await consumer.stop()
