"""Blocks to keep, and what a store must then give back, worked out from plain lists and dicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ledger_core.log import Tile
from ledger_core.machine import BlockRow
from ledger_core.ports import Commit, EntryRow, Reader, StateRow, Store, Submission
from tests.support.naive_trees import log_root, log_tiles, sha, tile_middle

META = {"origin": "store.example/ledger", "log_key": "00ff"}


class StoreWorld(Protocol):
    """Where one store's rows are; outlives the stores opened onto it."""

    def open(self) -> Store:
        """Open to write; refused while it is open."""
        ...

    def open_to_read(self) -> Reader:
        """Open to read, beside a writer or alone."""
        ...

    def open_copy(self, file: Path) -> Reader:
        """Open what ``snapshot`` wrote."""
        ...

    def fail_after(self, rows: int | None) -> None:
        """Let every write of the stores opened from now on fail once it has written so many rows."""
        ...


@dataclass(frozen=True)
class Dump:
    """Everything a store gives back."""

    blocks: list[BlockRow]
    entries: list[EntryRow]
    submissions: list[Submission]
    tiles: list[Tile]
    state: list[tuple[bytes, bytes]]
    state_rows: list[StateRow]
    checkpoints: list[tuple[int, str]]
    middles: list[tuple[int, bytes]]


def dump(reader: Reader) -> Dump:
    return Dump(
        list(reader.blocks()),
        list(reader.entries()),
        sorted(reader.submissions()),
        list(reader.tiles()),
        list(reader.state()),
        list(reader.state_rows()),
        list(reader.checkpoints()),
        list(reader.middles()),
    )


@dataclass
class Chain:
    """Makes blocks one after another and remembers what they hold; a store judges no content."""

    commits: list[Commit] = field(default_factory=list)
    entries: list[bytes] = field(default_factory=list)

    def add(
        self,
        count: int = 2,
        state: Mapping[bytes, bytes] | None = None,
        *,
        height: int | None = None,
        named: Sequence[tuple[bytes, int]] = (),
    ) -> Commit:
        """Return the next block: ``count`` entries, of which the first ones are named as submissions."""
        number = (self.commits[-1].row.height + 1 if self.commits else 0) if height is None else height
        before, first = log_tiles(self.entries), len(self.entries)
        new = [f"entry {index} of block {number}".encode() for index in range(first, first + count)]
        self.entries += new
        after = log_tiles(self.entries)
        middles = _middles(after)
        tiles = tuple(
            Tile(*place, hashes, middles.get(place, b""))
            for place, hashes in after.items()
            if before.get(place) != hashes
        )
        size, root = len(self.entries), log_root(self.entries)
        row = BlockRow(number, 1_000 + number, size, root, sha(b"state %d" % number), sha(b"app %d" % number))
        submissions = tuple(Submission(*pair, first + place) for place, pair in enumerate(named))
        held = {path: value for each in self.commits for path, value in each.state.items()}
        replaced = {path: held[path] for path in state or {} if path in held}
        commit = Commit(row, tuple(new), submissions, dict(state or {}), replaced, tiles, f"note of {size}\n")
        self.commits.append(commit)
        return commit

    def begin(self, store: Store) -> None:
        store.begin(META, self.add())

    def dump(self) -> Dump:
        """Return what a store that keeps all of it, never pruned, must give back."""
        rows: list[StateRow] = []
        for each in self.commits:
            newest = {row.path: row.value for row in rows}
            rows += [StateRow(path, each.row.height, new, newest.get(path)) for path, new in each.state.items()]
        return Dump(
            [each.row for each in self.commits],
            [
                EntryRow(index, each.row.height, entry)
                for each in self.commits
                for index, entry in enumerate(each.entries, each.first)
            ],
            sorted(named for each in self.commits for named in each.submissions),
            [Tile(*place, hashes) for place, hashes in sorted(log_tiles(self.entries).items())],
            sorted({row.path: row.value for row in rows}.items()),
            sorted(rows, key=lambda row: (row.height, row.path)),
            [(each.row.size, each.note) for each in self.commits],
            sorted((index, middle) for (_, index), middle in _middles(log_tiles(self.entries)).items()),
        )


def _middles(tiles: Mapping[tuple[int, int], bytes]) -> dict[tuple[int, int], bytes]:
    full = {place: hashes for place, hashes in tiles.items() if place[0] == 0 and len(hashes) == 256 * 32}
    return {place: tile_middle(hashes) for place, hashes in full.items()}


def path(number: int) -> bytes:
    return sha(b"path %d" % number)
