"""Guardians and signed papers on an institution's word: what they open, for whom, until when, and who is told.

Through both entrances of a bridge in this process. What is expected stands in docs/access.md and docs/consent.md.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc.jwk import ECKey

from fhir_bridge.adapters.access import request_token_async
from fhir_bridge.adapters.ambient import SystemRandomness
from fhir_bridge.cli.main import main
from fhir_bridge.errors import NotAuthenticated
from tests.support.bridge_world import BASE, World, consent, fresh, observation, patient, running

Json = dict[str, Any]
UNTIL = f"{datetime.now(UTC).year + 10}-05-01"
PAPER: Json = {"sourceAttachment": {"title": "Consent form signed 2026-01-01, folder 7"}}
NOBODY = "aaaaaaaaaaaaaaaaaaaa"


@dataclass
class Scene:
    """A child known at northgate (with a record) and, linked, at harbor (with another)."""

    world: World
    child: str
    clerk: dict[str, str]
    keys: dict[str, ECKey] = field(default_factory=dict)

    async def call(self, who: Mapping[str, str], operation: str, at: str = "", **values: str) -> httpx.Response:
        listed = [{"name": name.rstrip("_"), "valueString": value} for name, value in values.items()]
        return await self.world.http.post(
            f"/fhir/Patient/{at or self.child}/${operation}",
            headers=dict(who),
            json={"resourceType": "Parameters", "parameter": listed},
        )

    def asked(self, **changes: str) -> dict[str, str]:
        """Return the parameters by which a guardian is attested, with a new key."""
        private = ECKey.generate_key("P-384")
        private.ensure_kid()
        given = {
            "name": "Ada Lovelace",
            "key": json.dumps(private.as_dict(private=False)),
            "scope": "patient/*.rs patient/Consent.cu",
            "until": UNTIL,
            "relationship": "MTH",
            "basis": "birth certificate 12/2016, copy in folder 7",
        } | changes
        self.keys[given["key"]] = private
        return given

    async def mother(self, **changes: str) -> tuple[str, dict[str, Any]]:
        """Attest a guardian; return its id and credentials."""
        given = self.asked(**changes)
        done = await self.call(self.clerk, "attest-guardian", **given)
        assert done.status_code == 200, done.text
        told = {each["name"]: each["valueString"] for each in done.json()["parameter"]}
        key = dict(self.keys[given["key"]].as_dict(private=True))
        return told["guardian"], {"client_id": told["client_id"], "private_jwk": key, "token_url": f"{BASE}/token"}

    async def token(self, credentials: dict[str, Any]) -> dict[str, str]:
        now = datetime.now(UTC)
        token = await request_token_async(self.world.http, credentials, now, SystemRandomness())
        return {"Authorization": f"Bearer {token}"}

    async def consent(self, who: Mapping[str, str], body: Json, local: str = "") -> httpx.Response:
        if local:
            return await self.world.http.put(f"/fhir/Consent/{local}", headers=dict(who), json=body | {"id": local})
        return await self.world.http.post("/fhir/Consent", headers=dict(who), json=body)

    async def paper(self, body: Json, who: Mapping[str, str] | None = None, at: str = "") -> httpx.Response:
        return await self.world.http.post(
            f"/fhir/Patient/{at or self.child}/$attest-consent", headers=dict(who or self.clerk), json=body
        )

    async def permitting(self, name: str = "harbor", **more: Any) -> Json:
        found = f"Organization/{await self.world.organization(name)}"
        return consent(f"Patient/{self.child}", permit=found, **more)

    async def denying(self, name: str = "harbor", **more: Any) -> Json:
        found = f"Organization/{await self.world.organization(name)}"
        return consent(f"Patient/{self.child}", deny=found, **more)

    async def seen(self, who: Mapping[str, str], type_name: str = "Observation") -> list[str]:
        """Return the identifiers of what is seen of the child; nothing where the child's Patient itself is hidden."""
        answer = await self.world.http.get(f"/fhir/{type_name}?patient={self.child}&_count=100", headers=dict(who))
        assert answer.status_code == 200, answer.text
        found = [each["resource"] for each in answer.json().get("entry", [])]
        return sorted(each["identifier"][0]["value"] if "identifier" in each else each["id"] for each in found)

    async def harbor_sees(self) -> list[str]:
        return await self.seen(await self.world.token("harbor"))

    async def log(self, who: Mapping[str, str]) -> list[Json]:
        answer = await self.world.http.get(f"/fhir/AuditEvent?patient={self.child}&_count=1000", headers=dict(who))
        return [each["resource"] for each in answer.json().get("entry", [])]


