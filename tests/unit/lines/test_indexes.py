"""Charts' indexes are kept few and of today's definitions, and nobody who asks can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from fhir_bridge.adapters.ambient import SystemRandomness
from fhir_bridge.adapters.keyring_file import FileKeyring
from fhir_bridge.adapters.keystore import SqliteKeyStore
from fhir_bridge.adapters.vault_sql import SqlVault
from fhir_bridge.adapters.vault_sqlite import SqliteDatabase
from fhir_bridge.fhir.indexing import renewed
from fhir_bridge.lines.indexes import FULL_BYTES, SMALL_BYTES, run_to_merge
from fhir_bridge.lines.registry import Registry
from fhir_bridge.model.ingest import ChartRef, IndexRow, pack_values
from fhir_bridge.ports.keys import KeyKind, KeyName
from fhir_bridge.ports.vault import Replacement, Segment, Work
from fhir_bridge.seal import open_contents, open_parts, open_segment
from fhir_bridge.seal.envelope import RANDOM_BYTES, pack, place, seal_bytes
from tests.support.bridge_world import World, consent, fresh, observation, patient, running

CODE = "http://loinc.org|8867-4"


@pytest.fixture(autouse=True)
def _merge_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_INDEX_MERGE_AT", "4")


class Files:
    """The files of a stopped bridge, opened beneath it."""

    def __init__(self, data: Path) -> None:
        self.keys = SqliteKeyStore(data / "keys" / "keys.db", FileKeyring(data / "keys" / "keyring", None))
        mac = KeyName(KeyKind.VAULT_MAC, "operator")
        database = SqliteDatabase(data / "vault.db")
        self.vault = SqlVault(database, self.keys.ensure([mac])[mac], key_head=self.keys.head)
        self.registry = Registry(self.vault, self.keys, SystemRandomness())

    async def charts(self) -> Sequence[ChartRef]:
        await self.registry.load()
        return [chart for chart in self.registry.all_charts() if not chart.is_directory]

    async def rows(self, chart: ChartRef) -> list[IndexRow]:
        key = self.registry.chart_key(chart)
        return [row for each in await self.vault.segments(chart.chart) for row in open_segment(key, each)]

    async def close(self) -> None:
        await self.vault.close()
        self.keys.close()


async def fill(world: World, count: int) -> None:
    await world.send(patient("p1"))
    for number in range(count):
        await world.send(observation(f"o{number}", "p1", valueQuantity={"value": number}))
    await world.send(observation("o1", "p1", valueQuantity={"value": 1000}))


async def found(world: World, query: str) -> list[str]:
    who = await world.token()
    answer = await world.http.get(f"/fhir/Observation?patient={await world.patient_id('p1')}&{query}", headers=who)
    assert answer.status_code == 200, answer.text
    return [each["resource"]["identifier"][0]["value"] for each in answer.json().get("entry", [])]


async def settled(world: World) -> dict[str, object]:
    """Wait until nothing is left to merge; the wait ends with the test's own time limit."""
    while True:
        status = (await world.control.get("/status")).json()
        if status["vault"]["segments"] < 8:
            return dict(status["index"])
        await asyncio.sleep(0.01)


