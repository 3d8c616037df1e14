"""One epoch's decisions as a tree to anchor: shuffled, and padded so that their number stays coarse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.proof.chain import MIN_LEAVES, places
from ledger_core import MerkleBatch


@dataclass(frozen=True, slots=True)
class DecisionEpoch:
    """Leaves in their order, and their root."""

    root: bytes
    leaves: tuple[bytes, ...]

    @property
    def count(self) -> int:
        """Number of leaves: a power of two, at least :data:`MIN_LEAVES`."""
        return len(self.leaves)


def decision_epoch(commitments: Sequence[bytes], randomness: Randomness) -> DecisionEpoch:
    """Put commitments at random places among random leaves; without any it is all padding."""
    size = max(MIN_LEAVES, 1 << (max(len(commitments), 1) - 1).bit_length())
    leaves = [randomness.token(32) for _ in range(size)]
    for place, commitment in zip(places(len(commitments), size, randomness), commitments, strict=True):
        leaves[place] = commitment
    return DecisionEpoch(MerkleBatch(leaves).root, tuple(leaves))