def _allowing(folder: Path, monkeypatch: pytest.MonkeyPatch, **rules: str) -> None:
    file = folder / "policies.json"
    file.write_text(json.dumps({"format": 1, "attestation": rules}))
    monkeypatch.setenv("FHIR_BRIDGE_CONSENT_POLICIES_FILE", str(file))


@asynccontextmanager
async def _scene(data: Path) -> AsyncIterator[Scene]:
    async with running(data) as world:
        for name in ("northgate", "harbor"):
            await world.send(patient("kid"), name)
            await world.send(observation(f"o-{name}", "kid"), name)
        await world.link("kid", ("northgate", "kid"), ("harbor", "kid"))
        yield Scene(world, await world.patient_id("kid"), await world.token(practitioner="clerk-1"))


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    _allowing(tmp_path, monkeypatch, paper="counts", guardians="own-chart")
    async with _scene(fresh(tmp_path)) as made:
        yield made


# --- a mother


async def test_a_mother_sees_the_attesting_institutions_chart_and_no_other(scene: Scene) -> None:
    mother = await scene.token((await scene.mother())[1])
    assert await scene.seen(mother) == ["o-northgate"]
    elsewhere = await scene.world.patient_id("kid", "harbor")
    assert (await scene.world.http.get(f"/fhir/Patient/{elsewhere}", headers=mother)).status_code == 404
    nobody = (await scene.world.http.get(f"/fhir/Patient/{NOBODY}", headers=mother)).content
    assert (await scene.world.http.get(f"/fhir/Patient/{elsewhere}", headers=mother)).content == nobody


async def test_a_mother_does_not_learn_from_decisions_that_the_child_is_known_elsewhere(scene: Scene) -> None:
    mother = await scene.token((await scene.mother())[1])
    await scene.consent(mother, await scene.permitting())
    elsewhere = await scene.world.patient_id("kid", "harbor")
    asking = await scene.world.token("harbor")
    asked = await scene.world.http.get(f"/fhir/Observation?patient={elsewhere}", headers=asking)
    assert asked.json()["total"] == 2
    await scene.world.bridge.services.audit.close_epoch()
    decision = asked.headers["x-request-id"]
    for operation in ("$decisions", f"$decision-opening?request={decision}"):
        answers = [
            await scene.world.http.get(f"/fhir/Patient/{named}/{operation}", headers=mother)
            for named in (scene.child, elsewhere, NOBODY)
        ]
        assert [each.status_code for each in answers] == [403] * 3
        assert len({each.content for each in answers}) == 1


async def test_what_a_mother_signs_opens_that_chart_and_says_on_whose_word(scene: Scene) -> None:
    guardian, credentials = await scene.mother()
    mother = await scene.token(credentials)
    assert await scene.harbor_sees() == []
    assert await scene.seen(mother) == ["o-northgate"]
    written = await scene.consent(mother, await scene.permitting())
    assert written.status_code == 201, written.text
    meta = written.json()["meta"]
    assert meta["source"] == f"urn:fhir-bridge:guardian:{guardian}"
    assert {"attested by institution northgate"} == {tag["display"] for tag in meta["tag"] if "display" in tag}
    assert await scene.harbor_sees() == ["o-harbor", "o-northgate"]
    log = await scene.log(mother)
    readers = {agent["who"].get("reference") for event in log for agent in event["agent"]}
    assert f"RelatedPerson/{guardian}" in readers
    details = [detail for event in log for entity in event["entity"] for detail in entity.get("detail", [])]
    for told in (
        {"type": "guardian", "valueString": guardian},
        {"type": "relationship", "valueString": "MTH"},
        {"type": "guardian", "valueString": "attested by institution northgate"},
        {"type": "basis", "valueString": "attested by institution northgate"},
    ):
        assert told in details
    assert all(
        "harbor" not in json.dumps(event["entity"][0]["what"]) for event in log if "what" in event["entity"][0]
    )


async def test_a_mothers_consent_is_hers_and_the_patients_alone(scene: Scene) -> None:
    mother = await scene.token((await scene.mother())[1])
    stored = (await scene.consent(mother, await scene.permitting())).json()["id"]
    assert await scene.seen(mother, "Consent") == [stored]
    for who in (scene.clerk, await scene.world.token("harbor")):
        assert await scene.seen(who, "Consent") == []
        assert (await scene.world.http.get(f"/fhir/Consent/{stored}", headers=who)).status_code == 404


