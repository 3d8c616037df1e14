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
from typing import Any, Final, TypeAlias

from ledger_core.errors import IntegrityBroken, LedgerClosed, LedgerUnavailable, OpeningRefused
from ledger_core.log import Tile
from ledger_core.machine import BlockRow
from ledger_core.ports import COSIGNED, PRUNED, Commit, EntryRow, StateRow, Submission
from ledger_core.stores import schema
from ledger_core.stores.files import Connect, connect_file, connect_unchanging, lock, make_folder, sync

_BLOCK: Final = "SELECT height, time_ms, size, log_root, state_root, app_hash FROM blocks"
# A value is dropped when a later one of the same path already held at the height that stays provable. Only rows
# that replaced something, and are not known from an earlier pruning, can have such values below them.
_PRUNE: Final = (
    """
DELETE FROM state WHERE (height, path) IN (
    WITH latest AS MATERIALIZED (
        SELECT path, max(height) AS height FROM state WHERE height <= :height AND before IS NOT NULL GROUP BY path)
    SELECT old.height, old.path FROM state AS old JOIN latest USING (path)
    WHERE old.height < :height AND old.height < latest.height)
""",
    "UPDATE state SET before = NULL WHERE height <= :height AND before IS NOT NULL",
)
# SQLite gives the other columns of the row that holds the minimum (documented for a lone min()).
_CHANGED: Final = "SELECT path, before, min(height) FROM state WHERE height > ? GROUP BY path"
_LARGEST: Final = 2**63 - 1
# Level in the high bits: SQLite's integers have 63, and a level-0 tile has at most 55 bits of index.
_LEVEL_SHIFT: Final = 56

# The driver cannot type a row; STRICT tables fix what each column holds.
_Row: TypeAlias = tuple[Any, ...]


class SqliteStore:
    """The rows of one ledger; ``commit`` from one thread, reads from any."""

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
                raise LedgerUnavailable("the ledger's database cannot be opened") from cause
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
                raise OpeningRefused(f"{path} is not a ledger of this format")
        except BaseException:
            connection.close()
            raise
        return cls(path, connect, connection, None, None)

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
            _write(connection, commit)

    def commit(self, commit: Commit) -> None:
        """Keep a block; returns once it survives loss of power.

        Raises:
            LedgerUnavailable: Nothing of the block was kept, or the disk failed while
                it was written; the ledger must be opened again to know.
        """
        with self._transaction() as connection:
            _write(connection, commit)

    def replace_checkpoint(self, size: int, note: str) -> None:
        """Keep ``note`` for ``size`` in place of the one there."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO checkpoints VALUES (?, ?)", (size, note))
            _raise_meta(connection, COSIGNED, size)

    def prune(self, height: int) -> int:
        """Drop the values that were superseded at or below ``height``; return how many."""
        with self._transaction() as connection:
            dropped, _ = (connection.execute(query, {"height": height}).rowcount for query in _PRUNE)
            _raise_meta(connection, PRUNED, height)
            return int(dropped)

    def snapshot(self, target: Path) -> None:
        """Write a copy, as of one block, to the new file ``target``; the name appears once it is whole."""
        part = target.with_name(f"{target.name}.part")
        with _translated("the copy could not be written"):
            if target.exists():
                raise FileExistsError(target)
            make_folder(target.absolute().parent)
            # What an attempt left that was cut short.
            part.unlink(missing_ok=True)
            try:
                os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
                self._copy(part)
                sync(part)
                part.rename(target)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            sync(target)

    def _copy(self, target: Path) -> None:
        # A connection of its own: VACUUM runs in no transaction, and must not hold up other reads.
        connection = self._connect_again()
        try:
            connection.execute("VACUUM INTO ?", (str(target),))
        finally:
            connection.close()

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
        # Sorted here: SQLite would sort into a temporary file, for which there may be no room.
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
        return ((row[0], row[1]) for row in self._scan(_CHANGED, (height,)))

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Yield (size, note) by size."""
        return ((row[0], row[1]) for row in self._scan("SELECT size, note FROM checkpoints ORDER BY size"))

    def checkpoint(self, size: int) -> str | None:
        """Return the note kept for ``size``, or None."""
        rows = self._read("SELECT note FROM checkpoints WHERE size = ?", (size,))
        return str(rows[0][0]) if rows else None

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
            raise OpeningRefused("the file is not a ledger of this format")

    def _is_unbegun_2(self) -> bool:
        """Tell whether the file has the tables of v2 and nothing in them: its making was cut off."""
        if self.meta("format") is not None or self.last_block() is not None:
            return False
        return not self._read("SELECT 1 FROM pragma_table_info('state') WHERE name = 'before'")

    def _block(self, query: str, *values: int) -> BlockRow | None:
        rows = self._read(query, values)
        return BlockRow(*rows[0]) if rows else None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Give the writing connection; commit at the end, roll back and translate on failure."""
        with self._write_mutex, _translated("the store did not keep a block"):
            if self._writing is None:
                raise LedgerUnavailable("the ledger is open for reading only")
            with schema.transaction(self._writing):
                yield self._writing

    def _read(self, query: str, values: Sequence[object] = ()) -> list[_Row]:
        with self._read_mutex, _translated("the store cannot be read"):
            return self._reading.execute(query, [_bounded(value) for value in values]).fetchall()

    def _scan(self, query: str, values: Sequence[object] = ()) -> Iterator[_Row]:
        # A connection with an unfinished SELECT goes on seeing the moment it began: a scan that pauses
        # would hide new blocks from every other read. So a scan beside a writer has one of its own.
        with self._scanner() as connection:
            with self._read_mutex, _translated("the store cannot be read"):
                cursor = connection.execute(query, [_bounded(value) for value in values])
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


def _write(connection: sqlite3.Connection, commit: Commit) -> None:
    run, row = connection.executemany, commit.row
    numbered = enumerate(commit.entries, commit.first)
    run("INSERT INTO entries VALUES (?, ?, ?)", [(index, row.height, entry) for index, entry in numbered])
    named = [(each.signer, _signed(each.nonce), each.index) for each in commit.submissions]
    run("INSERT INTO submissions VALUES (?, ?, ?)", named)
    replaced = commit.replaced.get
    written = [(row.height, path, value, replaced(path)) for path, value in commit.state.items()]
    run("INSERT INTO state VALUES (?, ?, ?, ?)", written)
    tiles = [(_tile_id(tile.level, tile.index), tile.hashes) for tile in commit.tiles]
    run("INSERT OR REPLACE INTO tiles VALUES (?, ?)", tiles)
    run("INSERT INTO middles VALUES (?, ?)", [(tile.index, tile.middle) for tile in commit.tiles if tile.middle])
    roots = (row.log_root, row.state_root, row.app_hash)
    connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?)", (row.height, row.time_ms, row.size, *roots))
    connection.execute("INSERT INTO checkpoints VALUES (?, ?)", (row.size, commit.note))


def _raise_meta(connection: sqlite3.Connection, name: str, number: int) -> None:
    kept = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchall()
    highest = max(number, int(kept[0][0]) if kept else 0)
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, str(highest)))


def _signed(nonce: int) -> int:
    """Return the SQLite integer that stands for a nonce: its 64 bits, read with a sign."""
    return nonce if nonce <= _LARGEST else nonce - 2**64


def _bounded(value: object) -> object:
    """Return ``value``; a number that no row can hold as the nearest that SQLite takes."""
    return max(-_LARGEST - 1, min(value, _LARGEST)) if isinstance(value, int) else value


def _tile_id(level: int, index: int) -> int:
    return level << _LEVEL_SHIFT | index


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
