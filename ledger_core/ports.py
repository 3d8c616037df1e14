"""What a ledger asks of a store: to keep whole blocks, and to give back what it kept.

A store never judges. What it returns is checked where it is used: a root, a
proof or a replay that disagrees is `IntegrityBroken`, or a finding of ``fsck``.
The stores on SQLite and PostgreSQL keep this promise; another one has to pass the
same contract suite (``tests/contract/ledger_store``).

Invariants every store keeps:
    * ``commit`` is all or nothing, and what it acknowledged survives loss of power;
    * blocks come in order of height; entries are numbered from 0 without a gap;
    * rows are only added, but for tiles, which grow at the right edge, a checkpoint
      that gains cosignatures, and what ``prune`` drops;
    * a reader sees whole blocks only, and any thread may read while one commits.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ledger_core.log import Tile, TiledLog
from ledger_core.machine import Accepted, BlockResult, BlockRow
from ledger_core.transactions import Prepared, prepare

PRUNED: Final = "pruned_below"
"""Setting: the height below which superseded state may be gone."""
COSIGNED: Final = "cosigned"
"""Setting: the largest size whose checkpoint was replaced by a cosigned one."""


@dataclass(frozen=True, slots=True)
class EntryRow:
    """A log entry, its number and the height of its block."""

    index: int
    height: int
    entry: bytes


@dataclass(frozen=True, slots=True)
class StateRow:
    """A value that a block wrote; it holds until a higher block writes the same path.

    ``before`` is the value of the next lower row of the path that is kept, None if there is none.
    """

    path: bytes
    height: int
    value: bytes
    before: bytes | None


@dataclass(frozen=True, slots=True, order=True)
class Submission:
    """What names an accepted envelope: who signed it, under which nonce; and its entry."""

    signer: bytes
    nonce: int
    index: int


@dataclass(frozen=True, slots=True)
class Commit:
    """A block as a store keeps it: all of this or none of it.

    ``replaced`` has, of the paths in ``state``, those that had a value before the
    block, and that value. ``tiles`` hold every tile that the block changed, each
    whole, with its middle where a full one has it; ``note`` is the signed
    checkpoint after the block.
    """

    row: BlockRow
    entries: tuple[bytes, ...]
    submissions: tuple[Submission, ...]
    state: Mapping[bytes, bytes]
    replaced: Mapping[bytes, bytes]
    tiles: tuple[Tile, ...]
    note: str

    @property
    def first(self) -> int:
        """Number of the block's first entry."""
        return self.row.size - len(self.entries)


def commit_of(
    block: BlockResult, log: TiledLog, note: str, submissions: tuple[Submission, ...] | None = None
) -> Commit:
    """Return what a store keeps of ``block``, on top of ``log``; ``submissions`` are read if not given."""
    row = block.state.row()
    if submissions is None:
        numbered = enumerate(block.entries, row.size - len(block.entries))
        named = (submission_of(entry, index) for index, entry in numbered)
        submissions = tuple(each for each in named if each is not None)
    tiles = log.grow(block.leaves)
    return Commit(row, block.entries, submissions, block.updates, block.replaced, tiles, note)


def submission_of(entry: bytes, index: int) -> Submission | None:
    """Return what names the envelope in log entry ``index``; None if the entry is none."""
    transaction = prepare(entry, signatures=False).transaction
    return None if transaction is None else Submission(transaction.signer, transaction.nonce, index)


def find_accepted(store: "Reader", envelope: Prepared) -> Accepted | None:
    """Return where this envelope, byte for byte, was accepted, or None."""
    transaction = envelope.transaction
    if transaction is None:
        return None
    for row in store.find(transaction.signer, transaction.nonce):
        if row.entry == envelope.data:
            return Accepted(row.index, row.height, envelope.digest, True)
    return None


