"""Salted commitments to a record, and openings that show some of it.

A commitment binds named facts and named parts. A part enters as s(x) =
SHA-256(domain ‖ salt of its own ‖ digest of content), so a holder who may read
only one part opens that one and learns nothing about the others, whose
contents may be guessable. The commitment's own salt does the same for the facts.

    commitment = SHA-256(domain ‖ salt ‖ CBOR{suite, facts, parts})

The suite is the one that digests contents (1 BLAKE3-256, 2 SHA-256); being
committed itself, it cannot be swapped.

Invariants:
    * an opening leads to exactly one commitment;
    * a part that is not opened shows 32 bytes that tell nothing without its salt.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from ledger_core.codec import encode
from ledger_core.errors import ReceiptInvalid
from ledger_core.hashing import CONTENT_SUITES, HASH_BYTES, SUITE_BLAKE3, content_digest, tagged_hash

SALT_BYTES: Final = 32

_COMMIT_DOMAIN: Final = "ledger-core/commitment/v1"
_PART_DOMAIN: Final = "ledger-core/part/v1"

Fact: TypeAlias = str | int | bytes


@dataclass(frozen=True, slots=True)
class OpenPart:
    """A part whose content the holder may read: its salt and the digest of its content."""

    salt: bytes
    content: bytes

    @classmethod
    def of(cls, salt: bytes, content: bytes, suite: int = SUITE_BLAKE3) -> "OpenPart":
        """Open a part by its salt and its whole content, digested under ``suite``."""
        return cls(salt, content_digest(content, suite))

    def digest(self) -> bytes:
        """Return s(x), what the commitment binds."""
        return _part_digest(self.salt, self.content)


@dataclass(frozen=True, slots=True)
class SealedPart:
    """A part that stays closed: only what the commitment binds."""

    sealed: bytes

    def digest(self) -> bytes:
        return self.sealed


@dataclass(frozen=True, slots=True)
class Opening:
    """Salt, facts and parts of one record; the parts opened or sealed."""

    salt: bytes
    facts: Mapping[str, Fact]
    parts: Mapping[str, OpenPart | SealedPart]
    suite: int = SUITE_BLAKE3

    def __post_init__(self) -> None:
        hashes = [self.salt]
        for part in self.parts.values():
            hashes += [part.sealed] if isinstance(part, SealedPart) else [part.salt, part.content]
        if self.suite not in CONTENT_SUITES or any(len(item) != HASH_BYTES for item in hashes):
            raise ReceiptInvalid("an opening has an unknown suite, or a salt or digest that is not 32 bytes")

    def commitment(self) -> bytes:
        """Return the commitment that this opening leads to."""
        digests = {name: part.digest() for name, part in self.parts.items()}
        return commit(self.salt, self.facts, digests, self.suite)

    def sealing(self, *names: str) -> "Opening":
        """Return the same opening with these parts closed."""
        parts = {name: SealedPart(part.digest()) if name in names else part for name, part in self.parts.items()}
        return Opening(self.salt, self.facts, parts, self.suite)


def new_salt() -> bytes:
    """Return a fresh salt of 32 bytes from the system's randomness."""
    return secrets.token_bytes(SALT_BYTES)


def part_digest(salt: bytes, content: bytes, suite: int = SUITE_BLAKE3) -> bytes:
    """Return s(x) for a part's content under a salt of its own (32 bytes).

    Raises:
        NotCanonical: The suite is unknown.
    """
    return _part_digest(salt, content_digest(content, suite))


def commit(
    salt: bytes, facts: Mapping[str, Fact], part_digests: Mapping[str, bytes], suite: int = SUITE_BLAKE3
) -> bytes:
    """Return the commitment (32 bytes) to facts and parts.

    Args:
        salt: 32 random bytes, never used for another record.
        facts: Names and values; text, 64-bit integers or bytes.
        part_digests: For each part what ``part_digest`` returned under the same suite.
        suite: Number of the suite that digests contents.

    Raises:
        NotCanonical: A fact has a type or size that cannot be encoded.
        ReceiptInvalid: The suite is unknown, or a salt or part digest is not 32 bytes.
    """
    if suite not in CONTENT_SUITES:
        raise ReceiptInvalid(f"unknown content digest suite {suite}")
    if len(salt) != SALT_BYTES or any(len(item) != HASH_BYTES for item in part_digests.values()):
        raise ReceiptInvalid("a salt or part digest is not 32 bytes")
    body = encode({"facts": facts, "parts": part_digests, "suite": suite})
    return tagged_hash(_COMMIT_DOMAIN, salt, body)


def _part_digest(salt: bytes, content: bytes) -> bytes:
    return tagged_hash(_PART_DOMAIN, salt, content)
