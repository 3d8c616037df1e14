"""A new version of a value set: what it calls sensitive is hidden from then on; nothing is lost or doubled.

The patient p1 lets harbor see northgate's records but for what is labelled HIV. Heart rates (LOINC 8867-4) stand in
for a code that the privacy officer adds to the set; no set of ours holds it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.bridge_world import World, bundle, consent, fresh, observation, patient, running

ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
HEART_RATE = ("http://loinc.org", "8867-4")
WEIGHT = {"coding": [{"system": "http://loinc.org", "code": "29463-7"}]}
HIV_CODE = {"coding": [{"system": "http://snomed.info/sct", "code": "86406008"}]}
Json = dict[str, Any]


def value_set(version: str, *concepts: tuple[str, str], url: str = "urn:test:hiv") -> str:
    include = [{"system": system, "concept": [{"code": code}]} for system, code in concepts]
    made = {"resourceType": "ValueSet", "url": url, "version": version, "status": "active"}
    return json.dumps(made | {"compose": {"include": include}})


WITH_HEART_RATE = value_set("2", HEART_RATE, ("http://snomed.info/sct", "86406008"))
WITHOUT = value_set("3", ("http://snomed.info/sct", "62479008"))


@dataclass(frozen=True, slots=True)
class Ward:
    """A world in which harbor is denied HIV."""

    world: World
    asked: str
    denied: Mapping[str, str]
    own: Mapping[str, str]

    async def load(self, text: str, **more: Any) -> None:
        body = {"topics": {"HIV": "hiv.json"}, "files": {"hiv.json": text}, **more}
        answer = await self.world.control.post("/labels", json=body)
        assert answer.status_code == 200, answer.text

    async def relabel(self) -> Json:
        answer = await self.world.control.post("/labels/relabel", json={})
        done: Json = json.loads(answer.text.splitlines()[-1])["done"]
        return done

    async def behind(self) -> int:
        return int((await self.world.control.get("/labels")).json()["charts_behind"])

    async def ask(self, path: str, headers: Mapping[str, str]) -> Json:
        answer = await self.world.http.get(f"/fhir/{path}", headers=headers)
        found: Json = answer.json() | {"status": answer.status_code}
        return found

    async def record(self, name: str, headers: Mapping[str, str]) -> Json:
        """Return the one record with this identifier, as it is served."""
        found = await self.ask(f"Observation?patient={self.asked}&identifier={name}", headers)
        (entry,) = found["entry"]
        resource: Json = entry["resource"]
        return resource

    async def everything_that_may_show(self, name: str, record_id: str, version: str) -> list[object]:
        """Return what each way in tells harbor about a record; all of it is empty if it is hidden."""
        who, asked = self.denied, self.asked
        search = f"Observation?patient={asked}"
        bundles = [
            await self.ask(f"{search}&identifier={name}", who),
            await self.ask(f"{search}&_security={ACT}|HIV", who),
            await self.ask(f"{search}&code=8867-4&_summary=count", who),
            await self.ask(f"Patient/{asked}/$everything?_type=Observation", who),
            await self.ask(f"Patient?_id={asked}&_has:Observation:patient:code=8867-4", who),
            await self.ask(f"Observation/_history?patient={asked}", who),
            await self.ask(f"Observation/{record_id}/_history", who),
            await self.ask(f"Observation/{record_id}", who),
            await self.ask(f"Observation/{record_id}/_history/{version}", who),
            await self.ask(f"Observation/{record_id}/$receipt", who),
            await self.ask(f"Provenance?target=Observation/{record_id}", who),
        ]
        found = [str(entry) for each in bundles for entry in each.get("entry", []) if record_id in str(entry)]
        counted = [each["total"] for each in bundles[:3] if each["total"]]
        read = [each["status"] for each in bundles[6:10] if each["status"] != 404]
        return [*found, *counted, *read]


@asynccontextmanager
async def ward(data: Path) -> AsyncIterator[Ward]:
    async with running(data) as world:
        await world.send(patient("p1"))
        asked = await world.patient_id("p1")
        agent = await world.enrol("p1")
        hidden = {"type": "deny", "securityLabel": [{"system": ACT, "code": "HIV"}]}
        body = consent(f"Patient/{asked}", permit=f"Organization/{await world.organization('harbor')}")
        body["provision"]["provision"] = [hidden]
        answer = await world.http.post("/fhir/Consent", headers=agent, json=body)
        assert answer.status_code == 201, answer.text
        yield Ward(world, asked, await world.token("harbor"), await world.token("northgate"))


@asynccontextmanager
async def again(data: Path, asked: str) -> AsyncIterator[Ward]:
    """Open the same data once more, as after a restart."""
    async with running(data) as world:
        yield Ward(world, asked, await world.token("harbor"), await world.token("northgate"))


def labels_of(resource: Json) -> list[str]:
    return [label["code"] for label in resource["meta"].get("security", [])]


async def test_what_a_new_set_calls_sensitive_is_hidden_at_every_moment_until_it_is_labelled(tmp_path: Path) -> None:
    async with ward(fresh(tmp_path)) as here:
        await here.world.send(observation("o1", "p1"))
        before = await here.record("o1", here.denied)
        told = ("o1", before["id"], before["meta"]["versionId"])
        assert await here.everything_that_may_show(*told) != []

        await here.load(WITH_HEART_RATE)
        assert await here.everything_that_may_show(*told) == [], "in force, not labelled"
        assert labels_of(await here.record("o1", here.own)) == []
        steps = 0
        async for _ in here.world.bridge.relabelling.run():
            steps += 1
            assert await here.everything_that_may_show(*told) == [], f"after step {steps}"
        assert steps > 1
        assert await here.behind() == 0
        assert await here.everything_that_may_show(*told) == [], "labelled"
        after = await here.record("o1", here.own)
        assert labels_of(after) == ["HIV"]
        assert after["meta"]["versionId"] != before["meta"]["versionId"]
        assert await here.world.findings() == []


async def test_lineage_names_set_version_and_concept_and_the_original_stays(tmp_path: Path) -> None:
    async with ward(fresh(tmp_path)) as here:
        await here.world.send(observation("o1", "p1"))
        await here.load(WITH_HEART_RATE)
        assert (await here.relabel())["versions"] == 1
        record = await here.record("o1", here.own)
        told = await here.ask(f"Provenance?target=Observation/{record['id']}", here.own)
        assert json.dumps(told).count("core/sensitivity urn:test:hiv|2") == 1
        history = await here.ask(f"Observation/{record['id']}/_history", here.own)
        bodies = [entry["resource"] for entry in history["entry"]]
        assert [labels_of(each) for each in bodies] == [["HIV"], []]
        assert _without_labels(bodies[0]) == _without_labels(bodies[1])


def _without_labels(resource: Json) -> Json:
    meta = {key: value for key, value in resource["meta"].items() if key in ("source", "tag")}
    return resource | {"meta": meta}


async def test_sending_again_what_was_labelled_again_makes_no_version(tmp_path: Path) -> None:
    """The relabelled bytes are those that the rules make of the original under the new sets."""
    sent = observation("o1", "p1", meta={"security": [{"system": ACT, "code": "PSY"}], "profile": ["urn:p"]})
    async with ward(fresh(tmp_path)) as here:
        await here.world.send(sent)
        await here.world.send(observation("o2", "p1"))
        await here.load(WITH_HEART_RATE)
        assert (await here.relabel())["versions"] == 2
        labelled = await here.record("o1", here.own)
        assert labels_of(labelled) == ["PSY", "HIV"]
        for each in (sent, observation("o2", "p1")):
            await here.world.send(each)
        assert (await here.record("o1", here.own))["meta"] == labelled["meta"]
        history = await here.ask(f"Observation/_history?patient={here.asked}", here.own)
        assert len(history["entry"]) == 4


async def test_a_code_taken_out_of_a_set_loses_its_label_and_what_the_sender_said_stays(tmp_path: Path) -> None:
    async with ward(fresh(tmp_path)) as here:
        await here.world.send(observation("o1", "p1", code=HIV_CODE))
        await here.world.send(
            observation("o2", "p1", code=HIV_CODE, meta={"security": [{"system": ACT, "code": "HIV"}]})
        )
        assert await here.world.timeline(here.denied, here.asked) == ["Patient/p1"]
        await here.load(WITHOUT)
        shown = await here.world.timeline(here.denied, here.asked)
        assert shown == ["Observation/o1", "Patient/p1"]
        await here.relabel()
        assert await here.world.timeline(here.denied, here.asked) == shown
        assert [labels_of(await here.record(name, here.own)) for name in ("o1", "o2")] == [[], ["HIV"]]
        past = await here.ask(f"Observation/_history?patient={here.asked}", here.denied)
        assert [labels_of(each["resource"]) for each in past["entry"]] == [[], ["HIV"]], (
            "the bytes are what they were"
        )


async def test_an_older_version_is_judged_by_the_newest_sets_too(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with ward(data) as here:
        await here.world.send(observation("o1", "p1"))
        await here.world.send(observation("o1", "p1", code=WEIGHT))
        record = await here.record("o1", here.denied)
        path = f"Observation/{record['id']}/_history"
        assert len((await here.ask(path, here.denied))["entry"]) == 2
        await here.load(WITH_HEART_RATE)
        assert len((await here.ask(path, here.denied))["entry"]) == 1
        assert (await here.relabel())["versions"] == 0
        assert len((await here.ask(path, here.denied))["entry"]) == 1
        assert len((await here.ask(path, here.own))["entry"]) == 2
    async with again(data, here.asked) as later:
        assert len((await later.ask(path, later.denied))["entry"]) == 1, "after a restart"


async def test_a_run_that_was_cut_off_goes_on_by_itself_at_the_next_start(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with ward(data) as here:
        await here.world.send(observation("o1", "p1"))
        await here.world.send(observation("o2", "p1"))
        await here.load(WITH_HEART_RATE)
        all_charts = await here.behind()
        run = here.world.bridge.relabelling.run()
        await anext(run)
        await run.aclose()
        assert await here.behind() == all_charts > 0
    async with again(data, here.asked) as second:
        await _until_none_is_behind(second)
        assert (await second.record("o1", second.own))["meta"]["security"][-1]["code"] == "HIV"
    async with again(data, here.asked) as third:
        assert not third.world.bridge.relabelling.is_resuming, "the run came to its end"
        assert await third.world.findings() == []


async def test_who_asks_for_a_run_takes_over_what_goes_on_by_itself(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with ward(data) as here:
        await here.world.send(observation("o1", "p1"))
        await here.load(WITH_HEART_RATE)
        run = here.world.bridge.relabelling.run()
        await anext(run)
        await run.aclose()
    async with again(data, here.asked) as second:
        done = await second.relabel()
        assert done["failed"] == {}
        assert await second.behind() == 0


async def _until_none_is_behind(ward: Ward) -> None:
    async with asyncio.timeout(30):
        while await ward.behind():
            await asyncio.sleep(0.02)


async def test_two_changes_one_after_another_and_a_restart_between(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with ward(data) as here:
        await here.world.send(observation("o1", "p1"))
        await here.load(WITH_HEART_RATE)
    async with again(data, here.asked) as second:
        assert await second.world.timeline(second.denied, here.asked) == ["Patient/p1"]
        assert await second.behind() > 0
        await second.load(WITHOUT)
        assert await second.world.timeline(second.denied, here.asked) == ["Observation/o1", "Patient/p1"]
        await second.load(WITH_HEART_RATE)
        done = await second.relabel()
        assert (done["versions"], done["failed"]) == (1, {})
        assert (await second.relabel())["charts"] == 0
        await second.load(WITH_HEART_RATE)
        assert await second.behind() == 0, "the same sets change nothing"
    async with again(data, here.asked) as third:
        assert await third.world.timeline(third.denied, here.asked) == ["Patient/p1"]
        assert await third.world.findings() == []


async def test_a_message_on_its_way_when_sets_change_is_labelled_by_the_new_ones(tmp_path: Path) -> None:
    """Its rooms have labelled it by the old sets; the line sends it through them again before it commits."""
    async with ward(fresh(tmp_path)) as here:
        lock = here.world.bridge.services.ingest.committing
        async with lock:
            loading = asyncio.create_task(here.load(WITH_HEART_RATE))
            await _waiting(lock, 1)
            sending = asyncio.create_task(here.world.send(observation("o1", "p1")))
            await _waiting(lock, 2)
        await asyncio.gather(sending, loading)
        history = await here.ask(f"Observation/_history?patient={here.asked}", here.own)
        assert [labels_of(each["resource"]) for each in history["entry"]] == [["HIV"]]
        assert await here.world.timeline(here.denied, here.asked) == ["Patient/p1"]


async def _waiting(lock: asyncio.Lock, wanted: int) -> None:
    """Return once so many wait for the lock."""
    while len(lock._waiters or ()) < wanted:
        await asyncio.sleep(0.001)


async def test_a_newer_version_that_comes_meanwhile_stays_the_newest(tmp_path: Path) -> None:
    async with ward(fresh(tmp_path)) as here:
        await here.world.send(observation("o1", "p1"))
        await here.load(WITH_HEART_RATE)
        await here.world.timeline(here.denied, here.asked)  # judges the chart
        await here.world.send(observation("o1", "p1", code=WEIGHT))
        assert (await here.relabel())["versions"] == 0
        record = await here.record("o1", here.denied)
        assert record["code"] == WEIGHT


async def test_a_loaded_set_can_be_searched_with_in_and_is_listed(tmp_path: Path) -> None:
    async with ward(fresh(tmp_path)) as here:
        await here.world.send(bundle(*_two()))
        hearts = value_set("1", HEART_RATE, url="urn:test:hearts")
        body = {"also": {"h.json": ""}, "files": {"h.json": hearts}}
        assert (await here.world.control.post("/labels", json=body)).status_code == 200
        search = f"Observation?patient={here.asked}"
        for asked, names in (
            ("code:in=urn:test:hearts", ["o1"]),
            ("code:in=urn:test:hearts|1", ["o1"]),
            ("code:not-in=urn:test:hearts", ["o2"]),
            ("code:in=urn:fhir-bridge:value-set:sensitive-hiv", []),
        ):
            found = await here.ask(f"{search}&{asked}", here.own)
            assert [e["resource"]["identifier"][0]["value"] for e in found.get("entry", [])] == names, asked
        assert (await here.ask(f"{search}&code:in=urn:test:hearts|2", here.own))["status"] == 400
        stated = await here.ask("metadata", {})
        assert "urn:test:hearts|1" in stated["rest"][0]["documentation"]


def _two() -> list[tuple[str, str, Json | None]]:
    return [
        ("PUT", "Observation/o1", observation("o1", "p1")),
        ("PUT", "Observation/o2", observation("o2", "p1", code=WEIGHT)),
    ]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"topics": {"hiv": "a"}, "files": {"a": WITHOUT}}, "'hiv' is no label"),
        ({"topics": {"HIV": "a"}}, "a is not among the files"),
        ({"topics": {"HIV": "a"}, "files": {"a": "{"}}, "a: not strict JSON"),
    ],
)
async def test_sets_that_cannot_be_taken_leave_those_in_force(body: Json, told: str, tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        before = (await world.control.get("/labels")).json()
        answer = await world.control.post("/labels", json=body)
        assert answer.status_code == 400
        assert told in answer.json()["issue"][0]["diagnostics"]
        assert (await world.control.get("/labels")).json() == before
