"""Blocks in one SQLite file; the default store.

WAL with synchronous=FULL: ``commit`` returns once the block survives loss of
power (NORMAL lost every acknowledged write in a simulated one). One process at
a time may write; a lock file beside the database says so, and the system frees
it however the process ends. Reads go over a connection of their own, so a
proof does not wait for a disk that is writing.

Keys are chosen so that a commit touches few pages however large the ledger is:
entries, blocks, tiles and state rows grow at their right edge, and submissions
are found by signer and nonce, which rise, not by a random digest.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ledger_core.errors import IntegrityBroken, LedgerClosed, LedgerUnavailable, OpeningRefused
from ledger_core.ports import Commit
from ledger_core.stores import schema
from ledger_core.stores.files import Connect, appearing, connect_file, connect_unchanging, lock
from ledger_core.stores.rows import Row, SqlRows, bounded, write_block, write_rows


class SqliteStore(SqlRows):
    """The rows of one ledger; ``commit`` from one thread, reads from any."""

    # SQLite gives the other columns of the row that holds the minimum (documented for a lone min()).
    _changed = "SELECT path, before, min(height) FROM state WHERE height > ? GROUP BY path"

    def __init__(
        self,
        path: Path,
        connect: Connect,
        reading: sqlite3.Connection,
        writing: sqlite3.Connection | None,
        lock_fd: int | None,
    ) -> None:
        self.path = path
        self._connect = connect
        self._reading, self._writing = reading, writing
        self._lock_fd = lock_fd
        self._place = _place(path)
        self._read_mutex, self._write_mutex = threading.Lock(), threading.Lock()

    @classmethod
    def open(cls, path: Path, *, connect: Connect = connect_file) -> "SqliteStore":
        """Open ``path`` for writing, creating it if it is missing, and keep others out.

        Raises:
            LedgerLocked: Another process, or another opening in this one, has it.
            OpeningRefused: The file is of another format.
            IntegrityBroken: The file is cut, or no longer of SQLite's form.
            LedgerUnavailable: The file cannot be opened.
        """
        # One lock for one file, by whichever link it is opened.
        path = Path(os.path.realpath(path))
        lock_fd = lock(path)
        opened: list[sqlite3.Connection] = []
        try:
            # Made here, not by SQLite, so that only the owner can read it; -wal and -shm follow its mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            opened.append(connect(path, False))
            # Fetched, because SQLite makes the change when the statement ends; unread, a failure there would not
            # show, and a commit with a rollback journal in its place does not survive every loss of power.
            if opened[0].execute("PRAGMA journal_mode=WAL").fetchall() != [("wal",)]:
                raise LedgerUnavailable("the ledger's database does not take a write-ahead log")
            opened[0].execute("PRAGMA synchronous=FULL")
            opened.append(connect(path, True))
            store = cls(path, connect, opened[1], opened[0], lock_fd)
            store._prepare()
        except BaseException as cause:
            for connection in opened:
                connection.close()
            os.close(lock_fd)
            if _is_damage(cause):
                raise IntegrityBroken(f"{path} is damaged, or no database: restore a snapshot") from cause
            if isinstance(cause, sqlite3.Error | OSError):
                why = getattr(cause, "sqlite_errorname", None) or getattr(cause, "strerror", None) or "closed"
                raise LedgerUnavailable(f"the ledger's database cannot be opened ({why})") from cause
            raise
        return store

    @classmethod
    def open_to_read(cls, path: Path, *, connect: Connect = connect_file) -> "SqliteStore":
        """Open an existing ledger for reading only, beside a writer if there is one.

        All reads see one snapshot, taken at the first.

        Raises:
            OpeningRefused: The file is missing or of another format.
        """
        if not path.is_file():
            raise OpeningRefused(f"there is no ledger at {path}")
        if not os.access(path, os.R_OK):
            raise OpeningRefused(f"{path} may not be read by this user")
        try:
            return cls._opened_to_read(path, connect)
        except (sqlite3.Error, UnicodeDecodeError) as cause:
            if _is_damage(cause):
                raise OpeningRefused(f"{path} is damaged, or no ledger: restore a snapshot") from cause
            # A folder that cannot be written to: SQLite cannot make the files it shares with a writer. There is
            # none then, unless its log is there too.
            log = path.with_name(f"{path.name}-wal")
            if connect is connect_file and not (log.exists() and log.stat().st_size):
                with contextlib.suppress(sqlite3.Error):
                    return cls._opened_to_read(path, connect_unchanging)
            raise OpeningRefused(f"{path} is not a ledger, or a folder without write access holds its log") from cause

    @classmethod
    def _opened_to_read(cls, path: Path, connect: Connect) -> "SqliteStore":
        connection = connect(path, True)
        try:
            connection.execute("BEGIN")
            rows = connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchall()
            if rows == [(schema.FORMAT_2,)]:
                schema.show(connection)
            elif rows != [(schema.FORMAT,)]:
                raise _other_format(str(path), rows[0][0] if rows else None)
        except BaseException:
            connection.close()
            raise
        return cls(path, connect, connection, None, None)

    def bring_down(self) -> None:
        """Bring the file down to v2, for an older build; this store is of no use afterwards.

        Raises:
            LedgerUnavailable: It could not be, and the file is as it was.
        """
        with self._write_mutex, self._read_mutex, _translated("the ledger could not be brought down"):
            assert self._writing is not None
            schema.downgrade(self._writing)

    def close(self) -> None:
        """Close the file and let others open it."""
        with self._write_mutex, self._read_mutex:
            # Readers first: the last connection to close folds the write-ahead log into the file.
            self._reading.close()
            if self._writing is not None:
                self._writing.close()
            if self._lock_fd is not None:
                os.close(self._lock_fd)
                self._lock_fd = None

    def begin(self, meta: Mapping[str, str], commit: Commit) -> None:
        """Write the settings and block 0 of a new ledger."""
        with self._transaction() as connection:
            rows = {**meta, "format": schema.FORMAT}.items()
            connection.executemany("INSERT INTO meta VALUES (?, ?)", list(rows))
            write_block(connection, commit)

    def snapshot(self, target: Path) -> None:
        """Write a copy, as of one block, to the new file ``target``; the name appears once it is whole."""
        with _translated("the copy could not be written"), appearing(target) as part:
            self._copy(part)

    def is_in_place(self) -> bool:
        """Tell whether the path still leads to the file that was opened."""
        return _place(self.path) == self._place

    def renew(self) -> None:
        """Look at the rows as they are now, where all reads see one moment."""
        with self._read_mutex, _translated("the store cannot be read"):
            # Not a rollback: it would take away the views that show an older format.
            self._reading.execute("COMMIT")
            self._reading.execute("BEGIN")

    def _copy(self, target: Path) -> None:
        # A connection of its own: VACUUM runs in no transaction, and must not hold up other reads.
        connection = self._connect_again()
        try:
            connection.execute("VACUUM INTO ?", (str(target),))
        finally:
            connection.close()

    def damage(self) -> Iterator[str]:
        """Yield what SQLite finds wrong with its file."""
        for (line,) in self._scan("PRAGMA integrity_check"):
            if line != "ok":
                yield str(line).replace("\n", "; ")

    def _prepare(self) -> None:
        assert self._writing is not None
        if self._read("SELECT count(*) FROM sqlite_schema")[0][0] == 0:
            schema.create(self._writing)
        elif self.meta("format") == schema.FORMAT_2 or self._is_unbegun_2():
            schema.upgrade(self._writing)
        elif self.meta("format") != schema.FORMAT and self.last_block() is not None:
            raise _other_format("the file", self.meta("format"))

    def _is_unbegun_2(self) -> bool:
        """Tell whether the file has the tables of v2 and nothing in them: its making was cut off."""
        if self.meta("format") is not None or self.last_block() is not None:
            return False
        return not self._read("SELECT 1 FROM pragma_table_info('state') WHERE name = 'before'")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Give the writing connection; commit at the end, roll back and translate on failure."""
        # SQLite goes on with a file that has no name any more, and what it commits is lost with the process.
        if not self.is_in_place():
            raise LedgerUnavailable("the ledger's file was removed or replaced")
        with self._write_mutex, _translated("the store did not keep a block"):
            if self._writing is None:
                raise LedgerUnavailable("the ledger is open for reading only")
            with schema.transaction(self._writing):
                yield self._writing

    def _read(self, query: str, values: Sequence[object] = ()) -> list[Row]:
        with self._read_mutex, _translated("the store cannot be read"):
            return self._reading.execute(query, [bounded(value) for value in values]).fetchall()

    def _scan(self, query: str, values: Sequence[object] = ()) -> Iterator[Row]:
        # A connection with an unfinished SELECT goes on seeing the moment it began: a scan that pauses
        # would hide new blocks from every other read. So a scan beside a writer has one of its own.
        with self._scanner() as connection:
            with self._read_mutex, _translated("the store cannot be read"):
                cursor = connection.execute(query, [bounded(value) for value in values])
            while True:
                with self._read_mutex, _translated("the store cannot be read"):
                    rows = cursor.fetchmany(1000)
                if not rows:
                    return
                yield from rows

    @contextmanager
    def _scanner(self) -> Iterator[sqlite3.Connection]:
        if self._writing is None:
            yield self._reading
            return
        with _translated("the store cannot be read"):
            connection = self._connect_again()
        try:
            yield connection
        finally:
            connection.close()

    def _connect_again(self) -> sqlite3.Connection:
        """Open a further connection to read over; a closed store has none."""
        with self._read_mutex:
            self._reading.execute("SELECT 1").fetchone()
            return self._connect(self.path, True)


