"""Wide tables: several measurements in a row, each a record of its own; keys in part empty; rows that disagree."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.cli import csv_files
from fhir_bridge.errors import RulesetBroken
from fhir_bridge.formats import CsvFormat
from fhir_bridge.intake import Limits
from fhir_bridge.model.ingest import Refusal, Validated
from fhir_bridge.normalize import Ruleset
from tests.unit.formats.csv_samples import WIDE, WIDE_HEAD, WIDE_ROW, pack, received, resources, told


def rules(tmp_path: Path, more: str = "", source: str = WIDE) -> Ruleset:
    return pack(tmp_path / "clinic", source % more)


def test_each_filled_cell_of_the_columns_is_a_record_with_what_stands_beside_it(tmp_path: Path) -> None:
    reception = received(rules(tmp_path), (WIDE_HEAD + WIDE_ROW).encode())
    shared = {
        "resourceType": "Observation",
        "status": "final",
        "subject": {"reference": "Patient/7"},
        "identifier": [{"system": "urn:order", "value": "A1"}],
        "effectiveDateTime": "2026-07-02T08:10:00+02:00",
    }
    glucose, sodium = resources(reception)
    ids = {glucose.pop("id"), sodium.pop("id")}
    assert len(ids) == 2
    code = {"system": "urn:labs"}
    assert glucose == shared | {
        "code": {"coding": [code | {"code": "GLU"}]},
        "valueQuantity": {"value": Decimal("5.60"), "unit": "mmol/l"},
    }
    assert sodium == shared | {
        "code": {"coding": [code | {"code": "Na"}]},
        "valueQuantity": {"value": 140, "comparator": "<", "unit": "mmol/l"},
    }
    assert [e.index for e in reception.entries] == [0, 1]
    assert {e.original for e in reception.entries if isinstance(e, Validated)} == {(WIDE_HEAD + WIDE_ROW).encode()}


def test_sent_again_with_another_value_a_cell_updates_its_own_record_alone(tmp_path: Path) -> None:
    by = rules(tmp_path)
    before = resources(received(by, (WIDE_HEAD + WIDE_ROW).encode()))
    after = resources(received(by, (WIDE_HEAD + WIDE_ROW.replace("5,60", "5,70")).encode()))
    assert [r["id"] for r in before] == [r["id"] for r in after]
    assert [a == b for a, b in zip(after, before, strict=True)] == [False, True]


def test_a_cell_that_is_wrong_blocks_no_other_of_its_row_and_is_told_by_its_own_name(tmp_path: Path) -> None:
    reception = received(rules(tmp_path), (WIDE_HEAD + WIDE_ROW.replace("5,60", "viel")).encode())
    wrong, right = reception.entries
    assert isinstance(wrong, Refusal)
    assert isinstance(right, Validated)
    assert told(reception) == ["row 2, column 'Gluc (mmol/l)': is not a number with ',' as decimal sign"]


def test_what_the_validator_finds_is_told_by_the_column_that_the_sender_knows(tmp_path: Path) -> None:
    lines = [line for line in WIDE.splitlines(keepends=True) if "constants" not in line and "Wert: {path" not in line]
    by = rules(tmp_path, source="".join(lines) + "      Wert: {path: status}\n      Einheit: method.text%s\n")
    found = told(received(by, (WIDE_HEAD + WIDE_ROW.replace("5,60", "final")).encode()))
    assert len(found) == 1
    assert found[0].startswith("row 2, column 'Na': ")


def test_a_row_with_none_of_them_filled_gives_nothing(tmp_path: Path) -> None:
    bare = "7;A1;02.07.2026 08:10;-;;-;\n"
    assert received(rules(tmp_path), (WIDE_HEAD + bare).encode()).entries == ()
    assert len(resources(received(rules(tmp_path), (WIDE_HEAD + bare + WIDE_ROW).encode()))) == 2


def test_a_column_that_nobody_named_is_told_once_a_row(tmp_path: Path) -> None:
    reception = received(rules(tmp_path), (WIDE_HEAD + WIDE_ROW.replace(";\n", ";nüchtern\n")).encode())
    flags = [[f.diagnostics for f in e.flags] for e in reception.entries if isinstance(e, Validated)]
    assert flags == [["row 2: column 7 is not in the pack and stays in the original"], []]


def test_the_limit_of_a_message_counts_records(tmp_path: Path) -> None:
    body = (WIDE_HEAD + WIDE_ROW).encode()
    assert not received(rules(tmp_path), body, limits=Limits(max_entries=2)).refused
    assert [i.code for i in received(rules(tmp_path), body, limits=Limits(max_entries=1)).refused] == ["too-costly"]


def test_the_command_line_cuts_wide_files_into_smaller_pieces(tmp_path: Path) -> None:
    (form,) = rules(tmp_path).formats
    assert isinstance(form, CsvFormat)
    (tmp_path / "labor.csv").write_text(WIDE_HEAD + WIDE_ROW * 10)
    pieces = [piece.count(b"\n") - 1 for piece, _ in csv_files.cut(str(tmp_path / "labor.csv"), form, 12)]
    assert pieces == [4, 4, 2]


def test_a_file_may_lack_columns_only_where_the_pack_says_so(tmp_path: Path) -> None:
    kind = "text/csv; name=labor.csv"
    head, row = WIDE_HEAD.replace("Frei;", ""), WIDE_ROW.replace(";-;", ";")
    assert "has no column 'Frei'" in told(received(rules(tmp_path), (head + row).encode(), kind))[0]
    source = WIDE.replace("      value: Wert\n", "      value: Wert\n      optional: true\n")
    assert len(resources(received(rules(tmp_path, source=source), (head + row).encode(), kind))) == 2


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("id: [Auftrag, Test]", "id: [Auftrag]", "'id' needs 'Test'"),
        ("value: Wert\n", "value: Wertt\n", "'columns' say nothing about 'Wertt'"),
        ("Frei: {}", "Wert: {}", "'Wert' is a column and the name of what is made of columns"),
        ("      value: Wert\n", "", "'value' is missing"),
        ("      value: Wert\n", "      value: Wert\n      values: x\n", "did you mean 'value'?"),
    ],
)
def test_a_mistake_is_told_when_the_pack_loads(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(RulesetBroken, match=r"clinic/source\.yaml:\d+:\d+ .*") as wrong:
        rules(tmp_path, source=WIDE.replace(old, new))
    assert words in str(wrong.value)


def test_a_list_of_columns_does_where_nothing_stands_beside_them(tmp_path: Path) -> None:
    lines = WIDE.splitlines(keepends=True)
    kept = [line for line in lines if "Einheit: mmol" not in line and "Frei: {}" not in line]
    source = (
        "".join(kept)
        .replace("      columns:\n", "      columns: [Na, Frei]\n", 1)
        .replace("unit_from: Einheit", "unit: m")
    )
    (sodium,) = resources(received(rules(tmp_path, source=source), (WIDE_HEAD + WIDE_ROW).encode()))
    assert sodium["valueQuantity"]["unit"] == "m"


KEYS = """
institution: clinic
csv:
  dx:
    type: Condition
    id: [Pat, Code, Seite]
    id_empty: [Seite]
    columns:
      Pat: {path: subject, reference: Patient}
      Code: {path: code, system: "urn:dx"}
      Seite: bodySite.text
      Text: {path: note.text, optional: true}
