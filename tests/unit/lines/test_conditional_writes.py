"""Conditional update and delete over HTTP: R4's table of matches, only the sender's own records, and no races."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.bridge_world import World, consent, fresh, observation, patient, running

Json = dict[str, Any]
O1 = "identifier=urn:test|o1"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(fresh(tmp_path)) as made:
        await made.send(patient("p1"))
        await made.send(observation("o1", "p1"))
        yield made


async def _put(
    world: World, query: str, body: Json, name: str = "Observation", at: str = "northgate"
) -> httpx.Response:
    return await world.http.put(f"/fhir/{name}?{query}", headers=await world.token(at), json=body)


async def _delete(world: World, query: str, name: str = "Observation", at: str = "northgate") -> httpx.Response:
    return await world.http.delete(f"/fhir/{name}?{query}", headers=await world.token(at))


async def _all(world: World, at: str = "northgate") -> list[Json]:
    person = await world.patient_id("p1", at)
    answer = await world.http.get(f"/fhir/Observation?patient={person}&_count=200", headers=await world.token(at))
    return [each["resource"] for each in answer.json().get("entry", [])]


def _unnamed(local_id: str, **more: Any) -> Json:
    return {name: value for name, value in observation(local_id, "p1", **more).items() if name != "id"}


# --- update: R4 http.html#cond-update


async def test_no_match_without_an_id_creates(world: World) -> None:
    made = await _put(world, "identifier=urn:test|new", _unnamed("new"))
    assert made.status_code == 201
    assert "/Observation/" in made.headers["location"]
    assert len(await _all(world)) == 2


async def test_no_match_with_an_id_creates_under_that_id(world: World) -> None:
    made = await _put(world, "identifier=urn:test|new", observation("mine", "p1"))
    assert made.status_code == 201
    assert (await world.http.get("/fhir/Observation/mine", headers=await world.token())).status_code == 200


@pytest.mark.parametrize("is_named", [True, False])
async def test_one_match_is_updated(world: World, is_named: bool) -> None:
    before = (await _all(world))[0]["id"]
    body = observation("o1", "p1", status="amended") if is_named else _unnamed("o1", status="amended")
    done = await _put(world, O1, body)
    assert (done.status_code, done.json()["id"], done.json()["status"]) == (200, before, "amended")
    assert [each["id"] for each in await _all(world)] == [before]


async def test_one_match_under_another_id_than_the_body_states_is_refused(world: World) -> None:
    done = await _put(world, O1, observation("other", "p1"))
    assert done.status_code == 400
    assert len(await _all(world)) == 1


async def test_several_matches_are_refused(world: World) -> None:
    await world.send(observation("o2", "p1", identifier=[{"system": "urn:test", "value": "o1"}]))
    person = await world.patient_id("p1")
    assert (await _put(world, O1, _unnamed("o1"))).status_code == 412
    assert (await _delete(world, f"{O1}&patient={person}")).status_code == 412
    assert len(await _all(world)) == 2


async def test_a_patient_is_found_by_its_number(world: World) -> None:
    number = "identifier=https://northgate.example.org/mrn|p1"
    body = {name: value for name, value in patient("p1", gender="female").items() if name != "id"}
    done = await _put(world, number, body, "Patient")
    assert (done.status_code, done.json()["id"]) == (200, await world.patient_id("p1"))


async def test_a_directory_record_is_found(world: World) -> None:
    body = {"resourceType": "Practitioner", "identifier": [{"system": "urn:test", "value": "d1"}]}
    first = await _put(world, "identifier=urn:test|d1", body, "Practitioner")
    second = await _put(world, "identifier=urn:test|d1", body | {"active": True}, "Practitioner")
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]
    assert (await _delete(world, "identifier=urn:test|d1", "Practitioner")).status_code == 204
    again = await _put(world, "identifier=urn:test|d1", body | {"active": False}, "Practitioner")
    assert again.status_code == 201


# --- delete


async def test_the_match_is_deleted_and_no_match_is_as_good_as_deleted(world: World) -> None:
    person = await world.patient_id("p1")
    for named in (person, "p1", "Patient/p1"):
        await world.send(observation("o1", "p1"))
        for _ in range(2):
            assert (await _delete(world, f"{O1}&patient={named}")).status_code == 204
            assert await _all(world) == []


async def test_an_etag_holds_for_conditional_writes_too(world: World) -> None:
    person, headers = await world.patient_id("p1"), await world.token() | {"If-Match": 'W/"x"'}
    for answer in (
        await world.http.delete(f"/fhir/Observation?{O1}&patient={person}", headers=headers),
        await world.http.put(f"/fhir/Observation?{O1}", headers=headers, json=_unnamed("o1")),
    ):
        assert answer.status_code == 412


# --- whose records


async def test_nobody_elses_record_matches_and_no_answer_tells_of_it(world: World) -> None:
    await world.send(patient("p1"), "harbor")
    made = await _put(world, O1, _unnamed("o1"), at="harbor")
    assert made.status_code == 201
    assert len(await _all(world)) == len(await _all(world, "harbor")) == 1
    theirs = await world.patient_id("p1")
    answers = [await _delete(world, f"{O1}&patient={each}", at="harbor") for each in (theirs, "a" * 32)]
    assert [(each.status_code, each.content) for each in answers] == [(204, b"")] * 2
    assert len(await _all(world)) == 1


async def test_a_patients_agent_names_the_id(world: World) -> None:
    agent, person = await world.enrol("p1"), await world.patient_id("p1")
    body = consent(f"Patient/{person}", permit="harbor")
    for answer in (
        await world.http.put("/fhir/Consent?identifier=urn:x|1", headers=agent, json=body),
        await world.http.delete("/fhir/Consent?identifier=urn:x|1", headers=agent),
    ):
        assert answer.status_code == 400


@pytest.mark.parametrize(
    "query", ["", "identifier=o1", "code=8867-4", f"{O1}&status=final", f"{O1}&identifier=urn:test|o2", "_id=o1"]
)
async def test_other_criteria_are_refused(world: World, query: str) -> None:
    assert (await _put(world, query, _unnamed("o1"))).status_code == 400
    assert (await _delete(world, f"{query}&patient=p1".lstrip("&"))).status_code == 400
    assert len(await _all(world)) == 1


@pytest.mark.parametrize("value", ["o1,urn:test|o2", "o1,", ",o1"])
async def test_several_values_are_refused_rather_than_looked_for_as_one(world: World, value: str) -> None:
    condition = f"identifier=urn:test|{value}"
    at, who = "/fhir/Observation", await world.token()
    for answer in (
        await _put(world, condition, _unnamed("o1")),
        await _delete(world, f"{condition}&patient=p1"),
        await world.http.post(at, headers=who | {"If-None-Exist": condition}, json=_unnamed("o3")),
    ):
        assert answer.status_code == 400
        assert "comma" in answer.text
    assert len(await _all(world)) == 1


async def test_a_comma_within_a_value_is_escaped_as_in_a_search(world: World) -> None:
    odd = _unnamed("odd") | {"identifier": [{"system": "urn:test", "value": "a,b|c"}]}
    condition = r"identifier=urn:test|a\,b\|c"
    assert (await _put(world, condition, odd)).status_code == 201
    assert (await _put(world, condition, odd | {"status": "amended"})).status_code == 200
    assert len(await _all(world)) == 2


async def test_a_deletion_names_the_patient(world: World) -> None:
    assert (await _delete(world, O1)).status_code == 400
    assert (await _delete(world, f"{O1}&patient=p1&subject=p1")).status_code == 400


# --- races


async def test_many_who_update_one_identifier_at_once_make_one_record(world: World) -> None:
    writes = [_put(world, "identifier=urn:test|new", _unnamed("new", note=[{"text": str(n)}])) for n in range(24)]
    done = await asyncio.gather(*writes)
    assert sorted(each.status_code for each in done) == [200] * 23 + [201]
    assert len({each.json()["id"] for each in done}) == 1
    assert len(await _all(world)) == 2


async def test_many_patients_with_one_number_become_one(world: World) -> None:
    def body(number: int) -> Json:
        given = [{"system": "urn:mrn", "value": "77"}]
        return {"resourceType": "Patient", "identifier": given, "name": [{"family": f"F{number}"}]}

    done = await asyncio.gather(*(_put(world, "identifier=urn:mrn|77", body(n), "Patient") for n in range(12)))
    assert sorted(each.status_code for each in done) == [200] * 11 + [201]
    assert len({each.json()["id"] for each in done}) == 1


async def test_creating_updating_and_deleting_at_once_leaves_at_most_one(world: World) -> None:
    headers = await world.token()
    create = headers | {"If-None-Exist": "identifier=urn:test|new"}
    calls = []
    for number in range(8):
        body = _unnamed("new", note=[{"text": str(number)}])
        calls += [
            world.http.post("/fhir/Observation", headers=create, json=body),
            world.http.put("/fhir/Observation?identifier=urn:test|new", headers=headers, json=body),
            world.http.delete("/fhir/Observation?identifier=urn:test|new&patient=p1", headers=headers),
        ]
    done = await asyncio.gather(*calls)
    assert {each.status_code for each in done} <= {200, 201, 204}
    assert len([each for each in await _all(world) if each["identifier"][0]["value"] == "new"]) <= 1


async def test_the_statement_tells_of_them(world: World) -> None:
    rest = (await world.http.get("/fhir/metadata")).json()["rest"][0]
    told = {each["type"]: each for each in rest["resource"]}
    assert (told["Observation"]["conditionalUpdate"], told["Observation"]["conditionalDelete"]) == (True, "single")
