"""Kinds of transaction as frozen, versioned values, and the signed envelopes that carry them.

For members who sign and for the machine that judges. An envelope is the log
entry: ``[1, body, signature, approvals]`` in deterministic CBOR, where body is
the encoding of ``[network, kind, version, signer, nonce, payload]``. Everyone
signs the same framed body, so an approval cannot be moved to another
transaction, network or version.

Invariants:
    * one transaction has one body, and one body has one encoding;
    * reading never raises: it yields an ``Envelope`` or a fixed rejection code.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, Final, TypeAlias

from ledger_core.codec import MAX_INTEGER, Value, decode, encode
from ledger_core.errors import NotCanonical
from ledger_core.hashing import HASH_BYTES, SUITE_BLAKE3, SUITE_SHA256, frame, tagged_hash
from ledger_core.keys import KEY_BYTES, SIGNATURE_BYTES, Identity, is_signed

ENTRY_TRANSACTION: Final = 1
MAX_ENVELOPE_BYTES: Final = 65_535
MAX_APPROVALS: Final = 64
MAX_NAME_BYTES: Final = 200
VERSION: Final = 1

_SIGN_DOMAIN: Final = "ledger-core/transaction/v1"
_DIGEST_DOMAIN: Final = "ledger-core/envelope/v1"


class Rejection:
    """The fixed codes of refusal; public, so they never change."""

    TOO_LARGE: Final = "too-large"
    MALFORMED: Final = "malformed"
    UNKNOWN_KIND: Final = "unknown-kind"
    UNKNOWN_VERSION: Final = "unknown-version"
    PAYLOAD_INVALID: Final = "payload-invalid"
    WRONG_NETWORK: Final = "wrong-network"
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


Check: TypeAlias = Callable[[object], bool]


def _is_hash(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == HASH_BYTES


def _is_key(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == KEY_BYTES


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_INTEGER


def _is_positive(value: object) -> bool:
    return _is_count(value) and value != 0


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value.encode()) <= MAX_NAME_BYTES and value.isprintable()


def _must(check: Check) -> dict[str, Check]:
    return {"check": check}


@dataclass(frozen=True, slots=True)
class Join:
    """Admit a member; approved by enough members and by the new key itself."""

    kind: ClassVar[str] = "member"
    op: ClassVar[str] = "join"
    key: bytes = field(metadata=_must(_is_key))
    name: str = field(metadata=_must(_is_name))


@dataclass(frozen=True, slots=True)
class Rotate:
    """Replace the signer's key; approved by the new key itself."""

    kind: ClassVar[str] = "member"
    op: ClassVar[str] = "rotate"
    key: bytes = field(metadata=_must(_is_key))


@dataclass(frozen=True, slots=True)
class Leave:
    """End a membership: one's own, or another's with enough approvals."""

    kind: ClassVar[str] = "member"
    op: ClassVar[str] = "leave"
    key: bytes = field(metadata=_must(_is_key))


@dataclass(frozen=True, slots=True)
class Anchor:
    """The root of a batch tree over ``count`` commitments; ``suite`` 1 is SHA-256, RFC 9162."""

    kind: ClassVar[str] = "anchor"
    op: ClassVar[str] = ""
    root: bytes = field(metadata=_must(_is_hash))
    count: int = field(metadata=_must(_is_positive))
    suite: int = field(default=SUITE_SHA256, metadata=_must(lambda value: value == SUITE_SHA256))


@dataclass(frozen=True, slots=True)
class OpenPath:
    """Open a blinded consent path for the signing institution's chart.

    ``owner`` is the patient's key for this path, ``secret`` the commitment to
    the secret that the path was derived from.
    """

    kind: ClassVar[str] = "consent"
    op: ClassVar[str] = "open"
    path: bytes = field(metadata=_must(_is_hash))
    owner: bytes = field(metadata=_must(_is_key))
    secret: bytes = field(metadata=_must(_is_hash))


@dataclass(frozen=True, slots=True)
class SetConsent:
    """The owner's list changes; signed by the owner, ``counter`` is the nonce too."""

    kind: ClassVar[str] = "consent"
    op: ClassVar[str] = "set"
    path: bytes = field(metadata=_must(_is_hash))
    counter: int = field(metadata=_must(_is_positive))
    list_hash: bytes = field(metadata=_must(_is_hash))


