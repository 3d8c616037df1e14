"""Code maps with equivalences, as CSV and as ConceptMap: what is not the same is never taken for the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.errors import RecordRefused, RulesetBroken
from fhir_bridge.fhir.validate import is_refused, validate_r4
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize import Preview, Ruleset, load_code_maps, load_ruleset, preview
from fhir_bridge.normalize.concept_maps import concept_map, read_concept_map
from fhir_bridge.normalize.map_files import as_csv
from fhir_bridge.normalize.verbs_translate import MAP_EQUIVALENCE
from tests.unit.normalize.bench import pack

HOUSE, LOINC, SNOMED = "http://h.example/codes", "http://loinc.org", "http://snomed.info/sct"
Json = dict[str, Any]

TABLE = f"""system,code,target_system,target_code,target_display,equivalence,comment
{HOUSE},GLU,{LOINC},2345-7,Glucose,equivalent,
{HOUSE},NA,{LOINC},2951-2,,equal,
{HOUSE},WIDE,{LOINC},1,,wider,
{HOUSE},NARROW,{LOINC},2,,narrower,in serum only
{HOUSE},TWO,{LOINC},3,,equivalent,
{HOUSE},TWO,{LOINC},4,,equivalent,
{HOUSE},WIDES,{LOINC},5,,wider,
{HOUSE},WIDES,{LOINC},6,,wider,
{HOUSE},BOTH,{LOINC},7,,wider,
{HOUSE},BOTH,{LOINC},8,,equivalent,
{HOUSE},PAIR,{LOINC},9,,equivalent,
{HOUSE},PAIR,{SNOMED},10,,equivalent,
{HOUSE},NONE,{LOINC},,,unmatched,
{HOUSE},APART,,,,disjoint,
{HOUSE},NEAR,{LOINC},11,,relatedto,
"""


def ruleset(folder: Path, files: dict[str, str], *, file: str = "t.csv", more: str = "", source: str = "") -> Ruleset:
    """A pack whose one rule translates by the map ``m``."""
    text = f"institution: x\nmaps:\n  m:\n    file: codes/{file}\n{source}"
    rule = f"rule: r\non: Observation\nwhy: test\ndo:\n  - translate: {{path: code, map: m{more}}}\n"
    made = pack(folder, rule, text)
    (made / "codes").mkdir(exist_ok=True)
    for name, content in files.items():
        (made / "codes" / name).write_text(content)
    return load_ruleset(made)


def through(rules: Ruleset, *codes: str | Json) -> Preview:
    codings = [{"system": HOUSE, "code": code} if isinstance(code, str) else code for code in codes]
    body = {
        "resourceType": "Observation",
        "id": "o",
        "status": "final",
        "code": {"coding": codings},
        "subject": {"reference": "Patient/p"},
    }
    found = preview(body, FhirVersion.R4, rules)
    assert preview(found.body, FhirVersion.R4, rules).changes == ()
    assert not is_refused(validate_r4(found.body))
    return found


def codes_of(found: Preview) -> list[str]:
    return [coding["code"] for coding in found.body["code"]["coding"]]


CASES = [
    ("GLU", "", ["2345-7", "GLU"], []),
    ("NA", "", ["2951-2", "NA"], []),
    ("WIDE", "", ["WIDE"], ["business-rule"]),
    ("NARROW", "", ["NARROW"], ["business-rule"]),
    ("NEAR", "", ["NEAR"], ["business-rule"]),
    ("TWO", "", ["TWO"], ["multiple-matches"]),
    ("BOTH", "", ["8", "BOTH"], []),
    ("PAIR", "", ["9", "10", "PAIR"], []),
    ("NONE", "", ["NONE"], ["not-found"]),
    ("APART", "", ["APART"], ["not-found"]),
    ("NEW", "", ["NEW"], ["code-invalid"]),
    ("NONE", ", unmapped: keep", ["NONE"], []),
    ("WIDE", ", accept: [wider]", ["WIDE", "1"], ["informational"]),
    ("NARROW", ", accept: [wider]", ["NARROW"], ["business-rule"]),
    ("WIDES", ", accept: [wider]", ["WIDES"], ["multiple-matches"]),
    ("BOTH", ", accept: [wider]", ["8", "BOTH"], []),
    ("NARROW", ", accept: [wider, narrower]", ["NARROW", "2"], ["informational"]),
]


@pytest.mark.parametrize(("code", "more", "expected", "flags"), CASES)
def test_only_what_means_the_same_is_a_standard_code(
    tmp_path: Path, code: str, more: str, expected: list[str], flags: list[str]
) -> None:
    found = through(ruleset(tmp_path / "x", {"t.csv": TABLE}, more=more), code)
    assert codes_of(found) == expected
    assert [f.code for f in found.flags] == flags
    marks = {c["code"]: c["extension"] for c in found.body["code"]["coding"] if "extension" in c}
    accepted = {"WIDE": "wider", "NARROW": "narrower"}.get(code) if flags == ["informational"] else None
    assert marks == ({expected[-1]: [{"url": MAP_EQUIVALENCE, "valueCode": accepted}]} if accepted else {})


def test_the_candidates_are_named_for_the_review_until_one_of_them_is_there(tmp_path: Path) -> None:
    rules = ruleset(tmp_path / "x", {"t.csv": TABLE})
    (flag,) = through(rules, "TWO").flags
    assert flag.diagnostics.endswith("a person must choose: 3, 4")
    assert through(rules, "TWO", {"system": LOINC, "code": "4"}).flags == ()
    (loose,) = through(rules, "WIDE").flags
    assert loose.diagnostics.endswith("only: wider 1")


@pytest.mark.parametrize("code", ["TWO", "WIDE", "NONE", "NEW"])
def test_a_rule_can_refuse_what_has_no_standard_code(tmp_path: Path, code: str) -> None:
    rules = ruleset(tmp_path / "x", {"t.csv": TABLE}, more=", unmapped: quarantine")
    with pytest.raises(RecordRefused):
        through(rules, code)
    assert codes_of(through(rules, "GLU")) == ["2345-7", "GLU"]


WRONG = [
    ("GLU,http://l,1,equivalnt,", "t.csv:2:1 'equivalence' must be one of", "did you mean 'equivalent'?"),
    ("GLU,http://l,,wider,", "t.csv:2:1 wider needs a target code", ""),
    ("GLU,http://l,1,unmatched,", "t.csv:2:1 unmatched means that there is no code", ""),
    ("GLU,http://l,1,equal,\nGLU,http://l,1,wider,", "t.csv:3:1 the code is mapped twice, in two ways", ""),
]


@pytest.mark.parametrize(("row", "message", "meant"), WRONG)
def test_a_row_that_contradicts_itself_is_an_error_of_the_pack(
    tmp_path: Path, row: str, message: str, meant: str
) -> None:
    with pytest.raises(RulesetBroken) as caught:
        ruleset(tmp_path / "x", {"t.csv": f"code,target_system,target_code,equivalence,comment\n{row}\n"})
    assert message in str(caught.value)
    assert meant in str(caught.value)


def test_a_row_without_a_target_is_work_to_do(tmp_path: Path) -> None:
    table = f"system,code,target_system,target_code\n{HOUSE},A,{LOINC},1\n{HOUSE},B,{LOINC},\n"
    rules = ruleset(tmp_path / "x", {"t.csv": table})
    found = through(rules, "B")
    assert (codes_of(found), [f.code for f in found.flags]) == (["B"], ["code-invalid"])


ACCEPTING = [
    (", accept: [widr]", "rules.yaml:5:46 'accept' lists some of", "did you mean 'wider'?"),
    (", accept: [equivalent]", "'accept' lists some of", ""),
    (", accept: [wider], original: replace", "'accept' needs a CodeableConcept that keeps", ""),
]


@pytest.mark.parametrize(("more", "message", "meant"), ACCEPTING)
def test_what_cannot_be_accepted_is_an_error_of_the_pack(tmp_path: Path, more: str, message: str, meant: str) -> None:
    with pytest.raises(RulesetBroken) as caught:
        ruleset(tmp_path / "x", {"t.csv": TABLE}, more=more)
    assert message in str(caught.value)
    assert meant in str(caught.value)


# --- ConceptMap


def group(unmapped: Json | None = None, source: str = HOUSE, target: str = LOINC, **codes: Any) -> Json:
    """One group; codes as ``GLU="2345-7"`` or with a list of targets."""
    elements = [
        {"code": code, "target": [{"code": to, "equivalence": "equivalent"}] if isinstance(to, str) else to}
        for code, to in codes.items()
    ]
    made: Json = {"source": source, "target": target, "element": elements}
    return made | ({"unmapped": unmapped} if unmapped else {})


def resource(*groups: Json, url: str = "http://h.example/ConceptMap/m", **more: Any) -> str:
    return json.dumps({"resourceType": "ConceptMap", "url": url, "status": "active", "group": list(groups), **more})


def test_a_concept_map_of_several_groups_is_a_map(tmp_path: Path) -> None:
    wider = [{"code": "1", "equivalence": "wider"}, {"code": "2", "equivalence": "subsumes"}]
    text = resource(
        group(GLU="2345-7", W=wider, N=[{"equivalence": "unmatched"}]), group(GLU="33747003", target=SNOMED)
    )
    rules = ruleset(tmp_path / "x", {"m.json": text}, file="m.json")
    assert codes_of(through(rules, "GLU")) == ["2345-7", "33747003", "GLU"]
    for code, flag in (("W", "business-rule"), ("N", "not-found"), ("X", "code-invalid")):
        found = through(rules, code)
        assert (codes_of(found), [f.code for f in found.flags]) == ([code], [flag])
    accepting = ruleset(tmp_path / "y", {"m.json": text}, file="m.json", more=", accept: [subsumes]")
    assert codes_of(through(accepting, "W")) == ["W", "2"]


def test_a_target_that_depends_on_more_than_the_code_is_left_to_a_person(tmp_path: Path) -> None:
    depends = [{"property": "http://h.example/specimen", "value": "urine"}]
    text = resource(group(GLU=[{"code": "5792-7", "equivalence": "equivalent", "dependsOn": depends}]))
    found = through(ruleset(tmp_path / "x", {"m.json": text}, file="m.json"), "GLU")
    assert (codes_of(found), [f.code for f in found.flags]) == (["GLU"], ["business-rule"])


def test_codes_that_a_group_does_not_name_go_by_its_mode(tmp_path: Path) -> None:
    """R4 conceptmap-definitions.html#ConceptMap.group.unmapped.mode."""
    provided = resource(group({"mode": "provided"}, A="1"))
    found = through(ruleset(tmp_path / "a", {"m.json": provided}, file="m.json"), "2345-7")
    assert found.body["code"]["coding"][0] == {"system": LOINC, "code": "2345-7"}

    fixed = resource(group({"mode": "fixed", "code": "OTHER", "display": "Other"}, A="1"))
    found = through(ruleset(tmp_path / "b", {"m.json": fixed}, file="m.json"), "Z")
    assert codes_of(found) == ["Z", "OTHER"]
    assert found.body["code"]["coding"][1]["extension"] == [{"url": MAP_EQUIVALENCE, "valueCode": "relatedto"}]
    assert [f.code for f in found.flags] == ["informational"]

    other = "http://h.example/ConceptMap/other"
    sends = resource(group({"mode": "other-map", "url": other}, A="1"))
    source = "  o: {file: codes/o.json}\n"
    files = {"m.json": sends, "o.json": resource(group(Z="26"), url=other)}
    rules = ruleset(tmp_path / "c", files, file="m.json", source=source)
    assert codes_of(through(rules, "Z")) == ["26", "Z"]
    assert codes_of(through(rules, "A")) == ["1", "A"]
    assert [f.code for f in through(rules, "Y").flags] == ["code-invalid"]


