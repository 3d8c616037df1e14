"""A pack that was made for somebody else, or for another release: told when it is brought, and by what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.bridge_world import fresh, running


async def add(world: Any, pack: Path, source: str, **more: str) -> dict[str, Any]:
    pack.mkdir(exist_ok=True)
    (pack / "source.yaml").write_text(source)
    answer = await world.control.post("/institutions", json={"name": "cedar", "ruleset_dir": str(pack)} | more)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_an_institution_sends_what_its_pack_is_written_for(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        made = await add(world, tmp_path / "p", "institution: cedar\nfhir_version: STU3\n")
        assert (made["fhir_version"], made["doubts"]) == ("STU3", [])
        told = await add(world, tmp_path / "p", "institution: cedar\nfhir_version: STU3\n", fhir_version="R4")
        assert told["fhir_version"] == "R4"
        assert ["written for STU3" in doubt for doubt in told["doubts"]] == [True]


async def test_the_pack_of_another_is_told_when_it_is_added_and_when_it_is_proposed(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        made = await add(world, tmp_path / "p", "institution: harbor\n")
        assert ["'institution: harbor', and this is cedar" in doubt for doubt in made["doubts"]] == [True]
        (tmp_path / "p" / "source.yaml").write_text("institution: harbor\nwhy: again\n")
        asked = {"ruleset_dir": str(tmp_path / "p"), "author": "anna"}
        answer = await world.control.post("/rules/cedar/propose", json=asked)
        assert answer.json()["doubts"] == made["doubts"], answer.text


async def test_a_pack_that_was_rewritten_for_another_release_is_told_when_it_is_proposed(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await add(world, tmp_path / "p", "institution: cedar\nfhir_version: R4\n")
        asked = {"ruleset_dir": str(tmp_path / "p"), "author": "anna"}
        for release, words in (("R5", ["written for R5, and cedar is registered as sending R4"]), ("R4", [])):
            (tmp_path / "p" / "source.yaml").write_text(f"institution: cedar\nfhir_version: {release}\nwhy: new\n")
            answer = await world.control.post("/rules/cedar/propose", json=asked)
            doubts = answer.json()["doubts"]
            assert len(doubts) == len(words)
            assert all(word in doubt for word, doubt in zip(words, doubts, strict=True))
