"""Open a ledger: the only place that picks a store and an engine.

An address is a path, or ``sqlite:PATH``. Opening reads every leaf and the state
and compares their roots with the newest block, so a ledger whose rows disagree
does not open; ``fsck`` then says where.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from ledger_core.checkpoint import Checkpoint, check_origin, sign_checkpoint
from ledger_core.engines.embedded import EmbeddedEngine
from ledger_core.errors import IntegrityBroken, LedgerError, OpeningRefused
from ledger_core.export import export_ledger
from ledger_core.fsck import Finding, check
from ledger_core.keys import Identity
from ledger_core.ledger import Ledger
from ledger_core.log import History
from ledger_core.machine import Genesis, Header, State, begin, read_genesis
from ledger_core.sparse import StateTree
from ledger_core.stores.sqlite import SqliteStore
from ledger_core.transactions import Transaction, read_envelope


def open_ledger(
    address: str | Path,
    *,
    log_identity: Identity,
    genesis: Genesis | None = None,
    origin: str | None = None,
    max_block: int = 512,
    max_waiting: int = 4096,
) -> Ledger:
    """Open the ledger at ``address``; with ``genesis`` begin it if there is none.

    Args:
        address: A path, or ``sqlite:PATH``.
        log_identity: Key that signs checkpoints; the same at every opening.
        genesis: What to begin with; must agree with what an existing ledger began with.
        origin: Name of the log in checkpoints; the genesis name by default.
        max_block: Transactions committed together at most.
        max_waiting: Transactions that may wait before ``submit`` does.

    Raises:
        LedgerLocked: It is open elsewhere.
        OpeningRefused: Nothing there and no genesis, or other genesis, origin or log key.
        IntegrityBroken: Stored rows disagree; run ``fsck``.
    """
    store = SqliteStore.open(_path(address))
    try:
        if store.last_block() is None:
            _begin(store, genesis, origin, log_identity)
        return _load(store, genesis, origin, log_identity, max_block, max_waiting)
    except BaseException:
        store.close()
        raise


def run_fsck(address: str | Path, *, checkpoint: str | None = None) -> Iterator[Finding]:
    """Rebuild every root from the transactions and yield what disagrees, and where.

    Args:
        address: A path, or ``sqlite:PATH``; may be open elsewhere.
        checkpoint: A signed checkpoint kept outside, to notice a ledger rolled back as a whole.

    Raises:
        OpeningRefused: There is no ledger at the address.
    """
    store = SqliteStore.open_to_read(_path(address))
    try:
        yield from check(store, checkpoint=checkpoint)
    finally:
        store.close()


def run_export(address: str | Path) -> Iterator[str]:
    """Yield the export of the ledger at ``address``, which may be open elsewhere.

    Raises:
        OpeningRefused: There is no ledger at the address.
    """
    store = SqliteStore.open_to_read(_path(address))
    try:
        yield from export_ledger(store)
    finally:
        store.close()


def read_transactions(address: str | Path) -> Iterator[Transaction]:
    """Yield every transaction in the log, which may be open elsewhere; entries that are none are left out.

    Raises:
        OpeningRefused: There is no ledger at the address.
    """
    store = SqliteStore.open_to_read(_path(address))
    try:
        for _, _, entry, _ in store.entries():
            found = read_envelope(entry)
            if not isinstance(found, str):
                yield found.transaction
    finally:
        store.close()


def _path(address: str | Path) -> Path:
    if isinstance(address, str):
        scheme, separator, rest = address.partition(":")
        if separator and scheme == "sqlite":
            return Path(rest.removeprefix("//") if rest.startswith("//") else rest)
        if separator and "/" not in scheme:
            raise OpeningRefused(f"no store for addresses that begin with {scheme!r}")
    return Path(address)


def _begin(store: SqliteStore, genesis: Genesis | None, origin: str | None, log_identity: Identity) -> None:
    if genesis is None:
        raise OpeningRefused("there is no ledger here, and no genesis to begin one with")
    name = genesis.name if origin is None else origin
    check_origin(name)
    block = begin(genesis)
    row = block.state.row()
    note = sign_checkpoint(
        Checkpoint(name, row.size, row.log_root), log_identity, time_s=max(genesis.time_ms, _now_ms()) // 1000
    )
    store.begin({"origin": name, "log_key": log_identity.public.hex()}, block, note)


def _load(
    store: SqliteStore,
    genesis: Genesis | None,
    origin: str | None,
    log_identity: Identity,
    max_block: int,
    max_waiting: int,
) -> Ledger:
    stored = read_genesis(store.entry(0) or b"")
    if genesis is not None and genesis != stored:
        raise OpeningRefused("the ledger began with another genesis")
    name = store.meta("origin") or ""
    if origin not in (None, name) or store.meta("log_key") != log_identity.public.hex():
        raise OpeningRefused("the ledger has another origin or log key")
    state, history = _rebuild(store, stored)
    engine = EmbeddedEngine(
        store=store,
        state=state,
        history=history,
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
        history=history,
        log_identity=log_identity,
        clock_ms=_now_ms,
    )


def _rebuild(store: SqliteStore, genesis: Genesis) -> tuple[State, History]:
    row = store.last_block()
    if row is None:
        raise IntegrityBroken("the ledger has no blocks")
    try:
        history = History()
        history.extend(store.leaves())
        tree = StateTree(dict(store.state()))
    except (LedgerError, ValueError) as cause:
        raise IntegrityBroken("stored rows cannot be read; run fsck") from cause
    state = State(genesis.network, Header(row.height, row.time_ms), tree, history.frontier())
    if state.row() != row:
        raise IntegrityBroken("stored rows disagree with the newest block; run fsck")
    return state, history


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
