"""Submit, read, prove: the ledger as its users see it.

For a bridge that anchors, a portal that asks for consent state, and anyone who
needs a receipt. What one call returns is taken from one durable state, so it
belongs together; a proof never mixes two sizes.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol

from ledger_core.checkpoint import (
    Checkpoint,
    NoteKey,
    cosignatures,
    cosigner_key,
    log_key,
    parse_checkpoint,
    sign_checkpoint,
    signed_by,
    split_note,
)
from ledger_core.commitment import Opening
from ledger_core.errors import IntegrityBroken, NoteInvalid, NotFound, TransactionRefused
from ledger_core.keys import Identity
from ledger_core.log import MerkleBatch, TiledLog
from ledger_core.machine import Accepted, BlockRow, Genesis, State, StateView
from ledger_core.payloads import ChangeOwner, Payload, SetConsent
from ledger_core.policy import Policy
from ledger_core.ports import COSIGNED, PRUNED, EntryRow, Store, find_accepted
from ledger_core.proofs import StateProof
from ledger_core.receipt import (
    AnchoredRecords,
    Claim,
    LogPath,
    PastStateClaim,
    Receipt,
    RecordClaim,
    RecordsClaim,
    RevocationClaim,
    StateClaim,
    TransactionClaim,
)
from ledger_core.rules.view import find_config, find_consent, find_member
from ledger_core.sparse import StateTree
from ledger_core.stateroot import StateEntry, read_state_entry
from ledger_core.transactions import Transaction, prepare, sign
from ledger_core.values import ConsentState, Member, can_hold, decode_any, state_path
from ledger_core.verify.revocation import check_superseded
from ledger_core.versions import Versions


class Engine(Protocol):
    """Who orders transactions."""

    @property
    def state(self) -> State:
        """The newest durable state; never changes once returned."""
        ...

    def submit(self, envelope: bytes, *, timeout_ms: int = ...) -> "Future[Accepted]":
        """Queue an envelope; the future resolves when it is durable or refused."""
        ...

    def submit_many(
        self, envelopes: Sequence[bytes], *, timeout_ms: int = ...
    ) -> "Future[list[Accepted | TransactionRefused]]":
        """Queue envelopes in order; the future resolves when each is durable or refused."""
        ...

    async def asubmit(self, envelope: bytes, *, timeout_ms: int = ...) -> Accepted:
        """Submit without blocking the event loop."""
        ...

    def close(self) -> None:
        """Commit what is queued and stop."""
        ...


@dataclass(frozen=True, slots=True)
class _Head:
    """The checkpoint that a receipt stands under, and the block it was taken after."""

    size: int
    height: int
    note: str
    newest: State


@dataclass(frozen=True, slots=True)
class ProvenState:
    """A value (None: absent), its proof, the state-root entry it rests on, and where that stands."""

    value: bytes | None
    proof: StateProof
    entry: bytes
    index: int
    height: int
    checkpoint: str


class Ledger:
    """An open ledger. Safe to share between threads and with an event loop."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        origin: str,
        engine: Engine,
        store: Store,
        log: TiledLog,
        log_identity: Identity,
        clock_ms: Callable[[], int],
    ) -> None:
        self.genesis, self.origin = genesis, origin
        self._engine, self._store, self._log = engine, store, log
        self._log_identity, self._clock_ms = log_identity, clock_ms
        self._nonces: dict[bytes, int] = {}
        self._nonce_lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._versions = Versions(self._changed_after)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def network(self) -> bytes:
        """The id (32 bytes) that every transaction of this network names."""
        return self._engine.state.network

    @property
    def log_public(self) -> bytes:
        """The key that this log's checkpoints verify under."""
        return self._log_identity.public

    @property
    def height(self) -> int:
        """Number of the newest block that accepted a transaction (0 is genesis)."""
        return self._engine.state.header.height

    @property
    def size(self) -> int:
        """Number of entries in the log."""
        return self._engine.state.log.size

    @property
    def app_hash(self) -> bytes:
        """Hash over log and state; equal on every replica with the same blocks."""
        return self._engine.state.app_hash

    def submit(self, envelope: bytes, *, timeout_ms: int = 10_000) -> "Future[Accepted]":
        """Queue a signed envelope; the future resolves once it is durable.

        The future raises TransactionRefused with a fixed code, or LedgerUnavailable
        (nothing lost, submit the same envelope again). Submitting an accepted
        envelope again returns its first position.

        Raises:
            LedgerBusy: The queue stayed full for ``timeout_ms``; nothing was taken.
            LedgerClosed: The ledger is closed or stopped.
        """
        return self._engine.submit(envelope, timeout_ms=timeout_ms)

    def submit_many(
        self, envelopes: Sequence[bytes], *, timeout_ms: int = 10_000
    ) -> "Future[list[Accepted | TransactionRefused]]":
        """Queue signed envelopes in order; the future resolves once each is durable or refused.

        One outcome an envelope, in order; a refusal of one does not touch the others.
        Otherwise as ``submit``, and quicker than many calls of it.
        """
        return self._engine.submit_many(envelopes, timeout_ms=timeout_ms)

    async def asubmit(self, envelope: bytes, *, timeout_ms: int = 10_000) -> Accepted:
        """Submit from an event loop; otherwise as ``submit``."""
        return await self._engine.asubmit(envelope, timeout_ms=timeout_ms)

    def sign(self, payload: Payload, identity: Identity, approvers: Sequence[Identity] = ()) -> bytes:
        """Return a signed envelope with the next nonce of ``identity``; not yet submitted.

        Envelopes of one signer must be submitted in the order they were signed; keep the
        bytes and submit the same ones again after a crash. An owner's nonce is its counter.
        """
        own_counter = payload.counter if isinstance(payload, SetConsent | ChangeOwner) else None
        nonce = self.next_nonce(identity.public) if own_counter is None else own_counter
        return sign(Transaction(self.network, identity.public, nonce, payload), identity, approvers)

    def send(self, payload: Payload, identity: Identity, approvers: Sequence[Identity] = ()) -> "Future[Accepted]":
        """Sign and queue in one step, so that threads sharing an identity keep its order.

        Nonces rise: once a new transaction is in, an older one of the same signer that never
        arrived is refused for good (``nonce-stale``). After a crash submit the old bytes first.
        """
        with self._send_lock:
            return self.submit(self.sign(payload, identity, approvers))

    def next_nonce(self, signer: bytes) -> int:
        """Reserve and return a nonce above every one used or reserved here by ``signer``."""
        member = find_member(StateView(self._engine.state.tree), signer)
        with self._nonce_lock:
            used = max(self._nonces.get(signer, 0), 0 if member is None else member.nonce)
            self._nonces[signer] = used + 1
            return used + 1

    def member(self, key: bytes) -> Member | None:
        """Return what is known of a member's key, active or not."""
        return find_member(StateView(self._engine.state.tree), key)

    def state_get(self, path: bytes) -> ConsentState | None:
        """Return the consent state at a blinded path (32 bytes), or None if it was never opened."""
        return find_consent(StateView(self._engine.state.tree), path)

    def state_at(self, path: bytes) -> tuple[ConsentState | None, int]:
        """Return the consent state at a path together with the height it was read at."""
        state = self._engine.state
        return find_consent(StateView(state.tree), path), state.header.height

    @property
    def may_attest(self) -> bool:
        """Tell whether institutions may attest signed papers: genesis decides, and nothing changes it."""
        return find_config(StateView(self._engine.state.tree)).may_attest

    def value(self, kind: str, key: bytes) -> bytes | None:
        """Return the encoded state value of ``kind`` under ``key``, or None."""
        return self._engine.state.tree.get(state_path(kind, key))

    def entry(self, index: int) -> bytes:
        """Return log entry ``index``.

        Raises:
            NotFound: The log has no such entry.
        """
        found = self._store.entry(index)
        if found is None:
            raise NotFound(f"the log has no entry {index}")
        return found

    def position_of(self, envelope: bytes) -> Accepted | None:
        """Return where this envelope, byte for byte, was accepted, or None."""
        return find_accepted(self._store, prepare(envelope, signatures=False))

    def checkpoint(self) -> str:
        """Return a signed checkpoint of the newest state, dated now."""
        return self._sign(self._engine.state)

    def keep_checkpoint(self, note: str, witnesses: Sequence[NoteKey]) -> int:
        """Keep a checkpoint of this log that these witnesses have cosigned; return its size.

        Receipts asked for with ``is_cosigned`` then stand under the largest one kept.
        Cosignatures that are kept for the same size stay; lines by other keys are dropped.

        Raises:
            NoteInvalid: This log did not sign it, or none of the witnesses did.
            NotFound: No block ended at its size, or its root is another.
        """
        own = (log_key(self.origin, self.log_public), cosigner_key(self.origin, self.log_public))
        found = parse_checkpoint(split_note(note)[0])
        signed, cosigned = signed_by(note, own), signed_by(note, witnesses)
        if found.origin != self.origin or (own[0].name, own[0].id) not in signed:
            raise NoteInvalid("the checkpoint is not signed by this log")
        if not cosigned:
            raise NoteInvalid("none of these witnesses has cosigned the checkpoint")
        block = self._store.block_of_size(found.size)
        if block is None or block.log_root != found.root:
            raise NotFound(f"no block of this log ended at size {found.size} with that root")
        earlier = cosignatures(self._store.checkpoint(found.size) or note, self.origin)
        lines = "".join({**signed, **earlier, **cosigned}.values())
        self._store.replace_checkpoint(found.size, f"{found.text()}\n{lines}")
        return found.size

    @property
    def cosigned_size(self) -> int | None:
        """Size of the largest cosigned checkpoint kept, or None."""
        return self._setting(COSIGNED)

    def prove_transaction(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """Return the log path of entry ``index`` in the tree of ``size`` (the newest by default).

        Raises:
            ProofInvalid: The index lies outside that tree, or the tree outside the log.
        """
        return self._log.inclusion(index, self.size if size is None else size)

    def prove_transactions(self, indices: Sequence[int], size: int | None = None) -> tuple[bytes, ...]:
        """Return one multiproof of these entries; otherwise as ``prove_transaction``."""
        return self._log.multiproof(indices, self.size if size is None else size)

    def prove_consistency(self, old_size: int, new_size: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that the newer log continues the older one."""
        return self._log.consistency(old_size, self.size if new_size is None else new_size)

    def prove_state(self, path: bytes) -> ProvenState:
        """Return the consent state at a blinded path, present or absent, with its proof."""
        state = self._engine.state
        value, proof = state.tree.prove(state_path(ConsentState.kind, path))
        entry, index = self.entry(state.log.size - 1), state.log.size - 1
        return ProvenState(value, proof, entry, index, state.header.height, self._sign(state))

    def transaction_receipt(self, index: int, *, is_cosigned: bool = False) -> str:
        """Return the receipt that entry ``index`` is in the log.

        Args:
            index: Number of a log entry.
            is_cosigned: Stand under the largest cosigned checkpoint kept, instead of a
                new one that only the log signs.

        Raises:
            NotFound: The log, or that checkpoint, has no such transaction.
        """
        entry = self.entry(index)
        if prepare(entry, signatures=False).transaction is None:
            raise NotFound(f"entry {index} is no transaction, but the ledger's own: genesis or a state root")
        return self._receipt(TransactionClaim(entry), index, self._head(is_cosigned))

    def record_receipt(
        self,
        opening: Opening,
        *,
        batch_index: int,
        batch_path: Sequence[bytes],
        index: int,
        is_cosigned: bool = False,
    ) -> str:
        """Return the receipt of a record in the batch anchored by entry ``index``.

        The opening decides which parts the holder of the receipt can check.

        Raises:
            NotFound: The log, or the cosigned checkpoint, has no such entry.
        """
        claim = RecordClaim(opening, batch_index, tuple(batch_path), self.entry(index))
        return self._receipt(claim, index, self._head(is_cosigned))

    def anchored_records(self, index: int, batch: MerkleBatch, openings: Mapping[int, Opening]) -> AnchoredRecords:
        """Return what a receipt says of records, by place, in the batch anchored by entry ``index``.

        Raises:
            NotFound: The log has no such entry.
        """
        places = sorted(openings)
        pairs = tuple((place, openings[place]) for place in places)
        return AnchoredRecords(index, self.entry(index), batch.multiproof(places), pairs)

    def records_receipt(self, batches: Sequence[AnchoredRecords], *, is_cosigned: bool = False) -> str:
        """Return one receipt of many records, of one batch or several, with shared proofs.

        Raises:
            NotFound: The cosigned checkpoint does not reach one of the anchors.
            ReceiptInvalid: No batch, or one twice.
        """
        head = self._head(is_cosigned)
        ordered = tuple(sorted(batches, key=lambda batch: batch.index))
        others = [batch.index for batch in ordered[1:]]
        self._check_reach(max((batch.index for batch in ordered), default=0), head)
        path = self._log.multiproof(others, head.size) if others else ()
        return self._receipt(RecordsClaim(ordered, path), ordered[0].index if ordered else 0, head)

    def state_receipt(self, kind: str, key: bytes, *, is_cosigned: bool = False) -> str:
        """Return the receipt of what state now holds, or does not hold, for ``kind`` and ``key``.

        For a consent path: ``state_receipt("consent", path)``. Under a cosigned
        checkpoint "now" is the block it was taken after.

        Raises:
            NotFound: No cosigned checkpoint is kept, or state at its height was pruned.
        """
        head = self._head(is_cosigned)
        claim = self._state_claim(kind, key, head)
        return self._receipt(claim, head.size - 1, head)

    def past_state_receipt(self, kind: str, key: bytes, height: int, *, is_cosigned: bool = False) -> str:
        """Return the receipt of what state held, or did not hold, after block ``height``.

        Raises:
            NotFound: There is no such block yet, or the state at that height was pruned.
        """
        head = self._head(is_cosigned)
        claim, log = self._past_claim(kind, key, height, head)
        return self._receipt(claim, log.index, head)

    def revocation_receipt(self, kind: str, key: bytes, since: int, *, is_cosigned: bool = False) -> str:
        """Return the receipt that what state held after block ``since`` holds no longer.

        Raises:
            NotFound: As ``past_state_receipt``.
            ReceiptInvalid: Nothing was held then, or it was not revoked since.
        """
        head = self._head(is_cosigned)
        past, log = self._past_claim(kind, key, since, head)
        claim = RevocationClaim(past, log, self._state_claim(kind, key, head))
        check_superseded(*(None if side.value is None else decode_any(side.value) for side in (past, claim.current)))
        return self._receipt(claim, head.size - 1, head)

    def renewed(self, receipt: str, *, is_cosigned: bool = False) -> str:
        """Return a receipt of this log under a newer checkpoint, or under a cosigned one.

        A claim about the present is made anew, with what state holds now. A claim
        that rests on a transaction only needs that transaction to be in the log.

        Raises:
            ReceiptInvalid: It is not a receipt.
            NotFound: It speaks of what is not in this log, or not under that checkpoint.
        """
        claim = Receipt.decode(receipt).claim
        if isinstance(claim, StateClaim):
            return self.state_receipt(claim.kind, claim.key, is_cosigned=is_cosigned)
        if isinstance(claim, PastStateClaim):
            return self.past_state_receipt(claim.kind, claim.key, _height(claim), is_cosigned=is_cosigned)
        if isinstance(claim, RevocationClaim):
            past = claim.past
            return self.revocation_receipt(past.kind, past.key, _height(past), is_cosigned=is_cosigned)
        if isinstance(claim, RecordsClaim):
            batches = [replace(each, index=self._index_of(each.transaction)) for each in claim.batches]
            return self.records_receipt(batches, is_cosigned=is_cosigned)
        return self._receipt(claim, self._index_of(claim.transaction), self._head(is_cosigned))

    def prune(self, height: int) -> int:
        """Drop state that was superseded at or below ``height``; return how many values.

        What held at ``height`` and later stays provable; roots and entries stay whole.
        """
        dropped = self._store.prune(min(height, self.height))
        self._versions.drop_below(min(height, self.height))
        return dropped

    def tile(self, level: int, index: int) -> bytes | None:
        """Return the hashes kept of a tile of the log (C2SP tlog-tiles), or None."""
        return self._store.tile(level, index)

    def policy(self, *, max_age_ms: int | None = None) -> Policy:
        """Return the policy of a verifier who trusts this log's key."""
        plain = Policy.for_log(self.origin, self._log_identity.public, network=self.network)
        return Policy(plain.origin, plain.log_keys, network=plain.network, max_age_ms=max_age_ms)

    def blocks(self) -> Iterator[BlockRow]:
        """Yield every block row by height."""
        return self._store.blocks()

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[EntryRow]:
        """Yield the entries from ``start`` up to, not including, ``stop``, by number."""
        return self._store.entries(start, stop)

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Yield (size, note) of every block's checkpoint, by size."""
        return self._store.checkpoints()

    def close(self) -> None:
        """Commit what is queued, stop, and let others open the ledger."""
        self._engine.close()
        self._store.close()

    def _head(self, is_cosigned: bool) -> _Head:
        state = self._engine.state
        if not is_cosigned:
            return _Head(state.log.size, state.header.height, self._sign(state), state)
        size = self.cosigned_size
        block = None if size is None else self._store.block_of_size(size)
        note = None if size is None else self._store.checkpoint(size)
        if block is None or note is None:
            raise NotFound("no cosigned checkpoint is kept")
        # Asked for after the checkpoint, so never below it.
        return _Head(block.size, block.height, note, self._engine.state)

    def _index_of(self, envelope: bytes) -> int:
        found = self.position_of(envelope)
        if found is None:
            raise NotFound("the transaction of the receipt is not in this log")
        return found.index

    def _check_reach(self, index: int, head: _Head) -> None:
        if index >= head.size:
            raise NotFound(f"the checkpoint of size {head.size} does not reach entry {index}")

    def _state_claim(self, kind: str, key: bytes, head: _Head) -> StateClaim:
        _check_place(kind, key)
        value, proof = self._tree_at(head.height, head.newest).prove(state_path(kind, key))
        return StateClaim(kind, key, value, proof, self.entry(head.size - 1))

    def _past_claim(self, kind: str, key: bytes, height: int, head: _Head) -> tuple[PastStateClaim, LogPath]:
        _check_place(kind, key)
        block = self._store.block_at(height)
        if block is None or height > head.height:
            raise NotFound(f"there is no block {height} under this checkpoint")
        value, proof = self._tree_at(block.height, head.newest).prove(state_path(kind, key))
        index = block.size - 1
        claim = PastStateClaim(kind, key, value, proof, self.entry(index))
        return claim, LogPath(index, self._log.inclusion(index, head.size))

    def _tree_at(self, height: int, newest: State) -> StateTree:
        """Return the state after block ``height``, which exists and is not above ``newest``."""
        if height == newest.header.height:
            return newest.tree
        closing = self._closing(self._store.block_at(height))
        tree = self._versions.at(height, newest=newest.tree, newest_height=newest.header.height, suite=closing.suite)
        # Asked after the values were read: had they been pruned meanwhile, it would show now.
        if height < (self._setting(PRUNED) or 0):
            raise NotFound(f"the state at height {height} was pruned")
        if tree.root != closing.state_root:
            raise IntegrityBroken(f"the state kept for height {height} has another root; run fsck")
        return tree

    def _setting(self, name: str) -> int | None:
        kept = self._store.meta(name)
        if kept is not None and not kept.isdecimal():
            raise IntegrityBroken(f"the setting {name} is not a number; run fsck")
        return None if kept is None else int(kept)

    def _closing(self, block: BlockRow | None) -> StateEntry:
        found = None if block is None else read_state_entry(self.entry(block.size - 1))
        if found is None:
            raise IntegrityBroken("a block does not end with a state root; run fsck")
        return found

    def _changed_after(self, height: int) -> dict[bytes, bytes | None]:
        return dict(self._store.changed_after(height))

    def _receipt(self, claim: Claim, index: int, head: _Head) -> str:
        self._check_reach(index, head)
        return Receipt(claim, LogPath(index, self._log.inclusion(index, head.size)), head.note).encode()

    def _sign(self, state: State) -> str:
        checkpoint = Checkpoint(self.origin, state.log.size, state.log.root())
        now_s = max(self._clock_ms(), state.header.time_ms) // 1000
        return sign_checkpoint(checkpoint, self._log_identity, time_s=now_s)


def _check_place(kind: str, key: bytes) -> None:
    if not can_hold(kind, key):
        raise NotFound(f"state of kind {kind!r} has no such key: see the table of state values")


def _height(claim: PastStateClaim) -> int:
    entry = read_state_entry(claim.entry)
    if entry is None:
        raise NotFound("the receipt rests on no state root")
    return entry.height
