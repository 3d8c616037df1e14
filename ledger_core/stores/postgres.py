"""Blocks in one schema of a PostgreSQL database (version 15 or later), for those who run a server already.

One process writes: its writing connection holds an advisory lock as long as its
session lasts and commits over that very connection, so whoever lost the lock
cannot commit. A server that goes away is `LedgerAway`; the store connects again
by itself, takes the lock, and goes on if the rows are as it left them.

Invariants:
    * a commit that returned is durable on the server (``synchronous_commit``, never off), and on its standbys
      where they are configured to be waited for;
    * no message repeats the URL or what libpq says of it: there may be a password in it.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

import psycopg

from ledger_core.errors import LedgerAway, LedgerClosed, LedgerLocked, LedgerUnavailable, OpeningRefused
from ledger_core.machine import BlockRow
from ledger_core.ports import Commit
from ledger_core.stores.files import appearing
from ledger_core.stores.rows import Row, SqlRows, bounded, write_block, write_rows
from ledger_core.stores.schema import SCHEMA
from ledger_core.stores.server import ConnectServer, PostgresConnection, check_server, connect_server, take_lock
from ledger_core.stores.sqlite import write_file

FORMAT: Final = "ledger-core/postgres/v1"
_FORMATS: Final = "ledger-core/postgres/"
_WORDS: Final = (
    (" WITHOUT ROWID, STRICT", ""),
    (" STRICT", ""),
    (" INTEGER", " BIGINT"),
    (" BLOB", " BYTEA"),
    (" TEXT", ' TEXT COLLATE "C"'),
)
"""SQLite's words for tables and PostgreSQL's: text is ordered by its bytes in both."""
_AT_ONCE: Final = 1000
_GONE: Final = (psycopg.OperationalError, psycopg.InterfaceError)


class PostgresStore(SqlRows):
    """The rows of one ledger; ``commit`` from one thread, reads from any."""

    _changed = "SELECT DISTINCT ON (path) path, before FROM state WHERE height > ? ORDER BY path, height"

    def __init__(self, url: str, connect: ConnectServer, *, is_writer: bool) -> None:
        self._url, self._connect, self._is_writer = url, connect, is_writer
        self._reading: PostgresConnection | None = None
        self._writing: PostgresConnection | None = None
        self._is_closed = False
        # What the highest block may be when the writing connection is made anew.
        self._ends: tuple[BlockRow | None, ...] = ()
        self._read_mutex, self._write_mutex = threading.Lock(), threading.Lock()

    @classmethod
    def open(cls, url: str, *, connect: ConnectServer = connect_server) -> "PostgresStore":
        """Open the ledger in a database for writing, its tables made if there are none, and keep others out.

        Args:
            url: ``postgresql://USER:PASSWORD@HOST:PORT/DATABASE``, as libpq reads it; ``sslmode`` and the like
                stand in its query.
            connect: For those who bring a connection of their own.

        Raises:
            LedgerLocked: Another process, or another opening in this one, has it.
            OpeningRefused: The database holds something else, or the server would lose what it confirmed.
            LedgerAway: The server does not answer or refuses us.
        """
        store = cls(url, connect, is_writer=True)
        try:
            with _translated("the ledger's database cannot be opened"):
                store._writing = store._open_writer()
                _prepare(store._writing)
                store._ends = (_last_block(store._writing),)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def open_to_read(cls, url: str, *, connect: ConnectServer = connect_server) -> "PostgresStore":
        """Open an existing ledger for reading only, beside a writer if there is one; all reads see one moment.

        Raises:
            OpeningRefused: The database holds no ledger of this format.
            LedgerAway: The server does not answer or refuses us.
        """
        store = cls(url, connect, is_writer=False)
        try:
            with _translated("the ledger's database cannot be opened"):
                store._reading = store._open_moment()
                if not _check_format(store._reading):
                    raise OpeningRefused("the database holds no ledger")
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def is_begun(cls, url: str) -> bool:
        """Tell whether a ledger was begun in a database; it may be open elsewhere.

        Raises:
            OpeningRefused: The database holds something else.
            LedgerAway: The server does not answer or refuses us.
        """
        with _translated("the ledger's database cannot be read"), contextlib.closing(connect_server(url)) as there:
            return _check_format(there) and _last_block(there) is not None

    def close(self) -> None:
        """Close the connections and let others open it."""
        self._is_closed = True
        with self._write_mutex, self._read_mutex:
            for connection in (self._reading, self._writing):
                if connection is not None:
                    connection.close()
            self._reading = self._writing = None

    def begin(self, meta: Mapping[str, str], commit: Commit) -> None:
        """Write the settings and block 0 of a new ledger."""
        with self._transaction(commit.row) as connection:
            connection.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))
            write_block(connection, commit)

    def commit(self, commit: Commit) -> None:
        """Keep a block; returns once it survives loss of power at the server.

        Raises:
            LedgerAway: The server was lost; ``recover`` tells whether the block was kept.
            LedgerUnavailable: Nothing of the block was kept.
        """
        with self._transaction(commit.row) as connection:
            write_block(connection, commit)

    def recover(self) -> BlockRow | None:
        """Return the highest block, over a connection that has the lock, so that no other session still writes."""
        with self._write_mutex, self._told("the ledger's server is away"):
            return _last_block(self._writer())

    def fill(self, source: SqlRows) -> None:
        """Write every row of ``source``, which sees one moment, into this empty store: all of them or none.

        Raises:
            LedgerUnavailable: There is a ledger here, or the server was lost.
        """
        with self._transaction(source.last_block()) as connection:
            write_rows(connection, source)

    def snapshot(self, target: Path) -> None:
        """Write a copy, as of one block, to the new SQLite file ``target``; the name appears once it is whole."""
        with self._told("the copy could not be written"), appearing(target) as part:
            if not self._is_writer:
                write_file(part, self)
                return
            source = self.open_to_read(self._url, connect=self._connect)
            try:
                write_file(part, source)
            finally:
                source.close()

    def renew(self) -> None:
        """Look at the rows as they are now, where all reads see one moment."""
        with self._read_mutex, self._told("the store cannot be read"):
            reading = cast(PostgresConnection, self._reading)
            reading.execute("ROLLBACK")
            _begin_moment(reading)

    def damage(self) -> Iterator[str]:
        """Yield nothing: PostgreSQL checks its own pages where it was set up with checksums."""
        self._read("SELECT 1")
        yield from ()

    @contextmanager
    def _transaction(self, row: BlockRow | None = None) -> Iterator[PostgresConnection]:
        """Give the writing connection; commit at the end, roll back and translate on failure.

        Args:
            row: The highest block afterwards, where the transaction changes that.
        """
        with self._write_mutex, self._told("the store did not keep a block"):
            writing = self._writer()
            before, tried = self._ends, self._ends if row is None else (row,)
            try:
                writing.execute("BEGIN")
                yield writing
                self._ends = before + tried
                writing.execute("COMMIT")
            except _GONE:
                # Unknown is what it still does: only another session that has the lock can tell.
                writing.close()
                self._writing = None
                raise
            except BaseException:
                with contextlib.suppress(psycopg.Error):
                    writing.execute("ROLLBACK")
                self._ends = before
                raise
            self._ends = tried

    def _writer(self) -> PostgresConnection:
        """Return the writing connection, made anew if it was lost."""
        if not self._is_writer:
            raise LedgerUnavailable("the ledger is open for reading only")
        if self._writing is None:
            try:
                writing = self._open_writer()
            except LedgerLocked as lingering:
                # Our own session, which the server has not missed yet; or somebody who took over for good.
                raise LedgerAway("another session holds the ledger") from lingering
            try:
                last = _last_block(writing)
                if last not in self._ends:
                    raise LedgerUnavailable("the ledger is not as it was left: another process wrote it")
            except BaseException:
                writing.close()
                raise
            self._writing, self._ends = writing, (last,)
        return self._writing

    def _open_writer(self) -> PostgresConnection:
        connection = self._connect(self._url)
        try:
            check_server(connection)
            take_lock(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _read(self, query: str, values: Sequence[object] = ()) -> list[Row]:
        given = [bounded(value) for value in values]
        with self._read_mutex, self._told("the store cannot be read"):
            if self._reading is not None:
                try:
                    return self._reading.execute(query, given).fetchall()
                except _GONE:
                    if not self._is_writer:
                        raise
                    # The server may have been away and be back: a question may be asked twice.
                    self._reading.close()
                    self._reading = None
            connection = self._connect(self._url)
            self._reading = connection
            connection.execute("SET default_transaction_read_only = on")
            return connection.execute(query, given).fetchall()

    def _scan(self, query: str, values: Sequence[object] = ()) -> Iterator[Row]:
        given = [bounded(value) for value in values]
        with self._scanner() as connection:
            # psycopg lets one thread at a time use a connection.
            with self._told("the store cannot be read"):
                cursor = connection.stream(query, given)
            try:
                while True:
                    with self._told("the store cannot be read"):
                        rows = cursor.fetchmany(_AT_ONCE)
                    if not rows:
                        return
                    yield from rows
            finally:
                with contextlib.suppress(psycopg.Error):
                    cursor.close()

    @contextmanager
    def _scanner(self) -> Iterator[PostgresConnection]:
        """Give a connection inside a transaction: beside a writer one of the scan's own, whose moment is now."""
        with self._told("the store cannot be read"):
            connection = self._open_moment() if self._is_writer else cast(PostgresConnection, self._reading)
        try:
            yield connection
        finally:
            if self._is_writer:
                connection.close()

    def _open_moment(self) -> PostgresConnection:
        """Return a connection that sees the rows as they are now, whatever is written afterwards."""
        connection = self._connect(self._url)
        try:
            _begin_moment(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _told(self, failure: str) -> Iterator[None]:
        if self._is_closed:
            raise LedgerClosed("the ledger is closed")
        with _translated(failure):
            yield


@contextmanager
def _translated(failure: str) -> Iterator[None]:
    try:
        yield
    except _GONE as error:
        raise LedgerAway(f"{failure} ({type(error).__name__})") from error
    except (psycopg.Error, sqlite3.Error, OSError) as error:
        raise LedgerUnavailable(f"{failure} ({type(error).__name__})") from error


def _begin_moment(connection: PostgresConnection) -> None:
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    # The moment is that of the first query, not of BEGIN.
    connection.execute("SELECT 1")


def _last_block(connection: PostgresConnection) -> BlockRow | None:
    query = "SELECT height, time_ms, size, log_root, state_root, app_hash FROM blocks ORDER BY height DESC LIMIT 1"
    rows = connection.execute(query).fetchall()
    return BlockRow(*rows[0]) if rows else None


def _prepare(writing: PostgresConnection) -> None:
    """Make the tables where there are none.

    Raises:
        OpeningRefused: There are others of such a name.
    """
    if not _check_format(writing):
        statements = SCHEMA
        for ours, theirs in _WORDS:
            statements = statements.replace(ours, theirs)
        writing.execute("BEGIN")
        for statement in statements.split(";")[:-1]:
            writing.execute(statement)
        writing.execute("INSERT INTO meta VALUES ('format', ?)", (FORMAT,))
        writing.execute("COMMIT")


def _check_format(connection: PostgresConnection) -> bool:
    """Tell whether there are tables of ours.

    Raises:
        OpeningRefused: There are, of another format, or such of something else.
    """
    if not connection.execute("SELECT to_regclass('meta') IS NOT NULL").fetchall()[0][0]:
        return False
    try:
        rows = connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchall()
    except psycopg.ProgrammingError:
        rows = []
    found = str(rows[0][0]) if rows else ""
    if found == FORMAT:
        return True
    if found.startswith(_FORMATS):
        raise OpeningRefused(f"the ledger is of another format ({found}): open it with the version that wrote it")
    raise OpeningRefused("the database holds tables of something else than a ledger: give the ledger one of its own")
