"""What current state holds, as frozen values with their paths and encodings.

For rules that write them, readers that ask, and verifiers that show them. A
path is SHA-256 over a kind and a key, so members cannot choose where in the
tree a value lands; the key of a consent path is itself blinded by its maker.

Every value is a CBOR array that begins with its kind and a version.
"""

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import ClassVar, Final, TypeAlias

from ledger_core.codec import decode, encode
from ledger_core.errors import IntegrityBroken, NotCanonical
from ledger_core.hashing import DIGEST_BLAKE3, HASH_BYTES, TREE_SHA256, frame, sha256

ACTIVE: Final = "active"
ROTATED: Final = "rotated"
LEFT: Final = "left"
NO_LIST: Final = bytes(HASH_BYTES)
CONFIG_KEY: Final = b""

_PATH_DOMAIN: Final = "ledger-core/state-path/v1"


@dataclass(frozen=True, slots=True)
class Config:
    """What a network has agreed on: how many must approve, and which suites are in use.

    ``members`` counts the active members by the suite of their keys, suite 1
    first. A state tree has one suite at a time, the other uses a sorted set.
    """

    kind: ClassVar[str] = "config"
    threshold: int
    may_attest: bool
    members: tuple[int, ...]
    state_tree: int
    signatures: tuple[int, ...]
    digests: tuple[int, ...]
    batch_trees: tuple[int, ...]

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
    member: bytes
    name: str
    status: str
    nonce: int


@dataclass(frozen=True, slots=True)
class ConsentState:
    """A consent path: two keys, and for each a counter and the hash of its own list.

    ``institution`` is the member that opened the path (the key it first joined
    with). ``attested`` is the institution's counter at its last attestation of
    paper, 0 if it never attested. A list never set has 32 zero bytes.
    """

    kind: ClassVar[str] = "consent"
    owner: bytes
    institution: bytes
    secret: bytes
    owner_counter: int
    owner_list: bytes
    institution_counter: int
    institution_list: bytes
    attested: int


@dataclass(frozen=True, slots=True)
class Ruleset:
    """A registered ruleset, the member that registered it first, and the suite of its digest."""

    kind: ClassVar[str] = "ruleset"
    member: bytes
    suite: int = DIGEST_BLAKE3


@dataclass(frozen=True, slots=True)
class DefaultPolicy:
    """A registered default policy, the member that registered it first, and the suite of its digest."""

    kind: ClassVar[str] = "policy"
    member: bytes
    suite: int = DIGEST_BLAKE3


@dataclass(frozen=True, slots=True)
class AccessState:
    """The last audit epoch that a member has closed."""

    kind: ClassVar[str] = "access"
    epoch: int
    root: bytes
    count: int


Held: TypeAlias = Config | Member | ConsentState | Ruleset | DefaultPolicy | AccessState

_VERSION: Final = 1
HELD_TYPES: Final[dict[str, type[Held]]] = {
    item.kind: item for item in (Config, Member, ConsentState, Ruleset, DefaultPolicy, AccessState)
}
_SHAPES: Final = {kind: tuple((item.name, item.type) for item in fields(shape)) for kind, shape in HELD_TYPES.items()}
_PATH_PREFIXES: Final = {kind: frame(_PATH_DOMAIN, kind.encode()) for kind in HELD_TYPES}


@lru_cache(maxsize=4096)
def state_path(kind: str, key: bytes) -> bytes:
    """Return where in the state tree the value of ``kind`` under ``key`` stands."""
    prefix = _PATH_PREFIXES.get(kind) or frame(_PATH_DOMAIN, kind.encode())
    return sha256(prefix + len(key).to_bytes(8, "big") + key)


CONFIG_PATH: Final = state_path(Config.kind, CONFIG_KEY)


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
    for (name, required), content in zip(shape, items[2:], strict=True):
        if not _is_of(content, required):
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


def _is_of(content: object, required: object) -> bool:
    if required == tuple[int, ...]:
        return isinstance(content, tuple) and all(type(item) is int for item in content)
    return type(content) is required
