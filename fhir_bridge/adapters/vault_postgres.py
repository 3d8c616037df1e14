"""PostgreSQL as the vault's database, for networks that run one already (version 15 or later).

One process writes a vault: its writing connection holds an advisory lock for
as long as its session lasts, and commits over that very connection, so whoever
has lost the lock cannot commit any more.

Invariants:
    * a commit that returned is durable on the server (``synchronous_commit``, never off), and on its standbys where
      they are configured to be waited for;
    * a connection lost in a commit is told as such, so that the writer finds out what became of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import count
from typing import Any, cast

import psycopg
from blake3 import blake3
from psycopg import errors as pg

from fhir_bridge.adapters.migrations import bring
from fhir_bridge.adapters.vault_database import Connection, InDoubt, Rows, Values
from fhir_bridge.adapters.vault_schema import MIGRATIONS, SCHEMA, VERSION, WHAT, for_postgres
from fhir_bridge.errors import DataDirectoryInUse, IntegrityBroken, SetupWrong, Unavailable
from fhir_bridge.lines.checking import Finding

_LOCK = int.from_bytes(blake3(b"fhir-bridge/vault/writer").digest()[:8], "big", signed=True)
_PATIENCE: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_OLDEST = 150_000
_LOCK_S = 3.0
_AT_ONCE = 500
_SIZE = """
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'
"""


class PostgresDatabase:
    """Keeps what :class:`fhir_bridge.adapters.vault_database.VaultDatabase` promises, in one schema of a database."""

    answers_at_once = False
    readers = 4

    def __init__(self, url: str) -> None:
        """Name the database.

        Args:
            url: ``postgresql://user:password@host:port/database``, as libpq reads it; ``sslmode`` and the like
                stand in its query.
        """
        self._url = url

    def open_writer(self) -> Connection:
        """Return the connection that writes, with the lock; the tables are made if there are none."""
        with self.translated():
            connection = self._connect()
            try:
                self._check_server(connection)
                _take_lock(connection.raw)
                self._make(connection)
            except BaseException:
                connection.close()
                raise
            return connection

    def open_reader(self) -> Connection:
        """Return a connection that cannot write."""
        connection = self._connect()
        connection.execute("SET default_transaction_read_only = on")
        return connection

    def open_checker(self) -> Connection:
        """Return a connection that cannot write and that fetches large results piece by piece."""
        with self.translated():
            connection = self._connect(streams=True)
            try:
                connection.raw.execute("SET default_transaction_read_only = on")
                if not _has_stamp(connection.raw):
                    raise SetupWrong("the database at FHIR_BRIDGE_VAULT_URL holds no vault")
                _check_stamp(connection.raw)
            except BaseException:
                connection.close()
                raise
            return connection

    def recover(self, writer: Connection) -> Connection:
        """Return another connection that has got the lock; one that failed in a pipeline may not know it is lost."""
        writer.close()
        try:
            return self.open_writer()
        except DataDirectoryInUse as lingering:
            # Our own session, which the server has not missed yet; or somebody who took over for good.
            raise Unavailable(str(lingering)) from lingering

    @contextmanager
    def transaction(self, writer: Connection, *, waits: bool = True) -> Iterator[None]:
        """Commit what the block writes, or nothing of it."""
        raw = _ours(writer).raw
        raw.execute("BEGIN")
        try:
            if not waits:
                raw.execute("SET LOCAL synchronous_commit TO off")
            yield
        except BaseException:
            with suppress(psycopg.Error):
                raw.execute("ROLLBACK")
            raise
        try:
            raw.execute("COMMIT")
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise InDoubt from error

    @contextmanager
    def snapshot(self, connection: Connection) -> Iterator[None]:
        """Read one state throughout the block."""
        raw = _ours(connection).raw
        raw.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            # The snapshot is taken by the first query, not by BEGIN.
            raw.execute("SELECT 1")
            yield
        finally:
            with suppress(psycopg.Error):
                raw.execute("ROLLBACK")

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Tell psycopg's errors in our terms; nothing of what was asked is repeated."""
        try:
            yield
        except pg.IntegrityError as error:
            raise IntegrityBroken(f"the {WHAT} holds a row that should be new") from error
        except (pg.DataCorrupted, pg.IndexCorrupted) as error:
            raise IntegrityBroken(f"the {WHAT}'s database is damaged; run fsck") from error
        except (pg.InvalidPassword, pg.InvalidAuthorizationSpecification, pg.InsufficientPrivilege) as error:
            raise SetupWrong(f"the database at FHIR_BRIDGE_VAULT_URL refuses us ({type(error).__name__})") from error
        except psycopg.Error as error:
            raise Unavailable(f"the {WHAT} did not answer ({type(error).__name__})") from error

    def is_outage(self, error: BaseException) -> bool:
        """Tell whether the server, its disk or the way there failed."""
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)

    def is_in_place(self) -> bool:
        """Return True: what a server answers for is found by asking it."""
        return True

    def damage(self, connection: Connection) -> Iterator[Finding]:
        """Yield nothing: PostgreSQL checks its own pages where it was set up with checksums."""
        yield from ()

    def size(self, connection: Connection) -> int:
        """Return the bytes of the tables and their indexes."""
        return int(connection.execute(_SIZE).fetchone()[0])

    def _connect(self, *, streams: bool = False) -> _Connection:
        try:
            raw = psycopg.connect(self._url, autocommit=True, application_name="fhir-bridge", **_PATIENCE)
        except psycopg.ProgrammingError as error:
            # The message quotes the URL, and with it the password.
            raise SetupWrong("FHIR_BRIDGE_VAULT_URL is no URL of PostgreSQL") from error
        return _Connection(raw, streams=streams)

    def _check_server(self, connection: _Connection) -> None:
        raw = connection.raw
        if raw.info.server_version < _OLDEST:
            raise SetupWrong("the vault needs PostgreSQL 15 or later")
        if _show(raw, "fsync") != "on" or _show(raw, "full_page_writes") != "on":
            raise SetupWrong("PostgreSQL runs with fsync or full_page_writes off: it would lose what it confirmed")
        if _show(raw, "server_encoding") != "UTF8":
            raise SetupWrong("the vault's database must have the encoding UTF8")
        if _show(raw, "synchronous_commit") == "off":
            raw.execute("SET synchronous_commit TO on")

    def _make(self, connection: _Connection) -> None:
        raw = connection.raw
        if not _has_stamp(raw):
            with self.transaction(connection):
                for statement in for_postgres(SCHEMA).split(";"):
                    if statement.strip():
                        raw.execute(statement)
                raw.execute("CREATE TABLE stamp (what TEXT NOT NULL, version BIGINT NOT NULL)")
                raw.execute("INSERT INTO stamp VALUES (%s, %s)", (WHAT, VERSION))
        if _check_stamp(raw) < VERSION:
            with self.transaction(connection):
                bring(connection, MIGRATIONS, VERSION, what=WHAT)


