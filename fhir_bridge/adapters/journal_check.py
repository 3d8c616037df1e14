"""Compare a file's rows with its journal and locate each that is not as it was committed.

For fsck of the vault and of the key store. Memory stays flat: what the journal
says of each key is kept in a temporary database.

Invariants:
    * reads one snapshot and writes nothing to the file;
    * an edited, deleted, added or rolled-back row is reported under its table and key.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping

import msgspec

from fhir_bridge.adapters.journal import (
    BEGINNING,
    GONE,
    Cell,
    Entry,
    JournalRow,
    Key,
    Table,
    decode_entries,
    next_head,
    read_rows,
    row_digest,
)
from fhir_bridge.adapters.vault_database import Connection
from fhir_bridge.lines.checking import Finding

_SCHEMA = """
CREATE TABLE expected (
    name TEXT NOT NULL, key BLOB NOT NULL, digest BLOB NOT NULL, number INTEGER NOT NULL, seen INTEGER NOT NULL,
    PRIMARY KEY (name, key)) WITHOUT ROWID
"""
_MAX_EXPLAINED = 10_000
_encode = msgspec.msgpack.encode


class JournalCheck:
    """One check of one file; call :meth:`run` once, inside a snapshot."""

    def __init__(self, connection: Connection, key: bytes, tables: Mapping[str, Table]) -> None:
        self._connection = connection
        self._key = key
        self._tables = tables
        self._expected = sqlite3.connect("", isolation_level=None)
        self._expected.execute(_SCHEMA)
        self._odd: dict[tuple[str, Key], bytes] = {}
        self.heads: dict[int, bytes] = {}

    def run(self) -> Iterator[Finding]:
        """Check the chain, then every row."""
        self._expected.execute("BEGIN")
        yield from self._check_chain()
        for table in self._tables.values():
            yield from self._check_table(table)
        yield from self._explain()
        yield from self._check_missing()

    def foreign(self, name: str) -> Iterator[tuple[Key, bytes]]:
        """Yield key and digest of what the journal notes under a name that is no table here."""
        rows = self._expected.execute("SELECT key, digest FROM expected WHERE name = ? ORDER BY number", (name,))
        for key, digest in rows:
            yield msgspec.msgpack.decode(key, type=tuple[str | int, ...]), digest

    def _check_chain(self) -> Iterator[Finding]:
        expected, previous = 0, BEGINNING
        for row in read_rows(self._connection):
            place = f"journal {row.number}"
            if row.number != expected:
                yield Finding(f"journal {expected}", f"missing, up to {row.number - 1}")
            elif next_head(self._key, row.number, previous, row.entries) != row.head:
                yield Finding(place, "edited: its head does not follow; what it notes cannot be trusted")
            try:
                self._expect(row)
            except msgspec.MsgspecError:
                yield Finding(place, "edited: it does not decode")
            self.heads[row.number] = row.head
            expected, previous = row.number + 1, row.head

    def _expect(self, row: JournalRow) -> None:
        self._expected.executemany(
            "INSERT OR REPLACE INTO expected VALUES (?, ?, ?, ?, 0)",
            ((name, _encode(key), digest, row.number) for name, key, digest in decode_entries(row.entries)),
        )

    def _check_table(self, table: Table) -> Iterator[Finding]:
        for row in self._connection.execute(table.select):
            finding = self._check_row(table, row)
            if finding is not None:
                yield finding

    def _check_row(self, table: Table, row: tuple[Cell, ...]) -> Finding | None:
        key = table.key(row)
        digest = row_digest(self._key, table.name, row)
        noted = self._expected.execute(
            "UPDATE expected SET seen = 1 WHERE name = ? AND key = ? RETURNING digest, number",
            (table.name, _encode(key)),
        ).fetchone()
        if noted is None:
            return Finding(_place(table.name, key), "added: no commit wrote it")
        if noted[0] == GONE:
            return Finding(_place(table.name, key), f"back, although journal {noted[1]} deleted it")
        if noted[0] != digest:
            if len(self._odd) >= _MAX_EXPLAINED:
                return Finding(_place(table.name, key), "edited or rolled back")
            self._odd[table.name, key] = digest
        return None

    def _explain(self) -> Iterator[Finding]:
        """Tell rows that were edited from rows put back as they once were."""
        if not self._odd:
            return
        once: dict[tuple[str, Key], int] = {}
        for row in read_rows(self._connection):
            for name, key, digest in _entries(row):
                if self._odd.get((name, key)) == digest:
                    once[name, key] = row.number
        for name, key in self._odd:
            number = once.get((name, key))
            what = "edited" if number is None else f"rolled back to what journal {number} wrote"
            yield Finding(_place(name, key), what)

    def _check_missing(self) -> Iterator[Finding]:
        rows = self._expected.execute(
            "SELECT name, key, number FROM expected WHERE seen = 0 AND digest <> ? ORDER BY name, key", (GONE,)
        )
        for name, key, number in rows:
            if name in self._tables:
                decoded = msgspec.msgpack.decode(key, type=tuple[str | int, ...])
                yield Finding(_place(name, decoded), f"deleted: journal {number} wrote it")


def _entries(row: JournalRow) -> list[Entry]:
    try:
        return decode_entries(row.entries)
    except msgspec.MsgspecError:
        return []


def _place(name: str, key: Key) -> str:
    return f"{name} {'/'.join(str(cell) for cell in key)}"
