"""Signed envelopes: transactions as they travel, and what can be said of one without any state.

For members who sign and for the machine that judges. An envelope is the log
entry: ``[1, body, signature, approvals]`` in deterministic CBOR, where body is
the encoding of ``[network, kind, version, signer, nonce, payload]``. Everyone
signs the same framed body, so an approval cannot be moved to another
transaction, network or version.

Invariants:
    * one transaction has one body, and one body has one encoding;
    * reading never raises: it yields an ``Envelope`` or a fixed rejection code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ledger_core.codec import Value, decode, encode
from ledger_core.errors import NotCanonical
from ledger_core.hashing import frame, sha256
from ledger_core.keys import SIGNATURE_LENGTHS, Identity, is_signed
from ledger_core.payloads import (
    KINDS,
    is_hash,
    is_key,
    is_positive,
    payload_map,
    read_payload,
)
from ledger_core.payloads import AccessHead as AccessHead
from ledger_core.payloads import AllowSuite as AllowSuite
from ledger_core.payloads import Anchor as Anchor
from ledger_core.payloads import Attest as Attest
from ledger_core.payloads import ChangeOwner as ChangeOwner
from ledger_core.payloads import Join as Join
from ledger_core.payloads import Leave as Leave
from ledger_core.payloads import OpenPath as OpenPath
from ledger_core.payloads import Payload as Payload
from ledger_core.payloads import RegisterPolicy as RegisterPolicy
from ledger_core.payloads import RegisterRuleset as RegisterRuleset
from ledger_core.payloads import Rejection as Rejection
from ledger_core.payloads import Restrict as Restrict
from ledger_core.payloads import RetireSuite as RetireSuite
from ledger_core.payloads import Rotate as Rotate
from ledger_core.payloads import SetConsent as SetConsent
from ledger_core.payloads import SetThreshold as SetThreshold
from ledger_core.payloads import UseRuleset as UseRuleset

ENTRY_TRANSACTION: Final = 1
MAX_ENVELOPE_BYTES: Final = 65_535
MAX_APPROVALS: Final = 64
VERSION: Final = 1

_SIGN_DOMAIN: Final = "ledger-core/transaction/v1"
_DIGEST_DOMAIN: Final = "ledger-core/envelope/v1"
# What frame() puts before the length of a single part.
_SIGN_PREFIX: Final = frame(_SIGN_DOMAIN)
_DIGEST_PREFIX: Final = frame(_DIGEST_DOMAIN)


@dataclass(frozen=True, slots=True)
class Transaction:
    """What is signed: ``nonce`` must exceed the signer's last one."""

    network: bytes
    signer: bytes
    nonce: int
    payload: Payload

    def body(self) -> bytes:
        """Return the deterministic encoding that signatures cover (framed)."""
        content = payload_map(self.payload)
        return encode((self.network, self.payload.kind, VERSION, self.signer, self.nonce, content))


@dataclass(frozen=True, slots=True)
class Envelope:
    """A transaction as read from bytes, with its signatures not yet checked."""

    transaction: Transaction
    body: bytes
    signature: bytes
    approvals: tuple[tuple[bytes, bytes], ...]

    def keys(self) -> tuple[bytes, ...]:
        """Return the keys under whose names it is signed: the signer's, then the approvers'."""
        if not self.approvals:
            return (self.transaction.signer,)
        return (self.transaction.signer, *(key for key, _ in self.approvals))

    def is_signed(self) -> bool:
        """Tell whether every one of its signatures is true; the machine takes all or none."""
        message = signing_message(self.body)
        if not is_signed(self.transaction.signer, message, self.signature):
            return False
        return not self.approvals or all(is_signed(key, message, signature) for key, signature in self.approvals)

    def signers(self) -> frozenset[bytes] | None:
        """Return every key that signed, or None if any signature is false."""
        return frozenset(self.keys()) if self.is_signed() else None


