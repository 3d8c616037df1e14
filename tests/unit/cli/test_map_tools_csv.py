"""CSV samples in the tools for mappings: a pack that describes its files is tried on them as on FHIR."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fhir_bridge.cli.main import main
from tests.unit.cli.conftest import Service
from tests.unit.mapping_tools.samples import HOUSE, LABS, SOURCE, house

CSV = f"""\
csv:
  labs:
    type: Observation
    delimiter: ";"
    id: No
    columns:
      No: identifier.value
      Test: {{path: code, system: "{HOUSE}", display: Words}}
      Result: {{path: valueQuantity, decimal: comma, unit_from: Unit}}
    constants: {{status: final}}
"""
ROWS = """\
No;Test;Words;Result;Unit
1;TMP;Temperature;37,5;deg
2;ODD;Something odd;1;furlongs
3;TMP;Temperature;warm;deg
"""


@pytest.fixture
def pack(tmp_path: Path) -> str:
    """The house, which sends files too."""
    return str(house(tmp_path / "p", source=SOURCE + CSV))


@pytest.fixture
def sample(tmp_path: Path) -> str:
    """Three rows: one that the tables know, one that they do not, one that intake refuses."""
    (tmp_path / "labs.csv").write_text(ROWS)
    return str(tmp_path / "labs.csv")


def _json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_coverage_counts_rows_their_codes_and_what_is_refused(
    pack: str, sample: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["map", "coverage", pack, sample, "--json"]) == 0
    found = _json(capsys)
    assert {(r["type"], r["verdict"]): r["count"] for r in found["records"]} == {
        ("Observation", "passed"): 2,
        ("unreadable", "refused"): 1,
    }
    assert ("code", HOUSE, "ODD", 1) in {(g["kind"], g["system"], g["value"], g["count"]) for g in found["gaps"]}
    assert {r["rule"]: r["fired"] for r in found["rules"]}["house/codes"] == 2


def test_unmapped_lists_a_rows_codes_with_the_words_beside_them_and_says_what_it_did_not_see(
    pack: str, sample: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["map", "unmapped", pack, sample, "--json", "--csv", str(tmp_path / "work")]) == 0
    shown = capsys.readouterr()
    (code,) = [row for row in json.loads(shown.out) if row["kind"] == "code"]
    assert (code["value"], code["table"], code["displays"]) == ("ODD", "labs", {"Something odd": 1})
    assert "1 records were not looked at" in shown.err
    assert "row 4, column 'Result'" in shown.err
    assert (tmp_path / "work" / "labs.csv").read_text() == "kind,local,words,loinc\nlab,ODD,Something odd,\n"


def test_bench_counts_rows_as_records(pack: str, sample: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", "bench", pack, sample, "--json"]) == 0
    assert _json(capsys)["records"] == 2


def test_diff_compares_row_by_row_also_where_the_description_changed(
    pack: str, sample: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = house(tmp_path / "new", source=SOURCE + CSV, labs=LABS + "lab,ODD,An odd thing,1234-5\n")
    assert main(["map", "diff", pack, str(new), "--on", sample, "--json"]) == 1
    found = _json(capsys)
    assert (found["records"], found["differing"], found["verdicts"]) == (3, 1, [])
    other = house(
        tmp_path / "other", source=SOURCE + CSV.replace("decimal: comma", "else: valueString, decimal: comma")
    )
    assert main(["map", "diff", pack, str(other), "--on", sample, "--json"]) == 1
    (verdict,) = _json(capsys)["verdicts"]
    assert (verdict["before"], verdict["after"], verdict["count"]) == ("refused", "passed", 1)
    assert main(["map", "diff", pack, pack, "--on", sample]) == 0


def test_standard_input_is_csv_if_the_command_says_so(
    pack: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(ROWS.encode())))
    assert main(["map", "coverage", pack, "-", "--format", "csv", "--json"]) == 0
    assert sum(r["count"] for r in _json(capsys)["records"]) == 3


def test_a_pack_without_files_says_so(tmp_path: Path, sample: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", "coverage", str(house(tmp_path / "bare")), sample]) != 0
    assert "describes no CSV: add 'csv' to its source.yaml" in capsys.readouterr().err


def test_preview_shows_what_rows_become_and_which_would_not_pass(
    pack: str, sample: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["map", "preview", pack, sample]) == 1
    lines = capsys.readouterr().out.splitlines()
    first, second = (json.loads(line) for line in lines[:2])
    assert first["code"]["coding"][0]["code"] == "8310-5"
    assert (first["valueQuantity"]["code"], second["code"]["text"]) == ("Cel", "Something odd")
    assert "    by house/codes: the house's dictionary" in lines
    assert any(line.startswith("  refused ") and "row 4, column 'Result'" in line for line in lines)


def test_the_service_is_asked_about_rows_as_rows(
    pack: str, sample: str, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    known = [{"name": "house", "ruleset_dir": pack}]
    entry = {"index": 0, "type": "Observation", "id": "x", "changes": [], "body": '{"id":"x"}'}
    shown = {"entries": [entry], "quarantined": [], "refused": []}
    service.answer = lambda call: (200, known if call.path == "/institutions" else shown)
    assert main(["map", "preview", "--institution", "house", sample, "--data", str(service.data)]) == 0
    (call,) = [call for call in service.calls if call.path == "/map/preview"]
    assert (call.content_type, call.body) == ("text/csv; name=labs.csv; row=2", ROWS.encode())
    assert capsys.readouterr().out.startswith('{"id":"x"}\n')


def test_lint_tells_every_mistake_in_files_and_every_guess_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = CSV.replace("identifier.value", "identifer.value") + CSV.removeprefix("csv:\n").replace(
        "labs:", "more:"
    ).replace("    id: No\n", "")
    folder = house(tmp_path / "wrong", source=SOURCE + wrong)
    assert main(["map", "lint", str(folder), "--json"]) == 1
    broken = [row["message"] for row in _json(capsys) if row["code"] == "broken"]
    assert len(broken) == 2
    assert "Observation has no 'identifer'" in broken[0]
    assert "'id' is missing" in broken[1]
    source = (SOURCE + CSV).replace("    type: Obs", "    guess: true\n    type: Obs")
    source = source.replace(
        "    file: codes/labs.csv", "    guess: true\n    file: codes/labs.csv   # GUESS: its name"
    )
    folder = house(tmp_path / "guessed", source=source)
    (folder / "codes" / "units.csv").write_text("code,canonical,local_unit,factor,guess\nTMP,,deg,,Cel\n")
    assert main(["map", "lint", str(folder), "--json"]) == 0
    found = [row for row in _json(capsys) if row["code"] == "guess"]
    lines = source.splitlines()
    marked = [number for number, line in enumerate(lines, 1) if "guess: true" in line or "# GUESS" in line]
    assert [(Path(row["file"]).name, row["line"]) for row in found] == [
        ("units.csv", 2),
        *(("source.yaml", number) for number in marked),
    ]
    assert {row["severity"] for row in found} == {"warning"}


def test_a_constant_that_only_files_name_is_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = SOURCE + CSV.replace("{status: final}", '{status: final, subject.display: "%source.mrn"}')
    main(["map", "lint", str(house(tmp_path / "p", source=source)), "--json"])
    assert "unused-constant" not in [row["code"] for row in _json(capsys)]


WIDE = f"""\
csv:
  labs:
    type: Observation
    delimiter: ";"
    id: [No, Test]
    spread: {{name: Test, value: Result, columns: [TMP, PULSE]}}
    columns:
      No: identifier.value
      Test: {{path: code, system: "{HOUSE}"}}
      Result: {{path: valueQuantity, decimal: comma, unit: deg}}
    constants: {{status: final}}
