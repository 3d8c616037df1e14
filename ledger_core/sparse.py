"""Compact sparse Merkle tree over current state; proves presence and absence.

Immutable: a change gives a new tree that shares what did not change, so a
reader keeps a consistent state while the writer goes on, and the machine stays
pure. Paths are 256 bits, most significant bit first. An empty subtree is 32
zero bytes, a subtree with one leaf is that leaf, any other is the hash of its
two halves; a suite says which hash (hashing.TREE_SUITES).

In memory a subtree of at most 8 leaves is one bucket: paths and leaf hashes
packed in order, values by reference, inner hashes computed when a proof asks.
A million keys are 360,000 tuples instead of 2.4 million linked objects.

The ledger's state is only overwritten, never deleted: a withdrawn consent stays
present as withdrawn. Removal is here to look back, at paths not yet born.

Invariants:
    * root and proofs depend on contents and suite only, not on what led there;
    * a subtree is a bucket exactly when it has 1 to 8 leaves.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, TypeAlias

from ledger_core.hashing import (
    EMPTY_STATE,
    HASH_BYTES,
    STATE_LEAF,
    STATE_NODE,
    TREE_SHA256,
)
from ledger_core.proofs import StateProof
from ledger_core.quickhash import quick_suite

BUCKET_LEAVES: Final = 8

_Hash: TypeAlias = Callable[[bytes], bytes]
_Change: TypeAlias = tuple[bytes, bytes | None]


class StateTree:
    """A mapping from 32-byte paths to values, with a root and proofs."""

    __slots__ = ("_hash", "_suite", "_top")

    def __init__(self, contents: Mapping[bytes, bytes] | None = None, *, suite: int = TREE_SHA256) -> None:
        """Build a tree over ``contents``.

        Raises:
            NotCanonical: The suite is unknown.
            ValueError: A path is not 32 bytes.
        """
        self._suite, self._hash = suite, quick_suite(suite)
        self._top: _Tree = _load(sorted((contents or {}).items()), self._hash)

    @classmethod
    def from_sorted(cls, rows: Iterable[tuple[bytes, bytes]], *, suite: int = TREE_SHA256) -> "StateTree":
        """Build a tree from (path, value) rows that come in order of path, about 5 µs each.

        Rows are taken up as they come; no more than 1/256 of evenly spread paths is held beside the tree.

        Raises:
            NotCanonical: The suite is unknown.
            ValueError: A path is not 32 bytes, or not above the one before it.
        """
        tree = cls(suite=suite)
        tree._top = _load(rows, tree._hash)
        return tree

    @property
    def suite(self) -> int:
        return self._suite

    @property
    def root(self) -> bytes:
        return self._top[0]

    def __len__(self) -> int:
        return self._top[3]

    def get(self, path: bytes) -> bytes | None:
        """Return the value at ``path``, or None.

        Raises:
            ValueError: The path is not 32 bytes.
        """
        _check_path(path)
        node, depth = self._top, 0
        while len(node) == 4:
            node = node[2] if path[depth >> 3] >> (7 - (depth & 7)) & 1 else node[1]
            depth += 1
        at = _find(node[1], path)
        return None if at < 0 else node[4][at]

    def updated(self, updates: Mapping[bytes, bytes]) -> "StateTree":
        """Return the tree with these values written, in one pass; nothing is hashed for equal values."""
        return self.changed(updates)

    def without(self, paths: Iterable[bytes]) -> "StateTree":
        """Return the tree without what stands at these paths, if anything does."""
        return self.changed(dict.fromkeys(paths))

    def changed(self, changes: Mapping[bytes, bytes | None]) -> "StateTree":
        """Return the tree with these values written, and nothing where the value is None.

        One pass over the subtrees that differ: a few hashes per path less than log2(n) when many come together.

        Raises:
            ValueError: A path is not 32 bytes.
        """
        if not changes:
            return self
        for path in changes:
            _check_path(path)
        top = _changed(self._top, sorted(changes.items()), 0, self._hash)
        return self if top is self._top else self._with(top)

    def rehashed(self, suite: int) -> "StateTree":
        """Return the same contents as a tree of another suite; hashes every value once.

        Raises:
            NotCanonical: The suite is unknown.
        """
        tree = StateTree(suite=suite)
        tree._top = _rehashed(self._top, 0, tree._hash)
        return tree

    def prove(self, path: bytes) -> tuple[bytes | None, StateProof]:
        """Return the value at ``path`` (None if absent) and the proof of just that.

        Raises:
            ValueError: The path is not 32 bytes.
        """
        _check_path(path)
        siblings: list[bytes] = []
        node, depth = self._top, 0
        while len(node) == 4:
            _, left, right, _ = node
            if path[depth >> 3] >> (7 - (depth & 7)) & 1:
                siblings.append(left[0])
                node = right
            else:
                siblings.append(right[0])
                node = left
            depth += 1
        at = _walk(node, path, siblings, self._hash)
        if at < 0:
            return None, StateProof(tuple(siblings))
        met, value = node[1][at * HASH_BYTES : (at + 1) * HASH_BYTES], node[4][at]
        if met == path:
            return value, StateProof(tuple(siblings))
        return None, StateProof(tuple(siblings), (met, self._hash(value)))

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every (path, value) in order of path."""
        stack: list[_Tree] = [self._top]
        while stack:
            node = stack.pop()
            if len(node) == 4:
                stack += (node[2], node[1])
            else:
                yield from zip(_unpacked(node[1]), node[4], strict=True)

    def _with(self, top: "_Tree") -> "StateTree":
        tree = StateTree.__new__(StateTree)
        tree._suite, tree._hash, tree._top = self._suite, self._hash, top
        return tree


