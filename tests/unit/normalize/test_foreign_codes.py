"""Codes of a system that nobody told us of: kept as they came, told with the record, never guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.normalize import Ruleset, load_ruleset
from tests.unit.normalize.bench import body, observation, pack, run

OURS, NEW, LOINC = "urn:ours", "urn:ours:new", "http://loinc.org"
SOURCE = """institution: x
maps:
  labs: {file: codes/labs.csv, constants: {system: 'urn:ours', target_system: 'http://loinc.org'}}
  other: {file: codes/other.csv, constants: {system: 'urn:other', target_system: 'http://loinc.org'}}
"""
STEPS = "  - translate: {path: code, map: labs%s}\n  - translate: {path: code, map: other%s}\n"


def rules(tmp_path: Path, more: str = "") -> Ruleset:
    text = "rule: r\non: Observation\nwhy: t\ndo:\n" + STEPS % (more, more)
    files = {"codes__labs_csv": "code,target_code\n1,8310-5\n", "codes__other_csv": "code,target_code\n2,718-7\n"}
    return load_ruleset(pack(tmp_path / "x", text, SOURCE, **files))


@pytest.mark.parametrize(
    ("codings", "flags"),
    [
        ([{"system": NEW, "code": "1"}], ["Observation.code"]),
        ([{"code": "1"}], ["Observation.code"]),
        ([{"code": "1", "display": "Body temperature"}, {"system": NEW, "code": "2"}], ["Observation.code"]),
        ([{"system": OURS, "code": "1"}, {"system": NEW, "code": "9"}], []),
        ([{"system": "urn:other", "code": "2"}], []),
        ([{"system": NEW, "code": "1"}, {"system": LOINC, "code": "8310-5"}], []),
        ([{"system": "http://snomed.info/sct", "code": "386725007"}], []),
        ([{"display": "temperature"}], []),
        ([{"system": "http://loinc.org.evil", "code": "8310-5"}], ["Observation.code"]),
        ([{"system": "http://snomed.info/sctx", "code": "386725007"}], ["Observation.code"]),
        ([{"system": "http://snomed.info/sct/900000000000207008", "code": "386725007"}], []),
        ([{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "x"}], []),
        ([{"system": "urn:oid:2.16.840.1.113883.6.1", "code": "8310-5"}], []),
        ([{"system": "urn:oid:2.16.840.1.113883.60", "code": "8310-5"}], ["Observation.code"]),
    ],
)
def test_a_code_is_told_unless_somebody_knows_its_system(
    tmp_path: Path, codings: list[Any], flags: list[str]
) -> None:
    (record,) = run(observation(code={"coding": codings}), ruleset=rules(tmp_path)).records
    told = [f.expression for f in record.flags if f.code == "code-invalid"]
    assert told == flags
    kept = body(record)["code"]["coding"]
    assert [c for c in kept if c in codings] == codings
    assert not flags or kept == codings, "nothing was added"


def test_what_a_rule_says_of_codes_that_it_cannot_translate_holds_for_these_too(tmp_path: Path) -> None:
    sent = observation(code={"coding": [{"system": NEW, "code": "1"}]})
    (stopped,) = run(sent, ruleset=rules(tmp_path, ", unmapped: quarantine")).quarantined
    assert [i.code for i in stopped.issues] == ["code-invalid"]
    (kept,) = run(sent, ruleset=rules(tmp_path, ", unmapped: keep")).records
    assert not kept.flags


def test_a_system_that_another_map_knows_is_said_to_lack_one_here_and_not_in_the_pack(tmp_path: Path) -> None:
    text = "rule: r\non: Observation\nwhy: t\ndo:\n  - translate: {path: code, map: labs}\n"
    files = {"codes__labs_csv": "code,target_code\n1,8310-5\n", "codes__other_csv": "code,target_code\n2,718-7\n"}
    by = load_ruleset(pack(tmp_path / "x", text, SOURCE, **files))
    (record,) = run(observation(code={"coding": [{"system": "urn:other", "code": "2"}]}), ruleset=by).records
    (told,) = [f.diagnostics for f in record.flags if f.code == "code-invalid"]
    assert told.startswith("no map used for this element knows")


def test_a_published_system_that_only_some_know_becomes_known_by_a_row_that_leads_to_it(tmp_path: Path) -> None:
    national = "http://fhir.de/CodeSystem/bfarm/icd-10-gm"
    sent = observation(code={"coding": [{"system": national, "code": "J45"}]})
    text = "rule: r\non: Observation\nwhy: t\ndo:\n  - translate: {path: code, map: labs, unmapped: quarantine}\n"
    source = "institution: x\nmaps:\n  labs: {file: codes/labs.csv, constants: {system: 'urn:ours'}}\n"
    for at, (target, is_known) in enumerate(((LOINC, False), (national, True))):
        files = {"codes__labs_csv": f"code,target_system,target_code\n1,{target},8310-5\n"}
        done = run(sent, ruleset=load_ruleset(pack(tmp_path / str(at), text, source, **files)))
        assert len(done.records) == is_known
        assert len(done.quarantined) == (not is_known)
