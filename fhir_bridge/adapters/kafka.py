"""Apache Kafka as the bus; the only place that speaks to the Kafka library.

One topic of an institution carries what it sends (``fhir.NAME.in``), one takes
copies of what could not be taken (``fhir.NAME.dead``). Producers key by local
patient id, so that a partition keeps a patient's order.

The vault's stored positions are the truth and Kafka's committed offsets are
advice, therefore partitions are assigned by hand and each is sought to its
stored position: no group protocol decides what is read, no rebalance can make
two readers of one partition inside this process.

Invariants:
    * a reader never goes on from somewhere else than it stood: when the broker no longer holds the next offset,
      :meth:`KafkaBus.take` raises IntegrityBroken instead of skipping what is gone;
    * what was fetched but not yet handed out is only a cache: after any error reading resumes behind the last
      message that was handed out;
    * a put returns after all in-sync replicas hold the message (``acks=all``, idempotent producer).
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition  # type: ignore[import-untyped]
from aiokafka.admin import AIOKafkaAdminClient, NewTopic  # type: ignore[import-untyped]
from aiokafka.errors import (  # type: ignore[import-untyped]
    IllegalStateError,
    KafkaError,
    MessageSizeTooLargeError,
    OffsetOutOfRangeError,
    for_code,
)

from fhir_bridge.adapters.kafka_settings import CLIENT_ID, KafkaSettings
from fhir_bridge.adapters.kafka_watch import ReaderWatch
from fhir_bridge.errors import IntegrityBroken, Issue, RecordRefused, SetupWrong, Unavailable
from fhir_bridge.model.ingest import Position
from fhir_bridge.ports.bus import Message
from fhir_bridge.telemetry import logger

KEY_HEADER: Final = "key"
"""Header of :meth:`KafkaBus.put` whose value becomes the record's key, and with it chooses the partition."""

_INSTITUTION: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
_BATCH_OVERHEAD_BYTES: Final = 4096
_NO_ERROR, _TOPIC_EXISTS = 0, 36
_CLOSE_LIMIT_S: Final = 1.0
_QUIET_S: Final = 2.0
"""After this long without a message the broker is asked whether it is there; a fetch does not tell."""

_log = logger("kafka")