@dataclass(frozen=True, slots=True)
class ChangeOwner:
    """The owner hands the path to a new key; signed by the old one, approved by the new one."""

    kind: ClassVar[str] = "consent"
    op: ClassVar[str] = "owner"
    path: bytes = field(metadata=_must(_is_hash))
    counter: int = field(metadata=_must(_is_positive))
    owner: bytes = field(metadata=_must(_is_key))


@dataclass(frozen=True, slots=True)
class Restrict:
    """The institution's list changes; readers let it narrow only."""

    kind: ClassVar[str] = "consent"
    op: ClassVar[str] = "restrict"
    path: bytes = field(metadata=_must(_is_hash))
    counter: int = field(metadata=_must(_is_positive))
    list_hash: bytes = field(metadata=_must(_is_hash))


@dataclass(frozen=True, slots=True)
class Attest:
    """The institution's list changes and holds signed paper it vouches for."""

    kind: ClassVar[str] = "consent"
    op: ClassVar[str] = "attest"
    path: bytes = field(metadata=_must(_is_hash))
    counter: int = field(metadata=_must(_is_positive))
    list_hash: bytes = field(metadata=_must(_is_hash))


@dataclass(frozen=True, slots=True)
class RegisterRuleset:
    """A set of mapping rules, named by the digest of its content."""

    kind: ClassVar[str] = "ruleset"
    op: ClassVar[str] = ""
    digest: bytes = field(metadata=_must(_is_hash))
    suite: int = field(default=SUITE_BLAKE3, metadata=_must(lambda value: value == SUITE_BLAKE3))


@dataclass(frozen=True, slots=True)
class RegisterPolicy:
    """A default policy, named by the digest of its content."""

    kind: ClassVar[str] = "policy"
    op: ClassVar[str] = ""
    digest: bytes = field(metadata=_must(_is_hash))
    suite: int = field(default=SUITE_BLAKE3, metadata=_must(lambda value: value == SUITE_BLAKE3))


@dataclass(frozen=True, slots=True)
class AccessHead:
    """The heads of an institution's audit chains at the end of an epoch."""

    kind: ClassVar[str] = "access"
    op: ClassVar[str] = ""
    epoch: int = field(metadata=_must(_is_count))
    root: bytes = field(metadata=_must(_is_hash))
    count: int = field(metadata=_must(_is_count))


Payload: TypeAlias = (
    Join
    | Rotate
    | Leave
    | Anchor
    | OpenPath
    | SetConsent
    | ChangeOwner
    | Restrict
    | Attest
    | RegisterRuleset
    | RegisterPolicy
    | AccessHead
)

_MEMBER = (Join, Rotate, Leave)
_CONSENT = (OpenPath, SetConsent, ChangeOwner, Restrict, Attest)
_OTHERS = (Anchor, RegisterRuleset, RegisterPolicy, AccessHead)
_TYPES: Final[Mapping[tuple[str, str], type[Payload]]] = {
    (item.kind, item.op): item for item in (*_MEMBER, *_CONSENT, *_OTHERS)
}
KINDS: Final = frozenset(kind for kind, _ in _TYPES)


@dataclass(frozen=True, slots=True)
class Transaction:
    """What is signed: ``nonce`` must exceed the signer's last one."""

    network: bytes
    signer: bytes
    nonce: int
    payload: Payload

    def body(self) -> bytes:
        """Return the deterministic encoding that signatures cover (framed)."""
        content = _payload_map(self.payload)
        return encode((self.network, self.payload.kind, VERSION, self.signer, self.nonce, content))


@dataclass(frozen=True, slots=True)
class Envelope:
    """A transaction as read from bytes, with its signatures not yet checked."""

    transaction: Transaction
    body: bytes
    signature: bytes
    approvals: tuple[tuple[bytes, bytes], ...]

    def signers(self) -> frozenset[bytes] | None:
        """Return every key that signed, or None if any signature is false."""
        message = signing_message(self.body)
        pairs = ((self.transaction.signer, self.signature), *self.approvals)
        if not all(is_signed(key, message, signature) for key, signature in pairs):
            return None
        return frozenset(key for key, _ in pairs)


