"""``$explain`` and ``$simulate`` over HTTP say what real answers show, to the patient's agent and nobody else."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fhir_bridge.cli.main import main
from tests.support.bridge_world import World, consent, fresh, observation, patient, running

Json = dict[str, Any]
Headers = dict[str, str]
ABSENT = "b7xk2ohq3v5dcm4nzr6tfy2wqaeuji3l"
OBSERVATION = {"system": "http://hl7.org/fhir/resource-types", "code": "Observation"}


class Case:
    """A person at northgate (p1, o1) and harbor (h1, o2) who has permitted northgate everything but conditions."""

    def __init__(self, world: World, agent: Headers, other: Headers, person: str) -> None:
        self.world = world
        self.agent = agent
        self.other = other
        self.person = person

    async def ask(self, path: str, headers: Headers | None = None, **params: str) -> httpx.Response:
        return await self.world.http.get(f"/fhir/{path}", headers=headers or self.agent, params=params)

    async def told(self, path: str, **params: str) -> Json:
        answer = await self.ask(path, None, **params)
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        return values(answer.json()["parameter"])

    async def records(self, headers: Headers) -> set[str]:
        """Return ``Type/id`` of the person's records as ``$everything`` shows them, by whichever Patient is seen."""
        found: set[str] = set()
        for person in (self.person, await self.world.patient_id("h1", "harbor")):
            answer = await self.ask(f"Patient/{person}/$everything", headers)
            entries = answer.json().get("entry", []) if answer.status_code == 200 else []
            named = (each["resource"] for each in entries)
            found |= {f"{each['resourceType']}/{each['id']}" for each in named}
        return found

    async def seen_by(self, institution: str) -> set[str]:
        return await self.records(await self.world.token(institution))

    async def draft(self, **more: Any) -> Json:
        organization = await self.world.organization("harbor")
        return consent(f"Patient/{self.person}", permit=f"Organization/{organization}", **more)

    async def simulated(self, draft: Json | bytes, **params: str) -> httpx.Response:
        body = draft if isinstance(draft, bytes) else json.dumps(draft).encode()
        path = f"/fhir/Patient/{self.person}/$simulate"
        return await self.world.http.post(path, headers=self.agent, params=params, content=body)


def values(parts: list[Json]) -> Json:
    """Return a Parameters list as name → values, in order."""
    found: Json = {}
    for part in parts:
        value = values(part["part"]) if "part" in part else next(v for k, v in part.items() if k != "name")
        found.setdefault(part["name"], []).append(value)
    return found


def names(told: Json) -> set[str]:
    return {each["reference"] for kind in told.get("type", []) for each in kind["record"]}


@pytest.fixture
async def case(tmp_path: Path) -> AsyncIterator[Case]:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
        await world.send(patient("h1"), "harbor")
        await world.send(observation("o2", "h1"), "harbor")
        await world.send(patient("p2"))
        await world.link("someone", ("northgate", "p1"), ("harbor", "h1"))
        agent = await world.enrol("p1")
        made = Case(world, agent, await world.enrol("p2"), await world.patient_id("p1"))
        organization = await world.organization("northgate")
        body = consent(f"Patient/{made.person}", permit=f"Organization/{organization}", id="mine")
        body["provision"]["provision"] = [{"type": "deny", "class": [OBSERVATION]}]
        answer = await world.http.put("/fhir/Consent/mine", json=body, headers=agent)
        assert answer.status_code == 201, answer.text
        yield made


async def test_every_outcome_told_is_what_the_institution_really_gets(case: Case) -> None:
    records = await case.records(case.agent)
    assert len(records) == 4
    for institution in ("northgate", "harbor"):
        seen = await case.seen_by(institution)
        for record in [each for each in records if not each.startswith("Patient/")]:
            (asker,) = (await case.told(f"{record}/$explain", institution=institution))["requester"]
            assert asker["outcome"] == ["permit" if record in seen else "deny"], (institution, record)


async def test_the_rule_is_named_by_its_place_in_the_consent(case: Case) -> None:
    hidden = next(iter(await case.seen_by("harbor") - await case.seen_by("northgate")))
    assert hidden.startswith("Observation/")
    (asker,) = (await case.told(f"{hidden}/$explain", institution="northgate", practitioner="dr-a"))["requester"]
    (by,) = asker["decided-by"]
    stored = (await case.ask("Consent/mine")).json()
    assert by["consent"] == [{"reference": f"Consent/{stored['id']}/_history/{stored['meta']['versionId']}"}]
    assert by["path"] == ["Consent.provision.provision[0]"]
    assert "the record's type is Observation" in by["words"][0]
    assert (asker["rule"], by["recorded-by"]) == (["provision"], ["patient"])
    assert asker["practitioner"] == [{"reference": "Practitioner/dr-a"}]


async def test_what_the_agent_wrote_is_the_patients_alone(case: Case) -> None:
    told = await case.told("Consent/mine/$explain")
    assert [(each["outcome"], each["rule"]) for each in told["requester"]] == [(["deny"], ["agents-own"])] * 2


async def test_who_can_see_anything_is_counted_by_reason(case: Case) -> None:
    told = await case.told(f"Patient/{case.person}/$explain")
    for asker in told["requester"]:
        groups = asker["group"]
        counted = sum(kind["count"][0] for group in groups for kind in group["type"])
        permitted = sum(kind["count"][0] for g in groups if g["outcome"] == ["permit"] for kind in g["type"])
        assert counted == len(await case.records(case.agent)) + 1  # the Consent is in no timeline
        assert permitted == len(await case.seen_by(asker["institution"][0]))