class _Connection:
    """A psycopg connection that takes our SQL, and gives bytes as they are rather than in hexadecimal."""

    def __init__(self, raw: psycopg.Connection[Any], *, streams: bool) -> None:
        self.raw = raw
        self._streams = streams
        self._cursors = count()

    def execute(self, sql: str, values: Values = (), /) -> Rows:
        """Run one statement."""
        if not self._streams:
            return cast(Rows, self.raw.execute(_psycopg_sql(sql), values, binary=True))
        cursor = self.raw.cursor(name=f"read{next(self._cursors)}")
        cursor.itersize = _AT_ONCE
        return _Streamed(cursor.execute(_psycopg_sql(sql), values, binary=True))

    def executemany(self, sql: str, values: Iterable[Values], /) -> object:
        """Run one statement for each of several rows, without waiting for each answer."""
        with self.raw.cursor() as cursor:
            cursor.executemany(_psycopg_sql(sql), values)
        return None

    def close(self) -> None:
        """Release it."""
        self.raw.close()


class _Streamed:
    """Rows that stay on the server until they are asked for; what held them there is closed with the last."""

    rowcount = -1

    def __init__(self, cursor: psycopg.ServerCursor[Any]) -> None:
        self._cursor = cursor

    def fetchone(self) -> Any:
        """Return the first row or None."""
        with self._cursor as cursor:
            return cursor.fetchone()

    def fetchall(self) -> list[Any]:
        """Return all rows."""
        with self._cursor as cursor:
            return cursor.fetchall()

    def __iter__(self) -> Iterator[Any]:
        with self._cursor as cursor:
            yield from cursor


@lru_cache(maxsize=256)
def _psycopg_sql(sql: str) -> str:
    return sql.replace("?", "%s")


def _ours(connection: Connection) -> _Connection:
    return cast(_Connection, connection)


def _take_lock(raw: psycopg.Connection[Any]) -> None:
    """Take the writer's lock; the session of a process that was killed holds it a moment longer."""
    deadline = time.monotonic() + _LOCK_S
    while True:
        row = raw.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,)).fetchone()
        if row and row[0]:
            return
        if time.monotonic() > deadline:
            raise DataDirectoryInUse("another process has this vault open")
        time.sleep(0.1)


def _show(raw: psycopg.Connection[Any], name: str) -> str:
    row = raw.execute("SELECT current_setting(%s)", (name,)).fetchone()
    return str(row[0]) if row else ""


def _has_stamp(raw: psycopg.Connection[Any]) -> bool:
    row = raw.execute("SELECT to_regclass('stamp') IS NOT NULL").fetchone()
    return bool(row and row[0])


def _check_stamp(raw: psycopg.Connection[Any]) -> int:
    """Return the layout of the vault."""
    found = raw.execute("SELECT what, version FROM stamp").fetchall()
    if len(found) != 1 or found[0][0] != WHAT:
        raise SetupWrong("the database at FHIR_BRIDGE_VAULT_URL holds something else than a vault")
    if found[0][1] > VERSION:
        raise SetupWrong(f"the vault was written by a newer version of fhir-bridge (layout {found[0][1]})")
    return int(found[0][1])
