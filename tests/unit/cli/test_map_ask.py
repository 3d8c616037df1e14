"""``map ask``: what an expression selects in records, and an exit code for scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.cli.main import main

PATIENT: dict[str, Any] = {"resourceType": "Patient", "id": "p", "name": [{"given": ["Ann", "Bea"]}]}
OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "id": "o",
    "effectiveDateTime": "2026-03-01",
    "valueQuantity": {"value": 5, "unit": "mg"},
}


@pytest.fixture
def file(tmp_path: Path) -> str:
    bundle = {"resourceType": "Bundle", "entry": [{"resource": PATIENT}, {"resource": OBSERVATION}]}
    path = tmp_path / "records.ndjson"
    path.write_text(json.dumps(bundle) + "\n" + json.dumps({**PATIENT, "id": "q", "name": []}) + "\n")
    return str(path)


def test_each_item_is_a_line_with_its_record_and_type(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", "ask", "name.given", file]) == 0
    shown = capsys.readouterr()
    assert [line.split("\t")[1:] for line in shown.out.splitlines()] == [
        ["Patient/p", "string", "Ann"],
        ["Patient/p", "string", "Bea"],
    ]
    assert "2 records asked, 0 could not answer, 2 items" in shown.err


def test_values_that_the_expression_makes_come_as_json_for_scripts(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["map", "ask", "value | effective + 1 month | id.length() * 2.5", file, "--on", "Observation", "--json"])
        == 0
    )
    assert [(row["type"], row["value"]) for row in json.loads(capsys.readouterr().out)] == [
        ("Quantity", '{"value":5,"unit":"mg"}'),
        ("System.DateTime", "2026-04-01"),
        ("System.Decimal", "2.5"),
    ]


def test_a_record_that_cannot_answer_is_told(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", "ask", "name.given.upper()", file]) == 1
    assert "Patient/p: upper() wants one item and found 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["nme.given"], "Patient has no 'nme'; did you mean 'name'?"),
        (["name["], "cannot read 'name[' at its end"),
        (["today()"], "another result each time"),
        (["id", "--on", "Claim"], "no record of that type"),
        (["id", "--release", "R6"], "--release is R4, R4B, R5 or STU3"),
    ],
)
def test_what_fits_no_record_is_told(
    file: str, capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    assert main(["map", "ask", words[0], file, *words[1:]]) == 2
    assert why in capsys.readouterr().err


def test_records_of_r5_are_asked_by_its_own_elements(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "e.json"
    path.write_text(json.dumps({"resourceType": "Encounter", "id": "e", "actualPeriod": {"start": "2026"}}))
    assert main(["map", "ask", "actualPeriod.start", str(path), "--release", "R5"]) == 0
    assert "2026" in capsys.readouterr().out
    assert main(["map", "ask", "actualPeriod.start", str(path)]) == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"resourceType": "Bundle", "entry": 5}', "no record of that type"),
        ("{no json", "broken.ndjson:1: not valid JSON"),
    ],
)
def test_what_is_no_bundle_is_told_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, words: str
) -> None:
    path = tmp_path / "broken.ndjson"
    path.write_text(line + "\n")
    assert main(["map", "ask", "id", str(path)]) in (1, 2)
    assert words in capsys.readouterr().err


def test_a_senders_text_does_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({**PATIENT, "name": [{"family": "\x1b[2J\x9bA\tB\u202eC\nD"}]}))
    assert main(["map", "ask", "name.family", str(path)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split("\t")[3:] == [r"\x1b[2J\x9bA\tB\u202eC\nD"]
