"""Merkle trees by plain recursion: RFC 9162 section 2.1, its multiproofs, and the state tree."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

from tests.support.second_verifier.hashes import sha256, state_hash
from tests.support.second_verifier.refusal import Refused, require

EMPTY = bytes(32)


def leaf(entry: bytes) -> bytes:
    return sha256(b"\x00" + entry)


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right)


def split(size: int) -> int:
    """The largest power of two below ``size``."""
    return 1 << (size - 1).bit_length() - 1


def included_root(hashed: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that leaf hash ``hashed`` and its path, lowest level first, lead to."""
    require(0 <= index < size, "the index lies outside the tree")
    if size == 1:
        require(not path, "an inclusion path is too long")
        return hashed
    require(len(path) > 0, "an inclusion path is too short")
    left = split(size)
    if index < left:
        return node(included_root(hashed, index, left, path[:-1]), path[-1])
    return node(path[-1], included_root(hashed, index - left, size - left, path[:-1]))


def multi_root(leaves: Mapping[int, bytes], size: int, path: Sequence[bytes]) -> bytes:
    """The root that several leaf hashes and one multiproof lead to."""
    asked = sorted(leaves)
    require(bool(asked) and asked[0] >= 0 and asked[-1] < size, "an index lies outside the tree")
    given = iter(path)
    root = _walk(leaves, asked, 0, size, given)
    require(next(given, None) is None, "a multiproof is too long")
    return root


def _walk(leaves: Mapping[int, bytes], asked: list[int], start: int, size: int, given: Iterator[bytes]) -> bytes:
    if bisect_left(asked, start) == bisect_left(asked, start + size):
        hashed = next(given, None)
        if hashed is None:
            raise Refused("a multiproof is too short")
        return hashed
    if size == 1:
        return leaves[start]
    left = split(size)
    first = _walk(leaves, asked, start, left, given)
    return node(first, _walk(leaves, asked, start + left, size - left, given))


def state_root(
    suite: int, path: bytes, value: bytes | None, siblings: Sequence[bytes], neighbour: tuple[bytes, bytes] | None
) -> bytes:
    """The root of a state tree that holds ``value`` at ``path``, or nothing there."""
    bits = _bits(path)
    require(len(siblings) <= len(bits), "a state proof is too long")
    # A subtree with one leaf is that leaf and one with none is empty, so no walk goes on past either.
    require(not siblings or siblings[-1] != EMPTY, "a state proof goes deeper than the tree")
    if value is not None:
        require(neighbour is None, "a neighbour beside a value")
        current = _state_leaf(suite, path, state_hash(suite, value))
    elif neighbour is None:
        current = EMPTY
    else:
        other = _bits(neighbour[0])
        require(other != bits and other[: len(siblings)] == bits[: len(siblings)], "the neighbour is elsewhere")
        current = _state_leaf(suite, *neighbour)
    for bit, sibling in zip(reversed(bits[: len(siblings)]), reversed(siblings), strict=True):
        pair = sibling + current if bit == "1" else current + sibling
        current = state_hash(suite, b"\x11" + pair)
    return current


def _bits(path: bytes) -> str:
    return f"{int.from_bytes(path, 'big'):0256b}"


def _state_leaf(suite: int, path: bytes, value_hash: bytes) -> bytes:
    return state_hash(suite, b"\x10" + path + value_hash)
