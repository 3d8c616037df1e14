"""Imports: NDJSON over HTTP as a background job, by its status, its files and what is stored afterwards."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard

from fhir_bridge.adapters.keystore import SqliteKeyStore
from fhir_bridge.adapters.sqlite_support import connect_for_reading
from fhir_bridge.errors import Unavailable
from fhir_bridge.ports.imports import Line
from fhir_bridge.ports.keys import KeyKind, KeyName
from fhir_bridge.ports.vault import Work
from tests.support.bridge_world import BASE, World, fresh, observation, patient, running

Json = dict[str, Any]
NDJSON = "application/fhir+ndjson"
ASYNC = {"Content-Type": NDJSON, "Prefer": "respond-async"}
LINE = "urn:fhir-bridge:import-line"
CANARY = "Kanarienvogel"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(fresh(tmp_path)) as made:
        yield made


def ndjson(*resources: Json | bytes) -> bytes:
    lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in resources]
    return b"".join(line + b"\n" for line in lines)


async def post(world: World, body: Any, institution: str = "northgate", **headers: str) -> httpx.Response:
    who = await world.token(institution)
    return await world.http.post("/fhir/$import", content=body, headers={**who, **ASYNC, **headers})


async def begun(world: World, body: Any, institution: str = "northgate", **headers: str) -> str:
    answer = await post(world, body, institution, **headers)
    assert answer.status_code == 202, answer.text
    address = answer.headers["content-location"]
    assert address.startswith(f"{BASE}/fhir/$import/")
    return str(address)


async def ended(world: World, address: str, institution: str = "northgate") -> Json:
    for _ in range(1_000):
        answer = await world.http.get(address, headers=await world.token(institution))
        if answer.status_code != 202:
            assert answer.status_code == 200, answer.text
            manifest: Json = answer.json()
            return manifest
        assert answer.headers["retry-after"].isdigit()
        assert " of " in answer.headers["x-progress"]
        await asyncio.sleep(0.01)
    raise AssertionError("the import does not end")


async def lines_of(world: World, manifest: Json, which: str, institution: str = "northgate") -> list[Json]:
    found: list[Json] = []
    for file in manifest[which]:
        who = await world.token(institution)
        answer = await world.http.get(file["url"], headers={**who, "Accept": NDJSON})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == NDJSON
        here = [json.loads(line) for line in answer.content.splitlines()]
        assert len(here) == file["count"]
        assert {each["resourceType"] for each in here} == {file["type"]}
        found += here
    return found


def counts(manifest: Json) -> dict[tuple[str, str], int]:
    listed = manifest["extension"]["urn:fhir-bridge:import"]["counts"]
    return {(each["outcome"], each["type"]): each["count"] for each in listed}


def numbers(problems: Iterable[Json]) -> list[int]:
    return [each["extension"][0]["valuePositiveInt"] for each in problems]


def batch(*resources: Json) -> Json:
    entries = [
        {"resource": each, "request": {"method": "PUT", "url": f"{each['resourceType']}/{each['id']}"}}
        for each in resources
    ]
    return {"resourceType": "Bundle", "type": "batch", "entry": entries}


# --- what comes of the lines


async def test_lines_are_stored_counted_and_answered_with_receipts(world: World) -> None:
    body = ndjson(patient("p1"), observation("o1", "p1"), batch(observation("o2", "p1"), observation("o3", "p1")))
    manifest = await ended(world, await begun(world, body))
    assert counts(manifest) == {("created", "Patient"): 1, ("created", "Observation"): 3}
    assert manifest["request"] == f"{BASE}/fhir/$import"
    assert manifest["requiresAccessToken"] is True
    assert manifest["error"] == []
    answers = await lines_of(world, manifest, "output")
    assert [each["identifier"] for each in answers] == [{"system": LINE, "value": n} for n in ("1", "2", "3")]
    assert [len(each["entry"]) for each in answers] == [1, 1, 2]
    who = await world.token()
    person = await world.patient_id("p1")
    everything = [f"Observation/o{n}" for n in (1, 2, 3)] + ["Patient/p1"]
    assert await world.timeline(who, person) == everything
    for entry in (entry for each in answers for entry in each["entry"]):
        assert (await world.http.get(f"/fhir/{entry['response']['location']}", headers=who)).status_code == 200
        receipt = await world.http.get(entry["link"][0]["url"], headers=who)
        assert receipt.status_code == 200, receipt.text
    said = manifest["extension"]["urn:fhir-bridge:import"]
    assert said["lines"] == said["linesDone"] == 3
    assert said["height"] <= world.bridge.services.notary.height


async def test_the_same_body_again_changes_nothing(world: World) -> None:
    body = ndjson(patient("p1"), observation("o1", "p1"))
    first = await ended(world, await begun(world, body))
    again = await ended(world, await begun(world, body))
    assert counts(again) == {("unchanged", "Patient"): 1, ("unchanged", "Observation"): 1}
    locations = [
        [
            entry["response"]["location"]
            for each in await lines_of(world, manifest, "output")
            for entry in each["entry"]
        ]
        for manifest in (first, again)
    ]
    assert locations[0] == locations[1]


async def test_a_newer_version_updates_and_a_bundle_can_delete(world: World) -> None:
    entry = {"request": {"method": "DELETE", "url": "Observation/o1"}}
    gone = {"resourceType": "Bundle", "type": "batch", "entry": [entry]}
    body = ndjson(patient("p1"), observation("o1", "p1"), observation("o1", "p1", status="amended"), gone)
    manifest = await ended(world, await begun(world, body))
    assert counts(manifest) == {
        ("created", "Patient"): 1,
        ("created", "Observation"): 1,
        ("updated", "Observation"): 1,
        ("deleted", "Observation"): 1,
    }


async def test_poison_lines_are_named_by_number_and_the_rest_is_taken(world: World) -> None:
    bad = patient("p2", gender="purple", name=[{"family": CANARY}])
    body = ndjson(
        patient("p1"),
        b"",
        b'{"resourceType":"Patient",',
        bad,
        batch(observation("o1", "p1"), observation("o2", "p1", status="nonsense")),
        b"\xff\xfe",
        observation("o3", "p1"),
    )
    manifest = await ended(world, await begun(world, body))
    problems = await lines_of(world, manifest, "error")
    assert numbers(problems) == [3, 4, 5, 6], "lines count from 1, blank ones too"
    assert [each["issue"][0]["diagnostics"].partition(":")[0] for each in problems] == [
        f"line {n}" for n in (3, 4, 5, 6)
    ]
    assert problems[1]["issue"][0]["expression"] == ["Patient.gender"]
    assert problems[2]["issue"][0]["expression"] == ["Bundle.entry[1].resource.status"]
    assert CANARY not in json.dumps(problems)
    assert sum(n for (outcome, _), n in counts(manifest).items() if outcome == "refused") == 4
    assert counts(manifest)["created", "Observation"] == 2
    assert [each["identifier"]["value"] for each in await lines_of(world, manifest, "output")] == ["1", "5", "7"]
    assert (await world.control.get("/letters")).json() == [], "its sender is told; nothing of it is kept"


async def test_what_our_rules_cannot_place_is_quarantined_and_told(world: World) -> None:
    lost = observation("o1", "p1")
    del lost["subject"]
    manifest = await ended(world, await begun(world, ndjson(lost)))
    assert counts(manifest) == {("quarantined", "Observation"): 1}
    assert numbers(await lines_of(world, manifest, "error")) == [1]
    assert [each["reason"] for each in (await world.control.get("/letters")).json()] == ["quarantined"]


async def test_ends_of_lines_as_senders_write_them(world: World) -> None:
    first, second, third = (json.dumps(patient(f"p{n}")).encode() for n in (1, 2, 3))
    manifest = await ended(world, await begun(world, first + b"\r\n \r\n\n" + second + b"\n" + third))
    assert counts(manifest) == {("created", "Patient"): 3}
    answers = await lines_of(world, manifest, "output")
    assert [each["identifier"]["value"] for each in answers] == ["1", "4", "5"]


async def test_compressed_bodies_in_pieces_of_any_size(world: World) -> None:
    body = ndjson(*(patient(f"p{n}") for n in range(30)))
    members = b"".join(gzip.compress(line + b"\n") for line in body.splitlines())
    for coding, sent in (
        ("gzip", gzip.compress(body)),
        ("gzip", members),
        ("zstd", zstandard.ZstdCompressor().compress(body)),
    ):
        for size in (1, 7, 10_000):

            async def pieces(sent: bytes = sent, size: int = size) -> AsyncIterator[bytes]:
                for at in range(0, len(sent), size):
                    yield sent[at : at + size]

            manifest = await ended(world, await begun(world, pieces(), **{"Content-Encoding": coding}))
            assert sum(counts(manifest).values()) == 30
    assert {outcome for outcome, _ in counts(manifest)} == {"unchanged"}


# --- what is refused


async def test_a_kick_off_that_names_addresses_is_refused_with_the_reason(world: World) -> None:
    asked = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "inputFormat", "valueCode": NDJSON},
            {"name": "inputSource", "valueUri": "http://169.254.169.254/"},
            {"name": "input", "part": [{"name": "url", "valueUrl": "http://169.254.169.254/latest"}]},
        ],
    }
    answer = await post(world, json.dumps(asked), **{"Content-Type": "application/fhir+json"})
    assert answer.status_code == 400
    (issue,) = answer.json()["issue"]
    assert issue["code"] == "not-supported"
    assert "fetches nothing" in issue["diagnostics"]
    assert "169.254" not in answer.text


async def test_other_kick_offs_are_refused_before_the_body_is_read(world: World) -> None:
    read: list[bool] = []

    async def unread() -> AsyncIterator[bytes]:
        read.append(True)
        yield ndjson(patient("p1"))

    for headers, status in (
        ({"Content-Type": "text/csv"}, 415),
        ({"Prefer": "return=minimal"}, 400),
        ({"Content-Encoding": "br"}, 415),
        ({"Content-Type": f"{NDJSON}; fhirVersion=2.0"}, 400),
    ):
        assert (await post(world, unread(), **headers)).status_code == status
    limit = world.bridge.services.imports.settings.max_bytes
    assert (await post(world, unread(), **{"Content-Length": str(limit + 1)})).status_code == 413
    assert not read
    for body in (b"", b"\n \r\n\n"):
        answer = await post(world, body)
        assert (answer.status_code, answer.json()["issue"][0]["code"]) == (400, "required")
    assert nothing_left(world)


async def test_a_patient_and_a_reader_may_not_import(world: World) -> None:
    await world.send(patient("p1"))
    body, address = ndjson(patient("p9")), await begun(world, ndjson(patient("p1")))
    for who in (await world.enrol("p1"), await world.token(scope="system/*.rs")):
        for answer in (
            await world.http.post("/fhir/$import", content=body, headers={**who, **ASYNC}),
            await world.http.get(address, headers=who),
            await world.http.delete(address, headers=who),
        ):
            assert answer.status_code == 403, answer.text
    assert (await world.http.post("/fhir/$import", content=body, headers=ASYNC)).status_code == 401


async def test_limits_are_named_and_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_IMPORT_MAX_BYTES", "100000")
    monkeypatch.setenv("FHIR_BRIDGE_IMPORT_MAX_LINE_BYTES", "2000")
    async with running(fresh(tmp_path)) as world:
        long = patient("p2", name=[{"text": "x" * 2_000}])
        manifest = await ended(world, await begun(world, ndjson(patient("p1"), long, patient("p3"))))
        assert counts(manifest) == {("created", "Patient"): 2, ("refused", "unknown"): 1}
        (problem,) = await lines_of(world, manifest, "error")
        assert numbers([problem]) == [2]
        assert problem["issue"][0]["code"] == "too-long"
        assert "FHIR_BRIDGE_IMPORT_MAX_LINE_BYTES" in problem["issue"][0]["diagnostics"]
        bomb = gzip.compress(b"0" * (64 << 20))
        assert len(bomb) < 100_000

        async def streamed() -> AsyncIterator[bytes]:
            for _ in range(6_000):
                yield gzip.compress(b"")

        for coding, sent in (
            ("gzip", streamed()),
            ("gzip", bomb),
            ("zstd", zstandard.ZstdCompressor().compress(b"\n" * (64 << 20))),
            ("identity", b"\n" * 100_001),
            ("gzip", gzip.compress(b"") * 6_000),
        ):
            answer = await post(world, sent, **{"Content-Encoding": coding})
            assert (answer.status_code, answer.json()["issue"][0]["code"]) == (413, "too-long")
            assert "100000" in answer.text
        assert nothing_left(world)


async def test_so_many_lines_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_IMPORT_MAX_LINES", "5000")
    async with running(fresh(tmp_path)) as world:
        answer = await post(world, gzip.compress(b"{}\n" * 1_000_000), **{"Content-Encoding": "gzip"})
        assert (answer.status_code, answer.json()["issue"][0]["code"]) == (413, "too-costly")
        assert "5000 lines" in answer.text
        assert nothing_left(world)


async def test_a_bomb_is_not_blown_up_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fhir_bridge.http import bodies

    monkeypatch.setenv("FHIR_BRIDGE_IMPORT_MAX_BYTES", "3000000")
    come: list[int] = []
    feed = bodies._Unfolding.feed

    def counted(self: bodies._Unfolding, sent: bytes) -> Any:
        for piece in feed(self, sent):
            come.append(len(piece))
            yield piece

    monkeypatch.setattr(bodies._Unfolding, "feed", counted)
    async with running(fresh(tmp_path)) as world:
        for coding, bomb in (
            ("gzip", gzip.compress(b"0" * (256 << 20))),
            ("zstd", zstandard.ZstdCompressor().compress(b"0" * (256 << 20))),
        ):
            come.clear()
            assert (await post(world, bomb, **{"Content-Encoding": coding})).status_code == 413
            assert sum(come) < 3_000_000 + (18 << 20), "a step of zstd holds 16 MiB at the most"


async def test_a_body_that_breaks_off_leaves_nothing(world: World) -> None:
    body = ndjson(*(patient(f"p{n}") for n in range(2_000)))
    cut = gzip.compress(body)[:-9]
    answer = await post(world, cut, **{"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (400, "structure")
    assert nothing_left(world)
    assert (await world.control.get("/patients/resolve", params={"patient": "p0"})).status_code != 200


async def test_a_body_that_stands_still_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_IMPORT_MAX_STILL_S", "1")

    async def dribble() -> AsyncIterator[bytes]:
        yield ndjson(patient("p1"))
        await asyncio.Event().wait()

    async with running(fresh(tmp_path)) as world:
        answer = await post(world, dribble())
        assert answer.status_code == 408
        assert nothing_left(world)


def nothing_left(world: World) -> bool:
    folder = world.data / "imports"
    return not folder.exists() or not list(folder.iterdir())


# --- whose it is, and how it ends


async def test_anothers_job_is_as_absent_as_none(world: World) -> None:
    address = await begun(world, ndjson(patient("p1")))
    manifest = await ended(world, address)
    files = [manifest["output"][0]["url"], address + "/problems", address]
    never = f"{BASE}/fhir/$import/{'0' * 32}"
    harbor = await world.token("harbor")
    for url in files:
        for method in ("GET", "DELETE") if url == address else ("GET",):
            theirs = await world.http.request(method, url, headers=harbor)
            none = await world.http.request(method, url.replace(address, never), headers=harbor)
            assert (theirs.status_code, theirs.content) == (none.status_code, none.content)
            assert theirs.status_code == 404
            named = [{k: v for k, v in each.headers.items() if k != "x-request-id"} for each in (theirs, none)]
            assert named[0] == named[1]
    assert await ended(world, address) == manifest


async def test_cancelling_keeps_what_was_taken_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_IMPORT_IN_FLIGHT_LINES", "1")
    async with running(fresh(tmp_path)) as world:
        address = await begun(world, ndjson(*(patient(f"p{n}") for n in range(3_000))))
        who = await world.token()
        while (await world.http.get(address, headers=who)).headers["x-progress"].startswith("0 "):
            await asyncio.sleep(0.01)
        for which in ("answers", "problems"):
            assert (await world.http.get(f"{address}/{which}", headers=who)).status_code == 404, "it has not ended"
        answer = await world.http.delete(address, headers=who)
        assert answer.status_code == 202
        said = answer.json()["issue"][0]["diagnostics"]
        assert said.startswith("cancelled: ")
        assert "what was taken stays" in said
        done = int(said.split()[1])
        assert 0 < done < 3_000
        assert (await world.http.get(address, headers=who)).status_code == 404
        await asyncio.sleep(0.3)
        assert world.bridge.services.ingest.counters["stored"] == done
        await world.patient_id("p0")
        assert nothing_left(world)
        assert await leftovers(world) == []
        assert await world.findings() == []


async def test_so_many_imports_at_once_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_IMPORT_MAX_JOBS", "1")
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield ndjson(patient("p1"))
        await gate.wait()

    async with running(fresh(tmp_path)) as world:
        first = asyncio.create_task(begun(world, slow()))
        while world.bridge.services.imports.load["receiving"] == 0:
            await asyncio.sleep(0.01)
        refused = await post(world, ndjson(patient("p2")))
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        assert "1 imports" in refused.text
        theirs = await begun(world, ndjson(patient("p2")), "harbor")
        gate.set()
        await ended(world, await first)
        await ended(world, theirs, "harbor")
        await ended(world, await begun(world, ndjson(patient("p3"))))


async def test_the_same_body_while_it_is_under_way_is_the_same_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_IMPORT_IN_FLIGHT_LINES", "1")
    async with running(fresh(tmp_path)) as world:
        body = ndjson(*(patient(f"p{n}") for n in range(120)))
        first = await begun(world, body)
        assert await begun(world, body) == first
        assert await begun(world, body + b"\n") != first
        assert await begun(world, body, "harbor") != first
        assert counts(await ended(world, first)) == {("created", "Patient"): 120}


async def test_ended_jobs_are_forgotten_in_time_with_their_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_IMPORT_KEEP_S", "60")
    data = fresh(tmp_path)
    async with running(data) as world:
        address = await begun(world, ndjson(patient("p1"), patient("p2", gender="purple")))
        await ended(world, address)
        assert await leftovers(world) != []
    from datetime import UTC, datetime, timedelta

    class Later:
        def now(self) -> datetime:
            return datetime.now(UTC) + timedelta(seconds=61)

    async with running(data, clock=Later()) as world:
        for _ in range(100):
            if not world.bridge.services.imports.load["ended"]:
                break
            await asyncio.sleep(0.01)
        assert await leftovers(world) == []


async def leftovers(world: World) -> list[tuple[str, str]]:
    """Return every row of the vault and the key store that names an import."""
    with_vault = connect_for_reading(world.data / "vault.db", "vault")
    with_keys = connect_for_reading(world.data / "keys" / "keys.db", "key store")
    found = with_vault.execute("SELECT collection, key FROM documents WHERE collection LIKE 'import%'").fetchall()
    found += with_keys.execute("SELECT kind, subject FROM keys WHERE subject LIKE 'import/%'").fetchall()
    with_vault.close()
    with_keys.close()
    return found


# --- what rests on disk, and what a restart finds


async def test_a_job_goes_on_after_a_restart_and_its_lines_rest_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_IMPORT_IN_FLIGHT_LINES", "1")
    data = fresh(tmp_path)
    async with running(data) as world:
        address = await begun(world, ndjson(*(patient(f"p{n}", name=[{"family": CANARY}]) for n in range(120))))
    waiting = [file for file in (data / "imports").iterdir() if file.suffix == ".db"]
    assert len(waiting) == 1
    for file in data.rglob("*"):
        if file.is_file():
            assert CANARY.encode() not in file.read_bytes(), file.name
    async with running(data) as world:
        assert counts(await ended(world, address)) == {("created", "Patient"): 120}
        assert nothing_left(world)
        assert await world.findings() == []
        keys = [key for kind, key in await leftovers(world) if kind == "message"]
        assert keys == [f"import/{address.rpartition('/')[2]}"], "the lines' keys are gone with the lines"


async def test_the_height_is_told_though_no_line_was_taken_since_the_start(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    body = ndjson(patient("p1"), observation("o1", "p1"))
    async with running(data) as world:
        first = await ended(world, await begun(world, body))
    async with running(data) as world:
        again = await ended(world, await begun(world, body))
    heights = [each["extension"]["urn:fhir-bridge:import"]["height"] for each in (first, again)]
    assert heights[0] is not None
    assert heights[0] == heights[1], "nothing was anchored in between"


async def test_an_upload_that_a_crash_cut_off_is_removed_at_the_next_start(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        store = world.bridge.services.imports._store
        await store.begin("ab" * 16, "harbor")
        await store.add("ab" * 16, [Line(1, b"{}"), Line(2, b"", is_too_long=True)])
        assert not nothing_left(world)
        assert len(await leftovers(world)) == 1
    async with running(data) as world:
        assert nothing_left(world)
        assert await leftovers(world) == []


async def test_keys_that_a_crash_left_without_their_lines_go_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_IMPORT_IN_FLIGHT_LINES", "1")
    data = fresh(tmp_path)
    async with running(data) as world:
        address = await begun(world, ndjson(*(patient(f"p{n}") for n in range(120))))
        job = address.rpartition("/")[2]
        await world.bridge.services.imports.stop()
        keys = world.bridge.services.imports._store._keys  # type: ignore[attr-defined]  # the adapter's own
        keys.ensure([KeyName(KeyKind.MESSAGE, "harbor", f"import/{'ab' * 16}/00")])
        assert ("message", f"import/{'ab' * 16}/00") in await leftovers(world)
    async with running(data) as world:
        assert [key for _, key in await leftovers(world) if "ab" * 16 in key] == []
        assert counts(await ended(world, address)) == {("created", "Patient"): 120}
        assert [key for kind, key in await leftovers(world) if kind == "message"] == [f"import/{job}"]


async def test_a_full_disk_gets_its_room_back_and_lets_the_service_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Erasing a key writes, so what is in the way has to be deleted first."""
    full: set[str] = set()

    def refuse(self: SqliteKeyStore, names: Iterable[KeyName]) -> None:
        full.update(name.subject for name in names)
        raise Unavailable("disk full")

    data = fresh(tmp_path)
    with monkeypatch.context() as disk:
        async with running(data) as world:
            disk.setattr(SqliteKeyStore, "erase_all", refuse)
            answer = await post(world, gzip.compress(ndjson(patient("p1")))[:-9], **{"Content-Encoding": "gzip"})
            assert answer.status_code == 400
            address = await begun(world, ndjson(patient("p1")))
            await ended(world, address)
            assert full
            assert nothing_left(world)
            await world.bridge.services.imports._store.begin("ab" * 16, "harbor")
        async with running(data) as world:
            assert nothing_left(world)
            assert (await world.http.get(address, headers=await world.token())).status_code == 200
    async with running(data) as world:
        assert [key for kind, key in await leftovers(world) if kind == "message"] == [
            f"import/{address.rpartition('/')[2]}"
        ]


