"""The tables of a store in SQLite's words, and how a file of the format before is read and brought up to this one.

State rows stand in order of height, so a block adds its own at the right edge
of one tree. Ordered by path, as v2 had them, a million keys made nearly every
row of a block touch a page of its own: 39 µs of CPU and 80 µs of waiting a
transaction against 7 and 10 (2026-11). What a path order was good for is in
the row instead: ``before`` is the value it replaced, so that looking back from
the newest state reads the right edge only and looks nothing up.

Invariants:
    * ``before`` is the value of the next lower row of the same path that is kept,
      NULL where there is none;
    * an upgrade is one transaction: a file is of one format or of the other.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ledger_core.log import TILE_BYTES
from ledger_core.middles import middle_of

FORMAT: Final = "ledger-core/sqlite/v3"
FORMAT_2: Final = "ledger-core/sqlite/v2"

_STATE: Final = """
CREATE TABLE state (
    height INTEGER NOT NULL, path BLOB NOT NULL, value BLOB NOT NULL, before BLOB,
    PRIMARY KEY (height, path)) WITHOUT ROWID, STRICT"""
_MIDDLES: Final = "CREATE TABLE middles (idx INTEGER PRIMARY KEY, hashes BLOB NOT NULL) STRICT"
SCHEMA: Final = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE entries (idx INTEGER PRIMARY KEY, height INTEGER NOT NULL, entry BLOB NOT NULL) STRICT;
CREATE TABLE submissions (
    signer BLOB NOT NULL, nonce INTEGER NOT NULL, idx INTEGER NOT NULL,
    PRIMARY KEY (signer, nonce, idx)) WITHOUT ROWID, STRICT;
CREATE TABLE tiles (id INTEGER PRIMARY KEY, hashes BLOB NOT NULL) STRICT;
{_MIDDLES};
CREATE TABLE blocks (
    height INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, size INTEGER NOT NULL, log_root BLOB NOT NULL,
    state_root BLOB NOT NULL, app_hash BLOB NOT NULL) STRICT;
CREATE INDEX blocks_by_size ON blocks (size);
{_STATE};
CREATE TABLE checkpoints (size INTEGER PRIMARY KEY, note TEXT NOT NULL) STRICT;
"""
# The rows of v2 in the columns of v3. Its index by height holds paths too, so nothing needs sorting.
_ROWS_2: Final = """
SELECT height, path, value, (
    SELECT value FROM {table} AS old WHERE old.path = new.path AND old.height < new.height
    ORDER BY old.height DESC LIMIT 1) AS before
FROM {table} AS new INDEXED BY state_by_height"""
STEP_3: Final = "state by height with the values it replaced, middles of tiles"
_DOWNGRADE: Final = (
    "ALTER TABLE state RENAME TO state_3",
    """
CREATE TABLE state (
    path BLOB NOT NULL, height INTEGER NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (path, height)) WITHOUT ROWID, STRICT""",
    "INSERT INTO state SELECT path, height, value FROM state_3 ORDER BY path, height",
    "CREATE INDEX state_by_height ON state (height)",
    "DROP TABLE state_3",
    "DROP TABLE middles",
    f"UPDATE meta SET value = '{FORMAT_2}' WHERE name = 'format'",  # noqa: S608 - a constant
)
_UPGRADE: Final = (
    "ALTER TABLE state RENAME TO state_2",
    _STATE,
    f"INSERT INTO state {_ROWS_2.format(table='state_2')} ORDER BY height, path",
    "DROP TABLE state_2",
    _MIDDLES,
    f"UPDATE meta SET value = '{FORMAT}' WHERE name = 'format'",  # noqa: S608 - a constant
)


def create(writing: sqlite3.Connection) -> None:
    """Make the tables in an empty file."""
    with transaction(writing):
        for statement in SCHEMA.split(";")[:-1]:
            writing.execute(statement)


def upgrade(writing: sqlite3.Connection) -> None:
    """Bring a file of v2 up to this format; the room that it leaves in the file is filled by later blocks.

    Raises:
        sqlite3.Error: It could not be, and the file is of v2 still.
    """
    with transaction(writing):
        for statement in _UPGRADE:
            writing.execute(statement)
        # The identifier of a tile of level 0 is its number, and those of other levels are above all of them.
        full = writing.execute(
            "SELECT id, hashes FROM tiles WHERE id < 1 << 56 AND length(hashes) = ?", (TILE_BYTES,)
        )
        writing.executemany("INSERT INTO middles VALUES (?, ?)", ((at, middle_of(hashes)) for at, hashes in full))


def downgrade(writing: sqlite3.Connection) -> None:
    """Bring a file of this format down to v2, which builds before 2026-11-29 open; nothing of the ledger is lost.

    Raises:
        sqlite3.Error: It could not be, and the file is of v3 still.
    """
    with transaction(writing):
        for statement in _DOWNGRADE:
            writing.execute(statement)


def show(reading: sqlite3.Connection) -> None:
    """Let a file of v2 be read as if it were of this format, for as long as the connection is open."""
    # A temporary view hides the table of its name.
    reading.execute(f"CREATE TEMP VIEW state AS {_ROWS_2.format(table='main.state')}")
    reading.execute("CREATE TEMP VIEW middles AS SELECT 0 AS idx, x'' AS hashes WHERE false")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what is written within, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
