"""Links between records, parts of records and histories, through the entrance of a whole bridge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.bridge_world import World, fresh, observation, patient, running

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
Json = dict[str, Any]


async def ask(world: World, path: str, who: dict[str, str], **headers: str) -> Json:
    answer = await world.http.get(f"/fhir/{path}", headers=who | headers)
    assert answer.status_code == 200, answer.text
    made: Json = answer.json()
    return made


def names(bundle: Json, mode: str = "match") -> list[str]:
    found = [e["resource"] for e in bundle.get("entry", []) if e.get("search", {}).get("mode", "match") == mode]
    return sorted(f"{each['resourceType']}/{each.get('identifier', [{'value': ''}])[0]['value']}" for each in found)


def practitioner(local_id: str) -> Json:
    return {
        "resourceType": "Practitioner",
        "id": local_id,
        "identifier": [{"system": "urn:x", "value": local_id}],
        "name": [{"family": "Garcia"}],
    }


async def filled(world: World) -> dict[str, str]:
    """One patient with two observations, one of them by a practitioner of the directory."""
    await world.send(patient("p1"))
    await world.send(practitioner("d1"))
    await world.send(observation("o1", "p1") | {"performer": [{"reference": "Practitioner/d1"}]})
    await world.send(observation("o2", "p1"))
    return await world.token()


async def test_references_lead_into_the_directory_and_back_to_the_patient(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        who = await filled(world)
        found = await ask(
            world, "Observation?patient=p1&_include=Observation:performer&_include=Observation:subject", who
        )
        assert names(found, "include") == ["Patient/p1", "Practitioner/d1"]
        assert (found["total"], len(names(found))) == (2, 2)
        chained = await ask(world, "Observation?patient=p1&performer:Practitioner.name=garcia", who)
        assert names(chained) == ["Observation/o1"]
        assert names(await ask(world, "Observation?patient=p1&performer.name=nobody", who)) == []
        back = await ask(world, "Patient?_id=p1&_revinclude=Observation:subject", who)
        assert names(back, "include") == ["Observation/o1", "Observation/o2"]
        has = await ask(world, "Patient?_id=p1&_has:Observation:patient:performer.name=garcia", who)
        assert names(has) == ["Patient/p1"]


async def test_a_record_of_a_chart_that_does_not_name_its_patient_so_is_not_found_by_the_patient(
    tmp_path: Path,
) -> None:
    async with running(fresh(tmp_path)) as world:
        who = await filled(world)
        # List's patient is its subject (R4 list.html#search); this one is in the chart for its source.
        listed = {"resourceType": "List", "id": "l1", "status": "current", "mode": "working"}
        named = [{"system": "urn:test", "value": "l1"}]
        await world.send(listed | {"identifier": named, "source": {"reference": "Patient/p1"}})
        assert names(await ask(world, "List?patient=p1", who)) == []
        assert names(await ask(world, "List?_id=l1", who)) == ["List/l1"]
        await world.send(listed | {"identifier": named, "subject": {"reference": "Patient/p1"}})
        assert names(await ask(world, "List?patient=p1", who)) == ["List/l1"]


async def test_whichever_id_names_a_person_records_of_all_linked_charts_match(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await filled(world)
        await world.send(patient("h1"), "harbor")
        await world.send(observation("o3", "h1"), "harbor")
        agent = await world.enrol("p1")
        await world.enrol("h1", "harbor")
        await world.link("P", ("northgate", "p1"), ("harbor", "h1"))
        every = ["Observation/o1", "Observation/o2", "Observation/o3"]
        for name in ("patient", "subject", "subject:Patient"):
            for named in ("p1", await world.patient_id("h1", "harbor")):
                assert names(await ask(world, f"Observation?{name}={named}", agent)) == every


async def test_a_token_follows_references_only_to_types_it_may_read(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await filled(world)
        narrow = await world.token(scope="system/Observation.rs")
        query = "Observation?patient=p1&_include=Observation:performer&_include=Observation:subject"
        assert names(await ask(world, query, narrow), "include") == []
        assert names(await ask(world, "Observation?patient=p1&performer.name=garcia", narrow)) == []
        assert names(await ask(world, "Observation?patient=p1&subject:Patient.identifier=p1", narrow)) == []


async def test_what_may_not_be_seen_is_at_no_end_of_a_link(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await filled(world)
        other = await world.token("harbor")
        canonical = await world.patient_id("p1")
        for query in (
            f"Observation?patient={canonical}&_include=*",
            f"Patient?_id={canonical}&_revinclude=*",
            f"Observation?patient={canonical}&performer.name=garcia",
        ):
            assert (await ask(world, query, other))["total"] == 0
            assert "entry" not in await ask(world, query, other)


async def test_parts_of_records_are_marked_in_every_answer(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        who = await filled(world)
        read = await ask(world, "Observation/o1", who)
        version = read["meta"]["versionId"]
        marked = []
        for part in ("_elements=code", "_summary=true", "_summary=text", "_summary=data"):
            for path in (
                f"Observation/o1?{part}",
                f"Observation/o1/_history/{version}?{part}",
                f"Observation/o1/_history?{part}",
                f"Observation?patient=p1&{part}",
                f"Patient/p1/$everything?{part}",
                f"Observation/_history?patient=p1&{part}",
            ):
                body = await ask(world, path, who)
                shown = [e["resource"] for e in body["entry"]] if "entry" in body else [body]
                marked += [each["meta"]["tag"][-1]["code"] for each in shown]
        assert set(marked) == {"SUBSETTED"}
        assert (await ask(world, "Observation/o1?_summary=false", who)) == read
        refused = await world.http.get("/fhir/Observation/o1?_summary=count", headers=who)
        assert refused.status_code == 400


async def test_post_answers_as_get_does(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        who = await filled(world)
        for query in ("patient=p1&_sort=-date&_include=Observation%3Asubject", "patient=p1&code:text=x", "_count=1"):
            got = await world.http.get(f"/fhir/Observation?{query}", headers=who)
            posted = await world.http.post("/fhir/Observation/_search", headers=who | FORM, content=query)
            assert (got.status_code, got.content) == (posted.status_code, posted.content)


async def test_lenient_names_what_it_ignored_and_leaves_it_out_of_the_self_link(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        who = await filled(world)
        path = "/fhir/Observation?patient=p1&colour=teal&_filter=x"
        assert (await world.http.get(path, headers=who)).status_code == 400
        assert (await world.http.get(path, headers=who | {"Prefer": "handling=strict"})).status_code == 400
        found = await ask(world, path.removeprefix("/fhir/"), who, Prefer="return=minimal; handling=lenient")
        assert found["total"] == 2
        said = found["entry"][-1]
        assert said["search"]["mode"] == "outcome"
        assert len(said["resource"]["issue"]) == 2
        assert "teal" not in json.dumps(said)
        assert "colour" not in found["link"][0]["url"]
        bad = await world.http.get(
            "/fhir/Observation?patient=p1&date=x", headers=who | {"Prefer": "handling=lenient"}
        )
        assert bad.status_code == 400


async def _pages(world: World, path: str, who: dict[str, str]) -> list[str]:
    """Ids and versions on all pages of a history, as shown."""
    shown: list[str] = []
    following: str | None = f"/fhir/{path}"
    while following:
        answer = await world.http.get(following, headers=who)
        assert answer.status_code == 200, answer.text
        bundle = answer.json()
        shown += [f"{e['request']['method']} {e['fullUrl'].rsplit('/fhir/')[1]}" for e in bundle.get("entry", [])]
        following = next((each["url"] for each in bundle["link"] if each["relation"] == "next"), None)
        assert bundle["type"] == "history"
    return shown


async def test_histories_of_types_and_of_everything_are_those_of_the_records(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        who = await filled(world)
        await world.send(observation("o2", "p1") | {"status": "amended"})
        assert (await world.http.delete("/fhir/Observation/o1", headers=who)).status_code in (200, 204)
        o1, o2 = [
            (await ask(world, f"Observation/{each}/_history", who))["entry"][-1]["resource"]["id"]
            for each in ("o1", "o2")
        ]
        # http.html#history: newest first; a deletion is an entry without a resource
        expected = [
            f"DELETE Observation/{o1}",
            f"PUT Observation/{o2}",
            f"PUT Observation/{o2}",
            f"PUT Observation/{o1}",
        ]
        for path in ("Observation/_history?patient=p1", "Observation/_history?patient=p1&_count=1"):
            assert await _pages(world, path, who) == expected
        everything = await _pages(world, "_history?patient=p1&_count=3", who)
        assert [each for each in everything if "Observation" in each] == expected
        assert [each.split("/")[0] for each in everything if "Observation" not in each] == ["PUT Patient"]
        assert [each.split("/")[0] for each in await _pages(world, "Practitioner/_history", who)] == [
            "PUT Practitioner"
        ]
        newest = (await ask(world, "Observation/o2", who))["meta"]["lastUpdated"]
        since = await _pages(world, f"Observation/_history?patient=p1&_since={newest}", who)
        assert since == expected[:2]
        assert len(await _pages(world, f"Observation/o2/_history?_since={newest}", who)) == 1
        assert (await ask(world, "Observation/_history?patient=p1&_since=2999-01-01", who))["total"] == 0


async def test_the_history_of_a_record_comes_in_pages(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        who = await filled(world)
        for status in ("amended", "corrected", "cancelled"):
            await world.send(observation("o1", "p1") | {"status": status})
        whole = await ask(world, "Observation/o1/_history", who)
        statuses = [each["resource"]["status"] for each in whole["entry"]]
        assert statuses == ["cancelled", "corrected", "amended", "final"]
        assert [link["relation"] for link in whole["link"]] == ["self"]
        first = await ask(world, "Observation/o1/_history?_count=3", who)
        # R4 http.html#paging: self says how the server understood the question, total counts all pages.
        assert first["link"][0]["url"] == whole["link"][0]["url"] + "?_count=3"
        assert (first["total"], len(first["entry"])) == (4, 3)
        # What comes while somebody turns pages does not move them.
        await world.send(observation("o1", "p1") | {"status": "unknown"})
        following = first["link"][1]["url"].rsplit("/fhir/")[1]
        second = await ask(world, following, who)
        assert first["entry"] + second["entry"] == whole["entry"]
        assert [link["relation"] for link in second["link"]] == ["self"]
        # A cursor is good for its own question and requester only.
        cursor = following.rsplit("_cursor=")[1]
        for path in (f"Observation/o2/_history?_count=3&_cursor={cursor}", following.replace("_count=3", "_count=2")):
            assert (await world.http.get(f"/fhir/{path}", headers=who)).status_code == 400
        other = await world.http.get(f"/fhir/{following}", headers=await world.token("harbor"))
        assert other.status_code == 400
        since = first["entry"][1]["resource"]["meta"]["lastUpdated"]
        recent = await ask(world, f"Observation/o1/_history?_since={since}&_count=1", who)
        assert (recent["total"], len(recent["entry"])) == (3, 1)


async def test_histories_are_refused_without_a_person_a_scope_or_sense(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        who = await filled(world)
        narrow = await world.token(scope="system/Observation.rs")
        asked = [
            ("Observation/_history", who, 400),
            ("_history", who, 400),
            ("_history?patient=p1&patient=p2", who, 400),
            ("Observation/_history?patient=p1&code=x", who, 400),
            ("Observation/_history?patient=p1&_count=0", who, 400),
            ("Observation/_history?patient=p1&_count=1&_count=2", who, 400),
            ("Observation/_history?patient=p1&_since=soon", who, 400),
            ("Observation/_history?patient=p1&_cursor=x", who, 400),
            ("Observation/o1/_history?code=x", who, 400),
            ("AuditEvent/_history?patient=p1", who, 404),
            ("Nonsense/_history?patient=p1", who, 404),
            ("_history?patient=p1", narrow, 403),
            ("Patient/_history?patient=p1", narrow, 403),
            ("Observation/_history?patient=p1", narrow, 200),
        ]
        for path, headers, status in asked:
            assert (await world.http.get(f"/fhir/{path}", headers=headers)).status_code == status, path
        halves = await world.token(scope="system/*.s system/Observation.r")
        shown = await _pages(world, "_history?patient=p1", halves)
        assert {each.split("/")[0] for each in shown} == {"PUT Observation"}
        other = await world.token("harbor")
        hidden = await ask(world, f"_history?patient={await world.patient_id('p1')}", other)
        absent = await ask(world, f"_history?patient={'a' * 32}", other)
        assert hidden["total"] == absent["total"] == 0


async def test_the_access_log_is_searched_like_any_record_and_is_the_patients_alone(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        who = await filled(world)
        agent = await world.enrol("p1")
        for _ in range(3):
            await ask(world, "Observation/o1", who)
        await ask(world, "Observation?patient=p1", who)
        mine = await ask(world, "AuditEvent", agent)
        times = [each["resource"]["recorded"] for each in mine["entry"]]
        assert times == sorted(times, reverse=True)
        assert mine["total"] == 4
        assert (await ask(world, "AuditEvent?action=R", agent))["total"] == 3
        assert (await ask(world, "AuditEvent?subtype=search-type&_count=1", agent))["total"] == 1
        first = await ask(world, "AuditEvent?_count=3&_sort=date&_elements=action", agent)
        assert [each["resource"]["action"] for each in first["entry"]] == ["R", "R", "R"]
        assert "entity" not in first["entry"][0]["resource"]
        second = (await world.http.get(first["link"][1]["url"], headers=agent)).json()
        assert [each["resource"]["action"] for each in second["entry"]] == ["E"]
        assert (await world.http.get("/fhir/AuditEvent?colour=x", headers=agent)).status_code == 400
        assert (await ask(world, "AuditEvent?patient=p1", who))["total"] == 0
        assert (await world.http.get("/fhir/AuditEvent?colour=x", headers=who)).status_code == 400
