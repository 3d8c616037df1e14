"""The vault on PostgreSQL: the contract, servers that die, one writer alone, and rows that somebody changed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from fhir_bridge.adapters.vault_fsck import check
from fhir_bridge.adapters.vault_postgres import PostgresDatabase
from fhir_bridge.adapters.vault_sql import SqlVault
from fhir_bridge.errors import DataDirectoryInUse, IntegrityBroken, SetupWrong, Unavailable
from fhir_bridge.model.ingest import Position
from fhir_bridge.ports.vault import Document, Work
from tests.contract.vault_contract import AnchorFailed, VaultContract, failing_anchor
from tests.contract.vault_samples import CHART, MAC_KEY, anchor, chart_key, work
from tests.support.postgres import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class ServerVaultWorld:
    """A vault in a database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._open: SqlVault | None = None

    async def open(self) -> SqlVault:
        await self.close()
        self._open = SqlVault(PostgresDatabase(self.url), MAC_KEY)
        return self._open

    async def close(self) -> None:
        if self._open is not None:
            await self._open.close()

    def findings(self) -> list[tuple[str, str]]:
        return [(x.place, x.what) for x in check(PostgresDatabase(self.url), MAC_KEY, chart_keys=chart_key)]


@pytest.fixture
async def vault_world(url: str) -> AsyncIterator[ServerVaultWorld]:
    world = ServerVaultWorld(url)
    yield world
    await world.close()


class TestPostgresVaultKeepsTheContract(VaultContract):
    pass


async def test_a_failed_commit_leaves_no_gap_in_the_journal(vault_world: ServerVaultWorld) -> None:
    vault = await vault_world.open()
    await vault.commit(work(CHART, 0, "r1"), anchor)
    with pytest.raises(IntegrityBroken):
        await vault.commit(work(CHART, 1, "r1"), anchor)
    with pytest.raises(AnchorFailed):
        await vault.commit(work(CHART, 1, "r2"), failing_anchor)
    await vault.commit(work(CHART, 1, "r3"), anchor)
    assert vault_world.findings() == []


async def test_only_one_process_writes_a_vault(vault_world: ServerVaultWorld) -> None:
    await vault_world.open()
    with pytest.raises(DataDirectoryInUse):
        SqlVault(PostgresDatabase(vault_world.url), MAC_KEY)
    await vault_world.close()
    await (await vault_world.open()).commit(work(CHART, 0, "r1"), anchor)


async def test_whoever_lost_the_lock_to_another_writer_cannot_commit_and_says_so(
    vault_world: ServerVaultWorld,
) -> None:
    """Split brain: the server ends our session, another process takes over, then we are back."""
    ours = await vault_world.open()
    await ours.commit(work(CHART, 0, "r1"), anchor)
    end_sessions(vault_world.url)
    other = await opened_soon(vault_world.url)
    await other.commit(work(CHART, 1, "r2"), anchor)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await ours.commit(work(CHART, 1, "r3"), anchor)
    await other.close()
    with pytest.raises(IntegrityBroken, match="another process"):
        await ours.commit(work(CHART, 1, "r3"), anchor)
    assert vault_world.findings() == []
    assert await ours.record(CHART, "r3", "v1") is None


async def test_a_session_that_ends_costs_a_retry_and_nothing_else(vault_world: ServerVaultWorld) -> None:
    vault = await vault_world.open()
    await vault.commit(work(CHART, 0, "r1"), anchor)
    assert await vault.document("c", "k") is None
    end_sessions(vault_world.url)
    await commit_at_last(vault, lambda: work(CHART, 1, "r2"))
    with suppress(Unavailable):
        await vault.document("c", "k")
    assert await vault.document("c", "k") is None
    assert [r.id async for r in vault.scan()] == ["r1", "r2"]
    assert vault_world.findings() == []


@pytest.mark.parametrize("was_written", [True, False])
async def test_a_connection_lost_in_a_commit_is_found_out_about(
    vault_world: ServerVaultWorld, monkeypatch: pytest.MonkeyPatch, was_written: bool
) -> None:
    """The answer to COMMIT never comes: success if the server had written it, Unavailable if not, never doubled."""
    vault = await vault_world.open()
    await vault.commit(work(CHART, 0, "r1"), anchor)
    raw = vault._writer._connection.raw  # type: ignore[attr-defined]
    whole = raw.execute

    def losing(sql: str, *arguments: Any, **named: Any) -> Any:
        if sql != "COMMIT":
            return whole(sql, *arguments, **named)
        if was_written:
            whole(sql)
        raw.close()
        raise psycopg.OperationalError("lost")

    monkeypatch.setattr(raw, "execute", losing)
    if was_written:
        assert await vault.commit(work(CHART, 1, "r2"), anchor) == 1
    else:
        with pytest.raises(Unavailable, match="nothing of it was written"):
            await vault.commit(work(CHART, 1, "r2"), anchor)
        assert await vault.commit(work(CHART, 1, "r2"), anchor) == 1
    assert await vault.commit(work(CHART, 2, "r3"), anchor) == 2
    assert [r.id async for r in vault.scan()] == ["r1", "r2", "r3"]
    assert vault_world.findings() == []