async def test_a_mother_does_not_sign_for_another_patient(scene: Scene) -> None:
    mother = await scene.token((await scene.mother())[1])
    elsewhere = await scene.world.patient_id("kid", "harbor")
    other = consent(f"Patient/{elsewhere}", permit="harbor")
    assert (await scene.consent(mother, other)).status_code == 400


async def test_of_two_guardians_the_one_who_denies_wins_and_neither_writes_over_the_other(scene: Scene) -> None:
    (_, one), (_, two) = await scene.mother(), await scene.mother(name="Bob", relationship="FTH")
    mother, father = await scene.token(one), await scene.token(two)
    assert (await scene.consent(mother, await scene.permitting(), "c1")).status_code == 201
    assert (await scene.consent(father, await scene.denying(), "c1")).status_code == 201
    assert await scene.harbor_sees() == []
    listed = (await scene.world.http.get("/fhir/Consent", headers=mother)).json()
    fathers = next(e["resource"]["id"] for e in listed["entry"] if e["resource"]["provision"]["type"] == "deny")
    assert (await scene.world.http.delete(f"/fhir/Consent/{fathers}", headers=mother)).status_code == 404
    assert (await scene.world.http.delete("/fhir/Consent/c1", headers=mother)).status_code == 204
    assert await scene.harbor_sees() == []
    assert (await scene.world.http.delete("/fhir/Consent/c1", headers=father)).status_code == 204


async def test_the_institution_ends_a_guardians_time_and_with_it_what_that_guardian_permitted(scene: Scene) -> None:
    guardian, credentials = await scene.mother()
    mother = await scene.token(credentials)
    await scene.consent(mother, await scene.permitting())
    assert await scene.harbor_sees() == ["o-harbor", "o-northgate"]
    foreign = await scene.world.token("harbor", practitioner="clerk-2")
    assert (await scene.call(foreign, "end-guardianship", guardian=guardian)).status_code == 404
    assert (await scene.call(mother, "end-guardianship", guardian=guardian)).status_code == 403
    for _ in range(2):
        assert (await scene.call(scene.clerk, "end-guardianship", guardian=guardian)).status_code == 200
    assert await scene.harbor_sees() == []
    assert (await scene.world.http.get(f"/fhir/Patient/{scene.child}", headers=mother)).status_code == 401
    with pytest.raises(NotAuthenticated):
        await scene.token(credentials)


async def test_a_scope_is_a_fence_for_a_guardian_too(scene: Scene) -> None:
    mother = await scene.token((await scene.mother(scope="patient/Observation.rs"))[1])
    assert await scene.seen(mother) == ["o-northgate"]
    for path in (f"Patient/{scene.child}", f"AuditEvent?patient={scene.child}", "Consent"):
        assert (await scene.world.http.get(f"/fhir/{path}", headers=mother)).status_code == 403
    assert (await scene.consent(mother, await scene.permitting())).status_code == 403


async def test_before_and_without_the_key_a_guardian_is_nobody(scene: Scene) -> None:
    later = f"{datetime.now(UTC).year + 1}-01-01"
    with pytest.raises(NotAuthenticated):
        await scene.token((await scene.mother(from_=later))[1])
    _, credentials = await scene.mother()
    forged = ECKey.generate_key("P-384")
    forged.ensure_kid()
    with pytest.raises(NotAuthenticated):
        await scene.token(credentials | {"private_jwk": dict(forged.as_dict(private=True))})


# --- the child at 18


async def test_who_takes_over_ends_the_guardian_whose_denials_stand_until_withdrawn(scene: Scene) -> None:
    _, credentials = await scene.mother()
    mother = await scene.token(credentials)
    await scene.consent(mother, await scene.permitting())
    await scene.world.send(observation("o-2", "kid"))
    closed = await scene.denying("northgate")
    denial = (await scene.consent(mother, closed)).json()["id"]
    assert await scene.harbor_sees() == ["o-2", "o-harbor", "o-northgate"]
    grown_up = await scene.world.enrol("kid")
    assert (await scene.world.http.get(f"/fhir/Patient/{scene.child}", headers=mother)).status_code == 401
    assert await scene.harbor_sees() == []
    held = {e["id"]: e for e in map(_resource, (await _entries(scene, grown_up, "Consent")))}
    assert held[denial]["status"] == "active"
    assert (await scene.world.http.delete(f"/fhir/Consent/{denial}", headers=grown_up)).status_code == 204
    after = (await scene.world.http.get(f"/fhir/Consent/{denial}", headers=grown_up)).json()
    assert after["status"] == "inactive"
    assert after["meta"]["source"] == held[denial]["meta"]["source"]
    assert after["meta"]["source"].startswith("urn:fhir-bridge:guardian:")
    ends = [event for event in await scene.log(grown_up) if '"ended"' in json.dumps(event)]
    assert len(ends) == 1


