"""Rebuild every root from the transactions and say what disagrees, and where.

For an operator after a restore and for an auditor with a copy of the file. The
log entries are the truth; every other row is rebuilt from them. A change made
consistently everywhere, by somebody who holds the log's key, shows only against
a checkpoint kept outside: give one.

A finding names a place (table/key) and what is wrong there. After an entry that
the rules no longer accept, state cannot be replayed further; the kept state
rows are then compared, as a whole, with the newest state root.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from ledger_core.checkpoint import Checkpoint, cosigner_key, log_key, parse_checkpoint, verify_note
from ledger_core.errors import LedgerError, LedgerUnavailable, OpeningRefused
from ledger_core.hashing import leaf_hash
from ledger_core.log import History
from ledger_core.machine import BlockRow, Header, State, app_hash, apply_block, begin, read_genesis
from ledger_core.sparse import StateTree
from ledger_core.stateroot import StateEntry, read_state_entry
from ledger_core.transactions import envelope_digest

EntryRow: TypeAlias = tuple[int, int, bytes, bytes]


class Rows(Protocol):
    """The rows of a ledger, as stored."""

    def meta(self, name: str) -> str | None:
        """Return a setting kept with the ledger, or None."""
        ...

    def blocks(self) -> Iterator[BlockRow]:
        """Yield every block row by height."""
        ...

    def entries(self) -> Iterator[EntryRow]:
        """Yield (index, height, entry, leaf hash) in order of index."""
        ...

    def envelopes(self) -> Iterator[tuple[bytes, int]]:
        """Yield (envelope digest, entry index)."""
        ...

    def state(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (path, value) of the latest state."""
        ...

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Yield (size, note) by size."""
        ...


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong: ``where`` is table/key, ``what`` says in words what is wrong there."""

    where: str
    what: str


def check(rows: Rows, *, checkpoint: str | None = None) -> Iterator[Finding]:
    """Yield everything that disagrees in ``rows``; nothing at all for a sound ledger.

    Args:
        rows: A ledger's rows; nothing about them is trusted.
        checkpoint: A signed checkpoint of this ledger that was kept elsewhere.
    """
    checker = _Checker(rows)
    try:
        yield from checker.check_entries()
        yield from checker.check_index()
        yield from checker.check_state()
        yield from checker.check_checkpoints()
        if checkpoint is not None:
            yield from checker.check_outside(checkpoint)
    except (LedgerUnavailable, TypeError, ValueError, OverflowError) as cause:
        yield Finding("database", f"rows cannot be read: {type(cause).__name__}")


