"""Blocks in one SQLite file; the default store.

WAL with synchronous=FULL: ``commit`` returns once the block survives loss of
power (NORMAL lost every acknowledged write in a simulated one). One process at
a time may write; a lock file beside the database says so, and the system frees
it however the process ends.

Invariants:
    * entries, index, state, block row and checkpoint of a block commit together;
    * rows are only added, except state rows, which hold the latest value.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from ledger_core.errors import LedgerClosed, LedgerLocked, LedgerUnavailable, OpeningRefused
from ledger_core.machine import BlockResult, BlockRow

FORMAT: Final = "ledger-core/sqlite/v1"

_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE entries (
    idx INTEGER PRIMARY KEY, height INTEGER NOT NULL, entry BLOB NOT NULL, leaf BLOB NOT NULL) STRICT;
CREATE TABLE envelopes (digest BLOB PRIMARY KEY, idx INTEGER NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE blocks (
    height INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, size INTEGER NOT NULL, log_root BLOB NOT NULL,
    state_root BLOB NOT NULL, app_hash BLOB NOT NULL) STRICT;
CREATE TABLE state (path BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE checkpoints (size INTEGER PRIMARY KEY, note TEXT NOT NULL) STRICT;
"""

EntryRow: TypeAlias = tuple[int, int, bytes, bytes]
# The driver cannot type a row; STRICT tables fix what each column holds.
_Row: TypeAlias = tuple[Any, ...]


