"""A hospital whose systems tell local time: its pack says whose clocks these are, and the rest follows."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.errors import RulesetBroken
from fhir_bridge.fhir.json import parse
from fhir_bridge.fhir.value_set_files import packaged_sets
from fhir_bridge.intake import receive
from fhir_bridge.model.ingest import FhirVersion, Received, Reception, Refusal, Validated
from fhir_bridge.normalize import (
    InTurn,
    Ruleset,
    StoredVersion,
    explain_changes,
    load_ruleset,
    normalize,
    preview,
    renormalised,
)
from fhir_bridge.normalize.draft import copied
from tests.support.lineage_judge import check
from tests.unit.normalize.bench import SOURCE, body, observation, pack, patient

NAIVE, WITH = "2020-07-15T08:00:00.10", "2020-07-15T08:00:00.10-02:30"
ZONED = "institution: x\ntime_zone: America/St_Johns\n"


def rules(tmp_path: Path, source: str = ZONED, text: str = "") -> Ruleset:
    return load_ruleset(pack(tmp_path / "x", text, source))


def take(sent: Any, by: Ruleset, version: FhirVersion = FhirVersion.R4) -> Reception:
    received = Received("x", version, json.dumps(sent).encode(), datetime(2026, 3, 1, tzinfo=UTC))
    return receive(received, profiles=by.profiles, formats=by.formats, zone=by.zone)


def transaction(*resources: Any) -> dict[str, Any]:
    entries = [
        {"request": {"method": "PUT", "url": f"{r['resourceType']}/{r['id']}"}, "resource": r} for r in resources
    ]
    return {"resourceType": "Bundle", "type": "transaction", "timestamp": NAIVE, "entry": entries}


def test_without_a_zone_in_the_pack_such_times_are_refused(tmp_path: Path) -> None:
    refused = take(observation(effectiveDateTime=NAIVE), rules(tmp_path, "institution: x\n")).refused
    assert [(i.code, i.expression) for i in refused] == [("value", "Observation.effectiveDateTime")]


def test_every_time_gets_the_offset_of_its_day_and_nothing_else_changes(tmp_path: Path) -> None:
    sent = observation(
        effectivePeriod={"start": "2020-01-15T08:00:00", "end": NAIVE},
        issued=NAIVE,
        note=[{"text": NAIVE, "time": "2020"}],
        hasMember=[{"reference": "#c"}],
        contained=[
            {"resourceType": "Observation", "id": "c", "status": "final", "code": {"text": "x"}, "issued": NAIVE}
        ],
    )
    by = rules(tmp_path)
    reception = take(transaction(patient(), sent), by)
    flags = [[f.code for f in e.flags] for e in reception.entries if isinstance(e, Validated)]
    assert flags == [[], ["informational"]]
    assert isinstance(reception.entries[1], Validated)
    assert reception.entries[1].resource == parse(json.dumps(sent).encode()), "what was sent is kept"
    record = normalize(reception, SOURCE, by).records[1]
    made = body(record)
    assert made["effectivePeriod"] == {"start": "2020-01-15T08:00:00-03:30", "end": WITH}
    assert made["issued"] == made["contained"][0]["issued"] == WITH
    assert made["note"] == [{"text": NAIVE, "time": "2020"}]
    check(parse(json.dumps(sent).encode()), json.dumps(sent).encode(), made, explain_changes(record))


def test_more_of_them_than_a_validator_reports_are_all_completed(tmp_path: Path) -> None:
    by = rules(tmp_path)
    sent = observation(component=[{"code": {"text": "x"}, "valueDateTime": NAIVE}] * 250)
    (record,) = normalize(take(sent, by), SOURCE, by).records
    assert {c["valueDateTime"] for c in body(record)["component"]} == {WITH}


@pytest.mark.parametrize("text", ["2020-03-08T02:30:00", "1911-05-01T12:00:00", "2020-07-15T08:00"])
def test_a_time_that_no_clock_told_stays_refused(tmp_path: Path, text: str) -> None:
    assert take(observation(effectiveDateTime=text), rules(tmp_path)).refused


def test_a_time_that_the_clocks_skipped_is_refused_with_that_reason(tmp_path: Path) -> None:
    sent = observation(effectiveDateTime="2020-03-08T02:30:00", issued=NAIVE, note=[{"text": "a", "time": "x"}])
    by = rules(tmp_path)
    entry = "Bundle.entry[1].resource."
    for message, at in ((sent, "Observation."), (transaction(patient(), sent), entry)):
        refused = take(message, by)
        issues = [*refused.refused, *(i for e in refused.entries if isinstance(e, Refusal) for i in e.issues)]
        told = {i.expression.removeprefix(at): i.diagnostics for i in issues}
        assert told["effectiveDateTime"] == "clocks of America/St_Johns skipped this time"
        assert "issued" not in told, "it was completed"
        assert "dateTime" in told["note[0].time"]


def test_a_date_with_a_time_is_no_time_without_an_offset(tmp_path: Path) -> None:
    assert take(patient(birthDate="1980-01-01T08:00:00"), rules(tmp_path)).refused


def test_stu3_is_completed_too(tmp_path: Path) -> None:
    by = rules(tmp_path, ZONED + "fhir_version: STU3\nextends: core\n")
    sent = {
        "resourceType": "Condition",
        "id": "c",
        "clinicalStatus": "active",
        "verificationStatus": "confirmed",
        "subject": {"reference": "Patient/p1"},
        "assertedDate": NAIVE,
    }
    source = SOURCE.__class__("x", "x", FhirVersion.STU3, SOURCE.id_key)
    (record,) = normalize(take(sent, by, FhirVersion.STU3), source, by).records
    assert body(record)["recordedDate"] == WITH


def test_a_rule_can_say_that_one_element_tells_another_zone(tmp_path: Path) -> None:
    text = "rule: r\non: Observation\nwhy: t\ndo:\n  - timezone: {path: issued, zone: UTC}\n"
    by = rules(tmp_path, text=text)
    (record,) = normalize(take(observation(effectiveDateTime=NAIVE, issued=NAIVE), by), SOURCE, by).records
    assert (body(record)["effectiveDateTime"], body(record)["issued"]) == (WITH, NAIVE + "+00:00")


@pytest.mark.parametrize("more", [{}, {"issued": NAIVE}, {"issued": WITH}])
def test_a_time_that_a_rule_gives_tells_the_clocks_of_the_pack_whatever_came_beside_it(
    tmp_path: Path, more: dict[str, str]
) -> None:
    text = f"rule: r\non: Observation\nwhy: t\ndo:\n  - default: {{path: effectiveDateTime, value: '{NAIVE}'}}\n"
    by, sent = rules(tmp_path, text=text), observation(**more)
    reception = take(transaction(patient(), sent), by)
    record = normalize(reception, SOURCE, by).records[1]
    whole = replace(reception, whole=lambda e: replace(e, resource=copied(e.resource)))
    (_, in_turn) = InTurn(whole, SOURCE, by, packaged_sets(), same_as={}, patients={}).records()
    kept = StoredVersion(record.row, record.content, record.original, record.lineage, record.ruleset)
    again = renormalised(kept, record.chart, SOURCE, by, packaged_sets())
    shown = preview(parse(json.dumps(sent).encode()), FhirVersion.R4, by).body
    assert body(record)["effectiveDateTime"] == shown["effectiveDateTime"] == WITH
    assert record.content == in_turn.content == again.content
    check(parse(json.dumps(sent).encode()), json.dumps(sent).encode(), body(record), explain_changes(record))


def test_a_zone_that_is_none_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(RulesetBroken, match=r"x/source\.yaml:2:12 'time_zone' is not an IANA"):
        rules(tmp_path, "institution: x\ntime_zone: Mars/Base\n")
