"""When a part fails or the power goes: nothing is lost, nothing is doubled, nobody waits for ever, nothing opens."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.errors import IntegrityBroken, Unavailable
from fhir_bridge.ports.vault import Work
from tests.support.bridge_world import World, bundle, consent, fresh, observation, patient, running

Fault = Callable[..., Awaitable[None]]

_LONG_S = 30
"""Longer than any wait here on a machine that has much else to do."""


class Between:
    """Stands before a port; ``before[name]`` is awaited with the arguments before the call goes through."""

    def __init__(self, inner: object, **before: Fault) -> None:
        self._inner = inner
        self._before = before

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._inner, name)
        fault = self._before.get(name)
        if fault is None:
            return call

        async def guarded(*arguments: Any, **named: Any) -> Any:
            await fault(*arguments, **named)
            return await call(*arguments, **named)

        return guarded


def before(port: Any, **faults: Fault) -> Any:
    """Return the port with faults before some of its calls."""
    return Between(port, **faults)


def _times(count: int, error: Exception) -> Fault:
    left = count

    async def fault(*_: Any, **__: Any) -> None:
        nonlocal left
        if left:
            left -= 1
            raise error

    return fault


def _power_cut(world: World, to: Path) -> Path:
    """Return a copy of the files as they are on disk this moment, as after a kill."""
    shutil.copytree(world.data, to)
    return to


async def _versions(world: World, local_id: str) -> int:
    answer = await world.http.get(f"/fhir/Observation/{local_id}/_history", headers=await world.token())
    return len(answer.json().get("entry", []))


async def _soon(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_LONG_S):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _a_denial_closes_own_records_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the three network policies the one under which a hospital's own view shows that its denial is in force."""
    monkeypatch.setenv("FHIR_BRIDGE_ANSWER_OWN_RECORDS", "closed-by-provision")


