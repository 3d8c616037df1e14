"""Edges of proof checking that mutation testing found unstated; trees from their plain definitions."""

import hashlib
from typing import Final

import pytest

from ledger_core.errors import ProofInvalid
from ledger_core.hashing import leaf_hash, node_hash
from ledger_core.proofs import (
    StateProof,
    verify_absence,
    verify_consistency,
    verify_inclusion,
    verify_multi_inclusion,
    verify_presence,
)
from tests.support.naive_trees import hashes_root, state_root

LEAVES: Final = [leaf_hash(bytes([number])) for number in range(8)]
EMPTY: Final = hashlib.sha256(b"").digest()


@pytest.mark.parametrize("bad", [b"", bytes(31), bytes(33), LEAVES[0] + LEAVES[1]])
def test_consistency_takes_hashes_of_32_bytes_only(bad: bytes) -> None:
    # Under roots that would fit the path, so that only its form is wrong.
    with pytest.raises(ProofInvalid, match="32 bytes"):
        verify_consistency(old_size=1, old_root=LEAVES[0], new_size=2, new_root=node_hash(LEAVES[0], bad), path=[bad])


@pytest.mark.parametrize("bad", [b"", bytes(31), bytes(33)])
def test_many_leaves_and_their_path_are_hashes_of_32_bytes(bad: bytes) -> None:
    with pytest.raises(ProofInvalid, match="32 bytes"):
        verify_multi_inclusion({0: bad}, tree_size=1, path=[], root=bad)
    with pytest.raises(ProofInvalid, match="32 bytes"):
        verify_multi_inclusion({0: LEAVES[0]}, tree_size=2, path=[bad], root=node_hash(LEAVES[0], bad))


@pytest.mark.parametrize("bad", [b"", bytes(31), bytes(33)])
def test_a_neighbour_is_two_hashes_of_32_bytes(bad: bytes) -> None:
    path, other = bytes(32), b"\xff" * 32
    for neighbour in ((bad, bytes(32)), (other, bad)):
        root = hashlib.sha256(b"\x10" + neighbour[0] + neighbour[1]).digest()
        with pytest.raises(ProofInvalid, match="32 bytes"):
            verify_absence(path=path, proof=StateProof((), neighbour), root=root)


@pytest.mark.parametrize("old_size", [-1, -2, -4])
def test_no_tree_is_smaller_than_the_empty_one(old_size: int) -> None:
    with pytest.raises(ProofInvalid, match="cannot continue"):
        verify_consistency(old_size=old_size, old_root=EMPTY, new_size=2, new_root=EMPTY, path=[LEAVES[0]])
    with pytest.raises(ProofInvalid, match="cannot continue"):
        verify_consistency(old_size=old_size, old_root=EMPTY, new_size=old_size, new_root=EMPTY, path=[])


@pytest.mark.parametrize(("tree_size", "is_allowed"), [(2**64 - 1, True), (2**64, False), (2**65, False)])
def test_many_leaves_are_proven_below_two_to_the_64(tree_size: int, is_allowed: bool) -> None:
    # A path of one hash too few ends in its own refusal once the size has been accepted.
    with pytest.raises(ProofInvalid, match="short" if is_allowed else "inside a tree"):
        verify_multi_inclusion({0: LEAVES[0]}, tree_size=tree_size, path=[LEAVES[1]], root=LEAVES[0])


@pytest.mark.parametrize("asked", [-1, 2, 3])
def test_no_leaf_of_many_lies_outside_the_tree(asked: int) -> None:
    root = node_hash(LEAVES[0], LEAVES[1])
    with pytest.raises(ProofInvalid, match="inside a tree"):
        verify_multi_inclusion({0: LEAVES[0], asked: LEAVES[1]}, tree_size=2, path=[], root=root)


@pytest.mark.parametrize("size", range(1, 9))
def test_every_leaf_of_every_small_tree_is_found_with_the_definitions_path(size: int) -> None:
    def path_of(leaves: list[bytes], index: int) -> list[bytes]:
        """RFC 9162 section 2.1.3.1."""
        if len(leaves) == 1:
            return []
        cut = 1 << (len(leaves) - 1).bit_length() - 1
        if index < cut:
            return [*path_of(leaves[:cut], index), hashes_root(leaves[cut:])]
        return [*path_of(leaves[cut:], index - cut), hashes_root(leaves[:cut])]

    leaves, root = LEAVES[:size], hashes_root(LEAVES[:size])
    for index in range(size):
        path = path_of(leaves, index)
        verify_inclusion(leaves[index], index=index, tree_size=size, path=path, root=root)
        if path:
            with pytest.raises(ProofInvalid):
                verify_inclusion(leaves[index], index=index, tree_size=size, path=path[:-1], root=root)


def test_two_leaves_may_meet_at_the_last_of_256_bits() -> None:
    path, other = bytes(32), bytes(31) + b"\x01"
    held = {path: b"here", other: b"there"}
    beside = hashlib.sha256(b"\x10" + other + hashlib.sha256(b"there").digest()).digest()
    proof = StateProof((bytes(32),) * 255 + (beside,))
    verify_presence(path=path, value=b"here", proof=proof, root=state_root(held))


