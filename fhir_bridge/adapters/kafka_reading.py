"""Reads partitions of Kafka, each from the position that the vault stored.

Invariants:
    * a partition is never read on from somewhere else than it stood: when the broker no longer holds the next
      offset, or the topic is another of the same name, that partition is halted, and only an operator's word lets it
      go on; the others are read on;
    * a topic that is gone, has no leader or is closed to us keeps no other from being read;
    * what was fetched but not yet handed out is only a cache: after any error reading resumes behind the last
      message that was handed out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from aiokafka.errors import (  # type: ignore[import-untyped]
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
)

from fhir_bridge import metrics
from fhir_bridge.adapters.kafka_clients import stop_client
from fhir_bridge.adapters.kafka_records import tolerate_header_names
from fhir_bridge.adapters.kafka_settings import KafkaSettings
from fhir_bridge.adapters.kafka_topics import BATCH_OVERHEAD_BYTES, Found
from fhir_bridge.adapters.kafka_watch import ReaderWatch
from fhir_bridge.model.ingest import Position
from fhir_bridge.ports.bus import Message
from fhir_bridge.telemetry import logger

_QUIET_S: Final = 2.0
"""After this long without a message the broker is asked whether it is there; a fetch does not tell."""

_log = logger("kafka")
tolerate_header_names()


class KafkaReader:
    """One consumer over all partitions of some topics, assigned by hand.

    ``halted`` holds the offset at which each partition that is not read on stands, ``origins`` the id of the topic
    that each partition's position is of, ``unread`` why topics cannot be read now.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        institutions: Mapping[str, str],
        look: Callable[[], Awaitable[Found]],
        stored: Mapping[Any, int],
    ) -> None:
        """Take what tells which partitions there are now.

        Args:
            institutions: Whose each topic is; may grow while it is read.
            stored: The next offset of partitions that were read before.
        """
        self.halted: dict[Any, int] = {}
        self.origins: dict[Any, str] = {}
        self.unread: dict[str, str] = {}
        self._settings = settings
        self._institutions = institutions
        self._look = look
        self._found: dict[Any, str] = {}
        self._closed_until_s: dict[str, float] = {}
        self._stored = stored
        self._group: str | None = settings.group
        self._consumer: Any = None
        self._next: dict[Any, int | None] = {}
        self._fetched: deque[Any] = deque()
        self._heard_s = 0.0
        self._refreshed_s = 0.0
        self._watch = ReaderWatch(self._new_consumer, stop_client)

    async def start(self, origins: Mapping[Any, str]) -> None:
        """Find the partitions and begin to read them; ``origins`` are those that the stored positions are of."""
        self.origins |= origins
        self._notice(await self._look())
        await self._open()

    def look_around(self) -> None:
        """Look for new partitions with the next take."""
        self._refreshed_s = 0.0

    async def take(self, *, max_messages: int, max_bytes: int, wait_ms: int) -> Sequence[Message]:
        """Return the next messages; after an error call :meth:`drop`, then again."""
        try:
            await self._keep_watch()
            if not self._fetched:
                await self._fetch(max_messages, wait_ms)
        except GroupAuthorizationFailedError as error:
            # The library's consumer gives up on everything then; committed offsets are advice, so we read without.
            _log.error("offsets are not committed: the group is closed to us", code=type(error).__name__)
            self._group = None
            await self.drop()
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
        self.origins[partition] = self._found.get(partition, "")
        if self._consumer is not None:
            await self._assign()

    def knows(self, partition: Any) -> bool:
        """Tell whether it is one of those that are read or halted."""
        return partition in self._next

    async def acknowledge(self, offsets: Mapping[Any, int]) -> None:
        """Commit offsets as advice."""
        if offsets and self._group and self._consumer is not None:
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                await self._consumer.commit(dict(offsets))

    async def lag(self) -> Mapping[str, int]:
        """Return how many messages lie beyond those taken, by institution; of a halted partition, all that it holds.

        Of what cannot be read now nothing is known.
        """
        if self._consumer is None:
            raise KafkaConnectionError
        behind = dict.fromkeys(self._institutions.values(), 0)
        known = [each for each in self._found if self._next.get(each) is not None]
        if known:
            halted = [each for each in known if each in self.halted]
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                ends = await self._consumer.end_offsets(known)
                starts = await self._consumer.beginning_offsets(halted) if halted else {}
            for partition, end in ends.items():
                taken = starts.get(partition, self._next[partition])
                behind[self._institutions[partition.topic]] += max(0, end - taken)
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
            # What was lost may have been one topic's leader, of which nothing is to be asked then.
            self._notice(await self._look())
            await self._open()
        is_quiet = clock() > self._heard_s + _QUIET_S
        if is_quiet or clock() > self._refreshed_s + self._settings.refresh_s or not self._refreshed_s:
            found = await self._look()
            self._heard_s = self._refreshed_s = clock()
            if self._notice(found):
                await self._assign()
        if await self._watch.is_stuck(self._consumer, {each: self._next[each] for each in self._readable()}):
            _log.error("the reader stood still before messages and was opened anew", times=self._watch.reopened)
            metrics.BUS_REOPENED.inc()
            await self.drop()
            await self._open()

    def _notice(self, found: Found) -> bool:
        """Take note of what there is now; tell whether other partitions are to be read than before."""
        before = self._readable()
        self._found = found.partitions
        # One that had no leader when we started has a stored position all the same.
        self._next = {each: self._stored.get(each) for each in found.partitions} | self._next
        self._tell_unread(found.unread)
        for partition, origin in found.partitions.items():
            stood = self._next[partition]
            if origin in ("", self.origins.get(partition, "")) or partition in self.halted:
                continue
            # Whoever has taken nothing yet misses nothing at the beginning of another topic.
            if self.origins.get(partition) and stood:
                self._halt(partition, stood, is_another=True)
            else:
                self.origins[partition] = origin
        return self._readable() != before

    def _readable(self) -> list[Any]:
        return [
            each
            for each in self._next
            if each in self._found and each not in self.halted and each.topic not in self._closed_until_s
        ]

    def _tell_unread(self, unread: Mapping[str, str]) -> None:
        """Log what cannot be read now, each trouble once; what is closed to us is tried again now and then."""
        now_s = asyncio.get_running_loop().time()
        self._closed_until_s = {topic: at_s for topic, at_s in self._closed_until_s.items() if at_s > now_s}
        told = dict(unread) | dict.fromkeys(self._closed_until_s, TopicAuthorizationFailedError.__name__)
        for topic in told:
            if self.unread.get(topic) != told[topic]:
                _log.error("a topic cannot be read", institution=self._institutions[topic], code=told[topic])
        self.unread = told

    async def _fetch(self, max_messages: int, wait_ms: int) -> None:
        if not self._readable():
            await asyncio.sleep(wait_ms / 1000)
            return
        clock = asyncio.get_running_loop().time
        begun_s = clock()
        try:
            fetched = await self._consumer.getmany(timeout_ms=wait_ms, max_records=max_messages)
        except OffsetOutOfRangeError as error:
            for partition, offset in error.args[0].items():
                self._halt(partition, offset)
            await self._assign()
            return
        except TopicAuthorizationFailedError as error:
            self._closed_until_s[error.args[0]] = clock() + self._settings.refresh_s
            self._tell_unread(self.unread)
            await self._assign()
            return
        if fetched:
            self._heard_s = clock()
        self._watch.waited(clock() - begun_s)
        for records in fetched.values():
            self._fetched.extend(records)

    def _halt(self, partition: Any, offset: int, *, is_another: bool = False) -> None:
        self.halted[partition] = offset
        _log.error(
            "halted: the topic was made anew"
            if is_another
            else "halted: the broker no longer holds the next message",
            institution=self._institutions[partition.topic],
            partition=partition.partition,
            offset=offset,
        )

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
        consumer = self._new_consumer(self._group)
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
