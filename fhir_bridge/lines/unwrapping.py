"""Takes a message that came by bus out of its wrapping: opens it, checks its sender's signature, keeps the evidence.

A large message is claimed from where its sender put it (``claims.py``). A
hospital that does not trust the broker encrypts what it sends to a key of ours
(JWE, ``application/jose``). One that wants to be held to its word, and to
nobody else's, signs the message inside (a detached JWS in the header
``jws-signature``, or a JWS inside the JWE). Once it has registered a key, nothing of it comes by bus
unsigned: otherwise whoever can write to the topic would only leave the
signature out.

The evidence of a signed message is the message as it was signed, with its
signature and key, sealed under a message key of its own; the lineage of each
record that it made names it with its digest, so that the record's commitment
binds the signature.

Invariants:
    * the signature covers the bytes inside the encryption, which are those that records are cut from;
    * what cannot be opened or does not hold is refused, and kept as a dead letter, out of as much of its wrapping as
      came off: neither a claim that ends nor a key that is destroyed takes a letter's message with it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import msgspec
from blake3 import blake3
from msgspec import structs

from fhir_bridge.errors import Issue, RecordRefused
from fhir_bridge.lines.claims import CLAIM, Claims, claim_of
from fhir_bridge.lines.jobs import Job
from fhir_bridge.lines.keeping import KeptRecords, appended
from fhir_bridge.lines.media_types import declared_version, media_type
from fhir_bridge.lines.registry import Institution, Registry
from fhir_bridge.lines.versions import microseconds
from fhir_bridge.model.ingest import Change, Processed, Received, Signed
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.keys import KeyKind, KeyName, KeyStore
from fhir_bridge.ports.messages import MessageCrypto
from fhir_bridge.ports.vault import Document, Vault
from fhir_bridge.seal import open_blob, seal_blob

JOSE: Final = "application/jose"
SIGNATURE_RULE: Final = "message/signature"
"""Name of the step in lineage that says which signed message a record came in."""
SIGNED: Final = "signed-messages"
"""Message id → institution and sealed evidence, as MessagePack."""
SIGNED_AT: Final = "signed-messages-at"
"""``µs received/message id`` → institution."""

_Made = TypeVar("_Made")
_PLAIN = "application/fhir+json"
_QUICK_BYTES = 16 << 10
"""Messages up to here are opened at once; a thread's hand-over would cost more."""
_UNSIGNED = Issue(
    "error", "security", "this institution signs what it sends: put a detached JWS into the header jws-signature"
)
_IN_CLEAR = Issue(
    "error", "security", "this institution encrypts what it sends: send a JWE with the content type application/jose"
)
_NO_RELEASE = Issue("error", "not-supported", "the header fhir-version must be STU3, R4, R4B or R5, or be left out")


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """Evidence that somebody signed a message: the exact bytes, the detached JWS over them, the public JWK."""

    institution: str
    received_at_us: int
    content_type: str
    signature: str
    key: dict[str, Any]
    content: bytes


