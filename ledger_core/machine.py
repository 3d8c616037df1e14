"""apply_block: pure; the one definition of what the ledger accepts and what its state is.

No clock, randomness, floats, locale, set iteration or I/O. Every engine feeds
this function the same way, so one recorded list of blocks gives the same app
hash at every height on every engine.

A log entry is a CBOR array that begins with its domain: 0 genesis, 1 transaction
(the signed envelope), 2 state root. A block with at least one accepted
transaction ends with its state-root entry; any other block adds nothing. So the
log alone holds everything: blocks, times and state can be rebuilt from it.

Invariants:
    * app_hash = SHA-256(domain ‖ log size ‖ log root ‖ state root ‖ suite); never
      height or time, or empty blocks would never stop;
    * rejected transactions leave no trace in state or log.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ledger_core.codec import decode, encode
from ledger_core.errors import NotCanonical, OpeningRefused
from ledger_core.hashing import SUITE_SHA256, leaf_hash, tagged_hash
from ledger_core.keys import KEY_BYTES
from ledger_core.log import Frontier
from ledger_core.rules import access, anchor, consent, member, policy, ruleset
from ledger_core.rules.view import Verdict, find_member
from ledger_core.sparse import StateTree
from ledger_core.stateroot import StateEntry
from ledger_core.transactions import (
    AccessHead,
    Anchor,
    Attest,
    ChangeOwner,
    Envelope,
    Join,
    Leave,
    OpenPath,
    RegisterPolicy,
    RegisterRuleset,
    Rejection,
    Restrict,
    Rotate,
    SetConsent,
    envelope_digest,
    read_envelope,
)
from ledger_core.values import ACTIVE, CONFIG_KEY, Config, Held, Member, decode_any, encode_held, state_path

ENTRY_GENESIS: Final = 0

_NETWORK_DOMAIN: Final = "ledger-core/network/v1"
_APP_DOMAIN: Final = "ledger-core/app-hash/v1"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Genesis:
    """What a network begins with; its hash is the network's id, which every transaction names."""

    name: str
    operator: bytes
    operator_name: str = "operator"
    threshold: int = 1
    may_attest: bool = True
    time_ms: int = 0

    def entry(self) -> bytes:
        """Return log entry 0."""
        return encode(
            (
                ENTRY_GENESIS,
                _VERSION,
                self.name,
                self.operator,
                self.operator_name,
                self.threshold,
                self.may_attest,
                self.time_ms,
            )
        )

    @property
    def network(self) -> bytes:
        return tagged_hash(_NETWORK_DOMAIN, self.entry())


@dataclass(frozen=True, slots=True)
class Header:
    """Height and time (Unix milliseconds) of a block, as its engine agreed on them."""

    height: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class BlockRow:
    """What is kept of a block: its roots, and how large the log was after it."""

    height: int
    time_ms: int
    size: int
    log_root: bytes
    state_root: bytes
    app_hash: bytes


@dataclass(frozen=True, slots=True)
class State:
    """Everything the machine carries from block to block; immutable."""

    network: bytes
    header: Header
    tree: StateTree
    log: Frontier

    @property
    def app_hash(self) -> bytes:
        return app_hash(self.log.size, self.log.root(), self.tree.root)

    def row(self) -> BlockRow:
        """Return what is kept of the block that led here."""
        root, state_root = self.log.root(), self.tree.root
        size, header = self.log.size, self.header
        return BlockRow(header.height, header.time_ms, size, root, state_root, app_hash(size, root, state_root))


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one transaction: ``code`` is "" when accepted, and then ``index`` its entry."""

    digest: bytes
    code: str
    index: int | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """Where a durable transaction stands; ``is_repeat`` when it had been accepted before."""

    index: int
    height: int
    digest: bytes
    is_repeat: bool


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What a block did: new state, one result per transaction, new entries and written values."""

    state: State
    results: tuple[Result, ...]
    entries: tuple[bytes, ...]
    leaves: tuple[bytes, ...]
    updates: Mapping[bytes, bytes]


def read_genesis(entry: bytes) -> Genesis:
    """Return the genesis in log entry 0.

    Raises:
        OpeningRefused: The entry is something else.
    """
    try:
        match decode(entry):
            case (0, 1, str(a), bytes(b), str(c), int(d), bool(e), int(f)):
                genesis = Genesis(a, b, c, d, e, f)
            case _:
                raise OpeningRefused("the first entry is not a genesis")
    except NotCanonical as cause:
        raise OpeningRefused("the first entry is not canonical") from cause
    _check_genesis(genesis)
    return genesis


def begin(genesis: Genesis) -> BlockResult:
    """Return the block at height 0: genesis entry, first state, its state-root entry."""
    _check_genesis(genesis)
    written: dict[bytes, Held] = {
        state_path(Config.kind, CONFIG_KEY): Config(genesis.threshold, 1, genesis.may_attest),
        state_path(Member.kind, genesis.operator): Member(genesis.operator, genesis.operator_name, ACTIVE, 0),
    }
    updates = {path: encode_held(value) for path, value in written.items()}
    empty = State(genesis.network, Header(0, genesis.time_ms), StateTree(), Frontier())
    return _close(empty, empty.header, (), [genesis.entry()], updates)