class KafkaBus:
    """Keeps :class:`fhir_bridge.ports.bus.Bus` on a Kafka cluster; one instance reads all partitions."""

    name = "kafka"

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._admin: Any = None
        self._consumer: Any = None
        self._producer: Any = None
        self._opening = asyncio.Lock()
        self._topics: set[str] = set()
        self._institutions: dict[str, str] = {}
        self._stored: dict[Any, int] = {}
        self._next: dict[Any, int | None] = {}
        self._fetched: deque[Any] = deque()
        self._heard_s = 0.0
        self._refreshed_s = 0.0
        self._watch = ReaderWatch(self._new_consumer, _stop)

    async def start(self, institutions: Sequence[str], positions: Sequence[Position]) -> None:
        """Assign every partition of the institutions' topics, each from its stored position or the beginning."""
        self._institutions = {self._topic(institution): institution for institution in institutions}
        self._stored = {TopicPartition(p.stream, p.partition): p.offset for p in positions if p.bus == self.name}
        async with _translated():
            self._next = {each: self._stored.get(each) for each in await self._partitions()}
            await self._open_consumer()

    async def subscribe(self, institution: str) -> None:
        """Read one more institution's topic from its beginning; what is being read goes on where it stands.

        Raises:
            Unavailable: The broker does not answer; safe to retry.
        """
        topic = self._topic(institution)
        if topic in self._institutions:
            return
        async with _translated():
            await self._ensure_topic(topic)
        self._institutions[topic] = institution
        self._refreshed_s = 0.0

    async def take(self, *, max_messages: int, max_bytes: int, wait_ms: int) -> Sequence[Message]:
        """Return the next messages; see :class:`fhir_bridge.ports.bus.Bus`.

        Raises:
            Unavailable: The broker does not answer; call again.
            IntegrityBroken: The broker no longer holds the next offset: retention was shorter than our absence,
                or the topic was made anew. Nothing is skipped; an operator must decide.
        """
        try:
            async with _translated():
                await self._keep_watch()
                if not self._fetched:
                    await self._fetch(max_messages, wait_ms)
        except Unavailable:
            await self._drop_consumer()
            raise
        return self._hand_out(max_messages, max_bytes)

    async def acknowledge(self, positions: Sequence[Position]) -> None:
        """Commit offsets as advice to tools that show a group's lag.

        Raises:
            Unavailable: Not committed; nothing depends on it.
        """
        offsets: dict[Any, int] = {}
        for position in positions:
            partition = TopicPartition(position.stream, position.partition)
            if position.bus == self.name and partition in self._next:
                offsets[partition] = max(offsets.get(partition, 0), position.offset + 1)
        if offsets and self._consumer is not None:
            async with _translated(), asyncio.timeout(self._settings.request_timeout_ms / 1000):
                await self._consumer.commit(offsets)

    async def lag(self) -> Mapping[str, int]:
        """Return how many messages lie beyond those taken, by institution; asks the broker for the ends.

        Raises:
            Unavailable: The broker does not tell.
        """
        behind = dict.fromkeys(self._institutions.values(), 0)
        taken = {partition: offset for partition, offset in self._next.items() if offset is not None}
        if taken and self._consumer is not None:
            async with _translated(), asyncio.timeout(self._settings.request_timeout_ms / 1000):
                ends = await self._consumer.end_offsets(list(taken))
            for partition, end in ends.items():
                behind[self._institutions[partition.topic]] += max(0, end - taken[partition])
        return behind

    async def put(self, institution: str, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> Position:
        """Append a message; a header ``key`` chooses the partition, without one any partition takes it.

        Raises:
            RecordRefused: The message is longer than the broker takes.
            Unavailable: The broker did not confirm it; it may hold it all the same, so a retry may double it.
        """
        return await self._send(self._topic(institution), value, headers)

    async def put_dead_letter(self, institution: str, value: bytes, headers: Sequence[tuple[str, bytes]]) -> None:
        """Publish a copy of a dead letter to ``fhir.NAME.dead``; raises as :meth:`put`."""
        await self._send(self._topic(institution, "dead"), value, headers)

    async def close(self) -> None:
        """Stop reading and release connections; a second call does nothing."""
        await self._drop_consumer()
        for client in (self._producer, self._admin):
            if client is not None:
                await _stop(client)
        self._producer = self._admin = None

    # --- reading

    async def _keep_watch(self) -> None:
        """Bring a lost consumer back, ask a quiet broker whether it is there, and look for added partitions."""
        clock = asyncio.get_running_loop().time
        if self._consumer is None:
            await self._open_consumer()
        is_quiet = clock() > self._heard_s + _QUIET_S
        if is_quiet or clock() > self._refreshed_s + self._settings.refresh_s or not self._refreshed_s:
            found = await self._partitions()
            self._heard_s = self._refreshed_s = clock()
            added = found - self._next.keys()
            if added:
                # One that had no leader when we started has a stored position all the same.
                self._next |= {each: self._stored.get(each) for each in added}
                await self._assign()
        if await self._watch.is_stuck(self._consumer, self._next):
            _log.error("the reader stood still before messages and was opened anew", times=self._watch.reopened)
            await self._drop_consumer()
            await self._open_consumer()

    async def _fetch(self, max_messages: int, wait_ms: int) -> None:
        if not self._next:
            await asyncio.sleep(wait_ms / 1000)
            return
        clock = asyncio.get_running_loop().time
        begun_s = clock()
        try:
            fetched = await self._consumer.getmany(timeout_ms=wait_ms, max_records=max_messages)
        except OffsetOutOfRangeError as error:
            _log.error("a stored position is gone from the broker", partitions=len(self._next))
            raise IntegrityBroken("the broker no longer holds the next message of a partition") from error
        if fetched:
            self._heard_s = clock()
        self._watch.fetched(len(fetched), clock() - begun_s)
        for records in fetched.values():
            self._fetched.extend(records)

    def _hand_out(self, max_messages: int, max_bytes: int) -> list[Message]:
        messages: list[Message] = []
        size = 0
        while self._fetched and len(messages) < max_messages:
            length = len(self._fetched[0].value or b"")
            if messages and size + length > max_bytes:
                break
            record = self._fetched.popleft()
            self._next[TopicPartition(record.topic, record.partition)] = record.offset + 1
            messages.append(self._message(record))
            size += length
        return messages

    def _message(self, record: Any) -> Message:
        return Message(
            position=Position(self.name, record.topic, record.partition, record.offset),
            institution=self._institutions[record.topic],
            value=record.value or b"",
            headers=tuple((name, value or b"") for name, value in record.headers),
        )

    def _new_consumer(self, group: str | None = None) -> Any:
        largest = self._settings.max_message_bytes + _BATCH_OVERHEAD_BYTES
        return AIOKafkaConsumer(
            **self._settings.connection(),
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_partition_fetch_bytes=largest,
            fetch_max_bytes=max(largest, 32 << 20),
        )

    async def _open_consumer(self) -> None:
        consumer = self._new_consumer(CLIENT_ID)
        try:
            await consumer.start()
        except BaseException:
            await _stop(consumer)
            raise
        self._consumer = consumer
        await self._assign()
        self._heard_s = self._refreshed_s = asyncio.get_running_loop().time()

    async def _assign(self) -> None:
        """Assign all partitions anew, each behind the last message handed out."""
        self._fetched.clear()
        if not self._next:
            return
        self._consumer.assign(list(self._next))
        fresh = [partition for partition, offset in self._next.items() if offset is None]
        for partition, offset in self._next.items():
            if offset is not None:
                self._consumer.seek(partition, offset)
        if fresh:
            for partition, offset in (await self._consumer.beginning_offsets(fresh)).items():
                self._next[partition] = offset
                self._consumer.seek(partition, offset)

    async def _drop_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._fetched.clear()
        if consumer is not None:
            await _stop(consumer)

    # --- topics

    def _topic(self, institution: str, kind: str = "in") -> str:
        if not _INSTITUTION.fullmatch(institution):
            raise SetupWrong("an institution on Kafka is named with letters, digits, - and _ only")
        return f"{self._settings.prefix}.{institution}.{kind}"

    async def _partitions(self) -> set[Any]:
        """Return every partition of the topics we read, making topics that are missing."""
        topics = sorted(self._institutions)
        for topic in topics:
            await self._ensure_topic(topic)
        return {TopicPartition(topic, number) for topic, number in await self._describe(topics)}

    async def _ensure_topic(self, topic: str) -> None:
        if topic in self._topics:
            return
        admin = await self._open_admin()
        settings = self._settings
        configuration = {
            "max.message.bytes": str(settings.max_message_bytes + _BATCH_OVERHEAD_BYTES),
            "retention.ms": str(settings.retention_ms),
        }
        new = NewTopic(topic, settings.partitions, settings.replication_factor, topic_configs=configuration)
        answer = await admin.create_topics([new], timeout_ms=settings.request_timeout_ms)
        code = answer.topic_errors[0][1]
        if code not in (_NO_ERROR, _TOPIC_EXISTS):
            raise for_code(code)()
        async with asyncio.timeout(settings.request_timeout_ms / 1000):
            while not await self._describe([topic]):  # noqa: ASYNC110 - the broker tells nobody when it is ready
                await asyncio.sleep(0.05)
        self._topics.add(topic)

    async def _describe(self, topics: Sequence[str]) -> list[tuple[str, int]]:
        """Return ``(topic, partition)`` of those topics that have a leader for every partition."""
        if not topics:
            return []
        admin = await self._open_admin()
        async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
            described = await admin.describe_topics(list(topics))
        return list(_partitions_of(described))

    async def _open_admin(self) -> Any:
        async with self._opening:
            if self._admin is None:
                admin = AIOKafkaAdminClient(**self._settings.connection())
                try:
                    await admin.start()
                except BaseException:
                    await _stop(admin)
                    raise
                self._admin = admin
            return self._admin

    # --- writing

    async def _send(self, topic: str, value: bytes, headers: Sequence[tuple[str, bytes]]) -> Position:
        key = next((content for name, content in headers if name == KEY_HEADER), None)
        async with _translated():
            await self._ensure_topic(topic)
            producer = await self._open_producer()
            try:
                # An idempotent aiokafka producer retries for ever, so the deadline is ours.
                async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                    sent = await producer.send_and_wait(topic, value, key=key, headers=list(headers))
            except MessageSizeTooLargeError:
                raise
            except (KafkaError, TimeoutError):
                await self._abandon(producer)
                raise
        return Position(self.name, sent.topic, sent.partition, sent.offset)

    async def _open_producer(self) -> Any:
        async with self._opening:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self._settings.connection(),
                    acks="all",
                    enable_idempotence=True,
                    max_request_size=self._settings.max_message_bytes + _BATCH_OVERHEAD_BYTES,
                )
                try:
                    await producer.start()
                except BaseException:
                    await _stop(producer)
                    raise
                self._producer = producer
            return self._producer

    async def _abandon(self, producer: Any) -> None:
        """Part with a producer that holds messages nobody waits for any more; the next put makes another.

        Kept, it would send each of them after the outage, beside the copies that their senders have sent again.
        """
        if self._producer is producer:
            self._producer = None
            await _stop(producer)


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Turn the library's errors into ours; the message names the kind of error and never a value."""
    try:
        yield
    except MessageSizeTooLargeError as error:
        issue = Issue("error", "too-long", "the message is longer than the bus takes")
        raise RecordRefused([issue]) from error
    except (KafkaError, IllegalStateError, OSError, TimeoutError) as error:
        raise Unavailable(f"Kafka: {type(error).__name__}") from error


