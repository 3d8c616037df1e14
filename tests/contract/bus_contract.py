"""What every Bus adapter must do; subclass :class:`BusContract` and give it a ``bus_world`` fixture.

The fixture's value opens buses onto one storage, one after the other, so that
"after a restart" can be said. Order is claimed within a partition only.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from fhir_bridge.model.ingest import Position
from fhir_bridge.ports.bus import Bus, Message, Notice

INSTITUTION = "northgate"
OTHER = "harbor"
_PATIENCE_S = 60.0


class BusWorld(Protocol):
    """Storage that survives the buses opened onto it."""

    async def open(self) -> Bus:
        """Return a bus that has not been started; the one opened before is closed."""
        ...


async def take_all(bus: Bus, count: int) -> list[Message]:
    """Take until ``count`` messages are there; fails if they do not come."""
    taken: list[Message] = []
    deadline = time.monotonic() + _PATIENCE_S
    while len(taken) < count and time.monotonic() < deadline:
        taken += await bus.take(max_messages=1_000, max_bytes=1 << 26, wait_ms=500)
    assert len(taken) == count
    return taken


def next_positions(messages: Sequence[Message]) -> list[Position]:
    """Return what a vault would hold after these messages: the next offset of each partition."""
    ends: dict[tuple[str, str, int], int] = defaultdict(int)
    for message in messages:
        at = message.position
        key = (at.bus, at.stream, at.partition)
        ends[key] = max(ends[key], at.offset + 1)
    return [Position(*key, end) for key, end in ends.items()]


class BusContract:
    """Facts about any bus."""

    async def test_a_message_comes_as_it_was_put(self, bus_world: BusWorld) -> None:
        bus = await bus_world.open()
        await bus.start([INSTITUTION], [])
        body = bytes(range(256)) + b"\x00\xff{not json"
        position = await bus.put(INSTITUTION, body, [("content-type", b"x/y"), ("odd", b"\x00\xff")])
        (message,) = await take_all(bus, 1)
        assert (message.value, message.institution, message.position) == (body, INSTITUTION, position)
        assert dict(message.headers)["content-type"] == b"x/y"
        assert dict(message.headers)["odd"] == b"\x00\xff"

    async def test_the_lag_is_what_has_still_to_be_taken(self, bus_world: BusWorld) -> None:
        bus = await bus_world.open()
        await bus.start([INSTITUTION, OTHER], [])
        for _ in range(5):
            await bus.put(INSTITUTION, b"{}")
        taken: list[Message] = []
        while not taken:
            taken += await bus.take(max_messages=2, max_bytes=1 << 20, wait_ms=500)
        assert await bus.lag() == {INSTITUTION: 5 - len(taken), OTHER: 0}
        taken += await take_all(bus, 5 - len(taken))
        assert await bus.lag() == {INSTITUTION: 0, OTHER: 0}

    async def test_a_message_of_four_megabytes_comes_whole(self, bus_world: BusWorld) -> None:
        bus = await bus_world.open()
        await bus.start([INSTITUTION], [])
        body = bytes(range(256)) * (4 << 12)
        await bus.put(INSTITUTION, body)
        (message,) = await take_all(bus, 1)
        assert message.value == body

    async def test_order_holds_within_a_partition_and_nothing_comes_twice(self, bus_world: BusWorld) -> None:
        bus = await bus_world.open()
        await bus.start([INSTITUTION], [])
        put = {await bus.put(INSTITUTION, b"%d" % i): b"%d" % i for i in range(50)}
        taken = await take_all(bus, 50)
        assert {message.position: message.value for message in taken} == put
        by_partition: dict[int, list[int]] = defaultdict(list)
        for message in taken:
            by_partition[message.position.partition].append(message.position.offset)
        assert all(offsets == sorted(set(offsets)) for offsets in by_partition.values())
        assert await bus.take(max_messages=10, max_bytes=1 << 20, wait_ms=100) == []

    async def test_messages_put_at_once_all_come(self, bus_world: BusWorld) -> None:
        bus = await bus_world.open()
        await bus.start([INSTITUTION], [])
        positions = await asyncio.gather(*(bus.put(INSTITUTION, b"%d" % i) for i in range(40)))
        taken = await take_all(bus, 40)
        assert {m.position: m.value for m in taken} == {p: b"%d" % i for i, p in enumerate(positions)}

    async def test_an_idle_bus_gives_nothing_and_does_not_raise(self, bus_world: BusWorld) -> None:
        bus = await bus_world.open()
        await bus.start([INSTITUTION], [])
        assert list(await bus.take(max_messages=10, max_bytes=1 << 20, wait_ms=50)) == []

    async def test_a_waiting_reader_gets_what_is_put_meanwhile(self, bus_world: BusWorld) -> None:
        bus = await bus_world.open()
        await bus.start([INSTITUTION], [])
        waiting = asyncio.create_task(take_all(bus, 1))
        await asyncio.sleep(0.05)
        await bus.put(INSTITUTION, b"late")
        assert [message.value for message in await waiting] == [b"late"]

    async def test_a_restart_reads_on_from_the_stored_position(self, bus_world: BusWorld) -> None:
        bus = await bus_world.open()
        await bus.start([INSTITUTION], [])
        for i in range(10):
            await bus.put(INSTITUTION, b"%d" % i)
        seen = [*await bus.take(max_messages=4, max_bytes=1 << 20, wait_ms=5_000)]
        stored = next_positions(seen)

        again = await bus_world.open()
        await again.start([INSTITUTION], stored)
        rest = await take_all(again, 10 - len(seen))
        assert sorted(m.value for m in [*seen, *rest]) == sorted(b"%d" % i for i in range(10))

    async def test_a_restart_without_positions_delivers_everything_again(self, bus_world: BusWorld) -> None:
        bus = await bus_world.open()
        await bus.start([INSTITUTION], [])
        for i in range(5):
            await bus.put(INSTITUTION, b"%d" % i)
        first = await take_all(bus, 5)

        again = await bus_world.open()
        await again.start([INSTITUTION], [])
        assert {m.position: m.value for m in await take_all(again, 5)} == {m.position: m.value for m in first}

    async def test_after_an_acknowledgement_new_messages_still_come(self, bus_world: BusWorld) -> None:
        bus = await bus_world.open()
        await bus.start([INSTITUTION], [])
        for i in range(6):
            await bus.put(INSTITUTION, b"%d" % i)
        taken = await take_all(bus, 6)
        await bus.acknowledge([message.position for message in reversed(taken)])
        stored = next_positions(taken)

        again = await bus_world.open()
        await again.start([INSTITUTION], stored)
        position = await again.put(INSTITUTION, b"new")
        (message,) = await take_all(again, 1)
        assert (message.value, message.position) == (b"new", position)
        assert position not in {m.position for m in taken}

    async def test_streams_of_institutions_stay_apart(self, bus_world: BusWorld) -> None:
        bus = await bus_world.open()
        await bus.start([INSTITUTION, OTHER], [])
        await bus.put(INSTITUTION, b"ours")
        await bus.put(OTHER, b"theirs")
        taken = await take_all(bus, 2)
        assert {m.institution: m.value for m in taken} == {INSTITUTION: b"ours", OTHER: b"theirs"}
        assert len({m.position.stream for m in taken}) == 2

    async def test_a_stream_subscribed_later_is_read_from_its_beginning(self, bus_world: BusWorld) -> None:
        bus = await bus_world.open()
        await bus.start([INSTITUTION], [])
        await bus.subscribe(OTHER)
        await bus.put(OTHER, b"first")
        assert [m.value for m in await take_all(bus, 1)] == [b"first"]

    async def test_a_take_is_bounded_in_messages_and_bytes_yet_gives_one(self, bus_world: BusWorld) -> None:
        bus = await bus_world.open()
        await bus.start([INSTITUTION], [])
        for _ in range(6):
            await bus.put(INSTITUTION, bytes(1_000))
        assert len(await bus.take(max_messages=2, max_bytes=1 << 20, wait_ms=10_000)) <= 2
        assert len(await bus.take(max_messages=10, max_bytes=1, wait_ms=10_000)) == 1

    async def test_a_dead_letter_never_comes_back_as_a_message(self, bus_world: BusWorld) -> None:
        bus = await bus_world.open()
        await bus.start([INSTITUTION], [])
        await bus.put_notice(INSTITUTION, Notice.DEAD, b"dead", [("reason", b"invalid")])
        await bus.put(INSTITUTION, b"alive")
        assert [m.value for m in await take_all(bus, 1)] == [b"alive"]
        assert list(await bus.take(max_messages=10, max_bytes=1 << 20, wait_ms=100)) == []

    async def test_closing_twice_is_harmless(self, bus_world: BusWorld) -> None:
        bus = await bus_world.open()
        await bus.start([INSTITUTION], [])
        await bus.close()
        await bus.close()
