"""The state tree and its past versions, against a definition over all contents at once, in both suites."""

import hashlib
import random
from collections.abc import Callable, Mapping
from functools import partial

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger_core.codec import encode
from ledger_core.errors import NotCanonical, ProofInvalid
from ledger_core.hashing import TREE_SUITES, state_leaf_hash, state_node_hash
from ledger_core.proofs import StateProof, verify_absence, verify_presence
from ledger_core.sparse import BUCKET_LEAVES, StateTree
from ledger_core.stateroot import StateEntry, read_state_entry
from ledger_core.versions import Versions

Contents = dict[bytes, bytes]
Changes = dict[bytes, bytes | None]

DIGESTS: Mapping[int, Callable[[bytes], bytes]] = {
    1: lambda data: hashlib.sha256(data).digest(),
    2: lambda data: blake3(data).digest(),
}
SUITES = st.sampled_from(sorted(DIGESTS))
# Few first bytes and long shared prefixes, so that leaves meet at every depth and buckets overflow.
PATHS = st.one_of(
    st.integers(0, 2**16 - 1).map(lambda number: number.to_bytes(2, "big") * 16),
    st.integers(0, 255).map(lambda number: bytes([number]) * 32),
    st.tuples(st.integers(0, 31), st.integers(0, 255)).map(
        lambda at: bytes(at[0]) + bytes([at[1]]) + bytes(31 - at[0])
    ),
)
VALUES = st.binary(max_size=2)
CONTENTS = st.dictionaries(PATHS, VALUES, max_size=60)
CHANGES = st.dictionaries(PATHS, st.none() | VALUES, max_size=60)


def naive_root(contents: Mapping[bytes, bytes], suite: int) -> bytes:
    """The definition, over bits as text: nothing is zeros, one leaf is itself, else both halves."""
    digest = DIGESTS[suite]

    def subtree(held: list[tuple[str, bytes]], depth: int) -> bytes:
        if not held:
            return bytes(32)
        if len(held) == 1:
            path = held[0][1]
            return digest(b"\x10" + path + digest(contents[path]))
        left = subtree([item for item in held if item[0][depth] == "0"], depth + 1)
        return digest(b"\x11" + left + subtree([item for item in held if item[0][depth] == "1"], depth + 1))

    return subtree([(f"{int.from_bytes(path, 'big'):0256b}", path) for path in contents], 0)


def applied(contents: Mapping[bytes, bytes], changes: Mapping[bytes, bytes | None]) -> Contents:
    merged = {**contents, **changes}
    return {path: value for path, value in merged.items() if value is not None}


def spread(count: int, start: int = 0) -> Contents:
    return {hashlib.sha256(b"%d" % number).digest(): b"%d" % number for number in range(start, start + count)}


def same(tree: StateTree, contents: Mapping[bytes, bytes]) -> None:
    assert tree.root == naive_root(contents, tree.suite)
    assert list(tree.items()) == sorted(contents.items())
    assert len(tree) == len(contents)


@settings(deadline=None)
@given(CONTENTS, SUITES)
def test_a_root_is_as_defined(contents: Contents, suite: int) -> None:
    same(StateTree(contents, suite=suite), contents)
    same(StateTree.from_sorted(iter(sorted(contents.items())), suite=suite), contents)


@settings(deadline=None)
@given(CONTENTS, st.lists(CHANGES, max_size=4), SUITES)
def test_changes_in_any_grouping_give_the_tree_of_their_result(
    contents: Contents, groups: list[Changes], suite: int
) -> None:
    together = single = StateTree(contents, suite=suite)
    for changes in groups:
        contents = applied(contents, changes)
        together = together.changed(changes)
        for path, value in changes.items():
            single = single.updated({path: value}) if value is not None else single.without([path])
        same(together, contents)
        same(single, contents)


@pytest.mark.parametrize("suite", DIGESTS)
def test_trees_of_many_buckets_grow_and_shrink_as_defined(suite: int) -> None:
    rng = random.Random(7)
    contents = spread(600)
    tree = StateTree(suite=suite).updated(contents)
    same(tree, contents)
    while contents:
        gone = rng.sample(sorted(contents), min(len(contents), rng.choice([1, 3, 90])))
        tree = tree.without(gone)
        contents = {path: value for path, value in contents.items() if path not in gone}
        same(tree, contents)
    assert tree.root == bytes(32)