async def test_a_line_whose_erasing_was_cut_off_is_erased_by_doing_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        store = world.bridge.services.imports._store
        await store.begin("ab" * 16, "harbor")
        await store.add("ab" * 16, [Line(1, b"{}"), Line(2, b"{}")])
        before = await leftovers(world)
        with monkeypatch.context() as disk:

            def refuse(self: SqliteKeyStore, name: KeyName) -> None:
                raise Unavailable("disk full")

            disk.setattr(SqliteKeyStore, "erase", refuse)
            with pytest.raises(Unavailable):
                await store.erase("ab" * 16, {2})
        assert set(before) < set(await leftovers(world))
        await store.erase("ab" * 16, {2})
        after = await leftovers(world)
        assert len(after) == len(before)
        assert after != before
        assert [line.is_erased for line in await store.read("ab" * 16, 0)] == [False, True]


async def test_a_removal_that_a_crash_cut_off_is_finished_at_the_next_start(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        address = await begun(world, ndjson(patient("p1")))
        await ended(world, address)
        imports = world.bridge.services.imports
        store = imports._store

        class Away:
            def __getattr__(self, name: str) -> Any:
                return getattr(store, name)

            async def discard(self, job: str) -> None:
                raise Unavailable("away")

        imports._store = Away()
        assert (await world.http.delete(address, headers=await world.token())).status_code == 503
        assert await leftovers(world) != []
    async with running(data) as world:
        assert (await world.http.get(address, headers=await world.token())).status_code == 404
        assert await leftovers(world) == []


@pytest.mark.parametrize("what", ["gone", "garbage", "another's"])
async def test_lines_that_cannot_be_read_end_the_job_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_IMPORT_IN_FLIGHT_LINES", "1")
    data = fresh(tmp_path)
    async with running(data) as world:
        address = await begun(world, ndjson(*(patient(f"p{n}") for n in range(120))))
    for file in list((data / "imports").iterdir()):
        file.unlink()
        if what == "garbage":
            file.write_bytes(CANARY.encode() * 1_000)
        elif what == "another's" and file.suffix == ".db":
            shutil.copyfile(data / "vault.db", file)
    async with running(data) as world:
        said = (await ended(world, address))["extension"]["urn:fhir-bridge:import"]
        assert said["linesDone"] < said["lines"] == 120
        assert "send the body again" in said["problem"]["issue"][0]["diagnostics"]
        assert nothing_left(world)


async def test_a_line_that_was_erased_while_it_waited_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_IMPORT_IN_FLIGHT_LINES", "1")
    data = fresh(tmp_path)
    async with running(data) as world:
        address = await begun(world, ndjson(*(patient(f"p{n}") for n in range(120))))
        job = address.rpartition("/")[2]
        await world.bridge.services.imports.stop()
        before = [key for kind, key in await leftovers(world) if kind == "message"]
        await world.bridge.services.imports._store.erase(job, {119, 120})
        after = [key for kind, key in await leftovers(world) if kind == "message"]
        assert len(before) == len(after)
        assert before != after, "the key that opened them is gone"
    async with running(data) as world:
        manifest = await ended(world, address)
        assert counts(manifest) == {("created", "Patient"): 118, ("refused", "unknown"): 2}
        problems = await lines_of(world, manifest, "error")
        assert numbers(problems) == [119, 120]
        assert {each["issue"][0]["code"] for each in problems} == {"deleted"}
        assert nothing_left(world)
        assert [key for kind, key in await leftovers(world) if kind == "message"] == [f"import/{job}"]


@pytest.mark.slow
async def test_counts_are_right_whatever_commits_fail(world: World) -> None:
    """A store that is away, and groups that are taken apart: each line is counted once, in its place."""
    ingest, commits, failed = world.bridge.services.ingest, 0, {"away": 0, "apart": 0}
    vault = ingest._vault

    class Flaky:
        def __getattr__(self, name: str) -> Any:
            return getattr(vault, name)

        async def commit(self, work: Work, anchor: Any) -> int | None:
            nonlocal commits
            commits += 1
            if commits % 4 == 0 and failed["away"] < 4:
                failed["away"] += 1
                raise Unavailable("away")
            if commits % 3 == 0 and len(work.positions) > 1 and failed["apart"] < 4:
                failed["apart"] += 1
                raise RuntimeError("a group that cannot be committed")
            return await vault.commit(work, anchor)

    ingest._vault = Flaky()
    lines = [patient(f"p{n}", **({"gender": "purple"} if n % 50 == 7 else {})) for n in range(600)]
    manifest = await ended(world, await begun(world, ndjson(*lines)))
    assert failed == {"away": 4, "apart": 4}
    assert counts(manifest) == {("created", "Patient"): 588, ("refused", "unknown"): 12}
    told = [int(each["identifier"]["value"]) for each in await lines_of(world, manifest, "output")]
    assert told == [n + 1 for n in range(600) if n % 50 != 7]
    assert numbers(await lines_of(world, manifest, "error")) == [n + 1 for n in range(600) if n % 50 == 7]


async def test_a_stop_does_not_wait_for_a_store_that_is_away(world: World) -> None:
    """The line has a time of its own to drain; lines on it are counted with their commit, or come again."""
    ingest, imports = world.bridge.services.ingest, world.bridge.services.imports
    vault = ingest._vault

    class Away:
        def __getattr__(self, name: str) -> Any:
            return getattr(vault, name)

        async def commit(self, work: Work, anchor: Any) -> int | None:
            raise Unavailable("away")

    ingest._vault = Away()
    address = await begun(world, ndjson(*(patient(f"p{n}") for n in range(120))))
    while not ingest.load.messages:
        await asyncio.sleep(0.01)
    await asyncio.wait_for(imports.stop(), 5)
    ingest._vault = vault
    while ingest.load.messages:
        await asyncio.sleep(0.01)
    await imports.start()
    assert counts(await ended(world, address)) == {("created", "Patient"): 120}


async def test_a_disk_that_takes_nothing_is_told_and_leaves_nothing(world: World) -> None:
    imports = world.bridge.services.imports
    store = imports._store

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def add(self, job: str, lines: Any) -> None:
            raise Unavailable("disk full")

    imports._receiver._store = Full()
    answer = await post(world, ndjson(patient("p1")))
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (503, "transient")
    assert nothing_left(world)
    assert await leftovers(world) == []


async def test_the_capability_statement_and_the_metrics_name_it(world: World) -> None:
    await ended(world, await begun(world, ndjson(patient("p1"))))
    (rest,) = (await world.http.get("/fhir/metadata")).json()["rest"]
    assert [each["name"] for each in rest["operation"]] == ["import"]
    page = (await world.control.get("/metrics")).text
    assert 'fhir_bridge_imports_total{outcome="completed"}' in page
    assert 'fhir_bridge_imports_kept{state="ended"} 1.0' in page
