"""What current state holds, as frozen values with their paths and encodings.

For rules that write them, readers that ask, and verifiers that show them. A
path is SHA-256 over a kind and a key, so members cannot choose where in the
tree a value lands; the key of a consent path is itself blinded by its maker.

Every value is a CBOR array that begins with its kind and a version. Each field
carries the check of its form.

Invariant: a value that was read has passed the checks of all its fields, so
machine and verifiers take the same bytes for a value.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import ClassVar, Final, TypeAlias

from ledger_core.codec import decode, encode
from ledger_core.errors import IntegrityBroken, NotCanonical
from ledger_core.hashing import DIGEST_BLAKE3, HASH_BYTES, TREE_SHA256, frame, sha256
from ledger_core.keys import SIGNATURE_SUITES
from ledger_core.payloads import (
    KNOWN_SUITES,
    USE_BATCH_TREE,
    USE_DIGEST,
    USE_SIGNATURE,
    USE_STATE_TREE,
    Check,
    is_count,
    is_hash,
    is_key,
    is_name,
    is_threshold,
)

ACTIVE: Final = "active"
ROTATED: Final = "rotated"
LEFT: Final = "left"
NO_LIST: Final = bytes(HASH_BYTES)
CONFIG_KEY: Final = b""

_PATH_DOMAIN: Final = "ledger-core/state-path/v1"
_STATUSES: Final = (ACTIVE, ROTATED, LEFT)


def _must(check: Check) -> dict[str, Check]:
    return {"check": check}


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_status(value: object) -> bool:
    return isinstance(value, str) and value in _STATUSES


def _is_counts(value: object) -> bool:
    """One count for each signature suite."""
    return isinstance(value, tuple) and len(value) == len(SIGNATURE_SUITES) and all(map(is_count, value))


def _is_suite(use: str) -> Check:
    known = KNOWN_SUITES[use]
    return lambda value: type(value) is int and value in known


def _are_suites(use: str) -> Check:
    known = KNOWN_SUITES[use]

    def check(value: object) -> bool:
        if not isinstance(value, tuple) or not value or any(type(suite) is not int for suite in value):
            return False
        return known.issuperset(value) and list(value) == sorted(set(value))

    return check


@dataclass(frozen=True, slots=True)
class Config:
    """What a network has agreed on: how many must approve, and which suites are in use.

    ``members`` counts the active members by the suite of their keys, suite 1
    first. A state tree has one suite at a time, the other uses a sorted set.
    """

    kind: ClassVar[str] = "config"
    threshold: int = field(metadata=_must(is_threshold))
    may_attest: bool = field(metadata=_must(_is_flag))
    members: tuple[int, ...] = field(metadata=_must(_is_counts))
    state_tree: int = field(metadata=_must(_is_suite(USE_STATE_TREE)))
    signatures: tuple[int, ...] = field(metadata=_must(_are_suites(USE_SIGNATURE)))
    digests: tuple[int, ...] = field(metadata=_must(_are_suites(USE_DIGEST)))
    batch_trees: tuple[int, ...] = field(metadata=_must(_are_suites(USE_BATCH_TREE)))

    @property
    def active(self) -> int:
        """Active members whose keys are of a suite in use: those who can act."""
        return sum(count for suite, count in enumerate(self.members, 1) if suite in self.signatures)

    @property
    def needed(self) -> int:
        """How many members must approve a change of the network now."""
        return min(self.threshold, self.active)


@dataclass(frozen=True, slots=True)
class Member:
    """One key of a member; ``member`` is the key it first joined with and outlives rotation."""

    kind: ClassVar[str] = "member"
    member: bytes = field(metadata=_must(is_key))
    name: str = field(metadata=_must(is_name))
    status: str = field(metadata=_must(_is_status))
    nonce: int = field(metadata=_must(is_count))


@dataclass(frozen=True, slots=True)
class ConsentState:
    """A consent path: two keys, and for each a counter and the hash of its own list.

    ``institution`` is the member that opened the path (the key it first joined
    with). ``attested`` is the institution's counter at its last attestation of
    paper, 0 if it never attested. A list never set has 32 zero bytes.
    """

    kind: ClassVar[str] = "consent"
    owner: bytes = field(metadata=_must(is_key))
    institution: bytes = field(metadata=_must(is_key))
    secret: bytes = field(metadata=_must(is_hash))
    owner_counter: int = field(metadata=_must(is_count))
    owner_list: bytes = field(metadata=_must(is_hash))
    institution_counter: int = field(metadata=_must(is_count))
    institution_list: bytes = field(metadata=_must(is_hash))
    attested: int = field(metadata=_must(is_count))


@dataclass(frozen=True, slots=True)
class Ruleset:
    """A registered ruleset, the member that registered it first, and the suite of its digest."""

    kind: ClassVar[str] = "ruleset"
    member: bytes = field(metadata=_must(is_key))
    suite: int = field(default=DIGEST_BLAKE3, metadata=_must(_is_suite(USE_DIGEST)))


@dataclass(frozen=True, slots=True)
class DefaultPolicy:
    """A registered default policy, the member that registered it first, and the suite of its digest."""

    kind: ClassVar[str] = "policy"
    member: bytes = field(metadata=_must(is_key))
    suite: int = field(default=DIGEST_BLAKE3, metadata=_must(_is_suite(USE_DIGEST)))


@dataclass(frozen=True, slots=True)
class AccessState:
    """The last audit epoch that a member has closed."""

    kind: ClassVar[str] = "access"
    epoch: int = field(metadata=_must(is_count))
    root: bytes = field(metadata=_must(is_hash))
    count: int = field(metadata=_must(is_count))


Held: TypeAlias = Config | Member | ConsentState | Ruleset | DefaultPolicy | AccessState

_VERSION: Final = 1
HELD_TYPES: Final[dict[str, type[Held]]] = {
    item.kind: item for item in (Config, Member, ConsentState, Ruleset, DefaultPolicy, AccessState)
}
_SHAPES: Final[Mapping[str, tuple[tuple[str, Check], ...]]] = {
    kind: tuple((item.name, item.metadata["check"]) for item in fields(shape)) for kind, shape in HELD_TYPES.items()
}
_KEYS: Final[Mapping[str, Check]] = {
    Config.kind: lambda key: key == CONFIG_KEY,
    Member.kind: is_key,
    ConsentState.kind: is_hash,
    Ruleset.kind: is_hash,
    DefaultPolicy.kind: is_hash,
    AccessState.kind: is_key,
}
_PATH_PREFIXES: Final = {kind: frame(_PATH_DOMAIN, kind.encode()) for kind in HELD_TYPES}


@lru_cache(maxsize=4096)
def state_path(kind: str, key: bytes) -> bytes:
    """Return where in the state tree the value of ``kind`` under ``key`` stands."""
    prefix = _PATH_PREFIXES.get(kind) or frame(_PATH_DOMAIN, kind.encode())
    return sha256(prefix + len(key).to_bytes(8, "big") + key)


CONFIG_PATH: Final = state_path(Config.kind, CONFIG_KEY)


def can_hold(kind: str, key: bytes) -> bool:
    """Tell whether state can ever hold a value of ``kind`` under ``key``: the kind is known, the key has its form."""
    return kind in _KEYS and _KEYS[kind](key)


def encode_held(value: Held) -> bytes:
    """Return the bytes kept in state for ``value``."""
    return encode((value.kind, _VERSION, *(getattr(value, name) for name, _ in _SHAPES[value.kind])))


def decode_any(data: bytes) -> Held:
    """Return whatever state value ``data`` holds.

    Raises:
        IntegrityBroken: It holds none that this version knows.
    """
    try:
        items = decode(data)
    except NotCanonical as cause:
        raise IntegrityBroken("a state value is not canonical") from cause
    if not isinstance(items, tuple) or len(items) < 2 or not isinstance(items[0], str):
        raise IntegrityBroken("a state value has no kind")
    shape = _SHAPES.get(items[0])
    # True equals 1, but is another spelling of it.
    if shape is None or items[1] != _VERSION or items[1] is True or len(items) - 2 != len(shape):
        raise IntegrityBroken("a state value is of an unknown kind or version")
    for (name, check), content in zip(shape, items[2:], strict=True):
        if not check(content):
            raise IntegrityBroken(f"a state value of kind {items[0]} has a wrong {name}")
    return HELD_TYPES[items[0]](*items[2:])


def tree_suite_of(config: bytes | None) -> int:
    """Return the state tree's suite that the value at ``CONFIG_PATH`` names; SHA-256 before there is one.

    Raises:
        IntegrityBroken: The value is no configuration.
    """
    if config is None:
        return TREE_SHA256
    held = decode_any(config)
    if not isinstance(held, Config):
        raise IntegrityBroken("the configuration in state is something else")
    return held.state_tree
