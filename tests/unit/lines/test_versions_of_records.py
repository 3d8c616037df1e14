"""What a new arrival means for a record: versions, their order, resends, deletions, conditions."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.bridge_world import World, bundle, fresh, observation, patient, running

Headers = dict[str, str]


async def _history(world: World, who: Headers, local_id: str = "o1") -> list[str]:
    """Return the notes of an Observation's versions, newest first; ``-`` for a deletion."""
    answer = await world.http.get(f"/fhir/Observation/{local_id}/_history", headers=who)
    assert answer.status_code == 200, answer.text
    return [_note(each.get("resource")) for each in answer.json()["entry"]]


def _note(resource: dict[str, Any] | None) -> str:
    return "-" if resource is None else str(resource["note"][0]["text"])


def _noted(text: str, updated: str | None = None) -> dict[str, Any]:
    more: dict[str, Any] = {"note": [{"text": text}]}
    if updated is not None:
        more["meta"] = {"lastUpdated": updated}
    return observation("o1", "p1", **more)


async def test_an_older_version_that_arrives_late_enters_the_history_and_replaces_nothing(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        who = await world.token()
        for text, day in (("a", "01"), ("c", "03"), ("b", "02"), ("b", "02"), ("a", "01")):
            await world.send(_noted(text, f"2026-01-{day}T00:00:00Z"))
        assert await _history(world, who) == ["c", "b", "a"]


async def test_undated_versions_follow_the_order_of_arrival_and_a_return_is_a_new_version(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        await world.send(patient("p1"))
        for text in ("a", "a", "b", "a"):
            await world.send(_noted(text))
        assert await _history(world, await world.token()) == ["a", "b", "a"]
    async with running(data) as world:
        who = await world.token()
        assert await _history(world, who) == ["a", "b", "a"]
        entries = (await world.http.get("/fhir/Observation/o1/_history", headers=who)).json()["entry"]
        assert len({each["resource"]["meta"]["versionId"] for each in entries}) == 3


async def test_what_was_deleted_does_not_come_back_from_the_past(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        who = await world.token()
        await world.send(_noted("b", "2026-01-02T00:00:00Z"))
        assert (await world.http.delete("/fhir/Observation/o1", headers=who)).status_code == 204
        await world.send(_noted("a", "2026-01-01T00:00:00Z"))
        assert (await world.http.get("/fhir/Observation/o1", headers=who)).status_code == 410
        assert (await _history(world, who))[0] == "-"
        await world.send(_noted("c", "2026-01-03T00:00:00Z"))
        assert (await world.http.get("/fhir/Observation/o1", headers=who)).status_code == 200


async def test_deleting_what_never_was_and_deleting_twice_change_nothing(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
        who = await world.token()
        answers = [await world.http.delete(f"/fhir/Observation/{name}", headers=who) for name in ("o1", "o1", "no")]
        assert {(a.status_code, a.content) for a in answers} == {(204, b"")}


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_if_match_must_name_the_current_version(tmp_path: Path, method: str) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        who = await world.token()
        first = await world.http.put("/fhir/Observation/o1", json=_noted("a"), headers=who)
        second = await world.http.put("/fhir/Observation/o1", json=_noted("b"), headers=who)
        for name, etag, expected in (
            ("o1", first.headers["ETag"], 412),
            ("never", second.headers["ETag"], 412),
            ("o1", second.headers["ETag"], 200 if method == "PUT" else 204),
        ):
            body = _noted("c") | {"id": name}
            answer = await world.http.request(
                method,
                f"/fhir/Observation/{name}",
                headers=who | {"If-Match": etag},
                json=body if method == "PUT" else None,
            )
            assert answer.status_code == expected, (name, answer.text)


async def test_if_none_match_creates_only(tmp_path: Path) -> None:
    """RFC 9110 section 13.1.2: ``*`` is false once there is a current representation; a deleted record has none."""
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        who, path = await world.token(), "/fhir/Observation/o1"
        only_new = who | {"If-None-Match": "*"}
        assert (await world.http.put(path, json=_noted("a"), headers=only_new)).status_code == 201
        for text in ("a", "b"):
            assert (await world.http.put(path, json=_noted(text), headers=only_new)).status_code == 412
        assert await _history(world, who) == ["a"]
        other = who | {"If-None-Match": 'W/"x"'}
        assert (await world.http.put(path, json=_noted("b"), headers=other)).status_code == 200
        assert (await world.http.delete(path, headers=who)).status_code == 204
        assert (await world.http.put(path, json=_noted("c"), headers=only_new)).status_code in (200, 201)
        assert await _history(world, who) == ["c", "-", "b", "a"]


async def test_if_none_match_does_not_tell_of_what_another_institution_has(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        for name in ("northgate", "harbor"):
            await world.send(patient("p1"), name)
        await world.send(observation("o1", "p1"), "harbor")
        hidden = (await world.http.get("/fhir/Observation/o1", headers=await world.token("harbor"))).json()["id"]
        only_new = await world.token() | {"If-None-Match": "*"}
        for name in ("o1", hidden, "a" * 32):
            body = observation(name, "p1")
            answer = await world.http.put(f"/fhir/Observation/{name}", json=body, headers=only_new)
            assert answer.status_code == 201, name


async def test_a_transaction_with_a_stale_condition_changes_nothing_at_all(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        who = await world.token()
        await world.send(_noted("a"))
        sent = bundle(("PUT", "Observation/o2", observation("o2", "p1")), ("PUT", "Observation/o1", _noted("b")))
        sent["entry"][1]["request"]["ifMatch"] = 'W/"stale"'
        answer = await world.http.post("/fhir", json=sent, headers=who)
        assert answer.status_code == 412
        assert (await world.http.get("/fhir/Observation/o2", headers=who)).status_code == 404
        assert await _history(world, who) == ["a"]


async def test_a_batch_takes_its_other_entries(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        who = await world.token()
        await world.send(_noted("a"))
        sent = bundle(
            ("PUT", "Observation/o2", observation("o2", "p1")),
            ("PUT", "Observation/o1", _noted("b")),
            kind="batch",
        )
        sent["entry"][1]["request"]["ifMatch"] = 'W/"stale"'
        answer = await world.http.post("/fhir", json=sent, headers=who)
        statuses = [each["response"]["status"] for each in answer.json()["entry"]]
        assert statuses == ["201 Created", "412 Precondition Failed"]
        assert await _history(world, who) == ["a"]


async def test_a_record_does_not_change_hands(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.send(patient("p2"))
        await world.send(observation("o1", "p1"))
        who = await world.token()
        moved = await world.http.put("/fhir/Observation/o1", json=observation("o1", "p2"), headers=who)
        assert moved.status_code == 409
        assert await world.timeline(who, await world.patient_id("p2")) == ["Patient/p2"]


async def test_a_conditional_create_finds_the_senders_own_and_only_those(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
        wanted = {"If-None-Exist": "identifier=urn:test|o1"}
        again = await world.http.post(
            "/fhir/Observation", json=observation("o9", "p1"), headers=await world.token() | wanted
        )
        assert again.status_code == 200
        assert again.json()["identifier"][0]["value"] == "o1"
        await world.send(patient("h1"), "harbor")
        other = await world.http.post(
            "/fhir/Observation", json=observation("o9", "h1"), headers=await world.token("harbor") | wanted
        )
        assert other.status_code == 201


async def test_the_same_message_sent_many_times_at_once_is_stored_once(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        summaries = await asyncio.gather(*(world.send(_noted("a")) for _ in range(12)))
        assert sorted(next(iter(s["outcomes"])) for s in summaries) == ["200"] * 11 + ["201"]
        assert await _history(world, await world.token()) == ["a"]


async def test_a_transaction_that_names_one_record_twice_is_refused_and_stores_nothing(tmp_path: Path) -> None:
    """FHIR R4 http.html#trules: no two entries of a transaction may be about the same resource."""
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        who = await world.token()
        sent = bundle(("PUT", "Observation/o1", _noted("a")), ("PUT", "Observation/o1", _noted("b")))
        answer = await world.http.post("/fhir", json=sent, headers=who)
        assert answer.status_code == 400
        assert (await world.http.get("/fhir/Observation/o1", headers=who)).status_code == 404


async def test_posting_without_an_id_creates_and_the_answer_says_where(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        who = await world.token()
        body = {name: value for name, value in observation("x", "p1").items() if name != "id"}
        answer = await world.http.post("/fhir/Observation", json=body, headers=who)
        assert answer.status_code == 201
        place = answer.headers["Location"].removeprefix("http://127.0.0.1:8080")
        read = await world.http.get(place, headers=who)
        assert (read.status_code, read.content) == (200, answer.content)


async def test_a_declared_release_decides_how_a_body_is_read(tmp_path: Path) -> None:
    """STU3's Observation.context is R4's encounter: what is declared 3.0 is converted."""
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        who = await world.token()
        body = observation("o1", "p1") | {"context": {"reference": "Encounter/e1"}}
        kind = {"Content-Type": "application/fhir+json; fhirVersion=3.0"}
        answer = await world.http.put("/fhir/Observation/o1", json=body, headers=who | kind)
        assert answer.status_code == 201, answer.text
        assert "context" not in answer.json()
        assert answer.json()["encounter"]["reference"].startswith("Encounter/")
        plain = await world.http.put("/fhir/Observation/o2", json=body | {"id": "o2"}, headers=who)
        assert plain.status_code == 400
        unknown = {"Content-Type": "application/fhir+json; fhirVersion=9.9"}
        refused = await world.http.put("/fhir/Observation/o1", json=body, headers=who | unknown)
        assert refused.status_code == 400
