"""``map validate``: one line a finding of a pack's profiles, and an exit code for scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fhir_bridge.cli.main import main
from tests.unit.fhir.profile_samples import folder_of, profile, url


def judging(folder: Path, mode: str) -> tuple[Path, Path]:
    """A pack that wants names, and a Patient without one."""
    folder_of(folder / "package", [profile("Patient", {"path": "Patient.name", "min": 1})])
    head = f"fhir_version: R4\nprofiles:\n  - {{package: package, mode: {mode}, apply: ['{url('p')}']}}\n"
    (folder / "source.yaml").write_text(head)
    (folder / "patients.ndjson").write_text(
        '{"resourceType":"Patient","name":[{"text":"Zzcanary"}]}\n{"resourceType":"Patient","active":true}\n'
    )
    return folder, folder / "patients.ndjson"


@pytest.mark.parametrize(("mode", "code"), [("error", 1), ("warning", 0)])
def test_findings_of_a_packs_profiles_are_lines_and_errors_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str, code: int
) -> None:
    folder, file = judging(tmp_path, mode)
    assert main(["map", "validate", str(folder), str(file)]) == code
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split("\t")[:5] == [str(file), "2", mode, "Patient.name", "required"]
    assert url("p") in line


def test_findings_come_as_json_for_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = judging(tmp_path, "error")
    assert main(["map", "validate", str(folder), str(file), "--json"]) == 1
    shown = capsys.readouterr()
    (found,) = json.loads(shown.out)
    assert (found["message"], found["severity"], found["expression"]) == (2, "error", "Patient.name")
    assert "2 messages, 1 errors, 0 warnings" in shown.err


def test_what_profiles_demand_and_nobody_judges_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = judging(tmp_path, "error")
    rule = {"key": "x-1", "severity": "error", "human": "", "expression": "name.memberOf('a')"}
    folder_of(folder / "package", [profile("Patient", {"path": "Patient", "constraint": [rule]})])
    assert main(["map", "validate", str(folder), str(file)]) == 0
    assert "the invariant x-1 is not judged" in capsys.readouterr().err


def test_a_pack_whose_profiles_do_not_load_is_told_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = judging(tmp_path, "eror")
    assert main(["map", "validate", str(folder), str(file)]) != 0
    assert "source.yaml:3:30 'mode' must be error or warning" in capsys.readouterr().err
