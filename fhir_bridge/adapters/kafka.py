"""Apache Kafka as the bus; the only place that speaks to the Kafka library, with its neighbours ``kafka_*``.

One topic of an institution carries what it sends (``fhir.NAME.in``), one tells
it what could not be taken (``fhir.NAME.dead``) and, where that is wanted, one
which of its records changed (``fhir.NAME.changes``). Producers key by local
patient id, so that a partition keeps a patient's order.

The vault's stored positions are the truth and Kafka's committed offsets are
advice, therefore partitions are assigned by hand and each is sought to its
stored position: no group protocol decides what is read, no rebalance can make
two readers of one partition inside this process.

Invariants:
    * those of :class:`fhir_bridge.adapters.kafka_reading.KafkaReader`;
    * a put returns after all in-sync replicas hold the message (``acks=all``, idempotent producer).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition  # type: ignore[import-untyped]
from aiokafka.errors import KafkaError, MessageSizeTooLargeError  # type: ignore[import-untyped]

from fhir_bridge.adapters.kafka_clients import stop_client, translated
from fhir_bridge.adapters.kafka_reading import KafkaReader
from fhir_bridge.adapters.kafka_settings import KafkaSettings
from fhir_bridge.adapters.kafka_topics import BATCH_OVERHEAD_BYTES, Found, Topics
from fhir_bridge.errors import SetupWrong, Unavailable
from fhir_bridge.model.ingest import Position
from fhir_bridge.ports.bus import NO_ORIGINS, Message, Notice, Origins

KEY_HEADER: Final = "key"
"""Header of :meth:`KafkaBus.put` whose value becomes the record's key, and with it chooses the partition."""

_INSTITUTION: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")


class KafkaBus:
    """Keeps :class:`fhir_bridge.ports.bus.Bus` on a Kafka cluster; one instance reads all partitions."""

    name = "kafka"

    def __init__(self, settings: KafkaSettings) -> None:
        self.notices = settings.notices
        self._settings = settings
        self._topics = Topics(settings)
        self._producer: Any = None
        self._opening = asyncio.Lock()
        self._institutions: dict[str, str] = {}
        self._stored: dict[Any, int] = {}
        self._reader = KafkaReader(settings, self._institutions, self._look, self._stored)

    async def start(
        self, institutions: Sequence[str], positions: Sequence[Position], origins: Origins = NO_ORIGINS
    ) -> None:
        """Assign every partition of the institutions' topics, each from its stored position or the beginning."""
        self._institutions |= {self._topic(institution): institution for institution in institutions}
        self._stored |= {TopicPartition(p.stream, p.partition): p.offset for p in positions if p.bus == self.name}
        try:
            async with translated():
                await self._reader.start({TopicPartition(*place): origin for place, origin in origins.items()})
        except Unavailable:
            await self._reader.drop()
            raise

    async def subscribe(self, institution: str) -> None:
        """Read one more institution's topic from its beginning; what is being read goes on where it stands.

        Raises:
            Unavailable: The broker does not answer; safe to retry.
        """
        topic = self._topic(institution)
        if topic in self._institutions:
            return
        # First of all, so that it is read once the broker is there, whoever gave up meanwhile.
        self._institutions[topic] = institution
        self._reader.look_around()
        async with translated():
            await self._topics.ensure(topic)

    async def take(self, *, max_messages: int, max_bytes: int, wait_ms: int) -> Sequence[Message]:
        """Return the next messages; see :class:`fhir_bridge.ports.bus.Bus`.

        Raises:
            Unavailable: The broker does not answer; call again.
        """
        try:
            async with translated():
                return await self._reader.take(max_messages=max_messages, max_bytes=max_bytes, wait_ms=wait_ms)
        except Unavailable:
            await self._reader.drop()
            raise

    def origins(self) -> Origins:
        """Return of which making of its topic each partition's position is."""
        return {(each.topic, each.partition): origin for each, origin in self._reader.origins.items()}

    def unread(self) -> Mapping[str, str]:
        """Return the topics of which something cannot be read at all now, with the kind of the broker's error."""
        return self._reader.unread

    def halted(self) -> Sequence[Position]:
        """Return where partitions stand that are not read on, for their next message is gone from the broker."""
        return [
            Position(self.name, partition.topic, partition.partition, offset)
            for partition, offset in sorted(self._reader.halted.items())
        ]

    async def oldest(self, halted: Position) -> Position:
        """Return where what the broker still holds of a halted partition begins; raises Unavailable."""
        partition = TopicPartition(halted.stream, halted.partition)
        async with translated():
            return Position(self.name, halted.stream, halted.partition, await self._reader.beginning(partition))

    async def go_on(self, position: Position) -> None:
        """Read a halted partition on from a position."""
        async with translated():
            await self._reader.go_on(TopicPartition(position.stream, position.partition), position.offset)

    async def acknowledge(self, positions: Sequence[Position]) -> None:
        """Commit offsets as advice to tools that show a group's lag.

        Raises:
            Unavailable: Not committed; nothing depends on it.
        """
        offsets: dict[Any, int] = {}
        for position in positions:
            partition = TopicPartition(position.stream, position.partition)
            if position.bus == self.name and self._reader.knows(partition):
                offsets[partition] = max(offsets.get(partition, 0), position.offset + 1)
        async with translated():
            await self._reader.acknowledge(offsets)

    async def lag(self) -> Mapping[str, int]:
        """Return how many messages lie beyond those taken, by institution; asks the broker for the ends.

        Raises:
            Unavailable: The broker does not tell.
        """
        async with translated():
            return await self._reader.lag()

    async def put(self, institution: str, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> Position:
        """Append a message; a header ``key`` chooses the partition, without one any partition takes it.

        Raises:
            RecordRefused: The message is longer than the broker takes.
            Unavailable: The broker did not confirm it; it may hold it all the same, so a retry may double it.
        """
        return await self._send(self._topic(institution), value, headers)

    async def put_notice(
        self, institution: str, kind: Notice, value: bytes, headers: Sequence[tuple[str, bytes]]
    ) -> None:
        """Publish a notice to ``fhir.NAME.dead`` or ``fhir.NAME.changes``; raises as :meth:`put`."""
        await self._send(self._topic(institution, kind), value, headers)

    async def close(self) -> None:
        """Stop reading and release connections; a second call does nothing."""
        await self._reader.drop()
        await self._topics.drop()
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_client(producer)

    # --- topics

    def _topic(self, institution: str, kind: str = "in") -> str:
        if not _INSTITUTION.fullmatch(institution):
            raise SetupWrong("an institution on Kafka is named with letters, digits, - and _ only")
        return f"{self._settings.prefix}.{institution}.{kind}"

    async def _look(self) -> Found:
        return await self._topics.look(sorted(self._institutions))

    # --- writing

    async def _send(self, topic: str, value: bytes, headers: Sequence[tuple[str, bytes]]) -> Position:
        key = next((content for name, content in headers if name == KEY_HEADER), None)
        async with translated():
            await self._topics.ensure(topic)
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
                    max_request_size=self._settings.max_message_bytes + BATCH_OVERHEAD_BYTES,
                )
                try:
                    await producer.start()
                except BaseException:
                    await stop_client(producer)
                    raise
                self._producer = producer
            return self._producer

    async def _abandon(self, producer: Any) -> None:
        """Part with a producer that holds messages nobody waits for any more; the next put makes another.

        Kept, it would send each of them after the outage, beside the copies that their senders have sent again.
        """
        if self._producer is producer:
            self._producer = None
            await stop_client(producer)