async def test_a_patients_own_agent_ends_a_guardians_time(scene: Scene) -> None:
    agent = await scene.world.enrol("kid")
    guardian, credentials = await scene.mother(relationship="GUARD")
    await scene.consent(await scene.token(credentials), await scene.permitting())
    assert await scene.harbor_sees() == ["o-harbor", "o-northgate"]
    assert (await scene.call(agent, "end-guardianship", guardian=guardian)).status_code == 200
    assert await scene.harbor_sees() == []


# --- a clerk with a signed paper


async def test_a_signed_paper_opens_its_own_institutions_chart(scene: Scene) -> None:
    entered = await scene.paper(await scene.permitting(id="form-7", **PAPER))
    assert entered.status_code == 201, entered.text
    assert entered.json()["meta"]["source"] == "urn:fhir-bridge:paper:northgate"
    assert await scene.harbor_sees() == ["o-harbor", "o-northgate"]
    stored = entered.json()["id"]
    assert (await scene.world.http.get("/fhir/Consent/form-7", headers=scene.clerk)).json()["id"] == stored
    assert await scene.seen(await scene.world.token("harbor"), "Consent") == []
    agent = await scene.world.enrol("kid")
    log = await scene.log(agent)
    of_consents = [
        entity for event in log for entity in event["entity"] if entity.get("type", {}).get("code") == "Consent"
    ]
    word = [{"type": "basis", "valueString": "attested by institution northgate"}]
    assert [entity["detail"] for entity in of_consents] == [word] * len(of_consents)
    assert of_consents
    explained = await scene.world.http.get(f"/fhir/Patient/{scene.child}/$explain?institution=harbor", headers=agent)
    assert "attested by institution northgate" in explained.text


async def test_a_paper_ends_by_the_clerk_or_the_patient_and_gives_way_to_the_patients_denial(scene: Scene) -> None:
    await scene.paper(await scene.permitting(id="form-7", **PAPER))
    assert (await scene.world.http.delete("/fhir/Consent/form-7", headers=scene.clerk)).status_code == 204
    assert await scene.harbor_sees() == []
    again = await scene.paper(await scene.permitting(id="form-7", **PAPER))
    assert again.status_code in (200, 201)
    assert await scene.harbor_sees() == ["o-harbor", "o-northgate"]
    replaced = await scene.paper(await scene.permitting("northgate", id="form-7", **PAPER))
    assert replaced.status_code == 200
    assert await scene.harbor_sees() == []
    third = (await scene.paper(await scene.permitting(id="form-8", **PAPER))).json()["id"]
    agent = await scene.world.enrol("kid")
    assert await scene.harbor_sees() == ["o-harbor", "o-northgate"]
    denial = await scene.consent(agent, await scene.denying())
    assert await scene.harbor_sees() == []
    assert (await scene.world.http.delete(f"/fhir/Consent/{denial.json()['id']}", headers=agent)).status_code == 204
    assert await scene.harbor_sees() == ["o-harbor", "o-northgate"]
    assert (await scene.world.http.delete(f"/fhir/Consent/{third}", headers=agent)).status_code == 204
    assert await scene.harbor_sees() == []


async def test_a_feed_that_calls_itself_attested_opens_nothing(scene: Scene) -> None:
    tags = [{"system": "urn:fhir-bridge:attested-by", "code": "northgate"}]
    for source in ("urn:fhir-bridge:paper:northgate", f"urn:fhir-bridge:guardian:{'a' * 32}"):
        forged = consent("Patient/kid", permit="harbor", id="f1", meta={"source": source, "tag": tags}, **PAPER)
        await scene.world.send(forged)
        await scene.paper(consent(f"Patient/{scene.child}", permit="someone-else", id="form-1", **PAPER))
        assert await scene.harbor_sees() == []
    stored = (await scene.world.http.get("/fhir/Consent/f1", headers=scene.clerk)).json()["meta"]
    assert stored["source"] == "urn:fhir-bridge:institution:northgate"
    assert [tag["system"] for tag in stored["tag"]] == ["urn:fhir-bridge:institution"]


