"""The Kafka bus against a real broker: order, resumption, sizes, bytes as they are, and a broker that dies."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition  # type: ignore[import-untyped]
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete  # type: ignore[import-untyped]
from aiokafka.errors import KafkaError  # type: ignore[import-untyped]
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy  # type: ignore[import-untyped]

from fhir_bridge.adapters import kafka_watch
from fhir_bridge.adapters.kafka import KafkaBus
from fhir_bridge.adapters.kafka_settings import KafkaSettings
from fhir_bridge.errors import RecordRefused, SetupWrong, Unavailable
from fhir_bridge.model.ingest import Position
from fhir_bridge.ports.bus import Message, Notice
from tests.support.kafka_broker import KafkaBroker
from tests.support.kafka_reading import put_until_held, read, start_at_last

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]
MakeBus = Callable[..., KafkaBus]
AWAY_MS = 4_000
"""How long a bus waits for a broker that the test has ended."""


def next_positions(messages: list[Message]) -> list[Position]:
    """What the vault would have stored after these messages: the next offset of each partition."""
    reached: dict[tuple[str, int], int] = {}
    for message in messages:
        reached[message.position.stream, message.position.partition] = message.position.offset + 1
    return [Position("kafka", stream, partition, offset) for (stream, partition), offset in reached.items()]


async def test_a_message_comes_back_as_it_was_put(bus: KafkaBus, institution: str) -> None:
    headers = (("content-type", b"application/fhir+json"), ("fhir-version", b"R4"), ("x", b""), ("x", b"\x00\xff"))
    position = await bus.put(institution, b'{"resourceType":"Patient"}', headers)
    (message,) = await read(bus, 1)
    assert message == Message(position, institution, b'{"resourceType":"Patient"}', headers)


@pytest.mark.parametrize("poison", [b"", b"\x00", b"\xff\xfe\xfd", b"{" * 10_000, bytes(range(256)) * 64])
async def test_poison_is_carried_byte_for_byte(bus: KafkaBus, institution: str, poison: bytes) -> None:
    await bus.put(institution, poison)
    (message,) = await read(bus, 1)
    assert message.value == poison


async def test_a_record_without_value_or_headers_by_another_producer_is_carried(
    broker: KafkaBroker, bus: KafkaBus, institution: str
) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap)
    await producer.start()
    await producer.send_and_wait(f"fhir.{institution}.in", value=None, key=b"k", headers=[("empty", None)])
    await producer.stop()
    (message,) = await read(bus, 1)
    assert (message.value, message.headers) == (b"", (("empty", b""),))


class _NoText(str):
    """A header's name as a producer in C may send it."""

    def encode(self, *_: object) -> bytes:
        return b"\xff\xfe"


@pytest.mark.parametrize("codec", [0, 1], ids=["plain", "gzip"])
async def test_a_header_whose_name_is_no_text_stops_nobody(
    broker: KafkaBroker, bus: KafkaBus, institution: str, codec: int
) -> None:
    """The library gives up on such a batch, and would at every start anew."""
    made = _DefaultRecordBatchBuilderPy(2, codec, False, -1, -1, 0, 1 << 14)
    named = [("before", b"1"), (_NoText("odd"), b"2"), ("none", None)]
    for offset, headers in enumerate(([], named, [])):
        made.append(offset, None, b"k%d" % offset, b"value %d" % offset, headers)
    made.append(3, None, b"k3", None, [])
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap)
    await producer.start()
    batch = producer.create_batch()
    batch._builder, batch._relative_offset = made, 4
    await (await producer.send_batch(batch, f"fhir.{institution}.in", partition=0))
    await producer.stop()
    messages = await read(bus, 4)
    assert [message.value for message in messages] == [b"value 0", b"value 1", b"value 2", b""]
    assert messages[1].headers == (("before", b"1"), ("\ufffd\ufffd", b"2"), ("none", b""))
    assert [message.position.offset for message in messages] == [0, 1, 2, 3]
    assert [message.tombstone for message in messages] == [None, None, None, b"k3"]


