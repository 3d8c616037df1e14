"""Submit, read, prove: the ledger as its users see it.

For a bridge that anchors, a portal that asks for consent state, and anyone who
needs a receipt. What one call returns is taken from one durable state, so it
belongs together; a proof never mixes two sizes.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from ledger_core.checkpoint import Checkpoint, sign_checkpoint
from ledger_core.commitment import Opening
from ledger_core.errors import IntegrityBroken, NotFound
from ledger_core.keys import Identity
from ledger_core.log import History
from ledger_core.machine import Accepted, BlockRow, Genesis, State, StateView
from ledger_core.policy import Policy
from ledger_core.proofs import StateProof
from ledger_core.receipt import Claim, LogPath, Receipt, RecordClaim, StateClaim, TransactionClaim
from ledger_core.rules.view import find_consent, find_member
from ledger_core.transactions import ChangeOwner, Payload, SetConsent, Transaction, sign
from ledger_core.values import ConsentState, Member, state_path


class Engine(Protocol):
    """Who orders transactions."""

    @property
    def state(self) -> State:
        """The newest durable state; never changes once returned."""
        ...

    def submit(self, envelope: bytes, *, timeout_ms: int = ...) -> "Future[Accepted]":
        """Queue an envelope; the future resolves when it is durable or refused."""
        ...

    async def asubmit(self, envelope: bytes, *, timeout_ms: int = ...) -> Accepted:
        """Submit without blocking the event loop."""
        ...

    def close(self) -> None:
        """Commit what is queued and stop."""
        ...


class Store(Protocol):
    """Where blocks are kept, as far as reading goes."""

    def entry(self, index: int) -> bytes | None:
        """Return log entry ``index``, or None."""
        ...

    def find(self, digest: bytes) -> tuple[int, int] | None:
        """Return entry index and block height of an accepted envelope, or None."""
        ...

    def entries(self) -> Iterator[tuple[int, int, bytes, bytes]]:
        """Yield (index, height, entry, leaf hash) in order of index."""
        ...

    def blocks(self) -> Iterator[BlockRow]:
        """Yield every block row by height."""
        ...

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Yield (size, note) by size."""
        ...

    def close(self) -> None:
        """Let go of the files."""
        ...


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
        history: History,
        log_identity: Identity,
        clock_ms: Callable[[], int],
    ) -> None:
        self.genesis, self.origin = genesis, origin
        self._engine, self._store, self._history = engine, store, history
        self._log_identity, self._clock_ms = log_identity, clock_ms
        self._nonces: dict[bytes, int] = {}
        self._nonce_lock = threading.Lock()
        self._send_lock = threading.Lock()

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
        """Sign and queue in one step, so that threads sharing an identity keep its order."""
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

    def position_of(self, digest: bytes) -> Accepted | None:
        """Return where the envelope with this digest was accepted, or None."""
        found = self._store.find(digest)
        return None if found is None else Accepted(*found, digest, True)

    def checkpoint(self) -> str:
        """Return a signed checkpoint of the newest state, dated now."""
        return self._sign(self._engine.state)

    def prove_transaction(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """Return the log path of entry ``index`` in the tree of ``size`` (the newest by default).

        Raises:
            ProofInvalid: The index lies outside that tree, or the tree outside the log.
        """
        return self._history.inclusion(index, self.size if size is None else size)

    def prove_consistency(self, old_size: int, new_size: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that the newer log continues the older one."""
        return self._history.consistency(old_size, self.size if new_size is None else new_size)

    def prove_state(self, path: bytes) -> ProvenState:
        """Return the consent state at a blinded path, present or absent, with its proof."""
        return self._prove_state(self._engine.state, ConsentState.kind, path)

    def transaction_receipt(self, index: int) -> str:
        """Return the receipt that entry ``index`` is in the log.

        Raises:
            NotFound: The log has no such entry.
        """
        return self._receipt(self._engine.state, TransactionClaim(self.entry(index)), index)

    def record_receipt(self, opening: Opening, *, batch_index: int, batch_path: Sequence[bytes], index: int) -> str:
        """Return the receipt of a record in the batch anchored by entry ``index``.

        The opening decides which parts the holder of the receipt can check.

        Raises:
            NotFound: The log has no such entry.
        """
        claim = RecordClaim(opening, batch_index, tuple(batch_path), self.entry(index))
        return self._receipt(self._engine.state, claim, index)

    def state_receipt(self, kind: str, key: bytes) -> str:
        """Return the receipt of what state now holds, or does not hold, for ``kind`` and ``key``.

        For a consent path: ``state_receipt("consent", path)``.
        """
        state = self._engine.state
        proven = self._prove_state(state, kind, key)
        claim = StateClaim(kind, key, proven.value, proven.proof, proven.entry)
        return self._receipt(state, claim, proven.index)

    def policy(self, *, max_age_ms: int | None = None) -> Policy:
        """Return the policy of a verifier who trusts this log's key."""
        plain = Policy.for_log(self.origin, self._log_identity.public, network=self.network)
        return Policy(plain.origin, plain.log_keys, network=plain.network, max_age_ms=max_age_ms)

    def blocks(self) -> Iterator[BlockRow]:
        """Yield every block row by height."""
        return self._store.blocks()

    def entries(self) -> Iterator[tuple[int, int, bytes, bytes]]:
        """Yield (index, height, entry, leaf hash) in order of index."""
        return self._store.entries()

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Yield (size, note) of every block's checkpoint, by size."""
        return self._store.checkpoints()

    def close(self) -> None:
        """Commit what is queued, stop, and let others open the ledger."""
        self._engine.close()
        self._store.close()

    def _prove_state(self, state: State, kind: str, key: bytes) -> ProvenState:
        value, proof = state.tree.prove(state_path(kind, key))
        index = state.log.size - 1
        entry = self._store.entry(index)
        if entry is None:
            raise IntegrityBroken(f"entry {index} is missing from the store")
        return ProvenState(value, proof, entry, index, state.header.height, self._sign(state))

    def _receipt(self, state: State, claim: Claim, index: int) -> str:
        path = self._history.inclusion(index, state.log.size)
        return Receipt(claim, LogPath(index, path), self._sign(state)).encode()

    def _sign(self, state: State) -> str:
        checkpoint = Checkpoint(self.origin, state.log.size, state.log.root())
        now_s = max(self._clock_ms(), state.header.time_ms) // 1000
        return sign_checkpoint(checkpoint, self._log_identity, time_s=now_s)
