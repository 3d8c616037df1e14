"""A candidate can be compared or believed, and can never do harm."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.errors import IntegrityBroken
from fhir_bridge.intake import Limits
from fhir_bridge.lines.pure import process
from fhir_bridge.lines.trying import tried
from fhir_bridge.model.ingest import FhirVersion, Processed, Received, SourceContext, Trial
from fhir_bridge.normalize import load_ruleset, take_snapshot
from tests.support.bridge_world import bundle, observation, patient
from tests.support.packs import QUARANTINE, marking_pack

LIMITS = Limits(1 << 20, 1000, 64)
KEY = bytes(range(32))
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def received(body: dict[str, Any]) -> Received:
    """Return a message of northgate's."""
    return Received("northgate", FhirVersion.R4, json.dumps(body).encode(), NOON)


def source(pack: Path) -> SourceContext:
    """Return northgate under a pack."""
    return SourceContext("northgate", "n", FhirVersion.R4, KEY, str(pack), load_ruleset(pack).hash)


def on_trial(pack: Path, share: int, *, is_canary: bool) -> Trial:
    """Return the trial of a pack."""
    return Trial(load_ruleset(pack).hash, str(pack), share, is_canary)


def explode() -> Processed:
    """Fail as a candidate may."""
    raise ZeroDivisionError("a value of somebody")


@pytest.mark.parametrize("is_canary", [False, True])
def test_what_a_candidate_raises_is_counted_by_its_class_and_changes_nothing(tmp_path: Path, is_canary: bool) -> None:
    pack = marking_pack(tmp_path / "pack", "one")
    message = received(observation("o1", "p1"))
    done = process(message, source(pack), LIMITS)
    after = tried(on_trial(pack, 10_000, is_canary=is_canary), message, done, explode)
    assert replace(after, tried=None) == done
    assert after.tried is not None
    assert (after.tried.failed, after.tried.is_used) == ("ZeroDivisionError", False)
    assert "somebody" not in repr(after.tried)


def test_a_candidate_whose_copy_is_gone_leaves_the_message_to_the_rules_in_force(tmp_path: Path) -> None:
    pack = marking_pack(tmp_path / "pack", "one")
    gone = Trial("ab" * 32, str(tmp_path / "gone"), 10_000, is_canary=True)
    message = received(observation("o1", "p1"))
    plain = process(message, source(pack), LIMITS)
    done = process(message, replace(source(pack), trial=gone), LIMITS)
    assert replace(done, tried=None) == plain
    assert done.tried is not None
    assert done.tried.failed == "ruleset-broken"


def test_a_canary_makes_exactly_what_its_rules_make_in_force(tmp_path: Path) -> None:
    one, two = marking_pack(tmp_path / "one", "one"), marking_pack(tmp_path / "two", "two")
    message = received(observation("o1", "p1"))
    done = process(message, replace(source(one), trial=on_trial(two, 10_000, is_canary=True)), LIMITS)
    assert replace(done, tried=None) == process(message, source(two), LIMITS)
    shadowed = process(message, replace(source(one), trial=on_trial(two, 10_000, is_canary=False)), LIMITS)
    assert replace(shadowed, tried=None) == process(message, source(one), LIMITS)
    assert done.tried is not None
    assert shadowed.tried is not None
    assert done.tried.differences == shadowed.tried.differences
    assert {(kind[0], kind[2]) for kind, _ in done.tried.differences} == {
        ("changed", "Observation.method.text"),
        ("changed", "Observation.bodySite.text"),
    }


def test_a_difference_in_a_list_is_told_by_its_path_and_the_rule_behind_it_without_the_index(tmp_path: Path) -> None:
    one = marking_pack(tmp_path / "one", "one")
    two = marking_pack(tmp_path / "two", "one", also="set: {path: code.coding.display, value: pulse}")
    codes = [{"system": "http://loinc.org", "code": "8867-4"}, {"system": "urn:x", "code": "y"}]
    message = received(observation("o1", "p1", code={"coding": codes}))
    found = process(message, replace(source(one), trial=on_trial(two, 10_000, is_canary=False)), LIMITS).tried
    assert found is not None
    assert found.differences == (
        (("changed", "marks/third", "Observation.code.coding.display", "http://loinc.org|8867-4"), 1),
    )


