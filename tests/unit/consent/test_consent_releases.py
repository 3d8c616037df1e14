"""Consents of R4B and R5 mean what their R4 counterparts mean; HL7's own examples come out as their elements say.

R5: ``decision`` is the base rule, each level of provisions negates the one above (StructureDefinition Consent 5.0.0).
"""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_bridge.consent import Policy, compile_consent, consent_in_r4
from fhir_bridge.fhir.validate import validate_r4
from fhir_bridge.model.ingest import FhirVersion
from tests.unit.consent.consent_samples import HARBOR, LOINC, Json, concept, consent, provision, row, sees
from tests.unit.consent.test_consent_oracle import elements

TESTS = Path(__file__).parents[2]
VECTORS = TESTS / "vectors" / "consent"


def _lines(name: str) -> dict[str, Json]:
    return {body["id"]: body for body in map(json.loads, (VECTORS / name).read_text().splitlines())}


R5 = _lines("r5-examples.ndjson")
R4B = _lines("r4b-examples.ndjson")
_R4_TEXT = gzip.decompress((TESTS / "data" / "hl7-examples" / "r4.ndjson.gz").read_bytes()).decode()
R4 = {body["id"]: body for body in map(json.loads, _R4_TEXT.splitlines()) if body["resourceType"] == "Consent"}


def _r5(body: Json) -> Policy:
    return compile_consent(body, release=FhirVersion.R5)


def _shown(name: str, at: datetime, **who: str) -> tuple[bool, bool]:
    """Whether somebody sees a plain record, and one that a MedicationRequest of the examples is about."""
    told = consent_in_r4(R5[name])
    asks = replace(HARBOR, **who)  # type: ignore[arg-type]
    plain = row(labelled=("N",))
    tied = row("MedicationRequest", "medrx0305", labelled=("N",))
    return sees(asks, plain, told, at=at), sees(asks, tied, told, at=at)


WITHIN, AFTER = datetime(2015, 1, 15, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)


def test_no_r4b_example_means_more_or_less_than_its_r4_original() -> None:
    shared = R4B.keys() & R4.keys()
    assert len(shared) >= 5
    for name in shared:
        assert compile_consent(R4B[name], release=FhirVersion.R4B) == compile_consent(R4[name]), name


def test_decision_deny_with_a_period_permits_within_it() -> None:
    """consent-example-basic: deny, but from 1964 to the end of 1 January 2019."""
    assert _shown("consent-example-basic", WITHIN) == (True, True)
    assert _shown("consent-example-basic", AFTER) == (False, False)


def test_decision_permit_with_a_period_denies_within_it() -> None:
    """consent-example-notTime: permit, but for January 2015."""
    assert _shown("consent-example-notTime", WITHIN) == (False, False)
    assert _shown("consent-example-notTime", AFTER) == (True, True)


def test_decision_permit_withholds_from_the_named_actor_alone() -> None:
    """consent-example-notOrg names Organization/f001, consent-example-notThem Practitioner/f204."""
    assert _shown("consent-example-notOrg", AFTER, institution_id="f001") == (False, False)
    assert _shown("consent-example-notOrg", AFTER) == (True, True)
    assert _shown("consent-example-notThem", AFTER, practitioner="f204") == (False, False)
    assert _shown("consent-example-notThem", AFTER) == (True, True)


def test_decision_permit_withholds_the_named_data_alone() -> None:
    """consent-example-notThis: everything but what is related to MedicationRequest/medrx0305."""
    assert _shown("consent-example-notThis", AFTER) == (True, False)


def test_a_second_level_negates_the_first() -> None:
    """consent-example-pkb: deny; f001 may access normal data; but not what is also PSY, SPI or SEX."""
    told = consent_in_r4(R5["consent-example-pkb"])
    f001 = replace(HARBOR, institution_id="f001")
    assert not sees(f001, row(labelled=("N", "PSY")), told)
    assert not sees(HARBOR, row(labelled=("N",)), told)


def test_a_permit_nested_in_a_denial_is_read_by_resource_type() -> None:
    """consent-example-smartonfhir: in its half hour nothing but MedicationRequest."""
    then = datetime(2016, 6, 23, 7, 10, tzinfo=UTC)
    assert _shown("consent-example-smartonfhir", then) == (False, True)


@pytest.mark.parametrize("name", ["CDA", "Emergency", "Out", "grantor", "notAuthor"])
def test_examples_whose_actors_are_authors_or_custodians_are_not_understood(name: str) -> None:
    assert not _r5(R5[f"consent-example-{name}"]).understood


@pytest.mark.parametrize("name", sorted(R5))
def test_what_is_stored_for_an_r5_example_is_valid_r4(name: str) -> None:
    issues = validate_r4(consent_in_r4(R5[name]))
    assert [each for each in issues if each.severity in ("error", "fatal")] == []


# --- a tree in both releases

alternating: st.SearchStrategy[Any] = st.recursive(
    elements.map(lambda more: (more, [])),
    lambda inner: st.tuples(elements, st.lists(inner, max_size=2)),
    max_leaves=6,
)


def _as_r4(node: Any, kind: str) -> Json:
    more, nested = node
    other = "deny" if kind == "permit" else "permit"
    return provision(kind, *[_as_r4(each, other) for each in nested], **more)