@settings(deadline=None)
@given(CONTENTS, CHANGES, SUITES)
def test_a_change_leaves_the_older_tree_as_it_was(contents: Contents, changes: Changes, suite: int) -> None:
    older = StateTree(contents, suite=suite)
    older.changed(changes)
    same(older, contents)


@settings(deadline=None)
@given(CONTENTS, st.lists(PATHS, max_size=8))
def test_a_change_that_changes_nothing_gives_the_same_tree(contents: Contents, others: list[bytes]) -> None:
    tree = StateTree(contents)
    assert tree.updated(contents) is tree
    assert tree.updated(dict([next(iter(contents.items()))] if contents else [])) is tree
    absent = [path for path in others if path not in contents]
    assert tree.without(absent) is tree
    assert tree.without(absent[:1]) is tree


@settings(deadline=None)
@given(CONTENTS, SUITES, SUITES)
def test_a_rehashed_tree_is_the_tree_of_the_other_suite(contents: Contents, suite: int, other: int) -> None:
    tree = StateTree(contents, suite=suite).rehashed(other)
    assert tree.suite == other
    same(tree, contents)


@pytest.mark.parametrize("suite", DIGESTS)
def test_a_large_tree_rehashes_and_proves_like_one_built_so(suite: int) -> None:
    contents = spread(500)
    rehashed, built = StateTree(contents, suite=3 - suite).rehashed(suite), StateTree(contents, suite=suite)
    assert rehashed.root == built.root == naive_root(contents, suite)
    for path in (*contents, *spread(100, 500)):
        assert rehashed.prove(path) == built.prove(path)
        assert built.get(path) == contents.get(path)


@settings(deadline=None)
@given(CONTENTS, st.lists(PATHS, min_size=1, max_size=8), SUITES)
def test_proofs_show_presence_and_absence_and_nothing_else(
    contents: Contents, asked: list[bytes], suite: int
) -> None:
    tree = StateTree(contents, suite=suite)
    root = tree.root
    for path in {*asked, *list(contents)[:4]}:
        value, proof = tree.prove(path)
        assert value == contents.get(path) == tree.get(path)
        other = 3 - suite
        if value is None:
            verify_absence(path=path, proof=proof, root=root, suite=suite)
            with pytest.raises(ProofInvalid):
                verify_presence(path=path, value=b"", proof=proof, root=root, suite=suite)
            if contents:
                with pytest.raises(ProofInvalid):
                    verify_absence(path=path, proof=proof, root=root, suite=other)
        else:
            verify_presence(path=path, value=value, proof=proof, root=root, suite=suite)
            with pytest.raises(ProofInvalid):
                verify_absence(path=path, proof=proof, root=root, suite=suite)
            with pytest.raises(ProofInvalid):
                verify_presence(path=path, value=value + b"x", proof=proof, root=root, suite=suite)
            with pytest.raises(ProofInvalid):
                verify_presence(path=path, value=value, proof=proof, root=root, suite=other)


def mutations(proof: StateProof, at: int) -> list[StateProof]:
    """Spoil sibling ``at`` and the neighbour in every way that proofs are spoilt: bits, lengths, omission, swaps."""
    siblings, neighbour = proof.siblings, proof.neighbour
    found = [(*siblings, bytes(32)), (bytes(32), *siblings), (*siblings, *siblings[-1:])]
    if siblings:
        at %= len(siblings)
        before, sibling, after = siblings[:at], siblings[at], siblings[at + 1 :]
        found += [(*before, *after), (*before, sibling, sibling, *after), (*before, bytes(32), *after)]
        found += [(*before, sibling[:-1], *after), (*before, sibling + b"\0", *after), siblings[:at], siblings[at:]]
        found += [(*before, bytes([sibling[0] ^ 1 << bit]) + sibling[1:], *after) for bit in range(8)]
        found += [(*before, *reversed(siblings[at : at + 2]), *siblings[at + 2 :])]
    others: list[tuple[bytes, bytes] | None] = [None, (bytes(32), bytes(32)), (bytes(32), b"")]
    if neighbour is not None:
        path, value_hash = neighbour
        others += [(value_hash, path), (path, path), (path[1:], value_hash), (path, value_hash + b"\0")]
        others += [
            (path[:-1] + bytes([path[-1] ^ 1]), value_hash),
            (path, bytes([value_hash[0] ^ 1]) + value_hash[1:]),
        ]
    mutants = [StateProof(path, neighbour) for path in found] + [StateProof(siblings, other) for other in others]
    return [mutant for mutant in mutants if mutant != proof]


