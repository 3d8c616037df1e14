"""Conditional references to Patients (R4 http.html#trules): resolved among the sender's own, or refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.bridge_world import World, fresh, observation, patient, running

Json = dict[str, Any]
MRN = "https://northgate.example.org/mrn"
JSON = {"Content-Type": "application/fhir+json"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(fresh(tmp_path)) as made:
        yield made


def about(value: str, local_id: str = "o1", system: str = MRN) -> Json:
    return observation(local_id, "") | {"subject": {"reference": f"Patient?identifier={system}|{value}"}}


def message(*resources: Json, kind: str = "transaction") -> Json:
    entries = [
        {"resource": each, "request": {"method": "PUT", "url": f"{each['resourceType']}/{each['id']}"}}
        for each in resources
    ]
    return {"resourceType": "Bundle", "type": kind, "entry": entries}


async def post(world: World, body: Json, at: str = "northgate") -> httpx.Response:
    return await world.http.post("/fhir", json=body, headers=await world.token(at) | JSON)


async def subject_of(world: World, local_id: str = "o1") -> str:
    read = await world.http.get(f"/fhir/Observation/{local_id}", headers=await world.token())
    assert read.status_code == 200, read.text
    return str(read.json()["subject"]["reference"])


@pytest.mark.parametrize("kind", ["transaction", "batch"])
async def test_a_reference_finds_the_patient_who_came_before(world: World, kind: str) -> None:
    await world.send(patient("p1"))
    answer = await post(world, message(about("p1"), kind=kind))
    assert answer.status_code == 200, answer.text
    assert answer.json()["entry"][0]["response"]["status"].startswith("201")
    who = await world.patient_id("p1")
    assert await subject_of(world) == f"Patient/{who}"
    assert "Observation/o1" in await world.timeline(await world.token(), who)
    assert await world.findings() == []


async def test_a_reference_finds_the_patient_of_the_same_transaction(world: World) -> None:
    answer = await post(world, message(about("p1"), patient("p1")))
    assert answer.status_code == 200, answer.text
    assert await subject_of(world) == f"Patient/{await world.patient_id('p1')}"


async def test_a_reference_finds_a_patient_that_is_being_committed(world: World) -> None:
    """Many senders at once: the Patient and what refers to it may share one commit."""
    sent = [world.send(patient(f"p{n}")) for n in range(8)] + [
        world.send(message(about(f"p{n}", f"o{n}"))) for n in range(8)
    ]
    answers = await asyncio.gather(*sent)
    assert all(not each["refused"] for each in answers[:8])
    for number in range(8):
        if not answers[8 + number]["refused"]:
            assert await subject_of(world, f"o{number}") == f"Patient/{await world.patient_id(f'p{number}')}"
    assert await world.findings() == []


async def test_a_transaction_whose_reference_finds_nobody_is_refused_whole(world: World) -> None:
    answer = await post(world, message(patient("p2"), about("p1")))
    assert answer.status_code == 400
    (issue,) = answer.json()["issue"]
    assert issue["code"] == "not-found"
    assert "send the Patient first" in issue["diagnostics"]
    assert "p1" not in answer.text
    assert (await world.http.get("/fhir/Patient/p2", headers=await world.token())).status_code == 404


async def test_an_identifier_that_two_patients_carry_is_refused(world: World) -> None:
    shared = {"identifier": [{"system": MRN, "value": "same"}]}
    await world.send(patient("p1") | shared)
    await world.send(patient("p2") | shared)
    answer = await post(world, message(about("same")))
    assert answer.json()["issue"][0]["code"] == "multiple-matches"
    assert (await world.http.get("/fhir/Observation/o1", headers=await world.token())).status_code == 404


async def test_another_institutions_patient_is_as_good_as_none(world: World) -> None:
    await world.send(patient("p1"), "harbor")
    foreign = await post(world, message(about("p1")))
    nobody = await post(world, message(about("p9")))
    assert (foreign.status_code, foreign.json()["issue"]) == (nobody.status_code, nobody.json()["issue"])


@pytest.mark.parametrize("gone", ["deleted", "another identifier"])
async def test_a_patient_who_no_longer_carries_it_is_not_found(world: World, gone: str) -> None:
    await world.send(patient("p1"))
    if gone == "deleted":
        await world.http.delete("/fhir/Patient/p1", headers=await world.token())
    else:
        await world.send(patient("p1") | {"identifier": [{"system": MRN, "value": "new"}]})
    assert (await post(world, message(about("p1")))).json()["issue"][0]["code"] == "not-found"


async def test_a_message_by_bus_waits_as_a_dead_letter_and_is_taken_once_the_patient_is_there(world: World) -> None:
    told = await world.send(message(about("p1")))
    assert [each["code"] for each in told["refused"]] == ["not-found"]
    await world.send(patient("p1"))
    answer = await world.control.post("/letters/replay", json={"ids": told["dead_letters"]})
    assert answer.json() == {"replayed": 1, "still_refused": 0, "why": []}
    assert await subject_of(world) == f"Patient/{await world.patient_id('p1')}"
    again = await world.send(message(about("p1")))
    assert again["outcomes"] == {"200": 1}
    assert "Patient?identifier" not in json.dumps(again)


async def test_an_entry_of_a_batch_that_finds_nobody_does_not_hold_up_the_others(world: World) -> None:
    answer = await post(world, message(patient("p2"), about("p1"), kind="batch"))
    assert [each["response"]["status"][:3] for each in answer.json()["entry"]] == ["201", "202"]
