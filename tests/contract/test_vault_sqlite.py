"""The SQLite vault: the contract, durability under SIGKILL, and what its file promises."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from fhir_bridge.adapters.vault_digest import state_digest
from fhir_bridge.adapters.vault_fsck import check
from fhir_bridge.adapters.vault_sql import SqlVault
from fhir_bridge.adapters.vault_sqlite import SqliteDatabase
from fhir_bridge.errors import IntegrityBroken, SetupWrong
from fhir_bridge.ports.vault import Work
from tests.contract.vault_contract import LETTER, AnchorFailed, VaultContract, failing_anchor
from tests.contract.vault_samples import CHART, MAC_KEY, OTHER_CHART, anchor, chart_key, work

WRITER = """
import asyncio, sys
from pathlib import Path
from fhir_bridge.adapters.vault_sql import SqlVault
from fhir_bridge.adapters.vault_sqlite import SqliteDatabase
from fhir_bridge.model.ingest import Position
from dataclasses import replace
from tests.contract.vault_samples import MAC_KEY, anchor, work

async def main(path, start):
    vault = SqlVault(SqliteDatabase(path), MAC_KEY)
    for i in range(start, 100_000):
        written = replace(work(f"{i:032x}", 0, f"r{i}", f"s{i}"), positions=[Position("spool", "s", 0, i)])
        await vault.commit(written, anchor)
        print(i, flush=True)

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


class FileVaultWorld:
    """A vault file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "data" / "vault.db"
        self._open: SqlVault | None = None

    async def open(self) -> SqlVault:
        await self.close()
        self._open = SqlVault(SqliteDatabase(self.path), MAC_KEY)
        return self._open

    async def close(self) -> None:
        if self._open is not None:
            await self._open.close()


@pytest.fixture
async def vault_world(tmp_path: Path) -> AsyncIterator[FileVaultWorld]:
    world = FileVaultWorld(tmp_path)
    yield world
    await world.close()


class TestSqliteVaultKeepsTheContract(VaultContract):
    pass


async def test_files_are_for_the_owner_only(vault_world: FileVaultWorld) -> None:
    vault = await vault_world.open()
    await vault.commit(work(CHART, 0, "r1"), anchor)
    folder = vault_world.path.parent
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    assert len(list(folder.iterdir())) == 3
    assert folder.stat().st_mode & 0o777 == 0o700


async def test_another_mac_key_does_not_open_the_vault(vault_world: FileVaultWorld) -> None:
    vault = await vault_world.open()
    await vault.commit(work(CHART, 0, "r1"), anchor)
    await vault_world.close()
    with pytest.raises(IntegrityBroken):
        SqlVault(SqliteDatabase(vault_world.path), bytes(32))


async def test_a_newer_layout_is_refused(vault_world: FileVaultWorld) -> None:
    await vault_world.open()
    await vault_world.close()
    with closing(sqlite3.connect(vault_world.path)) as connection, connection:
        connection.execute("UPDATE stamp SET version = version + 1")
    with pytest.raises(SetupWrong, match="newer"):
        await vault_world.open()


async def test_the_writer_syncs_every_commit(vault_world: FileVaultWorld) -> None:
    vault = await vault_world.open()
    await vault.mark_anchored([(0, 1, 1)])
    (level,) = vault._writer._connection.execute("PRAGMA synchronous").fetchone()
    assert level == 2  # FULL, sqlite.org/pragma.html#pragma_synchronous


async def test_a_failed_commit_leaves_no_gap_in_the_journal(vault_world: FileVaultWorld) -> None:
    vault = await vault_world.open()
    await vault.commit(work(CHART, 0, "r1"), anchor)
    with pytest.raises(IntegrityBroken):
        await vault.commit(work(CHART, 1, "r1"), anchor)
    with pytest.raises(AnchorFailed):
        await vault.commit(work(CHART, 1, "r2"), failing_anchor)
    await vault.commit(work(CHART, 1, "r3"), anchor)
    await vault_world.close()
    assert list(check(SqliteDatabase(vault_world.path), MAC_KEY, chart_keys=chart_key)) == []


async def test_what_was_acknowledged_survives_five_kills(vault_world: FileVaultWorld, tmp_path: Path) -> None:
    start, chance = 0, random.Random(5)
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(vault_world.path), str(start)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": "."},
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.15))
        os.kill(process.pid, signal.SIGKILL)
        told = process.stdout.read().split()
        process.stdout.close()
        process.wait()
        vault = await vault_world.open()
        ((position,),) = [(p.offset,) for p in await vault.positions("spool")]
        assert position > max([start, *map(int, told)])
        stored = {record.id async for record in vault.scan()}
        assert stored == {f"{letter}{i}" for i in range(position) for letter in "rs"}
        assert await vault.last_batch() == position - 1
        await vault_world.close()
        start = position
    assert list(check(SqliteDatabase(vault_world.path), MAC_KEY, chart_keys=chart_key)) == []


async def test_the_digest_of_a_state_does_not_depend_on_order_or_randomness(tmp_path: Path) -> None:
    one, two = (SqlVault(SqliteDatabase(tmp_path / name), MAC_KEY) for name in ("1.db", "2.db"))
    for vault, order in ((one, (CHART, OTHER_CHART)), (two, (OTHER_CHART, CHART))):
        for chart in order:
            await vault.commit(work(chart, 0, f"{chart}1", f"{chart}2"), anchor)
        await vault.commit(Work(letters=[LETTER]), None)
    assert await state_digest(one, chart_key) == await state_digest(two, chart_key)
    before = await state_digest(two, chart_key)
    await two.commit(work(CHART, 1, "one more"), anchor)
    assert await state_digest(two, chart_key) != before
    await one.close()
    await two.close()