def _partitions_of(described: Iterable[Any]) -> Iterable[tuple[str, int]]:
    for topic in described:
        partitions = topic["partitions"]
        if topic["error_code"] == _NO_ERROR and all(each["leader"] >= 0 for each in partitions):
            yield from ((topic["topic"], each["partition"]) for each in partitions)


async def _stop(client: Any) -> None:
    """Close a client without waiting long for a broker that is gone; never raises."""
    close = client.close if isinstance(client, AIOKafkaAdminClient) else client.stop
    if await _finishes(close()):
        return
    # aiokafka 0.14 leaves sockets and tasks behind when stop() ends early: a fetch task cancelled while it backs off
    # ends Fetcher.close with CancelledError, and a producer without a broker waits for its buffer to empty.
    if isinstance(client, AIOKafkaProducer):
        await _finishes(client._sender.close())
    await _finishes((client.client if isinstance(client, AIOKafkaProducer) else client._client).close())


async def _finishes(closing: Coroutine[Any, Any, None]) -> bool:
    """Run in a task of its own, so that a cancellation inside is not taken for one of ours."""
    task = asyncio.create_task(closing)
    done, _ = await asyncio.wait({task}, timeout=_CLOSE_LIMIT_S)
    if not done:
        task.cancel()
        await asyncio.wait({task}, timeout=_CLOSE_LIMIT_S)
    return not task.cancelled() and task.done() and task.exception() is None
