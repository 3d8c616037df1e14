"""Static files of a log: the layout of C2SP tlog-tiles, read back by us, over HTTP and by tlog-scales."""

import contextlib
import gzip
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
from tlog_scales import tiles as scales_tiles
from tlog_scales.backend import LocalBackend
from tlog_scales.reader import TilesReader

from ledger_core.checkpoint import Checkpoint, sign_checkpoint
from ledger_core.errors import IntegrityBroken, LedgerLocked, LedgerUnavailable, NoteInvalid, NotFound
from ledger_core.keys import Identity
from ledger_core.log import TiledLog
from ledger_core.proofs import verify_consistency, verify_inclusion
from ledger_core.static import StaticLog, decode_bundle, encode_bundle, tile_path, write_static

LOG_KEY = Identity.from_private_bytes(bytes(range(32)))
ORIGIN = "log.example/static"
TIME_S = 1_700_000_000
# Around one tile, around the first hash of the level above, and two tiles.
SIZES = [1, 2, 255, 256, 257, 511, 512, 513, 700]


def entry(number: int) -> bytes:
    return b"entry %d " % number + bytes(number % 7)


def hashed(item: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + item).digest()


class Source:
    """A log in memory; ``spoil`` changes what it says of a tile or an entry."""

    def __init__(self, size: int, *, origin: str = ORIGIN, item: Callable[[int], bytes] = entry) -> None:
        self.size, self._item = size, item
        self._tiles: dict[tuple[int, int], bytes] = {}
        self.log = TiledLog(lambda level, index: self._tiles.get((level, index)), 0)
        tiles = self.log.grow([hashed(item(number)) for number in range(size)])
        self._tiles = {(tile.level, tile.index): tile.hashes for tile in tiles}
        self.log.publish(tiles, size)
        self.note = sign_checkpoint(Checkpoint(origin, size, self.log.root(size)), LOG_KEY, time_s=TIME_S)
        self.asked: list[tuple[int, int, int]] = []

    def checkpoint(self) -> str:
        return self.note

    def tile(self, level: int, index: int, width: int) -> bytes:
        self.asked.append((level, index, width))
        return self._tiles[level, index][: width * 32]

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        return (self._item(number) for number in range(start, stop))

    def spoil(self, level: int, index: int, change: Callable[[bytes], bytes]) -> None:
        self._tiles[level, index] = change(self._tiles[level, index])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def expected_paths(size: int) -> set[str]:
    """C2SP: the partial tile at level l has floor(s / 256**l) mod 256 entries; an empty one is not there."""
    paths = {"checkpoint"}
    level = 0
    while size // 256**level:
        whole, part = divmod(size // 256**level, 256)
        kinds = [str(level), "entries"] if level == 0 else [str(level)]
        for kind in kinds:
            paths |= {f"tile/{kind}/{index:03d}" for index in range(whole)}
            paths |= {f"tile/{kind}/{whole:03d}.p/{part}"} if part else set()
        level += 1
    return paths


@pytest.mark.parametrize("size", [0, *SIZES])
def test_the_files_are_those_of_the_specification(tmp_path: Path, size: int) -> None:
    source = Source(size)
    assert write_static(source, tmp_path) == size
    found = files(tmp_path)
    assert set(found) == expected_paths(size)
    assert found["checkpoint"] == source.note.encode()
    for number in range(size):
        index, place = divmod(number, 256)
        width = min(256, size - index * 256)
        end = f"{index:03d}" + (f".p/{width}" if width < 256 else "")
        assert found[f"tile/0/{end}"][place * 32 : place * 32 + 32] == hashed(entry(number))
        item = entry(number)
        assert len(item).to_bytes(2, "big") + item in found[f"tile/entries/{end}"]


@pytest.mark.parametrize(
    ("level", "index", "width", "path"),
    [
        # The example of the specification, and where the groups begin.
        ("0", 1_234_067, 256, "tile/0/x001/x234/067"),
        ("0", 0, 256, "tile/0/000"),
        ("1", 999, 17, "tile/1/999.p/17"),
        ("entries", 1000, 256, "tile/entries/x001/000"),
        ("63", 1_000_000, 255, "tile/63/x001/x000/000.p/255"),
    ],
)
def test_paths_have_groups_of_three_digits(level: str, index: int, width: int, path: str) -> None:
    assert tile_path(level, index, width) == path
    number = -1 if level == "entries" else int(level)
    assert "/".join(scales_tiles.tile_path(number, index, width % 256)) == path


@pytest.mark.parametrize("size", SIZES)
def test_tlog_scales_reads_it(tmp_path: Path, size: int) -> None:
    write_static(Source(min(200, size)), tmp_path)
    write_static(Source(size), tmp_path)
    reader = TilesReader(LocalBackend(tmp_path))
    found = reader.get_checkpoint()
    assert (found.origin, found.size) == (ORIGIN, size)
    assert reader.calculate_root_hash() == found.root_hash
    for index in {0, size // 2, size - 1}:
        assert reader.get_entry(index) == entry(index)
        reader.get_inclusion_proof(index, size).check(hashed(entry(index)), found.root_hash)
    if size > 200:
        reader.get_consistency_proof(200, size).check(Source(200).log.root(200), found.root_hash)


@pytest.mark.parametrize("size", SIZES)
def test_it_reads_what_it_wrote(tmp_path: Path, size: int) -> None:
    source = Source(size)
    write_static(source, tmp_path)
    log = StaticLog.open(tmp_path)
    assert list(log.entries(0, size)) == [entry(number) for number in range(size)]
    assert list(log.entries(size // 2, size - 1)) == [entry(number) for number in range(size // 2, size - 1)]
    assert log.checkpoint() == source.note
    tree, root = log.tree(size), source.log.root(size)
    assert tree.root(size) == root
    verify_inclusion(
        hashed(entry(size // 2)), index=size // 2, tree_size=size, path=tree.inclusion(size // 2, size), root=root
    )
    old = size // 2
    verify_consistency(
        old_size=old, old_root=source.log.root(old), new_size=size, new_root=root, path=tree.consistency(old, size)
    )


@pytest.mark.parametrize(("old", "new"), [*pairwise(SIZES), (0, 700), (100, 700), (256, 256), (3, 200)])
def test_a_second_run_writes_what_is_new_and_ends_the_same(tmp_path: Path, old: int, new: int) -> None:
    write_static(Source(old), tmp_path)
    before = {path: (tmp_path / path).stat() for path in files(tmp_path)}
    source = Source(new)
    progress: list[tuple[int, int]] = []
    assert write_static(source, tmp_path, lambda done, total: progress.append((done, total))) == new
    fresh = tmp_path.with_name(f"{tmp_path.name}-fresh")
    write_static(Source(new), fresh)
    found, clean = files(tmp_path), files(fresh)
    assert clean.items() <= found.items()
    # What is left over is parts of tiles that are still not full.
    assert {path.rpartition("/")[0] for path in set(found) - set(clean)} <= {
        path.rpartition("/")[0] for path in clean if ".p/" in path
    }
    for path, stat in before.items():
        if path in found and (path != "checkpoint" or old == new):
            assert (tmp_path / path).stat().st_ino == stat.st_ino
    assert all(index >= old >> 8 * (level + 1) for level, index, _ in source.asked)
    if old < new:
        assert progress[-1] == (new - old // 256 * 256, new - old // 256 * 256)


def test_a_run_that_broke_off_can_be_repeated(tmp_path: Path) -> None:
    write_static(Source(100), tmp_path)
    torn = tmp_path / "tile/0/000"
    torn.write_bytes(b"torn")
    write_static(Source(300), tmp_path)
    assert StaticLog.open(tmp_path).tree(300).root(300) == Source(300).log.root(300)


def fails(source: Source, folder: Path, words: str) -> None:
    note = (folder / "checkpoint").read_bytes() if (folder / "checkpoint").exists() else None
    with pytest.raises(IntegrityBroken, match=words):
        write_static(source, folder)
    assert ((folder / "checkpoint").read_bytes() if note is not None else None) == note


def test_nothing_is_published_that_disagrees(tmp_path: Path) -> None:
    source = Source(700)
    source.spoil(0, 1, lambda hashes: bytes(32) + hashes[32:])
    fails(source, tmp_path / "tile", "tile 0/1 is not what its entries")
    source = Source(700)
    source.spoil(1, 0, lambda hashes: hashes[:32] + bytes(32))
    fails(source, tmp_path / "above", "tile 1/0 is not what the tiles below")
    for level in (0, 1):
        source = Source(700)
        source.spoil(level, 0, lambda hashes: hashes[:-1])
        fails(source, tmp_path / "short", f"tile {level}/0 has")
    source = Source(700)
    source.note = sign_checkpoint(Checkpoint(ORIGIN, 700, bytes(32)), LOG_KEY, time_s=TIME_S)
    fails(source, tmp_path / "root", "checkpoint's root")


def test_a_source_with_too_few_entries_is_refused(tmp_path: Path) -> None:
    source = Source(300)
    source.entries = lambda start, stop: (entry(number) for number in range(start, stop - 1))  # type: ignore[method-assign]
    fails(source, tmp_path, "tile 0/1 is not what its entries")


def test_no_checkpoint_replaces_a_longer_or_another_one(tmp_path: Path) -> None:
    write_static(Source(300), tmp_path)
    fails(Source(299), tmp_path, "300 entries where there are 299")
    fails(Source(400, origin="log.example/other"), tmp_path, "another log")
    # A fork among the entries of the part that is written anew, and of the full tile that is not.
    fails(Source(300, item=lambda number: entry(number + (number == 299))), tmp_path, "checkpoint's root")
    fails(Source(400, item=lambda number: entry(number + (number == 299))), tmp_path, "does not continue")
    fails(Source(400, item=lambda number: entry(number + (number == 5))), tmp_path, "checkpoint's root|tile 0/0")
    assert write_static(Source(400), tmp_path) == 400


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    class Nested(Source):
        def checkpoint(self) -> str:
            with pytest.raises(LedgerLocked):
                write_static(Source(5), tmp_path)
            return super().checkpoint()

    assert write_static(Nested(7), tmp_path) == 7


def test_a_directory_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LedgerUnavailable):
        write_static(Source(5), tmp_path / "file")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "tile").write_bytes(b"")
    with pytest.raises(LedgerUnavailable):
        write_static(Source(5), tmp_path / "log")


def test_a_full_tile_serves_for_a_part_that_was_dropped(tmp_path: Path) -> None:
    write_static(Source(100), tmp_path)
    reader = StaticLog.open(tmp_path)
    note = reader.checkpoint()
    write_static(Source(300), tmp_path)
    assert not (tmp_path / "tile/0/000.p").exists()
    assert not (tmp_path / "tile/entries/000.p").exists()
    assert list(reader.entries(0, 100)) == [entry(number) for number in range(100)]
    assert reader.tree(100).root(100) == Source(100).log.root(100)
    assert reader.checkpoint() != note


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    log = StaticLog.open(tmp_path)
    for ask in (log.checkpoint, lambda: log.tile(0, 0, 256), lambda: list(log.entries(0, 1))):
        with pytest.raises(NotFound):
            ask()
    write_static(Source(300), tmp_path)
    with pytest.raises(NotFound):
        log.tile(0, 1, 45)
    for start, stop in ((0, 301), (-1, 3), (5, 4)):
        with pytest.raises(NotFound):
            list(log.entries(start, stop))
    (tmp_path / "tile/0/000").unlink()
    with pytest.raises(IntegrityBroken, match="tile 0/0 is missing"):
        log.tree(300).leaf(3)


@pytest.mark.parametrize(("level", "index", "width"), [(-1, 0, 1), (64, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 257)])
def test_there_are_no_such_tiles(tmp_path: Path, level: int, index: int, width: int) -> None:
    with pytest.raises(ValueError, match="no tile"):
        StaticLog.open(tmp_path).tile(level, index, width)


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        ("tile/0/000", bytes(8191), "8191 bytes"),
        ("tile/0/000", bytes(8193), "longer"),
        ("tile/0/001.p/44", bytes(45 * 32), "1440 bytes"),
        ("tile/entries/000", b"", "does not hold 256"),
        ("tile/entries/000", bytes(2) * 255, "does not hold 256"),
        ("tile/entries/000", bytes(2) * 257, "does not hold 256"),
        ("tile/entries/000", bytes(2) * 256 + b"\x00", "does not hold 256"),
        ("tile/entries/000", bytes(2) * 255 + b"\x00\x01", "does not hold 256"),
    ],
)
def test_files_of_a_wrong_size_are_refused(tmp_path: Path, path: str, content: bytes, words: str) -> None:
    write_static(Source(300), tmp_path)
    (tmp_path / path).write_bytes(content)
    log = StaticLog.open(tmp_path)
    with pytest.raises(IntegrityBroken, match=words):
        list(log.entries(0, 300)) and [log.tile(0, 0, 256), log.tile(0, 1, 44)]


@pytest.mark.parametrize(
    "raw", [b"", b"\xff\n", b"log.example\n1\n", b"log.example\nx\nAAAA\n\n\xe2\x80\x94 a AAAAAAA=\n"]
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "checkpoint").write_bytes(raw)
    with pytest.raises(NoteInvalid):
        StaticLog.open(tmp_path).checkpoint()


def test_bundles_hold_entries_of_every_length() -> None:
    items = [b"", b"a", bytes(255), bytes(256), bytes(65_535)]
    bundle = encode_bundle(items)
    assert bundle[:5] == b"\x00\x00\x00\x01a"
    assert bundle[5:7] == b"\x00\xff"
    assert decode_bundle(bundle, 5) == items
    with pytest.raises(ValueError, match="65,535"):
        encode_bundle([bytes(65_536)])


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


Serve = Callable[[Callable[..., BaseHTTPRequestHandler]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[ThreadingHTTPServer] = []

    def start(handler: Callable[..., BaseHTTPRequestHandler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_it_is_read_and_mirrored_over_http(tmp_path: Path, serve: Serve) -> None:
    write_static(Source(600), tmp_path / "log")
    prefix = serve(partial(Quiet, directory=str(tmp_path)))
    log = StaticLog.open(f"{prefix}/log/")
    assert log.tree(600).root(600) == Source(600).log.root(600)
    assert write_static(log, tmp_path / "mirror") == 600
    assert files(tmp_path / "mirror") == files(tmp_path / "log")
    with pytest.raises(NotFound):
        log.tile(2, 0, 256)


def answering(
    status: int, body: bytes, headers: Sequence[tuple[str, str]] = (), *, pause: bool = False
) -> type[Quiet]:
    class Handler(Quiet):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            if not any(name == "Content-Length" for name, _ in headers):
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if pause:
                threading.Event().wait(1)
            self.wfile.write(body)

    return Handler


GZIP = [("Content-Encoding", "gzip")]
TILE = bytes(8192)


def test_a_compressed_answer_is_unpacked(serve: Serve) -> None:
    # C2SP lets a log send gzip without being asked.
    log = StaticLog.open(serve(answering(200, gzip.compress(TILE), GZIP)))
    assert log.tile(0, 0, 256) == TILE


@pytest.mark.parametrize(
    ("handler", "error", "words"),
    [
        (answering(404, b""), NotFound, "no tile"),
        (answering(410, b""), NotFound, "no tile"),
        (answering(500, b""), LedgerUnavailable, "500"),
        (answering(200, bytes(8193)), IntegrityBroken, "longer"),
        (answering(200, gzip.compress(bytes(10_000_000)), GZIP), IntegrityBroken, "longer"),
        (answering(200, gzip.compress(TILE)[:-9], GZIP), IntegrityBroken, "ends early"),
        (answering(200, b"plain", GZIP), IntegrityBroken, "not the gzip"),
        (answering(200, TILE[:100], [("Content-Length", "8192")]), LedgerUnavailable, "cannot be fetched"),
    ],
)
def test_answers_that_are_no_tile(serve: Serve, handler: type[Quiet], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        StaticLog.open(serve(handler)).tile(0, 0, 256)


def test_a_server_that_answers_drop_by_drop_is_given_up(serve: Serve) -> None:
    class Slow(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(TILE)))
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(32):
                    threading.Event().wait(0.02)
                    self.wfile.write(bytes(256))

    address = serve(Slow)
    assert StaticLog.open(address).tile(0, 0, 256) == TILE
    with pytest.raises(LedgerUnavailable, match="cannot be fetched"):
        StaticLog.open(address, timeout_ms=100).tile(0, 0, 256)


def test_a_server_that_does_not_answer_is_given_up(serve: Serve) -> None:
    log = StaticLog.open(serve(answering(200, TILE, pause=True)), timeout_ms=100)
    with pytest.raises(LedgerUnavailable):
        log.tile(0, 0, 256)
    with pytest.raises(LedgerUnavailable):
        StaticLog.open("http://127.0.0.1:1").checkpoint()
    with pytest.raises(LedgerUnavailable):
        StaticLog.open("http://[").checkpoint()