class SqliteStore:
    """The rows of one ledger; ``commit`` from one thread, reads from any."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock_fd: int | None) -> None:
        self.path = path
        self._connection = connection
        self._lock_fd = lock_fd
        self._mutex = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> "SqliteStore":
        """Open ``path`` for writing, creating it if it is missing, and keep others out.

        Raises:
            LedgerLocked: Another process, or another opening in this one, has it.
            OpeningRefused: The file is of another format.
            LedgerUnavailable: The file cannot be opened.
        """
        lock_fd = _lock(path)
        try:
            # Made here, not by SQLite, so that only the owner can read it; -wal and -shm follow its mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = _connect(f"{path.absolute().as_uri()}?mode=rw")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            store = cls(path, connection, lock_fd)
            store._prepare()
        except BaseException as cause:
            os.close(lock_fd)
            if isinstance(cause, sqlite3.Error | OSError):
                raise LedgerUnavailable("the ledger's database cannot be opened") from cause
            raise
        return store

    @classmethod
    def open_to_read(cls, path: Path) -> "SqliteStore":
        """Open an existing ledger for reading only, beside a writer if there is one.

        All reads see one snapshot, taken at the first.

        Raises:
            OpeningRefused: The file is missing or of another format.
        """
        try:
            connection = _connect(f"{path.absolute().as_uri()}?mode=ro")
            connection.execute("BEGIN")
            store = cls(path, connection, None)
            if store.meta("format") != FORMAT:
                raise OpeningRefused("the file is not a ledger of this format")
        except (sqlite3.Error, LedgerUnavailable) as cause:
            raise OpeningRefused("the file is not a ledger") from cause
        return store

    def close(self) -> None:
        """Close the file and let others open it."""
        with self._mutex:
            self._connection.close()
            if self._lock_fd is not None:
                os.close(self._lock_fd)
                self._lock_fd = None

    def meta(self, name: str) -> str | None:
        """Return a setting kept with the ledger, or None."""
        rows = self._read("SELECT value FROM meta WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else None

    @property
    def origin(self) -> str:
        """The log's name in checkpoints."""
        return self.meta("origin") or ""

    @property
    def log_public(self) -> bytes:
        """The key that checkpoints verify under."""
        return bytes.fromhex(self.meta("log_key") or "")

    def begin(self, meta: dict[str, str], block: BlockResult, note: str) -> None:
        """Write the settings and block 0 of a new ledger."""
        with self._mutex, self._transaction():
            rows = {**meta, "format": FORMAT}.items()
            self._connection.executemany("INSERT INTO meta VALUES (?, ?)", list(rows))
            self._write(block, note)

    def commit(self, block: BlockResult, note: str) -> None:
        """Keep a block; returns once it survives loss of power.

        Raises:
            LedgerUnavailable: Nothing of the block was kept, or the disk failed while
                it was written; the ledger must be opened again to know.
        """
        with self._mutex, self._transaction():
            self._write(block, note)

    def size(self) -> int:
        """Return the number of log entries."""
        return int(self._read("SELECT coalesce(max(idx) + 1, 0) FROM entries")[0][0])

    def entry(self, index: int) -> bytes | None:
        """Return log entry ``index``, or None."""
        rows = self._read("SELECT entry FROM entries WHERE idx = ?", (index,))
        return bytes(rows[0][0]) if rows else None

    def find(self, digest: bytes) -> tuple[int, int] | None:
        """Return entry index and block height of an accepted envelope, or None."""
        rows = self._read(
            "SELECT v.idx, e.height FROM envelopes v JOIN entries e ON e.idx = v.idx WHERE v.digest = ?",
            (digest,),
        )
        return (int(rows[0][0]), int(rows[0][1])) if rows else None

    def last_block(self) -> BlockRow | None:
        """Return the row of the highest block, or None in an empty store."""
        rows = self._read("SELECT * FROM blocks ORDER BY height DESC LIMIT 1")
        return BlockRow(*rows[0]) if rows else None

    def blocks(self) -> Iterator[BlockRow]:
        """Yield every block row by height."""
        for row in self._scan("SELECT * FROM blocks ORDER BY height"):
            yield BlockRow(*row)

    def entries(self) -> Iterator[EntryRow]:
        """Yield (index, height, entry, leaf hash) in order of index."""
        yield from self._scan("SELECT idx, height, entry, leaf FROM entries ORDER BY idx")

    def leaves(self) -> Iterator[bytes]:
        """Yield the leaf hashes in order."""
        for (leaf,) in self._scan("SELECT leaf FROM entries ORDER BY idx"):
            yield leaf

    def envelopes(self) -> Iterator[tuple[bytes, int]]:
        """Yield (envelope digest, entry index)."""
        yield from self._scan("SELECT digest, idx FROM envelopes ORDER BY digest")

    def state(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (path, value) of the latest state, by path."""
        yield from self._scan("SELECT path, value FROM state ORDER BY path")

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Yield (size, note) by size."""
        yield from self._scan("SELECT size, note FROM checkpoints ORDER BY size")

    def _prepare(self) -> None:
        tables = self._read("SELECT count(*) FROM sqlite_schema")
        if tables[0][0] == 0:
            self._connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        elif self.last_block() is not None and self.meta("format") != FORMAT:
            raise OpeningRefused("the file is not a ledger of this format")

    def _write(self, block: BlockResult, note: str) -> None:
        run, row = self._connection.executemany, block.state.row()
        first = row.size - len(block.entries)
        numbered = enumerate(zip(block.entries, block.leaves, strict=True), first)
        run(
            "INSERT INTO entries VALUES (?, ?, ?, ?)",
            [(index, row.height, entry, leaf) for index, (entry, leaf) in numbered],
        )
        accepted = [(item.digest, item.index) for item in block.results if item.index is not None]
        run("INSERT INTO envelopes VALUES (?, ?)", accepted)
        run(
            "INSERT INTO state VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET value = excluded.value",
            list(block.updates.items()),
        )
        roots = (row.log_root, row.state_root, row.app_hash)
        run("INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?)", [(row.height, row.time_ms, row.size, *roots)])
        run("INSERT INTO checkpoints VALUES (?, ?)", [(row.size, note)])

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._connection)

    def _read(self, query: str, values: Sequence[object] = ()) -> list[_Row]:
        with self._mutex, _translated():
            return self._connection.execute(query, tuple(values)).fetchall()

    def _scan(self, query: str) -> Iterator[_Row]:
        with self._mutex, _translated():
            cursor = self._connection.execute(query)
        while True:
            with self._mutex, _translated():
                rows = cursor.fetchmany(1000)
            if not rows:
                return
            yield from rows


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.ProgrammingError as cause:
        raise LedgerClosed("the ledger is closed") from cause
    except sqlite3.Error as cause:
        raise LedgerUnavailable("the store cannot be read") from cause


class _Transaction:
    """One SQLite transaction: commits at the end, rolls back and translates on failure."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as cause:
            raise LedgerUnavailable("the store did not begin a transaction") from cause

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                self._connection.execute("COMMIT")
            elif self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as cause:
            raise LedgerUnavailable("the store did not commit a block") from cause
        if isinstance(error, sqlite3.Error):
            raise LedgerUnavailable("the store did not keep a block") from error


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=5.0)


def _lock(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as cause:
        raise LedgerUnavailable("the ledger's lock file cannot be opened") from cause
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as cause:
        os.close(lock_fd)
        raise LedgerLocked("another process has this ledger open") from cause
    return lock_fd