def sign(transaction: Transaction, identity: Identity, approvers: Sequence[Identity] = ()) -> bytes:
    """Return the envelope of ``transaction``, signed and approved.

    Raises:
        ValueError: The identity is not the transaction's signer, an approver
            appears twice, or the payload breaks its own form.
    """
    if identity.public != transaction.signer:
        raise ValueError("the identity is not the signer named in the transaction")
    body = transaction.body()
    message = signing_message(body)
    approvals = [(other.public, other.sign(message)) for other in approvers]
    return seal_envelope(body, identity.sign(message), approvals)


def seal_envelope(body: bytes, signature: bytes, approvals: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """Join a body with signatures gathered elsewhere; approvals are put in order of key.

    Raises:
        ValueError: The result would be refused for its form.
    """
    envelope = encode((ENTRY_TRANSACTION, body, signature, sorted(approvals)))
    found = read_envelope(envelope)
    if isinstance(found, str):
        raise ValueError(f"this envelope would be refused: {found}")
    return envelope


def signing_message(body: bytes) -> bytes:
    """Return the bytes that a signer of ``body`` signs."""
    return frame(_SIGN_DOMAIN, body)


def envelope_digest(envelope: bytes) -> bytes:
    """Name an envelope: equal digests mean byte-identical envelopes."""
    return tagged_hash(_DIGEST_DOMAIN, envelope)


def read_envelope(data: bytes) -> Envelope | str:
    """Return the envelope in ``data``, or the rejection code. Signatures are not checked."""
    if len(data) > MAX_ENVELOPE_BYTES:
        return Rejection.TOO_LARGE
    try:
        outer = decode(data)
        if not isinstance(outer, tuple) or len(outer) != 4 or type(outer[0]) is not int:
            return Rejection.MALFORMED
        tag, body, signature, approvals = outer
        if tag != ENTRY_TRANSACTION or not isinstance(body, bytes) or not _is_signature(signature):
            return Rejection.MALFORMED
        inner = decode(body)
    except NotCanonical:
        return Rejection.MALFORMED
    transaction = _read_body(inner)
    if isinstance(transaction, str):
        return transaction
    if not _are_approvals(approvals, transaction.signer):
        return Rejection.MALFORMED
    return Envelope(transaction, body, signature, approvals)  # type: ignore[arg-type]  # checked above


def _read_body(inner: Value) -> Transaction | str:
    if not isinstance(inner, tuple) or len(inner) != 6:
        return Rejection.MALFORMED
    network, kind, version, signer, nonce, payload = inner
    well_formed = _is_hash(network) and isinstance(kind, str) and _is_key(signer) and _is_positive(nonce)
    if not well_formed or type(version) is not int or not isinstance(payload, Mapping):
        return Rejection.MALFORMED
    if kind not in KINDS:
        return Rejection.UNKNOWN_KIND
    if version != VERSION:
        return Rejection.UNKNOWN_VERSION
    parsed = _read_payload(kind, payload)
    if parsed is None:
        return Rejection.PAYLOAD_INVALID
    return Transaction(network, signer, nonce, parsed)  # type: ignore[arg-type]  # checked above


def _read_payload(kind: str, payload: Mapping[str, Value]) -> Payload | None:
    content = dict(payload)
    op = content.pop("op", "")
    if not isinstance(op, str) or (op == "" and "op" in payload) or (kind, op) not in _TYPES:
        return None
    shape = _TYPES[kind, op]
    names = {item.name for item in fields(shape)}
    if content.keys() != names:
        return None
    if not all(item.metadata["check"](content[item.name]) for item in fields(shape)):
        return None
    return shape(**content)  # type: ignore[arg-type]  # every field has passed its check


def _payload_map(payload: Payload) -> dict[str, Value]:
    content: dict[str, Value] = {item.name: getattr(payload, item.name) for item in fields(payload)}
    if payload.op:
        content["op"] = payload.op
    return content


def _is_signature(value: Value) -> bool:
    return isinstance(value, bytes) and len(value) == SIGNATURE_BYTES


def _are_approvals(value: Value, signer: bytes) -> bool:
    if not isinstance(value, tuple) or len(value) > MAX_APPROVALS:
        return False
    keys: list[bytes] = []
    for pair in value:
        if not isinstance(pair, tuple) or len(pair) != 2:
            return False
        key, signature = pair
        if not isinstance(key, bytes) or len(key) != KEY_BYTES or not _is_signature(signature):
            return False
        keys.append(key)
    return keys == sorted(set(keys)) and signer not in keys