async def test_messages_of_one_key_share_a_partition_and_keep_their_order(bus: KafkaBus, institution: str) -> None:
    for number in range(60):
        await bus.put(institution, b"%d" % number, [("key", b"patient-%d" % (number % 7))])
    came = await read(bus, 60)
    by_key: dict[bytes, list[Message]] = defaultdict(list)
    for message in came:
        by_key[dict(message.headers)["key"]].append(message)
    assert len({m.position.partition for m in came}) > 1
    for key, messages in by_key.items():
        assert len({m.position.partition for m in messages}) == 1, key
        assert [int(m.value) for m in messages] == sorted(int(m.value) for m in messages)


async def test_limits_hold_back_and_lose_nothing(bus: KafkaBus, institution: str) -> None:
    for number in range(10):
        await bus.put(institution, b"%d" % number + b"x" * 999, [("key", b"one")])
    sizes: list[int] = []
    values: list[bytes] = []
    while len(values) < 10:
        taken = await bus.take(max_messages=4, max_bytes=2500, wait_ms=1000)
        sizes.append(len(taken))
        values += [message.value for message in taken]
    assert max(sizes) == 2
    assert [value[:1] for value in values] == [b"%d" % number for number in range(10)]
    assert len(await bus.take(max_messages=1, max_bytes=1, wait_ms=100)) == 0


async def test_one_message_longer_than_the_byte_limit_still_comes(bus: KafkaBus, institution: str) -> None:
    await bus.put(institution, b"x" * 5000)
    async with asyncio.timeout(60):
        while not (taken := await bus.take(max_messages=10, max_bytes=10, wait_ms=500)):
            pass
    assert len(taken[0].value) == 5000


async def test_an_idle_bus_answers_empty_in_time(bus: KafkaBus) -> None:
    started = time.monotonic()
    assert await bus.take(max_messages=10, max_bytes=1000, wait_ms=300) == []
    assert time.monotonic() - started < 20  # it comes back at all; how soon is no test's matter on a busy machine


async def test_a_reader_that_stands_still_before_messages_is_opened_anew(
    bus: KafkaBus, institution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen once in a restarted service: fetches came back empty for minutes, and nothing failed."""
    monkeypatch.setattr(kafka_watch, "STILL_S", 1.0)
    await bus.put(institution, b"first")
    assert [each.value for each in await read(bus, 1)] == [b"first"]
    stuck = bus._reader._consumer

    async def nothing(**_: object) -> dict[object, object]:
        await asyncio.sleep(0.1)
        return {}

    monkeypatch.setattr(stuck, "getmany", nothing)
    await bus.put(institution, b"second")
    assert [each.value for each in await read(bus, 1)] == [b"second"]
    assert bus._reader._consumer is not stuck
    assert bus._reader._watch.reopened == 1


async def test_one_partition_that_stands_still_is_noticed_while_others_flow(
    bus: KafkaBus, institution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_watch, "STILL_S", 1.0)
    first = await bus.put(institution, b"still", [("key", b"a")])
    assert [each.value for each in await read(bus, 1)] == [b"still"]
    stuck = bus._reader._consumer
    others = [each for each in bus._reader._next if each.partition != first.partition]
    whole = stuck.getmany

    async def without_one(**arguments: int) -> dict[object, object]:
        return await whole(*others, **arguments)  # type: ignore[no-any-return]

    monkeypatch.setattr(stuck, "getmany", without_one)
    await bus.put(institution, b"awaited", [("key", b"a")])
    came: list[bytes] = []
    async with asyncio.timeout(60):
        while b"awaited" not in came:
            await bus.put(institution, b"flows", [("key", b"%d" % (len(came) % 20))])
            came += [each.value for each in await bus.take(max_messages=10, max_bytes=1 << 20, wait_ms=200)]
    assert bus._reader._watch.reopened == 1
    assert bus._reader._consumer is not stuck


async def test_a_reader_with_nothing_to_read_is_left_alone(
    broker: KafkaBroker, bus: KafkaBus, institution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a transaction stands a mark that nobody is given: the last message handed out is not the end."""
    monkeypatch.setattr(kafka_watch, "STILL_S", 0.3)
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id=institution)
    await producer.start()
    async with producer.transaction():
        await producer.send_and_wait(f"fhir.{institution}.in", b"one", key=b"k")
    await producer.stop()
    assert [each.value for each in await read(bus, 1)] == [b"one"]
    for _ in range(12):
        assert await bus.take(max_messages=10, max_bytes=1 << 20, wait_ms=100) == []
    assert bus._reader._watch.reopened == 0


