"""How a pack chooses profiles, and what a wrong choice is told as."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fhir_bridge.errors import RulesetBroken
from fhir_bridge.normalize import load_ruleset
from tests.unit.fhir.profile_samples import archive_of, folder_of, profile, told, url
from tests.unit.normalize.bench import pack

NAMED = profile("Patient", {"path": "Patient.name", "min": 1})
NOBODY = {"resourceType": "Patient", "active": True}


def choosing(folder: Path, entry: str, head: str = "") -> Path:
    """A pack with one entry of ``profiles``, and the package ``named.tgz`` in it."""
    made = pack(folder, source=f"{head}profiles:\n  - {entry}\n")
    archive_of(folder_of(folder.parent / f"{folder.name}-files", [NAMED]), made / "named.tgz")
    return made


def test_a_pack_chooses_a_package_in_its_folder(tmp_path: Path) -> None:
    entry = f"{{package: named.tgz, mode: warning, apply: ['{url('p')}']}}"
    profiles = load_ruleset(choosing(tmp_path / "p", entry)).profiles
    assert profiles is not None
    assert told(profiles.judge(NOBODY)) == [("warning", "Patient.name")]


def test_a_pack_without_profiles_has_none(tmp_path: Path) -> None:
    assert load_ruleset(pack(tmp_path / "p")).profiles is None


@pytest.mark.parametrize(
    ("entry", "told_as"),
    [
        ("{package: named.tgz, apply: declared}", "3:5 'mode' is missing"),
        ("{package: named.tgz, mode: error}", "3:5 'apply' is missing"),
        ("{mode: error, apply: declared}", "3:5 'package' is missing"),
        ("{package: named.tgz, mode: eror, apply: declared}", "3:32 'mode' must be error or warning"),
        ("{package: named.tgz, mode: error, apply: claimed}", "3:46 'apply' must be 'declared' or a list"),
        ("{package: named.tgz, mode: error, apply: []}", "3:46 'apply' lists no profile"),
        ("{package: named.tgz, mode: error, aply: declared}", "3:39 unknown key 'aply'; did you mean 'apply'?"),
        ("{package: no.tgz, mode: error, apply: declared}", "2:1 there is no package at"),
        ("{package: named.tgz, needs: [no.tgz], mode: error, apply: declared}", "2:1 there is no package at"),
        (
            "{package: named.tgz, mode: error, apply: ['http://a']}",
            "2:1 example.profiles#1.0.0 holds no profile http://a",
        ),
    ],
)
def test_a_wrong_choice_is_told_with_its_place(tmp_path: Path, entry: str, told_as: str) -> None:
    with pytest.raises(RulesetBroken, match=re.escape("p/source.yaml:" + told_as)):
        load_ruleset(choosing(tmp_path / "p", entry, "fhir_version: R4\n"))


def test_profiles_do_not_judge_stu3(tmp_path: Path) -> None:
    entry = "{package: named.tgz, mode: error, apply: declared}"
    with pytest.raises(RulesetBroken, match=r"source\.yaml:2:1 profiles are of R4"):
        load_ruleset(choosing(tmp_path / "p", entry, "fhir_version: STU3\n"))


def test_core_chooses_no_profiles_for_others(tmp_path: Path) -> None:
    choosing(tmp_path / "core", "{package: named.tgz, mode: error, apply: declared}")
    with pytest.raises(RulesetBroken, match=r"core/source\.yaml:1:1 profiles are chosen by"):
        load_ruleset(pack(tmp_path / "p", source="extends: core\n"))


def test_the_hash_changes_with_what_the_package_defines(tmp_path: Path) -> None:
    folder = choosing(tmp_path / "p", "{package: named.tgz, mode: error, apply: declared}")
    first = load_ruleset(folder).hash
    assert load_ruleset(folder).hash == first
    stricter = profile("Patient", {"path": "Patient.name", "min": 2})
    archive_of(folder_of(tmp_path / "stricter", [stricter]), folder / "named.tgz")
    assert load_ruleset(folder).hash != first
