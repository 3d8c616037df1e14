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
