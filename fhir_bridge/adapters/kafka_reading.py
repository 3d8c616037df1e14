"""Reads partitions of Kafka, each from the position that the vault stored.

Invariants:
    * a partition is never read on from somewhere else than it stood: when the broker no longer holds the next
      offset, that partition is halted, and only an operator's word lets it go on; the others are read on;
    * what was fetched but not yet handed out is only a cache: after any error reading resumes behind the last
      message that was handed out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from aiokafka.errors import OffsetOutOfRangeError  # type: ignore[import-untyped]

from fhir_bridge import metrics
from fhir_bridge.adapters.kafka_clients import stop_client
from fhir_bridge.adapters.kafka_records import tolerate_header_names
from fhir_bridge.adapters.kafka_settings import CLIENT_ID, KafkaSettings
from fhir_bridge.adapters.kafka_watch import ReaderWatch
from fhir_bridge.model.ingest import Position
from fhir_bridge.ports.bus import Message
from fhir_bridge.telemetry import logger

BATCH_OVERHEAD_BYTES: Final = 4096
_QUIET_S: Final = 2.0
"""After this long without a message the broker is asked whether it is there; a fetch does not tell."""

_log = logger("kafka")
tolerate_header_names()


class KafkaReader:
    """One consumer over all partitions of some topics, assigned by hand.

    ``halted`` holds the offset at which each partition that is not read on stands.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        institutions: Mapping[str, str],
        partitions: Callable[[], Awaitable[set[Any]]],
        stored: Mapping[Any, int],
    ) -> None:
        """Take what tells which partitions there are now.

        Args:
            institutions: Whose each topic is; may grow while it is read.
            stored: The next offset of partitions that were read before.
        """
        self.halted: dict[Any, int] = {}
        self._settings = settings
        self._institutions = institutions
        self._partitions = partitions
        self._stored = stored
        self._consumer: Any = None
        self._next: dict[Any, int | None] = {}
        self._fetched: deque[Any] = deque()
        self._heard_s = 0.0
        self._refreshed_s = 0.0
        self._watch = ReaderWatch(self._new_consumer, stop_client)

    async def start(self) -> None:
        """Find the partitions and begin to read them."""
        self._next = {each: self._stored.get(each) for each in await self._partitions()}
        await self._open()

    def look_around(self) -> None:
        """Look for new partitions with the next take."""
        self._refreshed_s = 0.0

    async def take(self, *, max_messages: int, max_bytes: int, wait_ms: int) -> Sequence[Message]:
        """Return the next messages; after an error call :meth:`drop`, then again."""
        await self._keep_watch()
        if not self._fetched:
            await self._fetch(max_messages, wait_ms)
        return self._hand_out(max_messages, max_bytes)

    async def beginning(self, partition: Any) -> int:
        """Return the offset of the oldest message that the broker holds of a partition."""
        if self._consumer is None:
            await self._open()
        async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
            return int((await self._consumer.beginning_offsets([partition]))[partition])

    async def go_on(self, partition: Any, offset: int) -> None:
        """Read a partition on from an offset, whatever lies between."""
        self.halted.pop(partition, None)
        self._next[partition] = offset
        if self._consumer is not None:
            await self._assign()

    def knows(self, partition: Any) -> bool:
        """Tell whether it is one of those that are read or halted."""
        return partition in self._next

    async def acknowledge(self, offsets: Mapping[Any, int]) -> None:
        """Commit offsets as advice."""
        if offsets and self._consumer is not None:
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                await self._consumer.commit(dict(offsets))

    async def lag(self) -> Mapping[str, int]:
        """Return how many messages lie beyond those taken, by institution."""
        behind = dict.fromkeys(self._institutions.values(), 0)
        taken = {partition: offset for partition, offset in self._next.items() if offset is not None}
        if taken and self._consumer is not None:
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                ends = await self._consumer.end_offsets(list(taken))
            for partition, end in ends.items():
                behind[self._institutions[partition.topic]] += max(0, end - taken[partition])
        return behind

    async def drop(self) -> None:
        """Part with the consumer; the next take opens another."""
        consumer, self._consumer = self._consumer, None
        self._fetched.clear()
        if consumer is not None:
            await stop_client(consumer)

    async def _keep_watch(self) -> None:
        """Bring a lost consumer back, ask a quiet broker whether it is there, and look for added partitions."""
        clock = asyncio.get_running_loop().time
        if self._consumer is None:
            await self._open()
        is_quiet = clock() > self._heard_s + _QUIET_S
        if is_quiet or clock() > self._refreshed_s + self._settings.refresh_s or not self._refreshed_s:
            found = await self._partitions()
            self._heard_s = self._refreshed_s = clock()
            added = found - self._next.keys()
            if added:
                # One that had no leader when we started has a stored position all the same.
                self._next |= {each: self._stored.get(each) for each in added}
                await self._assign()
        if await self._watch.is_stuck(self._consumer, {each: self._next[each] for each in self._readable()}):
            _log.error("the reader stood still before messages and was opened anew", times=self._watch.reopened)
            metrics.BUS_REOPENED.inc()
            await self.drop()
            await self._open()

    def _readable(self) -> list[Any]:
        return [each for each in self._next if each not in self.halted]

    async def _fetch(self, max_messages: int, wait_ms: int) -> None:
        if not self._readable():
            await asyncio.sleep(wait_ms / 1000)
            return
        clock = asyncio.get_running_loop().time
        begun_s = clock()
        try:
            fetched = await self._consumer.getmany(timeout_ms=wait_ms, max_records=max_messages)
        except OffsetOutOfRangeError as error:
            await self._halt(error.args[0])
            return
        if fetched:
            self._heard_s = clock()
        self._watch.waited(clock() - begun_s)
        for records in fetched.values():
            self._fetched.extend(records)

    async def _halt(self, gone: Mapping[Any, int]) -> None:
        """Leave partitions whose next offset the broker no longer holds; skip nothing of them."""
        for partition, offset in gone.items():
            self.halted[partition] = offset
            _log.error(
                "halted: the broker no longer holds the next message",
                institution=self._institutions[partition.topic],
                partition=partition.partition,
                offset=offset,
            )
        await self._assign()

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
            position=Position("kafka", record.topic, record.partition, record.offset),
            institution=self._institutions[record.topic],
            value=record.value or b"",
            headers=tuple((name, value or b"") for name, value in record.headers),
            tombstone=(record.key or b"") if record.value is None else None,
        )

    def _new_consumer(self, group: str | None = None) -> Any:
        largest = self._settings.max_message_bytes + BATCH_OVERHEAD_BYTES
        return AIOKafkaConsumer(
            **self._settings.connection(),
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_partition_fetch_bytes=largest,
            fetch_max_bytes=max(largest, 32 << 20),
        )

    async def _open(self) -> None:
        consumer = self._new_consumer(CLIENT_ID)
        try:
            await consumer.start()
        except BaseException:
            await stop_client(consumer)
            raise
        self._consumer = consumer
        await self._assign()
        self._heard_s = self._refreshed_s = asyncio.get_running_loop().time()

    async def _assign(self) -> None:
        """Assign all partitions anew that are not halted, each behind the last message handed out."""
        self._fetched.clear()
        readable = self._readable()
        if not readable:
            self._consumer.unsubscribe()
            return
        self._consumer.assign(readable)
        fresh = [partition for partition in readable if self._next[partition] is None]
        for partition in readable:
            offset = self._next[partition]
            if offset is not None:
                self._consumer.seek(partition, offset)
        if fresh:
            for partition, offset in (await self._consumer.beginning_offsets(fresh)).items():
                self._next[partition] = offset
                self._consumer.seek(partition, offset)