async def test_segments_are_merged_while_readers_and_the_writer_go_on(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        await fill(world, 12)
        before = await found(world, "_sort=-_lastUpdated")
        state = await settled(world)
        assert int(str(state["merged"])) >= 4
        assert await found(world, "_sort=-_lastUpdated") == before
        await world.send(observation("late", "p1"))
        assert (await found(world, "_sort=-_lastUpdated"))[0] == "late"
        assert await world.findings() == []
    async with running(data) as world:
        assert (await found(world, "_sort=-_lastUpdated"))[1:] == before
        assert await found(world, "identifier=o1&value-quantity=1000") == ["o1"]
        await world.send(observation("later", "p1"))
        assert await found(world, "identifier=later") == ["later"]
        assert await world.findings() == []


async def test_a_page_pinned_before_a_merge_and_a_restart_goes_on_as_it_began(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        await fill(world, 3)
        who = await world.token()
        first = await world.http.get(
            f"/fhir/Observation?patient={await world.patient_id('p1')}&_sort=identifier&_count=2", headers=who
        )
        following = next(each["url"] for each in first.json()["link"] if each["relation"] == "next")
        for number in range(10):
            await world.send(observation(f"x{number}", "p1"))
        await settled(world)
    async with running(data) as world:
        page = await world.http.get(following, headers=await world.token())
        assert [each["resource"]["identifier"][0]["value"] for each in page.json()["entry"]] == ["o2"]


async def test_rows_made_anew_from_bodies_are_the_rows_that_ingest_made(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        await fill(world, 3)
        agent = await world.enrol("p1")
        body = consent(
            f"Patient/{await world.patient_id('p1')}", permit=f"Organization/{await world.organization('harbor')}"
        )
        assert (await world.http.post("/fhir/Consent", json=body, headers=agent)).status_code == 201
        answer = await world.http.delete("/fhir/Observation/o2", headers=await world.token())
        assert answer.status_code < 300
    files = Files(data)
    types = set()
    for chart in await files.charts():
        rows = await files.rows(chart)
        envelopes = await files.vault.normalised(chart.chart, [(row.id, row.version) for row in rows])
        bodies = open_contents(files.registry.chart_key(chart), chart.chart, rows, envelopes)
        made = [renewed(row, body) for row, body in zip(rows, bodies, strict=True)]
        # As msgpack, because a stored tuple comes back as a list.
        assert [msgspec.msgpack.encode(each) for each in made] == [msgspec.msgpack.encode(each) for each in rows]
        types |= {(row.type, row.deleted, row.author) for row in rows}
    assert {("Observation", True, "institution"), ("Consent", False, "agent")} <= types
    await files.close()


async def forget_values(data: Path, *, layout: bytes = b"\x01") -> None:
    """Seal every segment again as the first layout did, which names no definitions, with rows that nothing finds."""
    files = Files(data)
    for chart in await files.charts():
        key = files.registry.chart_key(chart)
        for each in await files.vault.segments(chart.chart):
            opened = open_parts(key, each)
            if opened.first != opened.number:
                pytest.fail("the first layout knows no merged segments")
            rows = [
                structs.replace(row, search=pack_values({}), dated_us=None)
                for part in opened.parts
                for row in part.rows()
            ]
            where = place("index", chart.chart, str(each.number))
            packed = pack([layout], msgspec.msgpack.encode(rows))
            sealed = seal_bytes(key, "index", where, packed, SystemRandomness().token(RANDOM_BYTES))
            segment = Segment(chart.chart, each.number, sealed)
            await files.vault.commit(Work(replacements=[Replacement(segment, each.batch, (each.number,))]), None)
    await files.close()


async def test_a_chart_of_other_definitions_is_made_anew_before_anybody_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_INDEX_MERGE_AT", "1000")
    data = fresh(tmp_path)
    async with running(data) as world:
        await fill(world, 3)
        wanted = await found(world, f"code={CODE}&_sort=date")
        assert len(wanted) == 3
    await forget_values(data)
    async with running(data) as world:
        assert await found(world, f"code={CODE}&_sort=date") == wanted
    async with running(data) as world:
        state = (await world.control.get("/status")).json()["index"]
        assert (state["renewed"], state["is_of_today"]) == (0, True)
        assert await found(world, f"code={CODE}&_sort=date") == wanted
        assert await world.findings() == []


async def check_units(world: World) -> None:
    """Ask for blood glucose of 5.4 g/L in other units and by what people call the unit."""
    for query, expected in (
        ("5.4|http://unitsofmeasure.org|g/L", ["mg"]),
        ("gt5.4|http://unitsofmeasure.org|g/L", []),
        ("le0.0054|http://unitsofmeasure.org|kg/L", ["mg"]),
        ("540||mg/dl", ["mg"]),
        ("540||mg/dL", ["mg"]),
        ("540|http://unitsofmeasure.org|mmol/L", []),
    ):
        assert await found(world, f"value-quantity={query}") == expected, query


GLUCOSE = {"value": 540, "unit": "mg/dl", "system": "http://unitsofmeasure.org", "code": "mg/dL"}


async def test_a_value_is_found_in_another_unit_in_charts_indexed_before_that_was_so(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        await world.send(patient("p1"))
        await world.send(observation("mg", "p1", valueQuantity=GLUCOSE))
        await check_units(world)
    await forget_values(data)
    async with running(data) as world:
        await check_units(world)


async def test_reindex_tells_how_far_it_is_and_finds_nothing_to_do_the_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_INDEX_MERGE_AT", "1000")
    data = fresh(tmp_path)
    async with running(data) as world:
        await fill(world, 2)
    await forget_values(data)
    async with running(data) as world:
        lines = [msgspec.json.decode(each) for each in (await world.control.post("/reindex")).text.splitlines()]
        again = [msgspec.json.decode(each) for each in (await world.control.post("/reindex")).text.splitlines()]
        charts = {each["progress"]["of"] for each in lines[:-1]}
        assert [each["progress"]["charts"] for each in lines[:-1]] == list(range(1, charts.pop() + 1))
        assert again[-1] == {"done": {"segments": 0}}
        assert (await world.control.get("/status")).json()["index"]["renewed"] == 4
        assert await world.findings() == []


@given(st.lists(st.integers(300, 2 * FULL_BYTES), max_size=80), st.integers(2, 20))
def test_merging_ends_and_leaves_few(sizes: list[int], merge_at: int) -> None:
    """With merged sizes as large as their parts together, which padding and compression only make smaller."""
    held = list(enumerate(sizes))
    steps = 0
    while run := run_to_merge(held, merge_at):
        assert list(run) == [number for number, _ in held if run[0] <= number <= run[-1]]
        assert len(run) > 1
        weight = sum(size for number, size in held if number in run)
        assert weight < 2 * FULL_BYTES
        held = sorted([(number, size) for number, size in held if number not in run] + [(run[-1], weight)])
        steps += 1
        assert steps <= len(sizes)
    small = 0
    for _, size in held:
        small = small + 1 if size < SMALL_BYTES else 0
        assert small < merge_at