class _Checker:
    """Walks the entries once and keeps what the other tables are compared with."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._state: State | None = None
        self._newest: StateEntry | None = None
        self._history = History()
        self._digests: dict[bytes, int] = {}
        self._sizes: set[int] = set()
        # False from the first place on where a rebuilt value could only repeat an earlier finding.
        self._is_state_known = True
        self._is_root_known = True

    def check_entries(self) -> Iterator[Finding]:
        blocks = {row.height: row for row in self._rows.blocks()}
        expected = 0
        group: list[EntryRow] = []
        for row in self._rows.entries():
            index, _, entry, leaf = row
            if index != expected:
                yield Finding(f"entries/{expected}", f"missing, up to entry {index - 1}")
                self._is_state_known = self._is_root_known = False
            if leaf_hash(entry) != leaf:
                yield Finding(f"entries/{index}", "entry and leaf hash disagree: one of them was changed")
            expected = index + 1
            group.append(row)
            closing = read_state_entry(entry)
            if closing is not None:
                yield from self._check_block(group, closing, blocks.pop(closing.height, None))
                group = []
        if group or expected == 0:
            yield Finding(f"entries/{expected}", "missing: the log does not end with a state root")
            self._is_state_known = self._is_root_known = False
        for height in blocks:
            yield Finding(f"blocks/{height}", "the log has no such block: it was cut, or this row was added")

    def check_index(self) -> Iterator[Finding]:
        missing = dict(self._digests)
        for digest, index in self._rows.envelopes():
            if missing.pop(digest, None) != index:
                yield Finding(f"envelopes/{digest.hex()}", f"does not name entry {index}")
        for digest, index in missing.items():
            yield Finding(f"envelopes/{digest.hex()}", f"missing; it should name entry {index}")

    def check_state(self) -> Iterator[Finding]:
        kept = dict(self._rows.state())
        if not self._is_state_known or self._state is None:
            if self._newest is None or _root_of(kept) != self._newest.state_root:
                yield Finding("state", "the rows do not lead to the newest state root")
            return
        for path, value in self._state.tree.items():
            found = kept.pop(path, None)
            if found is None:
                yield Finding(f"state/{path.hex()}", "missing")
            elif found != value:
                yield Finding(f"state/{path.hex()}", "is not what the transactions lead to")
        for path in kept:
            yield Finding(f"state/{path.hex()}", "no transaction wrote this")

    def check_checkpoints(self) -> Iterator[Finding]:
        missing = set(self._sizes)
        for size, note in self._rows.checkpoints():
            where = f"checkpoints/{size}"
            found = self._read(note)
            if found is None:
                yield Finding(where, "is not signed by the log's key, or is malformed")
            elif found.size != size:
                yield Finding(where, f"speaks of size {found.size}")
            elif size not in self._sizes:
                yield Finding(where, "no block ends at this size: the log was cut, or this row was added")
            elif self._is_provable(size) and found.root != self._history.root(size):
                yield Finding(where, "its root is not what the entries lead to")
            missing.discard(size)
        for size in sorted(missing):
            yield Finding(f"checkpoints/{size}", "missing")

    def check_outside(self, checkpoint: str) -> Iterator[Finding]:
        found = self._read(checkpoint)
        if found is None:
            yield Finding("checkpoint", "the checkpoint given is not signed by the key kept with this ledger")
        elif found.origin != self._rows.meta("origin"):
            yield Finding("checkpoint", "the checkpoint given is of another log")
        elif found.size > max(self._sizes, default=0):
            held = max(self._sizes, default=0)
            yield Finding(f"entries/{held}", f"rolled back: the log once had {found.size} entries, now {held}")
        elif self._is_provable(found.size) and found.root != self._history.root(found.size):
            yield Finding("entries", f"rewritten: the first {found.size} entries lead to another root")

    def _check_block(self, group: list[EntryRow], closing: StateEntry, kept: BlockRow | None) -> Iterator[Finding]:
        size = group[-1][0] + 1
        self._newest = closing
        self._sizes.add(size)
        for index, height, entry, _ in group:
            if height != closing.height:
                yield Finding(f"entries/{index}", f"height {height} is not that of its block")
            if index and index + 1 < size:
                self._digests[envelope_digest(entry)] = index
        yield from self._replay(group, closing)
        self._grow(group, kept)
        if kept is None:
            yield Finding(f"blocks/{closing.height}", "missing")
            return
        said = (kept.time_ms, kept.size, kept.state_root)
        if said != (closing.time_ms, size, closing.state_root):
            yield Finding(f"blocks/{kept.height}", "time, size or state root is not what the log says")
        if kept.app_hash != app_hash(kept.size, kept.log_root, kept.state_root):
            yield Finding(f"blocks/{kept.height}", "the app hash does not follow from the roots beside it")
        if self._is_provable(size) and kept.log_root != self._history.root(size):
            yield Finding(f"blocks/{kept.height}", "the log root is not what the entries lead to")
            self._is_root_known = False

    def _replay(self, group: list[EntryRow], closing: StateEntry) -> Iterator[Finding]:
        if not self._is_state_known:
            return
        try:
            if self._state is None:
                block = begin(read_genesis(group[0][2]))
            else:
                header = Header(closing.height, closing.time_ms)
                block = apply_block(self._state, header, [row[2] for row in group[:-1]])
        except (OpeningRefused, ValueError):
            yield Finding(f"entries/{group[0][0]}", "this block does not follow the one before it")
            self._is_state_known = False
            return
        for row, result in zip(group, block.results, strict=False):
            if result.code:
                yield Finding(f"entries/{row[0]}", f"the rules refuse this entry: {result.code}")
                self._is_state_known = False
        if self._is_state_known and block.state.tree.root != closing.state_root:
            yield Finding(f"entries/{group[-1][0]}", "the state root is not what the transactions lead to")
            self._is_state_known = False
        self._state = block.state

    def _grow(self, group: list[EntryRow], kept: BlockRow | None) -> None:
        """Extend the log by the entries; by the stored leaf hashes where only those lead to the kept root."""
        if not self._is_root_known:
            return
        rebuilt, stored = [leaf_hash(row[2]) for row in group], [row[3] for row in group]
        grown = self._history.extended_root(rebuilt)
        is_entry_changed = kept is not None and grown != kept.log_root
        if is_entry_changed and kept is not None and self._history.extended_root(stored) == kept.log_root:
            self._history.extend(stored)
        else:
            self._history.extend(rebuilt)

    def _is_provable(self, size: int) -> bool:
        return size <= self._history.size

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


def _root_of(contents: dict[bytes, bytes]) -> bytes:
    return StateTree(contents).root
