"""The rows of a ledger as SQL that SQLite and PostgreSQL both take, with ``?`` for each value.

A store on either adds how it connects, locks, commits and tells its driver's
errors.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, TypeAlias

from ledger_core.log import Tile
from ledger_core.machine import BlockRow
from ledger_core.ports import COSIGNED, PRUNED, Commit, EntryRow, StateRow, Submission

TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "entries": ("idx", "height", "entry"),
    "submissions": ("signer", "nonce", "idx"),
    "tiles": ("id", "hashes"),
    "middles": ("idx", "hashes"),
    "blocks": ("height", "time_ms", "size", "log_root", "state_root", "app_hash"),
    "state": ("height", "path", "value", "before"),
    "checkpoints": ("size", "note"),
}
"""Every table and its columns but ``meta``, which has the store's own format among its settings."""

_BLOCK: Final = "SELECT height, time_ms, size, log_root, state_root, app_hash FROM blocks"
# A value is dropped when a later one of the same path already held at the height that stays provable. Only rows
# that replaced something, and are not known from an earlier pruning, can have such values below them.
_PRUNE: Final = """
DELETE FROM state WHERE (height, path) IN (
    WITH latest AS MATERIALIZED (
        SELECT path, max(height) AS height FROM state WHERE height <= ? AND before IS NOT NULL GROUP BY path)
    SELECT old.height, old.path FROM state AS old JOIN latest USING (path)
    WHERE old.height < ? AND old.height < latest.height)
"""
_FORGET: Final = "UPDATE state SET before = NULL WHERE height <= ? AND before IS NOT NULL"
_SET: Final = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_LARGEST: Final = 2**63 - 1
# Level in the high bits: SQL's integers have 63, and a level-0 tile has at most 55 bits of index.
_LEVEL_SHIFT: Final = 56
_AT_ONCE: Final = 1000

# The driver cannot type a row; the tables fix what each column holds.
Row: TypeAlias = tuple[Any, ...]


class Answer(Protocol):
    """What a statement gives, as of a DB-API cursor."""

    @property
    def rowcount(self) -> int:
        """How many rows were written or deleted."""
        ...

    def fetchall(self) -> list[Any]:
        """Return all rows."""
        ...


class Connection(Protocol):
    """What writing needs of a driver's connection, inside a transaction."""

    def execute(self, query: str, values: Sequence[object] = ..., /) -> Answer:
        """Run one statement."""
        ...

    def executemany(self, query: str, rows: Iterable[Sequence[object]], /) -> object:
        """Run one statement for each of several rows."""
        ...


