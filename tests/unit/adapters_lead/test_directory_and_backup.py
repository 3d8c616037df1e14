"""The data directory and its backups: who may read them, who holds them, and what a restored one knows."""

from __future__ import annotations

import asyncio
import os
import resource
import stat
from pathlib import Path

import anyio
import pytest

from fhir_bridge.adapters.backup import make_backup
from fhir_bridge.adapters.datadir import DataDirectory
from fhir_bridge.cli.main import main
from fhir_bridge.errors import DataDirectoryInUse, SetupWrong
from fhir_bridge.wiring import check, open_bridge, restore
from tests.support.bridge_world import World, fresh, observation, patient, running


def _open_to_others(folder: Path) -> list[str]:
    return [
        str(path.relative_to(folder))
        for path in [folder, *folder.rglob("*")]
        if stat.S_IMODE(path.stat().st_mode) & 0o077
    ]


async def _feed(world: World, stop: asyncio.Event) -> int:
    number = 0
    while not stop.is_set():
        await asyncio.gather(
            *(world.send(observation(f"o{number + n}", "p1", id=f"o{number + n}")) for n in range(4))
        )
        number += 4
    return number


async def test_nothing_in_the_directory_or_its_backup_is_open_to_others(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        data = tmp_path / "new"
        async with running(data) as world:
            given = {"name": "northgate", "fhir_version": "R4"}
            pack = str(Path(__file__).resolve().parents[3] / "mappings" / "northgate")
            await world.control.post("/institutions", json=given | {"ruleset_dir": pack})
            await world.send(patient("p1"))
            await world.enrol("p1")
            answer = await world.control.post("/backup", json={"to": str(tmp_path / "backup")})
            assert answer.status_code == 200
            assert _open_to_others(data) == []
        assert _open_to_others(data) == []
        assert _open_to_others(tmp_path / "backup") == []
    finally:
        os.umask(before)


def test_the_keys_of_another_deployment_are_called_so_and_not_told_row_by_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    anyio.run(_backed_up, fresh(tmp_path), ours)
    anyio.run(_backed_up, tmp_path / "another", theirs)
    to = str(tmp_path / "restored")
    wrong = ["restore", "--from", str(ours / "vault"), "--keys", str(theirs / "keys"), "--data", to]
    assert main(wrong) == 1
    shown = capsys.readouterr()
    assert "the keys are not those of this vault" in shown.err
    assert "keyring identity-log: another key" in shown.out
    assert len(shown.out.splitlines()) <= 21


async def _backed_up(data: Path, to: Path) -> None:
    async with running(data) as world:
        answer = await world.control.post("/backup", json={"to": str(to)})
        assert answer.status_code == 200, answer.text


async def test_a_backup_made_under_load_restores_to_a_sound_directory_that_takes_more(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        stop = asyncio.Event()
        feeding = asyncio.create_task(_feed(world, stop))
        await asyncio.sleep(0.2)
        answer = await world.control.post("/backup", json={"to": str(tmp_path / "backup")})
        assert answer.status_code == 200, answer.text
        stop.set()
        sent = await feeding
    assert sent > 4
    made = answer.json()
    restored = tmp_path / "restored"
    restore(Path(made["vault"]), Path(made["keys"]), restored)
    async with running(restored) as world:
        assert await world.findings() == []
        who, asked = await world.token(), await world.patient_id("p1")
        # A batch that the copy caught between commit and anchor is anchored after the start, before any later one.
        assert (await world.send(observation("first", "p1")))["outcomes"] == {"201": 1}
        held = await world.timeline(who, asked)
        summary = await world.send(observation("later", "p1"))
        assert summary["outcomes"] == {"201": 1}
        assert len(await world.timeline(who, asked)) == len(held) + 1
        repeated = await world.send(observation("o0", "p1"))
        assert repeated["outcomes"] == {"200": 1}
    assert [each for each in check(restored, deep=True) if hasattr(each, "place")] == []


async def test_a_check_beside_a_busy_server_finds_nothing(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        stop = asyncio.Event()
        feeding = asyncio.create_task(_feed(world, stop))
        for _ in range(5):
            assert await world.findings(deep=False) == []
        stop.set()
        await feeding


async def test_restoring_needs_an_empty_place_and_both_folders(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        await world.control.post("/backup", json={"to": str(tmp_path / "b")})
        again = await world.control.post("/backup", json={"to": str(tmp_path / "b")})
        assert again.status_code == 400
        within = await world.control.post("/backup", json={"to": str(data / "b")})
        assert (within.status_code, (data / "b").exists()) == (400, False)
    vault, keys = tmp_path / "b" / "vault", tmp_path / "b" / "keys"
    with pytest.raises(SetupWrong, match="not empty"):
        restore(vault, keys, data)
    with pytest.raises(SetupWrong, match="missing"):
        restore(keys, vault, tmp_path / "new")
    assert not (vault / "keys.db").exists()
    assert not (keys / "vault.db").exists()


@pytest.mark.parametrize("name", ["vault/vault.db", "vault/ledger.db", "keys/keys.db"])
def test_a_damaged_copy_is_named_and_leaves_nothing_that_could_be_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    backup, to = tmp_path / "b", tmp_path / "restored"
    anyio.run(_backed_up, fresh(tmp_path), backup)
    os.truncate(backup / name, (backup / name).stat().st_size // 2 - 100)
    order = ["restore", "--from", str(backup / "vault"), "--keys", str(backup / "keys"), "--data", str(to)]
    assert main(order) == 1
    assert f"{backup / name} is damaged or cut short" in capsys.readouterr().err
    assert main(["status", "--data", str(to)]) == 2
    assert not (to / "keys" / "keyring").exists()


def test_a_backup_or_restore_without_room_says_so(tmp_path: Path) -> None:
    data, backup = fresh(tmp_path), tmp_path / "b"
    anyio.run(_backed_up, data, backup)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(SetupWrong, match="another cannot be written: SQLITE_"):
            anyio.run(make_backup, data, tmp_path / "another")
        with pytest.raises(SetupWrong, match="restored cannot be written: SQLITE_"):
            restore(backup / "vault", backup / "keys", tmp_path / "restored")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "another" / "vault" / "VERSION").exists()


async def test_what_a_backup_and_a_restore_have_made_would_survive_a_loss_of_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, backup, restored = fresh(tmp_path), tmp_path / "b", tmp_path / "restored"
    synced: set[int] = set()
    sync = os.fsync

    def noted(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    async with running(data) as world:
        await world.send(patient("p1"))
        monkeypatch.setattr(os, "fsync", noted)
        assert (await world.control.post("/backup", json={"to": str(backup)})).status_code == 200
    restore(backup / "vault", backup / "keys", restored)
    made = [tmp_path, backup, restored, *backup.rglob("*"), *restored.rglob("*")]
    assert [path.name for path in made if path.stat().st_ino not in synced] == []


async def test_one_process_at_a_time(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data):
        with pytest.raises(DataDirectoryInUse):
            async with open_bridge(data, workers=0):
                pass
    async with running(data) as world:
        assert (await world.http.get("/health/live")).status_code == 200


@pytest.mark.parametrize("stamp", ["2", "10", "", "x"])
def test_another_stamp_is_refused_and_nothing_is_touched(tmp_path: Path, stamp: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "VERSION").write_text(stamp)
    with pytest.raises(SetupWrong):
        DataDirectory(data)
    assert sorted(path.name for path in data.iterdir()) == ["VERSION"]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("x")
    with pytest.raises(SetupWrong, match="no fhir-bridge data"):
        DataDirectory(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.doc"]


def test_a_directory_whose_making_was_cut_short_can_be_begun_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / ".VERSION").write_text("")
    DataDirectory(data).close()
    assert (data / "VERSION").read_text() == "1\n"
