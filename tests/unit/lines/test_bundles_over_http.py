"""Bundles over HTTP by R4's http.html#trules and #ccreate: conditional creates, resending, and receipts by entry."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from fhir_bridge.model.ids import canonical_id
from fhir_bridge.model.ingest import FhirVersion, Received
from tests.support.bridge_world import World, fresh, observation, patient, running

Json = dict[str, Any]
MRN = "identifier=https://northgate.example.org/mrn|"
PERSON = "urn:uuid:0c3b7b5e-43b1-4b0e-9a57-6d8f7a0f1e11"
KINDS = ("transaction", "batch")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(fresh(tmp_path)) as made:
        await made.send(patient("p1"))
        yield made


def without_id(resource: Json) -> Json:
    return {name: value for name, value in resource.items() if name != "id"}


def created(resource: Json, condition: str | None = None, full_url: str | None = None) -> Json:
    request = {"method": "POST", "url": resource["resourceType"]}
    entry: Json = {"resource": without_id(resource), "request": request}
    if condition is not None:
        request["ifNoneExist"] = condition
    if full_url is not None:
        entry["fullUrl"] = full_url
    return entry


def about(subject: str, local_id: str) -> Json:
    return observation(local_id, "") | {"subject": {"reference": subject}}


async def post(world: World, *entries: Json, kind: str = "transaction", at: str = "northgate") -> httpx.Response:
    message: Json = {"resourceType": "Bundle", "type": kind, "entry": list(entries)}
    message["identifier"] = {"system": "urn:test:messages", "value": "1"}
    return await world.http.post("/fhir", json=message, headers=await world.token(at))


def statuses(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [each["response"]["status"][:3] for each in answer.json()["entry"]]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_refers_to_a_conditional_create_refers_to_what_was_there(world: World, kind: str) -> None:
    """The Patient is not created again, and the Observation is about the one that exists."""
    answer = await post(
        world,
        created(about(PERSON, "o1")),
        created(patient("p1"), MRN + "p1", PERSON),
        kind=kind,
    )
    there = await world.patient_id("p1")
    assert statuses(answer) == ["201", "200"]
    assert answer.json()["entry"][1]["response"]["location"].startswith(f"Patient/{there}/_history/")
    who = await world.token()
    assert await world.timeline(who, there) == ["Observation/o1", "Patient/p1"]
    location = answer.json()["entry"][0]["response"]["location"]
    stored = (await world.http.get(f"/fhir/{location}", headers=who)).json()
    assert stored["subject"]["reference"] == f"Patient/{there}"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_conditional_create_that_finds_nothing_creates(world: World, kind: str) -> None:
    answer = await post(world, created(patient("p2"), MRN + "p2", PERSON), created(about(PERSON, "o1")), kind=kind)
    assert statuses(answer) == ["201", "201"]
    person = answer.json()["entry"][0]["response"]["location"].split("/")[1]
    assert await world.timeline(await world.token(), person) == ["Observation/o1", "Patient/p2"]


async def test_one_record_that_two_entries_would_create_is_created_once(world: World) -> None:
    second = "urn:uuid:5b0c7f0a-5f4e-4a43-8f5e-2b1d9d6c3a22"
    answer = await post(
        world,
        created(patient("p2"), MRN + "p2", PERSON),
        created(patient("p2"), MRN + "p2", second),
        created(about(second, "o1")),
        created(about(PERSON, "o2")),
    )
    assert statuses(answer) == ["201", "200", "201", "201"]
    people = {each["response"]["location"].split("/")[1] for each in answer.json()["entry"][:2]}
    (person,) = people
    found = await world.timeline(await world.token(), person)
    assert found == ["Observation/o1", "Observation/o2", "Patient/p2"]


async def test_several_matches_refuse_a_transaction_whole_and_an_entry_of_a_batch(world: World) -> None:
    for name in ("o1", "o2"):
        await world.send(
            about("Patient/p1", name) | {"identifier": [{"system": "urn:test", "value": "same"}]} | {"id": name}
        )
    entries = created(about("Patient/p1", "o3"), "identifier=urn:test|same"), created(about("Patient/p1", "o4"))
    person, who = await world.patient_id("p1"), await world.token()
    before = await world.timeline(who, person)
    refused = await post(world, *entries)
    assert refused.status_code == 412
    assert refused.json()["issue"][0]["expression"] == ["Bundle.entry[0]"]
    assert await world.timeline(who, person) == before
    assert statuses(await post(world, *entries, kind="batch")) == ["412", "201"]


async def test_a_refusal_by_what_is_stored_names_the_entry(world: World) -> None:
    fine, stale = patient("p2"), patient("p1")
    entries: list[Json] = [
        {"resource": fine, "request": {"method": "PUT", "url": "Patient/p2"}},
        {"resource": stale, "request": {"method": "PUT", "url": "Patient/p1", "ifMatch": 'W/"older"'}},
    ]
    refused = await post(world, *entries)
    assert refused.status_code == 412
    assert [issue["expression"] for issue in refused.json()["issue"]] == [["Bundle.entry[1]"]]


async def test_nobody_elses_record_is_what_was_there(world: World) -> None:
    """Another institution's Patient of the same number is neither found nor referred to."""
    answer = await post(world, created(patient("p1"), MRN + "p1", PERSON), created(about(PERSON, "o1")), at="harbor")
    assert statuses(answer) == ["201", "201"]
    assert await world.timeline(await world.token(), await world.patient_id("p1")) == ["Patient/p1"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_bundle_sent_again_gives_the_same_places_and_changes_nothing(world: World, kind: str) -> None:
    entries = (
        created(patient("p2"), None, PERSON),
        created(about(PERSON, "o1")),
        created(patient("p1"), MRN + "p1"),
    )
    first, again = [await post(world, *entries, kind=kind) for _ in range(2)]
    assert (statuses(first), statuses(again)) == (["201", "201", "200"], ["200", "200", "200"])
    for one, other in zip(first.json()["entry"], again.json()["entry"], strict=True):
        for name in ("location", "etag", "lastModified"):
            assert one["response"][name] == other["response"][name]
    who = await world.token()
    for each in first.json()["entry"]:
        record = each["response"]["location"].partition("/_history")[0]
        history = (await world.http.get(f"/fhir/{record}/_history", headers=who)).json()
        assert len(history["entry"]) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_every_entry_that_is_there_names_its_receipt(world: World, kind: str) -> None:
    answer = await post(world, created(patient("p1"), MRN + "p1", PERSON), created(about(PERSON, "o1")), kind=kind)
    entries = answer.json()["entry"]
    assert answer.json()["type"] == f"{kind}-response"
    assert len(entries) == 2
    for each in entries:
        (link,) = each["link"]
        assert link["relation"] == "urn:fhir-bridge:receipt"
        got = await world.http.get(link["url"], headers=await world.token())
        assert got.status_code == 200, got.text
        by_name = await world.http.get(f"/fhir/{each['response']['location']}/$receipt", headers=await world.token())
        assert by_name.status_code == 200
    refused = await post(world, created(about("Patient/p1", "o9") | {"status": "zz"}), kind="batch")
    assert "link" not in refused.json()["entry"][0]


async def test_what_has_gone_since_it_was_found_is_not_taken_for_another(world: World) -> None:
    """Between two passes of a message the match was deleted: its id is not given to what the message creates."""
    ingest, there = world.bridge.services.ingest, await world.patient_id("p1")
    made = canonical_id(ingest._registry.id_key("northgate"), "Patient", PERSON.removeprefix("urn:uuid:"))
    entries = [created(patient("p9"), MRN + "p9", PERSON), created(about(PERSON, "o1"))]
    body = json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries}).encode()
    stale = Received("northgate", FhirVersion.R4, body, datetime.now(UTC), same_as=((made, there),))
    anchored = await ingest.push(stale)
    assert (anchored.status, [issue.code for issue in anchored.refused]) == ("409 Conflict", ["conflict"])
    assert await world.timeline(await world.token(), there) == ["Patient/p1"]
    assert (await ingest.push(replace(stale, same_as=()))).refused == ()