def test_where_one_code_has_place_nothing_else_is_put_there(tmp_path: Path) -> None:
    """Encounter.class is a Coding: what is marked elsewhere is kept out, and several are for a person."""
    fixed = group(
        {"mode": "fixed", "code": "OTHER"}, OUT="AMB", BOTH="AMB", W=[{"code": "X", "equivalence": "wider"}]
    )
    ruleset(tmp_path / "x", {"m.json": resource(fixed, group(BOTH="1", target=SNOMED))}, file="m.json")
    expected = {
        "OUT": ("AMB", []),
        "BOTH": ("BOTH", ["multiple-matches"]),
        "W": ("W", ["business-rule"]),
        "Z": ("Z", ["business-rule"]),
    }
    for policy in ("keep-and-report", "quarantine"):
        step = f"  - translate: {{path: class, map: m, unmapped: {policy}}}\n"
        (tmp_path / "x" / "rules.yaml").write_text(f"rule: r\non: Encounter\nwhy: test\ndo:\n{step}")
        rules = load_ruleset(tmp_path / "x")
        for code, (came, flags) in expected.items():
            body: Json = {"resourceType": "Encounter", "id": "e", "status": "finished"}
            body["class"] = {"system": HOUSE, "code": code}
            if flags and policy == "quarantine":
                with pytest.raises(RecordRefused):
                    preview(body, FhirVersion.R4, rules)
                continue
            found = preview(body, FhirVersion.R4, rules)
            assert (found.body["class"]["code"], [f.code for f in found.flags]) == (came, flags)


