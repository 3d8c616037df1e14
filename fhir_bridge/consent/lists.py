"""The consents of one chart as a list that is sealed in the vault and hashed on the ledger.

For the grant line, deciding and auditors. The ledger holds only the hash of the
list; hiding or altering one consent changes it, so omission shows
(docs/consent.md has the bytes).

Invariants:
    * one entry per consent id, sorted by id: one list has one encoding and one hash;
    * a policy's commitment is salted, so that its hash tells nothing to who lacks the salt.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cbor2

from fhir_bridge.consent.policy import Interval
from fhir_bridge.errors import IntegrityBroken

SALT_BYTES = 32

_COMMITMENT = b"fhir-bridge/consent-policy/1\0"
_LIST = b"fhir-bridge/consent-list/1\0"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ConsentEntry:
    """One consent as it counts now.

    Attributes:
        id: FHIR id of the Consent.
        version: Its ``meta.versionId``.
        status: FHIR status; only ``active`` counts.
        valid: When it is in force, ``[low, high)`` µs since 1970 UTC.
        salt: 32 random bytes of the commitment.
        body: Exact bytes of the Consent as stored.
        signed_at_us: When the change was signed.
        charts: Charts that were linked when it was signed; a permit reaches no other.
    """

    id: str
    version: str
    status: str
    valid: Interval
    salt: bytes
    body: bytes
    signed_at_us: int
    charts: tuple[str, ...]

    @property
    def commitment(self) -> bytes:
        """SHA-256(domain ‖ salt ‖ SHA-256(body)), 32 bytes."""
        return policy_commitment(self.salt, self.body)

    def is_in_force(self, instant_us: int) -> bool:
        """Tell whether it counts at an instant."""
        return self.status == "active" and self.valid[0] <= instant_us < self.valid[1]


@dataclass(frozen=True, slots=True)
class ConsentList:
    """All consents of one chart that one key may change."""

    entries: tuple[ConsentEntry, ...] = ()

    def __post_init__(self) -> None:
        ids = [entry.id for entry in self.entries]
        if ids != sorted(set(ids)):
            object.__setattr__(self, "entries", tuple(sorted(self.entries, key=lambda entry: entry.id)))
        if len(set(ids)) != len(ids):
            raise ValueError("two entries with one id")

    def with_entry(self, entry: ConsentEntry) -> ConsentList:
        """Return the list with one consent added or replaced."""
        return ConsentList((*(each for each in self.entries if each.id != entry.id), entry))

    def find(self, consent_id: str) -> ConsentEntry | None:
        """Return the entry of a consent, or None."""
        return next((entry for entry in self.entries if entry.id == consent_id), None)

    def list_hash(self) -> bytes:
        """Return the hash that goes to the ledger, 32 bytes."""
        rows = [[e.id, e.version, e.status, list(e.valid), e.commitment] for e in self.entries]
        return hashlib.sha256(_LIST + cbor2.dumps(rows, canonical=True)).digest()

    @property
    def weight(self) -> int:
        """How much memory the list takes: one for each consent and for each KiB of its bytes."""
        return sum(1 + (len(entry.body) >> 10) for entry in self.entries)

    def encode(self) -> bytes:
        """Return the bytes to seal."""
        rows = [
            [e.id, e.version, e.status, list(e.valid), e.salt, e.body, e.signed_at_us, list(e.charts)]
            for e in self.entries
        ]
        return cbor2.dumps([_FORMAT, rows], canonical=True)

    @classmethod
    def decode(cls, data: bytes) -> ConsentList:
        """Read what :meth:`encode` wrote.

        Raises:
            IntegrityBroken: The bytes are no consent list of a known format.
        """
        try:
            number, rows = cbor2.loads(data)
            if number != _FORMAT:
                raise IntegrityBroken("consent list of an unknown format")
            decoded = cls(
                tuple(
                    ConsentEntry(i, version, status, (low, high), salt, body, at, tuple(charts))
                    for i, version, status, (low, high), salt, body, at, charts in rows
                )
            )
        except (ValueError, TypeError, cbor2.CBORDecodeError) as broken:
            raise IntegrityBroken("consent list does not decode") from broken
        if decoded.encode() != data:
            raise IntegrityBroken("consent list is not in its one encoding")
        return decoded


def policy_commitment(salt: bytes, body: bytes) -> bytes:
    """Return the salted digest of a Consent's bytes.

    Raises:
        ValueError: The salt is not 32 bytes, which would make the parts ambiguous.
    """
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes")
    return hashlib.sha256(_COMMITMENT + salt + hashlib.sha256(body).digest()).digest()
