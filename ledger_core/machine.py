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
from ledger_core.hashing import DIGEST_BLAKE3, SUITE_SHA256, TREE_SHA256, leaf_hash, tagged_hash
from ledger_core.keys import SIGNATURE_SUITES
from ledger_core.log import Frontier
from ledger_core.payloads import (
    MAX_THRESHOLD,
    AllowSuite,
    ChangeOwner,
    SetConsent,
    is_count,
    is_key,
    is_name,
    is_threshold,
    named_suite,
    new_keys,
)
from ledger_core.rules import RULES
from ledger_core.rules.suite import allowed_suites
from ledger_core.rules.view import Request, find_config, find_member, key_suite
from ledger_core.sparse import StateTree
from ledger_core.stateroot import StateEntry
from ledger_core.transactions import Envelope, Rejection
from ledger_core.transactions import Prepared as Prepared
from ledger_core.transactions import prepare as prepare
from ledger_core.values import ACTIVE, CONFIG_PATH, Config, Held, Member, decode_any, encode_held, state_path

ENTRY_GENESIS: Final = 0

_NETWORK_DOMAIN: Final = "ledger-core/network/v1"
_APP_DOMAIN: Final = "ledger-core/app-hash/v1"
_VERSION: Final = 1
_SUITE_KIND: Final = AllowSuite.kind


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
        return app_hash(self.log.size, self.log.root(), self.tree.root, self.tree.suite)

    def row(self) -> BlockRow:
        """Return what is kept of the block that led here."""
        root, header, size = self.log.root(), self.header, self.log.size
        hashed = app_hash(size, root, self.tree.root, self.tree.suite)
        return BlockRow(header.height, header.time_ms, size, root, self.tree.root, hashed)


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
    """What a block did: new state, a result each, new entries, values written and those they replaced."""

    state: State
    results: tuple[Result, ...]
    entries: tuple[bytes, ...]
    leaves: tuple[bytes, ...]
    updates: Mapping[bytes, bytes]
    replaced: Mapping[bytes, bytes]


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
    if genesis.entry() != entry:
        # False equals 0 and true 1: such an entry would name one network by its bytes, another by its content.
        raise OpeningRefused("the genesis is not spelled as a genesis is written")
    return genesis


def begin(genesis: Genesis) -> BlockResult:
    """Return the block at height 0: genesis entry, first state, its state-root entry."""
    _check_genesis(genesis)
    written: dict[bytes, Held] = {
        CONFIG_PATH: _first_config(genesis),
        state_path(Member.kind, genesis.operator): Member(genesis.operator, genesis.operator_name, ACTIVE, 0),
    }
    empty = State(genesis.network, Header(0, genesis.time_ms), StateTree(), Frontier())
    view = StateView(empty.tree)
    view.write(written)
    return _close(empty, empty.header, (), [genesis.entry()], view)


def apply_block(state: State, header: Header, envelopes: Sequence[bytes | Prepared]) -> BlockResult:
    """Judge ``envelopes`` in order on top of ``state`` and close the block.

    Args:
        state: The state after the previous block.
        header: Height above the state's, and a time not before it.
        envelopes: Signed envelopes as received, anything at all may be in them;
            or what ``prepare`` made of them. Results do not depend on which.

    Raises:
        ValueError: The header does not follow the state's (the engine is wrong).
    """
    if header.height <= state.header.height or header.time_ms < state.header.time_ms:
        raise ValueError("a block must follow the one before it in height and time")
    view = StateView(state.tree)
    results: list[Result] = []
    entries: list[bytes] = []
    for each in envelopes:
        prepared = each if isinstance(each, Prepared) else prepare(each, signatures=False)
        code = _judge(state.network, view, prepared)
        index = state.log.size + len(entries) if not code else None
        results.append(Result(prepared.digest, code, index))
        if not code:
            entries.append(prepared.data)
    return _close(state, header, tuple(results), entries, view)


def app_hash(log_size: int, log_root: bytes, state_root: bytes, suite: int = TREE_SHA256) -> bytes:
    """Return the hash that every replica must agree on after a block; ``suite`` is the state tree's."""
    return tagged_hash(_APP_DOMAIN, log_size.to_bytes(8, "big"), log_root, state_root, suite.to_bytes(2, "big"))


