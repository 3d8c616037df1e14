"""What a rule pack may say, and how its mistakes are told."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from fhir_bridge.errors import RulesetBroken
from fhir_bridge.normalize import load_ruleset, run_examples
from tests.unit.normalize.bench import MAPPINGS, RULE, pack

PACKS = ("core", "northgate", "harbor", "cedar")


@pytest.mark.parametrize("name", PACKS)
def test_every_example_of_the_shipped_packs_comes_out_as_written(name: str) -> None:
    results = run_examples(MAPPINGS / name)
    assert len(results) >= 6
    assert [(r.name, r.differences) for r in results if not r.passed] == []


def test_an_example_that_expects_something_else_names_the_element(tmp_path: Path) -> None:
    folder = pack(tmp_path / "p")
    (folder / "examples").mkdir()
    sent = {"resourceType": "Patient", "id": "a", "multipleBirthInteger": 2}
    (folder / "examples" / "one.input.json").write_text(json.dumps(sent))
    (folder / "examples" / "one.expected.json").write_text(json.dumps({**sent, "multipleBirthInteger": 3}))
    (result,) = run_examples(folder)
    assert result.differences == ("Patient.multipleBirthInteger is 2 instead of 3",)


def test_an_example_compares_numbers_by_their_text(tmp_path: Path) -> None:
    folder = pack(tmp_path / "p")
    (folder / "examples").mkdir()
    text = '{"resourceType":"Observation","id":"a","status":"final","code":{"text":"x"},"valueQuantity":{"value":%s}}'
    (folder / "examples" / "one.input.json").write_text(text % "1.10")
    (folder / "examples" / "one.expected.json").write_text(text % "1.1")
    assert not run_examples(folder)[0].passed


BROKEN = [
    (RULE + "do:\n  - sett: {path: status, value: final}\n", 5, 5, "unknown verb 'sett'; did you mean 'set'?"),
    (RULE + "do:\n  - set: {path: statuss, value: final}\n", 5, 17, "did you mean 'status'?"),
    (RULE + "do:\n  - set: {path: component.cod, value: x}\n", 5, 17, "did you mean 'code'?"),
    (RULE + "do:\n  - set: {pth: status, value: final}\n", 5, 11, "did you mean 'path'?"),
    (RULE + "do:\n  - remove: {}\n", 5, 13, "'path' is missing"),
    (RULE + "wen: status = 'final'\ndo: []\n", 4, 1, "did you mean 'when'?"),
    (RULE + "when: statu = 'final'\ndo: []\n", 4, 7, "did you mean 'status'?"),
    (RULE + "when: status ^ 'final'\ndo: []\n", 4, 7, "cannot read \"status ^ 'final'\" at 7"),
    (RULE + "when: status.startWith('f')\ndo: []\n", 4, 7, "no function startWith(); did you mean 'startsWith'?"),
    (RULE + "when: value is Quantiy\ndo: []\n", 4, 7, "no type 'Quantiy'; did you mean 'Quantity'?"),
    (RULE + "when: valueQuantity.exists()\ndo: []\n", 4, 7, "a choice is asked for by value"),
    (RULE + "when: issued < now()\ndo: []\n", 4, 7, "now() would give another result each time"),
    (RULE + "when: status > 3\ndo: []\n", 4, 7, "> cannot be put between code and System.Integer"),
    (RULE + "when: issued = '2020-01-31'\ndo: []\n", 4, 7, "never finds instant and System.String equal"),
    (RULE + "when: status.matches('(a+)+')\ndo: []\n", 4, 7, "a pattern that a text can make costly"),
    (RULE + "when: status.matches(code.text)\ndo: []\n", 4, 7, "wants its pattern written out"),
    (RULE + "do:\n  - remove: {path: note.where(txt = 'x')}\n", 5, 20, "did you mean 'text'?"),
    (RULE + "when: value = %source.nothing\ndo: []\n", 4, 7, "no constant 'nothing'"),
    (RULE.replace("Observation", "Observaton") + "do: []\n", 2, 5, "did you mean 'Observation'?"),
    (RULE + "stage: lable\ndo: []\n", 4, 8, "did you mean 'label'?"),
    (RULE + "do:\n  - translate: {path: code, map: labs}\n", 5, 34, "no map 'labs'"),
    (RULE + "do:\n  - coerce: {path: status, to: decimals}\n", 5, 32, "did you mean 'decimal'?"),
    (RULE + "do:\n  - timezone: {path: issued, zone: Mars/Base}\n", 5, 36, "not an IANA time zone"),
    (RULE + "do:\n  - call: {function: fit-to-r5}\n", 5, 22, "did you mean 'fit-to-r4'?"),
    ("rule: r\non: Observation\ndo: []\n", 1, 1, "'why' is missing"),
    (RULE + "do: [\n", 5, 1, "expected"),
    (RULE + "rule: again\ndo: []\n", 4, 1, "duplicate key"),
]


@pytest.mark.parametrize(("text", "line", "column", "message"), BROKEN)
def test_a_mistake_is_told_with_file_line_and_column(
    tmp_path: Path, text: str, line: int, column: int, message: str
) -> None:
    with pytest.raises(RulesetBroken) as caught:
        load_ruleset(pack(tmp_path / "p", text))
    found = re.match(r"p/rules\.yaml:(\d+):(\d+) (.*)", str(caught.value), re.DOTALL)
    assert found is not None, str(caught.value)
    assert (int(found[1]), int(found[2])) == (line, column)
    assert message in found[3]


def test_a_pack_without_source_does_not_load(tmp_path: Path) -> None:
    with pytest.raises(RulesetBroken, match=r"source\.yaml:1:1"):
        load_ruleset(tmp_path)


def test_two_rules_of_one_name_do_not_load(tmp_path: Path) -> None:
    text = "- {rule: r, on: Patient, do: [], why: a}\n- {rule: r, on: Observation, do: [], why: b}\n"
    with pytest.raises(RulesetBroken, match=r"rules\.yaml:2:3 rule 'r' already stands"):
        load_ruleset(pack(tmp_path / "p", text))


def test_a_code_mapped_to_two_targets_does_not_load(tmp_path: Path) -> None:
    source = "maps:\n  m: {file: m.csv}\n"
    table = "code,target_code\na,1\na,2\n"
    with pytest.raises(RulesetBroken, match=r"p/m\.csv:3:1 the code is mapped twice, .* empty 'target_code' in both"):
        load_ruleset(pack(tmp_path / "p", source=source, m_csv=table))


def test_a_table_outside_its_pack_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("code,target_code\n")
    with pytest.raises(RulesetBroken, match="inside its pack"):
        load_ruleset(pack(tmp_path / "p", source="maps:\n  m: {file: ../m.csv}\n"))


def test_a_table_that_is_missing_or_lacks_a_column_does_not_load(tmp_path: Path) -> None:
    with pytest.raises(RulesetBroken, match=r"source\.yaml:2:13 no\.csv cannot be read"):
        load_ruleset(pack(tmp_path / "p", source="maps:\n  m: {file: no.csv}\n"))
    with pytest.raises(RulesetBroken, match=r"m\.csv:2:1 no column 'target_code'"):
        load_ruleset(pack(tmp_path / "q", source="maps:\n  m: {file: m.csv}\n", m_csv="code,other\na,b\n"))


def test_the_hash_changes_with_content_and_not_with_place_or_examples(tmp_path: Path) -> None:
    shutil.copytree(MAPPINGS, tmp_path / "a")
    shutil.copytree(MAPPINGS / "core", tmp_path / "b" / "core")
    shutil.copytree(MAPPINGS / "harbor", tmp_path / "b" / "seaside")
    shutil.rmtree(tmp_path / "b" / "seaside" / "examples")
    first = load_ruleset(tmp_path / "a" / "harbor").hash
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert load_ruleset(tmp_path / "b" / "seaside").hash == first
    for changed in ("seaside/codes/dictionary.csv", "seaside/observations.yaml", "core/labels.yaml"):
        path = tmp_path / "b" / changed
        before = path.read_bytes()
        path.write_bytes(before + b"\n")
        assert load_ruleset(tmp_path / "b" / "seaside").hash != first, changed
        path.write_bytes(before)
    assert load_ruleset(tmp_path / "b" / "seaside").hash == first


def test_core_is_found_even_when_it_does_not_stand_beside_the_pack(tmp_path: Path) -> None:
    alone = load_ruleset(pack(tmp_path / "p", source="extends: core\n"))
    every = {r.name for r in load_ruleset(MAPPINGS / "core").rules}
    assert {r.name for r in alone.rules} == {name for name in every if name.startswith("core/")}
    # The rules of other releases wait until such a record comes.
    for release in ("STU3", "R4B", "R5"):
        fit = f"{release.lower()}/fit"
        assert fit in every
        assert fit in {r.name for r in alone.rules_for("fit", "Patient", release)}


@pytest.mark.parametrize("head", ["sort,local,loinc", "kind;local;loinc"])
def test_a_column_that_is_named_and_not_there_does_not_load(tmp_path: Path, head: str) -> None:
    source = (
        "institution: x\nmaps:\n  m:\n    file: codes/m.csv\n    where: {kind: lab}\n"
        "    columns: {code: local, target_code: loinc}\n    constants: {system: s, target_system: t}\n"
    )
    folder = pack(tmp_path / "p", RULE + "do: []\n", source, codes__m_csv=f"{head}\nlab,A,1\n".replace(",", head[4]))
    with pytest.raises(RulesetBroken, match="no column"):
        load_ruleset(folder)


def test_an_example_that_is_no_resource_fails_and_the_others_run(tmp_path: Path) -> None:
    folder = pack(tmp_path / "p")
    (folder / "examples").mkdir()
    (folder / "examples" / "one.input.json").write_text("{}")
    assert [result.differences for result in run_examples(folder)] == [("the input has no resourceType",)]
