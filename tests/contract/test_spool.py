"""The embedded bus: the contract of every bus, and what only a file of sealed messages promises."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from fhir_bridge.adapters.keyring_file import FileKeyring
from fhir_bridge.adapters.keystore import SqliteKeyStore
from fhir_bridge.adapters.spool import Spool
from fhir_bridge.errors import IntegrityBroken, Unavailable
from fhir_bridge.model.ingest import Position
from fhir_bridge.ports.keys import KeyKind, KeyName
from tests.contract.bus_contract import INSTITUTION, BusContract, take_all

WRITER = """
import asyncio, sys
from pathlib import Path
from fhir_bridge.adapters.keyring_file import FileKeyring
from fhir_bridge.adapters.keystore import SqliteKeyStore
from fhir_bridge.adapters.spool import Spool

async def main(folder):
    keys = SqliteKeyStore(folder / "keys" / "keys.db", FileKeyring(folder / "keyring"))
    spool = Spool(folder / "spool.db", keys)
    await spool.start(["northgate"], [])
    while True:
        for position in await asyncio.gather(*(spool.put("northgate", b"message") for _ in range(3))):
            print(position.offset, flush=True)

asyncio.run(main(Path(sys.argv[1])))
"""


class SpoolWorld:
    """A spool file and its key store."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "spool.db"
        self.keys = SqliteKeyStore(folder / "keys" / "keys.db", FileKeyring(folder / "keyring"))
        self._open: Spool | None = None

    async def open(self) -> Spool:
        await self.close()
        self._open = Spool(self.path, self.keys)
        return self._open

    async def close(self) -> None:
        if self._open is not None:
            await self._open.close()

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(statement).fetchall()


@pytest.fixture
async def bus_world(tmp_path: Path) -> AsyncIterator[SpoolWorld]:
    world = SpoolWorld(tmp_path)
    yield world
    await world.close()
    world.keys.close()


class TestSpoolKeepsTheContract(BusContract):
    pass


async def test_nothing_of_a_message_is_readable_on_disk(bus_world: SpoolWorld, tmp_path: Path) -> None:
    bus = await bus_world.open()
    await bus.start([INSTITUTION], [])
    await bus.put(INSTITUTION, b"Zuckerkandl-canary" * 50, [("header-canary", b"Zuckerkandl-canary")])
    for file in tmp_path.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert b"Zuckerkandl" not in content
            assert b"header-canary" not in content


async def test_acknowledged_messages_and_their_keys_are_gone(bus_world: SpoolWorld) -> None:
    bus = await bus_world.open()
    await bus.start([INSTITUTION], [])
    for i in range(3):
        await bus.put(INSTITUTION, b"%d" % i)
    subjects = [str(row[0]) for row in bus_world.sql("SELECT subject FROM messages ORDER BY number")]
    taken = await take_all(bus, 3)
    await bus.acknowledge([taken[1].position, taken[0].position])
    assert bus_world.sql("SELECT number FROM messages") == [(2,)]
    keys = [bus_world.keys.find(KeyName(KeyKind.MESSAGE, INSTITUTION, subject)) for subject in subjects]
    assert [key is None for key in keys] == [True, True, False]


async def test_a_hole_in_a_stream_stops_reading(bus_world: SpoolWorld) -> None:
    bus = await bus_world.open()
    await bus.start([INSTITUTION], [])
    for i in range(3):
        await bus.put(INSTITUTION, b"%d" % i)
    bus_world.sql("DELETE FROM messages WHERE number = 1")
    bus = await bus_world.open()
    await bus.start([INSTITUTION], [])
    with pytest.raises(IntegrityBroken):
        await bus.take(max_messages=10, max_bytes=1 << 20, wait_ms=10)


async def test_a_stored_position_behind_what_was_deleted_stops_reading(bus_world: SpoolWorld) -> None:
    bus = await bus_world.open()
    await bus.start([INSTITUTION], [])
    for i in range(3):
        await bus.put(INSTITUTION, b"%d" % i)
    await bus.acknowledge([(await take_all(bus, 3))[1].position])
    again = await bus_world.open()
    await again.start([INSTITUTION], [Position("spool", INSTITUTION, 0, 1)])
    with pytest.raises(IntegrityBroken):
        await again.take(max_messages=10, max_bytes=1 << 20, wait_ms=10)


