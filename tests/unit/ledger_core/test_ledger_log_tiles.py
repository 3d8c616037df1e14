"""The log in tiles, against the plain recursion of RFC 9162 and the published RFC 6962 vectors."""

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.errors import IntegrityBroken, ProofInvalid
from ledger_core.log import Frontier, Tile, TiledLog, tile_root
from ledger_core.proofs import verify_consistency, verify_inclusion

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "ledger" / "published.json").read_text("utf-8"))

# Around a full tile, a full row of pairs, and the first and second hash of the level above.
EDGE_SIZES = [0, 1, 2, 3, 127, 128, 129, 255, 256, 257, 511, 512, 513, 768, 1000]
SIZES = st.one_of(st.integers(0, 1100), st.sampled_from(EDGE_SIZES))
CUTS = st.lists(st.one_of(st.just(1), st.integers(0, 600)), max_size=8)


def leaf(number: int) -> bytes:
    return hashlib.sha256(b"leaf %d" % number).digest()


LEAVES = [leaf(number) for number in range(66_000)]


def naive(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162 section 2.1.1 from leaf hashes on."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + naive(leaves[:split]) + naive(leaves[split:])).digest()


class Shelf:
    """Tiles in a dict, and how often each was read."""

    def __init__(self) -> None:
        self.tiles: dict[tuple[int, int], bytes] = {}
        self.reads: list[tuple[int, int]] = []

    def read(self, level: int, index: int) -> bytes | None:
        self.reads.append((level, index))
        return self.tiles.get((level, index))

    def keep(self, tiles: Sequence[Tile]) -> None:
        self.tiles.update({(tile.level, tile.index): tile.hashes for tile in tiles})


def grown(size: int, steps: Sequence[int] = (), *, cache_tiles: int = 1024) -> tuple[Shelf, TiledLog]:
    """A log of ``size``, grown in blocks of ``steps`` leaves and then the rest at once."""
    shelf = Shelf()
    log = TiledLog(shelf.read, 0, cache_tiles=cache_tiles)
    for step in [*steps, size]:
        stop = min(size, log.size + step)
        tiles = log.grow(LEAVES[log.size : stop])
        shelf.keep(tiles)
        log.publish(tiles, stop)
    assert log.size == size
    return shelf, log


@pytest.mark.parametrize("size", range(9))
def test_roots_of_the_certificate_transparency_vectors_from_tiles(size: int) -> None:
    vectors = VECTORS["rfc6962"]
    leaves = [hashlib.sha256(b"\x00" + bytes.fromhex(item)).digest() for item in vectors["leaves"]]
    log = TiledLog(Shelf().read, 0)
    log.publish(log.grow(leaves), len(leaves))
    assert log.root(size) == bytes.fromhex(vectors["roots"][size - 1] if size else vectors["empty"])


@given(SIZES, CUTS)
def test_stored_tiles_are_what_c2sp_says(size: int, steps: list[int]) -> None:
    """C2SP: tile n of level l holds MTH(D[(n * 256 + i) * 256**l : (n * 256 + i + 1) * 256**l])."""
    shelf, _ = grown(size, steps)
    expected: dict[tuple[int, int], bytes] = {}
    span, level = 1, 0
    while size // span:
        row = [naive(LEAVES[at * span : (at + 1) * span]) for at in range(size // span)]
        expected |= {(level, at // 256): b"".join(row[at : at + 256]) for at in range(0, len(row), 256)}
        span, level = span * 256, level + 1
    assert shelf.tiles == expected


@given(SIZES, CUTS, st.booleans(), st.data())
def test_every_proof_of_every_published_size(size: int, steps: list[int], reopen: bool, data: st.DataObject) -> None:
    shelf, log = grown(size, steps)
    if reopen:
        log = TiledLog(shelf.read, size, cache_tiles=1)
    at = data.draw(st.one_of(st.integers(0, size), st.just(size)))
    root = naive(LEAVES[:at])
    assert log.root(at) == root
    assert log.frontier(at) == Frontier().append(LEAVES[:at])
    old = data.draw(st.integers(0, at))
    consistency = log.consistency(old, at)
    verify_consistency(old_size=old, old_root=naive(LEAVES[:old]), new_size=at, new_root=root, path=consistency)
    for index in {0, at // 2, at - 1, data.draw(st.integers(0, max(at - 1, 0)))} - {-1} if at else ():
        path = log.inclusion(index, at)
        verify_inclusion(LEAVES[index], index=index, tree_size=at, path=path, root=root)
        assert log.leaf(index) == LEAVES[index]


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 65_792, 65_793])
def test_around_the_third_level(size: int) -> None:
    shelf, log = grown(size, [65_535])
    opened = TiledLog(shelf.read, size)
    for at in (size, 65_535, 65_280, 1):
        root = Frontier().append(LEAVES[:at]).root()
        assert log.root(at) == opened.root(at) == root
        for index in (0, at // 3, at - 1):
            path = opened.inclusion(index, at)
            assert path == log.inclusion(index, at)
            verify_inclusion(LEAVES[index], index=index, tree_size=at, path=path, root=root)
    widths = [len(shelf.tiles[level, (size >> 8 * level) - 1 >> 8]) // 32 for level in range(3 if size >> 16 else 2)]
    assert widths == [((size >> 8 * level) - 1) % 256 + 1 for level in range(len(widths))]
    assert ((2, 0) in shelf.tiles) == (size >= 65_536)


def test_one_more_leaf_changes_one_tile() -> None:
    _, log = grown(700, [1] * 5)
    assert [(tile.level, tile.index, tile.width) for tile in log.grow([LEAVES[700]])] == [(0, 2, 189)]
    _, log = grown(767)
    assert [(tile.level, tile.index, tile.width) for tile in log.grow([LEAVES[767]])] == [(0, 2, 256), (1, 0, 3)]


def test_growing_publishes_nothing() -> None:
    shelf, log = grown(300)
    before = log.root(300)
    log.grow(LEAVES[400:500])
    assert (log.size, log.root(300)) == (300, before)
    tiles = log.grow(LEAVES[300:520])
    shelf.keep(tiles)
    log.publish(tiles, 520)
    assert log.root(520) == naive(LEAVES[:520])


def test_tiles_grown_elsewhere_can_be_published() -> None:
    shelf, writer = grown(250)
    follower = TiledLog(shelf.read, 250)
    tiles = writer.grow(LEAVES[250:530])
    shelf.keep(tiles)
    follower.publish(tiles, 530)
    assert follower.root(530) == naive(LEAVES[:530])
    # A grow of other leaves in between must not lend its inner hashes to these.
    other = TiledLog(shelf.read, 530)
    wanted = other.grow(LEAVES[530:540])
    other.grow(LEAVES[600:620])
    other.publish(wanted, 540)
    assert other.root(540) == naive(LEAVES[:540])


@pytest.mark.parametrize(("told", "size"), [(530, 531), (530, 250), (530, 512), (530, 70_000), (250, 530)])
def test_tiles_that_do_not_lead_to_the_size_are_not_published(told: int, size: int) -> None:
    _, log = grown(250)
    tiles = log.grow(LEAVES[250:told])
    with pytest.raises(ValueError, match="do not lead"):
        log.publish(tiles, size)
    assert log.size == 250


def test_a_log_does_not_shrink() -> None:
    _, log = grown(600)
    for size in (0, 200, 599):
        with pytest.raises(ValueError, match="do not lead"):
            log.publish((), size)
    assert log.size == 600


def test_nothing_is_proved_for_what_is_not_there() -> None:
    _, log = grown(300)
    for index, size in ((300, 300), (-1, 300), (0, 301), (0, 0), (256, 256), (0, -1)):
        with pytest.raises(ProofInvalid):
            log.inclusion(index, size)
    for old, new in ((2, 1), (0, 301), (-1, 2)):
        with pytest.raises(ProofInvalid):
            log.consistency(old, new)
    for size in (-1, 301):
        with pytest.raises(ProofInvalid):
            log.root(size)
        with pytest.raises(ProofInvalid):
            log.frontier(size)
    for index in (-1, 300):
        with pytest.raises(ProofInvalid):
            log.leaf(index)


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (0, 2), (1, 0)])
@pytest.mark.parametrize("harm", ["missing", "short", "ragged", "long", "false"])
def test_a_harmed_tile_is_named(place: tuple[int, int], harm: str) -> None:
    shelf, log = grown(700)
    root, tile = log.root(700), shelf.tiles[place]
    harmed = {
        "short": tile[:-32],
        "ragged": tile[:-1],
        "long": tile + bytes(32 * 257 - len(tile)),
        "false": tile[:32] + bytes(32) + tile[64:],
    }
    if harm == "missing":
        del shelf.tiles[place]
    else:
        shelf.tiles[place] = harmed[harm]

    def open_and_prove() -> None:
        opened = TiledLog(shelf.read, 700)
        # Whoever opens compares this root with a signed one; only then is the edge sound.
        if opened.root(700) != root:
            raise IntegrityBroken(f"tile {place[0]}/{place[1]} of the edge")
        opened.inclusion(256 * place[1], 700)

    words = {"missing": "is missing", "false": "of the edge|is not what"}.get(harm, "has [0-9]+ bytes")
    with pytest.raises(IntegrityBroken, match=f"tile {place[0]}/{place[1]} ({words})"):
        open_and_prove()


def test_a_tile_of_the_edge_that_holds_half_a_hash_is_refused() -> None:
    shelf, _ = grown(700)
    shelf.tiles[0, 2] += b"half"
    with pytest.raises(IntegrityBroken, match="tile 0/2 has 6020 bytes"):
        TiledLog(shelf.read, 700)


@pytest.mark.parametrize("length", [0, 8160, 8224])
def test_only_a_full_tile_has_a_root(length: int) -> None:
    with pytest.raises(ValueError, match="full"):
        tile_root(bytes(length))
    assert tile_root(b"".join(LEAVES[:256])) == naive(LEAVES[:256])


def test_a_log_opens_at_a_smaller_size_than_its_tiles_reach() -> None:
    shelf, _ = grown(700)
    for size in (1, 255, 256, 511, 512, 699):
        log = TiledLog(shelf.read, size)
        assert log.root(size) == naive(LEAVES[:size])
        assert log.inclusion(0, size) == grown(size)[1].inclusion(0, size)


def test_the_cache_is_bounded_and_used() -> None:
    shelf, log = grown(256 * 6, cache_tiles=2)
    shelf.reads.clear()
    for _ in range(3):
        log.inclusion(5, 1536)
        log.inclusion(300, 1536)
    assert shelf.reads == [(0, 0), (0, 1)]
    # The tile used longest ago makes room, not the one read first.
    for index in (5, 600, 5, 300):
        log.inclusion(index, 1536)
    assert shelf.reads == [(0, 0), (0, 1), (0, 2), (0, 1)]


def test_readers_see_sound_proofs_while_a_writer_grows() -> None:
    shelf, log = grown(1)
    stop, failures = threading.Event(), list[BaseException]()
    roots = {0: Frontier().root()}
    frontier = Frontier()
    for number in range(3000):
        frontier = frontier.append([LEAVES[number]])
        roots[number + 1] = frontier.root()

    def read() -> None:
        number = 0
        try:
            while not stop.is_set():
                size = log.size
                number = (number * 31 + 7) % size
                path = log.inclusion(number, size)
                verify_inclusion(LEAVES[number], index=number, tree_size=size, path=path, root=roots[size])
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    while log.size < 3000:
        tiles = log.grow(LEAVES[log.size : log.size + 7][: 3000 - log.size])
        shelf.keep(tiles)
        log.publish(tiles, min(3000, log.size + 7))
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
