"""What is remembered of a policy for a requester never outlives what it was worked out from."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta

import pytest

from fhir_bridge.model.access import Requester
from tests.unit.consent.consent_samples import HARBOR, NOW, consent, decision, provision, purposes, row, to

NAMED = replace(HARBOR, practitioner="dr-h")


def test_a_period_that_ends_between_two_decisions_ends() -> None:
    body = consent(
        provision("deny", provision("permit", period={"end": "2026-03-01"}), period={"start": "2026-03-01"})
    )
    assert decision(HARBOR, body, at=NOW).permits(row())
    assert not decision(HARBOR, body, at=NOW + timedelta(days=1)).permits(row())
    assert decision(HARBOR, body, at=NOW).permits(row())


@pytest.mark.parametrize(
    ("elements", "other"),
    [
        (to("Practitioner/dr-h"), {"practitioner": "dr-x"}),
        (to("Practitioner/dr-h"), {"practitioner": None}),
        (to("Organization/org-harbor"), {"institution_id": "org-x"}),
        (to("Group/g"), {"groups": ()}),
        (purposes("TREAT"), {"purpose": "HRESCH"}),
        (purposes("TREAT"), {"purpose": ""}),
        ({"actor": [{"role": {"coding": [{"system": "urn:r", "code": "a"}]}}]}, {"roles": ("urn:r|b",)}),
        (
            {"actor": [{"reference": {"identifier": {"system": "urn:fhir-bridge:institution", "value": "harbor"}}}]},
            {"institution": "other"},
        ),
    ],
    ids=repr,
)
def test_requesters_who_differ_in_one_attribute_share_nothing(
    elements: dict[str, object], other: dict[str, object]
) -> None:
    asks = replace(NAMED, groups=("Group/g",), roles=("urn:r|a",))
    body = consent(provision("permit", **elements))
    for _ in range(2):
        assert decision(asks, body).permits(row())
        assert not decision(replace(asks, **other), body).permits(row())  # type: ignore[arg-type]


def test_a_new_attribute_of_requesters_is_noticed_here() -> None:
    """Whoever adds one decides whether clauses look at it, and then it belongs to what memories are kept by."""
    known = (
        "client_id institution institution_id practitioner roles purpose patient scopes groups delegate attested_by "
        "subject question"
    )
    assert [each.name for each in fields(Requester)] == known.split()
