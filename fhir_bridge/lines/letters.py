"""Dead letters: what came by bus and could not be taken, and what our rules cannot convert yet.

The vault holds the truth. A letter keeps the whole message sealed, so that it
can be sent through the line again once the sender or a rule has been mended;
a replay of what was taken meanwhile changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
from blake3 import blake3

from fhir_bridge.errors import Issue
from fhir_bridge.lines.versions import microseconds
from fhir_bridge.model.ingest import Processed, Quarantined, Received, Refusal
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.keys import KeyKind, KeyName, KeyStore
from fhir_bridge.ports.vault import SealedLetter
from fhir_bridge.seal import open_blob, seal_blob

QUARANTINED = "quarantined"
_DOMAIN = "letter"


@dataclass(frozen=True, slots=True)
class Finding:
    """Issues of one entry of the message; ``index`` is None when they concern the whole message."""

    index: int | None
    issues: tuple[Issue, ...]


@dataclass(frozen=True, slots=True)
class Letter:
    """An opened letter: the message as received and why it, or which entries of it, could not be taken."""

    received: Received
    findings: tuple[Finding, ...]


def letters_of(received: Received, processed: Processed) -> list[tuple[str, Letter]]:
    """Return ``(reason, letter)`` for what a message leaves behind: at most one refusal and one quarantine."""
    found: list[tuple[str, Letter]] = []
    refused = [Finding(None, processed.refused)] if processed.refused else _findings(processed.refusals)
    if refused:
        found.append((refused[0].issues[0].code, Letter(received, tuple(refused))))
    if processed.quarantined:
        found.append((QUARANTINED, Letter(received, tuple(_findings(processed.quarantined)))))
    return found


def seal_letter(keys: KeyStore, randomness: Randomness, reason: str, letter: Letter) -> SealedLetter:
    """Seal a letter under a message key of its own; the same message gives the same letter id."""
    received = letter.received
    identity = letter_id(keys, reason, received)
    name = KeyName(KeyKind.MESSAGE, received.institution, identity)
    envelope = seal_blob(keys.ensure([name])[name], _DOMAIN, identity, msgspec.msgpack.encode(letter), randomness)
    return SealedLetter(identity, received.institution, reason, microseconds(received.received_at), envelope)


def open_letter(keys: KeyStore, sealed: SealedLetter) -> Letter:
    """Open a letter.

    Raises:
        KeyMissing: Its message key was erased.
        IntegrityBroken: The envelope does not open.
    """
    key = keys.get(KeyName(KeyKind.MESSAGE, sealed.institution, sealed.id))
    return msgspec.msgpack.decode(open_blob(key, _DOMAIN, sealed.id, sealed.envelope), type=Letter)


def settled(sealed: SealedLetter) -> SealedLetter:
    """Return the letter marked as replayed with success."""
    return replace(sealed, status="replayed")


def letter_id(keys: KeyStore, reason: str, received: Received) -> str:
    """Return an id that a redelivery of the same message gives again: keyed over content and how it is to be read.

    The signature is part of it: a copy without it, which anybody can make who writes to the topic, never takes the
    place of what was signed.
    """
    name = KeyName(KeyKind.INSTITUTION, received.institution)
    hasher = blake3(b"fhir-bridge/letter/2\0" + reason.encode() + b"\0", key=keys.ensure([name])[name])
    how = (received.interaction, received.fhir_version, received.content_type, received.signature)
    hasher.update(msgspec.msgpack.encode(how))
    hasher.update(received.body)
    return hasher.digest()[:16].hex()


def _findings(entries: Sequence[Refusal | Quarantined]) -> list[Finding]:
    return [Finding(entry.index, entry.issues) for entry in entries]
