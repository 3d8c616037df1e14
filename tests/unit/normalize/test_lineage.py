"""Where every value comes from: traced over whole hospitals, every example, every verb, and judged by a replay."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.errors import RecordRefused
from fhir_bridge.fhir.json import parse, render
from fhir_bridge.fhir.spans import Span
from fhir_bridge.intake import Limits, receive
from fhir_bridge.model.ingest import FhirVersion, Normalized, Received, SourceContext
from fhir_bridge.normalize import (
    Explanation,
    Kind,
    Statement,
    explain,
    explain_changes,
    load_ruleset,
    normalize,
    preview,
    read_lineage,
)
from tests.support.hospitals import SMALL, VERSIONS, directory, lanes
from tests.support.lineage_judge import check
from tests.unit.normalize.bench import KEY, MAPPINGS, observation, pack, rules, run
from tests.unit.normalize.test_verbs import BASE, CASES

STU3_EXAMPLES = Path(__file__).resolve().parents[2] / "data" / "hl7-examples" / "stu3.ndjson.gz"


def sent_by(record: Normalized) -> Any:
    original = parse(record.original)
    return original if "resourceType" in original else original["resource"]


def records_of(hospital: str, messages: Sequence[bytes]) -> Iterator[Normalized]:
    version, rules_of_it = FhirVersion(VERSIONS[hospital]), load_ruleset(MAPPINGS / hospital)
    source = SourceContext(hospital, "x", version, KEY)
    for message in messages:
        received = Received(hospital, version, message, datetime(2026, 1, 1, tzinfo=UTC))
        yield from normalize(receive(received, Limits()), source, rules_of_it).records


# --- whole hospitals, examples, verbs


@pytest.mark.slow
@pytest.mark.parametrize(("hospital", "every"), [("northgate", 8), ("harbor", 20), ("cedar", 1)])
def test_every_value_of_a_hospital_is_explained_down_to_the_bytes(hospital: str, every: int) -> None:
    messages = [message for lane in lanes(hospital, SMALL) for message in lane.messages]
    kinds: Counter[Kind] = Counter()
    for record in records_of(hospital, [directory(hospital), *messages[::every]]):
        told = check(sent_by(record), record.original, parse(record.content), explain_changes(record))
        kinds.update(each.kind for each in told.statements)
    assert kinds[Kind.UNTOUCHED] > kinds[Kind.HOUSE] > 0
    assert kinds[Kind.CONVERTED] > 0 or hospital == "northgate"


@pytest.mark.parametrize("name", ["core", "northgate", "harbor", "cedar"])
def test_every_value_of_every_example_is_explained(name: str) -> None:
    ruleset, done = load_ruleset(MAPPINGS / name), 0
    for path in sorted((MAPPINGS / name / "examples").glob("*.input.json")):
        original = path.read_bytes()
        try:
            found = preview(parse(original), ruleset.fhir_version, ruleset)
        except RecordRefused:
            continue
        check(parse(original), original, found.body, found.changes)
        done += 1
    assert done > 4


def test_every_value_of_hl7s_stu3_examples_is_explained() -> None:
    ruleset, done, kinds = load_ruleset(MAPPINGS / "cedar"), 0, Counter[Kind]()
    for line in gzip.decompress(STU3_EXAMPLES.read_bytes()).splitlines():
        try:
            found = preview(parse(line), FhirVersion.STU3, ruleset)
        except RecordRefused:
            continue
        told = check(parse(line), line, found.body, found.changes)
        kinds.update(each.kind for each in told.statements)
        done += 1
    assert done > 100
    assert min(kinds[kind] for kind in (Kind.UNTOUCHED, Kind.MOVED, Kind.CONVERTED, Kind.MADE)) > 10


MORE: list[tuple[str, str, dict[str, Any]]] = [
    (
        "remove what stands beside a primitive too",
        "[{remove: {path: effectiveDateTime}}]",
        {"effectiveDateTime": "2020", "_effectiveDateTime": {"id": "x"}},
    ),
    (
        "an extension beside another one",
        "[{extension: {path: bodySite, url: urn:x}}]",
        {"extension": [{"url": "urn:a", "valueCode": "b"}], "bodySite": {"text": "arm"}},
    ),
    (
        "several extensions of one list",
        "[{extension: {path: note, url: urn:x}}]",
        {"note": [{"text": "a"}, {"text": "b"}]},
    ),
    (
        "merge into a list that holds one of them",
        "[{merge: {path: focus, into: hasMember}}]",
        {"focus": [{"reference": "A/1"}, {"reference": "A/2"}], "hasMember": [{"reference": "A/2"}]},
    ),
    (
        "split what is a list already",
        "[{split: {path: note.text, on: ;}}]",
        {"note": [{"text": "a"}]},
    ),
    (
        "a rename within items",
        "[{rename: {path: component.valueString, to: valueCode}}]",
        {"component": [{"valueString": "a", "_valueString": {"id": "y"}}, {"valueString": "b"}]},
    ),
]


@pytest.mark.parametrize(
    ("steps", "sent"),
    [(c[1], c[2]) for c in CASES] + [(c[1], c[2]) for c in MORE],
    ids=[c[0] for c in CASES] + [c[0] for c in MORE],
)
def test_every_verb_tells_all_that_it_does(tmp_path: Path, steps: str, sent: dict[str, Any]) -> None:
    body = {**BASE, **sent}
    found = preview(body, FhirVersion.R4, rules(tmp_path / "p", f"  {steps}"))
    check(body, render(body), found.body, found.changes)


# --- single statements

LABS = """
institution: x
maps:
  labs:
    file: codes/labs.csv
    constants: {system: urn:local, target_system: http://loinc.org}
    columns: {code: code, target_code: loinc, target_display: name}
"""
TWO_RULES = """
- rule: one/rename
  on: Observation
  do: [{rename: {path: effectiveDateTime, to: effectiveInstant}}]
  why: the sender's element is named otherwise
- rule: two/translate
  on: Observation
  do: [{translate: {path: code, map: labs}}]
  why: the lab's dictionary
- rule: three/identifier
  on: Observation
  do: [{set: {path: code.coding.display, value: seen}}]
  why: shown names are ours
"""


def told_of(found: Explanation) -> Statement:
    (only,) = found.statements
    return only


def test_a_coding_put_before_the_senders_shifts_its_place_and_not_its_bytes(tmp_path: Path) -> None:
    folder = pack(tmp_path / "p", TWO_RULES, LABS, codes__labs_csv="code,loinc,name\nK,2823-3,Potassium\n")
    ruleset = load_ruleset(folder)
    codings = [{"system": "urn:other", "code": "A"}, {"system": "urn:local", "code": "K", "display": "Kalium"}]
    original = json.dumps({**observation(effectiveDateTime="2020-01-01"), "code": {"coding": codings}}).encode()
    found = preview(parse(original), FhirVersion.R4, ruleset)

    def asked(path: str) -> Statement:
        return told_of(explain(original, found.body, found.changes, path))

    assert [c["code"] for c in found.body["code"]["coding"]] == ["2823-3", "A", "K"]
    kept = asked("code.coding[2].code")
    assert (kept.kind, kept.source, kept.sent) == (Kind.MOVED, "Observation.code.coding[1].code", '"K"')
    assert [change.rule for change in kept.changes] == ["two/translate"]
    made = asked("Observation.code.coding[0].code")
    assert (made.kind, made.source, made.sent) == (Kind.CONVERTED, "Observation.code.coding[1].code", '"K"')
    assert [(c.rule, c.reason, c.table) for c in made.changes] == [("two/translate", "the lab's dictionary", "labs")]
    other = asked("code.coding[1].code")
    assert (other.kind, other.source, other.sent) == (Kind.MOVED, "Observation.code.coding[0].code", '"A"')
    stays = asked("status")
    assert (stays.kind, stays.source, stays.changes) == (Kind.UNTOUCHED, "Observation.status", ())
    renamed = asked("effectiveInstant")
    assert (renamed.kind, renamed.source) == (Kind.MOVED, "Observation.effectiveDateTime")
    over = asked("code.coding[2].display")
    assert (over.kind, over.source, [c.rule for c in over.changes]) == (Kind.MADE, None, ["three/identifier"])


def test_an_item_that_is_asked_for_without_its_number_means_every_item() -> None:
    body = observation(category=[{"text": "a"}, {"text": "b"}])
    told = explain(render(body), body, [], "category.text")
    assert [each.place for each in told.statements] == [
        "Observation.category[0].text",
        "Observation.category[1].text",
    ]
    assert [each.sent for each in told.statements] == ['"a"', '"b"']


def test_a_converted_value_names_the_factor_and_the_digits_that_were_sent() -> None:
    ruleset = load_ruleset(MAPPINGS / "harbor")
    path = MAPPINGS / "harbor" / "examples"
    done = 0
    for file in sorted(path.glob("*.input.json")):
        original = file.read_bytes()
        if b"valueQuantity" not in original:
            continue
        found = preview(parse(original), FhirVersion.R4, ruleset)
        for each in explain(original, found.body, found.changes, "valueQuantity.value").statements:
            if each.kind is Kind.CONVERTED:
                done += 1
                assert each.sent == parse_number(original)
                (change,) = each.changes
                by_table = r"laboratory: local = canonical \* [\d.]+( \+ -?[\d.]+)?"
                assert re.fullmatch(rf"{by_table}|UCUM: \S+ to \S+", change.table), change.table
    assert done


def parse_number(original: bytes) -> str:
    return str(parse(original)["valueQuantity"]["value"])


def test_what_was_taken_out_is_told_with_the_bytes_that_were_sent() -> None:
    sent = observation(focus=[{"reference": "Condition/c1", "display": "secret"}])
    (record,) = run(sent, ruleset=load_ruleset(MAPPINGS / "northgate")).records
    changes, content = explain_changes(record), parse(record.content)
    gone = told_of(explain(record.original, content, changes, "focus[0].display"))
    assert (gone.kind, gone.sent) == (Kind.REMOVED, '"secret"')
    assert [change.rule for change in gone.changes] == ["core/reference-display"]
    pointer = told_of(explain(record.original, content, changes, "focus.reference"))
    assert (pointer.kind, pointer.sent) == (Kind.HOUSE, '"Condition/c1"')


def test_what_moved_away_is_found_by_the_place_it_was_sent_in(tmp_path: Path) -> None:
    folder = rules(tmp_path / "p", "  [{rename: {path: effectiveDateTime, to: effectiveInstant}}]")
    body = observation(effectiveDateTime="2020-01-01")
    found = preview(body, FhirVersion.R4, folder)
    told = told_of(explain(render(body), found.body, found.changes, "effectiveDateTime"))
    assert (told.kind, told.place) == (Kind.MOVED, "Observation.effectiveInstant")


def test_a_change_is_on_record_as_it_was_whatever_later_rules_do_to_the_value(tmp_path: Path) -> None:
    steps = "  [{rename: {path: method, to: bodySite}}, {set: {path: bodySite.text, value: b}}]"
    body = observation(method={"text": "a"})
    new, old, inner = preview(body, FhirVersion.R4, rules(tmp_path / "p", steps)).changes
    assert (new.after, old.before) == ({"text": "a"}, {"text": "a"})
    assert (inner.before, inner.after) == ("a", "b")


@pytest.mark.parametrize("spoil", ["value", "lineage", "original"])
def test_what_the_lineage_does_not_account_for_is_said(spoil: str) -> None:
    (record,) = run(observation(valueString="sent"), ruleset=load_ruleset(MAPPINGS / "northgate")).records
    content, changes, original = parse(record.content), explain_changes(record), record.original
    if spoil == "value":
        content["valueString"] = "forged"
    elif spoil == "lineage":
        changes = [c for c in changes if c.element != "Observation.id"]
    else:
        original = original.replace(b'"sent"', b'"else"')
    told = explain(original, content, changes)
    assert not told.accounts
    place = "Observation.id" if spoil == "lineage" else "Observation.valueString"
    assert [each.place for each in told.statements if each.kind is Kind.UNTOLD] == [place]


def test_lineage_written_before_sources_is_read_and_followed_by_equality(tmp_path: Path) -> None:
    body = observation(effectiveDateTime="2020-01-01", category=[{"text": "a"}])
    steps = "  [{rename: {path: effectiveDateTime, to: effectiveInstant}}, {set: {path: category.text, value: z}}]"
    found = preview(body, FhirVersion.R4, rules(tmp_path / "p", steps))
    new, old = found.changes[:2], []
    for each in (new[1], new[0], *found.changes[2:]):
        old.append({"element": each.element, "before": each.before, "after": each.after, "rule": "r", "reason": "w"})
    changes = read_lineage(json.dumps(old).encode())
    moved = told_of(explain(render(body), found.body, changes, "effectiveInstant"))
    assert (moved.kind, moved.source) == (Kind.MOVED, "Observation.effectiveDateTime")


@pytest.mark.parametrize("lineage", [b"{}]", b'[{"rule": 1}]', b"[1]", b'{"a":1}', b'[{"element":1}]'])
def test_what_is_no_lineage_is_refused(lineage: bytes) -> None:
    with pytest.raises(ValueError, match="not a lineage"):
        read_lineage(lineage)


def test_the_span_is_in_the_entry_of_the_bundle_that_was_kept() -> None:
    (record, *_) = records_of("harbor", [lanes("harbor", SMALL)[0].messages[0]])
    told = explain(record.original, parse(record.content), explain_changes(record), "resourceType")
    (statement,) = told.statements
    assert record.original.startswith(b"{")
    assert isinstance(statement.span, Span)
    assert json.loads(statement.span.of(record.original)) == record.type
