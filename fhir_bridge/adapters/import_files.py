"""Bodies of imports on disk: an SQLite file a job, its lines in sealed chunks, deleted when the job has ended.

A file of its own for each job, because what millions of lines took is given
back at once by deleting it; in a shared file it would stay, and be overwritten
row by row first.

Invariants:
    * a line that :meth:`ImportFiles.add` returned for survives loss of power;
    * each chunk is sealed under a message key of its own, which dies with it; a line is erased from one by sealing
      its neighbours under a new key and erasing the old;
    * a file goes before its keys: on a disk that is full, nothing can be erased until something is deleted.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from fhir_bridge.adapters.ambient import SystemRandomness
from fhir_bridge.adapters.sqlite_support import Connect, connect_file, open_database, transaction, translated
from fhir_bridge.errors import IntegrityBroken, SetupWrong, Unavailable
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.imports import Line
from fhir_bridge.ports.keys import KeyKind, KeyName, KeyStore
from fhir_bridge.seal import open_blob, seal_blob

WHAT = "import"
VERSION = 1
SCHEMA = """
CREATE TABLE job (institution TEXT NOT NULL) STRICT;
CREATE TABLE chunks (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, subject TEXT NOT NULL, value BLOB NOT NULL) STRICT
"""

_DOMAIN = "import-lines"
_JOB = re.compile(r"[0-9a-f]{32}")
_KEYS_AT_ONCE = 1_000
_PREFIX = "import/"
T = TypeVar("T")


class ImportFiles:
    """Keeps the ImportStore port's promises in one folder; one process uses it."""

    def __init__(
        self, folder: Path, keys: KeyStore, *, randomness: Randomness | None = None, connect: Connect = connect_file
    ) -> None:
        self._folder = folder
        self._keys = keys
        self._randomness = randomness or SystemRandomness()
        self._connect = connect
        self._open: dict[str, sqlite3.Connection] = {}
        self._thread = ThreadPoolExecutor(1, "imports")
        self._closed = False

    async def begin(self, job: str, institution: str) -> None:
        """Make the file of a new job."""
        await self._run(self._begin, job, institution)

    async def add(self, job: str, lines: Sequence[Line]) -> None:
        """Append lines in one durable commit."""
        await self._run(self._add, job, lines)

    async def read(self, job: str, after: int) -> Sequence[Line]:
        """Return the lines behind number ``after`` that were added together."""
        return await self._run(self._read, job, after)

    async def erase(self, job: str, numbers: Collection[int]) -> None:
        """Seal what stood beside these lines anew, then erase the keys that opened them."""
        await self._run(self._erase, job, numbers)

    async def discard(self, job: str) -> None:
        """Delete the file, then erase the keys: a crash in between leaves keys that open nothing, for ``tidy``."""
        await self._run(self._discard, job)

    async def tidy(self, known: Collection[str], institutions: Collection[str]) -> None:
        """Discard the files of other jobs, then erase what keys of theirs are left."""
        await self._run(self._tidy, known, institutions)

    async def close(self) -> None:
        """Finish what is being written and release the files; a second call does nothing."""
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self._thread.shutdown)
            for connection in self._open.values():
                connection.close()

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        if self._closed:
            raise Unavailable("the files of imports are closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._told, work, *arguments)

    # --- on the thread of this store

    def _told(self, work: Callable[..., T], *arguments: object) -> T:
        try:
            with translated(WHAT):
                return work(*arguments)
        except OSError as error:
            raise Unavailable("the files of imports cannot be used") from error

    def _connection(self, job: str) -> sqlite3.Connection:
        if job not in self._open:
            self._open[job] = open_database(
                self._path(job), what=WHAT, version=VERSION, schema=SCHEMA, secure_delete=True, connect=self._connect
            )
        return self._open[job]

    def _begin(self, job: str, institution: str) -> None:
        with transaction(self._connection(job)):
            self._connection(job).execute("INSERT INTO job VALUES (?)", (institution,))

    def _institution(self, job: str) -> str:
        """Return whose job it is; empty for one that was cut off before it had a line."""
        row = self._connection(job).execute("SELECT institution FROM job").fetchone()
        return "" if row is None else str(row[0])

    def _add(self, job: str, lines: Sequence[Line]) -> None:
        name = self._new_name(job)
        value = self._sealed(name, lines)
        connection = self._connection(job)
        with transaction(connection):
            row = (lines[0].number, lines[-1].number, name.subject, value)
            connection.execute("INSERT INTO chunks VALUES (?, ?, ?, ?)", row)

    def _read(self, job: str, after: int) -> list[Line]:
        if not self._path(job).exists():
            raise IntegrityBroken("the lines of an import are not there")
        sql = "SELECT subject, value FROM chunks WHERE last > ? ORDER BY first LIMIT 1"
        row = self._connection(job).execute(sql, (after,)).fetchone()
        return [] if row is None else [line for line in self._opened(job, *row) if line.number > after]

    def _erase(self, job: str, numbers: Collection[int]) -> None:
        connection = self._connection(job)
        chunks = connection.execute("SELECT first, last FROM chunks").fetchall()
        for first in [first for first, last in chunks if any(first <= number <= last for number in numbers)]:
            (found,) = connection.execute("SELECT subject, value FROM chunks WHERE first = ?", (first,)).fetchall()
            name = self._new_name(job)
            left = [
                Line(line.number, b"", is_erased=True) if line.number in numbers else line
                for line in self._opened(job, *found)
            ]
            with transaction(connection):
                row = (name.subject, self._sealed(name, left), first)
                connection.execute("UPDATE chunks SET subject = ?, value = ? WHERE first = ?", row)
        used = {subject for (subject,) in connection.execute("SELECT subject FROM chunks")}
        # Also those that an erasing which was cut off has left.
        for key in self._keys.names(KeyKind.MESSAGE, self._institution(job), _subject(job)):
            if key.subject not in used:
                self._keys.erase(key)

    def _new_name(self, job: str) -> KeyName:
        subject = _subject(job) + self._randomness.token(8).hex()
        return KeyName(KeyKind.MESSAGE, self._institution(job), subject)

    def _sealed(self, name: KeyName, lines: Sequence[Line]) -> bytes:
        content = msgspec.msgpack.encode([(x.number, x.body, x.is_too_long, x.is_erased) for x in lines])
        return seal_blob(self._keys.ensure([name])[name], _DOMAIN, name.subject, content, self._randomness)

    def _opened(self, job: str, subject: str, value: bytes) -> list[Line]:
        key = self._keys.get(KeyName(KeyKind.MESSAGE, self._institution(job), subject))
        content = open_blob(key, _DOMAIN, subject, value)
        return [Line(*row) for row in msgspec.msgpack.decode(content, type=list[tuple[int, bytes, bool, bool]])]

    def _discard(self, job: str) -> None:
        if not self._path(job).exists():
            return
        institution = ""
        # A damaged file does not say whose it is; its keys open nothing any more, and go at the next start.
        with suppress(IntegrityBroken, SetupWrong), translated(WHAT):
            institution = self._institution(job)
        if job in self._open:
            self._open.pop(job).close()
        for ending in ("-wal", "-shm", ""):
            self._path(job, ending).unlink(missing_ok=True)
        self._erase_keys(self._keys.names(KeyKind.MESSAGE, institution, _subject(job)))

    def _tidy(self, known: Collection[str], institutions: Collection[str]) -> None:
        for file in sorted(self._folder.glob("*.db")):
            if _JOB.fullmatch(file.stem) and file.stem not in known:
                self._discard(file.stem)
        for institution in sorted(institutions):
            keys = self._keys.names(KeyKind.MESSAGE, institution, _PREFIX)
            # Counts and results are under a key with the name of the job alone: not ours.
            mine = [key for key in keys if key.subject.count("/") == _subject("").count("/")]
            self._erase_keys([key for key in mine if key.subject.split("/")[1] not in known])

    def _erase_keys(self, keys: Sequence[KeyName]) -> None:
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            self._keys.erase_all(keys[start : start + _KEYS_AT_ONCE])

    def _path(self, job: str, ending: str = "") -> Path:
        return self._folder / f"{job}.db{ending}"


def _subject(job: str) -> str:
    """Return how the names of the keys of a job's chunks begin."""
    return f"{_PREFIX}{job}/"