@pytest.mark.parametrize(
    ("change", "place", "what"),
    [
        ("UPDATE records SET normalised = normalised || '\\x00' WHERE id = 'r1'", f"records {CHART}/r1/v1", "edited"),
        ("DELETE FROM records WHERE id = 'r1'", f"records {CHART}/r1/v1", "deleted"),
        ("UPDATE documents SET value = '\\x00'", "documents links/k", "edited"),
        ("DELETE FROM journal WHERE number = 1", "journal 1", "missing"),
        ("UPDATE positions SET next_offset = 7", "positions kafka/s/0", "edited"),
    ],
)
async def test_a_changed_row_is_found_and_located(
    vault_world: ServerVaultWorld, change: str, place: str, what: str
) -> None:
    vault = await vault_world.open()
    first = replace(
        work(CHART, 0, "r1"), positions=[Position("kafka", "s", 0, 4)], documents=[Document("links", "k", b"v")]
    )
    await vault.commit(first, anchor)
    await vault.commit(work(CHART, 1, "r2"), anchor)
    assert vault_world.findings() == []
    with psycopg.connect(vault_world.url) as connection:
        connection.execute(change)
    assert any(p == place and w.startswith(what) for p, w in vault_world.findings()), vault_world.findings()


def test_a_url_that_is_none_is_told_without_its_password() -> None:
    with pytest.raises(SetupWrong) as refused:
        SqlVault(PostgresDatabase("postgresql://u:secret@:x/%"), MAC_KEY)
    assert "secret" not in str(refused.value)


def test_a_server_that_is_not_there_is_unavailable_without_the_password_being_told() -> None:
    with pytest.raises(Unavailable) as refused:
        SqlVault(PostgresDatabase("postgresql://u:secret@127.0.0.1:1/x"), MAC_KEY)
    assert "secret" not in str(refused.value)


def test_a_database_of_somebody_else_is_refused(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE stamp (what TEXT, version BIGINT)")
        connection.execute("INSERT INTO stamp VALUES ('something else', 1)")
    with pytest.raises(SetupWrong, match="something else"):
        SqlVault(PostgresDatabase(url), MAC_KEY)


async def test_what_was_acknowledged_survives_kills_of_the_server(own_server: PostgresServer) -> None:
    """SIGKILL to the server amid commits, again and again; the one writer goes on by itself afterwards."""
    world = ServerVaultWorld(own_server.make("vault"))
    vault = await world.open()
    acknowledged: list[str] = []
    over = threading.Event()

    async def write() -> None:
        for number in range(100_000):
            if over.is_set():
                return
            name = f"r{number}"
            await commit_at_last(vault, lambda name=name: work(f"{name:0>32}", 0, name))  # type: ignore[misc]
            acknowledged.append(name)

    writing = asyncio.create_task(write())
    for _ in range(KILLS):
        seen = len(acknowledged)
        while len(acknowledged) < seen + 5:
            if writing.done():
                await writing
            await asyncio.sleep(0.01)
        own_server.kill()
        await asyncio.to_thread(own_server.start_at_last)
    over.set()
    await writing
    await world.close()
    again = await world.open()
    held = [record.id async for record in again.scan()]
    assert len(held) == len(set(held))
    assert sorted(held) == sorted(acknowledged)
    await world.close()
    assert world.findings() == []


KILLS = 5


async def commit_at_last(vault: SqlVault, make: Callable[[], Work]) -> None:
    """Commit the same work until it is taken, as the line does."""
    made = make()
    async with asyncio.timeout(60):
        while True:
            try:
                await vault.commit(made, anchor)
                return
            except Unavailable:
                await asyncio.sleep(0.05)


async def opened_soon(url: str) -> SqlVault:
    async with asyncio.timeout(60):
        while True:
            with suppress(DataDirectoryInUse):
                return SqlVault(PostgresDatabase(url), MAC_KEY)
            await asyncio.sleep(0.05)


def end_sessions(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
