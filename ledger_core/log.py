"""The RFC 6962 history tree: a frontier to grow it, levels to prove from it, batches.

``Frontier`` is the immutable right edge that the pure machine carries.
``History`` keeps every complete node in memory (64 bytes per entry) and proves
any entry under any earlier size in logarithmic time. ``MerkleBatch`` is a tree
of fixed leaves, for roots that a single transaction anchors.

Invariant: all three give the root that RFC 9162 section 2.1.1 defines.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ledger_core.errors import ProofInvalid
from ledger_core.hashing import EMPTY_LOG, HASH_BYTES, leaf_hash, node_hash


@dataclass(frozen=True, slots=True)
class Frontier:
    """Roots of the complete subtrees that make up a tree, largest first."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def append(self, leaves: Iterable[bytes]) -> "Frontier":
        """Return the frontier after these leaf hashes."""
        size, peaks = self.size, list(self.peaks)
        for leaf in leaves:
            current, at = leaf, size
            while at & 1:
                current, at = node_hash(peaks.pop(), current), at >> 1
            peaks.append(current)
            size += 1
        return Frontier(size, tuple(peaks))

    def root(self) -> bytes:
        """Return the root hash; SHA-256 of nothing for an empty tree."""
        if not self.peaks:
            return EMPTY_LOG
        current = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            current = node_hash(peak, current)
        return current


class History:
    """All complete nodes of a growing tree; one writer, any number of readers.

    A reader may ask for any size that was complete when it began; appending
    only adds bytes behind what it reads.
    """

    def __init__(self) -> None:
        self._levels: list[bytearray] = [bytearray()]

    @property
    def size(self) -> int:
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash; costs one node hash on average."""
        level, current = 0, leaf
        while True:
            if level == len(self._levels):
                self._levels.append(bytearray())
            row = self._levels[level]
            row += current
            count = len(row) // HASH_BYTES
            if count & 1:
                return
            current = node_hash(self._node(level, count - 2), current)
            level += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        for leaf in leaves:
            self.append(leaf)

    def frontier(self) -> Frontier:
        """Return the right edge of this tree, to grow it elsewhere."""
        peaks, at = [], 0
        for level in range(self.size.bit_length() - 1, -1, -1):
            if self.size >> level & 1:
                peaks.append(self._node(level, at >> level))
                at += 1 << level
        return Frontier(self.size, tuple(peaks))

    def extended_root(self, leaves: Iterable[bytes]) -> bytes:
        """Return the root this tree would have after ``leaves``, without adding them."""
        return self.frontier().append(leaves).root()

    def leaf(self, index: int) -> bytes:
        """Return leaf hash ``index``."""
        return self._node(0, index)

    def root(self, size: int) -> bytes:
        """Return the root of the first ``size`` entries."""
        self._check(size)
        return self._subtree(0, size) if size else EMPTY_LOG

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Return the path of entry ``index`` in the tree of ``size``, lowest level first."""
        self._check(size)
        if not 0 <= index < size:
            raise ProofInvalid(f"index {index} lies outside a tree of {size}")
        path: list[bytes] = []
        level = 0
        while (1 << level) < size:
            sibling = (index >> level) ^ 1
            begin, end = sibling << level, (sibling + 1) << level
            if begin < size:
                path.append(self._node(level, sibling) if end <= size else self._subtree(begin, size))
            level += 1
        return tuple(path)

    def consistency(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """Return the proof that the tree of ``new_size`` continues that of ``old_size``."""
        self._check(new_size)
        if not 0 <= old_size <= new_size:
            raise ProofInvalid(f"a tree of {new_size} cannot continue one of {old_size}")
        if old_size in (0, new_size):
            return ()
        path: list[bytes] = []
        begin, end, whole = 0, new_size, True
        # RFC 9162 section 2.1.4.1, SUBPROOF, walked from the root down.
        while old_size != end:
            middle = begin + _split(end - begin)
            if old_size <= middle:
                path.append(self._subtree(middle, end))
                end = middle
            else:
                path.append(self._subtree(begin, middle))
                begin, whole = middle, False
        if not whole:
            path.append(self._subtree(begin, end))
        return tuple(reversed(path))

    def _subtree(self, begin: int, end: int) -> bytes:
        """Root of entries begin..end, where begin is a multiple of a power of two ≥ end − begin."""
        width = end - begin
        if width & (width - 1) == 0:
            return self._node(width.bit_length() - 1, begin // width)
        middle = begin + _split(width)
        return node_hash(self._subtree(begin, middle), self._subtree(middle, end))

    def _node(self, level: int, index: int) -> bytes:
        return bytes(self._levels[level][index * HASH_BYTES : (index + 1) * HASH_BYTES])

    def _check(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise ProofInvalid(f"the log has {self.size} entries, not {size}")


class MerkleBatch:
    """A tree over fixed 32-byte leaves (commitments), with a path for each.

    Every leaf is hashed as an entry, so an inner node cannot be passed off as
    a commitment.
    """

    def __init__(self, leaves: Sequence[bytes]) -> None:
        if not leaves or any(len(leaf) != HASH_BYTES for leaf in leaves):
            raise ValueError("a batch needs at least one leaf, each of 32 bytes")
        levels = [[leaf_hash(leaf) for leaf in leaves]]
        while len(levels[-1]) > 1:
            row = levels[-1]
            above = [node_hash(row[i], row[i + 1]) for i in range(0, len(row) - 1, 2)]
            if len(row) & 1:
                above.append(row[-1])
            levels.append(above)
        self._levels = levels

    @property
    def count(self) -> int:
        return len(self._levels[0])

    @property
    def root(self) -> bytes:
        return self._levels[-1][0]

    def path(self, index: int) -> tuple[bytes, ...]:
        """Return the siblings of leaf ``index``, lowest level first."""
        if not 0 <= index < self.count:
            raise ProofInvalid(f"index {index} lies outside a batch of {self.count}")
        siblings: list[bytes] = []
        for row in self._levels[:-1]:
            other = index ^ 1
            if other < len(row):
                siblings.append(row[other])
            index >>= 1
        return tuple(siblings)


def _split(width: int) -> int:
    """Largest power of two smaller than ``width``."""
    return 1 << ((width - 1).bit_length() - 1)
