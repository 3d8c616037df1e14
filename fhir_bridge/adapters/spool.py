"""The embedded bus: messages in a SQLite file, sealed, in order, until the vault holds what they say.

Default adapter of the Bus port for one machine; Kafka is the other. A stream
is an institution, with one partition and dense offsets from 0.

Invariants:
    * a message that :meth:`Spool.put` returned for survives loss of power;
    * each is sealed under a message key of its own, which dies with it;
    * a hole in a stream stops reading instead of being passed over: offsets are given inside the transaction
      that stores the message, so an honest spool has none;
    * no offset below the vault's stored position is given, even by a file that was lost or put back: such a
      message would count as done. So nothing is put before :meth:`Spool.start` has said the positions.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from fhir_bridge.adapters.ambient import SystemRandomness
from fhir_bridge.adapters.sqlite_support import (
    Connect,
    OpenFile,
    connect_file,
    open_database,
    transaction,
    translated,
)
from fhir_bridge.errors import IntegrityBroken, KeyMissing, Unavailable
from fhir_bridge.model.ingest import Position
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.bus import NO_ORIGINS, Message, Notice, Origins
from fhir_bridge.ports.keys import KeyKind, KeyName, KeyStore
from fhir_bridge.seal import open_blob, seal_blob

WHAT = "spool"
VERSION = 1
SCHEMA = """
CREATE TABLE messages (
    stream TEXT NOT NULL, number INTEGER NOT NULL, subject TEXT NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (stream, number)) STRICT;
