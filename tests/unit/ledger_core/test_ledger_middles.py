"""Proofs from tiles met for the first time, through the tile's middle: never from what does not lead to the root."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.errors import IntegrityBroken
from ledger_core.log import Tile, TiledLog
from ledger_core.middles import middle_of
from ledger_core.proofs import verify_inclusion
from tests.support.naive_trees import hashes_root, sha, tile_middle

LEAVES = [sha(b"leaf %d" % number) for number in range(1_100)]
SIZE = 1_000
ROOT = hashes_root(LEAVES[:SIZE])


class Shelf:
    """Tiles and middles in dicts, and which were read."""

    def __init__(self) -> None:
        self.tiles: dict[tuple[int, int], bytes] = {}
        self.middles: dict[int, bytes] = {}
        self.reads: list[object] = []

    def read(self, level: int, index: int) -> bytes | None:
        self.reads.append((level, index))
        return self.tiles.get((level, index))

    def read_middle(self, index: int) -> bytes | None:
        self.reads.append(index)
        return self.middles.get(index)

    def keep(self, tiles: Sequence[Tile]) -> None:
        self.tiles.update({(tile.level, tile.index): tile.hashes for tile in tiles})
        self.middles.update({tile.index: tile.middle for tile in tiles if tile.middle})

    def open(self, *, size: int = SIZE, cache_tiles: int = 1024) -> TiledLog:
        log = TiledLog(self.read, size, cache_tiles=cache_tiles, read_middle=self.read_middle)
        self.reads.clear()
        return log


def filled(size: int = SIZE, step: int = 300) -> Shelf:
    shelf = Shelf()
    log = shelf.open(size=0)
    while log.size < size:
        tiles = log.grow(LEAVES[log.size : min(size, log.size + step)])
        shelf.keep(tiles)
        log.publish(tiles, min(size, log.size + step))
    return shelf


def check(log: TiledLog, index: int, size: int = SIZE, root: bytes = ROOT) -> None:
    path = log.inclusion(index, size)
    verify_inclusion(LEAVES[index], index=index, tree_size=size, path=path, root=root)


@pytest.mark.parametrize("step", [1, 255, 256, 257, 700])
def test_every_full_tile_of_the_lowest_level_comes_with_its_middle(step: int) -> None:
    shelf = filled(step=step)
    full = {at: b"".join(LEAVES[256 * at : 256 * at + 256]) for at in range(SIZE // 256)}
    assert shelf.middles == {at: tile_middle(hashes) for at, hashes in full.items()}
    assert shelf.middles == {at: middle_of(hashes) for at, hashes in full.items()}


@given(st.integers(257, 1_100), st.data())
def test_proofs_are_true_however_often_a_tile_was_met(size: int, data: st.DataObject) -> None:
    log = filled(size).open(size=size, cache_tiles=data.draw(st.integers(0, 3)))
    at = data.draw(st.integers(257, size))
    root = hashes_root(LEAVES[:at])
    for index in data.draw(st.lists(st.integers(0, at - 1), min_size=1, max_size=8)):
        check(log, index, at, root)


def test_every_place_of_a_tile_is_proved_through_its_middle() -> None:
    shelf = filled()
    for place in range(256):
        log = shelf.open()
        check(log, 256 + place)
        assert shelf.reads == [1, (0, 1)]


def test_a_tile_is_expanded_when_met_again_and_then_kept() -> None:
    shelf = filled()
    log = shelf.open(cache_tiles=2)
    for expected in ([1, (0, 1)], [(0, 1)], [], []):
        check(log, 300)
        assert shelf.reads == expected
        shelf.reads.clear()


def test_what_was_met_too_long_ago_is_forgotten() -> None:
    shelf = filled()
    log = shelf.open(cache_tiles=1)
    for index in (0, 256, 0):
        check(log, index)
    assert shelf.reads == [0, (0, 0), 1, (0, 1), 0, (0, 0)]


def test_a_missing_middle_costs_nothing_but_time() -> None:
    shelf = filled()
    del shelf.middles[1]
    check(shelf.open(), 300)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda middle: bytes(32) + middle[32:],
        lambda middle: middle[:-32] + bytes(32),
        lambda middle: middle[:-32],
        lambda middle: middle + bytes(32),
        lambda middle: b"",
        lambda middle: middle[32:] + middle[:32],
    ],
    ids=["own", "other", "short", "long", "empty", "turned"],
)
def test_a_false_middle_is_refused(spoil: Callable[[bytes], bytes]) -> None:
    shelf = filled()
    shelf.middles[1] = spoil(shelf.middles[1])
    with pytest.raises(IntegrityBroken):
        shelf.open().inclusion(256, SIZE)


def test_a_false_hash_beside_the_one_asked_for_is_refused() -> None:
    for false in range(16):
        shelf = filled()
        hashes = bytearray(shelf.tiles[0, 1])
        hashes[32 * false] ^= 1
        shelf.tiles[0, 1] = bytes(hashes)
        with pytest.raises(IntegrityBroken):
            shelf.open().inclusion(256, SIZE)
        # Elsewhere in the tile it enters nothing that is served, until the tile is taken whole.
        log = shelf.open()
        check(log, 256 + 16)
        with pytest.raises(IntegrityBroken):
            log.inclusion(256 + 16, SIZE)


def test_another_tile_with_its_own_middle_is_refused() -> None:
    shelf = filled()
    shelf.tiles[0, 1], shelf.middles[1] = shelf.tiles[0, 2], shelf.middles[2]
    with pytest.raises(IntegrityBroken, match="tile 0/1 is not what the tile above it says"):
        shelf.open().inclusion(300, SIZE)


@pytest.mark.parametrize("hashes", [None, b"", bytes(8160)], ids=["missing", "empty", "short"])
def test_a_missing_or_short_tile_is_refused(hashes: bytes | None) -> None:
    shelf = filled()
    del shelf.tiles[0, 1]
    if hashes is not None:
        shelf.tiles[0, 1] = hashes
    with pytest.raises(IntegrityBroken, match="tile 0/1 "):
        shelf.open().inclusion(300, SIZE)
