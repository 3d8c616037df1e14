"""Imports that meet: in the window, in their order, while one is removed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.errors import AnswerCutOff, Unavailable
from fhir_bridge.lines.import_run import ImportJob, Window
from tests.support.bridge_world import World, fresh, observation, patient, running
from tests.unit.lines.test_imports import begun, counts, ended, leftovers, ndjson, post


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(fresh(tmp_path)) as made:
        yield made


async def test_a_long_line_gets_its_turn_beside_small_ones_that_never_end() -> None:
    window, over = Window(lines=8, size=1_000), asyncio.Event()

    async def small() -> None:
        while not over.is_set():
            await window.enter(100)
            asyncio.get_running_loop().call_later(0.001, window.leave, 100)

    others = [asyncio.create_task(small()) for _ in range(2)]
    await asyncio.sleep(0.02)
    await asyncio.wait_for(window.enter(5_000), 5)
    over.set()
    window.leave(5_000)
    await asyncio.gather(*others)


async def test_what_came_later_is_taken_later_though_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_IMPORT_IN_FLIGHT_LINES", "1")

    class SetBack:
        seconds = 0

        def now(self) -> datetime:
            return datetime.now(UTC) - timedelta(seconds=self.seconds)

    clock = SetBack()
    async with running(fresh(tmp_path), clock=clock) as world:
        running_first = await begun(world, ndjson(*(patient(f"q{n}") for n in range(60))))
        older = await begun(world, ndjson(patient("p1"), observation("o1", "p1")))
        clock.seconds = 5
        newer = await begun(world, ndjson(observation("o1", "p1", status="amended")))
        await ended(world, running_first)
        assert counts(await ended(world, older)) == {("created", "Patient"): 1, ("created", "Observation"): 1}
        assert counts(await ended(world, newer)) == {("updated", "Observation"): 1}


async def test_a_file_is_cut_off_where_its_job_is_removed_meanwhile(world: World) -> None:
    address = await begun(world, ndjson(*(patient(f"p{n}") for n in range(250))))
    await ended(world, address)
    imports, job = world.bridge.services.imports, address.rpartition("/")[2]
    kept = imports._jobs[job]
    results = imports._book.results(job, kept.institution)
    assert (await anext(results)).line == 1
    assert (await world.http.delete(address, headers=await world.token())).status_code == 202
    with pytest.raises(AnswerCutOff):
        async for _ in whole(results):
            pass


async def whole(results: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    from fhir_bridge.lines.import_words import answers_of
    from fhir_bridge.lines.importing import _whole

    async for block in _whole(answers_of(results, "http://b")):
        yield block


async def test_the_same_body_sent_several_times_at_once_is_one_job(world: World) -> None:
    body = ndjson(*(patient(f"p{n}") for n in range(120)))
    addresses = await asyncio.gather(*(begun(world, body) for _ in range(3)))
    assert len(set(addresses)) == 1
    assert counts(await ended(world, addresses[0])) == {("created", "Patient"): 120}


async def test_the_same_body_is_a_new_job_while_the_old_one_is_being_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_IMPORT_IN_FLIGHT_LINES", "1")
    async with running(fresh(tmp_path)) as world:
        body = ndjson(*(patient(f"p{n}") for n in range(120)))
        first = await begun(world, body)
        imports, gate = world.bridge.services.imports, asyncio.Event()
        save = imports._save

        async def slow(job: Any) -> None:
            if job.state == "removed":
                await gate.wait()
            await save(job)

        monkeypatch.setattr(imports, "_save", slow)
        leaving = asyncio.create_task(world.http.delete(first, headers=await world.token()))
        while not imports._leaving:
            await asyncio.sleep(0.01)
        second = await begun(world, body)
        gate.set()
        assert (await leaving).status_code == 202
        assert second != first
        assert sum(counts(await ended(world, second)).values()) == 120


async def test_a_job_is_told_though_the_second_copy_of_its_body_cannot_be_removed_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_IMPORT_IN_FLIGHT_LINES", "1")
    async with running(fresh(tmp_path)) as world:
        body = ndjson(*(patient(f"p{n}") for n in range(120)))
        first = await begun(world, body)

        async def away(job: str) -> None:
            raise Unavailable("away")

        monkeypatch.setattr(world.bridge.services.imports._store, "discard", away)
        answer = await post(world, body)
        assert (answer.status_code, answer.headers.get("content-location")) == (202, first)
        assert json.loads(answer.text)["issue"][0]["severity"] == "information"


async def test_a_job_that_ends_while_it_is_cancelled_does_not_come_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    imports, waits, saved = world.bridge.services.imports, asyncio.Event(), list[str]()
    save = imports._save

    async def flaky(job: ImportJob) -> None:
        if job.state == "ended" and not waits.is_set():
            waits.set()
            raise Unavailable("away")
        await save(job)
        saved.append(job.state)
        if job.state == "removed":
            await asyncio.sleep(1.5)

    monkeypatch.setattr(imports, "_save", flaky)
    address = await begun(world, ndjson(patient("p1")))
    await waits.wait()
    assert (await world.http.delete(address, headers=await world.token())).status_code == 202
    assert saved == ["running", "removed"]
    assert await leftovers(world) == []


async def test_a_job_that_was_saved_though_its_sender_is_told_otherwise_is_taken_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    imports = world.bridge.services.imports
    save = imports._save

    async def cut_off(job: ImportJob) -> None:
        await save(job)
        raise Unavailable("the answer did not come")

    monkeypatch.setattr(imports, "_save", cut_off)
    assert (await post(world, ndjson(patient("p1")))).status_code == 503
    assert await leftovers(world) == []
