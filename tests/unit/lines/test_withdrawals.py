"""A patient's withdrawal is never refused: deleted, or stated in a body that is no whole Consent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.errors import Unavailable
from tests.support.bridge_world import World, consent, fresh, observation, patient, running

Headers = dict[str, str]
OWN = ["Observation/o1", "Patient/p1"]
ALL = ["Observation/o1", "Patient/h1", "Patient/p1"]


async def _permitted(world: World, **more: Any) -> tuple[Headers, dict[str, Any]]:
    """Let northgate see harbor's chart of the same person; return the agent and the Consent as stored."""
    await world.send(patient("p1"))
    await world.send(observation("o1", "p1"))
    await world.send(patient("h1"), "harbor")
    await world.link("someone", ("northgate", "p1"), ("harbor", "h1"))
    agent = await world.enrol("p1")
    body = await _consent(world, **more)
    answer = await world.http.put("/fhir/Consent/mine", json=body, headers=agent)
    assert answer.status_code == 201, answer.text
    stored: dict[str, Any] = answer.json()
    return agent, stored


async def _consent(world: World, **more: Any) -> dict[str, Any]:
    named = f"Organization/{await world.organization('northgate')}"
    asked = await world.patient_id("p1")
    return consent(f"Patient/{asked}", permit=named, id="mine", **more)


async def _seen(world: World) -> list[str]:
    return await world.timeline(await world.token(), await world.patient_id("p1"))


async def _current(world: World, agent: Headers) -> dict[str, Any]:
    answer = await world.http.get("/fhir/Consent/mine", headers=agent)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _without_meta(resource: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in resource.items() if name != "meta"}


@pytest.mark.parametrize("address", ["local", "canonical"])
async def test_deleting_a_consent_withdraws_it_and_keeps_what_it_said(tmp_path: Path, address: str) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        agent, stored = await _permitted(world)
        assert await _seen(world) == ALL
        path = f"/fhir/Consent/{'mine' if address == 'local' else stored['id']}"
        for _ in range(2):
            answer = await world.http.delete(path, headers=agent)
            assert (answer.status_code, answer.content) == (204, b"")
        assert await _seen(world) == OWN
        now = await _current(world, agent)
        assert _without_meta(now) == _without_meta(stored) | {"status": "inactive"}
        versions = (await world.http.get(f"{path}/_history", headers=agent)).json()["entry"]
        assert [each["resource"]["status"] for each in versions] == ["inactive", "active"]
        assert (await world.http.get(f"{path}/$receipt", headers=agent)).status_code == 200
    async with running(data) as world:
        assert await _seen(world) == OWN
        assert await world.findings() == []


@pytest.mark.parametrize("status", ["inactive", "rejected", "entered-in-error"])
async def test_a_body_that_says_little_but_the_status_withdraws(tmp_path: Path, status: str) -> None:
    async with running(fresh(tmp_path)) as world:
        agent, stored = await _permitted(world)
        body = {"resourceType": "Consent", "id": "mine", "status": status, "patient": stored["patient"]}
        answer = await world.http.put("/fhir/Consent/mine", json=body, headers=agent)
        assert answer.status_code == 200, answer.text
        assert _without_meta(answer.json()) == _without_meta(stored) | {"status": status}
        assert await _seen(world) == OWN
        assert await world.findings() == []


async def test_what_was_read_may_be_sent_back_with_another_status(tmp_path: Path) -> None:
    """The id in the body is the canonical one then, the address may be the agent's own."""
    async with running(fresh(tmp_path)) as world:
        agent, stored = await _permitted(world)
        body = stored | {"status": "inactive"}
        assert (await world.http.put("/fhir/Consent/mine", json=body, headers=agent)).status_code == 200
        assert await _seen(world) == OWN


@pytest.mark.parametrize(
    "change",
    [
        {"status": "active"},
        {"status": "draft"},
        {"status": "proposed"},
        {"status": "gone"},
        {"status": ["inactive"]},
        {"id": "another"},
        {"resourceType": "Observation"},
    ],
)
async def test_what_states_no_withdrawal_of_this_consent_is_refused_as_ever(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    async with running(fresh(tmp_path)) as world:
        agent, stored = await _permitted(world)
        body = {"resourceType": "Consent", "id": "mine", "status": "inactive"} | change
        assert (await world.http.put("/fhir/Consent/mine", json=body, headers=agent)).status_code == 400
        assert await _current(world, agent) == stored


async def test_a_withdrawal_of_no_consent_of_the_patient_makes_none_and_tells_nothing(tmp_path: Path) -> None:
    """Another patient's, the hospital's own and none at all: one answer."""
    async with running(fresh(tmp_path)) as world:
        agent, stored = await _permitted(world)
        await world.send(patient("p2"))
        await world.send(consent("Patient/p1", deny="harbor", id="c1"))
        listed = await world.http.get("/fhir/Consent?patient=Patient/p1", headers=await world.token())
        (hospital,) = [each["resource"]["id"] for each in listed.json()["entry"]]
        other = await world.enrol("p2")
        answers = []
        for who, record in ((other, stored["id"]), (other, "mine"), (other, "never"), (agent, hospital)):
            body = {"resourceType": "Consent", "id": record, "status": "inactive"}
            put = await world.http.put(f"/fhir/Consent/{record}", json=body, headers=who)
            deleted = await world.http.delete(f"/fhir/Consent/{record}", headers=who)
            assert (put.status_code, deleted.status_code) == (400, 404)
            answers.append((put.content, deleted.content))
        assert len(set(answers)) == 1
        assert (await world.http.get("/fhir/Consent/never", headers=other)).status_code == 404
        assert await _current(world, agent) == stored


async def test_an_agent_at_the_other_hospital_withdraws_too(tmp_path: Path) -> None:
    """The same person, enrolled by the chart of harbor as well, names the consent by the id everybody sees."""
    async with running(fresh(tmp_path)) as world:
        agent, stored = await _permitted(world)
        other = await world.enrol("h1", "harbor")
        body = stored | {"status": "inactive"}
        answer = await world.http.put(f"/fhir/Consent/{stored['id']}", json=body, headers=other)
        assert (answer.status_code, answer.json()["id"]) == (200, stored["id"])
        assert await _seen(world) == OWN
        assert (await _current(world, agent))["status"] == "inactive"
        assert await world.findings() == []


async def test_a_permit_that_the_ledger_has_not_taken_yet_is_withdrawn_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next start would submit what was signed and put it into force after its withdrawal."""
    data = fresh(tmp_path)
    async with running(data) as world:
        agent, _ = await _permitted(world, status="inactive")

        async def fails(*_: object) -> None:
            raise Unavailable("x")

        body = await _consent(world)
        with monkeypatch.context() as patched:
            patched.setattr(world.bridge.services.write._grant._notary, "submit_together", fails)
            assert (await world.http.put("/fhir/Consent/mine", json=body, headers=agent)).status_code == 503
        assert (await world.http.delete("/fhir/Consent/mine", headers=agent)).status_code == 204
    async with running(data) as world:
        assert await _seen(world) == OWN
        assert await world.findings() == []


async def test_a_stale_condition_is_the_agents_own_and_holds_for_a_withdrawal(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        agent, stored = await _permitted(world)
        for etag, status in (('W/"stale"', 412), (f'W/"{stored["meta"]["versionId"]}"', 204)):
            answer = await world.http.delete("/fhir/Consent/mine", headers=agent | {"If-Match": etag})
            assert answer.status_code == status
        assert await _seen(world) == OWN