async def test_reading_goes_on_from_the_stored_positions(
    broker: KafkaBroker, bus: KafkaBus, institution: str, make_bus: MakeBus
) -> None:
    for number in range(30):
        await bus.put(institution, b"%d" % number)
    first = await read(bus, 30)
    half = first[:17]
    await bus.close()
    again = make_bus(broker)
    await again.start([institution], next_positions(half))
    rest = await read(again, 13)
    assert sorted(m.position.offset for m in rest) == sorted(m.position.offset for m in first[17:])
    assert {m.value for m in rest} == {m.value for m in first[17:]}
    assert await again.take(max_messages=10, max_bytes=1 << 20, wait_ms=300) == []


async def test_without_stored_positions_everything_comes_whatever_was_acknowledged(
    broker: KafkaBroker, bus: KafkaBus, institution: str, make_bus: MakeBus
) -> None:
    """Kafka's committed offset is advice; the vault's position is the truth."""
    await bus.put(institution, b"a")
    await bus.acknowledge([m.position for m in await read(bus, 1)])
    await bus.close()
    again = make_bus(broker)
    await again.start([institution], [])
    assert [m.value for m in await read(again, 1)] == [b"a"]


async def test_acknowledged_offsets_are_what_other_tools_see(
    broker: KafkaBroker, bus: KafkaBus, institution: str
) -> None:
    for _ in range(3):
        await bus.put(institution, b"a", [("key", b"one")])
    messages = await read(bus, 3)
    await bus.acknowledge([m.position for m in reversed(messages)])
    partition = TopicPartition(messages[0].position.stream, messages[0].position.partition)
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, group_id="fhir-bridge", enable_auto_commit=False)
    await consumer.start()
    consumer.assign([partition])
    assert await consumer.committed(partition) == 3
    await consumer.stop()


async def test_a_stored_position_of_another_bus_or_stream_is_left_alone(
    broker: KafkaBroker, institution: str, make_bus: MakeBus
) -> None:
    started = make_bus(broker)
    foreign = [Position("spool", f"fhir.{institution}.in", 0, 5), Position("kafka", "fhir.gone.in", 0, 5)]
    await started.start([institution], foreign)
    await started.put(institution, b"a")
    assert [m.value for m in await read(started, 1)] == [b"a"]
    await started.acknowledge(foreign)


async def test_an_institution_joins_while_others_are_read(bus: KafkaBus, institution: str) -> None:
    newcomer = f"{institution}-new"
    await bus.put(institution, b"before")
    await bus.put(newcomer, b"early")
    assert [m.value for m in await read(bus, 1)] == [b"before"]
    await bus.subscribe(newcomer)
    await bus.subscribe(newcomer)
    await bus.put(newcomer, b"late")
    await bus.put(institution, b"after")
    came = await read(bus, 3)
    assert {(m.institution, m.value) for m in came} == {
        (newcomer, b"early"),
        (newcomer, b"late"),
        (institution, b"after"),
    }
    assert await bus.take(max_messages=10, max_bytes=1000, wait_ms=300) == []


async def test_a_bus_may_start_with_nobody(broker: KafkaBroker, institution: str, make_bus: MakeBus) -> None:
    started = make_bus(broker)
    await started.start([], [])
    assert await started.take(max_messages=10, max_bytes=1000, wait_ms=50) == []
    await started.subscribe(institution)
    await started.put(institution, b"a")
    assert [m.value for m in await read(started, 1)] == [b"a"]


async def test_added_partitions_are_noticed_and_read_from_their_beginning(
    broker: KafkaBroker, bus: KafkaBus, institution: str
) -> None:
    topic = f"fhir.{institution}.in"
    await bus.put(institution, b"old")
    assert [m.value for m in await read(bus, 1)] == [b"old"]
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    await admin.create_partitions({topic: NewPartitions(total_count=8)})
    # Made by the controller; the broker hears of it a moment later, and a producer that asks before then gives up.
    async with asyncio.timeout(60):
        while len((await admin.describe_topics([topic]))[0]["partitions"]) < 8:
            await asyncio.sleep(0.05)
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap)
    await producer.start()
    await producer.send_and_wait(topic, b"new", partition=7)
    await producer.stop()
    (message,) = await read(bus, 1)
    assert (message.value, message.position.partition) == (b"new", 7)


