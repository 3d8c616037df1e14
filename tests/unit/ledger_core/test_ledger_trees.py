"""Trees and proofs, against the Certificate Transparency vectors and plainly recursive definitions."""

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger_core.errors import ProofInvalid
from ledger_core.hashing import content_digest, leaf_hash, node_hash
from ledger_core.log import Frontier, MerkleBatch, TiledLog
from ledger_core.proofs import StateProof, verify_absence, verify_consistency, verify_inclusion, verify_presence
from ledger_core.sparse import StateTree
from tests.unit.ledger_core.ledger_samples import VECTORS, filler

SIZES = st.integers(1, 70)
PATHS = st.dictionaries(
    # Long common prefixes, so that leaves meet deep in the tree.
    st.tuples(st.integers(0, 3), st.integers(0, 250), st.sampled_from([0, 1, 31])).map(
        lambda item: bytes(item[2]) + bytes([item[0]]) + bytes([item[1]]) * (31 - item[2])
    ),
    st.binary(max_size=4),
    max_size=24,
)


def naive_root(entries: Sequence[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, word for word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    split = 1
    while split * 2 < len(entries):
        split *= 2
    left, right = naive_root(entries[:split]), naive_root(entries[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def naive_state_root(contents: dict[bytes, bytes], prefix: str = "") -> bytes:
    """The compact sparse tree by its definition: bits as text, one leaf is its own subtree."""
    held = [path for path in contents if f"{int.from_bytes(path, 'big'):0256b}".startswith(prefix)]
    if not held:
        return bytes(32)
    if len(held) == 1:
        value_hash = hashlib.sha256(contents[held[0]]).digest()
        return hashlib.sha256(b"\x10" + held[0] + value_hash).digest()
    below = naive_state_root(contents, prefix + "0"), naive_state_root(contents, prefix + "1")
    return hashlib.sha256(b"\x11" + below[0] + below[1]).digest()


def entries_of(size: int) -> list[bytes]:
    return [bytes([number]) for number in range(size)]


def log_of(entries: Sequence[bytes]) -> TiledLog:
    log = TiledLog(lambda level, index: None, 0)
    log.publish(log.grow([leaf_hash(entry) for entry in entries]), len(entries))
    return log


@pytest.mark.parametrize("size", range(9))
def test_roots_of_the_certificate_transparency_vectors(size: int) -> None:
    vectors = VECTORS["rfc6962"]
    leaves = [leaf_hash(bytes.fromhex(item)) for item in vectors["leaves"]]
    expected = bytes.fromhex(vectors["roots"][size - 1] if size else vectors["empty"])
    log = TiledLog(lambda level, index: None, 0)
    log.publish(log.grow(leaves), len(leaves))
    assert log.root(size) == expected
    assert Frontier().append(leaves[:size]).root() == expected


@pytest.mark.parametrize(("length", "digest"), VECTORS["blake3"])
def test_official_blake3_vectors(length: int, digest: str) -> None:
    assert content_digest(bytes(number % 251 for number in range(length))).hex() == digest


@given(SIZES, st.data())
def test_every_entry_proves_under_every_size(size: int, data: st.DataObject) -> None:
    entries = entries_of(size)
    log = log_of(entries)
    at = data.draw(st.integers(1, size))
    index = data.draw(st.integers(0, at - 1))
    root = naive_root(entries[:at])
    assert log.root(at) == root
    path = log.inclusion(index, at)
    verify_inclusion(leaf_hash(entries[index]), index=index, tree_size=at, path=path, root=root)
    for wrong in {*range(at)} - {index}:
        with pytest.raises(ProofInvalid):
            verify_inclusion(leaf_hash(entries[index]), index=wrong, tree_size=at, path=path, root=root)


@given(SIZES, st.data())
def test_consistency_of_every_pair_of_sizes(size: int, data: st.DataObject) -> None:
    entries = entries_of(size)
    old = data.draw(st.integers(0, size))
    path = log_of(entries).consistency(old, size)
    roots = {"old_root": naive_root(entries[:old]), "new_root": naive_root(entries)}
    verify_consistency(old_size=old, new_size=size, path=path, **roots)
    if 0 < old < size:
        rewritten = naive_root([b"other", *entries[1:old]])
        with pytest.raises(ProofInvalid):
            verify_consistency(old_size=old, new_size=size, path=path, old_root=rewritten, new_root=roots["new_root"])
        with pytest.raises(ProofInvalid):
            verify_consistency(old_size=old, new_size=size, path=[*path, bytes(32)], **roots)


@given(SIZES, st.integers(0, 69))
def test_a_longer_path_fails_even_under_a_matching_root(size: int, index: int) -> None:
    index %= size
    entries = entries_of(size)
    stray = filler(7)
    root, path = naive_root(entries), log_of(entries).inclusion(index, size)
    with pytest.raises(ProofInvalid):
        verify_inclusion(
            leaf_hash(entries[index]),
            index=index,
            tree_size=size,
            path=[*path, stray],
            root=node_hash(stray, root),
        )


@given(SIZES)
def test_a_batch_is_the_same_tree(size: int) -> None:
    leaves = [filler(number) for number in range(size)]
    batch = MerkleBatch(leaves)
    assert batch.root == naive_root(leaves)
    for index, leaf in enumerate(leaves):
        path = batch.path(index)
        verify_inclusion(leaf_hash(leaf), index=index, tree_size=size, path=path, root=batch.root)


@given(SIZES, st.integers(0, 69))
def test_a_frontier_grows_as_the_log_does(size: int, cut: int) -> None:
    entries = entries_of(size)
    cut %= size
    leaves = [leaf_hash(entry) for entry in entries]
    frontier = log_of(entries).frontier(cut)
    assert frontier == Frontier().append(leaves[:cut])
    assert frontier.append(leaves[cut:]).root() == naive_root(entries)


@settings(max_examples=40)
@given(PATHS, PATHS)
def test_state_roots_by_definition_whatever_the_order(first: dict[bytes, bytes], second: dict[bytes, bytes]) -> None:
    together = {**first, **second}
    assert StateTree(first).updated(second).root == naive_state_root(together)
    assert StateTree(dict(reversed(together.items()))).root == naive_state_root(together)
    assert dict(StateTree(together).items()) == together


@settings(max_examples=50)
@given(PATHS, PATHS)
def test_state_proofs_show_presence_and_absence(held: dict[bytes, bytes], asked: dict[bytes, bytes]) -> None:
    tree = StateTree(held)
    for path in {*held, *asked}:
        value, proof = tree.prove(path)
        assert value == held.get(path) == tree.get(path)
        if value is None:
            verify_absence(path=path, proof=proof, root=tree.root)
            with pytest.raises(ProofInvalid):
                verify_presence(path=path, value=b"", proof=proof, root=tree.root)
        else:
            verify_presence(path=path, value=value, proof=proof, root=tree.root)
            with pytest.raises(ProofInvalid):
                verify_absence(path=path, proof=proof, root=tree.root)
            with pytest.raises(ProofInvalid):
                verify_presence(path=path, value=value + b"x", proof=proof, root=tree.root)


def test_a_neighbour_off_the_way_proves_no_absence() -> None:
    low, high = filler(0), filler(255)
    tree = StateTree({low: b"1", high: b"2"})
    # The proof of `low` as present, passed off as a neighbour of a path on the other side.
    _, proof = tree.prove(low)
    forged = StateProof(proof.siblings, (low, hashlib.sha256(b"1").digest()))
    with pytest.raises(ProofInvalid, match="on the way"):
        verify_absence(path=filler(254), proof=forged, root=tree.root)
    with pytest.raises(ProofInvalid, match="path itself"):
        verify_absence(path=low, proof=forged, root=tree.root)


def test_an_update_leaves_the_older_tree_as_it_was() -> None:
    older = StateTree({filler(1): b"a"})
    root = older.root
    older.updated({filler(1): b"b", filler(2): b"c"})
    assert (older.root, older.get(filler(1)), older.get(filler(2))) == (root, b"a", None)


@pytest.mark.parametrize("bad", [b"", bytes(31), bytes(33)])
def test_hashes_of_a_wrong_length_are_refused(bad: bytes) -> None:
    with pytest.raises(ProofInvalid, match="32 bytes"):
        verify_inclusion(bytes(32), index=0, tree_size=2, path=[bad], root=bytes(32))
    with pytest.raises(ProofInvalid, match="32 bytes"):
        verify_presence(path=bytes(32), value=b"", proof=StateProof((bad,)), root=bytes(32))


LEAVES = [leaf_hash(entry) for entry in entries_of(5)]
PAIR = node_hash(LEAVES[0], LEAVES[1])


@pytest.mark.parametrize("index", [-1, 1, 5])
def test_an_index_outside_the_tree_is_refused_even_with_an_empty_path(index: int) -> None:
    with pytest.raises(ProofInvalid, match="outside"):
        verify_inclusion(LEAVES[0], index=index, tree_size=1, path=[], root=LEAVES[0])


def test_an_inclusion_path_that_stops_early_fails_even_under_a_matching_root() -> None:
    with pytest.raises(ProofInvalid, match="below"):
        verify_inclusion(LEAVES[0], index=0, tree_size=4, path=[LEAVES[1]], root=PAIR)


@pytest.mark.parametrize(
    ("old_size", "old_root", "new_size", "new_root", "path"),
    [
        (2, PAIR, 1, LEAVES[0], []),
        (2, PAIR, 1, PAIR, []),
        (-1, PAIR, 1, LEAVES[0], []),
        (2, PAIR, 2, PAIR, [LEAVES[0]]),
        (0, naive_root([]), 2, PAIR, [LEAVES[0]]),
        (2, PAIR, 2, LEAVES[0], []),
        (0, LEAVES[0], 2, PAIR, []),
        (3, PAIR, 5, PAIR, []),
        # Longer and shorter than the trees are high, each under roots that fit the path.
        (1, node_hash(LEAVES[2], LEAVES[0]), 2, node_hash(LEAVES[2], PAIR), [LEAVES[0], LEAVES[1], LEAVES[2]]),
        (2, node_hash(LEAVES[2], PAIR), 4, node_hash(LEAVES[2], node_hash(PAIR, LEAVES[3])), [LEAVES[3], LEAVES[2]]),
        (1, LEAVES[0], 4, PAIR, [LEAVES[1]]),
        (1, LEAVES[0], 2, PAIR, [bytes(31)]),
    ],
)
def test_forged_consistency_is_refused(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: list[bytes]
) -> None:
    with pytest.raises(ProofInvalid):
        verify_consistency(old_size=old_size, old_root=old_root, new_size=new_size, new_root=new_root, path=path)


def test_a_consistency_path_longer_than_the_tree_fails_under_matching_roots() -> None:
    # Sizes 3 and 4: the sound path is leaf 2, leaf 3, the pair before them.
    old, new = naive_root(entries_of(3)), naive_root(entries_of(4))
    path = list(log_of(entries_of(4)).consistency(3, 4))
    verify_consistency(old_size=3, old_root=old, new_size=4, new_root=new, path=path)
    stray = filler(9)
    with pytest.raises(ProofInvalid, match="longer"):
        verify_consistency(
            old_size=3,
            old_root=node_hash(stray, old),
            new_size=4,
            new_root=node_hash(stray, new),
            path=[*path, stray],
        )


def test_a_state_path_ends_at_256_bits() -> None:
    with pytest.raises(ProofInvalid, match="longer"):
        verify_presence(path=bytes(32), value=b"", proof=StateProof((bytes(32),) * 257), root=bytes(32))
    forged = StateProof((bytes(32),) * 257, (filler(1), filler(2)))
    with pytest.raises(ProofInvalid, match="on the way"):
        verify_absence(path=bytes(32), proof=forged, root=bytes(32))


def test_a_proof_of_presence_carries_no_neighbour() -> None:
    tree = StateTree({filler(1): b"a", filler(200): b"b"})
    _, proof = tree.prove(filler(1))
    spare = StateProof(proof.siblings, (filler(1), filler(2)))
    with pytest.raises(ProofInvalid, match="no neighbour"):
        verify_presence(path=filler(1), value=b"a", proof=spare, root=tree.root)


@pytest.mark.parametrize("leaves", [[], [bytes(31)], [bytes(32), bytes(33)]])
def test_a_batch_takes_hashes_only(leaves: list[bytes]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        MerkleBatch(leaves)


def test_proofs_are_not_given_for_what_is_not_there() -> None:
    log = log_of(entries_of(3))
    for index, size in ((3, 3), (-1, 3), (0, 4)):
        with pytest.raises(ProofInvalid):
            log.inclusion(index, size)
    for old, new in ((2, 1), (0, 4), (-1, 2)):
        with pytest.raises(ProofInvalid):
            log.consistency(old, new)
    with pytest.raises(ProofInvalid):
        MerkleBatch([bytes(32)]).path(1)