# Plain tuples, because the garbage collector stops tracking those that hold only bytes, integers and
# such tuples. As objects with slots a million keys were walked again and again: updates ran at half the rate
# (2026-11). Both kinds begin with the subtree's hash and have the number of leaves at index 3.

# (hash at the depth where it stands, paths, leaf hashes, count, values): 0 to 8 leaves in order of path.
_Bucket: TypeAlias = tuple[bytes, bytes, bytes, int, tuple[bytes, ...]]
# (hash, left half, right half, count): more than 8 leaves, in any shares.
_Node: TypeAlias = "tuple[bytes, _Tree, _Tree, int]"
_Tree: TypeAlias = "_Bucket | _Node"

_EMPTY: Final[_Bucket] = (EMPTY_STATE, b"", b"", 0, ())


def _load(rows: Iterable[tuple[bytes, bytes]], digest: _Hash) -> _Tree:
    """Build one subtree for each first byte, then join these 256."""
    row: list[_Tree] = [_EMPTY] * 256
    last = b""
    for first, group in groupby(rows, key=lambda item: item[0][:1]):
        paths, values = zip(*group, strict=True)
        for path in paths:
            if path <= last or len(path) != HASH_BYTES:
                raise ValueError("paths must be 32 bytes, each above the one before it")
            last = path
        row[first[0]] = _build(b"".join(paths), values, _leaf_hashes(paths, values, digest), 8, digest)
    while len(row) > 1:
        row = [_joined(row[at], row[at + 1], digest) for at in range(0, len(row), 2)]
    return row[0]


def _leaf_hashes(paths: Iterable[bytes], values: Iterable[bytes], digest: _Hash) -> bytes:
    """Return the packed leaf hashes."""
    return b"".join([digest(STATE_LEAF + path + digest(value)) for path, value in zip(paths, values, strict=True)])


