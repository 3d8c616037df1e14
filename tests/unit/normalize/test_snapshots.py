"""A copy of a pack loads anywhere, to the same hash; a rule's print tells when the rule would do something else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fhir_bridge.errors import RulesetBroken
from fhir_bridge.normalize import load_ruleset, rule_prints, take_snapshot
from tests.support.bridge_world import ROOT
from tests.unit.fhir.profile_samples import folder_of, profile

PACKS = ("cedar", "core", "harbor", "northgate")


@pytest.mark.parametrize("name", PACKS)
def test_a_copy_has_the_hash_of_its_pack_wherever_it_lies(tmp_path: Path, name: str) -> None:
    pack = ROOT / "mappings" / name
    copy = take_snapshot(pack).write(tmp_path / "somewhere")
    assert load_ruleset(copy).hash == load_ruleset(pack).hash
    assert not list(copy.rglob("examples"))


@pytest.mark.parametrize("named", ["packages/ours", "../ours", "{absolute}"])
def test_a_copy_brings_the_packages_of_its_profiles_wherever_they_lay(tmp_path: Path, named: str) -> None:
    pack = tmp_path / "work" / "pack"
    pack.mkdir(parents=True)
    text = named.format(absolute=tmp_path / "far" / "ours")
    package = pack / text
    package.parent.mkdir(exist_ok=True, parents=True)
    folder_of(package, [profile("Patient", {"path": "Patient.address", "min": 1})])
    (pack / "source.yaml").write_text(
        f"institution: x\nprofiles:\n  - {{package: '{text}', mode: error, apply: declared}}\n"
    )
    digest = load_ruleset(pack).hash
    copy = take_snapshot(pack).write(tmp_path / "copy")
    again = take_snapshot(copy).write(tmp_path / "again")
    shutil.rmtree(package)
    with pytest.raises(RulesetBroken):
        load_ruleset(pack)
    assert load_ruleset(copy).hash == digest
    assert load_ruleset(again).hash == digest


def harbor(folder: Path) -> Path:
    """Return a copy of harbor and core to change."""
    shutil.copytree(ROOT / "mappings", folder / "mappings")
    return folder / "mappings" / "harbor"


def prints(pack: Path) -> dict[str, str]:
    """Return the prints of a pack's rules."""
    return rule_prints(pack, load_ruleset(pack))


def changed(pack: Path, before: dict[str, str]) -> set[str]:
    """Return the rules whose prints differ from before."""
    after = prints(pack)
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_every_rule_has_a_print() -> None:
    for name in PACKS:
        pack = ROOT / "mappings" / name
        rules = load_ruleset(pack)
        releases = ("R4", "STU3", "R4B", "R5")
        assert set(prints(pack)) == {rule.name for release in releases for rule in rules.of_release(release)}


def test_a_changed_table_touches_the_rules_that_name_it_and_a_comment_none(tmp_path: Path) -> None:
    pack = harbor(tmp_path)
    before = prints(pack)
    for file in (pack / "observations.yaml", pack / "source.yaml"):
        file.write_text(file.read_text() + "# a remark\n")
    assert changed(pack, before) == set()
    dictionary = pack / "codes" / "dictionary.csv"
    head, *lines = dictionary.read_text().splitlines()
    factor = head.split(",").index("factor")
    at = next(n for n, line in enumerate(lines) if "glucose" in line.lower() and line.split(",")[factor])
    cells = lines[at].split(",")
    cells[factor] = "17.5"
    dictionary.write_text("\n".join([head, *lines[:at], ",".join(cells), *lines[at + 1 :]]) + "\n")
    assert changed(pack, before) == {"harbor/observation-units"}


def test_a_changed_constant_touches_the_rules_that_use_it(tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "rules.yaml").write_text(
        "- {rule: a, on: Observation, do: [{set: {path: method.text, value: '%source.word'}}], why: x}\n"
        "- {rule: b, on: Observation, do: [{set: {path: bodySite.text, value: 'word'}}], why: x}\n"
    )
    (pack / "source.yaml").write_text("institution: x\nconstants: {word: one}\n")
    before = prints(pack)
    (pack / "source.yaml").write_text("institution: x\nconstants: {word: two}\n")
    assert changed(pack, before) == {"a"}
