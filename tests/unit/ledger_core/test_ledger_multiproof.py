"""One proof for many leaves, against the recursion of RFC 9162 written out and against single proofs."""

import hashlib
from collections.abc import Callable, Sequence, Set

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.errors import ProofInvalid
from ledger_core.hashing import leaf_hash
from ledger_core.log import MerkleBatch, Tile, TiledLog
from ledger_core.proofs import verify_inclusion, verify_multi_inclusion

LEAVES = [hashlib.sha256(b"leaf %d" % number).digest() for number in range(600)]


def split(width: int) -> int:
    power = 1
    while power * 2 < width:
        power *= 2
    return power


def naive_root(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    cut = split(len(leaves))
    return hashlib.sha256(b"\x01" + naive_root(leaves[:cut]) + naive_root(leaves[cut:])).digest()


def naive_multiproof(leaves: Sequence[bytes], asked: Set[int]) -> list[bytes]:
    """By its definition: the roots of maximal subtrees without an asked leaf, from left to right."""
    if not asked:
        return [naive_root(leaves)]
    if len(leaves) == 1:
        return []
    cut = split(len(leaves))
    left = {index for index in asked if index < cut}
    right = {index - cut for index in asked if index >= cut}
    return naive_multiproof(leaves[:cut], left) + naive_multiproof(leaves[cut:], right)


def log_of(size: int) -> TiledLog:
    tiles: dict[tuple[int, int], Tile] = {}
    log = TiledLog(lambda level, index: tiles[level, index].hashes, 0)
    grown = log.grow(LEAVES[:size])
    tiles.update({(tile.level, tile.index): tile for tile in grown})
    log.publish(grown, size)
    return log


@st.composite
def questions(draw: st.DrawFn, most: int = 600) -> tuple[int, frozenset[int]]:
    size = draw(st.one_of(st.integers(1, 40), st.integers(1, most)))
    return size, frozenset(draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=30)))


@given(questions(), st.integers(0, 100))
def test_a_log_gives_the_proof_of_the_definition(question: tuple[int, frozenset[int]], later: int) -> None:
    size, asked = question
    path = log_of(min(600, size + later)).multiproof(asked, size)
    assert list(path) == naive_multiproof(LEAVES[:size], asked)
    verify_multi_inclusion(
        {index: LEAVES[index] for index in asked}, tree_size=size, path=path, root=naive_root(LEAVES[:size])
    )


@given(questions(80))
def test_a_batch_gives_the_proof_of_the_definition(question: tuple[int, frozenset[int]]) -> None:
    size, asked = question
    batch = MerkleBatch(LEAVES[:size])
    path = batch.multiproof(asked)
    hashed = [leaf_hash(leaf) for leaf in LEAVES[:size]]
    assert list(path) == naive_multiproof(hashed, asked)
    verify_multi_inclusion({index: hashed[index] for index in asked}, tree_size=size, path=path, root=batch.root)


@given(questions())
def test_it_says_what_the_single_proofs_say_in_no_more_hashes(question: tuple[int, frozenset[int]]) -> None:
    size, asked = question
    log, root = log_of(size), naive_root(LEAVES[:size])
    singles = {index: log.inclusion(index, size) for index in asked}
    for index, path in singles.items():
        verify_inclusion(LEAVES[index], index=index, tree_size=size, path=path, root=root)
    together = log.multiproof(asked, size)
    assert set(together) <= {item for path in singles.values() for item in path}
    assert len(together) == len(set(together))
    if len(asked) == 1:
        (path,) = singles.values()
        assert sorted(together) == sorted(path)


@given(questions(), st.data())
def test_another_leaf_index_hash_or_size_is_refused(
    question: tuple[int, frozenset[int]], data: st.DataObject
) -> None:
    size, asked = question
    root, path = naive_root(LEAVES[:size]), list(log_of(size).multiproof(asked, size))
    leaves = {index: LEAVES[index] for index in asked}

    def refused(leaves: dict[int, bytes], path: Sequence[bytes], tree_size: int = size) -> None:
        with pytest.raises(ProofInvalid):
            verify_multi_inclusion(leaves, tree_size=tree_size, path=path, root=root)

    victim = data.draw(st.sampled_from(sorted(asked)))
    refused({**leaves, victim: LEAVES[victim][:-1] + bytes([LEAVES[victim][-1] ^ 1])}, path)
    refused(leaves, [*path, path[-1] if path else bytes(32)])
    free = sorted({*range(size)} - asked)
    if free:
        other = data.draw(st.sampled_from(free))
        moved = {index: leaf for index, leaf in leaves.items() if index != victim}
        refused({**moved, other: leaves[victim]}, path)
        refused({**leaves, other: LEAVES[other]}, path)
    if path:
        spot = data.draw(st.integers(0, len(path) - 1))
        refused(leaves, path[:spot] + path[spot + 1 :])
        refused(leaves, [*path[:spot], bytes(32), *path[spot + 1 :]])
    if len(path) > 1:
        refused(leaves, path[::-1])
    if len(asked) > 1:
        refused({index: leaf for index, leaf in leaves.items() if index != victim}, path)