"""


def conditions(tmp_path: Path, rows: str, source: str = KEYS) -> Any:
    return received(
        pack(tmp_path / "clinic", source), ("Pat,Code,Seite,Text\n" + rows).encode(), "text/csv; name=dx.csv"
    )


def test_a_part_of_the_key_may_be_empty_where_the_pack_says_so(tmp_path: Path) -> None:
    found = resources(conditions(tmp_path, "1,A,,\n1,A,L,\n1,AL,,\n"))
    assert len({r["id"] for r in found}) == 3
    assert told(conditions(tmp_path, "1,,L,\n")) == [
        "row 2, column 'Code': is empty, and says which record the row is about"
    ]
    with pytest.raises(RulesetBroken, match="something must tell records apart"):
        conditions(tmp_path, "", KEYS.replace("[Seite]", "[Pat, Code, Seite]"))


def test_two_rows_that_say_otherwise_of_one_record_are_told(tmp_path: Path) -> None:
    reception = conditions(tmp_path, "1,A,L,x\n1,A,L,x\n2,A,L,x\n1,A,L,y\n")
    flags = [[(f.code, f.diagnostics) for f in e.flags] for e in reception.entries]
    said = "row 5: says otherwise of the same record as row 3, and replaces it: does 'id' lack a column?"
    assert flags == [[], [], [], [("duplicate", said)]]


def test_a_constant_deep_inside_an_element_waits_for_it(tmp_path: Path) -> None:
    source = """
institution: clinic
csv:
  bp:
    type: Observation
    id: n
    columns:
      n: identifier.value
      sys: {path: "component[0].valueQuantity", unit: mmHg}
      dia: {path: "component[1].valueQuantity", unit: mmHg}
    constants:
      status: final
      code.coding.code: bp
      "component[0].code.coding.code": sys
      "component[1].code.coding.code": dia
