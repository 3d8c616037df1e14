"""A table of any kind that is marked as a guess is read and not used; its codes count as codes to be mapped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.errors import RulesetBroken
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize import Ruleset, load_ruleset, preview, take_snapshot

OWN = "urn:own"
TABLES = {
    "maps": "    constants: {system: 'urn:own', target_system: 'http://loinc.org'}\n",
    "units": "    constants: {system: 'urn:own'}\n",
    "preferred_units": "    constants: {system: 'urn:own'}\n",
    "labels": "    constants: {system: 'urn:own'}\n    label_system: urn:labels\n",
}
ROWS = {
    "maps": "code,target_code\nA,2339-0\n",
    "units": "code,local_unit,canonical,factor\nA,g,kg,1000\n",
    "preferred_units": "code,unit\nA,kg\n",
    "labels": "code,labels\nA,R\n",
}
FIELD = {"maps": "targets", "units": "rows", "preferred_units": "targets", "labels": "labels"}
RULE = "rule: r\nversion: 1\non: Observation\nwhy: test\ndo:\n  - translate: {path: code, map: ours}\n"


def _pack(folder: Path, kind: str, mark: str = "", rows: str = "") -> Ruleset:
    folder.mkdir(exist_ok=True)
    (folder / "table.csv").write_text(rows or ROWS[kind])
    (folder / "source.yaml").write_text(
        f"institution: x\n{kind}:\n  ours:\n{mark}    file: table.csv\n{TABLES[kind]}"
    )
    if kind == "maps":
        (folder / "rules.yaml").write_text(RULE)
    return load_ruleset(folder)


def _codes_of_flags(ruleset: Ruleset) -> list[str]:
    body: dict[str, Any] = {"resourceType": "Observation", "id": "o", "status": "final"}
    body["code"] = {"coding": [{"system": OWN, "code": "A"}]}
    return [flag.code for flag in preview(body, FhirVersion.R4, ruleset).flags]


@pytest.mark.parametrize("kind", list(TABLES))
def test_what_is_guessed_is_not_used_until_the_mark_is_gone(tmp_path: Path, kind: str) -> None:
    used = _pack(tmp_path / "p", kind)
    assert getattr(getattr(used.tables, kind)["ours"], FIELD[kind])
    guessed = _pack(tmp_path / "p", kind, "    guess: true\n")
    assert not getattr(getattr(guessed.tables, kind)["ours"], FIELD[kind])
    assert guessed.hash != used.hash
    with pytest.raises(RulesetBroken, match="'guess' must be true or false"):
        _pack(tmp_path / "p", kind, "    guess: perhaps\n")


def test_codes_of_a_guessed_map_or_without_a_target_are_reported_as_the_senders_own(tmp_path: Path) -> None:
    assert _codes_of_flags(_pack(tmp_path / "p", "maps")) == []
    assert _codes_of_flags(_pack(tmp_path / "p", "maps", "    guess: true\n")) == ["code-invalid"]
    assert _codes_of_flags(_pack(tmp_path / "p", "maps", rows="code,target_code\nA,\n")) == ["code-invalid"]


def test_a_guessed_concept_map_is_read_and_not_used(tmp_path: Path) -> None:
    _pack(tmp_path / "p", "maps")
    element = {"code": "A", "target": [{"code": "2339-0", "equivalence": "equivalent"}]}
    group = {"source": OWN, "target": "http://loinc.org", "element": [element]}
    held = {"resourceType": "ConceptMap", "status": "active", "url": "urn:m", "group": [group]}
    (tmp_path / "p" / "table.json").write_text(json.dumps(held))
    source = "institution: x\nmaps:\n  ours: {file: table.json%s}\n"
    (tmp_path / "p" / "source.yaml").write_text(source % "")
    assert _codes_of_flags(load_ruleset(tmp_path / "p")) == []
    (tmp_path / "p" / "source.yaml").write_text(source % ", guess: true")
    assert _codes_of_flags(load_ruleset(tmp_path / "p")) == ["code-invalid"]


def test_a_spelling_without_a_code_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "spellings.csv").write_text("unit,ucum\npts,\nmmHg, mm[Hg]\n")
    table = _pack(tmp_path / "p", "units", "    spellings: spellings.csv\n").tables.units["ours"]
    assert table.spellings == {"mmHg": "mm[Hg]"}


def test_a_copy_of_a_pack_reads_rows_as_the_pack_does(tmp_path: Path) -> None:
    pack = tmp_path / "p"
    pack.mkdir()
    (pack / "source.yaml").write_text(
        "institution: x\nconstants: {own: 'urn:own'}\ncsv:\n  labs:\n    type: Observation\n    id: n\n"
        "    columns: {n: {path: code, system: '%source.own'}}\n    constants: {status: final}\n"
    )
    copy = load_ruleset(take_snapshot(pack).write(tmp_path / "copy"))
    ours = load_ruleset(pack)
    assert copy.hash == ours.hash
    read = [[d.resource for d in each.formats[0].read(b"n\nA\n", "text/csv", 9)] for each in (ours, copy)]
    assert read[0] == read[1]
    assert read[0][0] is not None
    assert read[0][0]["code"]["coding"] == [{"system": OWN, "code": "A"}]
