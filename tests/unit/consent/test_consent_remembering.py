"""What is remembered of consents is what would be worked out anew, whatever was asked before.

Each sequence asks about a few lists at instants around every boundary, as requesters and about charts that differ
in one thing from each other, in random order, while lists change. What comes out is compared with the same question
about equal lists of other bytes, which are read, compiled and held against the requester for the first time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from fhir_bridge.consent import (
    ChartFacts,
    ConsentEntry,
    ConsentList,
    NetworkPolicies,
    decide,
    load_policies,
    narrowed,
    of_person,
)
from fhir_bridge.consent.remembering import SMALL_BODY, Memory, by_body
from fhir_bridge.model.access import Decision, Requester
from fhir_bridge.model.ingest import ChartRef
from tests.unit.consent.consent_samples import (
    ALWAYS,
    CHART,
    HARBOR,
    NORTHGATE,
    NOW,
    Json,
    actor,
    coding,
    consent,
    entry,
    labels,
    listed,
    provision,
    purposes,
    row,
    to,
)

SEQUENCES = int(os.environ.get("FHIR_BRIDGE_REMEMBERING_SEQUENCES", "60"))
STEPS = 120
BASE = "https://ours.example.org/fhir"
BASES = (None, BASE)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EDGES = tuple(NOW + timedelta(days=days) for days in (-2, -1, 0, 1, 2))
ROLES = ("urn:r|a",)
REQUESTERS = (
    HARBOR,
    NORTHGATE,
    replace(HARBOR, institution="cedar"),
    replace(HARBOR, institution_id="org-cedar"),
    replace(HARBOR, practitioner="dr-x"),
    replace(HARBOR, roles=ROLES),
    replace(HARBOR, purpose="HRESCH"),
    replace(HARBOR, groups=("Group/g",)),
    replace(HARBOR, groups=None),
)
CHARTS = (CHART, replace(CHART, chart="c2"), replace(CHART, institution="harbor"))
ROWS = (
    row(),
    row(labelled=("PSY",)),
    row(labelled=("N",)),
    row("Condition", "r2", references=("Observation/r1",)),
    row("Encounter", "r3", references=("Observation/r4",)),
    row(record_id="r4", origin="harbor"),
)
SEEN = (*ROWS, row(record_id="r5", references=("Encounter/r3",)))


@dataclass(slots=True)
class Lists:
    """A patient's list and an institution's, as they are now."""

    owner: ConsentList | None
    institution: ConsentList | None


@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_what_is_remembered_is_what_is_worked_out_anew(seed: int) -> None:
    random = Random(seed)
    networks = tuple(_network(paper) for paper in ("counts", "refused"))
    usual = [random.choice(each) for each in (REQUESTERS, CHARTS, BASES, networks)]
    lists = [_lists(random) for _ in range(3)]
    for step in range(STEPS):
        if random.random() < 0.1:
            lists[random.randrange(3)] = _changed(random, lists[random.randrange(3)])
        # Mostly the same question, or hardly any would be asked twice.
        varied = (REQUESTERS, CHARTS, BASES, networks)
        ask = _question(random, *(_mostly(random, one, all_) for one, all_ in zip(usual, varied, strict=True)))
        one = _mostly(random, lists[0], lists)
        asked, anew = ask(one), ask(Lists(_rewritten(one.owner, step), _rewritten(one.institution, step)))
        assert _outcome(asked) == _outcome(anew), (seed, step)


def _mostly(random: Random, usual: Any, others: Sequence[Any]) -> Any:
    return usual if random.random() < 0.8 else random.choice(others)


def _question(
    random: Random, who: Requester, chart: ChartRef, base_url: str | None, network: NetworkPolicies
) -> Callable[[Lists], Decision]:
    instant = random.choice(EDGES) + random.choice([-1, 0, 1]) * timedelta(microseconds=1)
    rows = random.choice([(), ROWS])
    is_attested, in_emergency = random.random() < 0.8, random.random() < 0.1
    facts = ChartFacts(chart, frozenset({"pat1"}), rows, base_url=base_url, network=network)

    def ask(lists: Lists) -> Decision:
        return decide(
            who,
            facts,
            lists.owner,
            lists.institution,
            instant=instant,
            height=1,
            in_emergency=in_emergency,
            is_attested=is_attested,
        )

    return ask


def _outcome(decision: Decision) -> tuple[object, ...]:
    shown = tuple(decision.permits(each) for each in SEEN)
    return shown, decision.basis, decision.policies, decision.attested, decision.network_policy


def _rewritten(held: ConsentList | None, step: int) -> ConsentList | None:
    """Return a list that says the same in bytes that nobody saw before."""
    if held is None:
        return None
    return ConsentList(tuple(replace(each, body=each.body + b" " * (step + 1)) for each in held.entries))


# --- random lists


def _network(paper: str) -> NetworkPolicies:
    defaults = [{"id": "d", "kind": "default", "citation": "a law", "provision": provision("permit", **labels("R"))}]
    attestation = {"paper": paper, "guardians": "own-chart"}
    return load_policies(json.dumps({"format": 1, "attestation": attestation, "policies": defaults}).encode())


def _period(random: Random) -> Json:
    ends = random.choice([("start",), ("end",), ("start", "end")])
    days = sorted(random.sample(EDGES, len(ends)))
    return {name: day.isoformat() for name, day in zip(ends, days, strict=True)}


def _elements(random: Random) -> Json:
    made: Json = random.choice(
        [
            {},
            to("Organization/org-harbor"),
            to(f"{BASE}/Organization/org-harbor"),
            to("Practitioner/dr-h"),
            to("Group/g"),
            purposes("TREAT"),
            labels("PSY"),
            {"actor": [{"role": {"coding": [coding("urn:r", "a")]}}]},
            {"actor": [actor("Organization/org-harbor"), actor("Organization/org-northgate")]},
            {"data": [{"meaning": "related", "reference": {"reference": "Encounter/r3"}}]},
        ]
    )
    return made | ({"period": _period(random)} if random.random() < 0.4 else {})


def _body(random: Random, attested: bool) -> Json:
    kind = random.choice(["permit", "deny"])
    nested = [provision(random.choice(["permit", "deny"]), **_elements(random)) for _ in range(random.choice([0, 1]))]
    if random.random() < 0.5:
        root = {"period": _period(random)} if random.random() < 0.7 else {}
        body = consent(provision(None, *nested, **root), random.choice(["OPTIN", "OPTOUT"]))
    else:
        body = consent(provision(kind, *nested, **_elements(random)))
    body["status"] = random.choice(["active"] * 5 + ["inactive"])
    if attested:
        source = random.choice(["paper:northgate", "guardian:g1", "institution:northgate"])
        tags = [coding("urn:fhir-bridge:attested-by", "northgate")]
        tags.append(coding("urn:fhir-bridge:attested-until", random.choice(EDGES).isoformat()))
        body["meta"] = {"source": f"urn:fhir-bridge:{source}", "tag": tags}
    return body | ({"unheardOf": 1} if random.random() < 0.15 else {})


def _entry(random: Random, number: int, *, attested: bool) -> ConsentEntry:
    made = entry(_body(random, attested), number, signed_at=random.randint(1, 3), charts=random.choice([("c1",), ()]))
    low, high = sorted((each - EPOCH) // timedelta(microseconds=1) for each in random.sample(EDGES, 2))
    return replace(made, valid=random.choice([ALWAYS, (low, ALWAYS[1]), (ALWAYS[0], high), (low, high)]))


def _listed(random: Random, *, attested: bool) -> ConsentList | None:
    if random.random() < 0.1:
        return None
    return ConsentList(tuple(_entry(random, each, attested=attested) for each in range(random.randint(0, 3))))


def _lists(random: Random) -> Lists:
    return Lists(_listed(random, attested=False), _listed(random, attested=True))


def _changed(random: Random, lists: Lists) -> Lists:
    """Return lists of which one has an entry added, replaced, withdrawn or taken away; entries stay the objects."""
    is_owners = random.random() < 0.5
    held = (lists.owner if is_owners else lists.institution) or ConsentList()
    if held.entries and random.random() < 0.5:
        one = random.choice(held.entries)
        left = ConsentList(tuple(each for each in held.entries if each is not one))
        made = random.choice([left, held.with_entry(replace(one, status="inactive"))])
    else:
        made = held.with_entry(_entry(random, random.randint(0, 3), attested=not is_owners))
    return replace(lists, owner=made) if is_owners else replace(lists, institution=made)


# --- what it rests on


def test_related_data_is_looked_up_in_the_rows_of_each_question() -> None:
    related = {"data": [{"meaning": "related", "reference": {"reference": "Encounter/r3"}}]}
    held = listed(consent(provision("permit", provision("deny", **related))))
    refers = row("Encounter", "r3", references=("Observation/r1",))
    for rows, is_seen in (((refers,), False), ((), True), ((refers,), False)):
        facts = ChartFacts(CHART, frozenset({"pat1"}), rows)
        assert decide(HARBOR, facts, held, None, instant=NOW, height=1).permits(row()) is is_seen


def test_a_list_of_which_nothing_is_left_out_stays_the_object() -> None:
    held = listed(consent(provision("permit")))
    assert of_person(held, frozenset({"pat1", "pat2"})) is held
    assert of_person(held, frozenset({"pat2"})).entries == ()
    assert of_person(held, frozenset({"pat1"})) is held


def test_a_list_made_of_others_is_made_once() -> None:
    other = consent(provision("permit")) | {"patient": {"reference": "Patient/pat2"}}
    held, kept = listed(consent(provision("permit")), other), listed(consent(provision("deny")))
    left = of_person(held, frozenset({"pat1"}))
    assert [each.id for each in left.entries] == ["consent-1"]
    assert of_person(held, frozenset({"pat1"})) is left
    assert of_person(left, frozenset({"pat1"})) is left
    both = narrowed(held, kept)
    assert both is not None
    assert both.entries == (kept.entries[0], held.entries[1])
    assert narrowed(held, kept) is both
    assert narrowed(kept, held) is not both
    assert narrowed(held, left) is not both


def test_equal_objects_are_not_the_same() -> None:
    memory = Memory[str](10)
    one, other = [1], [1]
    memory.keep((one,), "key", "found")
    assert memory.find((one,), "key") == "found"
    assert memory.find((other,), "key") is None
    assert memory.find((one,), "another") is None


def test_an_object_that_is_remembered_by_is_not_let_go() -> None:
    memory = Memory[int](10_000)
    for number in range(1_000):
        assert memory.find(([number],), None) is None, "then the identity of a lost object was taken for its own"
        memory.keep(([number],), None, number)


def test_what_is_held_is_bounded_and_the_oldest_gives_way() -> None:
    memory, held = Memory[int](10), [[number] for number in range(30)]
    for number, each in enumerate(held):
        memory.keep((each,), None, number, weight=2)
        kept = [memory.find((one,), None) for one in held]
        assert [one for one in kept if one is not None] == list(range(max(0, number - 4), number + 1))
    memory.keep((held,), None, 1, weight=11)
    assert memory.find((held,), None) is None
    memory.keep((held,), None, 1, weight=7)
    assert [memory.find((one,), None) for one in held[-2:]] == [None, 29]


def test_what_is_kept_again_takes_no_more_room() -> None:
    memory, one, other = Memory[int](10), [1], [2]
    memory.keep((other,), None, 0, weight=2)
    for number in range(20):
        memory.keep((one,), None, number, weight=8)
    assert (memory.find((one,), None), memory.find((other,), None)) == (19, 0)


def test_large_consents_are_not_remembered_one_after_the_other() -> None:
    """Anybody's drafts are judged: they must not fill the memory, however few they are."""
    made = [0]

    def length(body: bytes) -> int:
        made[0] += 1
        return len(body)

    kept = by_body(length)
    for size, times in ((SMALL_BODY, 1), (SMALL_BODY + 1, 3)):
        made[0] = 0
        assert [kept(b"a" * size) for _ in range(3)] == [size] * 3
        assert made[0] == times
    listed_ = ConsentList((replace(entry(consent(provision("permit"))), body=b"a" * (5 << 10)),))
    assert listed_.weight == 6
