"""Rebuild every root from the transactions and say what disagrees, and where.

For an operator after a restore and for an auditor with a copy of the file. The
log entries are the truth; every other row is rebuilt from them. A change made
consistently everywhere, by somebody who holds the log's key, shows only against
a checkpoint kept outside: give one.

A finding names a place (table/key) and what is wrong there. After an entry that
the rules no longer accept, state cannot be replayed further; the kept state
rows are then compared, as a whole, with the newest state root.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ledger_core.checkpoint import Checkpoint, cosigner_key, log_key, parse_checkpoint, split_note, verify_note
from ledger_core.errors import LedgerAway, LedgerError, LedgerUnavailable, OpeningRefused
from ledger_core.hashing import HASH_BYTES, leaf_hash
from ledger_core.log import Frontier
from ledger_core.machine import BlockRow, Header, State, app_hash, apply_block, begin, read_genesis
from ledger_core.middles import middle_of
from ledger_core.ports import COSIGNED, PRUNED, EntryRow, Reader, StateRow, Submission, submission_of
from ledger_core.sparse import StateTree
from ledger_core.stateroot import StateEntry, read_state_entry

_TILE_BYTES: Final = 256 * HASH_BYTES

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong: ``where`` is table/key, ``what`` says in words what is wrong there."""

    where: str
    what: str


def check(rows: Reader, *, checkpoint: str | None = None, progress: Progress | None = None) -> Iterator[Finding]:
    """Yield everything that disagrees in ``rows``; nothing at all for a sound ledger.

    Args:
        rows: A ledger's rows; nothing about them is trusted.
        checkpoint: A signed checkpoint of this ledger that was kept elsewhere.
        progress: Called with the number of entries replayed so far, after each block.
    """
    checker = _Checker(rows, progress)
    try:
        yield from checker.check_files()
        yield from checker.check_entries()
        yield from checker.check_tiles()
        yield from checker.check_submissions()
        yield from checker.check_state()
        yield from checker.check_checkpoints()
        if checkpoint is not None:
            yield from checker.check_outside(checkpoint)
    except LedgerAway:
        # Nothing is known to be wrong, and nothing to be sound.
        raise
    except (LedgerUnavailable, TypeError, ValueError, OverflowError) as cause:
        yield Finding("database", f"rows cannot be read: {type(cause).__name__}")