class Reader(Protocol):
    """The rows of a ledger, as stored; nothing about them is trusted."""

    def meta(self, name: str) -> str | None:
        """Return a setting kept with the ledger, or None: ``origin``, ``log_key`` (hex), ``PRUNED``, ``COSIGNED``."""
        ...

    def blocks(self) -> Iterator[BlockRow]:
        """Yield every block row by height."""
        ...

    def block_at(self, height: int) -> BlockRow | None:
        """Return the highest block that is not above ``height``, or None."""
        ...

    def block_of_size(self, size: int) -> BlockRow | None:
        """Return the block after which the log had exactly ``size`` entries, or None."""
        ...

    def last_block(self) -> BlockRow | None:
        """Return the highest block, or None in an empty store."""
        ...

    def entry(self, index: int) -> bytes | None:
        """Return log entry ``index``, or None."""
        ...

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[EntryRow]:
        """Yield the entries from ``start`` up to, not including, ``stop``, by number."""
        ...

    def find(self, signer: bytes, nonce: int) -> tuple[EntryRow, ...]:
        """Return the entries accepted from ``signer`` under ``nonce``: an owner of several paths may have several."""
        ...

    def submissions(self) -> Iterator[Submission]:
        """Yield what names each accepted envelope."""
        ...

    def tile(self, level: int, index: int) -> bytes | None:
        """Return the hashes kept of a tile, 32 bytes each and at most 256, or None."""
        ...

    def tiles(self) -> Iterator[Tile]:
        """Yield every tile by level and index."""
        ...

    def middle(self, index: int) -> bytes | None:
        """Return what was kept as the middle of the full tile ``index`` of level 0 (16 hashes), or None."""
        ...

    def middles(self) -> Iterator[tuple[int, bytes]]:
        """Yield (index, middle) of the full tiles of level 0, by index."""
        ...

    def state(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (path, newest value), by path."""
        ...

    def state_rows(self) -> Iterator[StateRow]:
        """Yield every value kept, superseded ones included, by height and path."""
        ...

    def changed_after(self, height: int) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield, for every path written above ``height``, the value it had at ``height`` (None: it had none)."""
        ...

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Yield (size, note) by size."""
        ...

    def checkpoint(self, size: int) -> str | None:
        """Return the note kept for ``size``, or None."""
        ...

    def damage(self) -> Iterator[str]:
        """Yield what the store itself finds wrong with how rows are kept, such as an index that disagrees."""
        ...

    def close(self) -> None:
        """Let go of the files or connections."""
        ...


class Moment(Reader, Protocol):
    """A ledger open for reading only, as it was at one moment."""

    def renew(self) -> None:
        """Look at the rows as they are now; no scan may be under way."""
        ...

    def snapshot(self, target: Path) -> None:
        """Write a copy, as of the moment, to the new file ``target``; writers go on meanwhile.

        Raises:
            LedgerUnavailable: The copy could not be written.
        """
        ...


class Store(Reader, Protocol):
    """A store that one process at a time writes."""

    def begin(self, meta: Mapping[str, str], commit: Commit) -> None:
        """Write the settings and block 0 of a new ledger.

        Raises:
            LedgerUnavailable: Nothing was kept.
        """
        ...

    def commit(self, commit: Commit) -> None:
        """Keep a block; return once it survives loss of power.

        Raises:
            LedgerAway: The server was lost; ``recover`` tells whether the block was kept.
            LedgerUnavailable: Nothing of the block was kept, or the disk failed while
                it was written; the ledger must be opened again to know.
        """
        ...

    def recover(self) -> BlockRow | None:
        """Return the highest block, once no commit that was begun before can still change it; after ``LedgerAway``.

        Raises:
            LedgerAway: The server is still away.
            LedgerUnavailable: The rows are not as this store left them: another process wrote, or the server
                lost a block; the ledger must be opened again.
        """
        ...

    def replace_checkpoint(self, size: int, note: str) -> None:
        """Keep ``note`` (the same checkpoint with more signatures) for ``size``; durable as ``commit`` is.

        Raises:
            LedgerUnavailable: Nothing was changed.
        """
        ...

    def prune(self, height: int) -> int:
        """Drop the values that were superseded at or below ``height``; return how many.

        State at ``height`` and above stays provable; roots, entries and blocks stay whole.

        Raises:
            LedgerUnavailable: Nothing was dropped.
        """
        ...

    def snapshot(self, target: Path) -> None:
        """Write a copy, as of one block, to the new file ``target``; writers go on meanwhile.

        Raises:
            LedgerUnavailable: The copy could not be written.
        """
        ...
