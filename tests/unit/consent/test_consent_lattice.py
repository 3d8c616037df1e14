"""Several Consents combine as a lattice: the greatest thing that any of them says decides, in whatever order.

docs/consent.md, "Several Consents": a provision outranks a base rule, and within a rank a denial outranks a permit.
What one Consent says is told by the second evaluator; the engine is asked about all of them together.
"""

from __future__ import annotations

import json
from dataclasses import replace
from enum import IntEnum
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_bridge.consent import ChartFacts, ConsentList, OwnRecords, decide, load_policies
from fhir_bridge.model.access import Requester
from fhir_bridge.model.ingest import IndexRow
from tests.unit.consent.consent_samples import CHART, NOW, Json, decision, entry
from tests.unit.consent.test_consent_oracle import consents, one_consent, requesters, rows, understood


class Said(IntEnum):
    """What a Consent says about a request for a record, from the least to the greatest element of the order."""

    NOTHING = 0
    BASE_PERMIT = 1
    BASE_DENY = 2
    PROVISION_PERMIT = 3
    PROVISION_DENY = 4


def _said(requester: Requester, seen: IndexRow, body: Json) -> Said:
    verdict, is_base = one_consent(requester, seen, body, may_permit=True)
    if verdict is None:
        return Said.NOTHING
    return Said[f"{'BASE' if is_base else 'PROVISION'}_{verdict.upper()}"]


def _outcome(top: Said, is_own: bool) -> bool:
    """Return the outcome for the greatest element, where a network lets provisions close own records."""
    own = {Said.NOTHING: is_own, Said.BASE_DENY: is_own}
    return own.get(top, top in (Said.BASE_PERMIT, Said.PROVISION_PERMIT))


def _decided(requester: Requester, listed: ConsentList, seen: list[IndexRow]) -> list[bool]:
    facts = ChartFacts(CHART, frozenset({"pat1"}), (), OwnRecords.CLOSED_BY_PROVISION)
    permits = decide(requester, facts, listed, None, instant=NOW, height=7).permits
    return [permits(each) for each in seen]


few_rows = st.lists(rows, min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(requesters, few_rows, st.lists(understood, max_size=4))
def test_the_greatest_of_what_is_said_decides(requester: Requester, seen: list[IndexRow], bodies: list[Json]) -> None:
    permits = decision(requester, *bodies).permits
    for each in seen:
        top = max((_said(requester, each, body) for body in bodies), default=Said.NOTHING)
        is_own = (requester.institution, each.origin, each.author) == ("northgate", "northgate", "institution")
        assert permits(each) == _outcome(top, is_own)


@settings(max_examples=100, deadline=None)
@given(requesters, few_rows, st.lists(consents, min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_neither_names_nor_order_nor_repetition_matter(
    requester: Requester, seen: list[IndexRow], bodies: list[Json], random: Random
) -> None:
    """What is not understood is among them: the moment of signing counts there, and stays with its Consent."""
    signed = [entry(body, number, signed_at=number) for number, body in enumerate(bodies, 1)]
    names = random.sample(range(100), len(signed))
    renamed = [replace(each, id=f"consent-{name:02}") for each, name in zip(signed, names, strict=True)]
    random.shuffle(renamed)
    again = [*signed, replace(random.choice(signed), id="consent-again")]
    once = _decided(requester, ConsentList(tuple(signed)), seen)
    assert _decided(requester, ConsentList(tuple(renamed)), seen) == once
    assert _decided(requester, ConsentList(tuple(again)), seen) == once


@settings(max_examples=60, deadline=None)
@given(requesters, few_rows, st.lists(understood, min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_default_policies_does_not_matter(
    requester: Requester, seen: list[IndexRow], bodies: list[Json], random: Random
) -> None:
    policies = [
        {"id": f"p{number}", "kind": "default", "citation": "agreement"}
        | ({"institution": "northgate"} if number % 2 else {})
        | {name: body[name] for name in ("policyRule", "provision") if name in body}
        for number, body in enumerate(bodies)
    ]

    def outcomes(listed: list[Json]) -> list[bool]:
        network = load_policies(json.dumps({"format": 1, "policies": listed}).encode())
        facts = ChartFacts(CHART, frozenset({"pat1"}), (), OwnRecords.OPEN, None, network)
        permits = decide(requester, facts, ConsentList(), None, instant=NOW, height=7).permits
        return [permits(each) for each in seen]

    assert outcomes(random.sample(policies, len(policies))) == outcomes(policies)