def _build(paths: bytes, values: tuple[bytes, ...], leaves: bytes, depth: int, digest: _Hash) -> _Tree:
    """Return the subtree at ``depth`` of leaves in order, which share that many bits."""
    count = len(values)
    if count <= BUCKET_LEAVES:
        return _fold(paths, leaves, 0, count, depth, digest), paths, leaves, count, values
    middle = _split(paths, 0, count, depth)
    cut = middle * HASH_BYTES
    left = _build(paths[:cut], values[:middle], leaves[:cut], depth + 1, digest)
    right = _build(paths[cut:], values[middle:], leaves[cut:], depth + 1, digest)
    return _joined(left, right, digest)


def _joined(left: _Tree, right: _Tree, digest: _Hash) -> _Tree:
    """Return the subtree with these halves."""
    count = left[3] + right[3]
    if count < 2:
        return left if left[3] else right
    above = digest(STATE_NODE + left[0] + right[0])
    if count > BUCKET_LEAVES or len(left) == 4 or len(right) == 4:
        return above, left, right, count
    return above, left[1] + right[1], left[2] + right[2], count, left[4] + right[4]


def _changed(node: _Tree, changes: Sequence[_Change], depth: int, digest: _Hash) -> _Tree:
    """Return the subtree at ``depth`` after ``changes``, one or more, by path; the same object if nothing differs."""
    if len(changes) == 1:
        return _changed_at(node, *changes[0], depth, digest)
    if len(node) != 4:
        return _changed_bucket(node, changes, depth, digest)
    _, old_left, old_right, _ = node
    at, mask = depth >> 3, 0x80 >> (depth & 7)
    # Changes are in order, so the first and the last of them often say it all.
    if changes[0][0][at] & mask:
        middle = 0
    elif not changes[-1][0][at] & mask:
        middle = len(changes)
    else:
        middle = bisect_left(changes, mask, 1, len(changes) - 1, key=lambda change: change[0][at] & mask)
    left = _changed(old_left, changes[:middle], depth + 1, digest) if middle else old_left
    right = _changed(old_right, changes[middle:], depth + 1, digest) if middle < len(changes) else old_right
    if left is old_left and right is old_right:
        return node
    return _joined(left, right, digest)


def _changed_at(top: _Tree, path: bytes, value: bytes | None, depth: int, digest: _Hash) -> _Tree:
    """Do as ``_changed`` for a single path, without recursion."""
    trail: list[tuple[int, _Node]] = []
    node = top
    while len(node) == 4:
        bit = path[depth >> 3] >> (7 - (depth & 7)) & 1
        trail.append((bit, node))
        node = node[2] if bit else node[1]
        depth += 1
    below = _spliced(node, path, value, depth, digest)
    if below is node:
        return top
    for bit, (_, left, right, _) in reversed(trail):
        below = _joined(left, below, digest) if bit else _joined(below, right, digest)
    return below


def _spliced(bucket: _Bucket, path: bytes, value: bytes | None, depth: int, digest: _Hash) -> _Tree:
    """Return the bucket with one leaf written, put in or taken out; the same object if nothing differs."""
    _, paths, leaves, _, values = bucket
    at = _find(paths, path)
    if value == (None if at < 0 else values[at]):
        return bucket
    after = at + 1
    if at < 0:
        at = after = bisect_left(_unpacked(paths), path)
    begin, end = at * HASH_BYTES, after * HASH_BYTES
    new_path = new_leaf = b""
    new_value: tuple[bytes, ...] = ()
    if value is not None:
        new_path, new_value, new_leaf = path, (value,), digest(STATE_LEAF + path + digest(value))
    paths = paths[:begin] + new_path + paths[end:]
    leaves = leaves[:begin] + new_leaf + leaves[end:]
    values = values[:at] + new_value + values[after:]
    return _build(paths, values, leaves, depth, digest)


