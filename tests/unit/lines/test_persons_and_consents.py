"""Enrolling, linking, unlinking, permitting and withdrawing: who sees what at each step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.bridge_world import World, consent, fresh, observation, patient, running


async def _two_hospitals(world: World) -> None:
    """The same person is p1 at northgate and h1 at harbor, one observation each."""
    await world.send(patient("p1"))
    await world.send(observation("o1", "p1"))
    await world.send(patient("h1"), "harbor")
    await world.send(observation("o2", "h1"), "harbor")


async def _permit(world: World, agent: dict[str, str], **more: Any) -> dict[str, Any]:
    canonical = await world.patient_id("p1")
    named = f"Organization/{await world.organization('northgate')}"
    body = consent(f"Patient/{canonical}", permit=named, **more)
    answer = await world.http.put("/fhir/Consent/mine", json=body | {"id": "mine"}, headers=agent)
    assert answer.status_code in (200, 201), answer.text
    stored: dict[str, Any] = answer.json()
    return stored


OWN = ["Observation/o1", "Patient/p1"]
ALL = ["Observation/o1", "Observation/o2", "Patient/h1", "Patient/p1"]


async def test_a_permit_opens_the_linked_chart_and_its_withdrawal_closes_it(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await _two_hospitals(world)
        await world.link("someone", ("northgate", "p1"), ("harbor", "h1"))
        agent, who, asked = await world.enrol("p1"), await world.token(), await world.patient_id("p1")
        assert await world.timeline(who, asked) == OWN
        await _permit(world, agent)
        assert await world.timeline(who, asked) == ALL
        await _permit(world, agent, status="inactive")
        assert await world.timeline(who, asked) == OWN
        assert await world.findings() == []


async def test_a_link_made_later_never_widens_a_permit(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await _two_hospitals(world)
        agent, who, asked = await world.enrol("p1"), await world.token(), await world.patient_id("p1")
        await _permit(world, agent)
        await world.link("someone", ("northgate", "p1"), ("harbor", "h1"))
        assert await world.timeline(who, asked) == OWN
        await _permit(world, agent)
        assert await world.timeline(who, asked) == ALL, "signed again, it covers what is linked by then"


async def test_a_link_undone_takes_the_permit_along(tmp_path: Path) -> None:
    """The link was wrong: h1 is somebody else, whose records p1's consent must not open under any name."""
    data = fresh(tmp_path)
    async with running(data) as world:
        await _two_hospitals(world)
        await world.link("someone", ("northgate", "p1"), ("harbor", "h1"))
        agent, who = await world.enrol("p1"), await world.token()
        await _permit(world, agent)
        await world.link("another", ("harbor", "h1"))
        assert await world.timeline(who, await world.patient_id("p1")) == OWN
        assert await world.timeline(who, await world.patient_id("h1", "harbor")) == []
        assert await world.timeline(agent, await world.patient_id("h1", "harbor")) == []
    async with running(data) as world:
        assert await world.timeline(await world.token(), await world.patient_id("h1", "harbor")) == []


