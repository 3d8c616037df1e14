"""A Consent that an institution sends narrows its own chart, whatever crashes, arrives late or is enrolled later."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.bridge_world import bundle, consent, fresh, observation, patient, running


@pytest.fixture(autouse=True)
def _a_denial_closes_own_records_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the three network policies the one under which a hospital's own view shows that its denial is in force."""
    monkeypatch.setenv("FHIR_BRIDGE_ANSWER_OWN_RECORDS", "closed-by-provision")


async def test_a_denial_by_feed_holds_before_enrolment_after_it_and_after_every_link(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
        for number in range(3):
            await world.send(consent("Patient/p1", deny="northgate", id=f"c{number}"))
        who, asked = await world.token(), await world.patient_id("p1")
        assert await world.timeline(who, asked) == []
        await world.enrol("p1")
        assert await world.timeline(who, asked) == []
        await world.send(patient("h1"), "harbor")
        await world.link("someone", ("northgate", "p1"), ("harbor", "h1"))
        assert await world.timeline(who, asked) == []


async def test_three_denials_before_enrolment_all_hold_after_links(tmp_path: Path) -> None:
    """Each denial names another institution; none may be lost when the list goes to the ledger again."""
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
        await world.send(consent("Patient/p1", deny="someone-else", id="c0"))
        await world.send(consent("Patient/p1", deny="yet-another", id="c1"))
        await world.send(consent("Patient/p1", deny="northgate", id="c2"))
        await world.enrol("p1")
        await world.link("someone", ("northgate", "p1"))
        await world.link("other", ("northgate", "p2"))
        assert await world.timeline(await world.token(), await world.patient_id("p1")) == []


async def test_an_older_version_that_arrives_late_does_not_replace_the_denial(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
        await world.send(
            consent("Patient/p1", deny="northgate", id="c1", meta={"lastUpdated": "2026-02-02T00:00:00Z"})
        )
        inactive = consent("Patient/p1", deny="northgate", id="c1", meta={"lastUpdated": "2026-01-01T00:00:00Z"})
        await world.send(inactive | {"status": "inactive"})
        assert await world.timeline(await world.token(), await world.patient_id("p1")) == []


async def test_a_denial_is_lifted_by_its_deletion(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.send(consent("Patient/p1", deny="northgate", id="c1"))
        who, asked = await world.token(), await world.patient_id("p1")
        assert await world.timeline(who, asked) == []
        answer = await world.http.delete("/fhir/Consent/c1", headers=who)
        assert answer.status_code == 204
        assert await world.timeline(who, asked) == ["Patient/p1"]
        again = await world.http.delete("/fhir/Consent/c1", headers=who)
        assert again.status_code == 204


async def test_a_denial_holds_after_a_restart(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        await world.send(patient("p1"))
        await world.enrol("p1")
        await world.send(consent("Patient/p1", deny="northgate", id="c1"))
    async with running(data) as world:
        assert await world.timeline(await world.token(), await world.patient_id("p1")) == []
        assert await world.findings() == []


async def test_a_patient_and_the_feed_may_write_consents_at_the_same_time(tmp_path: Path) -> None:
    """The two take the same lists; neither may wait for the other for ever."""
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        agent = await world.enrol("p1")
        canonical = await world.patient_id("p1")
        wanted = consent(f"Patient/{canonical}", permit="northgate")
        async with asyncio.timeout(20):
            await asyncio.gather(
                *(world.http.post("/fhir/Consent", json=wanted, headers=agent) for _ in range(4)),
                *(world.send(consent("Patient/p1", deny="x", id=f"c{n}")) for n in range(4)),
            )


async def test_a_consent_in_a_bundle_counts_like_one_sent_alone(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        sent = bundle(
            ("PUT", "Patient/p1", patient("p1")),
            ("PUT", "Consent/c1", consent("Patient/p1", deny="northgate", id="c1")),
        )
        summary = await world.send(sent)
        assert summary["outcomes"] == {"201": 2}
        assert await world.timeline(await world.token(), await world.patient_id("p1")) == []


async def test_closing_answers_everybody_who_still_waits(tmp_path: Path) -> None:
    """A message on its way when the service stops is answered or stays on its bus; closing waits for nothing else."""
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        agent, canonical = await world.enrol("p1"), await world.patient_id("p1")
        wanted = consent(f"Patient/{canonical}", permit="Organization/x")
        waiting = [
            asyncio.create_task(world.http.post("/fhir/Consent", json=wanted, headers=agent)) for _ in range(4)
        ]
        feeding = [asyncio.create_task(world.control.post("/ingest?institution=northgate", json=wanted))]
        await asyncio.sleep(0.05)
        began = asyncio.get_running_loop().time()
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*waiting, *feeding, return_exceptions=True)
    assert asyncio.get_running_loop().time() - began < 5
    assert all(isinstance(each, BaseException) or each.status_code in (200, 201, 503) for each in answers)