def test_a_copy_that_holds_something_else_than_its_hash_says_makes_nothing(tmp_path: Path) -> None:
    pack = marking_pack(tmp_path / "pack", "one")
    taken = load_ruleset(pack).hash
    copy = take_snapshot(pack).write(tmp_path / taken)
    message, context = received(observation("o1", "p1")), source(copy)
    assert process(message, context, LIMITS).rules == taken
    other = take_snapshot(marking_pack(pack, "two")).write(tmp_path / ("0" * 64))
    with pytest.raises(IntegrityBroken):
        process(message, replace(context, ruleset_dir=str(other), ruleset="0" * 64), LIMITS)


def test_the_share_is_of_patients_and_those_drawn_stay_drawn_when_it_grows(tmp_path: Path) -> None:
    one, two = marking_pack(tmp_path / "one", "one"), marking_pack(tmp_path / "two", "two")

    def drawn(share: int) -> set[int]:
        trial = on_trial(two, share, is_canary=True)
        done = [
            process(received(observation(f"o{n}", f"p{n}")), replace(source(one), trial=trial), LIMITS)
            for n in range(300)
        ]
        return {n for n, each in enumerate(done) if each.tried is not None}

    few, more = drawn(1_000), drawn(3_000)
    assert few < more
    # Binomial(300, 0.1) and (300, 0.3): four standard deviations and more.
    assert 9 <= len(few) <= 51
    assert 58 <= len(more) <= 122


def test_a_message_about_several_patients_is_never_a_canarys(tmp_path: Path) -> None:
    one, two = marking_pack(tmp_path / "one", "one"), marking_pack(tmp_path / "two", "two")
    both = bundle(("PUT", "Patient/p1", patient("p1")), ("PUT", "Patient/p2", patient("p2")))
    done = process(received(both), replace(source(one), trial=on_trial(two, 10_000, is_canary=True)), LIMITS)
    assert done.tried is None
    assert done.rules == load_ruleset(one).hash


def test_what_the_rules_in_force_quarantine_is_drawn_by_its_patient_too(tmp_path: Path) -> None:
    strict = marking_pack(tmp_path / "strict", "one", also=QUARANTINE)
    two = marking_pack(tmp_path / "two", "two")
    in_force = replace(source(strict), trial=on_trial(two, 5_000, is_canary=True))

    def by_canary(body: dict[str, Any]) -> bool:
        return process(received(body), in_force, LIMITS).rules == load_ruleset(two).hash

    drawn = {name: by_canary(patient(name)) for name in (f"p{n}" for n in range(12))}
    assert set(drawn.values()) == {True, False}
    for name, is_drawn in drawn.items():
        assert {by_canary(observation(f"o{n}-{name}", name)) for n in range(6)} == {is_drawn}
        # Of a second patient too: what it says of p1 is quarantined, and would be stored by the candidate.
        both = bundle(("PUT", "Patient/x", patient("x")), ("PUT", "Observation/o", observation("o", name)))
        assert not by_canary(both)


def test_what_only_one_of_two_rulesets_takes_is_told_from_what_only_the_other_takes(tmp_path: Path) -> None:
    good = marking_pack(tmp_path / "good", "one")
    strict = marking_pack(tmp_path / "strict", "one", also=QUARANTINE)
    message = received(observation("o1", "p1"))
    stricter = process(message, replace(source(good), trial=on_trial(strict, 10_000, is_canary=False)), LIMITS).tried
    looser = process(message, replace(source(strict), trial=on_trial(good, 10_000, is_canary=False)), LIMITS).tried
    assert stricter is not None
    assert looser is not None
    assert (stricter.entries, stricter.worse) == (1, 1)
    assert stricter.differences == ((("quarantined", "", "Observation", "business-rule"), 1),)
    assert (looser.entries, looser.worse) == (1, 0)
    assert looser.differences == ((("taken", "", "Observation", "http://loinc.org|8867-4"), 1),)