async def test_two_messages_cannot_change_places(bus_world: SpoolWorld) -> None:
    bus = await bus_world.open()
    await bus.start([INSTITUTION], [])
    for i in range(2):
        await bus.put(INSTITUTION, b"%d" % i)
    bus_world.sql("UPDATE messages SET number = number + 10")
    bus_world.sql("UPDATE messages SET number = 11 - number")
    bus = await bus_world.open()
    await bus.start([INSTITUTION], [])
    with pytest.raises(IntegrityBroken):
        await bus.take(max_messages=10, max_bytes=1 << 20, wait_ms=10)


async def test_a_message_whose_key_was_erased_is_passed_over(bus_world: SpoolWorld) -> None:
    bus = await bus_world.open()
    await bus.start([INSTITUTION], [])
    for i in range(3):
        await bus.put(INSTITUTION, b"%d" % i)
    ((subject,),) = bus_world.sql("SELECT subject FROM messages WHERE number = 1")
    bus_world.keys.erase(KeyName(KeyKind.MESSAGE, INSTITUTION, str(subject)))
    bus = await bus_world.open()
    await bus.start([INSTITUTION], [])
    assert [m.value for m in await take_all(bus, 2)] == [b"0", b"2"]


async def test_messages_of_another_bus_are_not_acknowledged_here(bus_world: SpoolWorld) -> None:
    bus = await bus_world.open()
    await bus.start([INSTITUTION], [])
    await bus.put(INSTITUTION, b"0")
    await bus.acknowledge([Position("kafka", INSTITUTION, 0, 99)])
    assert bus_world.sql("SELECT number FROM messages") == [(0,)]


@pytest.mark.parametrize("kept", [0, 2], ids=["lost", "older copy"])
async def test_a_spool_that_was_lost_or_put_back_numbers_on_from_the_vault(bus_world: SpoolWorld, kept: int) -> None:
    bus = await bus_world.open()
    await bus.start([INSTITUTION], [])
    for i in range(kept):
        await bus.put(INSTITUTION, b"old %d" % i)
    stored = [Position("spool", INSTITUTION, 0, 7)]
    again = await bus_world.open()
    early = asyncio.create_task(again.put(INSTITUTION, b"early"))
    await asyncio.sleep(0.05)
    await again.start([INSTITUTION], stored)
    assert await early == Position("spool", INSTITUTION, 0, 7)
    assert [m.value for m in await take_all(again, 1)] == [b"early"]
    later = await bus_world.open()
    await later.start([INSTITUTION], stored)
    assert (await later.put(INSTITUTION, b"late")).offset == 8
    assert [m.value for m in await take_all(later, 2)] == [b"early", b"late"]


async def test_a_message_that_waits_for_the_start_is_told_of_the_end(bus_world: SpoolWorld) -> None:
    bus = await bus_world.open()
    waiting = asyncio.create_task(bus.put(INSTITUTION, b"0"))
    await asyncio.sleep(0)
    await bus.close()
    with pytest.raises(Unavailable):
        await waiting


async def test_a_closed_spool_says_so(bus_world: SpoolWorld) -> None:
    bus = await bus_world.open()
    await bus.close()
    with pytest.raises(Unavailable):
        await bus.put(INSTITUTION, b"0")


async def test_messages_that_were_acknowledged_to_their_sender_survive_kills(tmp_path: Path) -> None:
    told: list[int] = []
    chance = random.Random(7)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": "."},
        )
        assert process.stdout is not None
        told.append(int(process.stdout.readline()))
        time.sleep(chance.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        told += [int(line) for line in process.stdout.read().splitlines()]
        process.stdout.close()
        process.wait()
    world = SpoolWorld(tmp_path)
    spool = await world.open()
    await spool.start([INSTITUTION], [])
    taken = await spool.take(max_messages=100_000, max_bytes=1 << 26, wait_ms=10)
    offsets = [message.position.offset for message in taken]
    assert offsets == list(range(len(offsets)))
    assert set(told) <= set(offsets)
    assert {message.value for message in taken} == {b"message"}
    await world.close()
    world.keys.close()