async def test_a_message_of_many_mebibytes_passes(bus: KafkaBus, institution: str) -> None:
    body = bytes(range(256)) * (4 << 12)
    await bus.put(institution, b"small")
    await bus.put(institution, body)
    assert {len(m.value) for m in await read(bus, 2)} == {5, 4 << 20}
    largest = b"x" * (16 << 20)
    await bus.put(institution, largest)
    assert [m.value == largest for m in await read(bus, 1)] == [True]


async def test_a_message_too_long_is_refused_and_the_next_one_passes(bus: KafkaBus, institution: str) -> None:
    with pytest.raises(RecordRefused) as refused:
        await bus.put(institution, b"x" * (17 << 20))
    assert [issue.code for issue in refused.value.issues] == ["too-long"]
    await bus.put(institution, b"a")
    assert [m.value for m in await read(bus, 1)] == [b"a"]


async def test_dead_letters_have_a_topic_of_their_own(broker: KafkaBroker, bus: KafkaBus, institution: str) -> None:
    await bus.put_notice(institution, Notice.DEAD, b"\xffbad", [("reason", b"structure")])
    consumer = AIOKafkaConsumer(
        f"fhir.{institution}.dead", bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest"
    )
    await consumer.start()
    record = await asyncio.wait_for(consumer.getone(), 60)
    await consumer.stop()
    assert (record.value, record.headers) == (b"\xffbad", (("reason", b"structure"),))
    assert await bus.take(max_messages=1, max_bytes=10, wait_ms=200) == []


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "ä", "x" * 101])
async def test_a_name_that_could_be_mistaken_for_another_topic_is_refused(bus: KafkaBus, name: str) -> None:
    with pytest.raises(SetupWrong):
        await bus.put(name, b"a")


async def test_uncommitted_transactions_of_others_are_not_read(
    broker: KafkaBroker, bus: KafkaBus, institution: str
) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id=f"t-{institution}")
    await producer.start()
    await producer.begin_transaction()
    await producer.send_and_wait(f"fhir.{institution}.in", b"aborted", partition=0)
    await producer.abort_transaction()
    async with producer.transaction():
        await producer.send_and_wait(f"fhir.{institution}.in", b"committed", partition=0)
    await producer.stop()
    assert [m.value for m in await read(bus, 1)] == [b"committed"]


async def delete_before(broker: KafkaBroker, partition: object, offset: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    await admin.delete_records({partition: RecordsToDelete(before_offset=offset)})
    await admin.close()


@pytest.mark.parametrize("stood", [2, 999], ids=["kept too short", "topic made anew"])
async def test_a_partition_whose_next_message_is_gone_is_halted_and_the_others_go_on(
    broker: KafkaBroker, bus: KafkaBus, institution: str, make_bus: MakeBus, stood: int
) -> None:
    """One sender's retention must neither skip its messages in silence nor hold up everybody else's."""
    for number in range(6):
        await bus.put(institution, b"%d" % number, [("key", b"one")])
    place = (await read(bus, 6))[0].position
    await delete_before(broker, TopicPartition(place.stream, place.partition), 4)
    neighbour = f"{institution}-next"
    again = make_bus(broker)
    await again.start([institution, neighbour], [Position("kafka", place.stream, place.partition, stood)])
    await again.put(neighbour, b"flows")
    assert [m.value for m in await read(again, 1)] == [b"flows"]
    halted = Position("kafka", place.stream, place.partition, stood)
    async with asyncio.timeout(60):
        while not again.halted():
            assert await again.take(max_messages=10, max_bytes=1 << 20, wait_ms=200) == []
    await again.put(neighbour, b"flows on")
    assert [m.value for m in await read(again, 1)] == [b"flows on"]
    assert list(again.halted()) == [halted]
    oldest = await again.oldest(halted)
    assert oldest == Position("kafka", place.stream, place.partition, 4)
    await again.go_on(oldest)
    assert [m.value for m in await read(again, 2)] == [b"4", b"5"]
    assert again.halted() == []


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_every_compression_that_producers_use_is_read(
    broker: KafkaBroker, bus: KafkaBus, institution: str, codec: str
) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, compression_type=codec)
    await producer.start()
    body = b'{"resourceType":"Bundle"}' * 1000
    await producer.send_and_wait(f"fhir.{institution}.in", body, key=b"k")
    await producer.stop()
    assert [m.value for m in await read(bus, 1)] == [body]


