"""A store's file that is removed or replaced: nothing is told as kept that the next start lacks."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import httpx
import pytest

from fhir_bridge.errors import SetupWrong
from tests.support.bridge_world import Json, World, bundle, fresh, patient, running

SIDES = ("", "-wal", "-shm")


async def post(world: World, name: str, headers: dict[str, str]) -> int:
    sent = bundle(("PUT", f"Patient/{name}", patient(name)))
    answer: httpx.Response = await world.http.post("/fhir", json=sent, headers=headers)
    return answer.status_code


async def unready(world: World) -> list[str]:
    parts: Json = (await world.http.get("/health/ready")).json()["parts"]
    return [name for name, good in parts.items() if not good]


async def until_ready(world: World) -> None:
    async with asyncio.timeout(60):
        while await unready(world):
            await asyncio.sleep(0.02)


async def used(tmp_path: Path) -> Path:
    """Return a directory in which a patient is stored."""
    data = fresh(tmp_path)
    async with running(data) as world:
        assert await post(world, "p1", await world.token()) == 200
    return data


def move(data: Path, store: str, to: Path) -> None:
    """Take a store's files away."""
    to.mkdir()
    for side in SIDES:
        file = data / f"{store}{side}"
        if file.exists():
            shutil.move(file, to / file.name)


@pytest.mark.parametrize("store", ["vault.db", "ledger/ledger.db"])
async def test_a_store_that_is_gone_is_not_begun_anew_beside_the_other(tmp_path: Path, store: str) -> None:
    data = await used(tmp_path)
    move(data, store, tmp_path / "away")
    with pytest.raises(SetupWrong, match="gone"):
        async with running(data):
            pass
    (data / store).unlink(missing_ok=True)
    for file in (tmp_path / "away").iterdir():
        shutil.move(file, (data / store).parent / file.name)
    async with running(data) as world:
        assert await world.timeline(await world.token(), await world.patient_id("p1")) == ["Patient/p1"]


async def test_a_ledger_older_than_its_vault_is_not_gone_on_with(tmp_path: Path) -> None:
    data = await used(tmp_path)
    shutil.copy(data / "ledger" / "ledger.db", tmp_path / "older.db")
    async with running(data) as world:
        assert await post(world, "p2", await world.token()) == 200
    move(data, "ledger/ledger.db", tmp_path / "away")
    shutil.copy(tmp_path / "older.db", data / "ledger" / "ledger.db")
    with pytest.raises(SetupWrong, match="older than the vault"):
        async with running(data):
            pass


@pytest.mark.parametrize(("store", "part"), [("vault.db", "vault"), ("keys/keys.db", "keys"), ("spool.db", "bus")])
async def test_a_file_that_is_removed_beneath_the_service_takes_nothing_until_it_is_back(
    tmp_path: Path, store: str, part: str
) -> None:
    data = await used(tmp_path)
    async with running(data) as world:
        headers = await world.token()
        await until_ready(world)
        (data / store).rename(tmp_path / "away")
        assert await unready(world) == [part]
        if part == "bus":
            put = await world.control.post("/ingest", params={"institution": "northgate"}, json=patient("p2"))
            assert put.status_code == 503
        else:
            assert await post(world, "p2", headers) == 503
        (tmp_path / "away").rename(data / store)
        await until_ready(world)
        assert await post(world, "p3", headers) == 200
    async with running(data) as world:
        assert await world.timeline(await world.token(), await world.patient_id("p3")) == ["Patient/p3"]
        assert await world.findings() == []


async def test_a_ledger_whose_file_is_removed_takes_nothing_more(tmp_path: Path) -> None:
    data = await used(tmp_path)
    async with running(data) as world:
        headers = await world.token()
        await until_ready(world)
        (data / "ledger" / "ledger.db").rename(tmp_path / "away")
        assert await unready(world) == ["ledger"]
        assert await post(world, "p2", headers) == 503
        (tmp_path / "away").rename(data / "ledger" / "ledger.db")
    async with running(data) as world:
        assert await post(world, "p2", await world.token()) == 200
        assert await world.findings() == []
