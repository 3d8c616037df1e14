"""Letters sent through the line again, rules mended meanwhile, and pages read while the world goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.bridge_world import ROOT, bundle, consent, fresh, observation, patient, running
from tests.support.jose import Signer

BROKEN = {"effectiveDateTime": "soon"}


async def _replay(world: Any) -> dict[str, int]:
    answer = await world.control.post("/letters/replay", json={})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    return {name: told[name] for name in ("replayed", "still_refused")}


async def test_a_replay_turns_nothing_back_that_came_after_the_message(tmp_path: Path) -> None:
    """The batch's good entry was taken at once and changed since; its broken one is all the letter is about."""
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        sent = bundle(
            ("PUT", "Observation/o1", observation("o1", "p1", note=[{"text": "first"}])),
            ("PUT", "Observation/o2", observation("o2", "p1") | BROKEN),
            kind="batch",
        )
        summary = await world.send(sent)
        assert summary["outcomes"] == {"201": 1, "4xx": 1}
        await world.send(observation("o1", "p1", note=[{"text": "second"}]))
        assert await _replay(world) == {"replayed": 0, "still_refused": 1}
        now = (await world.http.get("/fhir/Observation/o1", headers=await world.token())).json()
        assert now["note"][0]["text"] == "second"
        assert len((await world.control.get("/letters")).json()) == 1


async def test_a_replay_tells_what_keeps_a_letter_from_being_taken_now(tmp_path: Path) -> None:
    """The letter says what was found first: here a signature that nobody asks for any more."""
    signer, place = Signer("one"), "/institutions/northgate/signing-keys"
    async with running(fresh(tmp_path)) as world:
        assert (await world.control.post(place, json={"add": signer.jwk})).status_code == 200
        broken = {"request": {"method": "POST", "url": "Patient"}, "resource": patient("p1") | {"gender": "Canary"}}
        (letter,) = (await world.send({"resourceType": "Bundle", "type": "batch", "entry": [broken]}))["dead_letters"]
        assert (await world.control.get(f"/letters/{letter}")).json()["reason"] == "security"
        assert (await world.control.post(place, json={"remove": signer.kid})).status_code == 200
        told = (await world.control.post("/letters/replay", json={"ids": [letter, letter]})).json()
        assert told["still_refused"] == 1
        (why,) = told["why"]
        assert (why["letter"], why["index"]) == (letter, 0)
        assert (why["issue"]["code"], why["issue"]["expression"]) == (
            "code-invalid",
            "Bundle.entry[0].resource.gender",
        )
        assert "Canary" not in str(told)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"institution": "northgat"}, "no institution is called"),
        ({"since": "2026-11-30T08:00:00+02:00", "until": "2026-11-30T06:00:00Z"}, "since must be before until"),
    ],
)
async def test_letters_that_cannot_be_are_told_from_letters_that_are_not(
    tmp_path: Path, wanted: dict[str, str], words: str
) -> None:
    async with running(fresh(tmp_path)) as world:
        for answer in (
            await world.control.get("/letters", params=wanted),
            await world.control.post("/letters/replay", json=wanted),
        ):
            assert answer.status_code == 400
            assert words in answer.text


async def test_the_same_broken_message_sent_again_is_one_letter(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        broken = patient("p1") | {"gender": "Kanarienvogel"}
        one, two = await world.send(broken), await world.send(broken)
        assert one["dead_letters"] == two["dead_letters"] != []
        listed = (await world.control.get("/letters")).text
        assert "Kanarienvogel" not in listed
        shown = (await world.control.get(f"/letters/{one['dead_letters'][0]}")).json()
        assert "Kanarienvogel" in shown["message"]
        assert await world.findings() == []


async def test_rules_mended_and_registered_again_are_used_at_once(tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    shutil.copytree(ROOT / "mappings", pack)
    async with running(fresh(tmp_path)) as world:
        given = {"name": "cedar", "fhir_version": "R4", "ruleset_dir": str(pack / "northgate")}
        first = (await world.control.post("/institutions", json=given)).json()
        await world.send(patient("p1"), "cedar")
        rules = pack / "northgate" / "source.yaml"
        rules.write_text(rules.read_text() + "\n# mended\n")
        again = (await world.control.post("/institutions", json=given)).json()
        assert (again["id"], again["credentials"]) == (first["id"], first["credentials"])
        await world.send(patient("p2"), "cedar")
        who = await world.token("cedar")
        named = await world.http.get("/fhir/Provenance?target=Patient/p2", headers=who)
        assert again["ruleset"] != first["ruleset"]
        assert again["ruleset_with_value_sets"] in named.text
        assert first["ruleset_with_value_sets"] not in named.text


async def test_a_held_page_shows_nothing_that_has_been_closed_since(tmp_path: Path) -> None:
    """A label that came after the first page closes the record on the next pages, in every version of it."""
    label = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "HIV"}
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.send(patient("h1"), "harbor")
        for number in range(4):
            await world.send(observation(f"o{number}", "h1"), "harbor")
        await world.link("someone", ("northgate", "p1"), ("harbor", "h1"))
        agent, asked = await world.enrol("p1"), await world.patient_id("p1")
        body = consent(f"Patient/{asked}", permit=f"Organization/{await world.organization('northgate')}")
        body["provision"]["provision"] = [{"type": "deny", "securityLabel": [label]}]
        assert (await world.http.post("/fhir/Consent", json=body, headers=agent)).status_code == 201
        who = await world.token()
        page = await world.http.get(f"/fhir/Observation?patient={asked}&_count=1&_sort=_id", headers=who)
        left = {each["resource"]["identifier"][0]["value"] for each in page.json()["entry"]}
        closed = next(f"o{number}" for number in range(4) if f"o{number}" not in left)
        await world.send(observation(closed, "h1", meta={"security": [label]}), "harbor")
        for number in range(8):
            await world.send(observation(f"later{number}", "h1"), "harbor")
        seen = set(left)
        while link := next((each["url"] for each in page.json()["link"] if each["relation"] == "next"), None):
            page = await world.http.get(link, headers=who)
            assert page.status_code == 200
            seen |= {each["resource"]["identifier"][0]["value"] for each in page.json()["entry"]}
        assert seen == {f"o{number}" for number in range(4)} - {closed}


async def test_a_cursor_is_of_no_use_to_anybody_else_or_for_another_question(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        for number in range(3):
            await world.send(observation(f"o{number}", "p1"))
        who, asked = await world.token(), await world.patient_id("p1")
        page = await world.http.get(f"/fhir/Observation?patient={asked}&_count=1", headers=who)
        link = next(each["url"] for each in page.json()["link"] if each["relation"] == "next")
        assert (await world.http.get(link, headers=who)).status_code == 200
        assert (await world.http.get(link, headers=await world.token("harbor"))).status_code == 400
        assert (await world.http.get(link, headers=await world.token(practitioner="x"))).status_code == 400
        assert (await world.http.get(link.replace("_count=1", "_count=2"), headers=who)).status_code == 400
