"""A group is sealed on one that is being written and may never be durable: it is written after it, or not at all."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest

from fhir_bridge.adapters.overflow import FileOverflow, FileOverflows
from fhir_bridge.errors import Unavailable
from fhir_bridge.lines.ingest import Group
from fhir_bridge.ports.vault import Work
from tests.support.bridge_world import World, bundle, fresh, observation, patient, running
from tests.support.state import State, read_state
from tests.unit.lines.test_faults_in_lines import before
from tests.unit.lines.test_relabelling import HEART_RATE, WITH_HEART_RATE, labels_of

Json = dict[str, Any]
_LONG_S = 60
_WHO = "identifier=https://northgate.example.org/mrn|p1"


class Held:
    """A bridge with one message in a group, whose commits wait for ``go`` and then raise ``faults``, one each."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ingest = world.bridge.services.ingest
        self.go = asyncio.Event()
        self.faults: list[Exception] = []
        self.behind: asyncio.Queue[Group | None] = asyncio.Queue()
        self._behind = self.ingest._behind
        self.ingest._vault = before(self.ingest._vault, commit=self._commit)
        self.ingest._behind = self._noted  # type: ignore[method-assign]  # looked at on its way

    async def put(self, *messages: Json) -> Group | None:
        """Put messages on the bus; return what of the second was sealed while the first is held in its commit."""
        async with self.ingest.committing:
            for each in messages:
                await self.world.bridge.reader._bus.put("northgate", json.dumps(each).encode())
            await _until(lambda: self.ingest.load.messages == len(messages))
            # The first has left the queue and waits for the lock.
            await _until(lambda: len(list(self.ingest._waiting)) == len(messages) - 1)
            await _until(lambda: all(job.processed.done() for job in self.ingest._waiting))
        async with asyncio.timeout(_LONG_S):
            return await self.behind.get()

    async def written(self) -> None:
        """Let commits go on, and wait until every message has been answered."""
        self.go.set()
        async with asyncio.timeout(_LONG_S):
            await self.ingest.quiet()
        assert await self.world.findings() == []

    async def history(self, local_id: str = "o1") -> list[Json]:
        """Return an Observation's versions, oldest first."""
        who = await self.world.token()
        answer = await self.world.http.get(f"/fhir/Observation/{local_id}/_history", headers=who)
        return [each["resource"] for each in reversed(answer.json().get("entry", []))]

    async def notes(self, local_id: str = "o1") -> list[str]:
        """Return the notes of an Observation's versions, oldest first."""
        return [each["note"][0]["text"] for each in await self.history(local_id)]

    async def _commit(self, *_: object) -> None:
        await self.go.wait()
        if self.faults:
            raise self.faults.pop(0)

    async def _noted(self, group: Group) -> Group | None:
        behind = await self._behind(group)
        self.behind.put_nowait(behind)
        return behind


async def _until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(_LONG_S):
        while not fact():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def held_bridge(folder: Path) -> AsyncIterator[Held]:
    async with running(fresh(folder)) as world:
        held = Held(world)
        yield held
        held.go.set()


@pytest.fixture(autouse=True)
def _one_message_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_INGEST_GROUP_MAX_MESSAGES", "1")


@pytest.fixture
async def held(tmp_path: Path) -> AsyncIterator[Held]:
    async with held_bridge(tmp_path) as made:
        yield made


def noted(text: str, local_id: str = "o1") -> Json:
    return observation(local_id, "p1", note=[{"text": text}])


async def test_a_version_stands_on_one_that_is_being_written(held: Held) -> None:
    """Both in a chart that nobody knows yet."""
    behind = await held.put(noted("a"), noted("b"), noted("b"), noted("c"))
    assert behind is not None
    assert [item.row.id for item in behind.layer.staged], "sealed before the first is durable"
    assert held.ingest.counters["stored"] == 0
    await held.written()
    assert await held.notes() == ["a", "b", "c"]
    assert held.ingest.counters["stored"] == 3
    assert behind.layer.below is None, "nothing is held of what is durable"


async def test_a_group_is_being_written_before_the_next_is_decided(held: Held) -> None:
    held.go.set()
    await held.world.send(noted("first, for which the ledger has to know the rules"))
    await held.behind.get()
    order: list[str] = []

    async def decided(*_: object) -> None:
        order.append("decided")

    async def begun(*_: object) -> None:
        order.append("begun")

    held.ingest._decider = before(held.ingest._decider, stage=decided)
    held.ingest._vault = before(held.ingest._vault, commit=begun)
    await held.put(noted("a"), noted("b"))
    assert order == ["decided", "begun", "decided"]


