"""What current state holds, as frozen values with their paths and encodings.

For rules that write them, readers that ask, and verifiers that show them. A
path is SHA-256 over a kind and a key, so members cannot choose where in the
tree a value lands; the key of a consent path is itself blinded by its maker.

Every value is a CBOR array that begins with its kind and a version.
"""

from dataclasses import dataclass, fields
from typing import ClassVar, Final, TypeAlias

from ledger_core.codec import decode, encode
from ledger_core.errors import IntegrityBroken, NotCanonical
from ledger_core.hashing import HASH_BYTES, tagged_hash

ACTIVE: Final = "active"
ROTATED: Final = "rotated"
LEFT: Final = "left"
NO_LIST: Final = bytes(HASH_BYTES)
CONFIG_KEY: Final = b""

_PATH_DOMAIN: Final = "ledger-core/state-path/v1"


@dataclass(frozen=True, slots=True)
class Config:
    """How many members must approve, how many are active, and what is allowed."""

    kind: ClassVar[str] = "config"
    threshold: int
    active: int
    may_attest: bool


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
    """A registered ruleset and the member that registered it first."""

    kind: ClassVar[str] = "ruleset"
    member: bytes


@dataclass(frozen=True, slots=True)
class DefaultPolicy:
    """A registered default policy and the member that registered it first."""

    kind: ClassVar[str] = "policy"
    member: bytes


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


def state_path(kind: str, key: bytes) -> bytes:
    """Return where in the state tree the value of ``kind`` under ``key`` stands."""
    return tagged_hash(_PATH_DOMAIN, kind.encode(), key)


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
    if shape is None or items[1] != _VERSION or len(items) - 2 != len(shape):
        raise IntegrityBroken("a state value is of an unknown kind or version")
    for (name, required), content in zip(shape, items[2:], strict=True):
        if type(content) is not required:
            raise IntegrityBroken(f"a state value of kind {items[0]} has a wrong {name}")
    return HELD_TYPES[items[0]](*items[2:])
