"""One real broker for the whole folder; tests that hurt a broker start their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from fhir_bridge.adapters.kafka import KafkaBus
from fhir_bridge.adapters.kafka_settings import KafkaSettings
from tests.support.kafka_broker import KafkaBroker

_names = count()
MakeBus = Callable[..., KafkaBus]
PATIENCE_MS = 60_000
"""For an answer of a broker that is there and shares its machine; tests whose broker goes away have less."""


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    started = KafkaBroker(tmp_path_factory.mktemp("kafka"))
    started.start()
    yield started
    started.stop()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[KafkaBroker]:
    started = KafkaBroker(tmp_path / "kafka")
    started.start()
    yield started
    started.stop()


@pytest.fixture
def institution() -> str:
    """A name no other test uses, hence topics of one's own."""
    return f"clinic{next(_names)}"


@pytest.fixture
async def make_bus() -> AsyncIterator[MakeBus]:
    """Make buses that are closed at the end, whatever happened."""
    made: list[KafkaBus] = []

    def make(broker: KafkaBroker, **settings: int | float) -> KafkaBus:
        watchful = {"request_timeout_ms": PATIENCE_MS, "refresh_s": 0.5, **settings}
        made.append(KafkaBus(KafkaSettings(broker.bootstrap, **watchful)))  # type: ignore[arg-type]  # numbers of both kinds
        return made[-1]

    yield make
    await asyncio.gather(*(bus.close() for bus in made))


@pytest.fixture
async def bus(broker: KafkaBroker, institution: str, make_bus: MakeBus) -> KafkaBus:
    started = make_bus(broker)
    await started.start([institution], [])
    return started
