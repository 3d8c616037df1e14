"""Compact sparse Merkle tree over current state; proves presence and absence.

Immutable: an update returns a new tree that shares what did not change, so a
reader keeps a consistent state while the writer goes on, and the machine stays
pure. Paths are 256 bits, most significant bit first. A subtree with one leaf is
that leaf, so a tree of n random paths is about log2(n) high.

State is never deleted, only overwritten: a withdrawn consent stays present as
withdrawn. So there is no removal here.

Invariant: the root depends on the contents only, not on the order of updates.
"""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from ledger_core.hashing import EMPTY_STATE, HASH_BYTES, sha256, state_leaf_hash, state_node_hash
from ledger_core.proofs import StateProof


class _Leaf:
    __slots__ = ("hash", "path", "value")

    def __init__(self, path: bytes, value: bytes) -> None:
        self.path, self.value = path, value
        self.hash = state_leaf_hash(path, sha256(value))


class _Node:
    __slots__ = ("hash", "left", "right")

    def __init__(self, left: "_Tree", right: "_Tree") -> None:
        self.left, self.right = left, right
        self.hash = state_node_hash(_hash(left), _hash(right))


_Tree: TypeAlias = _Leaf | _Node | None
_Items: TypeAlias = list[tuple[bytes, bytes]]


class StateTree:
    """A mapping from 32-byte paths to values, with a root and proofs."""

    __slots__ = ("_top",)

    def __init__(self, contents: Mapping[bytes, bytes] | None = None) -> None:
        self._top: _Tree = _put(None, list((contents or {}).items()), 0)

    @property
    def root(self) -> bytes:
        return _hash(self._top)

    def get(self, path: bytes) -> bytes | None:
        """Return the value at ``path``, or None."""
        leaf = self._walk(path)[1]
        return leaf.value if leaf is not None and leaf.path == path else None

    def updated(self, updates: Mapping[bytes, bytes]) -> "StateTree":
        """Return the tree with these values written; costs about log2(n) hashes each."""
        if any(len(path) != HASH_BYTES for path in updates):
            raise ValueError("a path must be 32 bytes")
        tree = StateTree()
        tree._top = _put(self._top, list(updates.items()), 0)
        return tree

    def prove(self, path: bytes) -> tuple[bytes | None, StateProof]:
        """Return the value at ``path`` (None if absent) and the proof of just that."""
        siblings, leaf = self._walk(path)
        if leaf is None:
            return None, StateProof(siblings)
        if leaf.path == path:
            return leaf.value, StateProof(siblings)
        return None, StateProof(siblings, (leaf.path, sha256(leaf.value)))

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every (path, value) in order of path."""
        stack: list[_Tree] = [self._top]
        while stack:
            node = stack.pop()
            if isinstance(node, _Leaf):
                yield node.path, node.value
            elif node is not None:
                stack += (node.right, node.left)

    def _walk(self, path: bytes) -> tuple[tuple[bytes, ...], _Leaf | None]:
        siblings: list[bytes] = []
        node = self._top
        while isinstance(node, _Node):
            if _bit(path, len(siblings)):
                siblings.append(_hash(node.left))
                node = node.right
            else:
                siblings.append(_hash(node.right))
                node = node.left
        return tuple(siblings), node


def _put(node: _Tree, items: _Items, depth: int) -> _Tree:
    if not items:
        return node
    if isinstance(node, _Leaf):
        if all(path != node.path for path, _ in items):
            items = [*items, (node.path, node.value)]
        node = None
    if node is None and len(items) == 1:
        return _Leaf(*items[0])
    left: _Items = []
    right: _Items = []
    for item in items:
        (right if _bit(item[0], depth) else left).append(item)
    below_left, below_right = (None, None) if node is None else (node.left, node.right)
    return _Node(_put(below_left, left, depth + 1), _put(below_right, right, depth + 1))


def _hash(node: _Tree) -> bytes:
    return EMPTY_STATE if node is None else node.hash


def _bit(path: bytes, depth: int) -> int:
    return path[depth >> 3] >> (7 - (depth & 7)) & 1
