"""SQLite as the vault's database: one file in WAL mode, where neither reader nor writer waits for the other."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import cast

from fhir_bridge.adapters.sqlite_support import (
    Connect,
    OpenFile,
    check_stamp,
    connect_file,
    connect_for_checking,
    connect_for_reading,
    open_database,
    snapshot,
    transaction,
    translated,
)
from fhir_bridge.adapters.vault_database import Connection
from fhir_bridge.adapters.vault_schema import MIGRATIONS, SCHEMA, VERSION, WHAT
from fhir_bridge.errors import Unavailable
from fhir_bridge.lines.checking import Finding

_CHECKPOINT_PAGES = 4_000
_MAX_FILE_FINDINGS = 20


class SqliteDatabase:
    """Keeps what :class:`fhir_bridge.adapters.vault_database.VaultDatabase` promises, in one file."""

    answers_at_once = True
    readers = 2

    def __init__(self, path: Path, connect: Connect = connect_file) -> None:
        """Name the file.

        Args:
            connect: Opens it; another driver can lay a disk with faults beneath.
        """
        self._path = path
        self._connect = connect
        self._file: OpenFile | None = None

    def open_writer(self) -> Connection:
        """Return the connection that writes; the file is made if there is none."""
        connection = open_database(
            self._path, what=WHAT, version=VERSION, schema=SCHEMA, connect=self._connect, migrations=MIGRATIONS
        )
        self._file = OpenFile(self._path, WHAT)
        with self.translated():
            # The default of 1,000 pages checkpoints after almost every group of 500 records.
            connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        return connection

    def open_reader(self) -> Connection:
        """Return a connection that cannot write."""
        if self._file is not None:
            self._file.require_in_place()
        return connect_for_reading(self._path, WHAT, self._connect)

    def open_checker(self) -> Connection:
        """Return a connection that cannot write and that reads even text which is not UTF-8."""
        connection = connect_for_checking(self._path, WHAT)
        check_stamp(connection, self._path, what=WHAT, version=VERSION)
        return connection

    def recover(self, writer: Connection) -> Connection:
        """Bring everything in the write-ahead log into the file and sync that.

        A sync that failed forgets what it should have kept: marks that did not wait may be in the log that no later
        sync of it writes, and every commit behind them would be lost with the power.
        """
        busy, *_ = writer.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
        if busy:
            raise Unavailable(f"the {WHAT} is being read while it recovers from a failed write")
        return writer

    @contextmanager
    def transaction(self, writer: Connection, *, waits: bool = True) -> Iterator[None]:
        """Commit what the block writes, or nothing of it."""
        if waits:
            with transaction(_sqlite(writer), self._file):
                yield
            return
        writer.execute("PRAGMA synchronous=NORMAL")
        try:
            with transaction(_sqlite(writer), self._file):
                yield
        finally:
            writer.execute("PRAGMA synchronous=FULL")

    @contextmanager
    def snapshot(self, connection: Connection) -> Iterator[None]:
        """Read one state of the file throughout the block."""
        with snapshot(_sqlite(connection)):
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            yield

    def translated(self) -> AbstractContextManager[None]:
        """Tell sqlite3's errors in our terms."""
        return translated(WHAT)

    def is_outage(self, error: BaseException) -> bool:
        """Tell whether the disk, the lock or the file failed."""
        return isinstance(error, sqlite3.OperationalError | Unavailable)

    def is_in_place(self) -> bool:
        """Tell whether the file that is written is the one that the next start would open."""
        return self._file is None or self._file.is_in_place()

    def damage(self, connection: Connection) -> Iterator[Finding]:
        """Yield what SQLite's own check of the file finds."""
        for (line,) in connection.execute(f"PRAGMA integrity_check({_MAX_FILE_FINDINGS})"):
            if line != "ok":
                yield Finding("vault file", line)

    def size(self, connection: Connection) -> int:
        """Return the bytes of the file and its write-ahead log."""
        files = (self._path, self._path.with_name(self._path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())


def _sqlite(connection: Connection) -> sqlite3.Connection:
    return cast(sqlite3.Connection, connection)