class Unwrapping:
    """Opens messages on their way to the rooms; everything that did not come wrapped goes straight on."""

    def __init__(
        self,
        *,
        vault: Vault,
        keys: KeyStore,
        registry: Registry,
        claims: Claims,
        crypto: MessageCrypto,
        randomness: Randomness,
    ) -> None:
        self._vault = vault
        self._keys = keys
        self._registry = registry
        self._claims = claims
        self._crypto = crypto
        self._randomness = randomness
        self._kids: dict[KeyName, str] = {}

    async def claimed(self, received: Received) -> Received:
        """Return the message that a record claims; any other message as it is.

        Raises:
            RecordRefused: Nothing that it claims is held.
            Unavailable: What it claims cannot be read now.
        """
        if received.interaction is not None or media_type(received.content_type) != CLAIM:
            return received
        kind, content = await self._claims.redeem(received)
        return replace(received, body=content, content_type=kind or _PLAIN)

    async def decrypted(self, received: Received) -> Received:
        """Return the message inside a JWE; any other message as it is.

        Raises:
            RecordRefused: It does not open, or is in the clear and its sender encrypts.
            Unavailable: The keys cannot be read now.
        """
        # A record without a value has nothing to encrypt, whatever its producer says of every record.
        if received.interaction is not None:
            return received
        if media_type(received.content_type) == JOSE:
            return await _in_its_time(received, self._decrypted)
        if received.must_be_encrypted:
            raise RecordRefused([_IN_CLEAR])
        return received

    async def signature(self, message: Received) -> Signed | None:
        """Return whose signature an opened message bears, None if it bears none and none is asked for.

        Raises:
            RecordRefused: The signature does not hold, or is missing where its sender signs.
        """
        if message.signature:
            return await _in_its_time(message, self._checked)
        if message.must_be_signed:
            raise RecordRefused([_UNSIGNED])
        return None

    def _decrypted(self, received: Received) -> Received:
        inside, signature = self._crypto.decrypt(received.content, self._secrets(received.institution)), ""
        if media_type(inside.content_type) == JOSE:
            signature, inside = self._crypto.detach(inside.content)
        return replace(
            received,
            body=inside.content,
            content_type=inside.content_type or _PLAIN,
            signature=signature or received.signature,
            must_be_encrypted=False,
        )

    def _checked(self, message: Received) -> Signed:
        content = _signed_bytes(message)
        keys = self._registry.institution(message.institution).signing_keys
        key = self._crypto.verify(message.signature, content, keys)
        identity = self._id(message.institution, message.signature, content)
        return Signed(identity, key, self._crypto.thumbprint(key))

    async def evidence(self, jobs: Iterable[Job]) -> list[Document]:
        """Return the documents that keep what was signed, of jobs that have changed a record.

        One that is kept already stays as it was when it first came.
        """
        signed: dict[str, tuple[Received, Signed]] = {}
        for job in jobs:
            if job.signed is not None and job.changed:
                signed.setdefault(job.signed.id, (job.message, job.signed))
        new = [each for each in signed.values() if not await self._is_kept(*each)]
        return await asyncio.to_thread(self._sealed, new) if new else []

    async def signed(self, message: str) -> SignedMessage | None:
        """Return a signed message, None if there is none of this id.

        Raises:
            KeyMissing: Its key was erased.
        """
        stored = await self._vault.document(SIGNED, message)
        if stored is None:
            return None
        institution, sealed = msgspec.msgpack.decode(stored, type=tuple[str, bytes])
        key = self._keys.get(_key_name(institution, message))
        return msgspec.msgpack.decode(open_blob(key, SIGNED, message, sealed), type=SignedMessage)

    async def all_signed(self) -> list[tuple[str, int, str]]:
        """Return ``(id, µs received, institution)`` of every signed message, oldest first."""
        found = await self._vault.documents(SIGNED_AT)
        return [(key.partition("/")[2], int(key.partition("/")[0]), name.decode()) for key, name in found]

    # --- the keys that senders encrypt to

    def receiving_key(self, institution: Institution) -> dict[str, Any] | None:
        """Return the public JWK that an institution encrypts to, None if it has none yet."""
        if not institution.receiving_keys:
            return None
        name = _receiving(institution.name, institution.receiving_keys[-1])
        return self._crypto.public_key(self._keys.get(name))

    def renewed(self, institution: Institution) -> Institution:
        """Return the institution with a new key to encrypt to; those before still open what is on its way."""
        number = (institution.receiving_keys or (0,))[-1] + 1
        self._keys.ensure([_receiving(institution.name, number)])
        return replace(institution, receiving_keys=(*institution.receiving_keys, number))

    def without_older(self, institution: Institution) -> Institution:
        """Return the institution with its newest key alone; call :meth:`destroy_older` once that is stored."""
        return replace(institution, receiving_keys=institution.receiving_keys[-1:])

    def destroy_older(self, institution: Institution) -> None:
        """Destroy every key before the newest: what was encrypted to them opens no more, whoever has a copy."""
        newest = (institution.receiving_keys or (1,))[-1]
        self._keys.erase_all([_receiving(institution.name, number) for number in range(1, newest)])

    def _secrets(self, institution: str) -> dict[str, bytes]:
        numbers = self._registry.institution(institution).receiving_keys
        # One that is being destroyed, or was lost, keeps nobody from using another.
        found = {name: self._keys.find(name) for name in (_receiving(institution, number) for number in numbers)}
        return {self._kid(name, secret): secret for name, secret in found.items() if secret is not None}

    def _kid(self, name: KeyName, secret: bytes) -> str:
        """Return a key's ``kid``, which is remembered; the secret is not, so that destroying it destroys it."""
        if name not in self._kids:
            self._kids[name] = str(self._crypto.public_key(secret)["kid"])
        return self._kids[name]

    async def _is_kept(self, message: Received, signed: Signed) -> bool:
        stored = await self._vault.document(SIGNED, signed.id)
        return stored is not None and self._keys.find(_key_name(message.institution, signed.id)) is not None

    def _sealed(self, new: Sequence[tuple[Received, Signed]]) -> list[Document]:
        names = [_key_name(message.institution, signed.id) for message, signed in new]
        keys = self._keys.ensure(names)
        documents: list[Document] = []
        for name, (message, signed) in zip(names, new, strict=True):
            documents += self._kept(message, signed, keys[name])
        return documents

    def _kept(self, message: Received, signed: Signed, key: bytes) -> Sequence[Document]:
        at = microseconds(message.received_at)
        kept = SignedMessage(
            message.institution, at, message.content_type, message.signature, dict(signed.key), _signed_bytes(message)
        )
        sealed = seal_blob(key, SIGNED, signed.id, msgspec.msgpack.encode(kept), self._randomness)
        return (
            Document(SIGNED, signed.id, msgspec.msgpack.encode((message.institution, sealed))),
            Document(SIGNED_AT, f"{at:020d}/{signed.id}", message.institution.encode()),
        )

    def _id(self, institution: str, signature: str, content: bytes) -> str:
        name = KeyName(KeyKind.INSTITUTION, institution)
        hasher = blake3(b"fhir-bridge/signed-message/1\0", key=self._keys.ensure([name])[name])
        hasher.update(signature.encode() + b"\0")
        hasher.update(content)
        return hasher.digest()[:16].hex()