class _Checker:
    """Walks the entries once and keeps what the other tables are compared with."""

    def __init__(self, rows: Reader, progress: Progress | None) -> None:
        self._rows, self._progress = rows, progress
        self._state: State | None = None
        self._newest: StateEntry | None = None
        self._log = Frontier()
        self._tiles = _Tiles()
        self._submissions: set[Submission] = set()
        self._written: dict[bytes, dict[int, bytes]] = {}
        # Sizes at which a block ends, with the log root there as far as it is known.
        self._roots: dict[int, bytes | None] = {}
        # False from the first place on where a rebuilt value could only repeat an earlier finding.
        self._is_state_known = True
        self._is_root_known = True

    def check_files(self) -> Iterator[Finding]:
        for problem in self._rows.damage():
            yield Finding("database", problem)

    def check_entries(self) -> Iterator[Finding]:
        blocks = {row.height: row for row in self._rows.blocks()}
        expected = 0
        group: list[EntryRow] = []
        for row in self._rows.entries():
            if row.index != expected:
                yield Finding(f"entries/{expected}", f"missing, up to entry {row.index - 1}")
                self._is_state_known = self._is_root_known = False
            expected = row.index + 1
            group.append(row)
            closing = read_state_entry(row.entry)
            if closing is not None:
                yield from self._check_block(group, closing, blocks.pop(closing.height, None))
                group = []
        if group or expected == 0:
            yield Finding(f"entries/{expected}", "missing: the log does not end with a state root")
            self._is_state_known = self._is_root_known = False
        for height in blocks:
            yield Finding(f"blocks/{height}", "the log has no such block: it was cut, or this row was added")

    def check_tiles(self) -> Iterator[Finding]:
        if not self._is_root_known:
            return
        tiles = self._tiles.finish()
        missing = dict(tiles)
        for tile in self._rows.tiles():
            where = f"tiles/{tile.level}/{tile.index}"
            expected = missing.pop((tile.level, tile.index), None)
            if expected is None:
                yield Finding(where, "the log has no such tile: it was cut, or this row was added")
            elif expected != tile.hashes:
                yield Finding(where, "is not what the entries lead to")
        for level, index in sorted(missing):
            yield Finding(f"tiles/{level}/{index}", "missing")
        # None may be missing without harm; one that is there is checked whenever it is used.
        for index, middle in self._rows.middles():
            hashes = tiles.get((0, index), b"")
            if len(hashes) != _TILE_BYTES or middle_of(hashes) != middle:
                yield Finding(f"middles/{index}", "is not what the entries lead to")

    def check_submissions(self) -> Iterator[Finding]:
        missing = set(self._submissions)
        for kept in self._rows.submissions():
            if kept not in missing:
                yield Finding(f"submissions/{_named(kept)}", f"does not name entry {kept.index}")
            missing.discard(kept)
        for lost in sorted(missing):
            yield Finding(f"submissions/{_named(lost)}", f"missing; it should name entry {lost.index}")

    def check_state(self) -> Iterator[Finding]:
        if not self._is_state_known or self._state is None:
            kept = dict(self._rows.state())
            newest = self._newest
            if newest is None or StateTree(kept, suite=newest.suite).root != newest.state_root:
                yield Finding("state", "the rows do not lead to the newest state root")
            return
        seen: set[tuple[bytes, int]] = set()
        below = self._pruned_below()
        for row in self._rows.state_rows():
            where = f"state/{row.path.hex()}/{row.height}"
            expected = self._written.get(row.path, {}).get(row.height)
            if expected is None:
                yield Finding(where, "no transaction wrote this")
            elif expected != row.value:
                yield Finding(where, "is not what the transactions lead to")
            elif row.before != self._replaced(row) and (row.before is not None or row.height > below):
                yield Finding(where, "the value it says it replaced is another")
            seen.add((row.path, row.height))
        yield from self._missing_state(seen)

    def check_checkpoints(self) -> Iterator[Finding]:
        yield from self._check_meta()
        missing = set(self._roots)
        for size, note in self._rows.checkpoints():
            where = f"checkpoints/{size}"
            found = self._read(note)
            root = self._roots.get(size)
            if found is None:
                yield Finding(where, "is not signed by the log's key, or is malformed")
            elif found.size != size:
                yield Finding(where, f"speaks of size {found.size}")
            elif size not in self._roots:
                yield Finding(where, "no block ends at this size: the log was cut, or this row was added")
            elif root is not None and found.root != root:
                yield Finding(where, "its root is not what the entries lead to")
            missing.discard(size)
        for size in sorted(missing):
            yield Finding(f"checkpoints/{size}", "missing")

    def check_outside(self, checkpoint: str) -> Iterator[Finding]:
        found = self._read(checkpoint)
        held = max(self._roots, default=0)
        if found is None:
            yield Finding("checkpoint", "the checkpoint given is not signed by the key kept with this ledger")
        elif found.size > held:
            yield Finding(f"entries/{held}", f"rolled back: the log once had {found.size} entries, now {held}")
        elif found.size not in self._roots:
            yield Finding("entries", f"rewritten: no block ends at entry {found.size} now")
        elif self._roots[found.size] is not None and found.root != self._roots[found.size]:
            yield Finding("entries", f"rewritten: the first {found.size} entries lead to another root")

    def _check_block(self, group: list[EntryRow], closing: StateEntry, kept: BlockRow | None) -> Iterator[Finding]:
        size = group[-1].index + 1
        self._newest = closing
        for row in group:
            if row.height != closing.height:
                yield Finding(f"entries/{row.index}", f"height {row.height} is not that of its block")
            submission = submission_of(row.entry, row.index)
            if submission is not None:
                self._submissions.add(submission)
        yield from self._replay(group, closing)
        yield from self._grow(group, kept)
        self._roots[size] = self._log.root() if self._is_root_known else None
        if kept is None:
            yield Finding(f"blocks/{closing.height}", "missing")
            return
        said = (kept.time_ms, kept.size, kept.state_root)
        if said != (closing.time_ms, size, closing.state_root):
            yield Finding(f"blocks/{kept.height}", "time, size or state root is not what the log says")
        if kept.app_hash != app_hash(kept.size, kept.log_root, kept.state_root, closing.suite):
            yield Finding(f"blocks/{kept.height}", "the app hash does not follow from the roots beside it")
        if self._progress is not None:
            self._progress(size)

    def _replay(self, group: list[EntryRow], closing: StateEntry) -> Iterator[Finding]:
        if not self._is_state_known:
            return
        try:
            if self._state is None:
                block = begin(read_genesis(group[0].entry))
            else:
                header = Header(closing.height, closing.time_ms)
                block = apply_block(self._state, header, [row.entry for row in group[:-1]])
        except (OpeningRefused, ValueError):
            yield Finding(f"entries/{group[0].index}", "this block does not follow the one before it")
            self._is_state_known = False
            return
        for row, result in zip(group, block.results, strict=False):
            if result.code:
                yield Finding(f"entries/{row.index}", f"the rules refuse this entry: {result.code}")
                self._is_state_known = False
        if self._is_state_known and block.state.tree.root != closing.state_root:
            yield Finding(f"entries/{group[-1].index}", "the state root is not what the transactions lead to")
            self._is_state_known = False
        for path, value in block.updates.items():
            self._written.setdefault(path, {})[closing.height] = value
        self._state = block.state

    def _grow(self, group: list[EntryRow], kept: BlockRow | None) -> Iterator[Finding]:
        """Extend the log by the entries; by the leaf hashes in the tiles where only those lead to the kept root."""
        if not self._is_root_known:
            return
        leaves = [leaf_hash(row.entry) for row in group]
        grown = self._log.append(leaves)
        if kept is not None and grown.root() != kept.log_root:
            stored = [self._stored_leaf(row.index) for row in group]
            regrown = self._log.append(stored)
            if regrown.root() == kept.log_root:
                for row, leaf, known in zip(group, leaves, stored, strict=True):
                    if leaf != known:
                        yield Finding(
                            f"entries/{row.index}", "was changed: its leaf hash and every root above differ"
                        )
                leaves, grown = stored, regrown
            else:
                yield Finding(f"blocks/{kept.height}", "the log root is not what the entries lead to")
        self._log = grown
        self._tiles.extend(leaves)

    def _stored_leaf(self, index: int) -> bytes:
        hashes = self._rows.tile(0, index >> 8) or b""
        at = (index & 255) * HASH_BYTES
        return hashes[at : at + HASH_BYTES]

    def _missing_state(self, seen: set[tuple[bytes, int]]) -> Iterator[Finding]:
        """Yield values that are gone though pruning had no reason to drop them."""
        below = self._pruned_below()
        for path, values in sorted(self._written.items()):
            for height in sorted(values):
                is_superseded = any(height < later <= below for later in values)
                if (path, height) not in seen and not is_superseded:
                    yield Finding(f"state/{path.hex()}/{height}", "missing")

    def _replaced(self, row: StateRow) -> bytes | None:
        """Return what the transactions had written at the path before this row."""
        values = self._written[row.path]
        earlier = max((height for height in values if height < row.height), default=None)
        return None if earlier is None else values[earlier]

    def _pruned_below(self) -> int:
        kept = self._rows.meta(PRUNED) or "0"
        return int(kept) if kept.isdecimal() else 0

    def _check_meta(self) -> Iterator[Finding]:
        """Name the settings that fit nothing, and the one that makes every checkpoint fail."""
        cosigned, pruned = self._rows.meta(COSIGNED), self._rows.meta(PRUNED)
        if cosigned is not None and (not cosigned.isdecimal() or int(cosigned) not in self._roots):
            yield Finding(f"meta/{COSIGNED}", "no block ends at this size")
        top = -1 if self._newest is None else self._newest.height
        if pruned is not None and (not pruned.isdecimal() or int(pruned) > top):
            yield Finding(f"meta/{PRUNED}", "there is no such height yet")
        notes = list(self._rows.checkpoints())
        if not notes or any(self._read(note) is not None for _, note in notes):
            return
        said = {_origin_of(note) for _, note in notes}
        if len(said) == 1 and self._rows.meta("origin") not in said:
            yield Finding("meta/origin", "every checkpoint names another origin")
        else:
            yield Finding("meta/log_key", "no checkpoint is signed by this key")

    def _read(self, note: str) -> Checkpoint | None:
        try:
            public = bytes.fromhex(self._rows.meta("log_key") or "")
            origin = self._rows.meta("origin") or ""
            text, vouchings = verify_note(note, (log_key(origin, public), cosigner_key(origin, public)))
            found = parse_checkpoint(text)
        except (LedgerError, ValueError):
            return None
        is_signed = any(item.key == log_key(origin, public) for item in vouchings)
        return found if is_signed and found.origin == origin else None