@settings(deadline=None)
@given(CONTENTS.filter(lambda held: len(held) > 1), PATHS, st.integers(0, 255), SUITES)
def test_no_mutated_proof_is_accepted(contents: Contents, path: bytes, at: int, suite: int) -> None:
    tree = StateTree(contents, suite=suite)
    for asked in {path, next(iter(contents))}:
        value, proof = tree.prove(asked)
        for mutant in mutations(proof, at):
            check = partial(verify_absence, path=asked, proof=mutant, root=tree.root, suite=suite)
            if value is not None:
                check = partial(verify_presence, path=asked, value=value, proof=mutant, root=tree.root, suite=suite)
            with pytest.raises(ProofInvalid):
                check()


def test_a_path_is_found_though_it_also_lies_across_others() -> None:
    across, held = b"\0" + b"\1" * 31, b"\1" * 32
    tree = StateTree({across: b"a", held: b"b"})
    assert tree.get(held) == b"b"
    same(tree.updated({held: b"c"}), {across: b"a", held: b"c"})


def test_a_leaf_cut_at_another_place_is_no_neighbour() -> None:
    # The parts join to the leaf of the path itself, and its zeros pass for any prefix of zeros.
    path, value = bytes(31) + b"\1", b"v"
    tree = StateTree({path: value, b"\xff" * 32: b""})
    _, proof = tree.prove(path)
    leaf = path + hashlib.sha256(value).digest()
    for cut in (0, 1, 31, 33, 63, 64):
        with pytest.raises(ProofInvalid, match="32 bytes"):
            verify_absence(path=path, proof=StateProof(proof.siblings, (leaf[:cut], leaf[cut:])), root=tree.root)


def test_a_path_is_not_found_across_two_others() -> None:
    first, second = bytes(31) + b"\x01", bytes(31) + b"\x02"
    across = (first + second)[5:37]
    tree = StateTree({first: b"a", second: b"b"})
    assert tree.get(across) is None
    assert tree.updated({across: b"c"}).root == naive_root({first: b"a", second: b"b", across: b"c"}, 1)


@pytest.mark.parametrize("bad", [b"", bytes(31), bytes(33)])
def test_paths_of_another_length_are_refused(bad: bytes) -> None:
    for attempt in (
        lambda: StateTree({bad: b""}),
        lambda: StateTree().updated({bad: b""}),
        lambda: StateTree().without([bad]),
        lambda: StateTree.from_sorted([(bad, b"")]),
        lambda: StateTree({bytes(32): b""}).get(bad),
        lambda: StateTree().prove(bad),
    ):
        with pytest.raises(ValueError, match="32 bytes"):
            attempt()


def test_rows_out_of_order_or_twice_are_refused() -> None:
    low, high = bytes(32), b"\x01" + bytes(31)
    last = b"\x01" + b"\xff" * 31
    for rows in ([high, low], [low, low], [high, high], [last, high], [low, high, low]):
        with pytest.raises(ValueError, match="above"):
            StateTree.from_sorted([(path, b"") for path in rows])


@pytest.mark.parametrize("suite", [0, 3, -1])
def test_unknown_suites_are_refused(suite: int) -> None:
    tree = StateTree({bytes(32): b""})
    _, proof = tree.prove(bytes(32))
    for attempt in (
        lambda: StateTree(suite=suite),
        lambda: StateTree.from_sorted([], suite=suite),
        lambda: tree.rehashed(suite),
        lambda: verify_presence(path=bytes(32), value=b"", proof=proof, root=tree.root, suite=suite),
        lambda: state_leaf_hash(bytes(32), bytes(32), suite),
        lambda: state_node_hash(bytes(32), bytes(32), suite),
    ):
        with pytest.raises(NotCanonical, match="suite"):
            attempt()
    assert read_state_entry(encode((2, suite, 1, 1, bytes(32)))) is None


