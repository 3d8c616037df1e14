"""A whole bridge whose vault, ledger or both are on PostgreSQL: what it takes, what a kill costs, checks, backups."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from fhir_bridge.adapters.backup import make_backup, restore
from fhir_bridge.adapters.vault_copy import copy_vault
from fhir_bridge.adapters.vault_postgres import PostgresDatabase
from fhir_bridge.adapters.vault_sqlite import SqliteDatabase
from fhir_bridge.errors import DataDirectoryInUse, SetupWrong, Unavailable
from fhir_bridge.lines.checking import Finding
from fhir_bridge.wiring import check
from ledger_core import holds_ledger, run_copy, run_fsck
from tests.support.bridge_world import ROOT, World, consent, fresh, observation, patient, running
from tests.support.jose import Signer, encrypted
from tests.support.postgres import PostgresServer
from tests.unit.lines.test_imports import begun, counts, ended, lines_of, ndjson
from tests.unit.lines.test_indexes import GLUCOSE, check_units

KILLS = int(os.environ.get("POSTGRES_KILLS", "5"))
JSON = {"Content-Type": "application/fhir+json"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900 + 20 * KILLS)]


@contextmanager
def settings(vault: str = "", ledger: str = "") -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FHIR_BRIDGE_VAULT_URL", vault)
        patch.setenv("FHIR_BRIDGE_LEDGER_URL", ledger)
        yield


def vault_at(url: str) -> AbstractContextManager[None]:
    return settings(vault=url)


def on_postgres(folder: Path, url: str, *, ledger: bool = False) -> Path:
    """Return a data directory with two institutions whose vault has moved to PostgreSQL, and the ledger if asked."""
    data = fresh(folder)
    moved(data, url)
    if ledger:
        moved_ledger(data, url)
    return data


def moved_ledger(data: Path, url: str) -> None:
    run_copy(data / "ledger" / "ledger.db", url)
    (data / "ledger" / "ledger.db").unlink()


def moved(data: Path, url: str) -> None:
    source = SqliteDatabase(data / "vault.db")
    connection = source.open_checker()
    with source.snapshot(connection):
        copy_vault(connection, PostgresDatabase(url))
    connection.close()
    (data / "vault.db").unlink()


def findings(data: Path) -> list[Finding]:
    return [each for each in check(data, deep=True) if isinstance(each, Finding)]


async def timeline(world: World) -> list[str]:
    return await world.timeline(await world.token(), await world.patient_id("p1"))


async def test_it_takes_answers_restarts_and_checks_as_with_a_file(tmp_path: Path, url: str) -> None:
    data = on_postgres(tmp_path, url)
    with vault_at(url):
        async with running(data) as world:
            await world.send(patient("p1"))
            for number in range(5):
                await world.send(observation(f"o{number}", "p1"))
            before = await timeline(world)
            assert len(before) >= 6
            assert (await world.http.get("/health/ready")).status_code == 200
            assert await world.findings() == []
            assert "fhir_bridge_vault_bytes" in (await world.control.get("/metrics")).text
        assert findings(data) == []
        async with running(data) as world:
            assert await timeline(world) == before
        assert not (data / "vault.db").exists()
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE records SET lineage = lineage || '\\x00' WHERE seq = 1")
        assert any(each.place.startswith("records ") and each.what == "edited" for each in findings(data))


async def test_a_value_is_found_in_another_unit_as_with_a_file(tmp_path: Path, url: str) -> None:
    data = on_postgres(tmp_path, url)
    with vault_at(url):
        async with running(data) as world:
            await world.send(patient("p1"))
            await world.send(observation("mg", "p1", valueQuantity=GLUCOSE))
            await check_units(world)
        async with running(data) as world:
            await check_units(world)


async def test_two_bridges_never_share_a_vault(tmp_path: Path, url: str) -> None:
    data = on_postgres(tmp_path, url)
    (tmp_path / "other").mkdir()
    other = fresh(tmp_path / "other")
    with vault_at(url):
        async with running(data) as world:
            await world.send(patient("p1"))
            with pytest.raises(DataDirectoryInUse):
                async with running(other):
                    pass


async def all_marked(world: World, url: str) -> None:
    """Wait until every batch has its height: the newest is just being marked, and lost marks come with a write."""
    unmarked = "SELECT count(*) FROM batches LEFT JOIN anchors USING (number) WHERE height IS NULL"
    async with asyncio.timeout(60):
        while True:
            with psycopg.connect(url) as connection:
                if connection.execute(unmarked).fetchone() == (0,):
                    return
            await world.send(observation("last", "p1", note=[{"text": str(time.monotonic())}]))


@pytest.mark.parametrize("ledger", [False, True], ids=["vault", "vault-and-ledger"])
async def test_no_acknowledged_record_is_lost_or_doubled_whenever_the_server_is_killed(
    tmp_path: Path, own_server: PostgresServer, ledger: bool
) -> None:
    url = own_server.make("vault")
    data = on_postgres(tmp_path, url, ledger=ledger)
    answered: list[str] = []
    over = asyncio.Event()

    async def push(world: World, lane: int) -> None:
        who = await world.token()
        for number in range(100_000):
            if over.is_set():
                return
            name = f"o{lane}-{number}"
            body = json.dumps(observation(name, "p1"))
            status, since = 0, time.monotonic()
            while status not in (200, 201) and not (over.is_set() and status == 503):
                if status:
                    assert time.monotonic() < since + 60, "the bridge does not come back"
                    await asyncio.sleep(0.02)
                answer = await world.http.put(f"/fhir/Observation/{name}", content=body, headers=who | JSON)
                status = answer.status_code
                if status == 401:
                    # A token holds five minutes, and none is given while the vault is away.
                    with suppress(Unavailable):
                        who = await world.token()
                assert status in (200, 201, 401, 429, 503), answer.text
            if status != 503:
                answered.append(name)

    with settings(url, url if ledger else ""):
        async with running(data) as world:
            await world.send(patient("p1"))
            pushing = [asyncio.create_task(push(world, lane)) for lane in range(4)]
            for _ in range(KILLS):
                seen = len(answered)
                while len(answered) < seen + 10:
                    for each in pushing:
                        if each.done():
                            await each
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(own_server.kill)
                await asyncio.to_thread(own_server.start_at_last)
            over.set()
            await asyncio.gather(*pushing)
            assert world.bridge.standing.is_sound
            await all_marked(world, url)
        async with running(data) as world:
            who = await world.token()
            lost = []
            for name in answered:
                read = await world.http.get(f"/fhir/Observation/{name}", headers=who)
                if read.status_code != 200:
                    lost.append(name)
                    continue
                assert read.json()["meta"]["versionId"]
                history = await world.http.get(f"/fhir/Observation/{read.json()['id']}/_history", headers=who)
                assert len(history.json()["entry"]) == 1, name
            assert lost == []
        assert findings(data) == []


async def test_an_import_counts_each_line_once_though_the_server_dies_in_its_commits(
    tmp_path: Path, own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_IMPORT_IN_FLIGHT_LINES", "8")
    url = own_server.make("imports")
    data = on_postgres(tmp_path, url)
    body = ndjson(*(patient(f"p{n}", **({"gender": "purple"} if n % 50 == 7 else {})) for n in range(400)))
    with vault_at(url):
        async with running(data) as world:
            address = await begun(world, body)
            job = address.rpartition("/")[2]
            book = world.bridge.services.imports._book
            for number in range(3):
                while (await book.totals(job, "northgate")).through < 40 * (number + 1):
                    await asyncio.sleep(0.005)
                await asyncio.to_thread(own_server.kill)
                await asyncio.to_thread(own_server.start_at_last)
            while (await book.totals(job, "northgate")).through < 200:
                await asyncio.sleep(0.005)
        async with running(data) as world:
            manifest = await ended(world, address)
            assert counts(manifest) == {("created", "Patient"): 392, ("refused", "unknown"): 8}
            lines = await lines_of(world, manifest, "output") + await lines_of(world, manifest, "error")
            assert len(lines) == 400
            who = await world.token()
            assert (await world.http.delete(address, headers=who)).status_code == 202
            assert list((data / "imports").iterdir()) == []
        assert findings(data) == []


@pytest.mark.parametrize("ledger", [False, True], ids=["vault", "vault-and-ledger"])
async def test_a_backup_is_whole_while_records_come_and_restores_into_either(
    tmp_path: Path, server: PostgresServer, url: str, ledger: bool
) -> None:
    data = on_postgres(tmp_path, url, ledger=ledger)
    place = url if ledger else data / "ledger" / "ledger.db"
    with settings(url, url if ledger else ""):
        async with running(data) as world:
            await world.send(patient("p1"))
            over = asyncio.Event()

            async def push() -> None:
                for number in range(10_000):
                    if over.is_set():
                        return
                    await world.send(observation(f"o{number}", "p1"))
                    await asyncio.sleep(0.02)

            pushing = asyncio.create_task(push())
            made = await make_backup(data, tmp_path / "kept", PostgresDatabase(url), place)
            over.set()
            await pushing
    vault, keys = Path(made["vault"]), Path(made["keys"])
    assert (vault / "vault.db").is_file()
    assert (vault / "ledger.db").is_file()
    restore(vault, keys, tmp_path / "file")
    assert findings(tmp_path / "file") == []
    into = f"{url}_restored"
    server.make(into.rpartition("/")[2])
    with settings(into, into if ledger else ""):
        restored_to = into if ledger else ""
        restore(vault, keys, tmp_path / "server", PostgresDatabase(into), restored_to)
        assert findings(tmp_path / "server") == []
        async with running(tmp_path / "server") as world:
            await world.send(observation("later", "p1"))
            assert await world.findings() == []
        with pytest.raises(SetupWrong, match="already"):
            restore(vault, keys, tmp_path / "again", PostgresDatabase(into), restored_to)


# --- the ledger


async def test_a_ledger_begun_on_postgres_takes_restarts_and_checks(tmp_path: Path, url: str) -> None:
    data = tmp_path / "data"
    with settings(ledger=url):
        async with running(data) as world:
            given = {"name": "northgate", "fhir_version": "R4", "ruleset_dir": str(ROOT / "mappings" / "northgate")}
            answer = await world.control.post("/institutions", json=given)
            assert answer.status_code == 200, answer.text
            await world.send(patient("p1"))
            before = await timeline(world)
            assert (await world.http.get("/health/ready")).status_code == 200
            exported = await world.control.get("/ledger/export")
            assert len(exported.text.splitlines()) > 5
            assert await world.findings() == []
        assert not (data / "ledger" / "ledger.db").exists()
        assert findings(data) == []
        async with running(data) as world:
            assert await timeline(world) == before
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE entries SET entry = entry || '\\x00' WHERE idx = 3")
        assert any(each.place == "ledger entries/3" for each in findings(data))


async def test_a_ledger_is_never_begun_a_second_time(tmp_path: Path, server: PostgresServer, url: str) -> None:
    """A forgotten setting, another database, a file and a database: two histories under one key must not be."""
    data = on_postgres(tmp_path, url, ledger=True)
    with settings(url, url):
        async with running(data) as world:
            await world.send(patient("p1"))
    empty = server.make(f"{url.rpartition('/')[2]}_empty")
    (tmp_path / "files").mkdir()
    for place, where, said in (
        (data, "", "set FHIR_BRIDGE_LEDGER_URL"),
        (data, empty, "holds no ledger"),
        (data, "mysql://u:secret@db/x", "no URL of PostgreSQL"),
        (fresh(tmp_path / "files"), empty, "holds a ledger itself"),
    ):
        with settings(url if place == data else "", where):
            with pytest.raises(SetupWrong, match=said):
                async with running(place):
                    pass
            if where != empty or place != data:
                with pytest.raises(SetupWrong, match=said):
                    list(check(place))
    assert not (data / "ledger" / "ledger.db").exists()
    assert not holds_ledger(empty)
    assert list(run_fsck(url)) == []


async def test_two_bridges_never_share_a_ledger(tmp_path: Path, url: str) -> None:
    data = on_postgres(tmp_path, url, ledger=True)
    (tmp_path / "other").mkdir()
    other = fresh(tmp_path / "other")
    (other / "ledger" / "ledger.db").unlink()
    with settings(url, url):
        async with running(data):
            with settings(ledger=url), pytest.raises(DataDirectoryInUse):
                async with running(other):
                    pass


async def test_a_ledger_that_is_away_is_waited_for_and_readiness_tells(
    tmp_path: Path, own_server: PostgresServer
) -> None:
    """Answers go on; who sends a record or decides waits for the answer; nothing is lost; nobody restarts."""
    url = own_server.make("ledger")
    data = fresh(tmp_path)
    moved_ledger(data, url)
    with settings(ledger=url):
        async with running(data) as world:
            await world.send(patient("p1"))
            headers, person = await world.token(), await world.patient_id("p1")
            agent = await world.enrol("p1")
            before = await world.timeline(headers, person)
            own_server.stop()
            ready = await world.http.get("/health/ready")
            assert ready.status_code == 503
            assert ready.json()["parts"]["ledger"] is False
            given = consent(f"Patient/{person}", permit=f"Organization/{await world.organization('harbor')}")
            decided = asyncio.create_task(world.http.post("/fhir/Consent", json=given, headers=agent))
            sent = asyncio.create_task(world.send(observation("o1", "p1")))
            await asyncio.sleep(1)
            assert not sent.done()
            assert not decided.done()
            assert await world.timeline(headers, person) == before
            own_server.start()
            await asyncio.wait_for(sent, 60)
            assert (await asyncio.wait_for(decided, 60)).status_code == 201
            assert "Observation/o1" in await world.timeline(headers, person)
            async with asyncio.timeout(60):
                while (await world.http.get("/health/ready")).status_code != 200:
                    await asyncio.sleep(0.1)
            assert world.bridge.standing.is_sound
            assert await world.findings() == []
        own_server.stop()
        with pytest.raises(Unavailable):
            async with running(data):
                pass
        own_server.start()
        assert findings(data) == []


async def test_wrapped_messages_claims_and_their_evidence_are_on_postgresql_as_in_the_file(
    url: str, tmp_path: Path
) -> None:
    signer = Signer()
    data = on_postgres(tmp_path, url)
    with vault_at(url):
        async with running(data) as world:
            orders = "/institutions/northgate"
            assert (await world.control.post(f"{orders}/signing-keys", json={"add": signer.jwk})).status_code == 200
            to = (await world.control.post(f"{orders}/encryption-key", json={"must": True})).json()
            whole = encrypted(signer.sign_whole(json.dumps(patient("p1")).encode()), to, header={"cty": "jose"})
            address = hashlib.sha256(whole).hexdigest()
            who = await world.token() | {"Content-Type": "application/jose"}
            assert (await world.http.put(f"/fhir/$claim/{address}", content=whole, headers=who)).status_code == 201
            told = await world.control.post(
                "/ingest",
                params={"institution": "northgate"},
                content=json.dumps({"sha256": address, "bytes": len(whole)}).encode(),
                headers={"Content-Type": "application/vnd.fhir-bridge.claim+json"},
            )
            assert told.json()["outcomes"] == {"201": 1}
        async with running(data) as world:
            (kept,) = (await world.control.get("/signed")).json()
            found = (await world.control.get("/signed/evidence", params={"message": kept["id"]})).json()
            assert json.loads(base64.b64decode(found["message"])) == patient("p1")
            assert (await world.control.post("/institutions/northgate/encryption-key", json={})).json() == to
            assert await world.findings() == []