async def test_what_is_not_anchored_is_neither_shown_nor_answered_and_survives_a_power_cut(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        who, ingest = await world.token(), world.bridge.services.ingest
        real = ingest._notary
        ingest._notary = before(real, submit_anchor=_times(1000, Unavailable("down")))
        sending = asyncio.create_task(world.send(observation("o1", "p1")))
        await _soon(lambda: not ingest.is_anchoring)
        assert not sending.done()
        assert (await world.http.get("/fhir/Observation/o1", headers=who)).status_code == 404
        assert (await world.http.get("/health/ready")).status_code == 503
        left = _power_cut(world, tmp_path / "cut")
        ingest._notary = real
        assert (await sending)["outcomes"] == {"201": 1}
        assert await _versions(world, "o1") == 1
        assert await world.findings() == []
    async with running(left) as world:
        assert await _versions(world, "o1") == 1
        assert (await world.send(observation("o1", "p1")))["outcomes"] == {"200": 1}
        receipt = await world.http.get("/fhir/Observation/o1/$receipt", headers=await world.token())
        assert receipt.status_code == 200
        assert await world.findings() == []


async def test_a_store_that_does_not_answer_once_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        who, ingest = await world.token(), world.bridge.services.ingest
        ingest._vault = before(ingest._vault, commit=_times(1, Unavailable("full")))
        http = asyncio.create_task(world.http.put("/fhir/Observation/o9", json=observation("o9", "p1"), headers=who))
        by_bus = [asyncio.create_task(world.send(observation("o1", "p1", note=[{"text": t}]))) for t in "abc"]
        answer = await http
        assert answer.status_code in (201, 503)
        assert all(summary["outcomes"] for summary in await asyncio.gather(*by_bus))
        assert await _versions(world, "o1") == 3
        assert await world.findings() == []


async def test_one_message_that_cannot_be_stored_becomes_a_letter_and_holds_up_nobody(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.send(patient("p2"))
        who, ingest = await world.token(), world.bridge.services.ingest
        cursed = ingest._registry.chart_for("northgate", "p2").chart

        async def curse(work: Work, _: object) -> None:
            if any(record.chart == cursed for record in work.records):
                raise RuntimeError("cursed")

        real = ingest._vault
        ingest._vault = before(real, commit=curse)
        done = await asyncio.gather(
            world.send(observation("o1", "p1")),
            world.send(observation("o2", "p2")),
            world.send(observation("o3", "p1")),
        )
        assert [bool(summary["dead_letters"]) for summary in done] == [False, True, False]
        told = await world.http.put("/fhir/Observation/o4", json=observation("o4", "p2"), headers=who)
        assert told.status_code == 500
        ingest._vault = real
        assert (await world.control.post("/letters/replay", json={})).json()["replayed"] == 1
        assert await _versions(world, "o2") == 1


async def test_a_line_that_can_go_no_further_says_so_at_once(tmp_path: Path) -> None:
    """A dead committer must not leave senders waiting: they are told, readiness turns, and ``serve`` ends."""
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        who, ingest = await world.token(), world.bridge.services.ingest
        ingest._vault = before(ingest._vault, commit=_times(1000, IntegrityBroken("x")))
        async with asyncio.timeout(_LONG_S):
            first = await world.http.put("/fhir/Observation/o1", json=observation("o1", "p1"), headers=who)
            assert first.status_code in (500, 503)
            by_bus = await world.control.post(
                "/ingest", params={"institution": "northgate"}, json=observation("o2", "p1")
            )
            assert by_bus.status_code == 503
            await world.bridge.standing.fallen()
            again = await world.http.put("/fhir/Observation/o1", json=observation("o1", "p1"), headers=who)
            assert again.status_code == 503
        parts = (await world.http.get("/health/ready")).json()["parts"]
        assert parts["lines"] is False
        left = _power_cut(world, tmp_path / "cut")
    async with running(left) as world:
        async with asyncio.timeout(_LONG_S):
            # Stored is not yet anchored, and only what is anchored is shown.
            while await _versions(world, "o2") == 0:
                await asyncio.sleep(0.01)
        assert world.bridge.services.ingest.counters["stored"] == 1
        assert await _versions(world, "o2") == 1


async def test_rooms_that_are_away_for_a_moment_do_not_stop_the_bus(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        ingest = world.bridge.services.ingest
        ingest._rooms = before(ingest._rooms, process=_times(2, Unavailable("no workers")))
        async with asyncio.timeout(_LONG_S):
            assert (await world.send(observation("o1", "p1")))["outcomes"] == {"201": 1}


async def test_an_access_that_cannot_be_recorded_is_not_answered(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        who, audit = await world.token(), world.bridge.services.answer._audit
        asked = await world.patient_id("p1")
        audit._vault = before(audit._vault, commit=_times(8, Unavailable("full")))
        for path in ("Patient/p1", "Patient/none", f"Patient/{asked}/$everything", f"Observation?patient={asked}"):
            for suffix in ("", ""):
                answer = await world.http.get(f"/fhir/{path}{suffix}", headers=who)
                assert answer.status_code == 503
                assert "p1" not in answer.text
        assert (await world.http.get("/fhir/Patient/p1", headers=who)).status_code == 200
        assert await world.findings() == []


async def test_no_answer_leaves_before_its_access_is_recorded_a_refusal_neither(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        who, audit = await world.token(), world.bridge.services.answer._audit
        asked, hidden = await world.patient_id("p1"), await world.token("harbor")
        written = asyncio.Event()

        async def held_up(*_: Any) -> None:
            await written.wait()

        audit._vault = before(audit._vault, commit=held_up)
        questions = [
            ("Patient/p1", who, 200),
            ("Patient/none", who, 404),
            (f"Patient/{asked}", hidden, 404),
            (f"Patient/{asked}/$everything", who, 200),
            (f"Patient/{asked}/$everything", hidden, 404),
            (f"Observation?patient={asked}", who, 200),
        ]
        for path, asker, status in questions:
            written.clear()
            asking = asyncio.create_task(world.http.get(f"/fhir/{path}", headers=asker))
            done, _ = await asyncio.wait({asking}, timeout=0.3)
            assert not done, path
            written.set()
            assert (await asking).status_code == status


async def test_a_denial_by_feed_survives_a_power_cut_before_its_list_was_written(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        ingest = world.bridge.services.ingest
        reached, go_on = asyncio.Event(), asyncio.Event()
        real = ingest.on_consent
        assert real is not None

        async def wait(*arguments: Any) -> None:
            reached.set()
            await go_on.wait()
            await real(*arguments)

        ingest.on_consent = wait
        sending = asyncio.create_task(world.send(consent("Patient/p1", deny="northgate", id="c1")))
        await reached.wait()
        left = _power_cut(world, tmp_path / "cut")
        go_on.set()
        await sending
    async with running(left) as world:
        assert await world.timeline(await world.token(), await world.patient_id("p1")) == []
        assert await world.findings() == []


async def test_a_denial_that_cannot_be_entered_closes_the_chart(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        await world.send(patient("p1"))
        agent = await world.enrol("p1")
        grant = world.bridge.services.write._grant
        grant._notary = before(grant._notary, submit=_times(1000, IntegrityBroken("x")))
        await world.send(consent("Patient/p1", deny="nobody-in-particular", id="c1"))
        asked = await world.patient_id("p1")
        assert await world.timeline(await world.token(), asked) == []
        assert "Patient/p1" in await world.timeline(agent, asked)
    async with running(data) as world:
        assert await world.timeline(await world.token(), asked) == ["Patient/p1"]
        assert await world.findings() == []


async def test_a_withdrawal_cut_short_is_in_force_after_the_restart(tmp_path: Path) -> None:
    """Between the stored signature and the ledger the old list counts; afterwards the new one, never none."""
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.send(patient("h1"), "harbor")
        await world.link("someone", ("northgate", "p1"), ("harbor", "h1"))
        agent, asked = await world.enrol("p1"), await world.patient_id("p1")
        named = f"Organization/{await world.organization('northgate')}"
        body = consent(f"Patient/{asked}", permit=named, id="mine")
        assert (await world.http.put("/fhir/Consent/mine", json=body, headers=agent)).status_code == 201
        grant = world.bridge.services.write._grant
        grant._notary = before(grant._notary, submit_together=_times(1, Unavailable("x")))
        inactive = await world.http.put("/fhir/Consent/mine", json=body | {"status": "inactive"}, headers=agent)
        assert inactive.status_code == 503
        both = ["Patient/h1", "Patient/p1"]
        assert await world.timeline(await world.token(), asked) == both
        left = _power_cut(world, tmp_path / "cut")
        again = await world.http.put("/fhir/Consent/mine", json=body | {"status": "inactive"}, headers=agent)
        assert again.status_code == 200
        assert await world.timeline(await world.token(), asked) == ["Patient/p1"]
    async with running(left) as world:
        assert await world.timeline(await world.token(), asked) == ["Patient/p1"]
        assert await world.findings() == []


async def test_an_audit_epoch_cut_short_is_on_the_ledger_after_the_restart(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        assert (await world.http.get("/fhir/Patient/p1", headers=await world.token())).status_code == 200
        audit = world.bridge.services.answer._audit
        real = audit._notary
        audit._notary = before(real, submit=_times(1000, IntegrityBroken("x")))
        with pytest.raises(IntegrityBroken):
            await audit.close_epoch()
        left = _power_cut(world, tmp_path / "cut")
        audit._notary = real
    async with running(left) as world:
        await world.bridge.services.answer._audit.close_epoch()
        assert await world.findings() == []


async def test_a_bus_that_cannot_be_read_any_more_is_told_to_who_feeds_it(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        assert (await world.http.get("/health/ready")).status_code == 200
        reader = _reader(world)
        reader._bus = before(reader._bus, take=_times(1000, IntegrityBroken("hole")))
        await _soon(lambda: not reader.is_reading)
        async with asyncio.timeout(_LONG_S):
            answer = await world.control.post(
                "/ingest", params={"institution": "northgate"}, json=observation("o1", "p1")
            )
        assert answer.status_code == 503
        assert (await world.http.get("/health/ready")).json()["parts"]["bus"] is False
        assert (await world.http.get("/fhir/Patient/p1", headers=await world.token())).status_code == 200


def _reader(world: World) -> Any:
    for route in world.bridge.control.routes:
        if getattr(route, "path", "") == "/status":
            closure = dict(zip(route.endpoint.__code__.co_freevars, route.endpoint.__closure__, strict=True))  # type: ignore[attr-defined]
            return closure["operations"].cell_contents._reader
    raise AssertionError("no operations")


async def test_charts_that_do_not_fit_into_memory_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_ANSWER_INDEX_MAX_ROWS", "1000")
    async with running(fresh(tmp_path)) as world:
        book = world.bridge.services.ingest._book
        book._max_rows = 3
        for number in range(6):
            name = f"p{number}"
            await world.send(
                bundle(
                    ("PUT", f"Patient/{name}", patient(name)),
                    ("PUT", f"Observation/o{number}", observation(f"o{number}", name)),
                )
            )
        who = await world.token()
        for _ in range(2):
            reads = [world.timeline(who, await world.patient_id(f"p{number}")) for number in range(6)]
            found = await asyncio.gather(*reads, *(world.send(observation(f"o{n}", f"p{n}")) for n in range(6)))
            assert found[:6] == [[f"Observation/o{number}", f"Patient/p{number}"] for number in range(6)]
            assert book._held_rows <= 4
            for number in range(6):
                await world.timeline(who, await world.patient_id(f"p{number}"))
            assert book._held_rows <= 4
        assert await world.findings() == []
