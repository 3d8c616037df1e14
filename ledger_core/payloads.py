"""What a transaction can ask for: every kind as a frozen, versioned value with its own form.

For members who sign, the rules that judge, and verifiers that show. Each field
carries the check of its form; a payload that was read has passed them all.

A kind is a class here (or a few, told apart by ``op``) and a file in ``rules/``.

Invariants:
    * a payload with a field too many or too few is refused;
    * a suite that this version does not know is never read, whatever a network allows;
    * no form depends on the Unicode tables of the Python that runs.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar, Final, TypeAlias

from ledger_core.codec import MAX_INTEGER, Value
from ledger_core.hashing import CONTENT_SUITES, DIGEST_BLAKE3, HASH_BYTES, SUITE_SHA256, TREE_SUITES
from ledger_core.keys import SIGNATURE_SUITES, is_weak

MAX_NAME_BYTES: Final = 200
# Controls, marks nobody sees, line ends, turns of direction, halves of characters, tags: a fixed list, for
# replicas on different Unicode tables must judge alike.
_NOT_IN_NAMES: Final = re.compile(
    r"[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    r"\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e0fff]"
)
# The largest number of ML-DSA-44 approvals that is sure to fit one envelope beside signer and new key.
MAX_THRESHOLD: Final = 16
WHOLE: Final = 10_000
"""A share of everything; shares are counted in ten-thousandths."""

USE_SIGNATURE: Final = "signature"
USE_STATE_TREE: Final = "state-tree"
USE_DIGEST: Final = "digest"
USE_BATCH_TREE: Final = "batch-tree"

KNOWN_SUITES: Final[Mapping[str, frozenset[int]]] = {
    USE_SIGNATURE: frozenset(SIGNATURE_SUITES.values()),
    USE_STATE_TREE: frozenset(TREE_SUITES),
    USE_DIGEST: frozenset(CONTENT_SUITES),
    USE_BATCH_TREE: frozenset({SUITE_SHA256}),
}
"""Suites that this version can compute, by use; a network allows some of them."""

Check: TypeAlias = Callable[[object], bool]


class Rejection:
    """The fixed codes of refusal; public, so they never change."""

    TOO_LARGE: Final = "too-large"
    MALFORMED: Final = "malformed"
    UNKNOWN_KIND: Final = "unknown-kind"
    UNKNOWN_VERSION: Final = "unknown-version"
    PAYLOAD_INVALID: Final = "payload-invalid"
    UNKNOWN_SUITE: Final = "unknown-suite"
    WRONG_NETWORK: Final = "wrong-network"
    SUITE_NOT_ALLOWED: Final = "suite-not-allowed"
    BAD_SIGNATURE: Final = "bad-signature"
    NOT_A_MEMBER: Final = "not-a-member"
    NONCE_STALE: Final = "nonce-stale"
    NOT_PERMITTED: Final = "not-permitted"
    APPROVALS_MISSING: Final = "approvals-missing"
    ALREADY_EXISTS: Final = "already-exists"
    NOT_FOUND: Final = "not-found"
    COUNTER_STALE: Final = "counter-stale"
    ATTEST_NOT_ALLOWED: Final = "attest-not-allowed"
    LAST_MEMBER: Final = "last-member"
    LAST_SUITE: Final = "last-suite"


def is_hash(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == HASH_BYTES


def is_key(value: object) -> bool:
    return isinstance(value, bytes) and len(value) in SIGNATURE_SUITES and not is_weak(value)


def is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_INTEGER


def is_positive(value: object) -> bool:
    return is_count(value) and value != 0


def is_name(value: object) -> bool:
    """Whether a member or a network may be called so."""
    # What has no UTF-8 (half a character) is out before it is encoded.
    if not isinstance(value, str) or _NOT_IN_NAMES.search(value):
        return False
    return 0 < len(value.encode()) <= MAX_NAME_BYTES


def is_threshold(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_THRESHOLD


def _is_share(value: object) -> bool:
    return type(value) is int and 0 <= value <= WHOLE


def _is_use(value: object) -> bool:
    return isinstance(value, str) and value in KNOWN_SUITES


def _must(check: Check) -> dict[str, Check]:
    return {"check": check}


# Marks a field with a key that the payload brings into use: the network must allow its suite.
_NEW_KEY: Final[Mapping[str, Check]] = {"check": is_key, "new": is_key}


@dataclass(frozen=True, slots=True)
class Join:
    """Admit a member; approved by enough members and by the new key itself."""

    kind: ClassVar[str] = "member"
    op: ClassVar[str] = "join"
    key: bytes = field(metadata=_NEW_KEY)
    name: str = field(metadata=_must(is_name))


@dataclass(frozen=True, slots=True)
class Rotate:
    """Replace the signer's key; approved by the new key itself."""

    kind: ClassVar[str] = "member"
    op: ClassVar[str] = "rotate"
    key: bytes = field(metadata=_NEW_KEY)


