"""Build the Merkle batch that stands for one commit of the vault.

For the ingest line. The ledger shows a batch's root and padded size to every
member, so a batch mixes charts, is permuted at random and padded with dummy
leaves to a power of two: neither order nor exact count tells anything about a
patient (docs/formats/batches.md).

Invariants:
    * every batch holds exactly one salted leaf over the vault's journal head,
      which is how a rolled-back vault is found;
    * dummy leaves cannot be told from commitments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.vault import Batch
from ledger_core import MerkleBatch

SALT_BYTES = 32
_HEAD_DOMAIN = b"fhir-bridge/journal-head/1\0"


def make_batch(
    commitments: Sequence[bytes],
    journal_head: bytes,
    *,
    sign: Callable[[bytes, int], bytes],
    randomness: Randomness,
) -> Batch:
    """Permute, pad and sign a batch.

    Args:
        commitments: 32 bytes each, in any order.
        journal_head: Head of the vault's journal after this commit.
        sign: Gives the signed ledger envelope for a root and a leaf count.
        randomness: Source of salts, dummies and the permutation.
    """
    salt = randomness.token(SALT_BYTES)
    head = head_leaf(salt, journal_head)
    leaves = [*commitments, head]
    size = 1 << (len(leaves) - 1).bit_length()
    leaves += [randomness.token(32) for _ in range(size - len(leaves))]
    _shuffle(leaves, randomness)
    root = MerkleBatch(leaves).root
    return Batch(
        root=root,
        leaves=tuple(leaves),
        envelope=sign(root, size),
        head_salt=salt,
        head_index=leaves.index(head),
    )


def head_leaf(salt: bytes, journal_head: bytes) -> bytes:
    """Return the salted leaf over a journal head: SHA-256(domain ‖ salt ‖ head)."""
    return hashlib.sha256(_HEAD_DOMAIN + salt + journal_head).digest()


def _shuffle(items: list[bytes], randomness: Randomness) -> None:
    """Fisher-Yates over 64-bit draws; the bias for lists this short is below 2^-40."""
    draws = randomness.token(8 * len(items))
    for i in range(len(items) - 1, 0, -1):
        j = int.from_bytes(draws[8 * i : 8 * i + 8], "big") % (i + 1)
        items[i], items[j] = items[j], items[i]