def _as_r5(node: Any) -> Json:
    more, nested = node
    own = {"resourceType" if name == "class" else name: value for name, value in more.items()}
    return own | ({"provision": [_as_r5(each) for each in nested]} if nested else {})


@settings(max_examples=200, deadline=None)
@given(st.lists(alternating, max_size=2), st.sampled_from(["permit", "deny"]), st.booleans())
def test_the_same_tree_compiles_to_the_same_policy(trees: list[Any], decision: str, dated: bool) -> None:
    period = {"period": {"start": "2026-01-01", "end": "2026-12-31"}} if dated else {}
    opposite = "deny" if decision == "permit" else "permit"
    root = provision(None, *[_as_r4(each, opposite) for each in trees], **period)
    in_r4 = consent(root or None, "OPTIN" if decision == "permit" else "OPTOUT")
    in_r5 = _plain(decision, *[_as_r5(each) for each in trees], **period)
    assert _r5(in_r5) == compile_consent(in_r4)
    assert _r5(in_r5).understood


def _plain(decision: str | None, *provisions: Json, **more: object) -> Json:
    body: Json = {
        "resourceType": "Consent",
        "status": "active",
        "category": [concept(LOINC, "59284-0")],
        "subject": {"reference": "Patient/pat1"},
        "date": "2026-01-01",
    }
    body |= {"decision": decision} if decision else {}
    return body | ({"provision": list(provisions)} if provisions else {}) | more


@pytest.mark.parametrize(
    "more",
    [
        {"decision": None},
        {"decision": "maybe"},
        {"decision": ["permit"]},
        {"unheardOf": 1},
        {"modifierExtension": [{"url": "urn:x"}]},
        {"implicitRules": "urn:x"},
        {"policyRule": concept(LOINC, "OPTIN")},
        {"scope": concept(LOINC, "x")},
        {"policyBasis": {"url": "urn:x", "modifierExtension": [{"url": "urn:x"}]}},
        {"policyBasis": "x"},
        {"verification": [{"verified": False}]},
        {"verification": [{"verified": True, "modifierExtension": [{"url": "urn:x"}]}]},
        {"verification": ["x"]},
        {"category": None},
        {"category": [concept(LOINC, "1-1")]},
        {"period": {"start": "soon"}},
        {"provision": {"period": {"start": "2026"}}},
        {"provision": ["x"]},
        {"provision": [{"documentType": [{"system": "urn:ietf:bcp:13", "code": "application/hl7-cda+xml"}]}]},
        {"provision": [{"expression": {"language": "text/fhirpath", "expression": "true"}}]},
        {"provision": [{"type": "permit"}]},
        {"provision": [{"class": [{"system": "http://hl7.org/fhir/resource-types", "code": "Observation"}]}]},
        {"provision": [{"resourceType": [{"code": "Observation"}]}]},
        {"provision": [{"provision": {}}]},
        {"provision": [{"modifierExtension": [{"url": "urn:x"}]}]},
    ],
    ids=repr,
)
def test_what_is_not_understood_in_r5_suspends_as_in_r4(more: Json) -> None:
    body = {name: value for name, value in (_plain("permit") | more).items() if value is not None}
    assert _r5(_plain("permit")).understood
    assert not _r5(body).understood


def test_nesting_without_end_is_not_understood_and_does_not_fail() -> None:
    deep: Json = {}
    for _ in range(5_000):
        deep = {"provision": [deep]}
    assert not _r5(_plain("permit", deep)).understood


def test_what_tells_about_parties_and_texts_changes_nothing() -> None:
    more = {
        "grantor": [{"reference": "RelatedPerson/peter"}],
        "grantee": [{"reference": "Practitioner/p"}],
        "manager": [{"reference": "Organization/m"}],
        "controller": [{"reference": "Practitioner/c"}],
        "regulatoryBasis": [concept(LOINC, "x")],
        "policyText": [{"reference": "DocumentReference/d"}],
        "policyBasis": {"url": "http://example.org/policy"},
        "sourceReference": [{"reference": "DocumentReference/d"}],
        "verification": [{"verified": True, "verificationDate": ["2026-01-01", "2026-01-02"]}],
    }
    told = consent_in_r4(_plain("deny", **more))
    assert _r5(_plain("deny", **more)) == _r5(_plain("deny"))
    assert told["performer"] == [{"reference": "RelatedPerson/peter"}, {"reference": "Practitioner/p"}]
    assert told["organization"] == [{"reference": "Organization/m"}]
    assert told["verification"] == [{"verified": True, "verificationDate": "2026-01-01"}]


@pytest.mark.parametrize(
    ("status", "stored"),
    [("active", "active"), ("not-done", "rejected"), ("unknown", "inactive"), ("inactive", "inactive")],
)
def test_only_an_active_r5_consent_is_active(status: str, stored: str) -> None:
    assert consent_in_r4(_plain("permit") | {"status": status})["status"] == stored


def test_an_advance_directive_says_nothing_about_data() -> None:
    directive = _plain("permit") | {
        "category": [concept("http://terminology.hl7.org/CodeSystem/consentcategorycodes", "dnr")]
    }
    assert _r5(directive) == Policy(understood=True)