@dataclass(frozen=True, slots=True)
class Leave:
    """End a membership: one's own, or another's with enough approvals."""

    kind: ClassVar[str] = "member"
    op: ClassVar[str] = "leave"
    key: bytes = field(metadata=_must(is_key))


@dataclass(frozen=True, slots=True)
class SetThreshold:
    """Change how many members must approve; approved by the larger of the old and the new number."""

    kind: ClassVar[str] = "member"
    op: ClassVar[str] = "threshold"
    threshold: int = field(metadata=_must(is_threshold))


@dataclass(frozen=True, slots=True)
class AllowSuite:
    """Let the network use a suite; approved by enough members. A state tree moves to it at once."""

    kind: ClassVar[str] = "suite"
    op: ClassVar[str] = "allow"
    use: str = field(metadata=_must(_is_use))
    suite: int = field(metadata=_must(is_positive))


@dataclass(frozen=True, slots=True)
class RetireSuite:
    """Stop using a suite; approved by enough members, whose own keys stay valid."""

    kind: ClassVar[str] = "suite"
    op: ClassVar[str] = "retire"
    use: str = field(metadata=_must(_is_use))
    suite: int = field(metadata=_must(is_positive))


@dataclass(frozen=True, slots=True)
class Anchor:
    """The root of a batch tree over ``count`` commitments; ``suite`` 1 is SHA-256, RFC 9162."""

    kind: ClassVar[str] = "anchor"
    op: ClassVar[str] = ""
    use: ClassVar[str] = USE_BATCH_TREE
    root: bytes = field(metadata=_must(is_hash))
    count: int = field(metadata=_must(is_positive))
    suite: int = field(default=SUITE_SHA256, metadata=_must(is_positive))


@dataclass(frozen=True, slots=True)
class OpenPath:
    """Open a blinded consent path for the signing institution's chart.

    ``owner`` is the patient's key for this path, ``secret`` the commitment to
    the secret that the path was derived from.
    """

    kind: ClassVar[str] = "consent"
    op: ClassVar[str] = "open"
    path: bytes = field(metadata=_must(is_hash))
    owner: bytes = field(metadata=_NEW_KEY)
    secret: bytes = field(metadata=_must(is_hash))


@dataclass(frozen=True, slots=True)
class SetConsent:
    """The owner's list changes; signed by the owner, ``counter`` is the nonce too."""

    kind: ClassVar[str] = "consent"
    op: ClassVar[str] = "set"
    path: bytes = field(metadata=_must(is_hash))
    counter: int = field(metadata=_must(is_positive))
    list_hash: bytes = field(metadata=_must(is_hash))


@dataclass(frozen=True, slots=True)
class ChangeOwner:
    """The owner hands the path to a new key; signed by the old one, approved by the new one."""

    kind: ClassVar[str] = "consent"
    op: ClassVar[str] = "owner"
    path: bytes = field(metadata=_must(is_hash))
    counter: int = field(metadata=_must(is_positive))
    owner: bytes = field(metadata=_NEW_KEY)


@dataclass(frozen=True, slots=True)
class Restrict:
    """The institution's list changes; readers let it narrow only."""

    kind: ClassVar[str] = "consent"
    op: ClassVar[str] = "restrict"
    path: bytes = field(metadata=_must(is_hash))
    counter: int = field(metadata=_must(is_positive))
    list_hash: bytes = field(metadata=_must(is_hash))


@dataclass(frozen=True, slots=True)
class Attest:
    """The institution's list changes and holds signed paper it vouches for."""

    kind: ClassVar[str] = "consent"
    op: ClassVar[str] = "attest"
    path: bytes = field(metadata=_must(is_hash))
    counter: int = field(metadata=_must(is_positive))
    list_hash: bytes = field(metadata=_must(is_hash))


@dataclass(frozen=True, slots=True)
class RegisterRuleset:
    """A set of mapping rules, named by the digest of its content."""

    kind: ClassVar[str] = "ruleset"
    op: ClassVar[str] = ""
    use: ClassVar[str] = USE_DIGEST
    digest: bytes = field(metadata=_must(is_hash))
    suite: int = field(default=DIGEST_BLAKE3, metadata=_must(is_positive))


