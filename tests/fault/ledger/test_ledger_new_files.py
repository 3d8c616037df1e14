"""New folders and copies of a ledger: folders survive loss of power, copies are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from ledger_core import LedgerLocked, LedgerUnavailable, OpeningRefused, open_ledger, run_fsck
from ledger_core.opening import run_restore, run_snapshot
from ledger_core.stores.sqlite import SqliteStore
from tests.fault.ledger.ledger_load import ANSWER_LIMIT_S, GENESIS, LOG_KEY, NAME, Writer, broken_promises, open_in
from tests.support.powerloss import Event, Write
from tests.support.powerloss_vfs import Disk, disk_full

COPY = "copy.db"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with a ledger of a few blocks."""
    folder = tmp_path / "written"
    with open_in(folder) as ledger:
        writer = Writer(ledger, Random(5), print)
        for _ in range(5):
            writer.submit().result(ANSWER_LIMIT_S)
    return folder


def test_every_new_folder_is_synced_into_the_one_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    open_in(tmp_path / "new" / "newer").close()
    assert {tmp_path, tmp_path / "new"} <= set(synced)


def test_a_copy_has_its_name_only_once_it_is_whole(written: Path) -> None:
    target = written / COPY
    early: list[Event] = []
    disk = Disk(written, refuse=lambda event: early.append(event) if target.exists() else None)
    store = SqliteStore.open_to_read(written / NAME, connect=disk.connect)
    store.snapshot(target)
    store.close()
    assert any(isinstance(event, Write) for event in disk.history)
    assert early == []
    assert list(run_fsck(target)) == []
    assert not list(written.glob("*.part*"))


def test_a_copy_that_finds_no_room_leaves_no_name_and_can_be_made_again(written: Path) -> None:
    target = written / COPY
    disk = Disk(written, refuse=lambda event: disk_full(event) if isinstance(event, Write) else None)
    store = SqliteStore.open_to_read(written / NAME, connect=disk.connect)
    with pytest.raises(LedgerUnavailable):
        store.snapshot(target)
    store.close()
    assert not target.exists()
    run_snapshot(written / NAME, target)
    assert list(run_fsck(target)) == []


def test_a_copy_cut_short_by_a_kill_does_not_stand_in_the_way(written: Path) -> None:
    target = written / COPY
    target.with_name(f"{COPY}.part").write_bytes(b"half a copy")
    run_snapshot(written / NAME, target)
    assert list(run_fsck(target)) == []
    assert not target.with_name(f"{COPY}.part").exists()


def test_a_copy_replaces_no_file(written: Path) -> None:
    target = written / COPY
    target.write_bytes(b"dear")
    with pytest.raises(OpeningRefused):
        run_snapshot(written / NAME, target)
    store = SqliteStore.open_to_read(written / NAME)
    with pytest.raises(LedgerUnavailable):
        store.snapshot(target)
    store.close()
    assert target.read_bytes() == b"dear"


def test_a_restored_ledger_goes_on(written: Path, tmp_path: Path) -> None:
    copy = tmp_path / COPY
    run_snapshot(written / NAME, copy)
    assert list(run_restore(copy, tmp_path / "restored" / NAME)) == []
    assert broken_promises(tmp_path / "restored", []) == []


def test_a_ledger_open_under_one_name_is_locked_under_the_other(written: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    other.symlink_to(written / NAME)
    with open_in(written), pytest.raises(LedgerLocked):
        open_ledger(other, log_identity=LOG_KEY, genesis=GENESIS)
    open_ledger(other, log_identity=LOG_KEY, genesis=GENESIS).close()