async def test_charts_are_held_while_two_groups_write_to_them(held: Held) -> None:
    """With room for one row every chart goes as soon as it may."""
    held.ingest._book._max_rows = 1
    of_two = [("PUT", "Observation/o2", observation("o2", "p2")), ("PUT", "Observation/o3", observation("o3", "p3"))]
    sent = [bundle(("PUT", "Observation/o1", noted(text)), *of_two, kind="batch") for text in "abc"]
    assert await held.put(*sent) is not None
    await held.written()
    assert await held.notes() == ["a", "b", "c"]


@pytest.mark.parametrize("fault", [Unavailable("full"), RuntimeError("a fault of ours")], ids=["away", "broken"])
async def test_what_was_sealed_on_a_group_that_was_not_written_is_forgotten(held: Held, fault: Exception) -> None:
    behind = await held.put(noted("a"), noted("b"), noted("c"))
    assert behind is not None
    held.faults = [fault]
    await held.written()
    is_set_aside = isinstance(fault, RuntimeError)
    assert await held.notes() == (["b", "c"] if is_set_aside else ["a", "b", "c"])
    assert len((await held.world.control.get("/letters")).json()) == is_set_aside


async def test_a_large_message_that_cannot_be_written_leaves_no_files_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a disk that is full would be filled further, by each attempt; the collector may not come for long."""
    monkeypatch.setenv("FHIR_BRIDGE_INGEST_LARGE_MESSAGE_BYTES", "1024")
    made: WeakSet[FileOverflow] = WeakSet()
    there: list[int] = []

    class Counted(FileOverflows):
        def open(self) -> FileOverflow:
            made.add(overflow := super().open())
            return overflow

    async def full(work: Work, _: object) -> None:
        if len(work.records) > 1:
            there.append(len(made))
            if len(there) != 3:
                raise Unavailable("full")

    def large(text: str) -> Json:
        return bundle(*(("PUT", f"Observation/o{n}", noted(text, f"o{n}")) for n in range(2, 9)))

    async with held_bridge(tmp_path) as held:
        who = await held.world.token()
        held.ingest._vault = before(held.ingest._vault, commit=full)
        held.ingest._overflows = Counted(tmp_path)
        gc.disable()
        try:
            assert await held.put(noted("a"), large("a")) is not None
            await held.written()
            answer = await held.world.http.post("/fhir", json=large("b"), headers=who)
            await _until(lambda: not made)
        finally:
            gc.enable()
        assert answer.status_code == 503
        assert there == [1, 1, 1, 1]


async def test_a_sender_by_http_behind_a_store_that_is_away_is_told_and_nothing_of_it_is_kept(held: Held) -> None:
    who = await held.world.token()
    async with held.ingest.committing:
        sent = [
            asyncio.create_task(held.world.http.put("/fhir/Observation/o1", json=noted(text), headers=who))
            for text in "ab"
        ]
        await _until(lambda: held.ingest.load.messages == 2)
        await _until(lambda: [job.processed.done() for job in held.ingest._waiting] == [True])
    async with asyncio.timeout(_LONG_S):
        assert await held.behind.get() is not None
    held.faults = [Unavailable("full")]
    held.go.set()
    assert [each.status_code for each in await asyncio.gather(*sent)] == [503, 503]
    assert await held.history() == []


async def test_what_was_decided_in_vain_is_not_told(held: Held) -> None:
    headers = await held.world.token()
    async with held.ingest.committing:
        await held.world.bridge.reader._bus.put("northgate", json.dumps(noted("a")).encode())
        await _until(lambda: held.ingest.load.messages == 1)
        posting = asyncio.create_task(
            held.world.http.post("/fhir", json=bundle(("PUT", "Observation/o1", noted("b"))), headers=headers)
        )
        await _until(lambda: [job.processed.done() for job in held.ingest._waiting] == [True])
    async with asyncio.timeout(_LONG_S):
        assert await held.behind.get() is not None
    held.faults = [RuntimeError("a fault of ours")]
    await held.written()
    answer = await posting
    assert [each["response"]["status"] for each in answer.json()["entry"]] == ["201 Created"]


async def test_a_conditional_create_finds_who_is_being_written(held: Held) -> None:
    create = {"resource": patient("p1"), "request": {"method": "POST", "url": "Patient", "ifNoneExist": _WHO}}
    message = bundle(("PUT", "Observation/o1", noted("a")))
    message["entry"].append(create)
    assert await held.put(patient("p1", gender="other"), message) is not None
    await held.written()
    answer = await held.world.http.get(f"/fhir/Patient?{_WHO}", headers=await held.world.token())
    assert [each["resource"]["gender"] for each in answer.json()["entry"]] == ["other"]


async def test_a_reference_to_who_is_being_written_waits_for_that(held: Held) -> None:
    """The message goes through its rooms again with whom it found, who must be there for good by then."""
    about = noted("a") | {"subject": {"reference": f"Patient?{_WHO}"}}
    assert await held.put(patient("p1"), bundle(("PUT", "Observation/o1", about)), noted("b")) is None
    await held.written()
    assert await held.notes() == ["a", "b"], "in the order they came"
    who = f"Patient/{await held.world.patient_id('p1')}"
    assert [each["subject"]["reference"] for each in await held.history()] == [who, who]


async def test_other_value_sets_in_between_judge_what_was_sealed_already(held: Held) -> None:
    assert await held.put(noted("a"), noted("b")) is not None
    body = {"topics": {"HIV": "hiv.json"}, "files": {"hiv.json": WITH_HEART_RATE}}
    loading = asyncio.create_task(held.world.control.post("/labels", json=body))
    await _until(lambda: bool(held.ingest.committing._waiters))
    await held.written()
    assert (await loading).status_code == 200
    stored = await held.history()
    assert [each["note"][0]["text"] for each in stored] == ["a", "b"]
    assert labels_of(stored[-1]) == ["HIV"], f"{HEART_RATE} is one of them now"


@pytest.mark.parametrize("seed", range(6))
async def test_any_messages_and_failures_end_as_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    async with running(fresh(tmp_path / "seed")) as world:
        # With them come the keys by which ids of records and of letters are made.
        await world.send(patient("p0"))
        await world.send({"resourceType": "Patient", "id": "p0", "gender": "x"})
    drawn = random.Random(seed)
    messages = [_any_message(drawn) for _ in range(60)]
    monkeypatch.setenv("FHIR_BRIDGE_INGEST_GROUP_MAX_MESSAGES", "64")
    plain = await _ended(tmp_path, "plain", messages, failures=None)
    monkeypatch.setenv("FHIR_BRIDGE_INGEST_GROUP_MAX_MESSAGES", str(drawn.choice([1, 2, 3])))
    assert await _ended(tmp_path, "ahead", messages, failures=drawn) == plain


def _any_message(drawn: random.Random) -> Json:
    who, what, text = f"p{drawn.randrange(3)}", f"o{drawn.randrange(4)}", drawn.choice("abc")
    of_that = observation(f"{who}-{what}", who, note=[{"text": text}])
    return drawn.choice(
        [
            of_that,
            patient(who, gender=drawn.choice(["male", "female"])),
            bundle(("PUT", f"Patient/{who}", patient(who)), ("PUT", f"Observation/{who}-{what}", of_that)),
            bundle(("DELETE", f"Observation/{who}-{what}", None)),
            bundle(("PUT", f"Observation/{who}-{what}", of_that), ("PUT", "Patient/px", {"resourceType": "Patient"})),
            {"resourceType": "Observation", "id": what, "status": text},
        ]
    )


async def _ended(folder: Path, name: str, messages: list[Json], failures: random.Random | None) -> State:
    """Return the state after the messages, with a store that is away now and then."""
    sealed = 0
    data = shutil.copytree(folder / "seed" / "data", folder / name)
    async with running(data) as world:
        ingest = world.bridge.services.ingest

        async def slow(*_: object) -> None:
            await asyncio.sleep(0.005)
            if failures is not None and failures.random() < 0.1:
                raise Unavailable("full")

        ingest._vault = before(ingest._vault, commit=slow)
        sealing = ingest._behind

        async def counted(group: Group) -> Group | None:
            nonlocal sealed
            behind = await sealing(group)
            sealed += behind is not None
            return behind

        ingest._behind = counted  # type: ignore[method-assign]  # looked at on its way
        for each in messages:
            await world.bridge.reader._bus.put("northgate", json.dumps(each).encode())
        async with asyncio.timeout(_LONG_S):
            while ingest.counters["messages"] < len(messages):
                await asyncio.sleep(0.01)
            await ingest.quiet()
        assert await world.findings() == []
    assert bool(sealed) == (failures is not None)
    return read_state(data)