def _changed_bucket(bucket: _Bucket, changes: Sequence[_Change], depth: int, digest: _Hash) -> _Tree:
    pairs = zip(bucket[4], _unpacked(bucket[2]), strict=True)
    held = dict(zip(_unpacked(bucket[1]), pairs, strict=True))
    differs = False
    for path, value in changes:
        old = held.get(path)
        if value is None and old is not None:
            del held[path]
            differs = True
        elif value is not None and (old is None or old[0] != value):
            held[path] = value, digest(STATE_LEAF + path + digest(value))
            differs = True
    if not differs:
        return bucket
    paths = sorted(held)
    values = tuple([held[path][0] for path in paths])
    leaves = b"".join([held[path][1] for path in paths])
    return _build(b"".join(paths), values, leaves, depth, digest)


def _rehashed(node: _Tree, depth: int, digest: _Hash) -> _Tree:
    if len(node) == 4:
        return _joined(_rehashed(node[1], depth + 1, digest), _rehashed(node[2], depth + 1, digest), digest)
    _, paths, _, count, values = node
    leaves = _leaf_hashes(_unpacked(paths), values, digest)
    return _fold(paths, leaves, 0, count, depth, digest), paths, leaves, count, values


def _walk(bucket: _Bucket, path: bytes, siblings: list[bytes], digest: _Hash) -> int:
    """Append the siblings met inside the bucket; return which leaf the walk ends at, or -1 for an empty place."""
    _, paths, leaves, end, _ = bucket
    begin = 0
    while end - begin > 1:
        depth = len(siblings)
        middle = _split(paths, begin, end, depth)
        if path[depth >> 3] >> (7 - (depth & 7)) & 1:
            siblings.append(_fold(paths, leaves, begin, middle, depth + 1, digest))
            begin = middle
        else:
            siblings.append(_fold(paths, leaves, middle, end, depth + 1, digest))
            end = middle
    return begin if begin < end else -1


def _fold(paths: bytes, leaves: bytes, begin: int, end: int, depth: int, digest: _Hash) -> bytes:
    """Return the hash of the subtree at ``depth`` that holds leaves begin..end."""
    if end - begin < 2:
        return leaves[begin * HASH_BYTES : end * HASH_BYTES] or EMPTY_STATE
    # Looked for one by one: for the few leaves of a bucket quicker than _split.
    at, mask, middle = depth >> 3, 0x80 >> (depth & 7), begin
    while middle < end and not paths[middle * HASH_BYTES + at] & mask:
        middle += 1
    cut = middle * HASH_BYTES
    if middle - begin < 2:
        left = leaves[begin * HASH_BYTES : cut] or EMPTY_STATE
    else:
        left = _fold(paths, leaves, begin, middle, depth + 1, digest)
    if end - middle < 2:
        return digest(STATE_NODE + left + (leaves[cut : end * HASH_BYTES] or EMPTY_STATE))
    return digest(STATE_NODE + left + _fold(paths, leaves, middle, end, depth + 1, digest))


def _split(paths: bytes, begin: int, end: int, depth: int) -> int:
    """Return the first of begin..end (sorted, not empty) whose bit at ``depth`` is set, or ``end``."""
    mask = 0x80 >> (depth & 7)
    column = paths[begin * HASH_BYTES + (depth >> 3) : end * HASH_BYTES : HASH_BYTES]
    # The bits above are shared, so bytes with this bit set follow those without.
    return begin + bisect_left(column, column[0] & -mask | mask)


def _check_path(path: bytes) -> None:
    if len(path) != HASH_BYTES:
        raise ValueError("a path must be 32 bytes")


def _find(paths: bytes, path: bytes) -> int:
    """Return the place of ``path`` among packed paths, or -1."""
    at = paths.find(path)
    while at >= 0 and at % HASH_BYTES:
        at = paths.find(path, at + 1)
    return at // HASH_BYTES if at >= 0 else -1


def _unpacked(packed: bytes) -> list[bytes]:
    return [packed[at : at + HASH_BYTES] for at in range(0, len(packed), HASH_BYTES)]
