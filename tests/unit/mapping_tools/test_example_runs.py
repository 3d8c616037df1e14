"""``map test``: reports for CI, expected files written only on word, and a run at every save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fhir_bridge.cli.main import main
from fhir_bridge.mapping_tools.example_runs import as_junit, saves, write_expected
from fhir_bridge.normalize import run_examples
from tests.unit.normalize.bench import pack

SENT: dict[str, Any] = {"resourceType": "Patient", "id": "a", "multipleBirthInteger": 2}
RULES = "rule: r\nversion: 1\non: Patient\nwhy: w\ndo:\n  - set: {path: active, value: true}\n"


def examples(folder: Path, **expected: object) -> Path:
    """A pack with an example that passes and one that expects ``expected`` too."""
    pack(folder, RULES)
    (folder / "examples").mkdir()
    for name, more in (("good", {}), ("odd", expected)):
        (folder / "examples" / f"{name}.input.json").write_text(json.dumps(SENT))
        (folder / "examples" / f"{name}.expected.json").write_text(json.dumps({**SENT, "active": True, **more}))
    return folder


def test_junit_says_which_example_failed_and_how(tmp_path: Path) -> None:
    results = run_examples(examples(tmp_path / "p", gender="<\x07>"))
    root = ElementTree.fromstring(as_junit("p", results, 1.5))
    assert root.attrib == {"tests": "2", "failures": "1", "errors": "0", "time": "1.500"}
    good, odd = root.findall("./testsuite[@name='p']/testcase")
    assert (good.get("name"), len(good)) == ("good", 0)
    assert (odd.get("name"), odd[0].tag, odd[0].get("message")) == ("odd", "failure", "Patient.gender is missing")


def test_text_that_xml_cannot_hold_does_not_break_the_report(tmp_path: Path) -> None:
    folder = examples(tmp_path / "p", id="\ufffe <&>")
    root = ElementTree.fromstring(as_junit("p", run_examples(folder), 0))
    assert root.findtext(".//failure") == 'Patient.id is "a" instead of "\ufffd <&>"'


def test_only_runs_what_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(examples(tmp_path / "p", gender="male"))
    assert main(["map", "test", folder, "--only", "goo"]) == 0
    assert capsys.readouterr().out == "1 of 1 examples pass\n"
    assert main(["map", "test", folder, "--only", "none"]) == 1


def test_a_failure_shows_what_was_expected_and_what_came(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", "test", str(examples(tmp_path / "p", multipleBirthInteger=3))]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "✗ odd",
        "    Patient.multipleBirthInteger differs",
        "      - 3",
        "      + 2",
        "1 of 2 examples pass",
    ]


def test_nothing_is_written_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = examples(tmp_path / "p", multipleBirthInteger=3)
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    assert main(["map", "test", str(folder), "--update"]) == 1
    assert "+ 2" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in folder.rglob("*.json")} == before


def test_update_writes_what_came_and_only_where_it_differed(tmp_path: Path) -> None:
    folder = examples(tmp_path / "p", multipleBirthInteger=3)
    good = (folder / "examples" / "good.expected.json").read_bytes()
    assert main(["map", "test", str(folder), "--update", "--yes"]) == 0
    written = (folder / "examples" / "odd.expected.json").read_text()
    assert json.loads(written) == {**SENT, "active": True}
    assert written.startswith('{\n  "resourceType": "Patient",\n')
    assert (folder / "examples" / "good.expected.json").read_bytes() == good
    assert main(["map", "test", str(folder)]) == 0


def test_an_example_that_passes_keeps_its_file_byte_for_byte(tmp_path: Path) -> None:
    folder = examples(tmp_path / "p", multipleBirthInteger=3)
    assert write_expected(folder, run_examples(folder)) == [folder / "examples" / "odd.expected.json"]


def test_update_does_not_make_an_invalid_result_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = examples(tmp_path / "p")
    (folder / "rules.yaml").write_text(RULES.replace("active, value: true", "gender, value: purple"))
    assert main(["map", "test", str(folder), "--update", "--yes"]) == 1
    assert "still failing" in capsys.readouterr().err


def test_a_number_keeps_its_text_in_an_expected_file(tmp_path: Path) -> None:
    folder = pack(tmp_path / "p")
    (folder / "examples").mkdir()
    text = '{"resourceType":"Observation","id":"a","status":"final","code":{"text":"x"},"valueQuantity":{"value":%s}}'
    (folder / "examples" / "one.input.json").write_text(text % "1.10")
    (folder / "examples" / "one.expected.json").write_text(text % "1.1")
    assert main(["map", "test", str(folder), "--update", "--yes"]) == 0
    assert '"value": 1.10' in (folder / "examples" / "one.expected.json").read_text()


def test_a_save_is_noticed_once_with_its_name(tmp_path: Path) -> None:
    folder = examples(tmp_path / "p")
    waits: list[float] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            (folder / "rules.yaml").write_text(RULES + "# more\n")
        if len(waits) == 5:
            (folder / "examples" / "odd.expected.json").unlink()

    noticed = saves(folder, pause=pause)
    assert (next(noticed), len(waits)) == (["rules.yaml"], 2)
    assert (next(noticed), len(waits)) == (["odd.expected.json"], 5)


def test_watching_and_updating_exclude_each_other(tmp_path: Path) -> None:
    assert main(["map", "test", str(examples(tmp_path / "p")), "--watch", "--update"]) == 2
