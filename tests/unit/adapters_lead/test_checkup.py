"""fsck of a data directory: it writes nothing, and says what of the keyring, the spool and the stamp is not right."""

from __future__ import annotations

import asyncio
import resource
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fhir_bridge.adapters.sqlite_support import check_stamp, connect_file
from fhir_bridge.errors import BridgeError, SetupWrong
from fhir_bridge.lines.checking import Finding
from fhir_bridge.wiring import check, open_bridge
from tests.support.bridge_world import fresh, observation, patient, running

KEYRING = Path("keys") / "keyring"


def _findings(data: Path) -> list[str]:
    return [f"{each.place}: {each.what}" for each in check(data) if isinstance(each, Finding)]


def _keyring_files(data: Path) -> list[str]:
    return sorted(file.name for file in (data / KEYRING).glob("*"))


async def _used(folder: Path) -> Path:
    """Return a data directory whose institution has a chart, hence a KEK."""
    data = fresh(folder)
    async with running(data) as world:
        await world.send(patient("p1"))
    return data


async def _refusal(data: Path) -> BridgeError:
    with pytest.raises(BridgeError) as caught:
        async with open_bridge(data, workers=0):
            pass
    return caught.value


@pytest.mark.parametrize(
    "lost",
    [
        "kek-northgate-1",
        "kek-_key-store-1",
        "identity-log",
        "identity-operator",
        "identity-anchor",
        "identity-northgate",
        "keyring.json",
    ],
)
async def test_a_lost_key_is_missing_and_stays_so(tmp_path: Path, lost: str) -> None:
    data = await _used(tmp_path)
    assert _findings(data) == []
    (data / KEYRING / lost).unlink()
    before = _keyring_files(data)
    assert any(each.startswith(f"keyring {lost}: missing") for each in _findings(data))
    assert _keyring_files(data) == before


async def test_a_lost_keyring_is_not_begun_anew(tmp_path: Path) -> None:
    data = await _used(tmp_path)
    names = [name for name in _keyring_files(data) if name != "identity-issuer"]
    shutil.rmtree(data / KEYRING)
    found = _findings(data)
    assert [name for name in names if not any(each.startswith(f"keyring {name}: missing") for each in found)] == []
    assert not (data / KEYRING).exists()


async def test_the_check_of_a_running_server_sees_a_lost_key_and_makes_none(tmp_path: Path) -> None:
    data = await _used(tmp_path)
    async with running(data) as world:
        (data / KEYRING / "kek-northgate-1").unlink()
        places = [each["place"] for each in await world.findings()]
        assert "keyring kek-northgate-1" in places
        assert not (data / KEYRING / "kek-northgate-1").exists()


@pytest.mark.parametrize("name", ["identity-log", "identity-operator"])
@pytest.mark.parametrize("is_replaced", [False, True])
async def test_without_the_keys_it_began_with_the_ledger_is_refused_in_one_line(
    tmp_path: Path, name: str, is_replaced: bool
) -> None:
    data = fresh(tmp_path)
    (data / KEYRING / name).unlink()
    if is_replaced:
        shutil.copy(data / KEYRING / "identity-anchor", data / KEYRING / name)
    assert any(each.startswith(f"keyring {name}: ") for each in _findings(data))
    before = _keyring_files(data)
    refusal = await _refusal(data)
    assert isinstance(refusal, SetupWrong)
    assert name in str(refusal)
    assert "\n" not in str(refusal)
    assert _keyring_files(data) == before


@pytest.mark.parametrize("is_older_copy", [False, True])
async def test_a_spool_older_than_the_vault_is_found_and_messages_go_on(tmp_path: Path, is_older_copy: bool) -> None:
    data = await _used(tmp_path)
    shutil.copy(data / "spool.db", tmp_path / "older.db")
    async with running(data) as world:
        for number in range(3):
            await world.send(observation(f"o{number}", "p1"))
    assert _findings(data) == []
    for file in data.glob("spool.db*"):
        file.unlink()
    if is_older_copy:
        shutil.copy(tmp_path / "older.db", data / "spool.db")
    assert [each for each in _findings(data) if each.startswith("spool: older than the vault: northgate")]
    async with running(data) as world:
        async with asyncio.timeout(20):
            await world.send(observation("o9", "p1"))
    assert _findings(data) == []


@pytest.mark.parametrize("stamp", ["99", ""])
def test_a_wrong_version_stamp_is_found(tmp_path: Path, stamp: str) -> None:
    data = fresh(tmp_path)
    (data / "VERSION").write_text(stamp + "\n")
    assert [each.split(":")[0] for each in _findings(data)] == ["VERSION"]


async def test_without_room_for_sqlites_own_files_a_check_speaks_of_the_disk_and_not_of_damage(
    tmp_path: Path,
) -> None:
    data = await _used(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        found = _findings(data)
        refusal = await _refusal(data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {each.partition(":")[0] for each in found} >= {"keys", "vault"}
    assert not [each for each in found if "malformed" in each or "is not a" in each]
    assert "keys: cannot be read: SQLITE_IOERR_SHMSIZE: is the disk full?" in found
    assert "SQLITE_IOERR_SHMSIZE" in str(refusal)
    assert _findings(data) == []


def test_a_file_that_cannot_be_read_now_is_not_taken_for_another_kind_of_file(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    path.touch()
    with closing(connect_file(path, False)) as other, closing(connect_file(path, False)) as mine:
        other.execute("CREATE TABLE stamp (what TEXT, version INTEGER)")
        other.execute("INSERT INTO stamp VALUES ('vault', 1)")
        mine.execute("PRAGMA busy_timeout=0")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            check_stamp(mine, path, what="vault", version=1)
