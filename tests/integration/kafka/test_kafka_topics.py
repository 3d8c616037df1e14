"""Topics that others look after: deleted, made anew, not there, made by brokers that make topics by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient  # type: ignore[import-untyped]

from fhir_bridge.adapters import kafka_watch
from fhir_bridge.adapters.kafka import KafkaBus
from fhir_bridge.errors import Unavailable
from fhir_bridge.model.ingest import Position
from tests.support.kafka_broker import KafkaBroker
from tests.support.kafka_reading import put_until_held, read, start_at_last

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]
MakeBus = Callable[..., KafkaBus]


@pytest.fixture
async def admin(broker: KafkaBroker) -> AsyncIterator[AIOKafkaAdminClient]:
    opened = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await opened.start()
    yield opened
    await opened.close()


async def delete(admin: AIOKafkaAdminClient, topic: str) -> None:
    """Delete a topic, and wait until the broker knows it no more."""
    await admin.delete_topics([topic])
    async with asyncio.timeout(60):
        while topic in await admin.list_topics():
            await asyncio.sleep(0.1)


async def until_halted(bus: KafkaBus) -> Position:
    async with asyncio.timeout(60):
        while not bus.halted():
            await bus.take(max_messages=10, max_bytes=1 << 20, wait_ms=100)
    (halted,) = bus.halted()
    return halted


async def test_a_topic_made_anew_is_halted_however_much_it_holds_by_now(
    broker: KafkaBroker, admin: AIOKafkaAdminClient, institution: str, make_bus: MakeBus
) -> None:
    """Offset 3 is there again, behind three messages that nobody has read."""
    topic = f"fhir.{institution}.in"
    first = make_bus(broker, partitions=1)
    await first.start([institution], [])
    for number in range(3):
        await first.put(institution, b"old %d" % number)
    await read(first, 3)
    stored, origins = [Position("kafka", topic, 0, 3)], dict(first.origins())
    await first.close()
    await delete(admin, topic)
    again = make_bus(broker, partitions=1)
    for number in range(5):
        await again.put(institution, b"new %d" % number)
    await again.start([institution], stored, origins)
    halted = await until_halted(again)
    assert (halted.stream, halted.offset) == (topic, 3)
    assert await again.lag() == {institution: 5}
    assert again.origins() == origins, "a restart must halt there as well"
    oldest = await again.oldest(halted)
    await again.go_on(oldest)
    assert [m.value for m in await read(again, 5)] == [b"new %d" % number for number in range(5)]
    assert again.origins() != origins
    later = make_bus(broker, partitions=1)
    await later.start([institution], [Position("kafka", topic, 0, 5)], again.origins())
    await later.put(institution, b"goes on")
    assert [m.value for m in await read(later, 1)] == [b"goes on"]


async def test_a_topic_made_anew_before_anything_was_taken_of_it_is_read(
    broker: KafkaBroker, admin: AIOKafkaAdminClient, institution: str, make_bus: MakeBus
) -> None:
    first = make_bus(broker, partitions=1)
    await first.start([institution], [])
    origins = dict(first.origins())
    await first.close()
    await delete(admin, f"fhir.{institution}.in")
    again = make_bus(broker, partitions=1)
    await again.start([institution], [], origins)
    await again.put(institution, b"a")
    assert [m.value for m in await read(again, 1)] == [b"a"]


async def test_a_deleted_topic_keeps_no_other_from_being_read(
    broker: KafkaBroker,
    admin: AIOKafkaAdminClient,
    institution: str,
    make_bus: MakeBus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kafka_watch, "STILL_S", 0.3)
    other = f"{institution}-next"
    bus = make_bus(broker, partitions=1, refresh_s=0.2)
    await bus.start([institution, other], [])
    for name in (institution, other):
        await bus.put(name, b"a")
    await read(bus, 2)
    await delete(admin, f"fhir.{institution}.in")
    came: list[bytes] = []
    async with asyncio.timeout(60):
        while not bus.unread() or len(came) < 8:
            await bus.put(other, b"flows")
            came += [m.value for m in await bus.take(max_messages=1, max_bytes=1 << 20, wait_ms=500)]
    assert bus.unread() == {f"fhir.{institution}.in": "UnknownTopicOrPartitionError"}
    assert (await bus.lag()).keys() == {institution, other}
    # Made again by its owner: told, not read on as if nothing had happened.
    again = make_bus(broker, partitions=1)
    await again.put(institution, b"new")
    assert (await until_halted(bus)).offset == 1
    assert bus.unread() == {}


async def test_an_institution_that_joined_while_the_broker_was_away_is_read_afterwards(
    tmp_path: Path, institution: str, make_bus: MakeBus
) -> None:
    """On a broker that makes what is asked for, as Kafka's default is: yet topics get what the settings say."""
    broker = KafkaBroker(tmp_path / "kafka", **{"auto.create.topics.enable": "true"})
    broker.start()
    try:
        bus = make_bus(broker, partitions=4, request_timeout_ms=2000)
        await start_at_last(bus, "first")
        assert len(bus.origins()) == 4
        broker.kill()
        with pytest.raises(Unavailable):
            await bus.subscribe(institution)
        await asyncio.to_thread(broker.start)
        await put_until_held(make_bus(broker), institution, b"a")
        assert [m.value for m in await read(bus, 1)] == [b"a"]
    finally:
        await bus.close()
        broker.stop()
