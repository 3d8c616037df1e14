"""A pack that is loaded again is what its files say now, and what did not change is not read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize import Ruleset, load_ruleset, preview, rule_prints
from fhir_bridge.normalize.loaded_tables import load_table
from fhir_bridge.normalize.pack import declared, source_of
from fhir_bridge.normalize.same import Same

SOURCE = """institution: x
constants: {lab: 'urn:lab', word: one}
maps:
  codes:
    file: codes.csv
    constants: {system: 'urn:lab', target_system: 'http://loinc.org'}
units:
  units:
    file: units.csv
    spellings: spellings.csv
    constants: {system: 'urn:lab'}
"""
RULES = """- rule: r/code
  version: 1
  on: Observation
  when: code.coding.where(system = %source.lab).exists()
  do:
    - translate: {path: code, map: codes}
  why: test
- rule: r/unit
  version: 1
  on: Observation
  do:
    - unit: {path: value, table: units}
  why: test
"""
NOTE = (
    "rule: r/note\nversion: 1\non: Observation\ndo:\n  - set: {path: method.text, value: '%source.word'}\nwhy: test\n"
)
FILES = {
    "source.yaml": SOURCE,
    "rules.yaml": RULES,
    "note.yaml": NOTE,
    "codes.csv": "code,target_code\nA,2339-0\n",
    "units.csv": "code,local_unit,canonical,factor\nA,gramm,kg,1000\n",
    "spellings.csv": "unit,ucum\ngramm,g\n",
}


def _written(folder: Path, **changed: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        (folder / name).write_text(changed.get(name.replace(".", "_"), text))
    return folder


def _made(ruleset: Ruleset) -> tuple[Any, ...]:
    """The standard code, the converted value, and the note that the rules give one Observation."""
    body: dict[str, Any] = {"resourceType": "Observation", "id": "o", "status": "final"}
    body["code"] = {"coding": [{"system": "urn:lab", "code": "A"}]}
    body["valueQuantity"] = {"value": 1000, "unit": "gramm"}
    done = preview(body, FhirVersion.R4, ruleset).body
    value = done["valueQuantity"]
    return done["code"]["coding"][0].get("code"), int(value["value"]), value.get("code"), done["method"]["text"]


CHANGES: list[tuple[dict[str, str], tuple[Any, ...]]] = [
    ({}, ("2339-0", 1, "kg", "one")),
    ({"codes_csv": "code,target_code\nA,8867-4\n"}, ("8867-4", 1, "kg", "one")),
    ({"codes_csv": "code,target_code\nB,2339-0\n"}, ("A", 1, "kg", "one")),
    ({"units_csv": "code,local_unit,canonical,factor\nA,gramm,kg,500\n"}, ("2339-0", 2, "kg", "one")),
    ({"source_yaml": SOURCE.replace("word: one", "word: two")}, ("2339-0", 1, "kg", "two")),
    ({"source_yaml": SOURCE.replace("'urn:lab', word", "'urn:other', word")}, ("A", 1, "kg", "one")),
    ({"note_yaml": NOTE.replace("%source.word", "three")}, ("2339-0", 1, "kg", "three")),
    (
        {"source_yaml": SOURCE.replace("file: codes.csv", "file: codes.csv\n    guess: true")},
        ("A", 1, "kg", "one"),
    ),
]


@pytest.mark.parametrize(("changed", "expected"), CHANGES)
def test_whatever_is_saved_counts_at_the_next_load_and_so_does_going_back(
    tmp_path: Path, changed: dict[str, str], expected: tuple[Any, ...]
) -> None:
    folder = _written(tmp_path / "p")
    assert _made(load_ruleset(folder)) == CHANGES[0][1]
    assert _made(load_ruleset(_written(folder, **changed))) == expected
    assert _made(load_ruleset(_written(folder))) == CHANGES[0][1]


def test_the_spelling_of_a_unit_counts_at_the_next_load(tmp_path: Path) -> None:
    folder = _written(tmp_path / "p", spellings_csv="unit,ucum\n")
    before = load_ruleset(folder)
    (folder / "spellings.csv").write_text("unit,ucum\ngramm,g\n")
    assert before.tables.units["units"].spellings == {}
    assert load_ruleset(folder).tables.units["units"].spellings == {"gramm": "g"}


def test_packs_of_one_name_that_share_their_rules_keep_their_own_tables(tmp_path: Path) -> None:
    one = load_ruleset(_written(tmp_path / "one" / "p"))
    other = load_ruleset(_written(tmp_path / "other" / "p", codes_csv="code,target_code\nA,8867-4\n"))
    assert [_made(one)[0], _made(other)[0]] == ["2339-0", "8867-4"]


@pytest.mark.parametrize("changed", [changed for changed, _ in CHANGES])
def test_the_prints_of_rules_do_not_depend_on_what_was_loaded_before(tmp_path: Path, changed: dict[str, str]) -> None:
    def prints(folder: Path) -> dict[str, str]:
        return rule_prints(folder, load_ruleset(folder))

    first = prints(_written(tmp_path / "p"))
    other = prints(_written(tmp_path / "p", **changed))
    assert prints(_written(tmp_path / "p")) == first
    touched = {name for name in first if first[name] != other[name]}
    assert touched == PRINTS[next(iter(changed), "")](changed)


PRINTS: dict[str, Callable[[dict[str, str]], set[str]]] = {
    "": lambda _: set(),
    "codes_csv": lambda _: {"r/code"},
    "units_csv": lambda _: {"r/unit"},
    "note_yaml": lambda _: {"r/note"},
    "source_yaml": lambda changed: {"r/note"} if "word: two" in changed["source_yaml"] else {"r/code"},
}
"""File that is saved → the rules that rest on what changes in it."""


def test_what_did_not_change_is_neither_read_nor_compiled_again(tmp_path: Path) -> None:
    before = load_ruleset(_written(tmp_path / "p"))
    after = load_ruleset(_written(tmp_path / "p", note_yaml=NOTE + "# saved\n"))
    assert after.tables.maps["codes"] is before.tables.maps["codes"]
    assert after.tables.units["units"] is before.tables.units["units"]
    assert {rule.name for rule in after.rules if any(rule is old for old in before.rules)} == {"r/code", "r/unit"}


class _Restless(type(Path())):  # type: ignore[misc]  # Path is made as its kind for this system
    """A folder in which somebody saves a file right after it was looked at."""

    saves: ClassVar[list[str]] = []

    def read_bytes(self) -> bytes:
        content = super().read_bytes()
        if self.saves:
            self.write_text(self.saves.pop(0))
        return bytes(content)


def test_a_table_that_changes_while_it_is_read_is_not_kept_for_what_it_was(tmp_path: Path) -> None:
    folder = _written(tmp_path / "p", codes_csv="code,target_code\nA,29463-7\n")
    ((name, entry),) = declared(source_of(folder), "maps")

    def code(where: Path) -> str:
        found = load_table("maps", name, entry, where, "p")
        return str(found.targets["urn:lab", "A"].code)

    _Restless.saves = ["code,target_code\nA,8867-4\n", "code,target_code\nA,718-7\n"]
    assert code(_Restless(folder)) == "718-7"
    (folder / "codes.csv").write_text("code,target_code\nA,29463-7\n")
    assert code(folder) == "29463-7"


def test_what_is_known_by_identity_equals_itself_and_nothing_like_it() -> None:
    value: dict[str, str] = {}
    assert Same(value) == Same(value)
    assert Same(value) != Same({})