@pytest.mark.parametrize("suite", DIGESTS)
def test_a_tree_suite_is_the_plain_function(suite: int) -> None:
    assert TREE_SUITES[suite](b"abc") == DIGESTS[suite](b"abc")
    assert state_leaf_hash(b"p" * 32, b"v" * 32, suite) == DIGESTS[suite](b"\x10" + b"p" * 32 + b"v" * 32)
    assert state_node_hash(b"l" * 32, b"r" * 32, suite) == DIGESTS[suite](b"\x11" + b"l" * 32 + b"r" * 32)


@pytest.mark.parametrize("suite", DIGESTS)
def test_a_state_root_entry_names_its_suite(suite: int) -> None:
    entry = StateEntry(5, 6, b"r" * 32, suite)
    assert entry.entry() == encode((2, suite, 5, 6, b"r" * 32))
    assert read_state_entry(entry.entry()) == entry


@pytest.mark.parametrize(
    "items",
    [
        (1, 1, 5, 6, bytes(32)),
        (2, True, 5, 6, bytes(32)),
        (2, "1", 5, 6, bytes(32)),
        (2, None, 5, 6, bytes(32)),
        (2, 1, "5", 6, bytes(32)),
        (2, 1, 5, None, bytes(32)),
        (2, 1, True, 6, bytes(32)),
        (2, 1, 5, False, bytes(32)),
        (2, 1, 5, 6, bytes(31)),
        (2, 1, 5, 6, "r" * 32),
        (2, 1, 5, 6),
        (2, 1, 5, 6, bytes(32), 0),
        2,
    ],
)
def test_other_entries_are_no_state_roots(items: tuple[int | bytes | str | bool | None, ...] | int) -> None:
    assert read_state_entry(encode(items)) is None
    assert read_state_entry(encode(items) + b"\0") is None


class Written:
    """Blocks of changes and what the tree was after each, kept whole."""

    def __init__(self, blocks: list[Contents]) -> None:
        self.blocks = blocks
        self.states: list[Contents] = [{}]
        for block in blocks:
            self.states.append({**self.states[-1], **block})
        self.asked: list[int] = []

    def changes(self, height: int) -> Changes:
        """Of every path written after ``height``: its value then."""
        self.asked.append(height)
        return {path: self.states[height].get(path) for block in self.blocks[height:] for path in block}

    @property
    def top(self) -> int:
        return len(self.states) - 1


BLOCKS = st.lists(st.dictionaries(PATHS, VALUES, max_size=12), min_size=1, max_size=12)


@settings(deadline=None, max_examples=40)
@given(BLOCKS, st.lists(st.tuples(st.integers(0, 12), SUITES), max_size=12), st.integers(1, 3), SUITES)
def test_any_height_in_any_order_gives_the_tree_of_that_height(
    blocks: list[Contents], asked: list[tuple[int, int]], capacity: int, suite: int
) -> None:
    written = Written(blocks)
    newest = StateTree(written.states[-1], suite=suite)
    versions = Versions(written.changes, capacity=capacity)
    for height, then in [(height % (written.top + 1), then) for height, then in asked]:
        tree = versions.at(height, newest=newest, newest_height=written.top, suite=then)
        assert tree.suite == then
        same(tree, written.states[height])


@settings(deadline=None, max_examples=30)
@given(BLOCKS, BLOCKS, st.lists(st.integers(0, 24), max_size=12))
def test_trees_cached_before_the_ledger_grew_stay_right(
    blocks: list[Contents], more: list[Contents], asked: list[int]
) -> None:
    short, long = Written(blocks), Written(blocks + more)
    current = short
    versions = Versions(lambda height: current.changes(height), capacity=3)
    for turn, number in enumerate(asked):
        current = short if turn < len(asked) // 2 else long
        height = number % (current.top + 1)
        newest = StateTree(current.states[-1])
        same(versions.at(height, newest=newest, newest_height=current.top), current.states[height])


