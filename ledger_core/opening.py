"""Open a ledger, check it, move it; the only place that picks an engine.

Keys, static tiles and exports are files wherever a ledger's rows are. Opening reads the newest state and the
right edge of the log and compares their roots with the newest block, so a
ledger whose rows disagree does not open; ``fsck`` then says where. Tiles further
left are checked against that root when a proof reads them.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ledger_core.checkpoint import Checkpoint, check_origin, sign_checkpoint
from ledger_core.engines.embedded import EmbeddedEngine
from ledger_core.errors import IntegrityBroken, LedgerError, OpeningRefused
from ledger_core.fsck import Finding, check
from ledger_core.hashing import HASH_BYTES
from ledger_core.keys import Identity
from ledger_core.ledger import Ledger
from ledger_core.log import TiledLog
from ledger_core.machine import Genesis, Header, State, begin, read_genesis
from ledger_core.places import empty_server, holds_ledger, is_url, open_store, open_to_read, path_of
from ledger_core.ports import COSIGNED, Reader, Store, commit_of
from ledger_core.sparse import StateTree
from ledger_core.stateroot import read_state_entry
from ledger_core.static import write_static
from ledger_core.stores.files import Connect, connect_file
from ledger_core.stores.schema import STEP_3
from ledger_core.stores.sqlite import SqliteStore
from ledger_core.transactions import Transaction, read_envelope
from ledger_core.transfer import export_ledger, import_ledger

Progress = Callable[[int], None]


def open_ledger(
    address: str | Path,
    *,
    log_identity: Identity,
    genesis: Genesis | None = None,
    origin: str | None = None,
    max_block: int = 512,
    max_waiting: int = 4096,
    cache_tiles: int = 1024,
    connect: Connect = connect_file,
) -> Ledger:
    """Open the ledger at ``address``; with ``genesis`` begin it if there is none.

    Args:
        address: A path, ``sqlite:PATH``, or ``postgresql://…``.
        log_identity: Key that signs checkpoints; the same at every opening.
        genesis: What to begin with; must agree with what an existing ledger began with.
        origin: Name of the log in checkpoints; the genesis name by default.
        max_block: Transactions committed together at most.
        max_waiting: Transactions that may wait before ``submit`` does.
        cache_tiles: Expanded tiles of the log kept in memory, about 16 KiB each.
        connect: How the SQLite store opens its file, for those who bring a driver of their own.

    Raises:
        LedgerLocked: It is open elsewhere.
        LedgerAway: The server does not answer.
        OpeningRefused: Nothing there and no genesis, or other genesis, origin or log key.
        IntegrityBroken: Stored rows disagree; run ``fsck``.
    """
    store = open_store(address, connect)
    try:
        if store.last_block() is None:
            _begin(store, genesis, origin, log_identity)
        stored = _check_identity(store, genesis, origin, log_identity)
        state, log = load(store, stored, cache_tiles=cache_tiles)
    except BaseException:
        store.close()
        raise
    name = store.meta("origin") or ""
    engine = EmbeddedEngine(
        store=store,
        state=state,
        log=log,
        origin=name,
        log_identity=log_identity,
        clock_ms=_now_ms,
        max_block=max_block,
        max_waiting=max_waiting,
    )
    return Ledger(
        genesis=stored,
        origin=name,
        engine=engine,
        store=store,
        log=log,
        log_identity=log_identity,
        clock_ms=_now_ms,
    )


def run_fsck(
    address: str | Path, *, checkpoint: str | None = None, progress: Progress | None = None
) -> Iterator[Finding]:
    """Rebuild every root from the transactions and yield what disagrees, and where.

    Args:
        address: As for ``open_ledger``; may be open elsewhere.
        checkpoint: A signed checkpoint kept outside, to notice a ledger rolled back as a whole.
        progress: Called with the number of entries replayed so far.

    Raises:
        OpeningRefused: There is no ledger at the address.
        LedgerAway: Its server does not answer, or was lost before the end.
    """
    with open_to_read(address) as store:
        yield from check(store, checkpoint=checkpoint, progress=progress)


def run_export(address: str | Path) -> Iterator[str]:
    """Yield the export of the ledger at ``address``, which may be open elsewhere.

    Raises:
        OpeningRefused: There is no ledger at the address.
    """
    with open_to_read(address) as store:
        yield from export_ledger(store)


def run_import(lines: Iterable[str], address: str | Path, *, progress: Progress | None = None) -> State:
    """Write an exported ledger to ``address``, replaying it whole; return its newest state.

    Raises:
        OpeningRefused: There is something at the address already.
        IntegrityBroken, NoteInvalid: The export is not sound; nothing is left at the address.
    """
    if is_url(address):
        return _import_into_server(lines, str(address), progress)
    target = path_of(address)
    if target.exists():
        raise OpeningRefused(f"{target} exists: name a new place")
    part = target.with_name(f"{target.name}.importing")
    made = [folder for folder in target.absolute().parents if not folder.exists()]
    try:
        store = SqliteStore.open(part)
        try:
            state = import_ledger(lines, store, progress=progress)
            # Whole and settled in one file, whatever the journal still holds.
            store.snapshot(target)
        finally:
            store.close()
    finally:
        for leftover in part.parent.glob(f"{part.name}*"):
            leftover.unlink()
        # Folders are removed only where they are empty: where nothing was imported.
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
    return state


def _import_into_server(lines: Iterable[str], url: str, progress: Progress | None) -> State:
    with empty_server(url) as store, tempfile.TemporaryDirectory() as folder:
        # Through a file, so that the database holds all of the ledger or nothing of it.
        whole = SqliteStore.open(Path(folder) / "ledger.db")
        try:
            state = import_ledger(lines, whole, progress=progress)
            store.fill(whole)
        finally:
            whole.close()
    return state


def run_copy(source: str | Path, address: str | Path) -> None:
    """Copy a ledger, as of one block, to an address that holds none; it may be open elsewhere.

    Raises:
        OpeningRefused: There is no ledger at ``source``, or there is one at ``address``.
        LedgerUnavailable: The copy could not be written; nothing of it is left.
    """
    if not is_url(address):
        run_snapshot(source, path_of(address))
        return
    with open_to_read(source) as reading, empty_server(str(address)) as store:
        store.fill(reading)


def run_snapshot(address: str | Path, target: Path) -> None:
    """Write a copy of the ledger, as of one block, to the new SQLite file ``target``; it may be open elsewhere.

    Raises:
        OpeningRefused: There is no ledger at the address, or ``target`` exists.
    """
    if target.exists():
        raise OpeningRefused(f"{target} exists: name a new file")
    with open_to_read(address) as store:
        store.snapshot(target)


def run_restore(
    snapshot: Path, address: str | Path, *, checkpoint: str | None = None, progress: Progress | None = None
) -> Iterator[Finding]:
    """Check a snapshot as ``fsck`` does and, if it is sound, put it at ``address``; yield what is wrong with it.

    Args:
        snapshot: A file that ``run_snapshot`` wrote.
        address: Where there is no ledger yet.
        checkpoint: A signed checkpoint kept outside; a snapshot older than it is refused.
        progress: Called with the number of entries replayed so far.

    Raises:
        OpeningRefused: The snapshot is none, or there is a ledger at the address.
    """
    if holds_ledger(address):
        raise OpeningRefused("there is a ledger here already: name a new place")
    is_sound = True
    for finding in run_fsck(snapshot, checkpoint=checkpoint, progress=progress):
        is_sound = False
        yield finding
    if is_sound:
        run_copy(snapshot, address)


def run_migrate(address: str | Path, to: int) -> tuple[int, tuple[str, ...]]:
    """Bring a ledger that nobody has open to another layout of its rows, for an older build or a newer one.

    Args:
        address: As for ``open_ledger``.
        to: Number of a layout: 2 or 3 in a file; there is only 1 in PostgreSQL.

    Returns:
        The layout it had, and the names of the steps taken.

    Raises:
        OpeningRefused: There is no ledger at the address, or no such layout.
        LedgerLocked: It is open elsewhere.
        LedgerUnavailable: It could not be; the ledger is as it was.
    """
    with open_to_read(address) as reading:
        found = int((reading.meta("format") or "").rpartition("/v")[2])
    known = (1,) if is_url(address) else (2, 3)
    if to not in known:
        raise OpeningRefused(f"the ledger has no layout {to}: this build knows {' and '.join(map(str, known))} here")
    if is_url(address):
        return found, ()
    store = SqliteStore.open(path_of(address))
    try:
        if to == 2:
            store.bring_down()
    finally:
        store.close()
    return found, () if found == to else (STEP_3,)


def run_static(
    address: str | Path,
    directory: Path,
    *,
    is_cosigned: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Bring the static form (C2SP tlog-tiles) in ``directory`` up to the ledger, which may be open elsewhere.

    Args:
        address: As for ``open_ledger``.
        directory: What a web server serves; made if it is missing.
        is_cosigned: Publish the largest cosigned checkpoint, not the newest.
        progress: Called with the entries written and to be written.

    Returns:
        The size of the log that is now published.

    Raises:
        OpeningRefused: There is no ledger at the address, or no cosigned checkpoint in it.
        IntegrityBroken: The directory holds a longer log or another one.
    """
    with open_to_read(address) as store:
        block = store.last_block()
        size = store.meta(COSIGNED) if is_cosigned else None if block is None else str(block.size)
        note = None if size is None else store.checkpoint(int(size))
        if note is None:
            raise OpeningRefused("there is no checkpoint to publish")
        return write_static(_StaticSource(store, note), directory, progress)