"""
    (found,) = resources(received(pack(tmp_path / "clinic", source), b"n,sys,dia\n1,120,\n", "text/csv; name=bp.csv"))
    assert [c["code"]["coding"][0]["code"] for c in found["component"]] == ["sys"]
    assert found["code"] == {"coding": [{"code": "bp"}]}


OPTIONAL = WIDE.replace("      value: Wert\n", "      value: Wert\n      optional: true\n")
NAMED = "text/csv; name=labor.csv"


def test_a_file_that_has_none_of_the_columns_is_refused_even_where_it_may_lack_any(tmp_path: Path) -> None:
    head = "Pat;Auftrag;Abnahme;Glukose;Natrium\n"
    row = "7;A1;02.07.2026 08:10;5,60;140\n"
    by = rules(tmp_path, source=OPTIONAL)
    said = ["the header has none of the columns that are 'spread' for 'labs': 'Gluc (mmol/l)', 'Na', 'Frei'"]
    assert told(received(by, (head + row).encode(), NAMED)) == said
    assert "the header matches none" in told(received(by, (head + row).encode()))[0]


def test_a_row_that_gives_nothing_is_refused_where_an_unnamed_column_holds_something(tmp_path: Path) -> None:
    head = "Pat;Auftrag;Abnahme;Na;Glukose\n"
    rows = "7;A1;02.07.2026 08:10;;5,60\n8;A2;02.07.2026 08:10;;-\n9;A3;02.07.2026 08:10;140;5\n"
    reception = received(rules(tmp_path, source=OPTIONAL), (head + rows).encode(), NAMED)
    lost, kept = reception.entries
    assert isinstance(lost, Refusal)
    assert [(i.severity, i.code) for i in lost.issues] == [("error", "structure")]
    assert told(reception) == [
        "row 2: no column that is 'spread' is filled, and column 5, which the pack does not name, is: "
        "name it under 'spread' and send the file again, or under 'ignore' if it is nothing"
    ]
    assert isinstance(kept, Validated)


def test_two_columns_whose_records_would_be_one_are_refused_when_the_pack_loads(tmp_path: Path) -> None:
    for old, new in (
        ("Na: {Einheit: mmol/l}", "Na: {Einheit: mmol/l, Test: 'GLU '}"),
        ('"Gluc (mmol/l)": {Test: GLU', '"Gluc (mmol/l)": {Test: Na'),
    ):
        with pytest.raises(RulesetBroken, match=r"'Gluc \(mmol/l\)' and 'Na' would be one record"):
            rules(tmp_path, source=WIDE.replace(old, new))
    also = WIDE.replace("[Auftrag, Test]", "[Auftrag, Test, Probe]").replace(
        "Frei: {}", "Frei: {Test: Na, Probe: Urin}"
    )
    assert rules(tmp_path, source=also).formats


def test_two_cells_that_say_otherwise_of_one_record_are_told(tmp_path: Path) -> None:
    (form,) = rules(tmp_path).formats
    assert isinstance(form, CsvFormat)
    (table,) = form.tables
    assert table.spread is not None
    same = {name: {**beside, "Test": "GLU"} for name, beside in table.spread.cells.items()}
    table = replace(table, spread=replace(table.spread, cells=same))
    found = CsvFormat((table,)).read((WIDE_HEAD + WIDE_ROW).encode(), "text/csv", 9)
    assert [[issue.code for issue in each.issues] for each in found] == [[], ["duplicate"]]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "Na: {Einheit: mmol/l}",
            "Na: {Enheit: mmol/l}",
            "16:14 'columns' and 'id' say nothing about 'Enheit'; did you mean 'Einheit'?",
        ),
        ("Na: {Einheit: mmol/l}", "Na: {Wert: mmol/l}", "16:14 'Wert' is the column's own cell"),
        (
            "empty: [",
            "ignore: [Einheit]\n    empty: [",
            "'Einheit' is ignored and the name of what is made of columns",
        ),
        ("id: [Auftrag, Test]", "id: [Auftrag, Test]\n    id_empty: [Auftrag]", "'id' needs a column of the file"),
        ("id: [Auftrag, Test]", "id: Test", "'id' needs a column of the file"),
    ],
)
def test_what_would_lose_or_mix_cells_is_told_when_the_pack_loads(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    with pytest.raises(RulesetBroken, match=r"clinic/source\.yaml:\d+:\d+ .*") as wrong:
        rules(tmp_path, source=WIDE.replace(old, new))
    assert words in str(wrong.value)


def test_a_file_with_a_column_of_a_name_that_the_pack_makes_is_refused(tmp_path: Path) -> None:
    head, row = WIDE_HEAD.replace("Notiz", "Einheit"), WIDE_ROW.replace(";\n", ";mg/dl\n")
    assert told(received(rules(tmp_path), (head + row).encode(), NAMED)) == [
        "the header has a column 'Einheit', which the pack makes of the columns that are 'spread': "
        "name what is made otherwise"
    ]
