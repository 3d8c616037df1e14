"""By default a patient's denial leaves a hospital its own files; a network may decide otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bridge_world import consent, fresh, observation, patient, running


@pytest.mark.parametrize(("policy", "seen"), [("open", 2), ("closed-by-provision", 0)])
async def test_the_policy_says_whether_a_denial_closes_what_the_institution_wrote(
    policy: str, seen: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_ANSWER_OWN_RECORDS", policy)
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
        who, asked = await world.token(), await world.patient_id("p1")
        await world.send(consent("Patient/p1", deny="northgate", id="c1"))
        shown = await world.timeline(who, asked)
        assert len(shown) == seen


async def test_a_denial_signed_as_the_persons_other_patient_holds_in_a_search_by_identifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a search looks at the institution's own chart alone; what was signed elsewhere counts all the same."""
    monkeypatch.setenv("FHIR_BRIDGE_ANSWER_OWN_RECORDS", "closed-by-provision")
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.send(patient("h1"), "harbor")
        await world.link("x", ("northgate", "p1"), ("harbor", "h1"))
        agent, who = await world.enrol("h1", "harbor"), await world.token()
        number = (await world.http.get("/fhir/Patient/p1", headers=who)).json()["identifier"][0]
        search = f"/fhir/Patient?identifier={number['system']}|{number['value']}"
        assert (await world.http.get(search, headers=who)).json()["total"] == 1
        elsewhere = f"Patient/{await world.patient_id('h1', 'harbor')}"
        denial = consent(elsewhere, deny=f"Organization/{await world.organization('northgate')}")
        assert (await world.http.post("/fhir/Consent", headers=agent, json=denial)).status_code == 201
        assert (await world.http.get("/fhir/Patient/p1", headers=who)).status_code == 404
        assert (await world.http.get(search, headers=who)).json()["total"] == 0
