"""A keyed, chained journal of every row a file holds, so that no row can be edited, removed or rolled back unseen.

For the vault and the key store; docs/formats/vault.md has it byte by byte.

Each transaction appends one journal row:

    entries = MessagePack [[table, [key …], digest], …]
    digest  = BLAKE3-keyed(MessagePack [table, [column …]]), or 32 zero bytes for a row that was deleted
    head    = BLAKE3-keyed(domain ‖ number (8) ‖ previous head (32) ‖ entries)

Whoever lacks the key cannot write an entry; whoever cuts the tail off is found
by whatever has seen a later head (the ledger for the vault, the vault for the
key store).

Invariants:
    * numbers are dense from 0, and each head covers all before it;
    * the newest entry of a key tells what its row must be now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
from blake3 import blake3

from fhir_bridge.adapters.vault_database import Connection
from fhir_bridge.errors import IntegrityBroken

SCHEMA = "CREATE TABLE journal (number INTEGER PRIMARY KEY, entries BLOB NOT NULL, head BLOB NOT NULL) STRICT"
GONE = bytes(32)
BEGINNING = bytes(32)

Cell = str | int | bytes | None
Key = tuple[str | int, ...]
Entry = tuple[str, Key, bytes]

_DOMAIN = b"fhir-bridge/journal/1\0"
_encode = msgspec.msgpack.Encoder().encode
_encode_into = msgspec.msgpack.Encoder().encode_into
_decoder = msgspec.msgpack.Decoder(list[tuple[str, tuple[str | int, ...], bytes]])


@dataclass(frozen=True, slots=True)
class Table:
    """A journaled table: its columns in the order of the digest, the first ``key_size`` of them being the key."""

    name: str
    columns: tuple[str, ...]
    key_size: int

    def key(self, row: Sequence[Cell]) -> Key:
        """Return the key of a row."""
        return tuple(cell for cell in row[: self.key_size] if isinstance(cell, str | int))

    @property
    def insert(self) -> str:
        """SQL that adds a row and fails if its key exists."""
        marks = ", ".join("?" * len(self.columns))
        return f"INSERT INTO {self.name} ({', '.join(self.columns)}) VALUES ({marks})"  # noqa: S608 - names are constants of our modules

    @property
    def put(self) -> str:
        """SQL that adds a row or replaces the one of the same key."""
        key, rest = self.columns[: self.key_size], self.columns[self.key_size :]
        changes = ", ".join(f"{name} = excluded.{name}" for name in rest)
        return f"{self.insert} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"

    @property
    def select(self) -> str:
        """SQL that reads every row, columns in order."""
        return f"SELECT {', '.join(self.columns)} FROM {self.name}"  # noqa: S608 - names are constants of our modules


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One journal row as stored."""

    number: int
    entries: bytes
    head: bytes


class Journal:
    """Appends to the journal of one open file or database; used by its only writer, inside its transactions."""

    def __init__(self, connection: Connection, key: bytes) -> None:
        """Take up the chain where it ends.

        Raises:
            IntegrityBroken: The last row was not written under ``key``.
        """
        self._connection = connection
        self._key = key
        self._begin()
        self.number, self.head = -1, BEGINNING
        self._take_up()

    @property
    def end(self) -> tuple[int, bytes]:
        """Number and head of the newest journal row, written or about to be."""
        return self.number, self.head

    def note(self, table: str, key: Key, row: Sequence[Cell]) -> None:
        """Enter that ``row`` is now what ``table`` holds under ``key``."""
        self.note_seen(table, key, row_digest(self._key, table, row))

    def note_gone(self, table: str, key: Key) -> None:
        """Enter that ``table`` no longer holds ``key``."""
        self.note_seen(table, key, GONE)

    def note_seen(self, table: str, key: Key, digest: bytes) -> None:
        """Enter a digest made elsewhere, such as the head of another journal."""
        # Encoded at once: a commit of many records would hold three texts and a digest of each.
        _encode_into((table, key, digest), self._entries, -1)
        self._count += 1

    def append(self) -> bytes:
        """Write what was noted as one row of the running transaction; return the new head."""
        entries = _array_head(self._count) + self._entries
        head = next_head(self._key, self.number + 1, self.head, entries)
        self._connection.execute("INSERT INTO journal VALUES (?, ?, ?)", (self.number + 1, entries, head))
        self.number, self.head = self.number + 1, head
        self._begin()
        return head

    def reload(self, connection: Connection | None = None) -> None:
        """Forget what was noted and take up the chain as stored; called after a transaction failed.

        Args:
            connection: Instead of the one there was.
        """
        self._connection = connection or self._connection
        self._begin()
        self._take_up()

    def _begin(self) -> None:
        self._entries, self._count = bytearray(), 0

    def _take_up(self) -> None:
        rows = self._connection.execute("SELECT * FROM journal ORDER BY number DESC LIMIT 2").fetchall()
        if not rows:
            self.number, self.head = -1, BEGINNING
            return
        last = JournalRow(*rows[0])
        previous = rows[1][2] if len(rows) == 2 else BEGINNING
        if next_head(self._key, last.number, previous, last.entries) != last.head:
            raise IntegrityBroken("the journal does not end under this key; run fsck")
        self.number, self.head = last.number, last.head


def _array_head(count: int) -> bytes:
    """Return what MessagePack puts before the items of an array."""
    if count < 16:
        return bytes((0x90 | count,))
    return b"\xdc" + count.to_bytes(2, "big") if count < 1 << 16 else b"\xdd" + count.to_bytes(4, "big")


def row_digest(key: bytes, table: str, row: Sequence[Cell]) -> bytes:
    """Return the keyed digest of one whole row, columns in the order of the table."""
    return blake3(_encode((table, row)), key=key).digest()


def next_head(key: bytes, number: int, previous: bytes, entries: bytes) -> bytes:
    """Return the head that journal row ``number`` must carry."""
    return blake3(_DOMAIN + number.to_bytes(8, "big") + previous + entries, key=key).digest()


def decode_entries(entries: bytes) -> list[Entry]:
    """Decode the entries of a journal row.

    Raises:
        msgspec.MsgspecError: They were not written by this code.
    """
    return _decoder.decode(entries)


def read_rows(connection: Connection) -> Iterator[JournalRow]:
    """Yield the journal rows in order, as stored, unchecked."""
    for row in connection.execute("SELECT * FROM journal ORDER BY number"):
        yield JournalRow(*row)
