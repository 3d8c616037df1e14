"""Chain the audit entries of a chart, and blind the heads that go to the ledger.

For the lines and for auditors. Each entry's commitment chains on the one before,
so dropping, reordering or back-dating a committed entry breaks the chain. Once
per audit epoch the heads of all chains go to the ledger, blinded and padded, so
that its members learn neither charts nor how many of them were read
(docs/formats/audit.md).

Invariants:
    * counters start at 1 and have no gaps;
    * a blinded head cannot be linked to the same chain's head in another epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from fhir_bridge.errors import IntegrityBroken
from fhir_bridge.ports.ambient import Randomness
from ledger_core import MerkleBatch

GENESIS = bytes(32)
"""Previous head of a chain's first entry."""

SALT_BYTES = 32
MIN_LEAVES = 16
"""An epoch shows at least this many leaves, read or not."""

_ENTRY = b"fhir-bridge/audit-entry/1\0"
_HEAD = b"fhir-bridge/audit-head/1\0"
_BLIND = b"fhir-bridge/audit-blind/1\0"


@dataclass(frozen=True, slots=True)
class BlindedHead:
    """How one chain's head can be found in an epoch: leaf ``index``, opened by ``salt``."""

    chain: str
    counter: int
    head: bytes
    salt: bytes
    index: int


@dataclass(frozen=True, slots=True)
class AccessEpoch:
    """What the ledger's access transaction holds of one epoch, and what opens it."""

    root: bytes
    leaves: tuple[bytes, ...]
    openings: tuple[BlindedHead, ...]

    @property
    def count(self) -> int:
        """Number of leaves: a power of two."""
        return len(self.leaves)


def entry_commitment(salt: bytes, event: bytes) -> bytes:
    """Return the salted digest of an AuditEvent's exact bytes: SHA-256(domain ‖ salt ‖ SHA-256(event))."""
    return hashlib.sha256(_ENTRY + _exactly_32(salt) + hashlib.sha256(event).digest()).digest()


def chain_head(previous: bytes, counter: int, commitment: bytes) -> bytes:
    """Return the head after an entry: SHA-256(domain ‖ previous ‖ counter as 8 bytes ‖ commitment)."""
    if counter < 1:
        raise ValueError("counters start at 1")
    return hashlib.sha256(
        _HEAD + _exactly_32(previous) + counter.to_bytes(8, "big") + _exactly_32(commitment)
    ).digest()


def verify_chain(commitments: Sequence[bytes], head: bytes) -> None:
    """Check that a chain of entries, oldest first, leads to a head taken from the ledger.

    Raises:
        IntegrityBroken: An entry is missing, added, changed or out of order.
    """
    reached = GENESIS
    for counter, commitment in enumerate(commitments, start=1):
        reached = chain_head(reached, counter, commitment)
    if reached != head:
        raise IntegrityBroken("the audit chain does not lead to its anchored head")


def access_epoch(heads: Sequence[tuple[str, int, bytes]], randomness: Randomness) -> AccessEpoch:
    """Blind, pad and permute the heads of one epoch; without any head it is all padding.

    Args:
        heads: ``(chain, counter, head)`` of every chain.
    """
    size = max(MIN_LEAVES, 1 << (max(len(heads), 1) - 1).bit_length())
    drawn = places(len(heads), size, randomness)
    leaves = [randomness.token(32) for _ in range(size)]
    openings = []
    for (chain, counter, head), index in zip(heads, drawn, strict=True):
        salt = randomness.token(SALT_BYTES)
        leaves[index] = blinded(salt, chain, counter, head)
        openings.append(BlindedHead(chain, counter, head, salt, index))
    return AccessEpoch(MerkleBatch(leaves).root, tuple(leaves), tuple(openings))


def blinded(salt: bytes, chain: str, counter: int, head: bytes) -> bytes:
    """Return the leaf of a head: SHA-256(domain ‖ salt ‖ head ‖ counter as 8 bytes ‖ chain)."""
    parts = _exactly_32(salt) + _exactly_32(head) + counter.to_bytes(8, "big") + chain.encode()
    return hashlib.sha256(_BLIND + parts).digest()


def places(count: int, size: int, randomness: Randomness) -> list[int]:
    """Return ``count`` different places below ``size`` at random (Fisher-Yates; bias below 2^-40)."""
    free = list(range(size))
    drawn = randomness.token(8 * max(count, 1))
    for i in range(count):
        j = i + int.from_bytes(drawn[8 * i : 8 * i + 8], "big") % (size - i)
        free[i], free[j] = free[j], free[i]
    return free[:count]


def _exactly_32(value: bytes) -> bytes:
    if len(value) != 32:
        raise ValueError("a salt or digest has 32 bytes")
    return value