CREATE TABLE streams (stream TEXT PRIMARY KEY, next_number INTEGER NOT NULL) STRICT
"""

_DOMAIN = "spool"
_START_S = 30
T = TypeVar("T")
Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class _Content:
    """What is sealed."""

    value: bytes
    headers: Headers


@dataclass(frozen=True, slots=True)
class _Put:
    """One message on its way to disk."""

    stream: str
    content: _Content
    done: asyncio.Future[Position]


class Spool:
    """Keeps the Bus port's promises in one file; one process uses it."""

    name = "spool"
    notices: frozenset[Notice] = frozenset()

    def __init__(
        self, path: Path, keys: KeyStore, *, randomness: Randomness | None = None, connect: Connect = connect_file
    ) -> None:
        """Open the file, made if there is none.

        Raises:
            SetupWrong: Another kind of file, or a newer layout.
        """
        self._keys = keys
        self._randomness = randomness or SystemRandomness()
        self._connection = open_database(
            path, what=WHAT, version=VERSION, schema=SCHEMA, secure_delete=True, connect=connect
        )
        self._file = OpenFile(path, WHAT)
        self._thread = ThreadPoolExecutor(1, "spool")
        self._next: dict[str, int] = {}
        self._waiting: list[_Put] = []
        self._writer: asyncio.Task[None] | None = None
        self._arrived = asyncio.Event()
        self._started = asyncio.Event()
        self._closed = self._is_failing = False

    async def start(
        self, institutions: Sequence[str], positions: Sequence[Position], origins: Origins = NO_ORIGINS
    ) -> None:
        """Begin reading each stream at its stored position, or at its oldest message; number on from there."""
        held = [p for p in positions if p.bus == self.name and p.offset > 0]
        await self.acknowledge([Position(p.bus, p.stream, p.partition, p.offset - 1) for p in held])
        await self._run(self._number_on, held)
        for institution in institutions:
            await self.subscribe(institution)
        self._next |= {p.stream: p.offset for p in held if p.stream in self._next}
        self._started.set()

    async def subscribe(self, institution: str) -> None:
        """Read one more stream from its oldest message."""
        if institution not in self._next:
            self._next[institution] = await self._run(self._oldest, institution)
            self._arrived.set()

    async def take(self, *, max_messages: int, max_bytes: int, wait_ms: int) -> Sequence[Message]:
        """Return the next messages; waits up to ``wait_ms`` for the first.

        Raises:
            IntegrityBroken: A message is missing or was changed.
        """
        deadline = asyncio.get_running_loop().time() + wait_ms / 1000
        while True:
            self._arrived.clear()
            taken, reached = await self._run(self._read, dict(self._next), max_messages, max_bytes)
            for stream, number in reached.items():
                self._next[stream] = number
            left = deadline - asyncio.get_running_loop().time()
            if taken or left <= 0:
                return taken
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                return []

    async def acknowledge(self, positions: Sequence[Position]) -> None:
        """Delete what the vault holds: every message up to and including each position, and their keys."""
        mine = [p for p in positions if p.bus == self.name]
        if mine:
            await self._run(self._forget, mine)

    async def lag(self) -> Mapping[str, int]:
        """Return how many messages have still to be taken, by institution."""
        return await self._run(self._behind, dict(self._next))

    async def put(self, institution: str, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> Position:
        """Append a message; returns once it is durable. Messages put meanwhile share one commit.

        Raises:
            Unavailable: Closed, or not started within 30 s; nothing was put.
        """
        await self._wait_for_start()
        done: asyncio.Future[Position] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Put(institution, _Content(value, tuple(headers)), done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_waiting())
        return await done

    async def put_notice(
        self, institution: str, kind: Notice, value: bytes, headers: Sequence[tuple[str, bytes]]
    ) -> None:
        """Do nothing: nobody but this service reads the spool."""

    def origins(self) -> Origins:
        """Return nothing: a stream of the spool is never made anew."""
        return NO_ORIGINS

    def unread(self) -> Mapping[str, str]:
        """Return nothing: all streams of the spool are one file."""
        return {}

    def halted(self) -> Sequence[Position]:
        """Return nothing: the spool deletes only what was acknowledged."""
        return ()

    async def oldest(self, halted: Position) -> Position:
        """Return the position as it is: no stream of the spool is ever halted."""
        return halted

    async def go_on(self, position: Position) -> None:
        """Do nothing: no stream of the spool is ever halted."""

    async def can_write(self) -> bool:
        """Tell whether the last message was put; if it was not, try to write its stream's row once more."""
        if self._is_failing or not self._file.is_in_place():
            try:
                await self._run(self._touch)
            except Unavailable:
                return False
        return True

    async def close(self) -> None:
        """Finish what is being written and release the file; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._started.set()
        if self._writer is not None:
            await self._writer
        await asyncio.to_thread(self._thread.shutdown)
        self._connection.close()

    # --- on the event loop

    async def _wait_for_start(self) -> None:
        try:
            async with asyncio.timeout(_START_S):
                await self._started.wait()
        except TimeoutError:
            raise Unavailable("the spool is not being read yet: try again") from None
        if self._closed:
            raise Unavailable("the spool is closed")

    async def _write_waiting(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                positions = await asyncio.get_running_loop().run_in_executor(self._thread, self._append, group)
            except Exception as error:  # noqa: BLE001 - told to each of the callers
                for put in group:
                    if not put.done.done():
                        put.done.set_exception(error)
                continue
            for put, position in zip(group, positions, strict=True):
                if not put.done.done():
                    put.done.set_result(position)
            self._arrived.set()

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        if self._closed:
            raise Unavailable("the spool is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._told, work, *arguments)

    # --- on the spool's thread

    def _told(self, work: Callable[..., T], *arguments: object) -> T:
        with translated(WHAT):
            return work(*arguments)

    def _append(self, group: Sequence[_Put]) -> list[Position]:
        subjects = [f"spool/{self._randomness.token(16).hex()}" for _ in group]
        names = [KeyName(KeyKind.MESSAGE, put.stream, subject) for put, subject in zip(group, subjects, strict=True)]
        keys = self._keys.ensure(names)
        try:
            with translated(WHAT), transaction(self._connection, self._file):
                put = [
                    self._append_one(put, name.subject, keys[name]) for put, name in zip(group, names, strict=True)
                ]
        except Unavailable:
            self._is_failing = True
            raise
        self._is_failing = False
        return put

    def _touch(self) -> None:
        with transaction(self._connection, self._file):
            self._connection.execute("INSERT INTO streams VALUES ('', 0) ON CONFLICT DO UPDATE SET next_number = 0")
            self._connection.execute("DELETE FROM streams WHERE stream = ''")
        self._is_failing = False

    def _append_one(self, put: _Put, subject: str, key: bytes) -> Position:
        row = self._connection.execute(
            "INSERT INTO streams VALUES (?, 1) ON CONFLICT DO UPDATE SET next_number = next_number + 1"
            " RETURNING next_number - 1",
            (put.stream,),
        ).fetchone()
        number = int(row[0])
        content = msgspec.msgpack.encode(put.content)
        value = seal_blob(key, _DOMAIN, _place(put.stream, number), content, self._randomness)
        self._connection.execute("INSERT INTO messages VALUES (?, ?, ?, ?)", (put.stream, number, subject, value))
        return Position(self.name, put.stream, 0, number)

    def _number_on(self, positions: Sequence[Position]) -> None:
        with transaction(self._connection, self._file):
            for position in positions:
                self._connection.execute(
                    "INSERT INTO streams VALUES (?, ?) ON CONFLICT DO UPDATE SET next_number = excluded.next_number"
                    " WHERE excluded.next_number > next_number",
                    (position.stream, position.offset),
                )

    def _oldest(self, stream: str) -> int:
        oldest = self._connection.execute("SELECT min(number) FROM messages WHERE stream = ?", (stream,)).fetchone()
        if oldest[0] is not None:
            return int(oldest[0])
        row = self._connection.execute("SELECT next_number FROM streams WHERE stream = ?", (stream,)).fetchone()
        return 0 if row is None else int(row[0])

    def _read(self, start: dict[str, int], max_messages: int, max_bytes: int) -> tuple[list[Message], dict[str, int]]:
        """Read streams one after the other; the one that gave the last message is read last the next time."""
        taken: list[Message] = []
        reached: dict[str, int] = {}
        size = 0
        for stream, expected in start.items():
            for row in self._rows(stream, expected):
                if len(taken) >= max_messages or (taken and size >= max_bytes):
                    return taken, reached
                message = self._open(stream, expected, *row)
                expected = reached[stream] = expected + 1
                if message is not None:
                    taken.append(message)
                    size += len(message.value)
        return taken, reached

    def _rows(self, stream: str, start: int) -> sqlite3.Cursor:
        sql = "SELECT number, subject, value FROM messages WHERE stream = ? AND number >= ? ORDER BY number"
        return self._connection.execute(sql, (stream, start))

    def _open(self, stream: str, expected: int, number: int, subject: str, value: bytes) -> Message | None:
        """Open one message; None when its key was erased with the chart of a patient it was about."""
        if number != expected:
            raise IntegrityBroken(f"the spool lacks messages {expected} to {number - 1} of a stream")
        try:
            key = self._keys.get(KeyName(KeyKind.MESSAGE, stream, subject))
        except KeyMissing:
            return None
        content = msgspec.msgpack.decode(open_blob(key, _DOMAIN, _place(stream, number), value), type=_Content)
        return Message(Position(self.name, stream, 0, number), stream, content.value, content.headers)

    def _behind(self, taken: Mapping[str, int]) -> dict[str, int]:
        ends = dict(self._connection.execute("SELECT stream, next_number FROM streams"))
        return {stream: max(0, ends.get(stream, number) - number) for stream, number in taken.items()}

    def _forget(self, positions: Sequence[Position]) -> None:
        """Erase keys first: a crash in between leaves rows that nobody opens, never keys that nobody finds."""
        last: dict[str, int] = {}
        for position in positions:
            last[position.stream] = max(position.offset, last.get(position.stream, -1))
        names = [name for place in last.items() for name in self._key_names(place)]
        if not names:
            return
        self._keys.erase_all(names)
        with transaction(self._connection, self._file):
            for place in last.items():
                self._connection.execute("DELETE FROM messages WHERE stream = ? AND number <= ?", place)

    def _key_names(self, place: tuple[str, int]) -> list[KeyName]:
        rows = self._connection.execute("SELECT subject FROM messages WHERE stream = ? AND number <= ?", place)
        return [KeyName(KeyKind.MESSAGE, place[0], subject) for (subject,) in rows]


def _place(stream: str, number: int) -> str:
    return f"{stream}/{number}"
