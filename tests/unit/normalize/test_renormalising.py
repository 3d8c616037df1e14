"""A stored version made again: what the message would give today, its id and its links kept."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.errors import RecordRefused
from fhir_bridge.fhir.json import parse
from fhir_bridge.fhir.value_set_files import packaged_sets
from fhir_bridge.intake import Limits, receive
from fhir_bridge.model.ingest import FhirVersion, Normalized, Received, SourceContext
from fhir_bridge.normalize import StoredVersion, load_ruleset, normalize, renormalised
from tests.support.hospitals import SMALL, VERSIONS, directory, lanes
from tests.unit.normalize.bench import KEY, MAPPINGS, SOURCE, message, observation, patient, rules

SETS = packaged_sets()
WRONG = "  [{set: {path: method.text, value: wrong}}]"
RIGHT = "  [{set: {path: method.text, value: right}}]"


def stored(record: Normalized) -> StoredVersion:
    return StoredVersion(record.row, record.content, record.original, record.lineage, record.ruleset)


@pytest.mark.slow
@pytest.mark.parametrize(("hospital", "every"), [("northgate", 8), ("harbor", 20), ("cedar", 1)])
def test_under_the_same_rules_every_record_of_a_hospital_comes_out_the_same(hospital: str, every: int) -> None:
    version, ruleset, done = FhirVersion(VERSIONS[hospital]), load_ruleset(MAPPINGS / hospital), 0
    source = SourceContext(hospital, "x", version, KEY)
    # Registered with another release since: the lineage tells which one the message had.
    today = SourceContext(hospital, "x", FhirVersion.R4, KEY)
    messages = [each for lane in lanes(hospital, SMALL) for each in lane.messages]
    for each in [directory(hospital), *messages[::every]]:
        received = Received(hospital, version, each, datetime(2026, 1, 1, tzinfo=UTC))
        for record in normalize(receive(received, Limits()), source, ruleset).records:
            again = renormalised(stored(record), record.chart, today, ruleset, SETS)
            assert (again.content, again.row, again.lineage) == (record.content, record.row, record.lineage)
            assert (again.ruleset, again.identifiers) == (record.ruleset, record.identifiers)
            done += 1
    assert done > 200


def test_another_rule_gives_what_it_gives_a_fresh_message_with_the_links_of_the_old_one(tmp_path: Path) -> None:
    old, new = rules(tmp_path / "a", WRONG), rules(tmp_path / "b", RIGHT)
    links = [
        {"reference": "urn:uuid:00000000-0000-4000-8000-000000000001"},
        {"reference": "Patient?identifier=urn:mrn|7"},
    ]
    sent = observation(
        subject=links[0], focus=[links[1]], performer=[{"reference": "Practitioner?identifier=urn:n|1"}]
    )
    whole = message(
        patient(identifier=[{"system": "urn:mrn", "value": "7"}]),
        sent,
        urls={0: "urn:uuid:00000000-0000-4000-8000-000000000001"},
    )
    before = normalize(whole, SOURCE, old).records[1]
    wanted = normalize(whole, SOURCE, new).records[1]
    again = renormalised(stored(before), before.chart, SOURCE, new, SETS)
    assert before.content != wanted.content
    assert (again.content, again.row, again.lineage) == (wanted.content, wanted.row, wanted.lineage)
    assert again.interaction.if_match == before.row.version


def test_a_link_that_a_conditional_create_found_is_kept(tmp_path: Path) -> None:
    ruleset, other = rules(tmp_path / "a", WRONG), rules(tmp_path / "b", RIGHT)
    whole = message(patient(), observation())
    made = normalize(whole, SOURCE, ruleset).records[0].id
    before = normalize(whole, SOURCE, ruleset, same_as={made: "found-before"}).records[1]
    assert parse(before.content)["subject"]["reference"] == "Patient/found-before"
    again = renormalised(stored(before), before.chart, SOURCE, other, SETS)
    assert parse(again.content)["subject"]["reference"] == "Patient/found-before"


def test_what_was_said_of_the_message_is_said_again(tmp_path: Path) -> None:
    ruleset, other = rules(tmp_path / "a", WRONG), rules(tmp_path / "b", RIGHT)
    record = normalize(message(patient(), observation()), SOURCE, ruleset).records[1]
    signed: dict[str, Any] = {"element": "", "before": None, "after": {"sha256": "x"}, "rule": "message/signature"}
    kept = stored(record)
    kept = StoredVersion(
        kept.row, kept.content, kept.original, json.dumps([signed | {"reason": "holds"}]).encode(), kept.ruleset
    )
    assert json.loads(renormalised(kept, record.chart, SOURCE, other, SETS).lineage)[-1]["after"] == {"sha256": "x"}


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("quarantine: {text: not this one}", "not this one"),
        ("remove: {path: status}", "required"),
        ("set: {path: subject.reference, value: Patient/other}", "another chart"),
    ],
)
def test_what_todays_rules_would_not_take_is_refused(tmp_path: Path, step: str, words: str) -> None:
    ruleset, other = rules(tmp_path / "a", WRONG), rules(tmp_path / "b", f"  [{{{step}}}]")
    record = normalize(message(patient(), observation()), SOURCE, ruleset).records[1]
    with pytest.raises(RecordRefused) as refused:
        renormalised(stored(record), record.chart, SOURCE, other, SETS)
    assert words in " ".join(issue.diagnostics for issue in refused.value.issues)


def test_an_old_record_of_stu3_is_known_by_the_rules_that_touched_it() -> None:
    ruleset = load_ruleset(MAPPINGS / "cedar")
    source = SourceContext("cedar", "x", FhirVersion.STU3, KEY)
    (example,) = (MAPPINGS / "cedar" / "examples").glob("prescription.input.json")
    record = normalize(message(example.read_bytes()), source, ruleset).records[0]
    changes = [each for each in json.loads(record.lineage) if each["rule"] != "message/release"]
    kept = stored(record)
    old = StoredVersion(kept.row, kept.content, kept.original, json.dumps(changes).encode(), kept.ruleset)
    again = renormalised(old, record.chart, SourceContext("cedar", "x", FhirVersion.R4, KEY), ruleset, SETS)
    assert again.content == record.content


def test_the_release_of_the_message_is_on_record_and_counts_whatever_is_registered_by_now() -> None:
    ruleset = load_ruleset(MAPPINGS / "cedar")
    today = SourceContext("cedar", "x", FhirVersion.R4, KEY)
    (example,) = (MAPPINGS / "cedar" / "examples").glob("prescription.input.json")
    source = SourceContext("cedar", "x", FhirVersion.STU3, KEY)
    record = normalize(message(example.read_bytes()), source, ruleset).records[0]
    told = [each for each in json.loads(record.lineage) if each["rule"] == "message/release"]
    assert [each["after"] for each in told] == ["STU3"]
    kept = stored(record)
    bare = StoredVersion(kept.row, kept.content, kept.original, json.dumps(told).encode(), kept.ruleset)
    assert renormalised(bare, record.chart, today, ruleset, SETS).content == record.content
    r4 = normalize(message(patient()), SOURCE, load_ruleset(MAPPINGS / "northgate")).records[0]
    assert b"message/release" not in r4.lineage
