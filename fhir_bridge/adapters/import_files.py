"""Bodies of imports on disk: an SQLite file a job, a sealed row a line, deleted as a whole when the job has ended.

A file of its own for each job, because what millions of lines took is given
back at once by deleting it; in a shared file it would stay, and be overwritten
row by row first.

Invariants:
    * a line that :meth:`ImportFiles.add` returned for survives loss of power;
    * each is sealed under a message key of its own, which dies with it: erasing that key reaches a line that waits.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from fhir_bridge.adapters.ambient import SystemRandomness
from fhir_bridge.adapters.sqlite_support import Connect, connect_file, open_database, transaction, translated
from fhir_bridge.errors import IntegrityBroken, KeyMissing, Unavailable
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.imports import Line
from fhir_bridge.ports.keys import KeyKind, KeyName, KeyStore
from fhir_bridge.seal import open_blob, seal_blob

WHAT = "import"
VERSION = 1
SCHEMA = """
CREATE TABLE job (institution TEXT NOT NULL) STRICT;
CREATE TABLE lines (number INTEGER PRIMARY KEY, too_long INTEGER NOT NULL, value BLOB NOT NULL) STRICT
"""

_DOMAIN = "import-line"
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

    async def read(self, job: str, after: int, *, max_lines: int, max_bytes: int) -> Sequence[Line]:
        """Return the next lines behind number ``after``."""
        return await self._run(self._read, job, after, max_lines, max_bytes)

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
                self._path(job), what=WHAT, version=VERSION, schema=SCHEMA, connect=self._connect
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
        institution = self._institution(job)
        names = [_key_name(job, institution, line.number) for line in lines]
        keys = self._keys.ensure(names)
        rows = [
            (
                line.number,
                int(line.is_too_long),
                seal_blob(keys[name], _DOMAIN, name.subject, line.body, self._randomness),
            )
            for line, name in zip(lines, names, strict=True)
        ]
        connection = self._connection(job)
        with transaction(connection):
            connection.executemany("INSERT INTO lines VALUES (?, ?, ?)", rows)

    def _read(self, job: str, after: int, max_lines: int, max_bytes: int) -> list[Line]:
        if not self._path(job).exists():
            raise IntegrityBroken("the lines of an import are not there")
        institution = self._institution(job)
        sql = "SELECT number, too_long, value FROM lines WHERE number > ? ORDER BY number LIMIT ?"
        found: list[Line] = []
        size = 0
        for number, too_long, value in self._connection(job).execute(sql, (after, max_lines)):
            line = self._opened(_key_name(job, institution, number), number, bool(too_long), value)
            if found and size + len(line.body) > max_bytes:
                break
            size += len(line.body)
            found.append(line)
        return found

    def _opened(self, name: KeyName, number: int, is_too_long: bool, value: bytes) -> Line:
        try:
            key = self._keys.get(name)
        except KeyMissing:
            return Line(number, b"", is_erased=True)
        return Line(number, open_blob(key, _DOMAIN, name.subject, value), is_too_long)

    def _discard(self, job: str) -> None:
        if not self._path(job).exists():
            return
        connection = self._connection(job)
        institution = self._institution(job)
        numbers = connection.execute("SELECT number FROM lines ORDER BY number")
        while some := numbers.fetchmany(_KEYS_AT_ONCE):
            self._keys.erase_all([_key_name(job, institution, number) for (number,) in some])
        connection.close()
        del self._open[job]
        for ending in ("-wal", "-shm", ""):
            self._path(job, ending).unlink(missing_ok=True)

    def _jobs(self) -> list[str]:
        if not self._folder.exists():
            return []
        return sorted(each.stem for each in self._folder.glob("*.db") if _JOB.fullmatch(each.stem))

    def _path(self, job: str, ending: str = "") -> Path:
        return self._folder / f"{job}.db{ending}"


def _key_name(job: str, institution: str, number: int) -> KeyName:
    return KeyName(KeyKind.MESSAGE, institution, f"import/{job}/{number}")
