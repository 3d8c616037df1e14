"""What the sets in force do to a record: labels, lineage, and judging a stored version again."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_bridge.fhir.json import parse
from fhir_bridge.fhir.value_sets import LabelSets, ValueSet
from fhir_bridge.model.ingest import Change, Normalized
from fhir_bridge.normalize import StoredVersion, explain_changes, load_ruleset, normalize, relabelled
from tests.unit.normalize.bench import KEY, MAPPINGS, SOURCE, message, observation

ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
SYSTEM = "urn:test:codes"
NORTHGATE = load_ruleset(MAPPINGS / "northgate")
LABELS = ("ETH", "HIV", "PSY")
Assigned = dict[str, str]


def sets_of(**codes: str) -> LabelSets:
    """Return sets by label: ``HIV="ab"`` holds the codes a and b."""
    made = ((label, ValueSet(f"urn:set:{label}", "1", {SYSTEM: frozenset(text)})) for label, text in codes.items())
    return LabelSets(made)


def made(resource: dict[str, Any], sets: LabelSets) -> Normalized:
    return normalize(message(resource), SOURCE, NORTHGATE, sets).records[0]


def coded(*codes: str, **more: Any) -> dict[str, Any]:
    return observation(code={"coding": [{"system": SYSTEM, "code": code} for code in codes]}, **more)


def labels(record: Normalized) -> list[str]:
    return [each["code"] for each in parse(record.content)["meta"].get("security", [])]


def stored(record: Normalized) -> StoredVersion:
    return StoredVersion(record.row, record.content, record.original, record.lineage, record.ruleset)


def test_every_label_is_a_change_that_names_set_version_and_concepts() -> None:
    record = made(coded("a", "b"), sets_of(HIV="ab", PSY="b"))
    assert labels(record) == ["HIV", "PSY"]
    ours = [change for change in explain_changes(record) if change.rule.startswith("core/sensitivity ")]
    assert [(c.rule, c.reason) for c in ours] == [
        ("core/sensitivity urn:set:HIV|1", f"urn:set:HIV|1 holds {SYSTEM}|a, {SYSTEM}|b"),
        ("core/sensitivity urn:set:PSY|1", f"urn:set:PSY|1 holds {SYSTEM}|b"),
    ]
    assert ours[0].before is None


def test_codes_in_what_a_record_contains_and_gives_as_reason_count_and_those_of_meta_do_not() -> None:
    sets = sets_of(HIV="a")
    inside = {"resourceType": "Medication", "code": {"coding": [{"system": SYSTEM, "code": "a"}]}}
    assert labels(made(observation(contained=[{"id": "m", **inside}]), sets)) == ["HIV"]
    assert labels(made(observation(valueCodeableConcept=inside["code"]), sets)) == ["HIV"]
    tagged = observation(meta={"tag": [{"system": SYSTEM, "code": "a"}]})
    assert labels(made(tagged, sets)) == []


def test_what_a_record_refers_to_gives_it_no_label() -> None:
    """Else a visible record's label would tell of a hidden one."""
    other = coded("a", id="hidden")
    refers = observation(id="o2", derivedFrom=[{"reference": "Observation/hidden"}])
    records = normalize(message(other, refers), SOURCE, NORTHGATE, sets_of(HIV="a")).records
    assert [labels(record) for record in records] == [["HIV"], []]


def test_a_house_rule_that_gives_the_same_label_keeps_it_when_the_set_does_not_any_more() -> None:
    """LOINC 76501-6 answered yes (LA33-6) is labelled SDV by a rule of core."""
    answer = {
        "code": {"coding": [{"system": "http://loinc.org", "code": "76501-6"}]},
        "valueCodeableConcept": {"coding": [{"system": "http://loinc.org", "code": "LA33-6"}]},
    }
    before = made(coded("a", component=[answer]), sets_of(SDV="a"))
    assert labels(before) == ["SDV"]
    assert labels(relabelled(stored(before), sets_of(HIV="z"), KEY)) == ["SDV"]


assigned = st.dictionaries(st.sampled_from(LABELS), st.text("abc", min_size=1, max_size=2), max_size=3)
sent_labels = st.lists(st.sampled_from(LABELS), max_size=2, unique=True)


@settings(max_examples=60, deadline=None)
@given(assigned, assigned, st.sets(st.sampled_from("abcd"), min_size=1), sent_labels, st.booleans())
def test_judging_again_gives_the_bytes_that_normalising_under_the_new_sets_gives(
    old: Assigned, new: Assigned, codes: set[str], said: list[str], has_profile: bool
) -> None:
    meta: dict[str, Any] = {"profile": ["urn:p"]} if has_profile else {}
    if said:
        meta = {"security": [{"system": ACT, "code": code} for code in said], **meta}
    resource = coded(*sorted(codes), **({"meta": meta} if meta else {}))
    first, fresh = made(resource, sets_of(**old)), made(resource, sets_of(**new))
    again = relabelled(stored(first), sets_of(**new), KEY)
    assert again.content == fresh.content
    assert (again.row, again.stamp_at, again.original) == (fresh.row, fresh.stamp_at, fresh.original)
    assert sorted(_told(again), key=str) == sorted(_told(fresh), key=str)
    assert again.ruleset not in (first.ruleset, fresh.ruleset)


def _told(record: Normalized) -> list[Change]:
    return [change for change in explain_changes(record) if "meta.tag" not in json.dumps(change.element)]
