"""Check Merkle proofs; hold no tree and do no I/O.

A proof travels to somebody who trusts neither us nor the network, so this
module must stay small enough to read in one sitting and imports only hashing
and errors.

History proofs follow RFC 9162 sections 2.1.3 and 2.1.4 over SHA-256. State
proofs speak of a compact sparse tree of 256-bit paths: a subtree that holds one
leaf *is* that leaf, so a path is absent when the walk along its bits ends at an
empty subtree or at another leaf.

Invariants:
    * a check that fails raises; no function here returns a bool;
    * a proof with spare hashes is refused, not trimmed.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ledger_core.errors import ProofInvalid
from ledger_core.hashing import (
    EMPTY_LOG,
    EMPTY_STATE,
    HASH_BYTES,
    TREE_SHA256,
    node_hash,
    state_leaf_hash,
    state_node_hash,
    tree_suite,
)

STATE_BITS = 8 * HASH_BYTES
_SIZES = 1 << 64


@dataclass(frozen=True, slots=True)
class StateProof:
    """Siblings along a path, root's children first, and the leaf met if it is another one.

    ``neighbour`` is (path, value hash) of the leaf that stands where the absent
    path would stand; None when that place is empty or the path is present.
    """

    siblings: tuple[bytes, ...]
    neighbour: tuple[bytes, bytes] | None = None


def verify_inclusion(leaf: bytes, *, index: int, tree_size: int, path: Sequence[bytes], root: bytes) -> None:
    """Check that ``leaf`` is entry ``index`` of the tree whose head is ``root``.

    Follows RFC 9162 section 2.1.3.2; one hash per path element.

    Args:
        leaf: Leaf hash (32 bytes), not the entry itself.
        index: Position of the entry, counted from 0.
        tree_size: Number of entries under ``root``.
        path: Sibling hashes, lowest level first.
        root: Root hash from a checkpoint the caller has verified.

    Raises:
        ProofInvalid: The path is too short, too long, or leads elsewhere.
    """
    _check_hashes(path)
    if not 0 <= index < tree_size:
        raise ProofInvalid(f"index {index} lies outside a tree of {tree_size}")
    node, last, current = index, tree_size - 1, leaf
    for sibling in path:
        if last == 0:
            raise ProofInvalid("path is longer than the tree is high")
        if node & 1 or node == last:
            current = node_hash(sibling, current)
            # A right-edge node without a sibling was promoted unchanged, so
            # climb until it is a right child again.
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            current = node_hash(current, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise ProofInvalid("path stops below the root")
    if current != root:
        raise ProofInvalid("path leads to another root")


def verify_multi_inclusion(
    leaves: Mapping[int, bytes], *, tree_size: int, path: Sequence[bytes], root: bytes
) -> None:
    """Check that every leaf is the entry at its index of the tree whose head is ``root``.

    The path holds, from left to right, the root of each largest subtree without an asked leaf,
    as the recursion of RFC 9162 section 2.1.1 meets them. Cost is one hash per path element and leaf.

    Args:
        leaves: Leaf hashes (32 bytes) by index, not the entries themselves; at least one.
        tree_size: Number of entries under ``root``, below 2**64.
        path: Hashes from left to right.
        root: Root hash from a checkpoint the caller has verified.

    Raises:
        ProofInvalid: Nothing was asked, or the path is too short, too long, or leads elsewhere.
    """
    _check_hashes(path)
    _check_hashes(tuple(leaves.values()))
    asked = sorted(leaves)
    # The bound keeps the recursion below 64 levels, whatever a forged size says.
    if not asked or tree_size >= _SIZES or not 0 <= asked[0] <= asked[-1] < tree_size:
        raise ProofInvalid(f"the indices must lie, one at least, inside a tree of {tree_size}")
    rest = iter(path)

    def fold(begin: int, end: int, first: int, last: int) -> bytes:
        if first == last:
            return _next_hash(rest)
        if end - begin == 1:
            return leaves[begin]
        middle = begin + (1 << ((end - begin - 1).bit_length() - 1))
        cut = bisect_left(asked, middle, first, last)
        left = fold(begin, middle, first, cut)
        return node_hash(left, fold(middle, end, cut, last))

    found = fold(0, tree_size, 0, len(asked))
    if next(rest, None) is not None:
        raise ProofInvalid("path has spare hashes")
    if found != root:
        raise ProofInvalid("path leads to another root")


def _next_hash(rest: Iterator[bytes]) -> bytes:
    found = next(rest, None)
    if found is None:
        raise ProofInvalid("path is too short")
    return found


def verify_consistency(
    *, old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]
) -> None:
    """Check that the newer tree begins with every entry of the older one.

    Follows RFC 9162 section 2.1.4.2. Both roots must come from checkpoints the
    caller has verified.

    Raises:
        ProofInvalid: The trees are not consistent, or the path does not show it.
    """
    _check_hashes(path)
    if not 0 <= old_size <= new_size:
        raise ProofInvalid(f"a tree of {new_size} cannot continue one of {old_size}")
    if old_size in (0, new_size):
        if path:
            raise ProofInvalid("path must be empty for equal or empty trees")
        if old_root != (EMPTY_LOG if old_size == 0 else new_root):
            raise ProofInvalid("roots of equal trees differ")
        return
    _climb_consistency(old_size, old_root, new_size, new_root, list(path))


def _climb_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: list[bytes]) -> None:
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise ProofInvalid("path is empty")
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    older = newer = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofInvalid("path is longer than the tree is high")
        if node & 1 or node == last:
            older, newer = node_hash(sibling, older), node_hash(sibling, newer)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            newer = node_hash(newer, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise ProofInvalid("path stops below the root")
    if older != old_root or newer != new_root:
        raise ProofInvalid("path leads to other roots")


def verify_presence(*, path: bytes, value: bytes, proof: StateProof, root: bytes, suite: int = TREE_SHA256) -> None:
    """Check that the state under ``root`` holds exactly ``value`` at ``path`` (32 bytes).

    Raises:
        ProofInvalid: It does not, or the proof does not show it.
        NotCanonical: The suite is unknown.
    """
    if proof.neighbour is not None:
        raise ProofInvalid("a proof of presence names no neighbour")
    leaf = state_leaf_hash(path, tree_suite(suite)(value), suite)
    _climb_state(path, leaf, proof, root, suite)


def verify_absence(*, path: bytes, proof: StateProof, root: bytes, suite: int = TREE_SHA256) -> None:
    """Check that the state under ``root`` holds nothing at ``path`` (32 bytes).

    Raises:
        ProofInvalid: It holds something, or the proof does not show that it does not.
        NotCanonical: The suite is unknown.
    """
    if proof.neighbour is None:
        _climb_state(path, EMPTY_STATE, proof, root, suite)
        return
    other, value_hash = proof.neighbour
    _check_hashes((other, value_hash))
    depth = len(proof.siblings)
    if other == path:
        raise ProofInvalid("the neighbour is the path itself")
    if depth > STATE_BITS or _prefix(other, depth) != _prefix(path, depth):
        raise ProofInvalid("the neighbour does not stand on the way to the path")
    _climb_state(path, state_leaf_hash(other, value_hash, suite), proof, root, suite)


def _climb_state(path: bytes, current: bytes, proof: StateProof, root: bytes, suite: int) -> None:
    _check_hashes((path, *proof.siblings))
    depth = len(proof.siblings)
    if depth > STATE_BITS:
        raise ProofInvalid("path is longer than the tree is high")
    bits = int.from_bytes(path, "big")
    for level in range(depth - 1, -1, -1):
        sibling = proof.siblings[level]
        if bits >> (STATE_BITS - 1 - level) & 1:
            current = state_node_hash(sibling, current, suite)
        else:
            current = state_node_hash(current, sibling, suite)
    if current != root:
        raise ProofInvalid("path leads to another root")
    # A subtree of one leaf is that leaf and one of none is empty, so no tree has a node above either.
    if depth and proof.siblings[-1] == EMPTY_STATE:
        raise ProofInvalid("path goes deeper than a tree does")


def _prefix(path: bytes, bits: int) -> int:
    return int.from_bytes(path, "big") >> (STATE_BITS - bits)


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(item) != HASH_BYTES for item in hashes):
        raise ProofInvalid("a hash must be 32 bytes")
