"""Profiles of a pack, from its registration to the records that it judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.bridge_world import fresh, patient, running
from tests.unit.fhir.profile_samples import folder_of, profile, url

RULE = {"key": "x-1", "severity": "error", "human": "", "expression": "name.memberOf('a')"}
ADDRESSED = profile("Patient", {"path": "Patient", "constraint": [RULE]}, {"path": "Patient.address", "min": 1})


def registering(folder: Path, mode: str) -> dict[str, Any]:
    """The body that registers a pack whose Patients need an address."""
    folder.mkdir(exist_ok=True)
    folder_of(folder / "package", [ADDRESSED])
    head = f"institution: cedar\nprofiles:\n  - {{package: package, mode: {mode}, apply: ['{url('p')}']}}\n"
    (folder / "source.yaml").write_text(head)
    return {"name": "cedar", "fhir_version": "R4", "ruleset_dir": str(folder)}


async def test_a_packs_profiles_judge_its_institution_alone_and_say_what_they_cannot(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        made = (await world.control.post("/institutions", json=registering(tmp_path / "pack", "error"))).json()
        assert ["x-1 is not judged" in note for note in made["not_judged"]] == [True]
        refused = await world.send(patient("p1"), "cedar")
        (letter,) = refused["dead_letters"]
        shown = (await world.control.get(f"/letters/{letter}")).text
        assert url("p") in shown
        assert "Patient.address" in shown
        assert not (await world.send(patient("p1"))).get("dead_letters")
        other = (await world.control.post("/institutions", json=registering(tmp_path / "pack", "warning"))).json()
        assert other["ruleset"] != made["ruleset"]
        assert not (await world.send(patient("p1"), "cedar")).get("dead_letters")


@pytest.mark.parametrize("release", ["STU3", "R5"])
@pytest.mark.parametrize("mode", ["error", "warning"])
async def test_what_comes_in_another_release_is_judged_as_what_it_becomes(
    tmp_path: Path, release: str, mode: str
) -> None:
    """Else a sender would escape profiles by declaring another release than it is registered with."""
    async with running(fresh(tmp_path)) as world:
        made = await world.control.post("/institutions", json=registering(tmp_path / "pack", mode))
        assert made.status_code == 200, made.text
        content_type = f"application/fhir+json; fhirVersion={ {'STU3': '3.0', 'R5': '5.0'}[release] }"
        outcomes = []
        for name, more in (("p1", {}), ("p2", {"address": [{"city": "Boston"}]})):
            body = json.dumps(patient(name, **more)).encode()
            headers = {"content-type": content_type}
            given = {"institution": "cedar"}
            answer = await world.control.post("/ingest", params=given, content=body, headers=headers)
            outcomes.append(answer.json()["outcomes"])
        assert outcomes == [{"202": 1} if mode == "error" else {"201": 1}, {"201": 1}]
