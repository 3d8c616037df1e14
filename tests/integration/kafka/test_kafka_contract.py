"""Kafka keeps the contract of every bus."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fhir_bridge.adapters.kafka import KafkaBus
from fhir_bridge.adapters.kafka_settings import KafkaSettings
from tests.contract.bus_contract import BusContract
from tests.support.kafka_broker import KafkaBroker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]


class KafkaWorld:
    """Topics of one test on the shared broker."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._open: KafkaBus | None = None

    async def open(self) -> KafkaBus:
        await self.close()
        self._open = KafkaBus(self._settings)
        return self._open

    async def close(self) -> None:
        if self._open is not None:
            await self._open.close()


@pytest.fixture
async def bus_world(broker: KafkaBroker, institution: str) -> AsyncIterator[KafkaWorld]:
    settings = KafkaSettings(broker.bootstrap, prefix=institution, partitions=3, request_timeout_ms=60_000)
    world = KafkaWorld(settings)
    yield world
    await world.close()


class TestKafkaKeepsTheContract(BusContract):
    pass