"""


def test_explain_goes_on_to_the_first_row_that_gives_a_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = str(house(tmp_path / "w", source=SOURCE + WIDE)), tmp_path / "labs.csv"
    file.write_text("No;TMP;PULSE\n1;;\n2;37,5;\n3;38,5;\n")
    assert main(["map", "explain", "--pack", folder, str(file), "valueQuantity.value", "--json"]) == 0
    (statement,) = _json(capsys)["statements"]
    assert (float(statement["value"]), statement["source"]["part"]) == (37.5, "column 'TMP'")
    for rows in ("", "1;;\n2;;\n"):
        file.write_text("No;TMP;PULSE\n" + rows)
        assert main(["map", "explain", "--pack", folder, str(file)]) != 0
        assert "labs.csv: no row gives a record" in capsys.readouterr().err


def test_validate_counts_a_row_of_which_nothing_would_be_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = str(house(tmp_path / "w", source=SOURCE + WIDE)), tmp_path / "labs.csv"
    file.write_text("No;TMP;PULSE;Natrium\n1;;;140\n2;37,5;;\n3;;;\n")
    assert main(["map", "validate", folder, str(file), "--json"]) == 1
    shown = capsys.readouterr()
    assert [row["severity"] for row in json.loads(shown.out)] == ["error"]
    assert "1 errors, 0 warnings" in shown.err