ROOT = naive_root(LEAVES[:4])


def check(leaves: dict[int, bytes], path: Sequence[bytes], *, tree_size: int = 4, root: bytes = ROOT) -> None:
    verify_multi_inclusion(leaves, tree_size=tree_size, path=path, root=root)


def test_the_whole_tree_needs_no_hash() -> None:
    check({index: LEAVES[index] for index in range(4)}, [])


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        # A set of no leaves under the true root would "prove" anything that forgets to count them.
        (lambda: check({}, [ROOT]), "one at least"),
        (lambda: check({}, [], tree_size=0, root=hashlib.sha256(b"").digest()), "one at least"),
        (lambda: check({4: LEAVES[0]}, [ROOT]), "inside"),
        (lambda: check({-1: LEAVES[0]}, []), "inside"),
        (lambda: check({0: LEAVES[0], 9: LEAVES[1]}, [LEAVES[1]]), "inside"),
        (lambda: check({-1: LEAVES[3], 0: LEAVES[0]}, [LEAVES[1]]), "inside"),
        (lambda: check({0: LEAVES[0]}, [], tree_size=1 << 64, root=LEAVES[0]), "inside"),
        (lambda: check({0: LEAVES[0]}, [], tree_size=1 << 5000, root=LEAVES[0]), "inside"),
        (lambda: check({0: LEAVES[0]}, [LEAVES[1]]), "too short"),
        # Under roots that fit, so that only the count of hashes is wrong.
        (lambda: check({0: LEAVES[0]}, [bytes(32)], tree_size=1, root=LEAVES[0]), "spare"),
        (lambda: check({0: LEAVES[0]}, [LEAVES[1]], tree_size=2, root=ROOT), "another root"),
        (lambda: check({0: LEAVES[0][:31]}, [], tree_size=1, root=LEAVES[0][:31]), "32 bytes"),
        (lambda: check({0: LEAVES[0]}, [LEAVES[1] + b"x"], tree_size=2), "32 bytes"),
    ],
)
def test_forged_multiproofs_are_refused(attack: Callable[[], None], words: str) -> None:
    with pytest.raises(ProofInvalid, match=words):
        attack()


def test_the_largest_tree_is_walked() -> None:
    # The path of leaf 0 in a tree of 2**64 - 1, by hand: its siblings from the top down are met last to first.
    siblings = [hashlib.sha256(b"sibling %d" % level).digest() for level in range(64)]
    root = LEAVES[0]
    for sibling in siblings:
        root = hashlib.sha256(b"\x01" + root + sibling).digest()
    check({0: LEAVES[0]}, siblings, tree_size=(1 << 64) - 1, root=root)


@pytest.mark.parametrize("asked", [set[int](), {5}, {-1}, {0, 5}, {-1, 3}])
def test_no_multiproof_is_given_of_nothing_or_of_what_is_outside(asked: set[int]) -> None:
    with pytest.raises(ProofInvalid, match="inside"):
        log_of(9).multiproof(asked, 5)
    with pytest.raises(ProofInvalid, match="inside"):
        MerkleBatch(LEAVES[:5]).multiproof(asked)


def test_no_multiproof_is_given_under_a_size_the_log_has_not_reached() -> None:
    with pytest.raises(ProofInvalid, match="the log has 9"):
        log_of(9).multiproof({1}, 10)
    with pytest.raises(ProofInvalid, match="inside"):
        log_of(9).multiproof({0}, 0)


def test_an_index_asked_twice_is_asked_once() -> None:
    assert log_of(9).multiproof([3, 3, 1], 9) == log_of(9).multiproof([1, 3], 9)
