"""Roots and tiles by their definitions: recursive, computed anew each time, plainly right."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

from blake3 import blake3

NOTHING = bytes(32)
TREES: dict[int, Callable[[bytes], bytes]] = {
    1: lambda data: hashlib.sha256(data).digest(),
    2: lambda data: blake3(data).digest(),
}


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def tagged(domain: str, *parts: bytes) -> bytes:
    return bytes([len(domain)]) + domain.encode() + b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def log_root(entries: Sequence[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, as it stands there."""
    return hashes_root([sha(b"\x00" + entry) for entry in entries])


def hashes_root(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return sha(b"")
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha(b"\x01" + hashes_root(leaves[:split]) + hashes_root(leaves[split:]))


def log_tiles(entries: Sequence[bytes]) -> dict[tuple[int, int], bytes]:
    """C2SP tlog-tiles: level 0 holds leaf hashes, each level above the roots of full tiles below."""
    tiles: dict[tuple[int, int], bytes] = {}
    row, level = [sha(b"\x00" + entry) for entry in entries], 0
    while row:
        for index in range(0, len(row), 256):
            tiles[level, index // 256] = b"".join(row[index : index + 256])
        row = [hashes_root(row[end - 256 : end]) for end in range(256, len(row) + 1, 256)]
        level += 1
    return tiles


def tile_middle(hashes: bytes) -> bytes:
    """The roots of the sixteenths of a full tile."""
    row = [hashes[at : at + 32] for at in range(0, len(hashes), 32)]
    return b"".join(hashes_root(row[at : at + 16]) for at in range(0, 256, 16))


def state_root(contents: Mapping[bytes, bytes], suite: int = 1) -> bytes:
    hashed = TREES[suite]

    def subtree(items: list[tuple[bytes, bytes]], depth: int) -> bytes:
        if not items:
            return NOTHING
        if len(items) == 1:
            return hashed(b"\x10" + items[0][0] + hashed(items[0][1]))
        halves: tuple[list[tuple[bytes, bytes]], ...] = ([], [])
        for path, value in items:
            halves[path[depth // 8] >> 7 - depth % 8 & 1].append((path, value))
        return hashed(b"\x11" + subtree(halves[0], depth + 1) + subtree(halves[1], depth + 1))

    return subtree(list(contents.items()), 0)
