"""A ledger moved: exported and imported, copied and restored; and what is spoilt on the way is refused."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import pytest

from ledger_core import (
    AccessHead,
    Anchor,
    IntegrityBroken,
    Ledger,
    LedgerError,
    NoteInvalid,
    OpeningRefused,
    OpenPath,
    Rotate,
    SetConsent,
    export_ledger,
    open_ledger,
    replay_export,
    run_export,
    run_fsck,
    run_import,
    run_restore,
    run_snapshot,
    verify_receipt,
)
from ledger_core.checkpoint import cosign, cosigner_key
from ledger_core.codec import decode, encode
from ledger_core.machine import BlockRow
from ledger_core.ports import EntryRow
from ledger_core.stores.sqlite import SqliteStore
from ledger_core.transactions import AllowSuite
from tests.unit.ledger_core.ledger_samples import (
    GENESIS,
    LOG_KEY,
    NORTH,
    OPERATOR,
    PATIENT,
    SOUTH,
    filler,
    join,
    open_test_ledger,
)

Spoil: TypeAlias = Callable[[list[str], int], list[str]]


def fill(folder: Path, name: str = "ledger.db", *, blocks: int = 99) -> Path:
    """Make a ledger of up to nine blocks, of which one has a cosigned checkpoint."""
    with open_test_ledger(folder, name=name) as ledger:
        for step in STEPS[:blocks]:
            step(ledger)
    return folder / name


def cosign_newest(ledger: Ledger) -> int:
    key = cosigner_key("w.example", SOUTH.public)
    return ledger.keep_checkpoint(cosign(ledger.checkpoint(), key, SOUTH, time_s=int(time.time())), [key])


STEPS: Sequence[Callable[[Ledger], object]] = (
    join,
    lambda ledger: ledger.send(OpenPath(filler(1), PATIENT.public, filler(2)), NORTH).result(10),
    lambda ledger: ledger.send(SetConsent(filler(1), 1, filler(3)), PATIENT).result(10),
    lambda ledger: ledger.send(AllowSuite("state-tree", 2), OPERATOR, [NORTH]).result(10),
    cosign_newest,
    lambda ledger: ledger.send(SetConsent(filler(1), 4, filler(4)), PATIENT).result(10),
    lambda ledger: ledger.send(Rotate(SOUTH.public), NORTH, [SOUTH]).result(10),
    lambda ledger: ledger.send(AccessHead(3, filler(5), 1), SOUTH).result(10),
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("source"))


def rows_of(address: Path) -> tuple[list[BlockRow], list[bytes], list[tuple[int, str]], list[bytes]]:
    store = SqliteStore.open_to_read(address)
    try:
        tiles = [tile.hashes for tile in store.tiles()]
        entries = [row.entry for row in store.entries()]
        return list(store.blocks()), entries, list(store.checkpoints()), tiles
    finally:
        store.close()


def test_an_imported_ledger_is_the_same_at_every_height(source: Path, tmp_path: Path) -> None:
    lines = list(run_export(source))
    sizes: list[int] = []
    state = run_import(lines, tmp_path / "new.db", progress=sizes.append)
    blocks, entries, notes, tiles = rows_of(source)
    assert rows_of(tmp_path / "new.db") == (blocks, entries, notes, tiles)
    assert len(blocks) == 8
    assert (state.app_hash, sizes) == (blocks[-1].app_hash, [block.size for block in blocks])
    assert list(run_fsck(tmp_path / "new.db", checkpoint=notes[-1][1])) == []
    assert list(run_export(tmp_path / "new.db")) == lines
    assert replay_export(lines).app_hash == state.app_hash


def test_receipts_of_an_imported_ledger_stand_under_the_cosigned_checkpoint(source: Path, tmp_path: Path) -> None:
    run_import(run_export(source), tmp_path / "new.db")
    places = (source, tmp_path / "new.db")
    with ExitStack() as stack:
        old, new = (stack.enter_context(open_ledger(place, log_identity=LOG_KEY)) for place in places)
        assert new.cosigned_size == old.cosigned_size == 10
        receipts = [each.state_receipt("consent", filler(1), is_cosigned=True) for each in (old, new)]
        assert receipts[0] == receipts[1]
        assert verify_receipt(receipts[1], policy=old.policy()).claim == "state present"
        for height in range(8):
            said = [
                verify_receipt(each.past_state_receipt("consent", filler(1), height), policy=old.policy()).claim
                for each in (old, new)
            ]
            assert said == [f"state {'absent' if height < 2 else 'present'} as of height {height}"] * 2


def test_an_imported_ledger_goes_on(source: Path, tmp_path: Path) -> None:
    run_import(run_export(source), tmp_path / "new.db")
    with open_ledger(tmp_path / "new.db", log_identity=LOG_KEY) as ledger:
        accepted = ledger.send(Anchor(filler(1), 1), SOUTH).result(10)
        assert verify_receipt(ledger.transaction_receipt(accepted.index), policy=ledger.policy())
    assert list(run_fsck(tmp_path / "new.db")) == []


def removed(lines: list[str], at: int) -> list[str]:
    return lines[:at] + lines[at + 1 :]


def repeated(lines: list[str], at: int) -> list[str]:
    return lines[: at + 1] + lines[at:]


def swapped(lines: list[str], at: int) -> list[str]:
    return [*lines[:at], *reversed(lines[at : at + 2]), *lines[at + 2 :]] if at + 1 < len(lines) else lines[::-1]


def flipped(lines: list[str], at: int) -> list[str]:
    """Change a bit in the middle of the line: in a root, an entry or a signature."""
    data = bytearray.fromhex(lines[at])
    data[len(data) // 2] ^= 1
    return [*lines[:at], data.hex() + "\n", *lines[at + 1 :]]


def cut(lines: list[str], at: int) -> list[str]:
    return [*lines[:at], lines[at][:-4] + "\n", *lines[at + 1 :]]


def emptied(lines: list[str], at: int) -> list[str]:
    return [*lines[:at], encode(()).hex() + "\n", *lines[at + 1 :]]


def of_another(lines: list[str], at: int) -> list[str]:
    """Lead the line to what another line of its kind says: another block, another checkpoint."""
    other = at - 2 if at > 2 else at + 2
    return [*lines[:at], lines[other], *lines[at + 1 :]]


@pytest.mark.parametrize("spoil", [removed, repeated, swapped, flipped, cut, emptied, of_another])
def test_a_spoilt_export_is_refused_and_leaves_nothing(source: Path, tmp_path: Path, spoil: Spoil) -> None:
    lines = list(run_export(source))
    target = tmp_path / "new" / "ledger.db"
    for at in range(len(lines)):
        with pytest.raises((IntegrityBroken, NoteInvalid)):
            run_import(spoil(lines, at), target)
        assert not target.parent.exists()
    assert run_import(lines, target).app_hash == rows_of(source)[0][-1].app_hash


def test_a_replay_needs_no_checkpoint_to_notice_a_changed_block(source: Path) -> None:
    blocks = [line for line in run_export(source) if decode(bytes.fromhex(line))[0] != "checkpoint"]  # type: ignore[index]
    assert replay_export(blocks).app_hash == rows_of(source)[0][-1].app_hash
    for at in range(1, len(blocks)):
        for spoil in (flipped, cut, emptied):
            with pytest.raises(IntegrityBroken):
                replay_export(spoil(blocks, at))


def test_an_export_without_its_end_is_a_sound_shorter_ledger(source: Path, tmp_path: Path) -> None:
    lines = list(run_export(source))
    run_import(lines[:-2], tmp_path / "new.db")
    assert rows_of(tmp_path / "new.db")[0] == rows_of(source)[0][:-1]
    newest = rows_of(source)[2][-1][1]
    findings = list(run_fsck(tmp_path / "new.db", checkpoint=newest))
    assert ["rolled back" in finding.what for finding in findings] == [True]


@pytest.mark.parametrize("lines", [[], ["00\n"], ["zz\n"], [encode(("ledger-core/export/v2", "a", b"")).hex()]])
def test_what_is_no_export_is_refused(tmp_path: Path, lines: Sequence[str]) -> None:
    with pytest.raises(IntegrityBroken):
        run_import(lines, tmp_path / "new.db")
    with pytest.raises(OpeningRefused):
        list(run_export(tmp_path / "new.db"))


def test_a_header_alone_is_no_ledger(source: Path, tmp_path: Path) -> None:
    with pytest.raises(IntegrityBroken):
        run_import(list(run_export(source))[:1], tmp_path / "new.db")


def test_numbers_that_no_store_can_hold_are_refused_in_our_words(source: Path, tmp_path: Path) -> None:
    lines = list(run_export(source))
    for place in (1, 2):
        block = list(decode(bytes.fromhex(lines[3])))  # type: ignore[arg-type]  # an array
        block[place] = 2**64 - 1
        with pytest.raises(LedgerError):
            run_import([*lines[:3], encode(block).hex()], tmp_path / f"{place}.db")


def test_an_import_over_a_ledger_is_refused_and_changes_nothing(source: Path, tmp_path: Path) -> None:
    target = fill(tmp_path, blocks=2)
    before = rows_of(target)
    with pytest.raises(OpeningRefused, match="name a new place"):
        run_import(run_export(source), target)
    assert rows_of(target) == before


def test_a_restored_snapshot_is_the_same_ledger(source: Path, tmp_path: Path) -> None:
    run_snapshot(source, tmp_path / "copy")
    newest = rows_of(source)[2][-1][1]
    assert list(run_restore(tmp_path / "copy", tmp_path / "deep" / "new.db", checkpoint=newest)) == []
    assert rows_of(tmp_path / "deep" / "new.db") == rows_of(source)
    with open_ledger(tmp_path / "deep" / "new.db", log_identity=LOG_KEY) as ledger:
        ledger.send(Anchor(filler(1), 1), SOUTH).result(10)
        assert ledger.cosigned_size == 10


def test_an_older_snapshot_is_refused_against_a_checkpoint_kept_outside(tmp_path: Path) -> None:
    address = fill(tmp_path, blocks=3)
    run_snapshot(address, tmp_path / "old")
    with open_ledger(address, log_identity=LOG_KEY) as ledger:
        ledger.send(Anchor(filler(1), 1), NORTH).result(10)
        newest = ledger.checkpoint()
    findings = list(run_restore(tmp_path / "old", tmp_path / "new.db", checkpoint=newest))
    assert ["rolled back" in finding.what for finding in findings] == [True]
    assert not (tmp_path / "new.db").exists()
    assert list(run_restore(tmp_path / "old", tmp_path / "new.db")) == []
    with open_ledger(tmp_path / "new.db", log_identity=LOG_KEY) as forked:
        forked.send(Anchor(filler(2), 2), NORTH).result(10)
    run_snapshot(tmp_path / "new.db", tmp_path / "fork")
    findings = list(run_restore(tmp_path / "fork", tmp_path / "other.db", checkpoint=newest))
    assert ["rewritten" in finding.what for finding in findings] == [True]
    assert not (tmp_path / "other.db").exists()


def test_nothing_is_restored_or_copied_over_what_is_there(source: Path, tmp_path: Path) -> None:
    run_snapshot(source, tmp_path / "copy")
    target = fill(tmp_path, blocks=1)
    before, copy = rows_of(target), (tmp_path / "copy").read_bytes()
    with pytest.raises(OpeningRefused, match="name a new place"):
        list(run_restore(tmp_path / "copy", target))
    with pytest.raises(OpeningRefused, match="exists"):
        run_snapshot(target, tmp_path / "copy")
    assert (rows_of(target), (tmp_path / "copy").read_bytes()) == (before, copy)
    for missing in ("nowhere", "ledger.db.lock"):
        with pytest.raises(OpeningRefused):
            list(run_restore(tmp_path / missing, tmp_path / "new.db"))
    assert not (tmp_path / "new.db").exists()


def test_a_damaged_snapshot_is_named_and_not_put_in_place(source: Path, tmp_path: Path) -> None:
    run_snapshot(source, tmp_path / "copy")
    data = (tmp_path / "copy").read_bytes()
    at = data.index(filler(4))
    (tmp_path / "copy").write_bytes(data[:at] + filler(6) + data[at + 32 :])
    assert list(run_restore(tmp_path / "copy", tmp_path / "new.db"))
    assert not (tmp_path / "new.db").exists()


def test_copies_and_exports_of_a_busy_ledger_are_sound(tmp_path: Path) -> None:
    notes: list[str] = []
    is_done = threading.Event()
    with open_test_ledger(tmp_path) as ledger:
        join(ledger)

        def write() -> None:
            while not is_done.is_set() and ledger.height < 300:
                ledger.send(Anchor(filler(1), 1), NORTH).result(30)

        writer = threading.Thread(target=write)
        writer.start()
        exports: list[list[str]] = []
        for number in range(3):
            notes.append(ledger.checkpoint())
            run_snapshot(tmp_path / "ledger.db", tmp_path / f"copy {number}")
            exports += [list(run_export(tmp_path / "ledger.db")), list(export_ledger(ledger))]
        is_done.set()
        writer.join()
    for number, note in enumerate(notes):
        assert list(run_restore(tmp_path / f"copy {number}", tmp_path / f"{number}.db", checkpoint=note)) == []
    for number, lines in enumerate(exports):
        run_import(lines, tmp_path / f"export {number}.db")
        assert list(run_fsck(tmp_path / f"export {number}.db", checkpoint=notes[number // 2])) == []


class Growing:
    """A ledger that gains a block whenever a scan of it has begun."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.origin, self.log_public = ledger, ledger.origin, ledger.log_public

    def entries(self) -> Iterator[EntryRow]:
        rows = list(self.ledger.entries())
        self.ledger.send(Anchor(filler(1), 1), OPERATOR).result(10)
        yield from rows

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        notes = list(self.ledger.checkpoints())
        self.ledger.send(Anchor(filler(1), 1), OPERATOR).result(10)
        yield from notes


def test_an_export_gives_no_block_without_its_checkpoint_though_the_ledger_grows(tmp_path: Path) -> None:
    with open_ledger(fill(tmp_path, blocks=2), log_identity=LOG_KEY) as ledger:
        lines = list(export_ledger(Growing(ledger)))
        assert ledger.height == 4
    run_import(lines, tmp_path / "new.db")
    assert len(rows_of(tmp_path / "new.db")[0]) == 3


def test_an_export_names_the_genesis_it_began_with(source: Path, tmp_path: Path) -> None:
    run_import(run_export(source), tmp_path / "new.db")
    with open_ledger(tmp_path / "new.db", log_identity=LOG_KEY, genesis=GENESIS) as ledger:
        assert ledger.network == GENESIS.network
    with pytest.raises(OpeningRefused, match="log key"):
        open_ledger(tmp_path / "new.db", log_identity=SOUTH)