class _Tiles:
    """Tiles built anew from leaf hashes: level by level, a full tile's root being a hash of the next."""

    def __init__(self) -> None:
        self._open: list[bytearray] = [bytearray()]
        self._full: list[int] = [0]
        self._done: dict[tuple[int, int], bytes] = {}

    def extend(self, leaves: list[bytes]) -> None:
        for leaf in leaves:
            self._add(0, leaf)

    def finish(self) -> dict[tuple[int, int], bytes]:
        """Return every tile by (level, index), the partial ones at the edge included."""
        partial = {(level, self._full[level]): bytes(each) for level, each in enumerate(self._open) if each}
        return {**self._done, **partial}

    def _add(self, level: int, value: bytes) -> None:
        if level == len(self._open):
            self._open.append(bytearray())
            self._full.append(0)
        tile = self._open[level]
        tile += value
        if len(tile) < _TILE_BYTES:
            return
        hashes = bytes(tile)
        self._done[level, self._full[level]] = hashes
        self._full[level] += 1
        tile.clear()
        parts = (hashes[at : at + HASH_BYTES] for at in range(0, _TILE_BYTES, HASH_BYTES))
        self._add(level + 1, Frontier().append(parts).root())


def _named(submission: Submission) -> str:
    return f"{submission.signer.hex()}/{submission.nonce}"


def _origin_of(note: str) -> str | None:
    try:
        return parse_checkpoint(split_note(note)[0]).origin
    except LedgerError:
        return None
