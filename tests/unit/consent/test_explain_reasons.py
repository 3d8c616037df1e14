"""An explanation says the engine's outcome and cites the rules that made it: taken away, they decide no more."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_bridge.consent import ChartFacts, ConsentList, OwnRecords, compile_consent, decide
from fhir_bridge.consent.explaining import Explanation, Reasons, Rule
from fhir_bridge.consent.wording import rule_in_words
from fhir_bridge.model.access import Requester
from fhir_bridge.model.ingest import IndexRow
from tests.unit.consent.consent_samples import (
    CHART,
    HARBOR,
    NORTHGATE,
    NOW,
    Json,
    consent,
    entry,
    labels,
    listed,
    provision,
    row,
    to,
)
from tests.unit.consent.test_consent_oracle import consents, oracle, provisions, requesters, rows

FACTS = ChartFacts(CHART, frozenset({"pat1"}))
PERMIT_HARBOR = consent(provision("permit", **to("Organization/org-harbor")), "OPTOUT")
DENY_PSY = consent(provision("deny", **labels("PSY")))


def explained(
    requester: Requester, seen: IndexRow, owner: ConsentList, institution: ConsentList | None = None
) -> Explanation:
    decision = decide(requester, FACTS, owner, institution, instant=NOW, height=7)
    return Reasons(decision, requester, FACTS, owner, institution).of(seen)


def without(found: ConsentList, cited: Explanation) -> ConsentList:
    named = {each.consent for each in cited.cited}
    return ConsentList(tuple(each for each in found.entries if each.id not in named))


def test_a_denial_is_cited_with_its_place_and_words() -> None:
    why = explained(HARBOR, row(labelled=("PSY",)), listed(PERMIT_HARBOR, DENY_PSY))
    assert (why.permits, why.rule) == (False, Rule.PROVISION)
    assert [(each.consent, each.path, each.by_patient) for each in why.cited] == [
        ("consent-2", "Consent.provision", True)
    ]
    assert why.cited[0].words == "denies where the record is labelled v3-ActCode|PSY"
    assert [each.consent for each in why.overruled] == ["consent-1"]


def test_a_permit_is_cited_and_who_says_nothing_is_told() -> None:
    why = explained(HARBOR, row(labelled=("N",)), listed(PERMIT_HARBOR, DENY_PSY))
    assert (why.permits, [each.consent for each in why.cited]) == (True, ["consent-1"])
    assert why.cited[0].words == "permits where the requester is Organization/org-harbor"
    assert [(each.consent, each.why) for each in why.silent] == [("consent-2", "says nothing about this record")]


def test_a_nested_rule_is_cited_by_its_own_place() -> None:
    nested = provision("permit", provision("deny", **labels("PSY")), **to("Organization/org-harbor"))
    why = explained(HARBOR, row(labelled=("PSY",)), listed(consent(nested)))
    assert [each.path for each in why.cited] == ["Consent.provision.provision[0]"]
    assert "Organization/org-harbor" in why.cited[0].words


def test_a_base_rule_is_cited_as_one() -> None:
    why = explained(HARBOR, row(), listed(consent(None, "OPTOUT")))
    assert (why.permits, why.rule, [each.path for each in why.cited]) == (
        False,
        Rule.BASE_RULE,
        ["Consent.policyRule"],
    )


def test_without_any_consent_the_default_decides() -> None:
    assert explained(HARBOR, row(), ConsentList()).rule == Rule.DEFAULT


def test_what_the_institution_wrote_itself_is_its_own_to_see() -> None:
    why = explained(NORTHGATE, row(origin="northgate"), ConsentList())
    assert (why.permits, why.rule, why.cited) == (True, Rule.OWN, ())


def test_the_patient_is_told_that_the_chart_is_the_own_one() -> None:
    assert explained(Requester("agent", patient="pat1"), row(), listed(DENY_PSY)).rule == "patient"


def test_a_permit_suspended_by_what_nobody_understands_is_told() -> None:
    why = explained(HARBOR, row(), listed(PERMIT_HARBOR, consent(provision("permit"), unheardOf=1)))
    said = {each.consent: each.why for each in why.silent}
    assert not why.permits
    assert said["consent-2"].startswith("is not understood")
    assert "Consent.unheardOf" in said["consent-2"]
    assert [each.consent for each in why.cited] == ["consent-1"]
    assert why.rule == Rule.BASE_RULE


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"status": "inactive"}, "has status inactive"),
        ({"provision": provision("permit", period={"end": "2020-01-01"})}, "is not in force at this time"),
    ],
)
def test_a_consent_out_of_force_is_told(changes: Json, why: str) -> None:
    assert [each.why for each in explained(HARBOR, row(), listed(PERMIT_HARBOR | changes)).silent] == [why]


def test_a_permit_that_does_not_reach_the_chart_is_told() -> None:
    body = consent(provision("permit", **to("Organization/org-harbor")))
    why = explained(HARBOR, row(), ConsentList((entry(body, charts=("elsewhere",)),)))
    assert (why.permits, [each.why.partition(":")[0] for each in why.silent]) == (
        False,
        ["was signed before this chart was linked"],
    )


def test_a_permit_of_the_institutions_own_list_is_never_cited() -> None:
    why = explained(HARBOR, row(), ConsentList(), listed(consent(provision("permit"))))
    assert (why.permits, why.rule, why.cited) == (False, Rule.DEFAULT, ())


def test_a_permit_of_the_institution_is_not_cited_beside_the_patients() -> None:
    why = explained(HARBOR, row(), listed(PERMIT_HARBOR), listed(consent(provision("permit"))))
    assert [(each.by_patient, each.words) for each in why.cited] == [
        (True, "permits where the requester is Organization/org-harbor")
    ]


def test_own_records_that_a_denial_does_not_reach_are_not_put_down_to_another_consent() -> None:
    owner = listed(consent(provision("deny")), consent(None, "OPTIN"))
    facts = replace(FACTS, own_records=OwnRecords.OPEN)
    decision = decide(NORTHGATE, facts, owner, None, instant=NOW, height=7)
    why = Reasons(decision, NORTHGATE, facts, owner, None).of(row(origin="northgate"))
    assert (why.permits, why.rule, why.cited) == (True, Rule.OWN, ())


def test_a_denial_of_the_institutions_own_list_is_cited_as_its_own() -> None:
    why = explained(HARBOR, row(), ConsentList(), listed(consent(provision("deny"))))
    assert (why.permits, [each.by_patient for each in why.cited]) == (False, [False])


@settings(max_examples=300, deadline=None)
@given(requesters, rows, st.lists(consents, max_size=4), st.lists(st.builds(consent, provisions), max_size=1))
def test_the_outcome_told_is_the_outcome_of_a_naive_evaluator(
    requester: Requester, seen: IndexRow, owner: list[Json], institution: list[Json]
) -> None:
    why = explained(requester, seen, listed(*owner), listed(*institution))
    assert why.permits == oracle(requester, seen, owner, institution)
    assert all(each.permits == why.permits for each in why.cited)
    assert bool(why.cited) == (why.rule in (Rule.PROVISION, Rule.BASE_RULE))
    assert why.rule in list(Rule)


@settings(max_examples=300, deadline=None)
@given(requesters, rows, st.lists(consents, min_size=1, max_size=4))
def test_without_the_cited_consents_their_rule_decides_no_more(
    requester: Requester, seen: IndexRow, owner: list[Json]
) -> None:
    why = explained(requester, seen, listed(*owner))
    after = explained(requester, seen, without(listed(*owner), why))
    if why.cited:
        # The same rank can decide again only the other way: all who said the same are gone.
        assert (after.permits, after.rule) != (why.permits, why.rule)


@settings(max_examples=300, deadline=None)
@given(requesters, rows, st.lists(consents, min_size=1, max_size=4))
def test_each_cited_consent_would_have_decided_alone(requester: Requester, seen: IndexRow, owner: list[Json]) -> None:
    found = listed(*owner)
    why = explained(requester, seen, found)
    for each in why.cited:
        others = {cited.consent for cited in why.cited if cited.consent != each.consent}
        left = ConsentList(tuple(entry for entry in found.entries if entry.id not in others))
        again = explained(requester, seen, left)
        assert (again.permits, again.rule, [c.consent for c in again.cited]) == (
            why.permits,
            why.rule,
            [each.consent],
        )


@settings(max_examples=200, deadline=None)
@given(consents)
def test_every_rule_has_words(body: Json) -> None:
    policy = compile_consent(body)
    for clause in policy.clauses:
        assert rule_in_words(clause).startswith("permits" if clause.permits else "denies")
        for each in clause.conditions:
            for name in (*each.classes, *each.codes, *(data.reference for data in each.data)):
                assert name in rule_in_words(clause)
