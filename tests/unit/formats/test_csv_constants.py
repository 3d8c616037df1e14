"""Constants beside columns: what is the same in every row carries nothing of one row into another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fhir_bridge.errors import RulesetBroken
from fhir_bridge.formats import Constant, CsvFormat, Step
from fhir_bridge.normalize import Ruleset
from tests.unit.formats.csv_samples import pack, received, resources

LABS = """
institution: clinic
constants: {labs: "urn:labs"}
csv:
  lab:
    type: Observation
    id: No
    columns:
      No: identifier.value
      Pat: {path: subject, reference: Patient}
      Code: code.coding.code
      Txt: code.text
    constants:
      status: final
      %s
"""
CODE = 'code: {coding: [{system: "%source.labs"}]}'
HEAD, FIRST, SECOND = "No,Pat,Code,Txt\n", "o1,7,HIV,positive\n", "o2,8,,\n"
CODED = {"coding": [{"system": "urn:labs", "code": "HIV"}], "text": "positive"}


def rules(tmp_path: Path, constant: str = CODE, more: str = "") -> Ruleset:
    return pack(tmp_path / "clinic", (LABS % constant).replace("    constants:\n", f"{more}    constants:\n"))


def test_a_row_gets_nothing_of_the_row_before_through_a_constant(tmp_path: Path) -> None:
    by = rules(tmp_path, more="      Kind: {path: category.text, optional: true}\n")
    first, second = resources(received(by, (HEAD + FIRST + SECOND.replace(",8,,", ",8,,?")).encode()))
    assert first["code"] == CODED
    assert second["code"] == {"text": "?"}


def test_nor_does_a_message_of_the_message_before(tmp_path: Path) -> None:
    by = rules(tmp_path)
    for _ in range(2):
        (first,) = resources(received(by, (HEAD + FIRST).encode()))
        assert first["code"] == CODED
    (second,) = resources(received(by, (HEAD + "o2,8,,?\n").encode()))
    assert second["code"] == {"text": "?"}


def test_a_row_with_no_cell_for_the_element_has_none_and_is_refused_where_r4_wants_it(tmp_path: Path) -> None:
    reception = received(rules(tmp_path), (HEAD + FIRST + SECOND).encode())
    (refused,) = [entry for entry in reception.entries if not hasattr(entry, "resource")]
    assert refused.index == 1
    assert any("code" in issue.expression for issue in refused.issues)


def test_a_constant_that_no_column_fills_is_in_every_row_as_it_is_written(tmp_path: Path) -> None:
    constant = "category: {coding: [{system: 'urn:a', code: lab}, {system: 'urn:b', code: c}], text: Lab}"
    found = resources(received(rules(tmp_path, constant), (HEAD + FIRST + "o2,8,A,\n").encode()))
    wanted = {"coding": [{"system": "urn:a", "code": "lab"}, {"system": "urn:b", "code": "c"}], "text": "Lab"}
    assert [each["category"] for each in found] == [[wanted], [wanted]]
    found[0]["category"][0]["coding"].clear()
    assert found[1]["category"] == [wanted]


def test_a_column_that_adds_to_the_list_of_a_constant_takes_nothing_from_it(tmp_path: Path) -> None:
    constant = "category: {coding: [{system: 'urn:a', code: lab}]}"
    more = "      Kind: {path: category, system: 'urn:k', optional: true}\n"
    by = rules(tmp_path, constant, more)
    rows = "No,Pat,Code,Txt,Kind\no1,7,A,,K\no2,8,A,,\n"
    first, second = resources(received(by, rows.encode()))
    fixed = {"coding": [{"system": "urn:a", "code": "lab"}]}
    assert first["category"] == [fixed, {"coding": [{"system": "urn:k", "code": "K"}]}]
    assert second["category"] == [fixed]


def test_what_stands_beside_a_primitive_is_kept_and_is_no_rows_own(tmp_path: Path) -> None:
    constant = "method: {_text: {extension: [{url: 'urn:x', valueCode: unknown}]}}"
    first, second = resources(received(rules(tmp_path, constant), (HEAD + FIRST + "o2,8,A,\n").encode()))
    kept = {"_text": {"extension": [{"url": "urn:x", "valueCode": "unknown"}]}}
    assert first["method"] == second["method"] == kept
    assert first["method"]["_text"] is not second["method"]["_text"]


@pytest.mark.parametrize(
    ("constant", "words"),
    [
        ("code: {codings: [{system: 'urn:labs'}]}", "CodeableConcept has no 'codings'; did you mean 'coding'?"),
        ("code: {text: [a]}", "'text' does not repeat"),
        ("code: {coding: [{system: 5}]}", "Observation.code.coding[0].system must be a JSON string"),
        ("code: {coding: [urn]}", "Observation.code.coding[0] is a Coding: name an element inside it"),
        ("code: {coding: []}", "Observation.code.coding[0] holds nothing"),
        ("code: {}", "Observation.code holds nothing"),
        ("code: {text: a}\n      code.text: b", "Observation.code.text has two constants"),
    ],
)
def test_a_mistake_inside_a_constant_is_told_with_its_place(tmp_path: Path, constant: str, words: str) -> None:
    with pytest.raises(RulesetBroken, match=r"source\.yaml:\d+:\d+ ") as wrong:
        rules(tmp_path, constant)
    assert words in str(wrong.value)


def test_a_table_made_by_hand_of_an_object_gives_each_row_its_own(tmp_path: Path) -> None:
    (form,) = rules(tmp_path).formats
    assert isinstance(form, CsvFormat)
    whole = Constant((Step("code"),), {"coding": [{"system": "urn:labs"}]})
    table = replace(form.tables[0], constants=(whole,))
    first, second = CsvFormat((table,)).read((HEAD + FIRST + SECOND).encode(), "text/csv", 9)
    assert first.resource is not None
    assert second.resource is not None
    assert first.resource["code"] == CODED
    assert second.resource["code"] == {"coding": [{"system": "urn:labs"}]}
