"""Each verb of the rule language does what its page says, and says what it did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.errors import RecordRefused
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize import load_ruleset, preview
from tests.unit.normalize.bench import observation, pack, rules

CASES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("set", "[{set: {path: status, value: amended}}]", {"status": "final"}, {"status": "amended"}),
    ("set makes parents", "[{set: {path: method.text, value: cuff}}]", {}, {"method": {"text": "cuff"}}),
    ("set in lists", "[{set: {path: category.text, value: a}}]", {}, {"category": [{"text": "a"}]}),
    (
        "set by filter makes nothing",
        "[{set: {path: \"category.coding.where(code = 'x').display\", value: X}}]",
        {"note": [{"text": "n"}]},
        {"note": [{"text": "n"}]},
    ),
    (
        "set by filter",
        "[{set: {path: \"category.coding.where(code = 'x').display\", value: X}}]",
        {"category": [{"coding": [{"code": "x"}, {"code": "y"}]}]},
        {"category": [{"coding": [{"code": "x", "display": "X"}, {"code": "y"}]}]},
    ),
    ("default fills", "[{default: {path: method.text, value: cuff}}]", {}, {"method": {"text": "cuff"}}),
    (
        "default keeps",
        "[{default: {path: method, value: {text: cuff}}}]",
        {"method": {"text": "arm"}},
        {"method": {"text": "arm"}},
    ),
    (
        "copy",
        "[{copy: {from: effectiveDateTime, to: issued}}]",
        {"effectiveDateTime": "2020-01-01T00:00:00Z"},
        {"effectiveDateTime": "2020-01-01T00:00:00Z", "issued": "2020-01-01T00:00:00Z"},
    ),
    (
        "copy into a list",
        "[{copy: {from: method, to: category}}]",
        {"method": {"text": "a"}},
        {"method": {"text": "a"}, "category": [{"text": "a"}]},
    ),
    (
        "rename keeps the extension beside a primitive",
        "[{rename: {path: effectiveDateTime, to: effectiveInstant}}]",
        {"effectiveDateTime": "2020", "_effectiveDateTime": {"id": "x"}},
        {"effectiveInstant": "2020", "_effectiveInstant": {"id": "x"}},
    ),
    (
        "remove",
        "[{remove: {path: component.code.text}}]",
        {"component": [{"code": {"text": "a"}}]},
        {"component": [{"code": {}}]},
    ),
    (
        "coerce to a concept",
        "[{coerce: {path: method, to: CodeableConcept, system: 'urn:m'}}]",
        {"method": "cuff"},
        {"method": {"coding": [{"system": "urn:m", "code": "cuff"}]}},
    ),
    (
        "coerce to a list",
        "[{coerce: {path: category, to: list}}]",
        {"category": {"text": "a"}},
        {"category": [{"text": "a"}]},
    ),
    (
        "coerce to a boolean",
        "[{coerce: {path: valueBoolean, to: boolean}}]",
        {"valueBoolean": "true"},
        {"valueBoolean": True},
    ),
    (
        "coerce to an integer",
        "[{coerce: {path: valueInteger, to: integer}}]",
        {"valueInteger": "4"},
        {"valueInteger": 4},
    ),
    (
        "coerce leaves what does not fit",
        "[{coerce: {path: valueInteger, to: integer}}]",
        {"valueInteger": "4.5"},
        {"valueInteger": "4.5"},
    ),
    (
        "split",
        "[{split: {path: code.coding.display, on: ';'}}]",
        {"code": {"coding": [{"display": "a; b"}]}},
        {"code": {"coding": [{"display": ["a", "b"]}]}},
    ),
    (
        "merge",
        "[{merge: {path: hasMember, into: derivedFrom}}]",
        {"hasMember": [{"display": "a"}], "derivedFrom": [{"display": "b"}]},
        {"derivedFrom": [{"display": "b"}, {"display": "a"}]},
    ),
    (
        "extension",
        "[{extension: {path: issued, url: 'urn:x'}}]",
        {"issued": "2020-01-01T00:00:00Z"},
        {"extension": [{"url": "urn:x", "valueInstant": "2020-01-01T00:00:00Z"}]},
    ),
    ("narrative", "[{narrative: {policy: drop}}]", {"text": {"status": "generated", "div": "<div/>"}}, {}),
    (
        "tag",
        "[{tag: {system: 'urn:t', code: a}}]",
        {"meta": {"tag": [{"system": "urn:t", "code": "b"}]}},
        {"meta": {"tag": [{"system": "urn:t", "code": "b"}, {"system": "urn:t", "code": "a"}]}},
    ),
    (
        "reference",
        "[{reference: {path: performer, type: Practitioner, system: 'urn:n'}}]",
        {"performer": [{"identifier": {"value": "1"}}]},
        {"performer": [{"identifier": {"system": "urn:n", "value": "1"}, "type": "Practitioner"}]},
    ),
    (
        "timezone in winter",
        "[{timezone: {path: effectiveDateTime, zone: America/New_York}}]",
        {"effectiveDateTime": "2020-01-15T08:00:00"},
        {"effectiveDateTime": "2020-01-15T08:00:00-05:00"},
    ),
    (
        "timezone in summer",
        "[{timezone: {path: effectiveDateTime, zone: America/New_York}}]",
        {"effectiveDateTime": "2020-07-15T08:00:00.10"},
        {"effectiveDateTime": "2020-07-15T08:00:00.10-04:00"},
    ),
    (
        "timezone invents no precision",
        "[{timezone: {path: effectiveDateTime, zone: America/New_York}}]",
        {"effectiveDateTime": "2020-07-15"},
        {"effectiveDateTime": "2020-07-15"},
    ),
]
BASE = {"resourceType": "Observation", "id": "o1"}


@pytest.mark.parametrize(("steps", "sent", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_verb(tmp_path: Path, steps: str, sent: dict[str, Any], expected: dict[str, Any]) -> None:
    ruleset = rules(tmp_path / "p", f"  {steps}")
    found = preview({**BASE, **sent}, FhirVersion.R4, ruleset)
    assert found.body == {**BASE, **expected}
    assert bool(found.changes) == (sent != expected)
    assert all(c.rule == "r" and c.reason == "test" and c.element.startswith("Observation") for c in found.changes)
    again = preview(found.body, FhirVersion.R4, ruleset)
    assert (again.body, again.changes) == (found.body, ())


def test_the_resource_given_to_preview_is_not_changed(tmp_path: Path) -> None:
    sent = {**BASE, "category": [{"text": "a"}]}
    preview(sent, FhirVersion.R4, rules(tmp_path / "p", "  [{set: {path: category.text, value: b}}]"))
    assert sent == {**BASE, "category": [{"text": "a"}]}


@pytest.mark.parametrize(
    ("condition", "fires"),
    [
        ("status = 'final'", True),
        ("status != 'final'", False),
        ("code.coding.where(system = 'http://loinc.org').exists()", True),
        ("code.coding.where(system = %source.local).exists()", False),
        ("status = 'final' and value.exists().not()", True),
        ("status = 'draft' or code.exists()", True),
        ("issued = @2020", False),
        ("code.coding[0].code ~ '8310-5' and status in ('final' | 'amended')", True),
        ("iif(effective.exists(), false, @2026-01-31 + 1 month = @2026-02-28)", True),
        ("effective > @2026-03-02", False),
        ("code.coding.all(code.matches('^[0-9]+-[0-9]$') and code.length() < 8)", True),
        ("code.coding.select($index + code.length()).first() = 6", True),
        ("value is Quantity or value.empty()", True),
        ("subject.resolve() is Patient", True),
        ("%resource.status.upper() = 'FINAL'", True),
    ],
)
def test_a_rule_fires_only_when_its_condition_is_true(tmp_path: Path, condition: str, fires: bool) -> None:
    ruleset = rules(
        tmp_path / "p",
        "  - tag: {system: 'urn:t', code: fired}",
        head=f'when: "{condition}"\n',
        source="constants: {local: 'urn:local'}\n",
    )
    assert ("meta" in preview(observation(), FhirVersion.R4, ruleset).body) is fires


def test_a_condition_that_the_data_cannot_answer_does_not_fire_and_is_told(tmp_path: Path) -> None:
    ruleset = rules(tmp_path / "p", "  - tag: {system: 'urn:t', code: fired}", head="when: code.coding.code > '1'\n")
    two = {"coding": [{"code": "Zzcanary"}, {"code": "b"}]}
    found = preview(observation(code=two), FhirVersion.R4, ruleset)
    assert "meta" not in found.body
    (told,) = [flag for flag in found.flags if "condition" in flag.diagnostics]
    assert told.severity == "warning"
    assert told.diagnostics == "the condition of the rule r cannot be judged: > wants one item and found 2"


def test_a_filter_that_the_data_cannot_answer_chooses_nothing(tmp_path: Path) -> None:
    ruleset = rules(tmp_path / "p", "  - remove: {path: component.where(code.coding.code > '1').code}")
    two = {"coding": [{"code": "2"}, {"code": "3"}]}
    body = observation(component=[{"code": two}, {"code": {"coding": [{"code": "2"}]}, "valueString": "x"}])
    assert [("code" in each) for each in preview(body, FhirVersion.R4, ruleset).body["component"]] == [True, False]


@pytest.mark.parametrize(("verb", "severity"), [("reject", "fatal"), ("quarantine", "error")])
def test_a_verdict_stops_the_record(tmp_path: Path, verb: str, severity: str) -> None:
    ruleset = rules(tmp_path / "p", f"  - {verb}: {{code: incomplete, text: lacks what we need}}")
    with pytest.raises(RecordRefused) as caught:
        preview(observation(), FhirVersion.R4, ruleset)
    (issue,) = caught.value.issues
    assert (issue.severity, issue.code, issue.diagnostics) == (severity, "incomplete", "lacks what we need")


def test_an_alias_of_an_identifier_system_becomes_the_one_system(tmp_path: Path) -> None:
    source = "maps:\n  systems: {file: s.csv}\n"
    folder = pack(
        tmp_path / "p",
        "{rule: r, on: Patient, do: [{identifier: {path: identifier, systems: systems}}], why: w}",
        source,
        s_csv="code,target_code\nurn:oid:1.2,https://a.example/mrn\n",
    )
    sent = {"resourceType": "Patient", "identifier": [{"system": "urn:oid:1.2", "value": "7"}, {"value": "8"}]}
    found = preview(sent, FhirVersion.R4, load_ruleset(folder))
    assert found.body["identifier"] == [{"system": "https://a.example/mrn", "value": "7"}, {"value": "8"}]
    assert [c.element for c in found.changes] == ["Patient.identifier[0].system"]


def test_places_in_lineage_count_repetitions(tmp_path: Path) -> None:
    ruleset = rules(tmp_path / "p", "  - remove: {path: component.code.coding.display}")
    sent = {**BASE, "component": [{"code": {}}, {"code": {"coding": [{"code": "x"}, {"display": "D"}]}}]}
    (change,) = preview(sent, FhirVersion.R4, ruleset).changes
    assert (change.element, change.before, change.after) == (
        "Observation.component[1].code.coding[1].display",
        "D",
        None,
    )


def test_rules_reach_contained_resources(tmp_path: Path) -> None:
    ruleset = rules(tmp_path / "p", "  - set: {path: status, value: amended}")
    sent = {"resourceType": "DiagnosticReport", "id": "d", "contained": [{**BASE, "status": "final"}]}
    found = preview(sent, FhirVersion.R4, ruleset)
    assert found.body["contained"][0]["status"] == "amended"
    assert [c.element for c in found.changes] == ["DiagnosticReport.contained[0].status"]
