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
        (["id", "--release", "R5"], "--release is R4 or STU3"),
    ],
)
def test_what_fits_no_record_is_told(
    file: str, capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    assert main(["map", "ask", words[0], file, *words[1:]]) == 2
    assert why in capsys.readouterr().err