def test_maps_that_send_their_reader_in_a_circle_come_to_an_end(tmp_path: Path) -> None:
    one, two = "http://h.example/ConceptMap/m", "http://h.example/ConceptMap/o"
    files = {
        "m.json": resource(group({"mode": "other-map", "url": two}, A="1"), url=one),
        "o.json": resource(group({"mode": "other-map", "url": one}, B="2"), url=two),
    }
    rules = ruleset(tmp_path / "x", files, file="m.json", source="  o: {file: codes/o.json}\n")
    assert codes_of(through(rules, "B")) == ["2", "B"]
    assert [f.code for f in through(rules, "Z").flags] == ["code-invalid"]


BROKEN = [
    ("{", "not strict JSON"),
    ('{"resourceType": "ValueSet", "status": "active"}', "the resource is no ConceptMap"),
    (
        resource(group(A=[{"code": "1", "equivalence": "same"}])),
        "ConceptMap.group[0].element[0].target[0].equivalence",
    ),
    (resource(group(A=[{"code": "1", "equivalence": "narrower"}])), "cmd-1"),
    (resource(group({"mode": "other-map", "url": "http://h.example/gone"}, A="1")), "which no map of the pack is"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_a_file_that_is_no_valid_concept_map_is_an_error_of_the_pack(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RulesetBroken) as caught:
        ruleset(tmp_path / "x", {"m.json": text}, file="m.json")
    assert message in str(caught.value)


def test_a_concept_map_is_part_of_the_rulesets_hash(tmp_path: Path) -> None:
    one = ruleset(tmp_path / "x", {"m.json": resource(group(A="1")), "notes.json": "{}"}, file="m.json")
    same = ruleset(tmp_path / "x", {"notes.json": '{"a":1}'}, file="m.json")
    other = ruleset(tmp_path / "x", {"m.json": resource(group(A="2"))}, file="m.json")
    assert one.hash == same.hash != other.hash


def test_a_table_and_its_concept_map_say_the_same(tmp_path: Path) -> None:
    """CSV → ConceptMap → CSV loses nothing, and what comes between is valid R4."""
    ruleset(tmp_path / "x", {"t.csv": TABLE})
    codes = load_code_maps(tmp_path / "x")["m"]
    made = concept_map(codes)
    assert [i for i in validate_r4(made) if i.severity in ("error", "fatal")] == []
    back = read_concept_map("m", json.dumps(made).encode())
    assert (set(back.rows), back.url) == (set(codes.rows), codes.url)
    assert sorted(as_csv(back.rows).splitlines()) == sorted(TABLE.splitlines())
    assert concept_map(back) == made


def test_a_concept_map_comes_back_from_a_table_as_it_was(tmp_path: Path) -> None:
    given = json.loads(resource(group(GLU="2345-7", B=[{"code": "1", "equivalence": "wider", "comment": 'a, "b"'}])))
    given["group"][0] |= {"sourceVersion": "3", "targetVersion": "2.78"}
    given["group"][0]["element"][0]["display"] = "Glucose, Serum"
    ruleset(
        tmp_path / "x",
        {"t.csv": as_csv(read_concept_map("m", json.dumps(given).encode()).rows)},
        source=f"    url: {given['url']}\n",
    )
    back = concept_map(load_code_maps(tmp_path / "x")["m"])
    assert (back["group"], back["url"]) == (given["group"], given["url"])


def test_where_an_extension_stands_for_a_code_there_is_nothing_to_report(tmp_path: Path) -> None:
    rule = "rule: r\non: Patient\nwhy: test\ndo:\n  - translate: {path: name.given, map: m}\n"
    source = "institution: x\nmaps:\n  m:\n    file: codes/t.csv\n"
    table = "system,code,target_system,target_code\n,a,,b\n"
    rules = load_ruleset(pack(tmp_path / "x", rule, source, codes__t_csv=table))
    beside = [None, {"extension": [{"url": "http://h.example/x", "valueBoolean": True}]}]
    name = {"given": ["a", None], "_given": beside}
    found = preview({"resourceType": "Patient", "id": "p", "name": [name]}, FhirVersion.R4, rules)
    assert found.body["name"] == [{"given": ["b", None], "_given": beside}]
    assert found.flags == ()
