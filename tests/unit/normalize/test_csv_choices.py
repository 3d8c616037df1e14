"""What a pack says of CSV files is checked when it loads: every mistake has line, column and the remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fhir_bridge.errors import RulesetBroken
from fhir_bridge.normalize import Ruleset, load_ruleset, run_examples

_PACK = """institution: c
csv:
  t:
    type: Observation
    id: n
    columns:
      n: identifier.value
"""


def _load(folder: Path, text: str) -> Ruleset:
    (folder / "c").mkdir(exist_ok=True)
    (folder / "c" / "source.yaml").write_text(text)
    return load_ruleset(folder / "c")


def _broken(folder: Path, text: str) -> str:
    with pytest.raises(RulesetBroken) as broken:
        _load(folder, text)
    return str(broken.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("v: valueQuantitty", "8:10 Observation has no 'valueQuantitty'; did you mean 'valueQuantity'?"),
        ("v: value", "8:10 Observation.value[x] is a choice: name one of valueCodeableConcept,"),
        ("v: subject.reference.x", "8:10 Observation.subject.reference is a string and has no parts"),
        ("v: status[1]", "8:10 'status' does not repeat: leave out [1]"),
        ("v: 'a b'", "8:10 cannot read the path 'a b'"),
        ("v: id", "8:10 Observation.id is not filled from columns"),
        ("v: code", "8:10 Observation.code is a CodeableConcept and needs 'system'"),
        ("v: subject", "8:10 Observation.subject is a Reference: say to what, 'reference: Device, Group, Location,"),
        (
            "v: {path: subject, reference: Pasient}",
            "8:37 Observation.subject cannot point to 'Pasient'; did you mean",
        ),
        ("v: referenceRange", "8:10 Observation.referenceRange[0] is a Observation.referenceRange: name an element"),
        ("v: {path: status, dat: x}", "8:25 unknown key of a column 'dat'; did you mean 'date'?"),
        ("v: {path: effectiveDateTime, zone: UTC}", "8:36 'zone' needs 'date': FHIR's own form"),
        ("v: {path: effectivePeriod.start, zone: UTC, codes: {a: '2026'}}", "'zone' needs 'date'"),
        ("v: {path: status, date: YYYY}", "8:25 'date' says nothing about Observation.status, which is a code"),
        ("v: {path: effectiveDateTime, date: DD.MM.YY}", "8:42 'DD.MM.YY': write YYYY; two digits of a year name no"),
        ("v: {path: effectiveDateTime, date: 'DD.MM.YYYY HH:mm'}", "8:42 'DD.MM.YYYY HH:mm' has a time without an"),
        ("v: {path: issued, zone: Mars, date: 'YYYY-MM-DD HH:mm'}", "8:31 not an IANA time zone"),
        (
            "v: {path: status, codes: {f: finaal}}",
            "takes only codes of http://hl7.org/fhir/ValueSet/observation-status",
        ),
        ("v: {path: valueInteger, codes: {a: x}}", "the value of 'a' must be a whole JSON number"),
        ("v: {path: valueQuantity, decimal: dot}", "8:41 'decimal' must be comma or point"),
        ("v: {path: valueQuantity, thousands: ', '}", "'thousands' must be one sign"),
        ("v: {path: valueQuantity, ucum: mgdl}", "8:38 not a UCUM code; use 'unit'"),
        ("v: {path: valueQuantity, unit: mg, unit_from: u}", "leave 'unit' and 'ucum' out"),
        ("v: {path: valueQuantity, else: valueBoolean}", "8:38 'else' takes the text as it stands"),
        ("v: {path: code, system: '%source.labs'}", "source.yaml has no constant 'labs'"),
        ("v: {path: valueString, required: maybe}", "'required' must be true or false"),
        (
            "v: [valueString, {path: status}]\n      w: valueString",
            "6:5 columns 'v' and 'w' both fill Observation.value",
        ),
    ],
)
def test_a_mistake_in_a_column_is_told_with_its_place(tmp_path: Path, line: str, words: str) -> None:
    assert words in _broken(tmp_path, _PACK + f"      {line}\n")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    id: n\n", "", "4:5 'id' is missing: name the column whose value says which record a row is about"),
        ("type: Observation", "type: Observaton", "4:11 no resource type 'Observaton'; did you mean 'Observation'?"),
        ("    id: n", "    id: n\n    delimiter: ':'", "6:16 'delimiter' must be one of"),
        ("    id: n", "    id: n\n    encoding: utf8", "6:15 'encoding' must be one of utf-8,"),
        ("    id: n", "    id: n\n    constants: {status: 5}", "6:25 Observation.status must be a JSON string"),
        (
            "    id: n",
            "    id: n\n    constants: {code: lab}",
            "Observation.code is a CodeableConcept: name an element",
        ),
        ("institution: c", "institution: c\nfhir_version: STU3", "3:1 CSV becomes R4, and this pack says"),
        ("institution: c", "institution: c\ntime_zone: Mars/Base", "'time_zone' of the source is not an IANA"),
        ("    columns:\n      n: identifier.value\n", "", "'columns' is missing"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_place(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert words in _broken(tmp_path, _PACK.replace(old, new))


def test_the_zone_of_an_element_that_tells_no_time_is_a_mistake(tmp_path: Path) -> None:
    text = _PACK.replace("Observation", "Patient") + "      v: {path: birthDate, date: DD.MM.YYYY, zone: UTC}\n"
    assert "'zone' says nothing about Patient.birthDate, which is a date" in _broken(tmp_path, text)


def test_what_the_pack_says_of_csv_is_in_its_hash(tmp_path: Path) -> None:
    first = _load(tmp_path, _PACK)
    other = _load(tmp_path, _PACK.replace("identifier.value", "valueString"))
    assert first.hash != other.hash
    assert first.formats


def test_core_describes_no_files(tmp_path: Path) -> None:
    core = tmp_path / "core"
    core.mkdir()
    (core / "source.yaml").write_text(_PACK)
    assert "core/source.yaml:2:1 CSV files are described by" in _broken(tmp_path, "institution: c\nextends: core\n")


def test_an_example_may_be_a_row(tmp_path: Path) -> None:
    _load(tmp_path, _PACK + "      s: status\n    constants: {code.text: x}\n")
    examples = tmp_path / "c" / "examples"
    examples.mkdir()
    (examples / "one.input.csv").write_text("n,s\n1,final\n")
    wanted = {"resourceType": "Observation", "id": "1", "code": {"text": "x"}, "status": "final"}
    (examples / "one.expected.json").write_text(json.dumps(wanted | {"identifier": [{"value": "1"}]}))
    (examples / "two.input.csv").write_text("n,s\n1,final\n2,final\n")
    (examples / "two.expected.json").write_text("{}")
    (examples / "wrong.input.csv").write_text("n,s\n,final\n")
    (examples / "wrong.expected.json").write_text("{}")
    one, two, wrong = run_examples(tmp_path / "c")
    assert one.passed, one.differences
    assert two.differences == ("cannot be read: an example is one record, this one 2",)
    assert "row 2, column 'n': is empty" in wrong.differences[0]
