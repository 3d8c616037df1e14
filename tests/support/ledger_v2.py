"""Files of the format before (`ledger-core/sqlite/v2`): one that its code wrote, and any ledger put back into it."""

import sqlite3
from pathlib import Path
from typing import Final

KEPT: Final = Path(__file__).parents[1] / "vectors" / "ledger" / "sqlite-v2.sql"
APP_HASH: Final = "8ec5eaa3b4abe5538013f8f3411b01d8734c936375422b6468b2924ec00deb6d"
"""What the code that wrote the kept file gave as its app hash, at height 7."""

_PUT_BACK: Final = (
    "BEGIN IMMEDIATE",
    "ALTER TABLE state RENAME TO newer",
    "CREATE TABLE state (path BLOB NOT NULL, height INTEGER NOT NULL, value BLOB NOT NULL, "
    "PRIMARY KEY (path, height)) WITHOUT ROWID, STRICT",
    "INSERT INTO state SELECT path, height, value FROM newer",
    "CREATE INDEX state_by_height ON state (height)",
    "DROP TABLE newer",
    "DROP TABLE middles",
    "UPDATE meta SET value = 'ledger-core/sqlite/v2' WHERE name = 'format'",
    "COMMIT",
)
_PRUNE: Final = """
DELETE FROM state WHERE height < :height AND EXISTS (
    SELECT 1 FROM state AS later
    WHERE later.path = state.path AND later.height > state.height AND later.height <= :height)
"""


def write_kept(file: Path, *, pruned: int | None = None) -> Path:
    """Write the kept file, pruned as that code did it if a height is given."""
    with sqlite3.connect(file) as connection:
        connection.executescript(KEPT.read_text("utf-8"))
        connection.execute("PRAGMA journal_mode=WAL")
        if pruned is not None:
            assert connection.execute(_PRUNE, {"height": pruned}).rowcount > 0
            connection.execute("INSERT INTO meta VALUES ('pruned_below', ?)", (str(pruned),))
    connection.close()
    return file


def put_back(connection: sqlite3.Connection) -> None:
    """Bring a ledger of today's format back into the format before, in one transaction."""
    for statement in _PUT_BACK:
        connection.execute(statement).fetchall()


def format_of(file: Path) -> str:
    connection = sqlite3.connect(file)
    ((found,),) = connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchall()
    connection.close()
    return str(found)