def test_absence_may_be_shown_at_the_last_of_256_bits() -> None:
    # Three paths: two that part at bit 254, and an asked one that parts from the second at bit 255.
    low, near, asked = bytes(32), bytes(31) + b"\x02", bytes(31) + b"\x03"
    held = {low: b"l", near: b"n"}
    leaf = {
        path: hashlib.sha256(b"\x10" + path + hashlib.sha256(value).digest()).digest() for path, value in held.items()
    }
    proof = StateProof((*(bytes(32),) * 254, leaf[low]), (near, hashlib.sha256(b"n").digest()))
    verify_absence(path=asked, proof=proof, root=state_root(held))


def test_a_neighbour_at_the_full_depth_is_the_path_itself_or_off_the_way() -> None:
    path, other = bytes(32), bytes(31) + b"\x01"
    current = hashlib.sha256(b"\x10" + other + bytes(32)).digest()
    for _ in range(256):
        current = hashlib.sha256(b"\x11" + current + bytes(32)).digest()
    with pytest.raises(ProofInvalid, match="on the way"):
        verify_absence(path=path, proof=StateProof((bytes(32),) * 256, (other, bytes(32))), root=current)


def test_an_absent_place_may_be_empty_itself() -> None:
    held = {b"\x80" + bytes(31): b"a", b"\xc0" + bytes(31): b"b"}
    below = [hashlib.sha256(b"\x10" + path + hashlib.sha256(value).digest()).digest() for path, value in held.items()]
    sibling = hashlib.sha256(b"\x11" + below[0] + below[1]).digest()
    verify_absence(path=bytes(32), proof=StateProof((sibling,)), root=state_root(held))
    verify_absence(path=bytes(32), proof=StateProof(()), root=bytes(32))


def consistency_path(old: int, leaves: list[bytes], *, is_known: bool = True) -> list[bytes]:
    """RFC 9162 section 2.1.4.1."""
    if old == len(leaves):
        return [] if is_known else [hashes_root(leaves)]
    cut = 1 << (len(leaves) - 1).bit_length() - 1
    if old <= cut:
        return [*consistency_path(old, leaves[:cut], is_known=is_known), hashes_root(leaves[cut:])]
    return [*consistency_path(old - cut, leaves[cut:], is_known=False), hashes_root(leaves[:cut])]


@pytest.mark.parametrize("new", range(2, 20))
def test_every_small_tree_continues_every_smaller_one_by_the_definitions_path(new: int) -> None:
    leaves = [leaf_hash(bytes([number])) for number in range(new)]
    for old in range(1, new):
        path, roots = consistency_path(old, leaves), (hashes_root(leaves[:old]), hashes_root(leaves))
        verify_consistency(old_size=old, old_root=roots[0], new_size=new, new_root=roots[1], path=path)
        # One hash too few, or one leaf too many, leads elsewhere.
        with pytest.raises(ProofInvalid):
            verify_consistency(old_size=old, old_root=roots[0], new_size=new, new_root=roots[1], path=path[:-1])
        with pytest.raises(ProofInvalid):
            verify_consistency(old_size=old, old_root=leaves[-1], new_size=new, new_root=roots[1], path=path)
        with pytest.raises(ProofInvalid):
            verify_consistency(old_size=old, old_root=roots[0], new_size=new, new_root=leaves[0], path=path)


def test_every_state_proof_leads_to_its_own_root_only() -> None:
    held = {bytes([number]) * 32: bytes([number]) for number in (1, 2, 129, 130)}
    root, other = state_root(held), state_root({**held, bytes(32): b"more"})
    leaf = {
        path: hashlib.sha256(b"\x10" + path + hashlib.sha256(value).digest()).digest() for path, value in held.items()
    }
    # Paths 1 and 2 part at bit 6, so 01… is met by whoever asks for 00….
    met, asked = b"\x01" * 32, bytes(32)
    right = hashlib.sha256(b"\x11" + leaf[b"\x81" * 32] + leaf[b"\x82" * 32]).digest()
    for _ in range(5):
        right = hashlib.sha256(b"\x11" + right + bytes(32)).digest()
    proof = StateProof((right, *(bytes(32),) * 5, leaf[b"\x02" * 32]), (met, hashlib.sha256(b"\x01").digest()))
    verify_absence(path=asked, proof=proof, root=root)
    verify_presence(path=met, value=b"\x01", proof=StateProof(proof.siblings), root=root)
    for wrong in (other, bytes(32), leaf[met]):
        with pytest.raises(ProofInvalid, match="another root"):
            verify_absence(path=asked, proof=proof, root=wrong)
        with pytest.raises(ProofInvalid, match="another root"):
            verify_presence(path=met, value=b"\x01", proof=StateProof(proof.siblings), root=wrong)
    with pytest.raises(ProofInvalid, match="another root"):
        verify_absence(path=asked, proof=StateProof(proof.siblings, (met, hashlib.sha256(b"x").digest())), root=root)
    with pytest.raises(ProofInvalid, match="another root"):
        verify_absence(path=asked, proof=StateProof(proof.siblings), root=root)
