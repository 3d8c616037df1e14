"""Static files of a log, read by other people's clients, and other people's static files, read by us.

The checksum database's client authenticates every tile, Tessera's builds proofs
from them and reads the entries, and PyPI tlog-scales does both in Python. A log
that Tessera wrote is read, mirrored and proved from by our ``StaticLog``.
Without Go these tests fail; they are never skipped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tlog_scales.backend import LocalBackend
from tlog_scales.reader import TilesReader
from tlog_scales.signing import Vkey, VkeySet

from ledger_core import Anchor, Genesis, Identity, Join, Ledger, open_ledger
from ledger_core.checkpoint import (
    Checkpoint,
    NoteKey,
    cosign,
    cosigner_key,
    log_key,
    parse_checkpoint,
    parse_vkey,
    sign_checkpoint,
    split_note,
    verify_note,
)
from ledger_core.errors import LedgerError
from ledger_core.hashing import leaf_hash
from ledger_core.log import TiledLog
from ledger_core.proofs import verify_consistency, verify_inclusion
from ledger_core.static import StaticLog, tile_path, write_static
from tests.peers.gotools import TESSERA, build
from tests.peers.judge import Case, Judge

_ORIGIN = "peers.example/static"
_TIME_S = 1_790_000_000
_LOG, _OPERATOR, _MEMBER = (Identity.from_private_bytes(bytes([number]) * 32) for number in (11, 12, 13))
_WITNESSES = (
    ("ed.example/w", Identity.from_private_bytes(bytes([14]) * 32)),
    ("lattice.example/w", Identity.from_private_bytes(bytes([15]) * 32, 2)),
)
# Around a tile, around two levels, and with a tile on the third.
_SIZES = (1, 2, 255, 256, 257, 511, 512, 513, 1000, 65_537)


class _Memory:
    """A log of made-up entries whose tiles lie in memory."""

    def __init__(self) -> None:
        self._tiles: dict[tuple[int, int], bytes] = {}
        self._log = TiledLog(lambda level, index: self._tiles.get((level, index)), 0)
        self._entries: list[bytes] = []

    def grow(self, size: int) -> _Memory:
        fresh = [b"%d" % number + bytes(number % 5) for number in range(len(self._entries), size)]
        tiles = self._log.grow([leaf_hash(entry) for entry in fresh])
        self._tiles.update({(tile.level, tile.index): tile.hashes for tile in tiles})
        self._log.publish(tiles, size)
        self._entries += fresh
        return self

    def checkpoint(self) -> str:
        size = len(self._entries)
        note = sign_checkpoint(Checkpoint(_ORIGIN, size, self._log.root(size)), _LOG, time_s=_TIME_S)
        for name, identity in _WITNESSES:
            note = cosign(note, cosigner_key(name, identity.public), identity, time_s=_TIME_S)
        return note

    def tile(self, level: int, index: int, width: int) -> bytes:
        return self._tiles[level, index][: 32 * width]

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        yield from self._entries[start:stop]


class _OfLedger:
    """An open ledger as a source of static files, at the size of one checkpoint."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._note = ledger, ledger.checkpoint()

    def checkpoint(self) -> str:
        return self._note

    def tile(self, level: int, index: int, width: int) -> bytes:
        return (self._ledger.tile(level, index) or b"")[: 32 * width]

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        for row in self._ledger.entries(start, stop):
            yield row.entry


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@pytest.fixture(scope="module")
def tessera_log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A log of 1,500 entries that Tessera wrote, and its vkey."""
    folder = tmp_path_factory.mktemp("tessera")
    command = [str(build(TESSERA)), "-dir", str(folder), "-singles", "1", "-entries", "1500"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    return folder / "batched", json.loads(done.stdout)["log_key"]


def _case(folder: Path, name: str, *, origin: str = _ORIGIN, cosigners: Sequence[tuple[str, Identity]]) -> Case:
    return Case(
        name,
        "tiles",
        folder=str(folder),
        origin=origin,
        log_key=log_key(origin, _LOG.public).vkey(),
        keys=tuple(cosigner_key(name, identity.public).vkey() for name, identity in cosigners),
    )


def test_go_clients_read_a_log_of_every_size(judge: Judge, tmp_path: Path) -> None:
    cases = []
    for size in _SIZES:
        write_static(_Memory().grow(size), tmp_path / str(size))
        cases.append(_case(tmp_path / str(size), str(size), cosigners=((_ORIGIN, _LOG), *_WITNESSES)))
    assert judge.refused(cases) == {}


def test_go_clients_read_files_that_were_added_to(judge: Judge, tmp_path: Path) -> None:
    memory = _Memory()
    for size in (3, 200, 256, 300, 600, 601):
        write_static(memory.grow(size), tmp_path)
        assert judge.refused([_case(tmp_path, str(size), cosigners=_WITNESSES)]) == {}


def test_tiles_lie_where_go_looks_for_them(judge: Judge) -> None:
    places = [
        (level, index, width)
        for level in (0, 1, 2, 6)
        for index in (0, 1, 9, 10, 999, 1000, 1234, 999_999, 1_000_000, 1_234_067, 5_000_000_001)
        for width in (1, 9, 255, 256)
    ]
    cases = [
        Case(f"{kind} {level}/{index} {width}", "tile-path", level=level, index=index, width=width, text=path)
        for level, index, width in places
        for kind in (str(level), "entries")
        for path in (tile_path(kind, index, width),)
    ]
    assert judge.refused(cases) == {}
    moved = [replace(case, index=case.index + 1000) for case in cases]
    assert judge.accepted(moved) == set()


def test_go_clients_read_the_files_of_a_ledger(judge: Judge, tmp_path: Path) -> None:
    genesis = Genesis("peers.example/ledger", _OPERATOR.public)
    with open_ledger(tmp_path / "ledger.db", log_identity=_LOG, genesis=genesis) as ledger:
        ledger.send(Join(_MEMBER.public, "member"), _OPERATOR, [_MEMBER]).result(10)
        for target in (100, 700):
            waiting = [ledger.send(Anchor(leaf_hash(b"%d" % number), 1), _MEMBER) for number in range(target)]
            for future in waiting:
                future.result(30)
            write_static(_OfLedger(ledger), tmp_path / "static")
            case = _case(tmp_path / "static", "ledger", origin=ledger.origin, cosigners=((ledger.origin, _LOG),))
            assert judge.refused([case]) == {}


def test_a_file_changed_or_missing_is_refused_by_go_and_by_us(judge: Judge, tmp_path: Path) -> None:
    sound = tmp_path / "sound"
    write_static(_Memory().grow(600), sound)
    files = sorted(file.relative_to(sound) for file in sound.rglob("*") if file.is_file())
    assert len(files) == 8, "checkpoint; three tiles and three bundles; one tile above"
    folders = []
    for number, file in enumerate(files):
        for name, spoil in _SPOILED.items():
            folder = tmp_path / f"{number}-{name}"
            shutil.copytree(sound, folder)
            spoil(folder / file)
            folders.append((folder, f"{name} {file}"))
    cases = [_case(folder, name, cosigners=_WITNESSES) for folder, name in folders]
    assert judge.accepted(cases) == set()
    for folder, _ in folders:
        with pytest.raises(LedgerError):
            _read_all(StaticLog.open(folder), _keys())


def test_tlog_scales_verifies_and_proves_from_our_files(tmp_path: Path) -> None:
    size, old = 66_000, 513
    memory = _Memory()
    older = parse_checkpoint(split_note(memory.grow(old).checkpoint())[0])
    write_static(memory.grow(size), tmp_path)
    reader = TilesReader(LocalBackend(tmp_path))
    head = reader.get_checkpoint()
    vkeys = [Vkey.from_string(key.vkey()) for key in _keys()]
    assert len(VkeySet(*vkeys).verify(head.signatures, head)) == len(vkeys) == 4
    assert reader.calculate_root_hash() == head.root_hash
    ours = StaticLog.open(tmp_path).tree(size)
    for index in (0, 1, 255, 256, 511, 512, 65_535, 65_536, size - 1):
        proof = reader.get_inclusion_proof(index, size)
        proof.check(leaf_hash(reader.get_entry(index)), head.root_hash)
        assert tuple(proof.node_hashes) == ours.inclusion(index, size)
    consistency = reader.get_consistency_proof(old, size)
    consistency.check(older.root, head.root_hash)
    assert tuple(consistency.node_hashes) == ours.consistency(old, size)


def test_we_read_verify_and_prove_from_a_log_that_tessera_wrote(tessera_log: tuple[Path, str]) -> None:
    folder, vkey = tessera_log
    log = StaticLog.open(folder)
    text, _ = verify_note(log.checkpoint(), [parse_vkey(vkey)])
    head = parse_checkpoint(text)
    assert head.size == 1500
    tree = log.tree(head.size)
    assert tree.root(head.size) == head.root
    entries = list(log.entries(0, head.size))
    for index in range(0, head.size, 37):
        path = tree.inclusion(index, head.size)
        verify_inclusion(leaf_hash(entries[index]), index=index, tree_size=head.size, path=path, root=head.root)
    path = tree.consistency(700, head.size)
    verify_consistency(old_size=700, old_root=tree.root(700), new_size=head.size, new_root=head.root, path=path)


def test_a_mirror_of_tesseras_log_is_byte_for_byte_the_same(tessera_log: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = tessera_log
    write_static(StaticLog.open(folder), tmp_path)
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) == 14
    for file in written:
        assert file.read_bytes() == (folder / file.relative_to(tmp_path)).read_bytes()


def _keys() -> list[NoteKey]:
    named = [cosigner_key(name, identity.public) for name, identity in ((_ORIGIN, _LOG), *_WITNESSES)]
    return [log_key(_ORIGIN, _LOG.public), *named]


def _read_all(log: StaticLog, keys: Sequence[NoteKey]) -> None:
    """Read a static log as its docstring tells a reader to: verify the note, compare the root, hash every entry."""
    text, vouchings = verify_note(log.checkpoint(), keys)
    head = parse_checkpoint(text)
    assert len(vouchings) == len(keys)
    tree = log.tree(head.size)
    if tree.root(head.size) != head.root:
        raise LedgerError("another root")
    for index, entry in enumerate(log.entries(0, head.size)):
        path = tree.inclusion(index, head.size)
        verify_inclusion(leaf_hash(entry), index=index, tree_size=head.size, path=path, root=head.root)


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


_SPOILED: dict[str, Callable[[Path], None]] = {"flipped": _flip, "shortened": _shorten, "missing": Path.unlink}