@dataclass(frozen=True, slots=True)
class UseRuleset:
    """From now on a share of what an institution sends is handled by a ruleset.

    ``share`` counts ten-thousandths: all of them put it in force, 0 withdraws it, what lies between tries it on some.
    ``institution`` is a member's key and ``author`` the key of whoever answers for it; both sign too, and whoever
    else approved beside them. Any member may bring it, so that it never waits behind the institution's own nonces.
    """

    kind: ClassVar[str] = "ruleset"
    op: ClassVar[str] = "use"
    use: ClassVar[str] = USE_DIGEST
    digest: bytes = field(metadata=_must(is_hash))
    institution: bytes = field(metadata=_must(is_key))
    author: bytes = field(metadata=_must(is_key))
    share: int = field(metadata=_must(_is_share))
    suite: int = field(default=DIGEST_BLAKE3, metadata=_must(is_positive))


@dataclass(frozen=True, slots=True)
class RegisterPolicy:
    """A default policy, named by the digest of its content."""

    kind: ClassVar[str] = "policy"
    op: ClassVar[str] = ""
    use: ClassVar[str] = USE_DIGEST
    digest: bytes = field(metadata=_must(is_hash))
    suite: int = field(default=DIGEST_BLAKE3, metadata=_must(is_positive))


@dataclass(frozen=True, slots=True)
class AccessHead:
    """The heads of an institution's audit chains at the end of an epoch."""

    kind: ClassVar[str] = "access"
    op: ClassVar[str] = ""
    epoch: int = field(metadata=_must(is_count))
    root: bytes = field(metadata=_must(is_hash))
    count: int = field(metadata=_must(is_count))


MemberPayload: TypeAlias = Join | Rotate | Leave | SetThreshold
SuitePayload: TypeAlias = AllowSuite | RetireSuite
InstitutionPayload: TypeAlias = OpenPath | Restrict | Attest
OwnerPayload: TypeAlias = SetConsent | ChangeOwner
ConsentPayload: TypeAlias = InstitutionPayload | OwnerPayload
RulesetPayload: TypeAlias = RegisterRuleset | UseRuleset
Payload: TypeAlias = (
    MemberPayload | SuitePayload | Anchor | ConsentPayload | RulesetPayload | RegisterPolicy | AccessHead
)

_TYPES: Final[Mapping[tuple[str, str], type[Payload]]] = {
    (item.kind, item.op): item
    for item in (
        *(Join, Rotate, Leave, SetThreshold),
        *(AllowSuite, RetireSuite),
        *(OpenPath, SetConsent, ChangeOwner, Restrict, Attest),
        *(Anchor, RegisterRuleset, UseRuleset, RegisterPolicy, AccessHead),
    )
}
KINDS: Final = frozenset(kind for kind, _ in _TYPES)
_CHECKS: Final[Mapping[type[Payload], Mapping[str, Check]]] = {
    shape: {item.name: item.metadata["check"] for item in fields(shape)} for shape in _TYPES.values()
}
_NEW_KEYS: Final[Mapping[type[Payload], tuple[str, ...]]] = {
    shape: tuple(item.name for item in fields(shape) if "new" in item.metadata) for shape in _TYPES.values()
}


def read_payload(kind: str, content: Mapping[str, Value]) -> Payload | str:
    """Return the payload of a known kind, or the rejection code."""
    op = content.get("op", "")
    shape = _TYPES.get((kind, op)) if isinstance(op, str) else None
    if shape is None or (op == "" and "op" in content):
        return Rejection.PAYLOAD_INVALID
    checks = _CHECKS[shape]
    values = {name: value for name, value in content.items() if name != "op"} if op else content
    if values.keys() != checks.keys():
        return Rejection.PAYLOAD_INVALID
    for name, check in checks.items():
        if not check(values[name]):
            return Rejection.PAYLOAD_INVALID
    payload = shape(**values)  # type: ignore[arg-type]  # every field has passed its check
    named = named_suite(payload)
    if named is not None and named[1] not in KNOWN_SUITES[named[0]]:
        return Rejection.UNKNOWN_SUITE
    return payload


def payload_map(payload: Payload) -> dict[str, Value]:
    """Return the map that stands for ``payload`` in a transaction's body."""
    content: dict[str, Value] = {name: getattr(payload, name) for name in _CHECKS[type(payload)]}
    if payload.op:
        content["op"] = payload.op
    return content


def named_suite(payload: Payload) -> tuple[str, int] | None:
    """Return the use and number of the suite that ``payload`` names, or None."""
    if isinstance(payload, Anchor | RegisterRuleset | UseRuleset | RegisterPolicy | AllowSuite | RetireSuite):
        return payload.use, payload.suite
    return None


def new_keys(payload: Payload) -> tuple[bytes, ...]:
    """Return the keys that ``payload`` brings into use."""
    return tuple(getattr(payload, name) for name in _NEW_KEYS[type(payload)])
