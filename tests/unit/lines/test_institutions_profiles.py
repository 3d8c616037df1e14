"""Profiles of a pack, from its registration to the records that it judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


async def test_an_institution_that_sends_stu3_is_told_that_its_profiles_judge_nothing_of_it(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        sent = registering(tmp_path / "pack", "error") | {"fhir_version": "STU3"}
        made = (await world.control.post("/institutions", json=sent)).json()
        assert "profiles are of R4: what comes as STU3 is not judged by them" in made["not_judged"]
        assert not (await world.send(patient("p1"), "cedar")).get("dead_letters")
