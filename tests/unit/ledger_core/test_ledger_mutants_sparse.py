"""State trees of chosen shapes, root, proof and change each against the plain definition."""

import hashlib
from collections.abc import Mapping
from typing import Final

import pytest

from ledger_core.proofs import StateProof
from ledger_core.sparse import StateTree
from tests.support.naive_trees import TREES, state_root

Contents = dict[bytes, bytes]


def spread(count: int, prefix: bytes = b"") -> Contents:
    """Return paths that begin with ``prefix`` and go on at random, each with its own value."""
    names = [hashlib.sha256(prefix + b"%d" % number).digest() for number in range(count)]
    return {(prefix + name)[:32]: name[:4] for name in names}


def counted(count: int, ending: bytes = b"") -> Contents:
    """Return paths that differ in their last bits before ``ending`` only."""
    return {number.to_bytes(32 - len(ending), "big") + ending: b"%d" % number for number in range(count)}


SHAPES: Final[dict[str, Contents]] = {
    "empty": {},
    "one": spread(1),
    "two": spread(2),
    "a full bucket": spread(8),
    "one more than a bucket": spread(9),
    "evenly spread": spread(90),
    "all below ones": spread(40, b"\xff\xff\xff"),
    "all below noughts": spread(40, bytes(3)),
    "all below a pattern": spread(40, b"\x55\xaa\x5a"),
    "two crowds": {**spread(20, b"\xff\xff"), **spread(20, b"\x00\x01")},
    "a crowd and one": {**spread(12, b"\x80"), **spread(1, b"\x01")},
    "told apart at the end": counted(40),
    "told apart in the middle": counted(40, bytes(15)),
    "small in every half": {**spread(8, b"\x10"), **spread(8, b"\x90")},
}