async def test_a_compressed_batch_that_unfolds_beyond_the_limit_is_refused_by_the_broker(
    broker: KafkaBroker, bus: KafkaBus, institution: str
) -> None:
    """64 MiB of zeros take a few kilobytes on the wire; nobody may fill the reader's memory that way."""
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, compression_type="zstd", max_request_size=1 << 27)
    await producer.start()
    with pytest.raises(KafkaError):
        await producer.send_and_wait(f"fhir.{institution}.in", bytes(1 << 26), key=b"k")
    await producer.stop()
    await bus.put(institution, b"after")
    assert [m.value for m in await read(bus, 1)] == [b"after"]


# --- a broker that goes away


async def take_forever(bus: KafkaBus, came: list[Message]) -> None:
    async with asyncio.timeout(60):
        while True:
            came += await bus.take(max_messages=5, max_bytes=1 << 20, wait_ms=200)


async def test_a_killed_broker_loses_nothing_and_reading_resumes(
    own_broker: KafkaBroker, institution: str, make_bus: MakeBus
) -> None:
    bus = make_bus(own_broker, request_timeout_ms=AWAY_MS)
    await start_at_last(bus, institution)
    for number in range(20):
        await put_until_held(bus, institution, b"before-%d" % number)
    came = await read(bus, 8)
    own_broker.kill()
    with pytest.raises(Unavailable):
        await take_forever(bus, came)
    with pytest.raises(Unavailable):
        await bus.put(institution, b"during")
    await asyncio.to_thread(own_broker.start)
    for number in range(20):
        await put_until_held(bus, institution, b"after-%d" % number)
    wanted = {b"before-%d" % n for n in range(20)} | {b"after-%d" % n for n in range(20)}
    while not wanted <= {m.value for m in came}:
        came += await read(bus, 1)
    positions = [m.position for m in came]
    assert len(positions) == len(set(positions)), "each message is delivered once per start"


async def test_puts_under_fire_are_held_once_confirmed(
    own_broker: KafkaBroker, institution: str, make_bus: MakeBus
) -> None:
    bus = make_bus(own_broker, request_timeout_ms=AWAY_MS)
    await start_at_last(bus, institution)
    confirmed: list[bytes] = []

    async def send(worker: int) -> None:
        for number in range(15):
            value = b"%d-%d" % (worker, number)
            await put_until_held(bus, institution, value)
            confirmed.append(value)

    async with asyncio.TaskGroup() as group:
        for worker in range(4):
            group.create_task(send(worker))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(own_broker.kill)
        await asyncio.to_thread(own_broker.start)
    reader = make_bus(own_broker)
    await reader.start([institution], [])
    held: set[bytes] = set()
    while not set(confirmed) <= held:
        held |= {m.value for m in await read(reader, 1)}
    assert len(confirmed) == 60


async def test_a_frozen_broker_is_unavailable_and_comes_back(
    own_broker: KafkaBroker, institution: str, make_bus: MakeBus
) -> None:
    bus = make_bus(own_broker, request_timeout_ms=2000)
    await start_at_last(bus, institution)
    await put_until_held(bus, institution, b"a")
    came = await read(bus, 1)
    own_broker.pause()
    try:
        with pytest.raises(Unavailable):
            await take_forever(bus, came)
    finally:
        own_broker.resume()
    await put_until_held(bus, institution, b"b")
    came += await read(bus, 1)
    assert {m.value for m in came} == {b"a", b"b"}


async def test_no_broker_at_all_is_unavailable_and_close_is_quick() -> None:
    bus = KafkaBus(KafkaSettings("127.0.0.1:1", request_timeout_ms=1000))
    with pytest.raises(Unavailable):
        await bus.start(["northgate"], [])
    with pytest.raises(Unavailable):
        await bus.put("northgate", b"a")
    # Nothing behind is what it would say of a bus that is read.
    with pytest.raises(Unavailable):
        await bus.lag()
    async with asyncio.timeout(5):
        await bus.close()
        await bus.close()