def test_a_store_that_is_a_block_ahead_of_the_tree_does_no_harm() -> None:
    path, late = bytes(32), bytes([1]) * 32
    written = Written([{path: b"1"}, {path: b"2"}, {path: b"3"}, {path: b"4", late: b"x"}])
    versions = Versions(written.changes)
    behind = StateTree(written.states[3])
    same(versions.at(1, newest=behind, newest_height=3), written.states[1])
    same(versions.at(2, newest=behind, newest_height=3), written.states[2])
    same(versions.at(3, newest=behind, newest_height=3), written.states[3])


def twelve_blocks() -> tuple[Written, StateTree]:
    written = Written([{bytes([number]) * 32: b"v", bytes(31) + b"\1": b"%d" % number} for number in range(12)])
    return written, StateTree(written.states[-1])


def test_a_height_is_made_once_until_others_push_it_out() -> None:
    written, newest = twelve_blocks()
    versions = Versions(written.changes, capacity=2)
    at = partial(versions.at, newest=newest, newest_height=12)
    first = at(3)
    assert at(3) is first
    assert written.asked == [3]
    pushed_out = at(6)
    assert at(3) is first
    other = at(7)
    assert at(3) is first
    assert at(7) is other
    assert at(6) is not pushed_out


def test_each_suite_has_its_own_tree_of_a_height() -> None:
    written, newest = twelve_blocks()
    at = partial(Versions(written.changes).at, newest=newest, newest_height=12)
    first, other = at(3), at(3, suite=2)
    assert other.root == naive_root(written.states[3], 2)
    assert (at(3), at(3, suite=2)) == (first, other)
    assert at(12, suite=2).root == naive_root(written.states[12], 2)
    assert at(12) is newest


def test_a_tree_shares_what_a_cached_one_above_has() -> None:
    path = bytes(32)
    written = Written([{path: b"1"}, {path: b"2"}, {}, {path: b"3"}])
    at = partial(Versions(written.changes).at, newest=StateTree(written.states[-1]), newest_height=4)
    assert at(3) is at(2)


def test_trees_of_pruned_heights_are_forgotten() -> None:
    written, newest = twelve_blocks()
    versions = Versions(written.changes)
    at = partial(versions.at, newest=newest, newest_height=12)
    trees = {height: at(height) for height in (2, 3, 4)}
    versions.drop_below(3)
    assert (at(3), at(4)) == (trees[3], trees[4])
    written.asked.clear()
    assert at(2) is not trees[2]
    assert written.asked == [2]


def test_a_tree_is_made_from_the_nearest_one() -> None:
    written, newest = twelve_blocks()
    at = partial(Versions(written.changes, capacity=9).at, newest=newest, newest_height=12)
    at(2)
    # Height 3 lies next to 2 and far below 12, so what 2 lacks is read as well; 11 lies next to 12.
    same(at(3), written.states[3])
    same(at(11), written.states[11])
    assert written.asked == [2, 3, 2, 11]
    written.asked.clear()
    # No tree of the other suite lies above, and hashing all of one again costs most.
    at(5, suite=2)
    at(11, suite=2)
    assert written.asked == [5, 11, 5]


def test_a_height_to_come_has_no_tree() -> None:
    with pytest.raises(ValueError, match="above"):
        Versions(lambda height: {}).at(2, newest=StateTree(), newest_height=1)


@settings(deadline=None)
@given(CONTENTS, CHANGES)
def test_a_subtree_is_a_bucket_exactly_when_it_has_few_leaves(contents: Contents, changes: Changes) -> None:
    tree = StateTree(contents).changed(changes)
    stack = [tree._top]
    while stack:
        node = stack.pop()
        assert (len(node) == 4) == (node[3] > BUCKET_LEAVES)
        if len(node) == 4:
            stack += [node[1], node[2]]


def test_buckets_are_full_before_they_split() -> None:
    contents = spread(BUCKET_LEAVES + 1)
    full = StateTree(dict(list(contents.items())[:-1]))
    over = full.updated(dict(list(contents.items())[-1:]))
    same(over, contents)
    same(over.without(list(contents)[-1:]), dict(list(contents.items())[:-1]))
