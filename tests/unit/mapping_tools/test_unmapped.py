"""The work-list: what no table knows, in the shape of the table that lacks it, with guesses that stay guesses."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from fhir_bridge.cli.main import main
from fhir_bridge.fhir.ucum import is_ucum
from fhir_bridge.mapping_tools.unmapped import as_tables, normal, ucum_spellings, work_list
from fhir_bridge.normalize import load_ruleset
from tests.unit.mapping_tools.samples import HOUSE, LABS, feed, house, observation


def coded(local: str, code: str, display: str) -> dict[str, object]:
    made = observation(local, code)
    made["code"]["coding"][0]["display"] = display
    return made


def test_what_is_missing_comes_by_volume_with_its_table_and_words(tmp_path: Path) -> None:
    work = work_list(
        house(tmp_path / "p"),
        feed(
            coded("a", "GLU", "known"),
            coded("b", "N1", "TEMPERATURE, BODY"),
            coded("c", "N1", "TEMPERATURE, BODY"),
            coded("d", "N2", "Something else"),
            observation("e", "GLU", valueQuantity={"value": 1, "unit": "MG/DL"}),
            observation("f", "GLU", identifier=[{"system": "urn:lis", "value": "1"}]),
            observation("g", "GLU", identifier=[{"system": "https://house.example.org/mrn", "value": "1"}]),
            observation("h", "GLU", category=[{"coding": [{"system": "http://loinc.org", "code": "1-8"}]}]),
        ),
    )
    assert [(w.gap.kind, w.gap.value or w.gap.system, w.gap.count, w.table) for w in work] == [
        ("code", "N1", 2, "labs"),
        ("code", "N2", 1, "labs"),
        ("identifier system", "urn:lis", 1, ""),
        ("unit", "MG/DL", 1, "lab"),
    ]
    assert work[0].gap.displays == {"TEMPERATURE, BODY": 2}
    assert work[0].gap.first == "feed:2 Observation/b Observation.code.coding[0]"
    assert [(g.system, g.code, g.likeness) for g in work[0].guesses] == [("http://loinc.org", "8310-5", 1.0)]
    assert work[1].guesses == ()


def test_a_guess_is_in_no_table_to_fill_in(tmp_path: Path) -> None:
    folder = house(tmp_path / "p")
    tables = as_tables(folder, work_list(folder, feed(coded("b", "N1", "TEMPERATURE, BODY"))))
    (row,) = csv.DictReader(io.StringIO(tables["labs.csv"]))
    assert row == {"kind": "lab", "local": "N1", "words": "TEMPERATURE, BODY", "loinc": ""}


def test_a_filled_table_put_under_the_hospitals_file_closes_the_gap(tmp_path: Path) -> None:
    folder = house(tmp_path / "p")
    sent = coded("b", "N1", "TEMPERATURE, BODY")
    table = as_tables(folder, work_list(folder, feed(sent)))["labs.csv"]
    filled = table.splitlines()[1].removesuffix(",") + ",8310-5\n"
    house(folder, labs=LABS + filled)
    assert load_ruleset(folder).tables.maps["labs"].targets[HOUSE, "N1"].code == "8310-5"
    assert work_list(folder, feed(sent)) == []


# The left column as laboratories write it; the right one from the UCUM specification and HL7's list of common units.
SPELLINGS = [
    ("mg/dl", "mg/dL"),
    ("mcg/L", "ug/L"),
    ("µmol/l", "umol/L"),
    ("mmHg", "mm[Hg]"),
    ("mm Hg", "mm[Hg]"),
    ("x10^9/L", "10*9/L"),
    ("°C", "Cel"),
    ("deg F", "[degF]"),
    ("mIU/L", "m[IU]/L"),
    ("uIU/mL", "u[IU]/mL"),
    ("IU/L", "[IU]/L"),
    ("K/uL", "10*3/uL"),
    ("lbs", "[lb_av]"),
    ("bpm", "/min"),
    ("ml/min/1.73 m2", "mL/min/{1.73_m2}"),
    ("kg/m²", "kg/m2"),
    ("pH", "[pH]"),
    ("sec", "s"),
]


@pytest.mark.parametrize(("local", "ucum"), SPELLINGS)
def test_a_spelling_of_a_unit_leads_to_ucum(local: str, ucum: str) -> None:
    assert is_ucum(ucum)
    assert ucum_spellings(local)[0] == ucum


@pytest.mark.parametrize("local", ["MIU/L", "units", "per field", ""])
def test_what_may_mean_several_things_gets_no_suggestion(local: str) -> None:
    assert ucum_spellings(local) == []


def test_texts_are_compared_without_case_brackets_and_order() -> None:
    assert normal("TEMPERATURE, (Body)") == normal("body temperature")


def test_the_command_lists_writes_and_tells_when_nothing_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, sample = house(tmp_path / "p"), tmp_path / "feed.json"
    sample.write_text(json.dumps(observation("a", "NEW", valueQuantity={"value": 1, "unit": "deg F"})))
    assert main(["map", "unmapped", str(folder), str(sample), "--csv", str(tmp_path / "work")]) == 0
    text = capsys.readouterr().out
    assert "[degF]?" in text
    assert (tmp_path / "work" / "spellings.csv").read_text() == "unit,ucum\ndeg F,\n"
    assert main(["map", "unmapped", str(folder), str(sample), "--json"]) == 0
    assert [row["value"] for row in json.loads(capsys.readouterr().out)] == ["NEW", "deg F"]
    sample.write_text(json.dumps(observation("a", "GLU")))
    assert main(["map", "unmapped", str(folder), str(sample)]) == 0
    assert "know every code" in capsys.readouterr().err