@pytest.mark.parametrize("path", ["Observation/{}/$explain", "Patient/{}/$explain", "Patient/{}/$simulate"])
async def test_others_get_the_answer_for_what_does_not_exist(case: Case, path: str) -> None:
    kind = path.partition("/")[0]
    known = sorted(r.partition("/")[2] for r in await case.records(case.agent) if r.startswith(kind))
    absent = await case.ask(f"{kind}/{ABSENT}")
    for headers in (await case.world.token("northgate"), await case.world.token("harbor"), case.other):
        for record in (*known, ABSENT):
            answer = await case.ask(path.format(record), headers)
            assert (answer.status_code, answer.content) == (404, absent.content)
            assert answer.headers.keys() == absent.headers.keys()


async def test_simulate_says_what_an_institution_sees_now(case: Case) -> None:
    told = await case.told(f"Patient/{case.person}/$simulate")
    for asker in told["requester"]:
        seen = await case.seen_by(asker["institution"][0])
        assert names(asker["sees"][0]) == seen
        assert asker["sees"][0]["total"] == [len(seen)]
        assert "gains" not in asker


async def test_a_draft_changes_nothing_and_tells_what_it_would_change(case: Case) -> None:
    before = await case.seen_by("harbor")
    answer = await case.simulated(await case.draft(id="second"), institution="harbor")
    assert answer.status_code == 200, answer.text
    (asker,) = values(answer.json()["parameter"])["requester"]
    assert await case.seen_by("harbor") == before
    assert (await case.ask("Consent/second")).status_code == 404

    done = await case.world.http.put("/fhir/Consent/second", json=await case.draft(id="second"), headers=case.agent)
    assert done.status_code == 201
    after = await case.seen_by("harbor")
    assert after - before == names(asker["gains"][0]) != set()
    assert before - after == names(asker["loses"][0])


async def test_a_draft_of_a_known_id_replaces_that_consent(case: Case) -> None:
    answer = await case.simulated(await case.draft(id="mine"), institution="northgate")
    (asker,) = values(answer.json()["parameter"])["requester"]
    assert names(asker["loses"][0]) == await case.seen_by("northgate") & await case.seen_by("harbor")
    await case.world.http.put("/fhir/Consent/mine", json=await case.draft(id="mine"), headers=case.agent)
    assert await case.seen_by("northgate") == names(asker["sees"][0]) - names(asker["loses"][0])


async def test_a_withdrawal_is_foretold(case: Case) -> None:
    before = await case.seen_by("northgate")
    (asker,) = (await case.told(f"Patient/{case.person}/$simulate", institution="northgate", revoke="Consent/mine"))[
        "requester"
    ]
    assert await case.seen_by("northgate") == before
    assert (await case.world.http.delete("/fhir/Consent/mine", headers=case.agent)).status_code == 204
    after = await case.seen_by("northgate")
    assert (names(asker["gains"][0]), names(asker["loses"][0])) == (after - before, before - after)
    assert before != after


@pytest.mark.parametrize(
    "params",
    [
        {"institution": "nobody"},
        {"unheard": "of"},
        {"revoke": "Consent/none"},
    ],
)
async def test_what_names_nothing_is_refused(case: Case, params: dict[str, str]) -> None:
    assert (await case.ask(f"Patient/{case.person}/$simulate", None, **params)).status_code == 400


async def test_a_draft_is_read_like_a_consent(case: Case) -> None:
    other = await case.world.patient_id("p2")
    for draft in (b"{", b'{"resourceType":"Consent"}', await case.draft(patient={"reference": f"Patient/{other}"})):
        assert (await case.simulated(draft)).status_code == 400


async def test_the_question_is_recorded_for_the_patient(case: Case) -> None:
    await case.told(f"Patient/{case.person}/$explain", institution="harbor")
    events = (await case.ask("AuditEvent")).json()["entry"]
    assert f"GET Patient/{case.person}/$explain?institution=harbor" in [_request(each["resource"]) for each in events]


def _request(event: Json) -> str:
    query = [entity["query"] for entity in event.get("entity", []) if "query" in entity]
    return base64.b64decode(query[0]).decode() if query else ""


def test_the_command_line_asks_as_the_patients_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = fresh(tmp_path)

    async def prepare() -> str:
        async with running(data) as world:
            await world.send(patient("p1"))
            await world.send(observation("o1", "p1"))
            await world.enrol("p1")
            return await world.patient_id("p1")

    person = asyncio.run(prepare())
    draft = tmp_path / "draft.json"
    asked = ["--patient", "p1", "--institution", "northgate", "--data", str(data)]
    assert main(["consent", "explain", "Observation/o1", *asked, "--for", "harbor"]) == 0
    assert capsys.readouterr().out == "harbor, TREAT\n  deny: default-deny\n"
    assert main(["consent", "explain", *asked, "--for", "northgate"]) == 0
    assert capsys.readouterr().out == "northgate, TREAT\n  permit: own: 1 Observation, 1 Patient\n"
    draft.write_text(json.dumps(consent(f"Patient/{person}", deny="Organization/x", id="everybody")))
    assert main(["consent", "simulate", *asked, "--for", "harbor", "--draft", str(draft)]) == 0
    assert capsys.readouterr().out == ("harbor, TREAT\n  sees 0\n  gains 2: 1 Observation, 1 Patient\n  loses 0\n")
    assert main(["consent", "simulate", *asked, "--for", "nobody"]) == 1
    assert "there is no such institution" in capsys.readouterr().err
