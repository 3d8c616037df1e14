"""Reading a bus in tests: take until so many messages have come, patient with a broker that is away."""

from __future__ import annotations

import asyncio

from fhir_bridge.errors import Unavailable
from fhir_bridge.ports.bus import Bus, Message


async def read(bus: Bus, wanted: int, *, within_s: float = 60.0) -> list[Message]:
    """Take until ``wanted`` messages have come, or fail when the time is over."""
    got: list[Message] = []
    async with asyncio.timeout(within_s):
        while len(got) < wanted:
            try:
                got += await bus.take(max_messages=100, max_bytes=1 << 24, wait_ms=300)
            except Unavailable:
                await asyncio.sleep(0.1)
    return got


async def start_at_last(bus: Bus, institution: str, *, within_s: float = 60.0) -> None:
    """Start to read one institution's messages, and start again while the broker does not answer."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                await bus.start([institution], [])
                return
            except Unavailable:
                await asyncio.sleep(0.1)


async def put_until_held(bus: Bus, institution: str, value: bytes, *, within_s: float = 60.0) -> None:
    """Put, and put again while the broker is away, as a sender does."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                await bus.put(institution, value)
                return
            except Unavailable:
                await asyncio.sleep(0.1)