@dataclass(frozen=True, slots=True)
class _StaticSource:
    """A store seen as what ``write_static`` reads."""

    store: Reader
    note: str

    def checkpoint(self) -> str:
        return self.note

    def tile(self, level: int, index: int, width: int) -> bytes:
        hashes = self.store.tile(level, index) or b""
        if len(hashes) < width * HASH_BYTES:
            raise IntegrityBroken(f"tile {level}/{index} is missing or short; run fsck")
        return hashes[: width * HASH_BYTES]

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        return (row.entry for row in self.store.entries(start, stop))


def read_transactions(address: str | Path) -> Iterator[Transaction]:
    """Yield every transaction in the log, which may be open elsewhere; entries that are none are left out.

    Raises:
        OpeningRefused: There is no ledger at the address.
    """
    with open_to_read(address) as store:
        for row in store.entries():
            found = read_envelope(row.entry)
            if not isinstance(found, str):
                yield found.transaction


def load(store: Reader, genesis: Genesis, *, cache_tiles: int = 1024) -> tuple[State, TiledLog]:
    """Return the newest state and the log kept in ``store``, checked against its newest block.

    Raises:
        IntegrityBroken: They disagree, or cannot be read.
    """
    row = store.last_block()
    if row is None:
        raise IntegrityBroken("the ledger has no blocks")
    try:
        log = TiledLog(store.tile, row.size, cache_tiles=cache_tiles, read_middle=store.middle)
        closing = read_state_entry(store.entry(row.size - 1) or b"")
        if closing is None:
            raise IntegrityBroken("the log does not end with a state root; run fsck")
        tree = StateTree.from_sorted(store.state(), suite=closing.suite)
        state = State(genesis.network, Header(row.height, row.time_ms), tree, log.frontier(row.size))
    except (LedgerError, ValueError) as cause:
        raise IntegrityBroken("stored rows cannot be read; run fsck") from cause
    if state.row() != row:
        raise IntegrityBroken("stored rows disagree with the newest block; run fsck")
    return state, log


def _begin(store: Store, genesis: Genesis | None, origin: str | None, log_identity: Identity) -> None:
    if genesis is None:
        raise OpeningRefused("there is no ledger here, and no genesis to begin one with")
    name = genesis.name if origin is None else origin
    check_origin(name)
    block = begin(genesis)
    row = block.state.row()
    note = sign_checkpoint(
        Checkpoint(name, row.size, row.log_root), log_identity, time_s=max(genesis.time_ms, _now_ms()) // 1000
    )
    meta = {"origin": name, "log_key": log_identity.public.hex()}
    store.begin(meta, commit_of(block, TiledLog(store.tile, 0), note))


def _check_identity(store: Reader, genesis: Genesis | None, origin: str | None, log_identity: Identity) -> Genesis:
    stored = read_genesis(store.entry(0) or b"")
    if genesis is not None and genesis != stored:
        raise OpeningRefused("the ledger began with another genesis")
    if origin not in (None, store.meta("origin")) or store.meta("log_key") != log_identity.public.hex():
        raise OpeningRefused("the ledger has another origin or log key")
    return stored


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