def apply_block(state: State, header: Header, envelopes: Sequence[bytes]) -> BlockResult:
    """Judge ``envelopes`` in order on top of ``state`` and close the block.

    Args:
        state: The state after the previous block.
        header: Height above the state's, and a time not before it.
        envelopes: Signed envelopes as received; anything at all may be in them.

    Raises:
        ValueError: The header does not follow the state's (the engine is wrong).
    """
    if header.height <= state.header.height or header.time_ms < state.header.time_ms:
        raise ValueError("a block must follow the one before it in height and time")
    view = StateView(state.tree)
    results: list[Result] = []
    entries: list[bytes] = []
    for envelope in envelopes:
        code = _judge(state.network, view, envelope)
        index = state.log.size + len(entries) if not code else None
        results.append(Result(envelope_digest(envelope), code, index))
        if not code:
            entries.append(envelope)
    return _close(state, header, tuple(results), entries, view.updates())


def app_hash(log_size: int, log_root: bytes, state_root: bytes) -> bytes:
    """Return the hash that every replica must agree on after a block."""
    suite = SUITE_SHA256.to_bytes(2, "big")
    return tagged_hash(_APP_DOMAIN, log_size.to_bytes(8, "big"), log_root, state_root, suite)


class StateView:
    """State with the accepted transactions of a block so far on top."""

    __slots__ = ("_tree", "_written")

    def __init__(self, tree: StateTree) -> None:
        self._tree = tree
        self._written: dict[bytes, Held] = {}

    def get(self, path: bytes) -> Held | None:
        """Return the value at a state path, or None."""
        found = self._written.get(path)
        if found is not None:
            return found
        data = self._tree.get(path)
        return None if data is None else decode_any(data)

    def write(self, values: Mapping[bytes, Held]) -> None:
        self._written.update(values)

    def updates(self) -> dict[bytes, bytes]:
        """Return what was written, encoded."""
        return {path: encode_held(value) for path, value in self._written.items()}


def _close(
    state: State,
    header: Header,
    results: tuple[Result, ...],
    entries: list[bytes],
    updates: Mapping[bytes, bytes],
) -> BlockResult:
    if not entries:
        return BlockResult(replace(state, header=header), results, (), (), {})
    tree = state.tree.updated(updates)
    entries = [*entries, StateEntry(header.height, header.time_ms, tree.root).entry()]
    leaves = tuple(leaf_hash(entry) for entry in entries)
    closed = State(state.network, header, tree, state.log.append(leaves))
    return BlockResult(closed, results, tuple(entries), leaves, updates)


def _judge(network: bytes, view: StateView, data: bytes) -> str:
    """Apply one envelope to the view and return "", or return the code and change nothing."""
    envelope = read_envelope(data)
    if isinstance(envelope, str):
        return envelope
    if envelope.transaction.network != network:
        return Rejection.WRONG_NETWORK
    if isinstance(envelope.transaction.payload, SetConsent | ChangeOwner):
        verdict = _judge_owner(view, envelope)
    else:
        verdict = _judge_member(view, envelope)
    if isinstance(verdict, str):
        return verdict
    view.write(verdict)
    return ""


def _judge_owner(view: StateView, envelope: Envelope) -> Verdict:
    signers = envelope.signers()
    if signers is None:
        return Rejection.BAD_SIGNATURE
    transaction = envelope.transaction
    assert isinstance(transaction.payload, SetConsent | ChangeOwner)
    return consent.judge_owner(view, transaction.signer, transaction.nonce, transaction.payload, signers)


def _judge_member(view: StateView, envelope: Envelope) -> Verdict:
    key, nonce = envelope.transaction.signer, envelope.transaction.nonce
    # Membership and nonce come before the signature: a stranger's flood then costs look-ups only.
    signer = find_member(view, key)
    if signer is None or signer.status != ACTIVE:
        return Rejection.NOT_A_MEMBER
    if nonce <= signer.nonce:
        return Rejection.NONCE_STALE
    signers = envelope.signers()
    if signers is None:
        return Rejection.BAD_SIGNATURE
    advanced = replace(signer, nonce=nonce)
    verdict = _apply_rule(view, advanced, envelope, signers)
    if isinstance(verdict, str):
        return verdict
    place = state_path(Member.kind, key)
    written = verdict.get(place, advanced)
    assert isinstance(written, Member)
    return {**verdict, place: replace(written, nonce=nonce)}


def _apply_rule(view: StateView, signer: Member, envelope: Envelope, signers: frozenset[bytes]) -> Verdict:
    match envelope.transaction.payload:
        case Anchor() as payload:
            return anchor.judge(payload)
        case Join() | Rotate() | Leave() as payload:
            return member.judge(view, signer, envelope.transaction.signer, payload, signers)
        case OpenPath() | Restrict() | Attest() as payload:
            return consent.judge(view, signer, payload)
        case RegisterRuleset() as payload:
            return ruleset.judge(view, signer, payload)
        case RegisterPolicy() as payload:
            return policy.judge(view, signer, payload)
        case AccessHead() as payload:
            return access.judge(view, signer, payload)
        case _:
            return Rejection.UNKNOWN_KIND


def _check_genesis(genesis: Genesis) -> None:
    sound = len(genesis.operator) == KEY_BYTES and genesis.threshold >= 1 and genesis.time_ms >= 0
    if not sound or not genesis.name.isprintable() or not genesis.name:
        raise OpeningRefused("a genesis needs a name, an operator key and a threshold of at least 1")