def _other_format(where: str, found: str | None) -> OpeningRefused:
    kind, _, number = (found or "").rpartition("/v")
    if f"{kind}/v" != schema.FORMAT[: -len("3")] or not number.isdecimal():
        return OpeningRefused(f"{where} is not a ledger")
    if int(number) > 3:
        return OpeningRefused(f"{where} was written by a newer version ({found}): open it with that one")
    return OpeningRefused(f"{where} is of a format that is read no more ({found}): export it with what wrote it")


def _place(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_damage(cause: BaseException) -> bool:
    """Say whether SQLite found bytes no database has; what it says of a garbled schema may itself be no text."""
    code = getattr(cause, "sqlite_errorcode", None)
    return isinstance(cause, UnicodeDecodeError) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@contextmanager
def _translated(failure: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.ProgrammingError as cause:
        raise LedgerClosed("the ledger is closed") from cause
    except (sqlite3.Error, OSError, OverflowError, UnicodeDecodeError) as cause:
        raise LedgerUnavailable(failure) from cause


def write_file(path: Path, source: SqlRows) -> None:
    """Write every row of ``source``, which sees one moment, into the empty file ``path``."""
    with contextlib.closing(connect_file(path, False)) as connection:
        schema.create(connection)
        with schema.transaction(connection):
            connection.execute("INSERT INTO meta VALUES ('format', ?)", (schema.FORMAT,))
            write_rows(connection, source)