async def test_a_withdrawal_reaches_a_chart_that_was_linked_when_the_permit_was_signed(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await _two_hospitals(world)
        await world.link("someone", ("northgate", "p1"), ("harbor", "h1"))
        agent, who, asked = await world.enrol("p1"), await world.token(), await world.patient_id("p1")
        await _permit(world, agent)
        await world.link("another", ("harbor", "h1"))
        await _permit(world, agent, status="inactive")
        await world.link("someone", ("harbor", "h1"))
        assert await world.timeline(who, asked) == OWN


async def test_an_expired_consent_counts_no_longer(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await _two_hospitals(world)
        await world.link("someone", ("northgate", "p1"), ("harbor", "h1"))
        agent, who, asked = await world.enrol("p1"), await world.token(), await world.patient_id("p1")
        named = f"Organization/{await world.organization('northgate')}"
        body = consent(f"Patient/{asked}", permit=named)
        body["provision"]["period"] = {"start": "2020-01-01", "end": "2020-12-31"}
        assert (await world.http.post("/fhir/Consent", json=body, headers=agent)).status_code == 201
        assert await world.timeline(who, asked) == OWN


async def test_enrolling_again_keeps_consents_and_ends_the_old_credentials(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await _two_hospitals(world)
        await world.link("someone", ("northgate", "p1"), ("harbor", "h1"))
        first, who, asked = await world.enrol("p1"), await world.token(), await world.patient_id("p1")
        await _permit(world, first)
        second = await world.enrol("p1")
        assert (await world.http.get("/fhir/Consent/mine", headers=first)).status_code == 401
        assert (await world.http.get("/fhir/Consent/mine", headers=second)).status_code == 200
        assert await world.timeline(who, asked) == ALL


async def test_a_list_that_is_not_the_one_on_the_ledger_closes_the_chart(tmp_path: Path) -> None:
    """Removing the stored list cannot bring back a state in which something was permitted."""
    data = fresh(tmp_path)
    async with running(data) as world:
        await _two_hospitals(world)
        await world.link("someone", ("northgate", "p1"), ("harbor", "h1"))
        await _permit(world, await world.enrol("p1"))
    async with running(data) as world:
        who, asked = await world.token(), await world.patient_id("p1")
        grant = world.bridge.services.write._grant
        for lists in grant._held.values():
            lists.clear()
        assert await world.timeline(who, asked) == []


async def test_two_patients_of_one_hospital_may_use_the_same_consent_id(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        for name in ("p1", "p2"):
            await world.send(patient(name))
        stored = []
        for name in ("p1", "p2"):
            agent, canonical = await world.enrol(name), await world.patient_id(name)
            body = consent(f"Patient/{canonical}", permit="Organization/x", id="mine")
            answer = await world.http.put("/fhir/Consent/mine", json=body, headers=agent)
            assert answer.status_code == 201, answer.text
            stored.append(answer.json()["id"])
            assert (await world.http.get("/fhir/Consent/mine", headers=agent)).status_code == 200
        assert stored[0] != stored[1]


async def test_an_agents_update_with_a_stale_version_is_refused(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await _two_hospitals(world)
        agent = await world.enrol("p1")
        first = await _permit(world, agent)
        second = await _permit(world, agent, status="inactive")
        version = first["meta"]["versionId"]
        body = json.dumps(second | {"id": "mine", "status": "active"})
        stale = await world.http.put(
            "/fhir/Consent/mine", content=body, headers=agent | {"If-Match": f'W/"{version}"'}
        )
        assert stale.status_code == 412
        assert (await world.http.get("/fhir/Consent/mine", headers=agent)).json()["status"] == "inactive"


async def test_an_institutions_ids_never_reach_what_an_agent_wrote(tmp_path: Path) -> None:
    """Guessing or knowing the id tells and changes nothing: the answers are those for an id that never was."""
    async with running(fresh(tmp_path)) as world:
        await _two_hospitals(world)
        agent, who = await world.enrol("p1"), await world.token()
        stored = await _permit(world, agent)
        canonical = str(stored["id"])
        for known, unknown in (("mine", "never"), (canonical, "a" * 32)):
            for method, extra in (("GET", {}), ("DELETE", {}), ("DELETE", {"If-Match": 'W/"x"'})):
                one = await world.http.request(method, f"/fhir/Consent/{known}", headers=who | extra)
                other = await world.http.request(method, f"/fhir/Consent/{unknown}", headers=who | extra)
                assert (one.status_code, one.content) == (other.status_code, other.content), (method, known)
            body = consent("Patient/p1", deny="x", id=known)
            put = await world.http.put(f"/fhir/Consent/{known}", json=body, headers=who)
            assert put.status_code == 201
        now = (await world.http.get("/fhir/Consent/mine", headers=agent)).json()
        assert (now["id"], now["meta"]["versionId"]) == (canonical, stored["meta"]["versionId"])