def bit(path: bytes, depth: int) -> int:
    return path[depth // 8] >> 7 - depth % 8 & 1


def naive_proof(contents: Mapping[bytes, bytes], path: bytes, suite: int) -> tuple[bytes | None, StateProof]:
    """Walk down by the definition: siblings until at most one leaf is left."""
    hashed = TREES[suite]

    def subtree(held: Mapping[bytes, bytes], depth: int) -> bytes:
        if not held:
            return bytes(32)
        if len(held) == 1:
            ((only, value),) = held.items()
            return hashed(b"\x10" + only + hashed(value))
        halves = [{each: value for each, value in held.items() if bit(each, depth) == side} for side in (0, 1)]
        return hashed(b"\x11" + subtree(halves[0], depth + 1) + subtree(halves[1], depth + 1))

    here, siblings = dict(contents), list[bytes]()
    while len(here) > 1:
        depth = len(siblings)
        siblings.append(
            subtree({each: here[each] for each in here if bit(each, depth) != bit(path, depth)}, depth + 1)
        )
        here = {each: here[each] for each in here if bit(each, depth) == bit(path, depth)}
    if path in here:
        return here[path], StateProof(tuple(siblings))
    neighbour = next(((each, hashed(value)) for each, value in here.items()), None)
    return None, StateProof(tuple(siblings), neighbour)


def turned(path: bytes, depth: int) -> bytes:
    return bytes(byte ^ (0x80 >> depth % 8 if at == depth // 8 else 0) for at, byte in enumerate(path))


@pytest.mark.parametrize("suite", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_tree_holds_and_proves_by_the_definition(shape: str, suite: int) -> None:
    contents = SHAPES[shape]
    tree = StateTree(contents, suite=suite)
    assert (tree.root, tree.suite, len(tree)) == (state_root(contents, suite), suite, len(contents))
    assert list(tree.items()) == sorted(contents.items())
    assert StateTree.from_sorted(sorted(contents.items()), suite=suite).root == tree.root
    held = sorted(contents)[::13]
    near = [turned(path, depth) for path in held for depth in (0, 3, 8, 24, 255)]
    for path in [*held, *near, bytes(32), b"\xff" * 32]:
        assert tree.get(path) == contents.get(path)
        assert tree.prove(path) == naive_proof(contents, path, suite)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tree_of_another_suite_is_that_of_its_contents(shape: str) -> None:
    contents = SHAPES[shape]
    for suite, other in ((1, 2), (2, 1)):
        tree = StateTree(contents, suite=suite).rehashed(other)
        assert (tree.root, tree.suite, len(tree)) == (state_root(contents, other), other, len(contents))
        for path in sorted(contents)[::25]:
            assert tree.prove(path) == naive_proof(contents, path, other)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("other", ["one", "evenly spread", "all below ones", "told apart at the end", "two crowds"])
def test_changes_lead_to_the_tree_of_what_results(shape: str, other: str) -> None:
    before, change = SHAPES[shape], {path: b"new" + value for path, value in SHAPES[other].items()}
    tree = StateTree(before)
    after = tree.updated(change)
    assert after.root == state_root({**before, **change})
    assert dict(after.items()) == {**before, **change}
    assert len(after) == len({**before, **change})
    assert tree.root == state_root(before)
    back = after.without(set(change) - set(before)).updated({path: before[path] for path in change if path in before})
    assert (back.root, len(back)) == (tree.root, len(before))


@pytest.mark.parametrize("shape", SHAPES)
def test_paths_taken_out_one_by_one_leave_the_tree_of_the_rest(shape: str) -> None:
    rest = dict(SHAPES[shape])
    tree = StateTree(rest)
    for path in sorted(rest, key=lambda each: hashlib.sha256(each).digest())[:25]:
        del rest[path]
        tree = tree.without([path])
        assert (tree.root, len(tree), tree.get(path)) == (state_root(rest), len(rest), None)
    assert dict(tree.items()) == rest


@pytest.mark.parametrize("shape", SHAPES)
def test_paths_put_in_one_by_one_lead_to_the_same_tree(shape: str) -> None:
    tree = StateTree()
    for path, value in SHAPES[shape].items():
        tree = tree.updated({path: value})
    assert (tree.root, list(tree.items())) == (state_root(SHAPES[shape]), sorted(SHAPES[shape].items()))
    for path, value in list(SHAPES[shape].items())[::7]:
        assert tree.updated({path: value}) is tree
        assert (
            tree.updated({path: value, turned(path, 200): b"beside"}).without([turned(path, 200)]).root == tree.root
        )
        assert tree.changed({turned(path, 9): None, turned(path, 10): None}) is tree


@pytest.mark.parametrize("shape", SHAPES)
def test_writing_what_is_there_already_gives_the_same_tree(shape: str) -> None:
    contents = SHAPES[shape]
    tree = StateTree(contents)
    assert tree.updated(contents) is tree
    assert tree.updated(dict(list(contents.items())[:2])) is tree


@pytest.mark.parametrize("bad", [b"", bytes(31), bytes(33)])
def test_no_way_into_a_tree_takes_a_path_of_another_length(bad: bytes) -> None:
    tree = StateTree(SHAPES["evenly spread"])
    for attempt in (
        lambda: tree.get(bad),
        lambda: tree.prove(bad),
        lambda: tree.updated({bad: b""}),
        lambda: tree.without([bad]),
        lambda: StateTree({bad: b""}),
        lambda: StateTree.from_sorted([(bad, b"")]),
    ):
        with pytest.raises(ValueError, match="32 bytes"):
            attempt()


@pytest.mark.parametrize("order", [(0, 0), (1, 0), (0, 2, 1), (2, 300, 299)])
def test_rows_must_rise_within_and_across_first_bytes(order: tuple[int, ...]) -> None:
    rows = [(number.to_bytes(2, "big") + bytes(30), b"v") for number in order]
    with pytest.raises(ValueError, match="above the one before"):
        StateTree.from_sorted(rows)


def test_a_tree_without_contents_has_the_first_suite() -> None:
    assert (StateTree().suite, StateTree().root, len(StateTree())) == (1, bytes(32), 0)
    assert StateTree.from_sorted([]).suite == 1


def test_a_path_is_found_right_after_where_it_only_seems_to_begin() -> None:
    before, path = bytes(31) + b"\x07", b"\x07" * 32
    tree = StateTree({before: b"before", path: b"here"})
    assert (tree.get(path), tree.get(before)) == (b"here", b"before")
    assert tree.updated({path: b"now"}).get(path) == b"now"
    assert dict(tree.without([path]).items()) == {before: b"before"}
