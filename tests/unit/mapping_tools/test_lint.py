"""Lint: one pack with one mistake gives one finding at its place, and all mistakes are found at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fhir_bridge.cli.main import main
from fhir_bridge.errors import RulesetBroken
from fhir_bridge.mapping_tools.findings import CODES, Finding, as_github, as_sarif
from fhir_bridge.mapping_tools.lint import lint
from fhir_bridge.normalize import load_ruleset
from tests.unit.normalize.bench import MAPPINGS, pack
from tests.unit.normalize.test_packs import BROKEN

SARIF = Path(__file__).resolve().parents[2] / "vectors" / "sarif" / "sarif-2.1.0-rtm.5.json"
HEAD = "institution: x\ntime_zone: Europe/Paris\n"
RULE = "rule: r\nversion: 1\non: Observation\nwhy: test\n"


def findings(folder: Path, rules: str = "", source: str = HEAD, **files: str) -> list[Finding]:
    """What lint says of a pack, but for the examples that these packs do not have."""
    found = lint(pack(folder / "p", rules, source, **files), "p")
    return [each for each in found if each.code != "no-example"]


@pytest.mark.parametrize(("text", "line", "column", "words"), BROKEN)
def test_whatever_the_loader_refuses_lint_finds_at_the_same_place(
    tmp_path: Path, text: str, line: int, column: int, words: str
) -> None:
    folder = pack(tmp_path / "p", text)
    with pytest.raises(RulesetBroken) as told:
        load_ruleset(folder)
    errors = [f"{e.file}:{e.line}:{e.column} {e.message}" for e in lint(folder, "p") if e.severity == "error"]
    assert str(told.value) in errors


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    rules = (
        "- rule: a\n  version: 1\n  on: [Observation, Patiet]\n  whn: x\n"
        "  do:\n    - set: {path: statuss, valu: 1}\n    - sett: {}\n"
        "- rule: b\n  version: x\n  on: Patient\n  when: gendr = 'male'\n  why: w\n"
        "  do:\n    - translate: {path: gender, map: none, unmapped: kep}\n"
    )
    found = findings(tmp_path, rules, HEAD + "consants: {}\n")
    assert [(f.file, f.line, f.column) for f in found if f.severity == "error"] == [
        ("p/rules.yaml", 1, 3),  # no why
        ("p/rules.yaml", 3, 21),  # no such type
        ("p/rules.yaml", 4, 3),  # whn
        ("p/rules.yaml", 6, 19),  # statuss
        ("p/rules.yaml", 6, 28),  # valu
        ("p/rules.yaml", 7, 7),  # sett
        ("p/rules.yaml", 9, 12),  # version
        ("p/rules.yaml", 11, 9),  # gendr
        ("p/rules.yaml", 14, 38),  # no map
        ("p/rules.yaml", 14, 54),  # kep
        ("p/source.yaml", 3, 1),  # consants
    ]


def condition(when: str, on: str = "Observation") -> str:
    return f"rule: r\nversion: 1\non: {on}\nwhy: test\nwhen: {when}\ndo:\n  - narrative: {{policy: drop}}\n"


@pytest.mark.parametrize(
    ("when", "on"),
    [
        ("status = 'finall'", "Observation"),
        ("status = 'final' and status = 'amended'", "Observation"),
        ("status = 'finall' or status = 'finnal'", "Observation"),
        ("code.coding.where(system = 'a' and system = 'b').exists()", "Observation"),
        ("code.exists() and code.exists().not()", "Observation"),
        ("code.exists() and code.empty()", "Observation"),
        ("contact.exists(gender = 'm')", "Patient"),
    ],
)
def test_a_condition_that_no_record_can_meet(tmp_path: Path, when: str, on: str) -> None:
    codes = [f.code for f in findings(tmp_path, condition(when, on))]
    assert codes == ["never-holds"]


@pytest.mark.parametrize(("when", "on"), [("active = 'true'", "Patient"), ("code = '8310-5'", "Observation")])
def test_values_of_types_that_are_never_equal_do_not_load_and_are_told_once(
    tmp_path: Path, when: str, on: str
) -> None:
    assert [f.code for f in findings(tmp_path, condition(when, on))] == ["broken"]


@pytest.mark.parametrize(
    "when",
    [
        "status = 'final'",
        "status = 'finall' or status = 'final'",
        "code.coding.where(system = 'a').exists() and code.coding.where(system = 'b').exists()",
        "code.coding.code = '1' and component.code.coding.code = '2'",
        "value.exists() and value.coding.exists().not()",
        "category.exists(coding.code = 'laboratory')",
    ],
)
def test_a_condition_that_a_record_can_meet_is_left_alone(tmp_path: Path, when: str) -> None:
    assert findings(tmp_path, condition(when)) == []


@pytest.mark.parametrize(("when", "on"), [("active = 'true'", "Patient"), ("code = '8310-5'", "Observation")])
def test_two_types_that_are_never_equal_are_one_mistake(tmp_path: Path, when: str, on: str) -> None:
    assert [each.code for each in findings(tmp_path, condition(when, on))] == ["broken"]


@pytest.mark.parametrize(
    ("release", "on", "when"),
    [
        ("R5", "MedicationStatement", "status = 'recorded'"),
        ("R5", "Encounter", "status = 'discharged'"),
        ("STU3", "Claim", "use = 'proposed'"),
    ],
)
def test_a_condition_on_records_of_another_release_is_judged_by_it(
    tmp_path: Path, release: str, on: str, when: str
) -> None:
    rule = condition(when, on).replace("rule: r\n", f"rule: r\nfrom: {release}\n")
    assert findings(tmp_path, rule) == []
    assert [each.code for each in findings(tmp_path, rule.replace("'\n", "x'\n"))] == ["never-holds"]


def test_a_rule_for_another_release_than_the_packs_needs_no_example(tmp_path: Path) -> None:
    rule = condition("status = 'final'").replace("rule: r\n", "rule: r\nfrom: R5\n")
    folder = pack(tmp_path / "p", rule, HEAD)
    assert "no-example" not in {each.code for each in lint(folder)}
    (folder / "source.yaml").write_text(HEAD + "fhir_version: R5\n")
    assert "no-example" in {each.code for each in lint(folder)}


def test_two_writers_of_one_element_are_both_named(tmp_path: Path) -> None:
    rules = "".join(
        f"- rule: {name}\n  version: 1\n  on: Observation\n  why: w\n  do:\n"
        f"    - set: {{path: code.text, value: {name}}}\n"
        for name in ("one", "two")
    )
    (found,) = findings(tmp_path, rules)
    assert (found.code, found.line) == ("two-writers", 12)
    assert "two writes code.text, and so does one (p/rules.yaml:1)" in found.message


@pytest.mark.parametrize(
    ("first", "second"),
    [("status = 'final'", "status = 'amended'"), ("status.exists()", "status.exists().not()")],
)
def test_writers_that_exclude_each_other_are_no_two_writers(tmp_path: Path, first: str, second: str) -> None:
    rules = "".join(
        f'- rule: "{when}"\n  version: 1\n  on: Observation\n  why: w\n  when: {when}\n  do:\n'
        f"    - set: {{path: code.text, value: x}}\n"
        for when in (first, second)
    )
    assert findings(tmp_path, rules) == []


def test_one_rule_may_write_an_element_twice_in_its_order(tmp_path: Path) -> None:
    steps = "do:\n  - default: {path: code.text, value: x}\n  - set: {path: code.text, value: y}\n"
    assert findings(tmp_path, RULE + steps) == []


SHADOWED = [
    "  do:\n    - quarantine: {text: not yet}\n",
    "  do:\n    - set: {path: status, value: amended}\n",
    "  do:\n    - default: {path: status, value: final}\n",
]


@pytest.mark.parametrize("first", SHADOWED)
def test_a_rule_that_comes_too_late_is_told(tmp_path: Path, first: str) -> None:
    head = "  version: 1\n  on: Observation\n  why: w\n"
    rules = f"- rule: one\n{head}{first}- rule: two\n{head}{SHADOWED[2]}"
    assert "shadowed" in [f.code for f in findings(tmp_path, rules)]


@pytest.mark.parametrize("first", SHADOWED[:2])
def test_a_rule_for_stu3_leaves_the_records_of_r4_alone(tmp_path: Path, first: str) -> None:
    head = "  version: 1\n  on: Observation\n  why: w\n"
    rules = f"- rule: one\n  from: STU3\n{head}{first}- rule: two\n{head}{SHADOWED[2]}"
    assert findings(tmp_path, rules) == []


MAP = "maps:\n  m: {file: m.csv, constants: {system: 'urn:x', target_system: 'http://loinc.org'}}\n"
UNITS = "units:\n  u: {file: u.csv, constants: {system: 'urn:x'}}\n"
USED = RULE + "do:\n  - translate: {path: code, map: m}\n"
UNIT_USED = RULE + "do:\n  - unit: {path: value, table: u}\n"


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ("a,8310-5\nb,2339-0\n", []),
        ("a,8310-5\na,2339-0\n", [("two-targets", 3)]),
        ("a,8310-5\na,8310-5\n", [("doubled-row", 3)]),
        ("a,8310-6\nb,2339-0\nc,glucose\n", [("check-digit", 2), ("odd-code", 4)]),
        ("a,8310-5\na,\n", []),
    ],
)
def test_rows_of_a_code_map(tmp_path: Path, rows: str, found: list[tuple[str, int]]) -> None:
    told = findings(tmp_path, USED, HEAD + MAP, m_csv="code,target_code\n" + rows)
    assert [(f.code, f.line) for f in told] == found


def test_rows_that_say_how_they_differ_may_give_a_code_several_targets(tmp_path: Path) -> None:
    rows = "code,target_code,equivalence\na,8310-5,narrower\na,2339-0,wider\na,2339-0,wider\n"
    told = findings(tmp_path, USED, HEAD + MAP, m_csv=rows)
    assert [(f.code, f.line) for f in told] == [("doubled-row", 4)]


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("a,mg/dL,mmol/L,18", []),
        ("a,mg/dl ,mmol/L,18", []),
        ("a,mgs/dL,x,", [("not-ucum", 2)]),
        ("a,pH,pH,", [("misread-unit", 2)]),
        ("a,mg/dL,mmol/L,0.0", [("zero-factor", 2)]),
    ],
)
def test_rows_of_a_unit_table(tmp_path: Path, row: str, found: list[tuple[str, int]]) -> None:
    told = findings(tmp_path, UNIT_USED, HEAD + UNITS, u_csv=f"code,canonical,local_unit,factor\n{row}\n")
    assert [(f.code, f.line) for f in told] == found


def test_what_nobody_uses_and_what_was_left_out(tmp_path: Path) -> None:
    source = "institution: x\nconstants: {used: a, idle: b}\n" + MAP
    rules = RULE.replace("version: 1\n", "") + "do:\n  - set: {path: code.text, value: '%source.used'}\n"
    told = findings(tmp_path, rules, source, m_csv="code,target_code\n")
    assert [f.code for f in told] == ["no-version", "no-time-zone", "unused-constant", "empty-table", "unused-table"]
    assert "%source.idle" in told[2].message


def test_a_code_with_a_wrong_check_digit_in_a_rule(tmp_path: Path) -> None:
    steps = "do:\n  - set: {path: code, value: {coding: [{system: http://snomed.info/sct, code: '73211008'}]}}\n"
    assert [f.code for f in findings(tmp_path, RULE + steps)] == ["check-digit"]


def test_a_rule_that_no_example_exercises_is_told_and_one_that_is_not(tmp_path: Path) -> None:
    rules = "".join(
        f"- rule: {name}\n  version: 1\n  on: Observation\n  why: w\n  do:\n"
        f"    - default: {{path: {path}, value: [{{text: x}}]}}\n"
        for name, path in (("shown", "category"), ("hidden", "interpretation"))
    )
    folder = pack(tmp_path / "p", rules, HEAD)
    (folder / "examples").mkdir()
    sent: dict[str, Any] = {"resourceType": "Observation", "id": "o", "interpretation": [{"text": "y"}]}
    (folder / "examples" / "a.input.json").write_text(json.dumps(sent))
    (folder / "examples" / "a.expected.json").write_text(json.dumps({**sent, "category": [{"text": "x"}]}))
    assert [(f.code, f.line) for f in lint(folder, "p")] == [("no-example", 7)]


@pytest.mark.parametrize("name", ["core", "northgate", "harbor", "cedar"])
def test_there_is_nothing_to_find_in_the_shipped_packs(name: str) -> None:
    assert lint(MAPPINGS / name) == []


@pytest.mark.parametrize("zone", ["Europe/Pari", "Europe", "CEST", "../localtime"])
def test_a_zone_that_is_none_is_a_mistake_though_no_rule_uses_it(tmp_path: Path, zone: str) -> None:
    (told,) = findings(tmp_path, source=f"institution: x\ntime_zone: {zone}\n")
    assert (told.code, told.severity, told.line, told.column) == ("unknown-zone", "error", 2, 12)


def test_a_rule_without_a_step_is_told(tmp_path: Path) -> None:
    (told,) = findings(tmp_path, RULE + "do: []\n")
    assert (told.code, told.line, told.column) == ("empty-do", 5, 5)


@pytest.mark.parametrize(
    ("on", "step"),
    [
        ("Observation", "set: {path: status, value: finall}"),
        ("Observation", "default: {path: status, value: Final}"),
        ("Patient", "set: {path: contact, value: [{gender: m}]}"),
        ("Patient", "default: {path: name, value: [{use: old, family: x}, {use: olden, family: x}]}"),
        ("Patient", "set: {path: name.where(use = 'old').use, value: olden}"),
        ("Condition", "set: {path: clinicalStatus, value: {coding: [{system: urn:x, code: active}]}}"),
        ("[Observation, Patient]", "set: {path: contained.status, value: anything}"),
    ],
)
def test_a_code_that_the_required_value_set_lacks(tmp_path: Path, on: str, step: str) -> None:
    told = findings(tmp_path, RULE.replace("Observation", on) + f"do:\n  - {step}\n")
    expected = [("outside-binding", "error", 6)] if "contained" not in step else [("broken", "error", 6)]
    assert [(f.code, f.severity, f.line) for f in told] == expected


@pytest.mark.parametrize(
    ("on", "steps"),
    [
        ("Observation", ["set: {path: status, value: final}"]),
        ("Observation", ["set: {path: status, value: '%source.institution'}"]),
        ("Observation", ["set: {path: category, value: [{coding: [{system: urn:x, code: x}]}]}"]),
        ("Patient", ["set: {path: contact, value: [{gender: male}]}"]),
        ("Condition", ["set: {path: clinicalStatus, value: {coding: [{system: CLINICAL, code: active}]}}"]),
        ("Observation", ["set: {path: status, value: fertig}", "translate: {path: status, map: m}"]),
        ("Observation", ["default: {path: code.text, value: finall}"]),
    ],
)
def test_a_code_that_may_stand_there_is_left_alone(tmp_path: Path, on: str, steps: list[str]) -> None:
    text = "".join(f"  - {step}\n" for step in steps)
    text = text.replace("CLINICAL", "'http://terminology.hl7.org/CodeSystem/condition-clinical'")
    rules = RULE.replace("Observation", on) + "do:\n" + text
    csv = "code,target_code\nfertig,final\n"
    source = HEAD + "maps:\n  m: {file: m.csv}\n"
    assert [f for f in findings(tmp_path, rules, source, m_csv=csv) if f.code != "unused-table"] == []


def test_a_code_of_another_release_is_judged_by_it(tmp_path: Path) -> None:
    rule = RULE.replace("rule: r\n", "rule: r\nfrom: R5\n").replace("Observation", "MedicationStatement")
    assert findings(tmp_path, rule + "do:\n  - set: {path: status, value: recorded}\n") == []
    (told,) = findings(tmp_path, rule + "do:\n  - set: {path: status, value: recordd}\n")
    assert told.code == "outside-binding"


@pytest.mark.parametrize(
    ("declared", "csv", "is_empty"),
    [
        ("maps:\n  t: {file: t.csv}\n", "code,target_code\n", True),
        ("maps:\n  t: {file: t.csv, where: {kind: b}}\n", "kind,code,target_code\na,A,1\n", True),
        ("maps:\n  t: {file: t.csv}\n", "code,target_code\nA,\n", False),
        ("maps:\n  t: {file: t.csv, guess: true}\n", "code,target_code\n", False),
        ("units:\n  t: {file: t.csv}\n", "code,canonical,local_unit\n", True),
        ("units:\n  t: {file: t.csv, spellings: s.csv}\n", "code,canonical,local_unit\n", False),
        ("labels:\n  t: {file: t.csv, label_system: urn:x}\n", "code,labels\n", True),
        ("preferred_units:\n  tab: {file: t.csv}\n", "code,unit\n", True),
        ("preferred_units:\n  tab: {file: t.csv}\n", "code,unit\nA,mg\n", False),
    ],
)
def test_a_table_that_holds_nothing_is_told(tmp_path: Path, declared: str, csv: str, is_empty: bool) -> None:
    told = findings(tmp_path, "", HEAD + declared, t_csv=csv, s_csv="unit,ucum\nkilo,kg\n")
    assert ("empty-table", 4, 3) in [(f.code, f.line, f.column) for f in told] or not is_empty
    assert is_empty or "empty-table" not in [f.code for f in told]


def test_a_writer_that_takes_away_what_the_next_one_asks_for_is_no_second_writer(tmp_path: Path) -> None:
    def rules(value: str) -> str:
        return "".join(
            f"- rule: {name}\n  version: 1\n  on: Observation\n  why: w\n"
            f"  when: status = 'registered' and code.coding.where(code = '{name}').exists()\n"
            f"  do:\n    - set: {{path: status, value: {value}}}\n"
            for name in ("one", "two")
        )

    assert findings(tmp_path, rules("final")) == []
    assert [f.code for f in findings(tmp_path, rules("registered"))] == ["two-writers"]


ACCEPTED = "accepted:\n  - {{finding: {finding}, of: [{of}], why: looked at}}\n"


def test_what_the_pack_accepts_is_not_told_and_what_it_need_not_accept_is(tmp_path: Path) -> None:
    idle = "constants: {idle: b, other: c}\n"
    told = findings(
        tmp_path, "", HEAD + idle + ACCEPTED.format(finding="unused-constant", of="'%source.idle', '%source.none'")
    )
    assert [(f.code, f.line, f.column) for f in told] == [("unused-constant", 3, 22), ("unused-acceptance", 5, 53)]
    (misspelt,) = findings(tmp_path, "", HEAD + ACCEPTED.format(finding="unused-constants", of="x"))
    assert "did you mean 'unused-constant'?" in misspelt.message


def test_an_error_is_told_whatever_the_pack_accepts(tmp_path: Path) -> None:
    told = findings(
        tmp_path, "", "institution: x\ntime_zone: Mars\n" + ACCEPTED.format(finding="unknown-zone", of="Mars")
    )
    assert [f.code for f in told] == ["unknown-zone"]


def test_an_acceptance_without_a_reason_does_not_load(tmp_path: Path) -> None:
    source = HEAD + "accepted:\n  - {finding: no-version, of: [r]}\n"
    assert [(f.code, f.line, f.column) for f in findings(tmp_path, "", source)] == [("broken", 4, 5)]
    with pytest.raises(RulesetBroken, match="'why' is missing"):
        load_ruleset(pack(tmp_path / "p", "", source))


def test_sarif_is_valid_by_its_schema(tmp_path: Path) -> None:
    pack(tmp_path / "p", RULE.replace("version: 1\n", "") + "do:\n  - sett: {}\n", "institution: x\n")
    found = lint(tmp_path / "p", "p")
    document = as_sarif(found, "0.1.0")
    schema = json.loads(SARIF.read_text("utf-8"))
    jsonschema.Draft4Validator(schema).validate(document)
    (run,) = document["runs"]
    assert {r["ruleId"] for r in run["results"]} == {"broken", "no-version", "no-time-zone"}
    assert all(run["tool"]["driver"]["rules"][r["ruleIndex"]]["id"] == r["ruleId"] for r in run["results"])
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "p/rules.yaml"}, "region": {"startLine": 1, "startColumn": 1}}


def test_an_annotation_of_github_escapes_what_would_end_it() -> None:
    text = as_github(Finding("a,b:c.yaml", 1, 2, "broken", "100 %\nnext"))
    assert text == "::error file=a%2Cb%3Ac.yaml,line=1,col=2,title=broken::100 %25%0Anext"


def test_every_code_of_a_finding_is_explained_in_the_guide() -> None:
    guide = (MAPPINGS.parent / "docs" / "mapping-tools.md").read_text("utf-8")
    assert [code for code in CODES if f"`{code}`" not in guide] == []


def test_exit_codes_and_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(pack(tmp_path / "p", "", "institution: x\n"))
    assert main(["map", "lint", folder]) == 0
    assert capsys.readouterr().out.startswith(f"{folder}/source.yaml:1:1 warning no-time-zone ")
    assert main(["map", "lint", folder, "--strict"]) == 1
    capsys.readouterr()
    assert main(["map", "lint", folder, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["line"], row["column"], row["severity"], row["code"]) == (1, 1, "warning", "no-time-zone")
    pack(tmp_path / "p", "rule: r\n", "institution: x\n")
    assert main(["map", "lint", folder, "--format", "github"]) == 1
    assert "::error file=" in capsys.readouterr().out
    assert main(["map", "lint", str(tmp_path)]) == 2
