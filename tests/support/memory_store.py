"""A ledger's store in dicts: the port's promises in their plainest form, durability aside.

A ``MemoryPlace`` stands for the disk: it outlives the stores opened onto it.
"""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledger_core.codec import decode, encode
from ledger_core.errors import LedgerClosed, LedgerLocked, LedgerUnavailable
from ledger_core.log import Tile
from ledger_core.machine import BlockRow
from ledger_core.ports import COSIGNED, PRUNED, Commit, EntryRow, StateRow, Submission


@dataclass
class Rows:
    """Everything a ledger keeps."""

    meta: dict[str, str] = field(default_factory=dict)
    blocks: dict[int, BlockRow] = field(default_factory=dict)
    entries: list[EntryRow] = field(default_factory=list)
    submissions: set[Submission] = field(default_factory=set)
    tiles: dict[tuple[int, int], bytes] = field(default_factory=dict)
    state: dict[bytes, dict[int, bytes]] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    middles: dict[int, bytes] = field(default_factory=dict)

    def copied(self) -> "Rows":
        state = {path: dict(values) for path, values in self.state.items()}
        submissions, entries, notes = set(self.submissions), list(self.entries), dict(self.notes)
        middles = dict(self.middles)
        return Rows(dict(self.meta), dict(self.blocks), entries, submissions, dict(self.tiles), state, notes, middles)


class MemoryPlace:
    """Where the rows are; ``fail_after`` makes a write fail after so many of its rows."""

    def __init__(self) -> None:
        self.rows = Rows()
        self.mutex = threading.Lock()
        self.is_taken = False
        self.fail_after: int | None = None

    def open(self) -> "MemoryStore":
        if self.is_taken:
            raise LedgerLocked("this place is open already")
        self.is_taken = True
        return MemoryStore(self, is_writer=True)

    def open_to_read(self) -> "MemoryStore":
        return MemoryStore(self, is_writer=False)

    @classmethod
    def of_snapshot(cls, file: Path) -> "MemoryPlace":
        place = cls()
        found: Any = decode(file.read_bytes())
        meta, blocks, entries, submissions, tiles, state, notes, middles = found
        place.rows = Rows(
            dict(meta),
            {block[0]: BlockRow(*block) for block in blocks},
            [EntryRow(*entry) for entry in entries],
            {Submission(*each) for each in submissions},
            {(level, index): hashes for level, index, hashes in tiles},
            {path: dict(values) for path, values in state},
            dict(notes),
            dict(middles),
        )
        return place


class _Writing:
    """A copy of the rows being changed; takes effect as a whole or not at all."""

    def __init__(self, place: MemoryPlace) -> None:
        self.rows = place.rows.copied()
        self._left = place.fail_after

    def step(self) -> None:
        if self._left is not None:
            if self._left == 0:
                raise LedgerUnavailable("the place took no more")
            self._left -= 1