class StateView:
    """State with the accepted transactions of a block so far on top."""

    __slots__ = ("_found", "_read", "_tree", "_written")

    def __init__(self, tree: StateTree) -> None:
        self._tree = tree
        self._written: dict[bytes, Held] = {}
        self._read: dict[bytes, Held | None] = {}
        self._found: dict[bytes, bytes | None] = {}

    def get(self, path: bytes) -> Held | None:
        """Return the value at a state path, or None."""
        found = self._written.get(path)
        if found is not None:
            return found
        if path not in self._read:
            data = self._found[path] = self._tree.get(path)
            self._read[path] = None if data is None else decode_any(data)
        return self._read[path]

    def write(self, values: Mapping[bytes, Held]) -> None:
        self._written.update(values)

    def updates(self) -> dict[bytes, bytes]:
        """Return what was written, encoded."""
        return {path: encode_held(value) for path, value in self._written.items()}

    def replaced(self) -> dict[bytes, bytes]:
        """Return, as it was before the block, each value that was written over."""
        known, read = self._found, self._tree.get
        # Nearly every rule has read what it writes.
        earlier = ((path, known[path] if path in known else read(path)) for path in self._written)
        return {path: value for path, value in earlier if value is not None}


def _close(
    state: State, header: Header, results: tuple[Result, ...], entries: list[bytes], view: StateView
) -> BlockResult:
    if not entries:
        return BlockResult(replace(state, header=header), results, (), (), {}, {})
    updates = view.updates()
    suite = find_config(view).state_tree
    tree = state.tree if suite == state.tree.suite else state.tree.rehashed(suite)
    tree = tree.updated(updates)
    entries = [*entries, StateEntry(header.height, header.time_ms, tree.root, suite).entry()]
    leaves = tuple(leaf_hash(entry) for entry in entries)
    closed = State(state.network, header, tree, state.log.append(leaves))
    return BlockResult(closed, results, tuple(entries), leaves, updates, view.replaced())


def _judge(network: bytes, view: StateView, prepared: Prepared) -> str:
    """Apply one envelope to the view and return "", or return the code and change nothing."""
    envelope = prepared.found
    if isinstance(envelope, str):
        return envelope
    transaction = envelope.transaction
    if transaction.network != network:
        return Rejection.WRONG_NETWORK
    if not _uses_allowed(find_config(view), envelope):
        return Rejection.SUITE_NOT_ALLOWED
    if isinstance(transaction.payload, SetConsent | ChangeOwner):
        return _apply(view, prepared, envelope, None)
    # Membership and nonce come before the signature: a stranger's flood then costs look-ups only.
    signer = find_member(view, transaction.signer)
    if signer is None or signer.status != ACTIVE:
        return Rejection.NOT_A_MEMBER
    if transaction.nonce <= signer.nonce:
        return Rejection.NONCE_STALE
    return _apply(view, prepared, envelope, Member(signer.member, signer.name, ACTIVE, transaction.nonce))


def _uses_allowed(config: Config, envelope: Envelope) -> bool:
    """Tell whether the network allows every suite that the envelope makes use of."""
    payload = envelope.transaction.payload
    allowed = config.signatures
    for key in (*envelope.keys(), *new_keys(payload)):
        if key_suite(key) not in allowed:
            return False
    named = named_suite(payload)
    return named is None or payload.kind == _SUITE_KIND or named[1] in allowed_suites(config, named[0])


def _apply(view: StateView, prepared: Prepared, envelope: Envelope, member: Member | None) -> str:
    """Ask the rule of the kind, once the signatures hold; ``member`` has this nonce counted."""
    is_signed = envelope.is_signed() if prepared.is_signed is None else prepared.is_signed
    if not is_signed:
        return Rejection.BAD_SIGNATURE
    transaction = envelope.transaction
    key, payload = transaction.signer, transaction.payload
    signers = frozenset(envelope.keys())
    verdict = RULES[payload.kind](view, Request(key, transaction.nonce, payload, signers, member))
    if isinstance(verdict, str):
        return verdict
    if member is not None:
        view.write({state_path(Member.kind, key): member})
    view.write(verdict)
    return ""


def _first_config(genesis: Genesis) -> Config:
    suite = SIGNATURE_SUITES[len(genesis.operator)]
    members = tuple(int(each == suite) for each in sorted(SIGNATURE_SUITES.values()))
    return Config(
        threshold=genesis.threshold,
        may_attest=genesis.may_attest,
        members=members,
        state_tree=TREE_SHA256,
        signatures=(suite,),
        digests=(DIGEST_BLAKE3,),
        batch_trees=(SUITE_SHA256,),
    )


def _check_genesis(genesis: Genesis) -> None:
    sound = is_key(genesis.operator) and is_threshold(genesis.threshold) and is_count(genesis.time_ms)
    if not sound or not is_name(genesis.name) or not is_name(genesis.operator_name):
        raise OpeningRefused(f"a genesis needs two names, an operator key and a threshold of 1 to {MAX_THRESHOLD}")
