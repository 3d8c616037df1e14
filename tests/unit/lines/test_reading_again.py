"""Conditional read and compartment search, as R4 http.html and RFC 9110 have them, through the entrance."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from fhir_bridge.lines.reply import Held
from tests.support.bridge_world import World, consent, fresh, observation, patient, running

AT = datetime(2026, 3, 1, 12, 0, 0, 700_000, tzinfo=UTC)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(fresh(tmp_path)) as made:
        await made.send(patient("p1"))
        for number in range(3):
            await made.send(observation(f"o{number}", "p1"))
        yield made


async def _get(world: World, path: str, institution: str = "northgate", **conditions: str) -> httpx.Response:
    headers = await world.token(institution) | {name.replace("_", "-"): text for name, text in conditions.items()}
    return await world.http.get(f"/fhir/{path}", headers=headers)


@pytest.mark.parametrize(
    ("held", "is_current"),
    [
        (Held(), False),
        (Held('W/"v1"'), True),
        (Held('"v1"'), True),
        (Held('W/"v0", W/"v1"'), True),
        (Held("*"), True),
        (Held('W/"v0"'), False),
        (Held(""), False),
        (Held(None, "Sun, 01 Mar 2026 12:00:00 GMT"), True),
        (Held(None, "Sun, 01 Mar 2026 12:00:01 GMT"), True),
        (Held(None, "Sun, 01 Mar 2026 11:59:59 GMT"), False),
        (Held(None, "2026-03-01"), False),
        (Held(None, ""), False),
        (Held(None, "Sun, 01 Mar 99999999999999 12:00:00 GMT"), False),
        (Held(None, "Sun, 01 Mar 2026 12:00:00 +9999999999999999999999"), False),
        # RFC 9110 13.1.3: If-Modified-Since is ignored where If-None-Match is given.
        (Held('W/"v0"', "Sun, 01 Mar 2026 12:00:01 GMT"), False),
    ],
    ids=repr,
)
def test_what_a_reader_holds(held: Held, is_current: bool) -> None:
    assert held.is_current("v1", AT) is is_current


async def test_a_reader_who_holds_the_current_version_gets_no_body(world: World) -> None:
    first = await _get(world, "Observation/o1")
    again = await _get(world, "Observation/o1", If_None_Match=first.headers["etag"])
    since = await _get(world, "Observation/o1", If_Modified_Since=first.headers["last-modified"])
    for answer in (again, since):
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == first.headers["etag"]
    await world.send(observation("o1", "p1", status="amended"))
    changed = await _get(world, "Observation/o1", If_None_Match=first.headers["etag"])
    assert (changed.status_code, changed.json()["status"]) == (200, "amended")
    earlier = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    assert (await _get(world, "Observation/o1", If_Modified_Since=earlier)).status_code == 200


async def test_what_is_hidden_is_absent_whatever_a_reader_holds(world: World) -> None:
    person = await world.patient_id("p1")
    agent = await world.enrol("p1")
    wanted = consent(f"Patient/{person}", permit=f"Organization/{await world.organization('harbor')}")
    signed = await world.http.post("/fhir/Consent", json=wanted, headers=agent)
    named = (await _get(world, "Observation/o1")).json()["id"]
    shown = await _get(world, f"Observation/{named}", "harbor")
    etag = shown.headers["etag"]
    assert (await _get(world, f"Observation/{named}", "harbor", If_None_Match=etag)).status_code == 304
    await world.http.delete(f"/fhir/Consent/{signed.json()['id']}", headers=agent)
    hidden = await _get(world, f"Observation/{named}", "harbor", If_None_Match=etag)
    absent = await _get(world, f"Observation/{'a' * 32}", "harbor", If_None_Match=etag)
    assert (hidden.status_code, hidden.content) == (404, absent.content)


async def test_an_answer_without_a_body_is_recorded_like_one_with(world: World) -> None:
    etag = (await _get(world, "Observation/o1")).headers["etag"]
    agent, person = await world.enrol("p1"), await world.patient_id("p1")

    async def reads() -> int:
        found = await world.http.get(f"/fhir/AuditEvent?patient={person}&subtype=read&_summary=count", headers=agent)
        return int(found.json()["total"])

    before = await reads()
    await _get(world, "Observation/o1", If_None_Match=etag)
    assert await reads() == before + 1


async def test_a_compartment_search_is_the_search_that_names_the_patient(world: World) -> None:
    person = await world.patient_id("p1")
    for query in ("", "code=8867-4", "code=1-1", "_sort=-_id&_count=2", "_summary=count"):
        plain = (await _get(world, f"Observation?{query}&patient={person}".replace("?&", "?"))).json()
        inside = (await _get(world, f"Patient/{person}/Observation?{query}")).json()
        posted = await world.http.post(
            f"/fhir/Patient/{person}/Observation/_search",
            headers=await world.token() | {"Content-Type": "application/x-www-form-urlencoded"},
            content=query,
        )
        for found in (inside, posted.json()):
            assert found["total"] == plain["total"]
            assert [e["fullUrl"] for e in found.get("entry", ())] == [e["fullUrl"] for e in plain.get("entry", ())]


async def test_pages_of_a_compartment_search_go_on(world: World) -> None:
    person = await world.patient_id("p1")
    page = (await _get(world, f"Patient/{person}/Observation?_count=2")).json()
    following = next(link["url"] for link in page["link"] if link["relation"] == "next")
    rest = (await world.http.get(following, headers=await world.token())).json()
    assert [len(each["entry"]) for each in (page, rest)] == [2, 1]


async def test_a_hidden_compartment_is_as_good_as_none(world: World) -> None:
    hidden, absent = await world.patient_id("p1"), "a" * 32
    answers = [await _get(world, f"Patient/{each}/Observation", "harbor") for each in (hidden, absent)]
    assert {each.status_code for each in answers} == {200}
    assert answers[0].text.replace(hidden, "ID") == answers[1].text.replace(absent, "ID")


@pytest.mark.parametrize("name", ["Practitioner", "Nonsense", "*", "$nonsense"])
async def test_what_is_not_in_the_compartment_is_refused(world: World, name: str) -> None:
    assert (await _get(world, f"Patient/{await world.patient_id('p1')}/{name}")).status_code == 404


async def test_a_compartment_search_is_strict_and_names_one_patient(world: World) -> None:
    person = await world.patient_id("p1")
    for query in ("colour=red", "patient=x"):
        assert (await _get(world, f"Patient/{person}/Observation?{query}")).status_code == 400


async def test_the_statement_tells_of_both(world: World) -> None:
    rest = (await world.http.get("/fhir/metadata")).json()["rest"][0]
    assert rest["compartment"] == ["http://hl7.org/fhir/CompartmentDefinition/patient"]
    told = {each["type"]: each for each in rest["resource"]}
    assert (told["Observation"]["conditionalRead"], told["Observation"]["conditionalCreate"]) == (
        "full-support",
        True,
    )
    assert told["Provenance"]["conditionalRead"] == "not-supported"
