"""Which topics there are, who leads their partitions, and of which making they are; makes those that are missing.

A topic that was deleted and made anew has the old name and other messages. Brokers
give each making an id of its own (KIP-516, Kafka 2.8), which the library does
not ask for; so the request for metadata is written down here as well.

Invariants:
    * a topic that is there is taken as it is: whoever may only read and describe it needs no right to make topics;
    * what the broker says of one topic is no error of another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final

from aiokafka import TopicPartition  # type: ignore[import-untyped]
from aiokafka.admin import AIOKafkaAdminClient, NewTopic  # type: ignore[import-untyped]
from aiokafka.errors import BrokerResponseError, KafkaConnectionError, KafkaError, for_code  # type: ignore[import-untyped]
from aiokafka.protocol.api import Request, RequestStruct, Response  # type: ignore[import-untyped]
from aiokafka.protocol.metadata import MetadataRequest_v5  # type: ignore[import-untyped]
from aiokafka.protocol.types import (  # type: ignore[import-untyped]
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from fhir_bridge.adapters.kafka_clients import stop_client, why_not
from fhir_bridge.adapters.kafka_settings import KafkaSettings

BATCH_OVERHEAD_BYTES: Final = 4096
_NO_ERROR, _UNKNOWN_TOPIC, _TOPIC_EXISTS = 0, 3, 36
_NO_LEADER: Final = "LeaderNotAvailableError"
_NO_ID: Final = bytes(16)


@dataclass(slots=True)
class Found:
    """Partitions that can be read, each with its topic's id (empty if the broker tells none); why others cannot."""

    partitions: dict[Any, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)


class Topics:
    """Asks one cluster about topics; a client that fails is parted with, for it may know no broker that is left."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._admin: Any = None
        self._opening = asyncio.Lock()
        self._there: set[str] = set()

    async def ensure(self, topic: str) -> None:
        """Make a topic unless it is there; raises the library's errors."""
        if topic in self._there:
            return
        code = (await self._described([topic]))[topic]["error_code"]
        if code == _UNKNOWN_TOPIC:
            await self._make(topic)
        elif code != _NO_ERROR:
            raise for_code(code)()
        self._there.add(topic)

    async def look(self, topics: Sequence[str]) -> Found:
        """Find the partitions of topics, making each that is missing and was never there."""
        unread: dict[str, str] = {}
        described = await self._described(topics)
        codes = {topic: described[topic]["error_code"] for topic in topics}
        missing = [topic for topic, code in codes.items() if code == _UNKNOWN_TOPIC and topic not in self._there]
        for topic in missing:
            try:
                await self._make(topic)
            except BrokerResponseError as error:
                if error.retriable:
                    raise
                unread[topic] = type(error).__name__
        self._there |= {topic for topic in topics if codes[topic] == _NO_ERROR} | (set(missing) - unread.keys())
        if missing:
            described = await self._described(topics)
        return _found(described, unread)

    async def drop(self) -> None:
        """Release the connection; the next question opens another."""
        admin, self._admin = self._admin, None
        if admin is not None:
            await stop_client(admin)

    async def _make(self, topic: str) -> None:
        settings = self._settings
        configuration = {
            "max.message.bytes": str(settings.max_message_bytes + BATCH_OVERHEAD_BYTES),
            "retention.ms": str(settings.retention_ms),
            # The broker unfolds what producers compressed and measures that: nobody can fill a reader's memory with
            # a small batch of zeros.
            "compression.type": "uncompressed",
        }
        new = NewTopic(topic, settings.partitions, settings.replication_factor, topic_configs=configuration)
        admin = await self._open()
        answer = await admin.create_topics([new], timeout_ms=settings.request_timeout_ms)
        code = answer.topic_errors[0][1]
        if code not in (_NO_ERROR, _TOPIC_EXISTS):
            raise for_code(code)()
        async with asyncio.timeout(settings.request_timeout_ms / 1000):
            # The broker tells nobody when it is ready.
            while _found(await self._described([topic]), {}).unread:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def _described(self, topics: Sequence[str]) -> Mapping[str, Any]:
        if not topics:
            return {}
        try:
            admin = await self._open()
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                answer = await admin._send_request(_Metadata(topics))
        except (KafkaError, OSError, TimeoutError):
            await self.drop()
            raise
        return {each["topic"]: each for each in answer.to_object()["topics"]}

    async def _open(self) -> Any:
        async with self._opening:
            if self._admin is None:
                admin = AIOKafkaAdminClient(**self._settings.connection())
                try:
                    await admin.start()
                except KafkaConnectionError as error:
                    await stop_client(admin)
                    raise await why_not(self._settings.connection()) or error from error
                except BaseException:
                    await stop_client(admin)
                    raise
                self._admin = admin
            return self._admin


def _found(described: Mapping[str, Any], unread: dict[str, str]) -> Found:
    found = Found(unread=dict(unread))
    for topic, told in described.items():
        if told["error_code"] != _NO_ERROR:
            found.unread.setdefault(topic, for_code(told["error_code"]).__name__)
            continue
        identity = told.get("topic_id", _NO_ID)
        origin = "" if identity == _NO_ID else identity.hex()
        for each in told["partitions"]:
            if each["leader"] < 0:
                found.unread[topic] = _NO_LEADER
            else:
                found.partitions[TopicPartition(topic, each["partition"])] = origin
    return found


class _Uuid:
    """Sixteen bytes; the library has no such type."""

    @staticmethod
    def encode(value: bytes) -> bytes:
        return value

    @staticmethod
    def decode(data: BytesIO) -> bytes:
        return data.read(16)


class _MetadataResponse_v10(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("topic_authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _MetadataRequest_v10(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = _MetadataResponse_v10
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _Metadata(Request[MetadataRequest_v5 | _MetadataRequest_v10]):  # type: ignore[misc]
    """Asks for topics, of a broker before 2.8 without their ids; makes none, whatever the broker is set to."""

    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class is MetadataRequest_v5:
            return MetadataRequest_v5(list(self._topics), False)
        asked: list[Any] = [(_NO_ID, topic, {}) for topic in self._topics]
        return _MetadataRequest_v10(asked, False, False, False, {})
