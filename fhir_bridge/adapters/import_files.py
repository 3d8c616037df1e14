"""Bodies of imports on disk: an SQLite file a job, its lines in sealed chunks, deleted when the job has ended.

A file of its own for each job, because what millions of lines took is given
back at once by deleting it; in a shared file it would stay, and be overwritten
row by row first.

Invariants:
    * a line that :meth:`ImportFiles.add` returned for survives loss of power;
    * each chunk is sealed under a message key of its own, which dies with it; a line is erased from one by sealing
      its neighbours under a new key and erasing the old.
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
        """Erase the keys, then the file: a crash in between leaves rows that nobody opens."""
        await self._run(self._discard, job)

    async def jobs(self) -> Sequence[str]:
        """Return the jobs that have a file."""
        return await self._run(self._jobs)

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
        rows = connection.execute("SELECT first, last, subject, value FROM chunks ORDER BY first").fetchall
        for first, last, subject, value in rows():
            if not any(first <= number <= last for number in numbers):
                continue
            name = self._new_name(job)
            left = [
                Line(line.number, b"", is_erased=True) if line.number in numbers else line
                for line in self._opened(job, subject, value)
            ]
            with transaction(connection):
                row = (name.subject, self._sealed(name, left), first)
                connection.execute("UPDATE chunks SET subject = ?, value = ? WHERE first = ?", row)
            self._keys.erase(KeyName(KeyKind.MESSAGE, name.institution, subject))

    def _new_name(self, job: str) -> KeyName:
        subject = f"import/{job}/{self._randomness.token(8).hex()}"
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
        with suppress(IntegrityBroken, SetupWrong), translated(WHAT):
            # A damaged file names no keys; without it they open nothing.
            self._erase_keys(job)
        if job in self._open:
            self._open.pop(job).close()
        for ending in ("-wal", "-shm", ""):
            self._path(job, ending).unlink(missing_ok=True)

    def _erase_keys(self, job: str) -> None:
        institution = self._institution(job)
        subjects = self._connection(job).execute("SELECT subject FROM chunks ORDER BY first")
        while some := subjects.fetchmany(_KEYS_AT_ONCE):
            self._keys.erase_all([KeyName(KeyKind.MESSAGE, institution, subject) for (subject,) in some])

    def _jobs(self) -> list[str]:
        if not self._folder.exists():
            return []
        return sorted(each.stem for each in self._folder.glob("*.db") if _JOB.fullmatch(each.stem))

    def _path(self, job: str, ending: str = "") -> Path:
        return self._folder / f"{job}.db{ending}"