async def test_a_feed_never_writes_over_what_a_guardian_signed(scene: Scene) -> None:
    mother = await scene.token((await scene.mother())[1])
    stored = (await scene.consent(mother, await scene.denying(), "c1")).json()["id"]
    await scene.paper(await scene.permitting(**PAPER))
    for name in ("c1", stored):
        await scene.world.http.delete(f"/fhir/Consent/{name}", headers=scene.clerk)
        await scene.world.send(consent("Patient/kid", permit="harbor", id=name, status="inactive"))
    assert await scene.harbor_sees() == []


async def test_restrictions_that_come_by_feed_leave_a_paper_in_force(scene: Scene) -> None:
    await scene.paper(await scene.permitting(**PAPER))
    await scene.world.send(consent("Patient/kid", deny="someone-else", id="f1"))
    assert await scene.harbor_sees() == ["o-harbor", "o-northgate"]


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": "system/*.rs"},
        {"scope": "patient/*.cruds"},
        {"until": "2020-01-01"},
        {"until": "2999-01-01"},
        {"key": "{}"},
        {"name": " "},
        {"relationship": "friend"},
        {"relationship": "PAT"},
        {"basis": "paper"},
        {"more": "x"},
    ],
    ids=repr,
)
async def test_what_cannot_be_attested_is_refused(scene: Scene, changes: dict[str, str]) -> None:
    assert (await scene.call(scene.clerk, "attest-guardian", **scene.asked(**changes))).status_code == 400


@pytest.mark.parametrize("operation", ["attest-guardian", "end-guardianship"])
@pytest.mark.parametrize("name", [["guardian"], {"guardian": 1}, 5], ids=repr)
async def test_a_parameter_whose_name_is_no_text_is_refused(scene: Scene, operation: str, name: Any) -> None:
    body = {"resourceType": "Parameters", "parameter": [{"name": name, "valueString": "x"}]}
    place = f"/fhir/Patient/{scene.child}/${operation}"
    assert (await scene.world.http.post(place, headers=scene.clerk, json=body)).status_code == 400


async def test_nobody_attests_for_another_institutions_patient(scene: Scene) -> None:
    foreign = await scene.world.token("harbor", practitioner="clerk-2")
    body = await scene.permitting(**PAPER)
    answers = [await scene.call(foreign, "attest-guardian", at, **scene.asked()) for at in (scene.child, NOBODY)]
    answers += [await scene.paper(body, foreign, at) for at in (scene.child, NOBODY)]
    assert {each.status_code for each in answers} == {404}
    assert len({each.content for each in answers}) == 1


async def test_only_a_named_practitioner_attests(scene: Scene) -> None:
    mother = await scene.token((await scene.mother())[1])
    agent = await scene.world.enrol("kid")
    for who in (await scene.world.token(), agent):
        assert (await scene.call(who, "attest-guardian", **scene.asked())).status_code == 403
        assert (await scene.paper(await scene.permitting(**PAPER), who)).status_code == 403
    assert (await scene.call(mother, "attest-guardian", **scene.asked())).status_code == 401


async def test_a_paper_that_is_not_named_or_of_somebody_else_is_refused(scene: Scene) -> None:
    assert (await scene.paper(await scene.permitting())).status_code == 400
    elsewhere = await scene.world.patient_id("kid", "harbor")
    assert (await scene.paper(consent(f"Patient/{elsewhere}", permit="harbor", **PAPER))).status_code == 400
    assert (await scene.paper({"resourceType": "Patient", **PAPER})).status_code == 400


# --- network policy


async def test_without_leave_nothing_is_attested_and_what_was_stops_counting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fresh(tmp_path)
    _allowing(tmp_path, monkeypatch, paper="counts", guardians="own-chart")
    async with _scene(data) as scene:
        _, credentials = await scene.mother()
        mother = await scene.token(credentials)
        await scene.consent(mother, await scene.permitting(), "c1")
        await scene.paper(await scene.permitting(**PAPER))
        assert await scene.harbor_sees() == ["o-harbor", "o-northgate"]
    monkeypatch.delenv("FHIR_BRIDGE_CONSENT_POLICIES_FILE")
    async with _scene(data) as scene:
        assert await scene.harbor_sees() == []
        mother = await scene.token(credentials)
        assert await scene.seen(mother) == []
        answers = [
            await scene.call(scene.clerk, "attest-guardian", at, **scene.asked()) for at in (scene.child, NOBODY)
        ]
        body = await scene.permitting(**PAPER)
        answers += [await scene.paper(body, at=at) for at in (scene.child, NOBODY)]
        answers.append(await scene.consent(mother, await scene.permitting()))
        assert [each.status_code for each in answers] == [403] * 5
        assert answers[0].content == answers[1].content
        assert answers[2].content == answers[3].content
        assert (await scene.world.http.delete("/fhir/Consent/c1", headers=mother)).status_code == 204
        assert await scene.world.findings() == []


async def test_a_network_may_show_guardians_all_charts_of_the_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _allowing(tmp_path, monkeypatch, guardians="person")
    async with _scene(fresh(tmp_path)) as scene:
        mother = await scene.token((await scene.mother())[1])
        assert await scene.seen(mother) == ["o-harbor", "o-northgate"]
        await scene.world.bridge.services.audit.close_epoch()
        told = await scene.world.http.get(f"/fhir/Patient/{scene.child}/$decisions", headers=mother)
        assert (told.status_code, len(told.json()["parameter"])) == (200, 1)
        await scene.consent(mother, await scene.permitting("northgate"))
        assert await scene.seen(scene.clerk) == ["o-northgate"]


async def test_what_was_attested_counts_after_a_restart_and_its_end_does_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fresh(tmp_path)
    _allowing(tmp_path, monkeypatch, guardians="own-chart")
    async with _scene(data) as scene:
        guardian, credentials = await scene.mother()
        await scene.consent(await scene.token(credentials), await scene.permitting())
    async with _scene(data) as scene:
        assert await scene.harbor_sees() == ["o-harbor", "o-northgate"]
        assert (await scene.call(scene.clerk, "end-guardianship", guardian=guardian)).status_code == 200
    async with _scene(data) as scene:
        assert await scene.harbor_sees() == []
        assert await scene.world.findings() == []


async def _entries(scene: Scene, who: Mapping[str, str], type_name: str) -> list[Json]:
    answer = await scene.world.http.get(f"/fhir/{type_name}?patient={scene.child}", headers=dict(who))
    return list(answer.json().get("entry", []))


def _resource(entry: Json) -> Json:
    found: Json = entry["resource"]
    return found


# --- the command line


def test_a_clerk_attests_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, form, mothers = fresh(tmp_path), tmp_path / "form.json", tmp_path / "mother.json"
    _allowing(tmp_path, monkeypatch, paper="counts", guardians="own-chart")

    async def prepare() -> None:
        async with _scene(data) as scene:
            form.write_text(json.dumps(await scene.permitting(**PAPER)))

    asyncio.run(prepare())
    clerk = ["--institution", "northgate", "--patient", "kid", "--practitioner", "clerk-1", "--data", str(data)]
    said = ["--name", "Ada", "--relationship", "MTH", "--basis", "birth certificate 12/2016", "--until", UNTIL]
    assert main(["guardian", "attest", *clerk, *said, "--new-key", str(mothers)]) == 0
    guardian = capsys.readouterr().out.strip()
    assert mothers.stat().st_mode & 0o777 == 0o600
    assert main(["guardian", "attest", *clerk, *said, "--new-key", str(mothers)]) == 2
    assert main(["guardian", "attest", *clerk, *said]) == 2
    assert main(["guardian", "attest", *clerk, *said[:-1], "soon", "--new-key", str(tmp_path / "x.json")]) == 1
    assert not (tmp_path / "x.json").exists()
    assert main(["consent", "attest", *clerk, str(form)]) == 0
    assert "Consent/" in capsys.readouterr().out

    async def look() -> None:
        async with _scene(data) as scene:
            assert await scene.harbor_sees() == ["o-harbor", "o-northgate"]
            assert await scene.seen(await scene.token(json.loads(mothers.read_text()))) == ["o-northgate"]

    asyncio.run(look())
    assert main(["guardian", "end", *clerk, "f" * 32]) == 1
    assert main(["guardian", "end", *clerk, guardian]) == 0

    async def look_again() -> None:
        async with _scene(data) as scene:
            with pytest.raises(NotAuthenticated):
                await scene.token(json.loads(mothers.read_text()))

    asyncio.run(look_again())