class Prepared(NamedTuple):
    """What can be said of an envelope without any state; only ``prepare`` makes one.

    ``found`` is the envelope as read, or the rejection code of its form.
    ``is_signed`` is None where the signatures have not been looked at.
    """

    data: bytes
    digest: bytes
    found: Envelope | str
    is_signed: bool | None

    @property
    def transaction(self) -> Transaction | None:
        return None if isinstance(self.found, str) else self.found.transaction


def prepare(data: bytes, *, signatures: bool = True) -> Prepared:
    """Read an envelope, name it and check its signatures: the costly part of judging one.

    Pure, and fit for any thread. Without ``signatures`` they are checked when
    the machine needs to know, or by ``check_signatures``.
    """
    prepared = Prepared(data, envelope_digest(data), read_envelope(data), None)
    return check_signatures(prepared) if signatures else prepared


def check_signatures(prepared: Prepared) -> Prepared:
    """Return ``prepared`` with its signatures looked at; nearly all the while the interpreter's lock is free."""
    data, digest, found, _ = prepared
    return prepared if isinstance(found, str) else Prepared(data, digest, found, found.is_signed())


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
    return _SIGN_PREFIX + len(body).to_bytes(8, "big") + body


def envelope_digest(envelope: bytes) -> bytes:
    """Name an envelope: equal digests mean byte-identical envelopes."""
    return sha256(_DIGEST_PREFIX + len(envelope).to_bytes(8, "big") + envelope)


def read_envelope(data: bytes) -> Envelope | str:
    """Return the envelope in ``data``, or the rejection code. Signatures are not checked."""
    if len(data) > MAX_ENVELOPE_BYTES:
        return Rejection.TOO_LARGE
    try:
        outer = decode(data)
        if not isinstance(outer, tuple) or len(outer) != 4 or type(outer[0]) is not int:
            return Rejection.MALFORMED
        tag, body, signature, approvals = outer
        if tag != ENTRY_TRANSACTION or not isinstance(body, bytes) or not isinstance(signature, bytes):
            return Rejection.MALFORMED
        inner = decode(body)
    except NotCanonical:
        return Rejection.MALFORMED
    if not isinstance(inner, tuple) or len(inner) != 6:
        return Rejection.MALFORMED
    transaction = _read_transaction(inner)
    if isinstance(transaction, str):
        return transaction
    signer = transaction.signer
    if len(signature) != SIGNATURE_LENGTHS[len(signer)] or not _are_approvals(approvals, signer):
        return Rejection.MALFORMED
    return Envelope(transaction, body, signature, approvals)  # type: ignore[arg-type]  # checked above


def _read_transaction(inner: Sequence[Value]) -> Transaction | str:
    network, kind, version, signer, nonce, payload = inner
    well_formed = is_hash(network) and isinstance(kind, str) and is_key(signer) and is_positive(nonce)
    if not well_formed or type(version) is not int or not isinstance(payload, Mapping):
        return Rejection.MALFORMED
    if kind not in KINDS:
        return Rejection.UNKNOWN_KIND
    if version != VERSION:
        return Rejection.UNKNOWN_VERSION
    parsed = read_payload(kind, payload)
    if isinstance(parsed, str):
        return parsed
    return Transaction(network, signer, nonce, parsed)  # type: ignore[arg-type]  # checked above


def _are_approvals(value: Value, signer: bytes) -> bool:
    if value == ():
        return True
    if not isinstance(value, tuple) or len(value) > MAX_APPROVALS:
        return False
    keys: list[bytes] = []
    for pair in value:
        if not isinstance(pair, tuple) or len(pair) != 2:
            return False
        key, signature = pair
        if not isinstance(key, bytes) or not isinstance(signature, bytes):
            return False
        if not is_key(key) or SIGNATURE_LENGTHS[len(key)] != len(signature):
            return False
        keys.append(key)
    return keys == sorted(set(keys)) and signer not in keys
