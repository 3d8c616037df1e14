"""A session with a PostgreSQL server that may keep a ledger: connecting, checking, the writer's lock.

Invariant: no message repeats the URL or what libpq says of it, for there may be a password in it.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, Final, TypeAlias

import psycopg

from ledger_core.errors import LedgerLocked, OpeningRefused
from ledger_core.stores.rows import Answer

_OLDEST: Final = 150_000
_PATIENCE: Final[Mapping[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# The same from the server's side, so that the lock of a machine that vanished is free in as short a time.
_SERVER_PATIENCE: Final = (
    "SET tcp_keepalives_idle = 5",
    "SET tcp_keepalives_interval = 2",
    "SET tcp_keepalives_count = 3",
)
_LOCK_S: Final = 3.0

_Raw: TypeAlias = psycopg.Connection[Any]


class PostgresConnection:
    """A connection that takes our SQL, and gives bytes as they are rather than in hexadecimal."""

    def __init__(self, raw: _Raw) -> None:
        self.raw = raw
        self._cursors = count()

    def execute(self, query: str, values: Sequence[object] = (), /) -> Answer:
        """Run one statement."""
        return self.raw.execute(_psycopg_sql(query), values, binary=True)

    def executemany(self, query: str, rows: Iterable[Sequence[object]], /) -> object:
        """Run one statement for each of several rows, without waiting for each answer."""
        with self.raw.cursor() as cursor:
            cursor.executemany(_psycopg_sql(query), rows)
        return None

    def stream(self, query: str, values: Sequence[object]) -> psycopg.ServerCursor[Any]:
        """Return a cursor whose rows stay on the server until they are fetched; inside a transaction."""
        cursor = self.raw.cursor(name=f"scan{next(self._cursors)}")
        return cursor.execute(_psycopg_sql(query), values, binary=True)

    def close(self) -> None:
        """Release it."""
        self.raw.close()


ConnectServer: TypeAlias = Callable[[str], PostgresConnection]


def connect_server(url: str) -> PostgresConnection:
    """Connect, with transactions begun by hand and used from any thread.

    Raises:
        OpeningRefused: The URL is none.
        psycopg.OperationalError: The server does not answer or refuses us.
    """
    try:
        raw: _Raw = psycopg.connect(url, autocommit=True, application_name="ledger-core", **_PATIENCE)
    except psycopg.ProgrammingError:
        # Its message quotes the URL, so it must not even be this error's cause.
        raise OpeningRefused("the address is no URL of PostgreSQL") from None
    return PostgresConnection(raw)


def check_server(connection: PostgresConnection) -> None:
    """Make sure that the server keeps what it confirms, and notices when we vanish.

    Raises:
        OpeningRefused: It does not, or is too old.
    """
    if connection.raw.info.server_version < _OLDEST:
        raise OpeningRefused("the ledger needs PostgreSQL 15 or later")
    if _show(connection, "fsync") != "on" or _show(connection, "full_page_writes") != "on":
        raise OpeningRefused("PostgreSQL runs with fsync or full_page_writes off: it would lose what it confirmed")
    if _show(connection, "server_encoding") != "UTF8":
        raise OpeningRefused("the ledger's database must have the encoding UTF8")
    if _show(connection, "synchronous_commit") == "off":
        connection.execute("SET synchronous_commit TO on")
    for statement in _SERVER_PATIENCE:
        connection.execute(statement)


def _show(connection: PostgresConnection, name: str) -> str:
    return str(connection.execute("SELECT current_setting(?)", (name,)).fetchall()[0][0])


def take_lock(connection: PostgresConnection) -> None:
    """Take the writer's lock; the session of a process that was killed holds it a moment longer.

    Raises:
        LedgerLocked: Another session holds it.
    """
    schema = str(connection.execute("SELECT current_schema()").fetchall()[0][0])
    digest = hashlib.sha256(f"ledger-core/writer/{schema}".encode()).digest()
    number = int.from_bytes(digest[:8], "big", signed=True)
    deadline = time.monotonic() + _LOCK_S
    while not connection.execute("SELECT pg_try_advisory_lock(?)", (number,)).fetchall()[0][0]:
        if time.monotonic() > deadline:
            raise LedgerLocked("another process has this ledger open, or this one has opened it twice")
        time.sleep(0.1)


@lru_cache(maxsize=256)
def _psycopg_sql(query: str) -> str:
    return query.replace("?", "%s")
