"""A hospital's own producer: keyed by local patient id, so that Kafka keeps each patient's order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped]

from tests.support.hospitals import Lane

MAX_MESSAGE_BYTES = 16 << 20


async def produce(
    bootstrap: str, lanes: Sequence[Lane], *, prefix: str = "fhir", may_send: Callable[[int], bool] = lambda _: True
) -> int:
    """Send every message once, idempotently and acknowledged by all replicas; return how many.

    Args:
        may_send: Told how many have been sent; the next waits until it is True.
    """
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, enable_idempotence=True, acks="all", max_request_size=MAX_MESSAGE_BYTES
    )
    await producer.start()
    sent = 0
    try:
        for lane in lanes:
            for message in lane.messages:
                while not may_send(sent):
                    await asyncio.sleep(0.02)
                await producer.send_and_wait(f"{prefix}.{lane.hospital}.in", message, key=lane.key.encode() or None)
                sent += 1
    finally:
        await producer.stop()
    return sent