class SqlRows(ABC):
    """The reading and the writing of rows; how a connection is had is left to each store."""

    _changed: ClassVar[str]
    """Query for the oldest row above a height of each path: (path, before, …)."""

    @abstractmethod
    def _read(self, query: str, values: Sequence[object] = ()) -> list[Row]:
        """Return all rows of a query."""

    @abstractmethod
    def _scan(self, query: str, values: Sequence[object] = ()) -> Iterator[Row]:
        """Yield the rows of a query that may give many, while other reads go on."""

    @abstractmethod
    def snapshot(self, target: Path) -> None:
        """Write a copy, as of one block, to the new SQLite file ``target``."""

    @abstractmethod
    def renew(self) -> None:
        """Look at the rows as they are now, where all reads see one moment."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the files or connections."""

    @abstractmethod
    def begin(self, meta: Mapping[str, str], commit: Commit) -> None:
        """Write the settings and block 0 of a new ledger."""

    @abstractmethod
    def damage(self) -> Iterator[str]:
        """Yield what the database finds wrong with its own files."""

    @abstractmethod
    def _transaction(self) -> AbstractContextManager[Connection]:
        """Give the writing connection; commit at the end, roll back and translate on failure."""

    def commit(self, commit: Commit) -> None:
        """Keep a block; returns once it survives loss of power.

        Raises:
            LedgerUnavailable: As the port says.
        """
        with self._transaction() as connection:
            write_block(connection, commit)

    def recover(self) -> BlockRow | None:
        """Return the highest block."""
        return self.last_block()

    def replace_checkpoint(self, size: int, note: str) -> None:
        """Keep ``note`` for ``size`` in place of the one there."""
        query = "INSERT INTO checkpoints VALUES (?, ?) ON CONFLICT (size) DO UPDATE SET note = excluded.note"
        with self._transaction() as connection:
            connection.execute(query, (size, note))
            _raise_meta(connection, COSIGNED, size)

    def prune(self, height: int) -> int:
        """Drop the values that were superseded at or below ``height``; return how many."""
        with self._transaction() as connection:
            dropped = connection.execute(_PRUNE, (height, height)).rowcount
            connection.execute(_FORGET, (height,))
            _raise_meta(connection, PRUNED, height)
            return int(dropped)

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

    def entry(self, index: int) -> bytes | None:
        """Return log entry ``index``, or None."""
        rows = self._read("SELECT entry FROM entries WHERE idx = ?", (index,))
        return bytes(rows[0][0]) if rows else None

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[EntryRow]:
        """Yield the entries from ``start`` up to, not including, ``stop``, by number."""
        end = _LARGEST if stop is None else stop
        query = "SELECT idx, height, entry FROM entries WHERE idx >= ? AND idx < ? ORDER BY idx"
        return (EntryRow(*row) for row in self._scan(query, (start, end)))

    def find(self, signer: bytes, nonce: int) -> tuple[EntryRow, ...]:
        """Return the entries accepted from ``signer`` under ``nonce``."""
        query = (
            "SELECT e.idx, e.height, e.entry FROM submissions s JOIN entries e ON e.idx = s.idx "
            "WHERE s.signer = ? AND s.nonce = ? ORDER BY e.idx"
        )
        return tuple(EntryRow(*row) for row in self._read(query, (signer, _signed(nonce))))

    def submissions(self) -> Iterator[Submission]:
        """Yield what names each accepted envelope."""
        rows = self._scan("SELECT signer, nonce, idx FROM submissions")
        return (Submission(signer, nonce % 2**64, index) for signer, nonce, index in rows)

    def tile(self, level: int, index: int) -> bytes | None:
        """Return the hashes kept of a tile, or None."""
        if index >> _LEVEL_SHIFT or level >> 7:
            return None
        rows = self._read("SELECT hashes FROM tiles WHERE id = ?", (_tile_id(level, index),))
        return bytes(rows[0][0]) if rows else None

    def tiles(self) -> Iterator[Tile]:
        """Yield every tile by level and index."""
        mask = (1 << _LEVEL_SHIFT) - 1
        for number, hashes in self._scan("SELECT id, hashes FROM tiles ORDER BY id"):
            yield Tile(number >> _LEVEL_SHIFT, number & mask, hashes)

    def middle(self, index: int) -> bytes | None:
        """Return the middle kept of a full tile of level 0, or None."""
        rows = self._read("SELECT hashes FROM middles WHERE idx = ?", (index,))
        return bytes(rows[0][0]) if rows else None

    def middles(self) -> Iterator[tuple[int, bytes]]:
        """Yield (index, middle) by index."""
        return ((row[0], row[1]) for row in self._scan("SELECT idx, hashes FROM middles ORDER BY idx"))

    def last_block(self) -> BlockRow | None:
        """Return the row of the highest block, or None in an empty store."""
        return self._block(f"{_BLOCK} ORDER BY height DESC LIMIT 1")

    def block_at(self, height: int) -> BlockRow | None:
        """Return the highest block that is not above ``height``, or None."""
        return self._block(f"{_BLOCK} WHERE height <= ? ORDER BY height DESC LIMIT 1", height)

    def block_of_size(self, size: int) -> BlockRow | None:
        """Return the block after which the log had exactly ``size`` entries, or None."""
        return self._block(f"{_BLOCK} WHERE size = ?", size)

    def blocks(self) -> Iterator[BlockRow]:
        """Yield every block row by height."""
        return (BlockRow(*row) for row in self._scan(f"{_BLOCK} ORDER BY height"))

    def state(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (path, newest value), by path; holds all of them, in order of path, beside what it has yielded."""
        # Sorted here: a database would sort into a temporary file, for which there may be no room.
        newest: dict[bytes, bytes] = dict(self._scan("SELECT path, value FROM state ORDER BY height"))
        left = sorted(newest, reverse=True)
        while left:
            path = left.pop()
            yield path, newest.pop(path)

    def state_rows(self) -> Iterator[StateRow]:
        """Yield every value kept, superseded ones included, by height and path."""
        query = "SELECT path, height, value, before FROM state ORDER BY height, path"
        return (StateRow(*row) for row in self._scan(query))

    def changed_after(self, height: int) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield, for every path written above ``height``, the value it had at ``height``."""
        return ((row[0], row[1]) for row in self._scan(self._changed, (height,)))

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Yield (size, note) by size."""
        return ((row[0], row[1]) for row in self._scan("SELECT size, note FROM checkpoints ORDER BY size"))

    def checkpoint(self, size: int) -> str | None:
        """Return the note kept for ``size``, or None."""
        rows = self._read("SELECT note FROM checkpoints WHERE size = ?", (size,))
        return str(rows[0][0]) if rows else None

    def _block(self, query: str, *values: int) -> BlockRow | None:
        rows = self._read(query, values)
        return BlockRow(*rows[0]) if rows else None


def write_block(connection: Connection, commit: Commit) -> None:
    """Write the rows of a block, which are all new but for tiles that grow."""
    run, row = connection.executemany, commit.row
    numbered = enumerate(commit.entries, commit.first)
    run("INSERT INTO entries VALUES (?, ?, ?)", [(index, row.height, entry) for index, entry in numbered])
    named = [(each.signer, _signed(each.nonce), each.index) for each in commit.submissions]
    run("INSERT INTO submissions VALUES (?, ?, ?)", named)
    replaced = commit.replaced.get
    written = [(row.height, path, value, replaced(path)) for path, value in commit.state.items()]
    run("INSERT INTO state VALUES (?, ?, ?, ?)", written)
    tiles = [(_tile_id(tile.level, tile.index), tile.hashes) for tile in commit.tiles]
    run("INSERT INTO tiles VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET hashes = excluded.hashes", tiles)
    run("INSERT INTO middles VALUES (?, ?)", [(tile.index, tile.middle) for tile in commit.tiles if tile.middle])
    roots = (row.log_root, row.state_root, row.app_hash)
    connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?)", (row.height, row.time_ms, row.size, *roots))
    connection.execute("INSERT INTO checkpoints VALUES (?, ?)", (row.size, commit.note))


def write_rows(connection: Connection, source: SqlRows) -> None:
    """Write every row of ``source``, which sees one moment, into tables that hold none."""
    settings = source._scan("SELECT name, value FROM meta WHERE name <> 'format'")
    connection.executemany("INSERT INTO meta VALUES (?, ?)", list(settings))
    for table, names in TABLES.items():
        columns = ", ".join(names)
        rows = source._scan(f"SELECT {columns} FROM {table}")  # noqa: S608 - constants
        write = f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608 - constants
        while some := list(islice(rows, _AT_ONCE)):
            connection.executemany(write, some)


def _raise_meta(connection: Connection, name: str, number: int) -> None:
    kept = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchall()
    highest = max(number, int(kept[0][0]) if kept else 0)
    connection.execute(_SET, (name, str(highest)))


def _signed(nonce: int) -> int:
    """Return the integer that stands for a nonce: its 64 bits, read with a sign."""
    return nonce if nonce <= _LARGEST else nonce - 2**64


def bounded(value: object) -> object:
    """Return ``value``; a number that no row can hold as the nearest that SQL takes."""
    return max(-_LARGEST - 1, min(value, _LARGEST)) if isinstance(value, int) else value


def _tile_id(level: int, index: int) -> int:
    return level << _LEVEL_SHIFT | index
