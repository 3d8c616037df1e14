"""What a witness must never forget: one SQLite file, durable before anything signed leaves.

WAL with synchronous=FULL: a write that returned survives loss of power. The file must
never be put back from a backup: a witness that has forgotten a checkpoint can sign a fork.

Invariant: ``advance`` replaces exactly the state the caller judged, or nothing.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ledger_core.errors import LedgerUnavailable
from ledger_core.witness.core import Seen

# Older checkpoints of each log that a later, contradicting one can be held against; about 500 bytes each.
KEPT_NOTES: Final = 100_000

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS newest (
    origin TEXT PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note TEXT NOT NULL, time_s INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE TABLE IF NOT EXISTS history (
    origin TEXT NOT NULL, size INTEGER NOT NULL, note TEXT NOT NULL, PRIMARY KEY (origin, size)
) WITHOUT ROWID, STRICT;
CREATE TABLE IF NOT EXISTS replica (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE IF NOT EXISTS replica_state (path BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE IF NOT EXISTS replica_roots (size INTEGER PRIMARY KEY, root BLOB NOT NULL) STRICT;
"""


class Records:
    """The rows of one witness; safe to share between threads."""

    def __init__(self, path: Path) -> None:
        """Open ``path``, creating it if it is missing.

        Raises:
            LedgerUnavailable: The file cannot be opened.
        """
        self._mutex = threading.RLock()
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as cause:
            raise LedgerUnavailable(f"the witness's records cannot be opened: {type(cause).__name__}") from cause

    def close(self) -> None:
        """Let go of the file; calling again does nothing."""
        with self._mutex:
            self._db.close()

    def newest(self, origin: str) -> Seen | None:
        """Return the newest checkpoint signed for a log, or None."""
        rows = self._rows("SELECT size, root, note, time_s FROM newest WHERE origin = ?", origin)
        return Seen(*rows[0]) if rows else None

    def origins(self) -> list[str]:
        """Return the logs of which a checkpoint was ever signed, by name."""
        return [origin for (origin,) in self._rows("SELECT origin FROM newest ORDER BY origin")]

    def note_at(self, origin: str, size: int) -> str | None:
        """Return the log's note of exactly ``size`` that was signed here, or None (also when long ago)."""
        rows = self._rows("SELECT note FROM history WHERE origin = ? AND size = ?", origin, size)
        return rows[0][0] if rows else None

    def advance(self, origin: str, before: Seen | None, after: Seen, log_note: str) -> bool:
        """Replace ``before`` by ``after``; return once durable, False when ``before`` was not the newest.

        Args:
            origin: The log.
            before: What the caller judged against.
            after: What will be signed; its note has the cosignatures.
            log_note: The note as the log signed it, kept as evidence for later.

        Raises:
            LedgerUnavailable: Nothing was written.
        """
        with self._writing():
            if self.newest(origin) != before:
                return False
            row = (origin, after.size, after.root, after.note, after.time_s)
            self._db.execute("REPLACE INTO newest VALUES (?, ?, ?, ?, ?)", row)
            self._db.execute("REPLACE INTO history VALUES (?, ?, ?)", (origin, after.size, log_note))
            self._db.execute(
                "DELETE FROM history WHERE origin = ? AND size <= (SELECT size FROM history WHERE origin = ?"
                " ORDER BY size DESC LIMIT 1 OFFSET ?)",
                (origin, origin, KEPT_NOTES),
            )
        return True

    def replica(self) -> dict[str, bytes]:
        """Return the named values of the replayed ledger; empty when nothing was replayed yet."""
        return dict(self._rows("SELECT name, value FROM replica"))

    def replica_state(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (path, value) of the replayed state in order of path."""
        with self._mutex:
            yield from self._db.execute("SELECT path, value FROM replica_state ORDER BY path")

    def replica_root(self, size: int) -> bytes | None:
        """Return the log root after the replayed block that ended at ``size``, or None."""
        rows = self._rows("SELECT root FROM replica_roots WHERE size = ?", size)
        return rows[0][0] if rows else None

    def save_replica(
        self, values: Mapping[str, bytes], updates: Mapping[bytes, bytes], roots: Sequence[tuple[int, bytes]]
    ) -> None:
        """Keep what replaying led to, all of it or nothing; return once durable.

        Raises:
            LedgerUnavailable: Nothing was written.
        """
        with self._writing():
            self._db.executemany("REPLACE INTO replica VALUES (?, ?)", values.items())
            self._db.executemany("REPLACE INTO replica_state VALUES (?, ?)", updates.items())
            self._db.executemany("REPLACE INTO replica_roots VALUES (?, ?)", roots[-KEPT_NOTES:])
            self._db.execute(
                "DELETE FROM replica_roots WHERE size <="
                " (SELECT size FROM replica_roots ORDER BY size DESC LIMIT 1 OFFSET ?)",
                (KEPT_NOTES,),
            )

    # The driver cannot type a row; STRICT tables fix what each column holds.
    def _rows(self, query: str, *given: str | int) -> list[Any]:
        try:
            with self._mutex:
                return self._db.execute(query, given).fetchall()
        except sqlite3.Error as cause:
            raise LedgerUnavailable(f"the witness's records cannot be read: {type(cause).__name__}") from cause

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._mutex:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as cause:
                raise LedgerUnavailable(f"the witness's records cannot be written: {type(cause).__name__}") from cause