class MemoryStore:
    """One opening of a place."""

    def __init__(self, place: MemoryPlace, *, is_writer: bool) -> None:
        self._place, self._is_writer = place, is_writer
        self._is_open = True

    def close(self) -> None:
        if self._is_open and self._is_writer:
            self._place.is_taken = False
        self._is_open = False

    def begin(self, meta: Mapping[str, str], commit: Commit) -> None:
        with self._place.mutex:
            writing = self._writing()
            for name, value in meta.items():
                writing.step()
                if name in writing.rows.meta:
                    raise LedgerUnavailable("there is a ledger here already")
                writing.rows.meta[name] = value
            self._write(writing, commit)

    def commit(self, commit: Commit) -> None:
        with self._place.mutex:
            self._write(self._writing(), commit)

    def recover(self) -> BlockRow | None:
        return self.last_block()

    def replace_checkpoint(self, size: int, note: str) -> None:
        with self._place.mutex:
            writing = self._writing()
            writing.step()
            writing.rows.notes[size] = note
            self._raise_meta(writing, COSIGNED, size)
            self._place.rows = writing.rows

    def prune(self, height: int) -> int:
        with self._place.mutex:
            writing = self._writing()
            dropped = 0
            for values in writing.rows.state.values():
                for old in sorted(values):
                    if any(old < later <= height for later in values):
                        writing.step()
                        del values[old]
                        dropped += 1
            self._raise_meta(writing, PRUNED, height)
            self._place.rows = writing.rows
            return dropped

    def snapshot(self, target: Path) -> None:
        rows = self._rows()
        content = (
            rows.meta,
            [_fields(block) for block in rows.blocks.values()],
            [(row.index, row.height, row.entry) for row in rows.entries],
            [(each.signer, each.nonce, each.index) for each in rows.submissions],
            [(level, index, hashes) for (level, index), hashes in rows.tiles.items()],
            [(path, list(values.items())) for path, values in rows.state.items()],
            list(rows.notes.items()),
            list(rows.middles.items()),
        )
        try:
            with target.open("xb") as file:
                file.write(encode(content))
        except OSError as cause:
            raise LedgerUnavailable("the copy could not be written") from cause

    def meta(self, name: str) -> str | None:
        return self._rows().meta.get(name)

    def blocks(self) -> Iterator[BlockRow]:
        rows = self._rows()
        return iter([rows.blocks[height] for height in sorted(rows.blocks)])

    def block_at(self, height: int) -> BlockRow | None:
        return max((row for row in self.blocks() if row.height <= height), key=lambda row: row.height, default=None)

    def block_of_size(self, size: int) -> BlockRow | None:
        return next((row for row in self.blocks() if row.size == size), None)

    def last_block(self) -> BlockRow | None:
        return max(self.blocks(), key=lambda row: row.height, default=None)

    def entry(self, index: int) -> bytes | None:
        return next((row.entry for row in self.entries() if row.index == index), None)

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[EntryRow]:
        return iter(
            [row for row in self._rows().entries if start <= row.index and (stop is None or row.index < stop)]
        )

    def find(self, signer: bytes, nonce: int) -> tuple[EntryRow, ...]:
        rows = self._rows()
        named = sorted(each.index for each in rows.submissions if (each.signer, each.nonce) == (signer, nonce))
        return tuple(rows.entries[index] for index in named)

    def submissions(self) -> Iterator[Submission]:
        return iter(sorted(self._rows().submissions))

    def tile(self, level: int, index: int) -> bytes | None:
        return self._rows().tiles.get((level, index))

    def tiles(self) -> Iterator[Tile]:
        return iter([Tile(*place, hashes) for place, hashes in sorted(self._rows().tiles.items())])

    def middle(self, index: int) -> bytes | None:
        return self._rows().middles.get(index)

    def middles(self) -> Iterator[tuple[int, bytes]]:
        return iter(sorted(self._rows().middles.items()))

    def damage(self) -> Iterator[str]:
        self._rows()
        return iter(())

    def state(self) -> Iterator[tuple[bytes, bytes]]:
        return iter([(path, values[max(values)]) for path, values in sorted(self._rows().state.items())])

    def state_rows(self) -> Iterator[StateRow]:
        found: list[StateRow] = []
        for path, values in self._rows().state.items():
            before: bytes | None = None
            for at in sorted(values):
                found.append(StateRow(path, at, values[at], before))
                before = values[at]
        return iter(sorted(found, key=lambda row: (row.height, row.path)))

    def changed_after(self, height: int) -> Iterator[tuple[bytes, bytes | None]]:
        found: list[tuple[bytes, bytes | None]] = []
        for path, values in self._rows().state.items():
            if max(values) > height:
                before = max((at for at in values if at <= height), default=None)
                found.append((path, None if before is None else values[before]))
        return iter(found)

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        return iter(sorted(self._rows().notes.items()))

    def checkpoint(self, size: int) -> str | None:
        return self._rows().notes.get(size)

    def _rows(self) -> Rows:
        if not self._is_open:
            raise LedgerClosed("the store is closed")
        return self._place.rows

    def _writing(self) -> _Writing:
        self._rows()
        if not self._is_writer:
            raise LedgerUnavailable("the store is open for reading only")
        return _Writing(self._place)

    def _write(self, writing: _Writing, commit: Commit) -> None:
        rows, row = writing.rows, commit.row
        if commit.first != len(rows.entries) or row.height in rows.blocks:
            raise LedgerUnavailable("the block does not follow the one before it")
        for index, entry in enumerate(commit.entries, commit.first):
            writing.step()
            rows.entries.append(EntryRow(index, row.height, entry))
        for path, value in commit.state.items():
            writing.step()
            rows.state.setdefault(path, {})[row.height] = value
        for tile in commit.tiles:
            writing.step()
            rows.tiles[tile.level, tile.index] = tile.hashes
            if tile.middle:
                rows.middles[tile.index] = tile.middle
        rows.submissions |= set(commit.submissions)
        writing.step()
        rows.blocks[row.height] = row
        rows.notes[row.size] = commit.note
        self._place.rows = rows

    def _raise_meta(self, writing: _Writing, name: str, number: int) -> None:
        writing.step()
        writing.rows.meta[name] = str(max(number, int(writing.rows.meta.get(name, "0"))))


def _fields(row: BlockRow) -> tuple[int, int, int, bytes, bytes, bytes]:
    return row.height, row.time_ms, row.size, row.log_root, row.state_root, row.app_hash