async def _in_its_time(message: Received, step: Callable[[Received], _Made]) -> _Made:
    """Take a step at once if the message is small, else in a thread."""
    if len(message.body) <= _QUICK_BYTES:
        return step(message)
    return await asyncio.to_thread(step, message)


def attested(processed: Processed, message: Received, signed: Signed | None) -> Processed:
    """Return what the rooms made of a message, each record with the signature that it came under in its lineage."""
    if signed is None:
        return replace(processed, opened=message)
    after = {
        "message": signed.id,
        "sha256": hashlib.sha256(_signed_bytes(message)).hexdigest(),
        "key": signed.thumbprint,
    }
    change = Change("", None, after, SIGNATURE_RULE, "the sender's signature over the whole message holds")
    entry = msgspec.json.encode(change)
    if isinstance(processed.records, KeptRecords):
        processed.records.add_to_lineage(entry)
        return replace(processed, opened=message, signed=signed)
    records = tuple(structs.replace(each, lineage=appended(each.lineage, entry)) for each in processed.records)
    return replace(processed, records=records, opened=message, signed=signed)


def as_declared(message: Received) -> Received:
    """Return a message in the release that its content type declares, if it declares one.

    Raises:
        RecordRefused: There is no such release, or none that the header names and nothing else does.
    """
    declared = declared_version(message.content_type)
    if declared is None and message.has_unknown_release:
        raise RecordRefused([_NO_RELEASE])
    return replace(message, fhir_version=declared or message.fhir_version)


def weight_of(received: Received, max_message_bytes: int) -> int:
    """Return how many bytes a message will be in memory: a claim tells, and is refused if that does not hold.

    One for more than a message may hold is refused unread.
    """
    claim = claim_of(received) if media_type(received.content_type) == CLAIM else None
    return len(received.body) if claim is None or claim.bytes > max_message_bytes else claim.bytes


def _signed_bytes(message: Received) -> bytes:
    """Return what a signature covers: the message; for one without a value its key, which says what is deleted."""
    asked = message.interaction
    return message.content if asked is None or asked.method != "DELETE" else f"{asked.type}/{asked.id}".encode()


def _receiving(institution: str, number: int) -> KeyName:
    return KeyName(KeyKind.RECEIVING, institution, str(number))


def _key_name(institution: str, message: str) -> KeyName:
    return KeyName(KeyKind.MESSAGE, institution, f"signed/{message}")
