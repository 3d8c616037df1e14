"""One case for each sentence that says what a Consent means; each cites the text it comes from.

R4 = FHIR R4 consent.html, PCF = IHE Privacy Consent on FHIR 1.1 (volume 1, 53), ours = docs/consent.md.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from fhir_bridge.consent import ChartFacts, ConsentList, OwnRecords, compile_consent, decide, restricts
from fhir_bridge.model.ingest import ChartRef
from tests.unit.consent.consent_samples import (
    ACT_CODE,
    ACT_REASON,
    CHART,
    HARBOR,
    LOINC,
    NORTHGATE,
    NOW,
    THO,
    actor,
    coding,
    concept,
    consent,
    decision,
    entry,
    labels,
    listed,
    provision,
    purposes,
    row,
    sees,
    to,
)

TO_HARBOR = to("Organization/org-harbor")
PERMIT_HARBOR = consent(provision("permit", **TO_HARBOR), rule="OPTOUT")
RESOURCE_TYPES = "http://hl7.org/fhir/resource-types"


def test_without_a_consent_an_institution_sees_what_it_wrote_and_nobody_else_anything() -> None:
    # ours: "an institution sees what it wrote itself; everything else needs a permit"
    assert sees(NORTHGATE, row())
    assert not sees(NORTHGATE, row(origin="harbor"))
    assert not sees(NORTHGATE, row(author="agent"))
    assert not sees(HARBOR, row())


def test_the_patient_sees_everything_of_the_own_charts_and_nothing_of_others() -> None:
    patient = replace(HARBOR, institution=None, institution_id=None, practitioner=None, patient="pat1")
    deny_all = consent(provision("deny"), rule="OPTOUT")
    assert sees(patient, row(labelled=("V",)), deny_all)
    assert not sees(replace(patient, patient="pat2"), row(), PERMIT_HARBOR)
    assert decision(patient).basis == "patient"


def test_a_token_that_names_both_institution_and_patient_does_not_count_as_the_patient() -> None:
    assert not sees(replace(HARBOR, patient="pat1"), row())


def test_the_directory_is_open_to_every_valid_token() -> None:
    directory = ChartRef("northgate", "dir", None)
    assert sees(HARBOR, row("Organization"), chart=directory)


def test_optin_permits_and_optout_denies_where_no_provision_matches() -> None:
    # v3-ActCode OPTIN: "a grantor's privacy consent directive, which permits a grantee to collect, access, …"
    assert sees(HARBOR, row(), consent(rule="OPTIN"))
    assert not sees(HARBOR, row(), consent(rule="OPTOUT"))


def test_elements_of_a_provision_hold_together_and_values_in_one_element_are_alternatives() -> None:
    # R4: "all elements of a rule must match"; ours: AND across elements, OR inside one
    body = consent(provision("permit", **TO_HARBOR, **purposes("HRESCH", "TREAT")), rule="OPTOUT")
    assert sees(HARBOR, row(), body)
    assert sees(replace(HARBOR, purpose="HRESCH"), row(), body)
    assert not sees(replace(HARBOR, purpose="HPAYMT"), row(), body)
    assert not sees(replace(HARBOR, institution_id="org-cedar"), row(), body)


def test_the_deepest_matching_provision_decides() -> None:
    # R4 provision.provision: "Rules which provide exceptions to the base rule or subrules"
    body = consent(
        provision(
            "permit", provision("deny", provision("permit", **purposes("ETREAT")), **labels("PSY")), **TO_HARBOR
        ),
        rule="OPTOUT",
    )
    assert sees(HARBOR, row(), body)
    assert not sees(HARBOR, row(labelled=("PSY",)), body)
    assert sees(replace(HARBOR, purpose="ETREAT"), row(labelled=("PSY",)), body)


def test_a_denial_wins_at_equal_depth() -> None:
    nested = provision(
        "permit", provision("permit", **labels("PSY")), provision("deny", **labels("PSY")), **TO_HARBOR
    )
    assert not sees(HARBOR, row(labelled=("PSY",)), consent(nested, rule="OPTOUT"))


def test_a_nested_provision_is_not_reached_unless_its_ancestors_match() -> None:
    body = consent(provision("deny", provision("permit", **TO_HARBOR), **purposes("HRESCH")), rule="OPTOUT")
    assert not sees(HARBOR, row(), body)
    assert sees(replace(HARBOR, purpose="HRESCH"), row(), body)


@pytest.mark.parametrize("order", [1, -1])
def test_provisions_outrank_base_rules_and_denials_win_within_a_rank(order: int) -> None:
    # ours: "provisions outrank base rules, and deny wins within a rank"; independent of order
    deny_psy = consent(provision("deny", **labels("PSY")))
    assert sees(HARBOR, row(), *[PERMIT_HARBOR, consent(rule="OPTOUT")][::order])
    assert not sees(HARBOR, row(), *[consent(rule="OPTIN"), consent(rule="OPTOUT")][::order])
    assert not sees(HARBOR, row(labelled=("PSY",)), *[PERMIT_HARBOR, deny_psy][::order])


def test_a_provision_closes_own_records_and_a_base_rule_does_not() -> None:
    # ours: whether a patient may close them is network policy; this is its default
    deny_psy = consent(provision("deny", **labels("PSY")))
    assert sees(NORTHGATE, row(), consent(rule="OPTOUT"))
    assert not sees(NORTHGATE, row(), consent(rule="OPTOUT"), own_records=OwnRecords.CLOSED_BY_ANY)
    assert not sees(NORTHGATE, row(labelled=("PSY",)), deny_psy)
    assert sees(NORTHGATE, row(labelled=("PSY",)), deny_psy, own_records=OwnRecords.OPEN)


def test_what_the_request_does_not_state_never_makes_a_permit_match_nor_keeps_a_denial_from_matching() -> None:
    unknown = replace(HARBOR, practitioner=None, groups=None, purpose="")
    for elements in (to("Practitioner/dr-h"), to("Group/night-shift"), purposes("TREAT")):
        assert not sees(unknown, row(), consent(provision("permit", **elements), rule="OPTOUT"))
        assert not sees(unknown, row(), PERMIT_HARBOR, consent(provision("deny", **elements)))
    assert sees(replace(HARBOR, purpose=""), row(), PERMIT_HARBOR)


def test_an_exception_to_a_denial_needs_the_attribute_stated_even_where_the_denial_did_not() -> None:
    body = consent(provision("deny", provision("permit", **purposes("TREAT")), **to("Practitioner/dr-x")))
    assert not sees(replace(HARBOR, practitioner=None), row(), body)


def test_a_role_that_the_requester_must_hold() -> None:
    role = concept("http://example.org/roles", "cardiologist")
    body = consent(provision("permit", actor=[{"role": role, "reference": {"reference": "Organization/org-harbor"}}]))
    assert sees(replace(HARBOR, roles=("http://example.org/roles|cardiologist",)), row(), body)
    assert not sees(replace(HARBOR, roles=("http://example.org/roles|nurse",)), row(), body)
    assert not sees(HARBOR, row(), body)


def test_an_institution_can_be_named_by_identifier() -> None:
    named = {
        "role": concept(f"{THO}v3-ParticipationType", "IRCP"),
        "reference": {"identifier": {"system": "urn:fhir-bridge:institution", "value": "harbor"}},
    }
    body = consent(provision("permit", actor=[named]))
    assert sees(HARBOR, row(), body)
    assert not sees(replace(HARBOR, institution="cedar"), row(), body)


def test_a_purpose_covers_its_special_cases_and_not_its_general_one() -> None:
    # v3-ActReason: BTG is a kind of ETREAT, which is a kind of TREAT
    treat, emergency = (consent(provision("permit", **purposes(code))) for code in ("TREAT", "ETREAT"))
    assert sees(replace(HARBOR, purpose="BTG"), row(), treat)
    assert sees(replace(HARBOR, purpose=f"{ACT_REASON}|ETREAT"), row(), treat)
    assert not sees(replace(HARBOR, purpose="TREAT"), row(), emergency)
    assert not sees(replace(HARBOR, purpose="http://example.org/p|TREAT"), row(), treat)
    assert not sees(
        replace(HARBOR, purpose="ETREAT"), row(), PERMIT_HARBOR, consent(provision("deny", **purposes("TREAT")))
    )


def test_a_permitted_confidentiality_level_covers_itself_and_lower_ones() -> None:
    # R4 provision.securityLabel: "If the consent specifies a security label of "R" then it applies to all resources
    # that are labeled "R" or lower"
    body = consent(provision("permit", **labels("R")))
    assert [sees(HARBOR, row(labelled=(level,)), body) for level in "ULMNRV"] == [True] * 5 + [False]
    assert not sees(HARBOR, row(labelled=("N", "V")), body)


def test_a_denied_confidentiality_level_covers_itself_and_higher_ones() -> None:
    # PCF, notes on "advanced-normal-not-restricted": normal data stay permitted, restricted are forbidden
    body = consent(provision("permit", provision("deny", **labels("R")), **TO_HARBOR))
    assert [sees(HARBOR, row(labelled=(level,)), body) for level in "ULMNRV"] == [True] * 4 + [False] * 2


def test_a_permit_by_label_does_not_reach_what_carries_no_label() -> None:
    assert not sees(HARBOR, row(), consent(provision("permit", **labels("N"))))


def test_labels_of_a_nested_provision_replace_those_of_its_ancestors() -> None:
    # PCF, "advanced-normal-focused-psy": "permit normal data … third is to permit Mental Health data"
    root = provision("permit", provision("permit", **labels("PSY"), **to("Practitioner/dr-h")), **labels("N"))
    body = consent(root)
    assert sees(HARBOR, row(labelled=("R", "PSY")), body)
    assert not sees(HARBOR, row(labelled=("R",)), body)
    assert not sees(replace(HARBOR, practitioner="dr-x"), row(labelled=("R", "PSY")), body)


@pytest.mark.parametrize("type_name", ["DocumentReference", "Composition", "Binary", "DiagnosticReport"])
def test_free_text_without_a_label_is_hidden_when_a_sensitive_topic_is_denied(type_name: str) -> None:
    # design: "unlabelled documents are hidden when a sensitive-topic rule applies"
    for elements in (labels("PSY"), {"code": [concept(LOINC, "1-1")]}):
        body = consent(provision("permit", provision("deny", **elements), **TO_HARBOR))
        assert not sees(HARBOR, row(type_name), body)
        assert sees(HARBOR, row(type_name), PERMIT_HARBOR)
        assert sees(HARBOR, row("Observation"), body)
    assert sees(
        HARBOR, row(type_name, labelled=("N",)), consent(provision("permit", provision("deny", **labels("PSY"))))
    )


def test_a_laboratory_report_is_no_free_text() -> None:
    body = consent(provision("permit", provision("deny", **labels("PSY")), **TO_HARBOR))
    assert sees(HARBOR, row("DiagnosticReport", codes=(f"{THO}v2-0074|LAB",)), body)


def test_code_and_class_select_records() -> None:
    body = consent(
        provision(
            "permit",
            provision("deny", code=[concept(LOINC, "1-1"), concept(LOINC, "2-2")]),
            provision("deny", **{"class": [coding(RESOURCE_TYPES, "Immunization")]}),
            **TO_HARBOR,
        )
    )
    assert sees(HARBOR, row(codes=(f"{LOINC}|3-3",)), body)
    assert not sees(HARBOR, row(codes=(f"{LOINC}|3-3", f"{LOINC}|2-2")), body)
    assert not sees(HARBOR, row("Immunization"), body)


def test_a_permitted_data_period_holds_what_lies_within_and_a_denied_one_what_touches_it() -> None:
    # R4 dataPeriod: "Clinical or Operational Relevant period of time that bounds the data controlled by this rule"
    year = {"dataPeriod": {"start": "1970-01-11", "end": "1970-01-20"}}
    permit = consent(provision("permit", **year))
    deny = consent(provision("permit", provision("deny", **year), **TO_HARBOR))
    for days, within, touching in (((10, 20), True, True), ((5, 12), False, True), ((20, 22), False, False)):
        assert sees(HARBOR, row(days=days), permit) is within
        assert sees(HARBOR, row(days=days), deny) is not touching
    assert not sees(HARBOR, row(days=None), permit)
    assert not sees(HARBOR, row(days=None), deny)


def test_a_period_includes_its_last_day_and_ends_with_it() -> None:
    # R4 Period.end: "If the end of the period is missing … ongoing", the end is inclusive to its precision
    body = consent(provision("permit", **TO_HARBOR, period={"start": "2026-01-01", "end": "2026-03-01"}))
    assert sees(HARBOR, row(), body, at=datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC))
    assert not sees(HARBOR, row(), body, at=datetime(2026, 3, 2, tzinfo=UTC))
    assert not sees(HARBOR, row(), body, at=datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC))


def test_a_nested_period_bounds_its_own_provision_only() -> None:
    exception = provision("deny", **labels("PSY"), period={"end": "2026-02-28"})
    body = consent(provision("permit", exception, **TO_HARBOR))
    assert not sees(HARBOR, row(labelled=("PSY",)), body, at=datetime(2026, 2, 28, 12, tzinfo=UTC))
    assert sees(HARBOR, row(labelled=("PSY",)), body, at=datetime(2026, 3, 1, tzinfo=UTC))


def test_a_root_period_ends_the_base_rule_too() -> None:
    body = consent(provision(None, period={"end": "2026-02-01"}), rule="OPTIN")
    assert not sees(HARBOR, row(), body)


def test_data_by_instance_and_by_what_refers_to_it() -> None:
    # R4 consent-data-meaning: instance; dependents "and instances that refer to it"; related "and instances it refers
    # to", which PCF uses for what belongs to an encounter
    def body(kind: str, meaning: str) -> dict[str, Any]:
        data = [{"meaning": meaning, "reference": {"reference": "Encounter/e1"}}]
        return consent(provision("permit", provision(kind, data=data), **TO_HARBOR))

    encounter = row("Encounter", "e1", references=("Location/l1",))
    within = row(references=("Encounter/e1",))
    place = row("Location", "l1")
    rows = (encounter, within, place)
    hidden = {
        meaning: [not sees(HARBOR, each, body("deny", meaning), rows=rows) for each in rows]
        for meaning in ("instance", "dependents", "related")
    }
    assert hidden == {
        "instance": [True, False, False],
        "dependents": [True, True, False],
        "related": [True, True, True],
    }


def test_data_by_author() -> None:
    data = [{"meaning": "authoredby", "reference": {"reference": "Practitioner/a1"}}]
    permit = consent(provision("permit", data=data))
    deny = consent(provision("permit", provision("deny", data=data), **TO_HARBOR))
    by_author = row(references=("Practitioner/a1",), search={"performer": ("Practitioner/a1",)})
    mentions = row(references=("Practitioner/a1",))
    assert sees(HARBOR, by_author, permit)
    assert not sees(HARBOR, mentions, permit)
    assert not sees(HARBOR, by_author, deny)
    assert sees(HARBOR, row(), deny)


def test_an_action_other_than_reading_neither_grants_nor_closes() -> None:
    def acting(kind: str, code: str) -> dict[str, Any]:
        return consent(provision(kind, action=[concept(f"{THO}consentaction", code)]))

    assert sees(HARBOR, row(), acting("permit", "access"))
    assert not sees(HARBOR, row(), acting("permit", "correct"))
    assert sees(HARBOR, row(), PERMIT_HARBOR, acting("deny", "correct"))
    assert not sees(HARBOR, row(), PERMIT_HARBOR, acting("deny", "disclose"))


@pytest.mark.parametrize(
    "body",
    [
        PERMIT_HARBOR | {"modifierExtension": [{"url": "urn:x", "valueBoolean": True}]},
        PERMIT_HARBOR | {"implicitRules": "urn:x"},
        PERMIT_HARBOR | {"unheardOf": 1},
        PERMIT_HARBOR | {"policyRule": concept(ACT_CODE, "EMRGONLY")},
        PERMIT_HARBOR | {"policyRule": {"text": "in words"}},
        PERMIT_HARBOR | {"scope": concept("http://example.org", "other")},
        PERMIT_HARBOR | {"verification": [{"verified": False}]},
        PERMIT_HARBOR | {"provision": []},
        consent(None),
        consent(provision(None, provision("permit", **TO_HARBOR))),
        consent(provision("perhaps"), rule="OPTOUT"),
        consent(provision("permit", provision(None)), rule="OPTOUT"),
        consent(provision("permit", unheardOf=1)),
        consent(provision("permit", modifierExtension=[{"url": "urn:x"}])),
        consent(provision("permit", action=[concept(f"{THO}consentaction", "sell")])),
        consent(provision("permit", actor=[])),
        consent(provision("permit", actor=[{"role": concept("http://x", "y"), "reference": {"display": "Dr X"}}])),
        consent(provision("permit", actor=[actor("Practitioner/1", concept(f"{THO}v3-ParticipationType", "AUT"))])),
        consent(provision("permit", actor=[actor("http://elsewhere.example/fhir/Organization/org-harbor")])),
        consent(provision("permit", purpose=[{"code": "TREAT"}])),
        consent(provision("permit", securityLabel=[coding(f"{THO}v3-Confidentiality", "X")])),
        consent(provision("permit", code=[{"text": "anything"}])),
        consent(provision("permit", **{"class": [coding(RESOURCE_TYPES, "Observatoin")]})),
        consent(provision("permit", **{"class": [coding("urn:ietf:bcp:13", "application/pdf")]})),
        consent(provision("permit", period={"start": "yesterday"})),
        consent(provision("permit", dataPeriod={})),
        consent(provision("permit", data=[{"meaning": "nearby", "reference": {"reference": "Encounter/1"}}])),
    ],
)
def test_a_consent_not_fully_understood_grants_nothing_and_suspends_earlier_permits(body: dict[str, Any]) -> None:
    # design: "stored, grants nothing, and suspends every earlier permit it could narrow until someone resolves it"
    policy = compile_consent(body)
    assert not policy.understood
    assert policy.problems
    assert not policy.clauses
    assert not sees(HARBOR, row(), body)
    assert not sees(HARBOR, row(), PERMIT_HARBOR, body)
    assert sees(HARBOR, row(), body, PERMIT_HARBOR)
    assert sees(HARBOR, row(), PERMIT_HARBOR, body | {"status": "inactive"})


def test_a_permit_signed_at_the_same_moment_is_suspended_too() -> None:
    both = ConsentList((entry(PERMIT_HARBOR), entry(PERMIT_HARBOR | {"unheardOf": 1}, 2)))
    assert not decide(HARBOR, ChartFacts(CHART), both, None, instant=NOW, height=1).permits(row())


def test_a_suspended_consent_still_denies() -> None:
    unclear = PERMIT_HARBOR | {"unheardOf": 1}
    denial = consent(provision("deny", **labels("PSY")))
    later_permit = PERMIT_HARBOR
    assert not sees(HARBOR, row(labelled=("PSY",)), denial, unclear, later_permit)


@pytest.mark.parametrize("status", ["draft", "proposed", "rejected", "inactive", "entered-in-error"])
def test_only_active_consents_are_in_force(status: str) -> None:
    assert not sees(HARBOR, row(), PERMIT_HARBOR | {"status": status})


@pytest.mark.parametrize("rule", ["OPTIN", "OPTOUT"])
def test_conditions_on_a_root_without_type_are_not_understood_where_they_could_mean_either(rule: str) -> None:
    # HL7's example "consent-example-notThem" (OPTIN, an actor on the untyped root) withholds from that actor;
    # "consent-example-basic" (OPTIN, a period on the untyped root) grants within the period
    assert not compile_consent(consent(provision(None, **TO_HARBOR), rule=rule)).understood


def test_conditions_on_a_root_without_type_scope_the_base_rule_where_nested_exceptions_make_it_clear() -> None:
    body = consent(provision(None, provision("deny", **labels("PSY")), **TO_HARBOR), rule="OPTIN")
    assert sees(HARBOR, row(), body)
    assert not sees(HARBOR, row(labelled=("PSY",)), body)
    assert not sees(replace(HARBOR, institution_id="org-cedar"), row(), body)


def test_a_permit_at_the_top_narrows_a_base_rule_that_permits() -> None:
    # ours: under OPTIN such a permit would otherwise say nothing at all
    cedar = replace(HARBOR, institution="cedar", institution_id="org-cedar")
    for root in (provision("permit", **TO_HARBOR), provision(None, provision("permit", **TO_HARBOR))):
        assert sees(HARBOR, row(), consent(root, rule="OPTIN"))
        assert not sees(cedar, row(), consent(root, rule="OPTIN"))
    assert sees(cedar, row(), consent(provision("deny", **TO_HARBOR), rule="OPTIN"))


@pytest.mark.parametrize(
    ("policy", "treat", "research"),
    [
        ("Policy-all-normal", True, True),
        ("Policy-basic-normal", True, False),
        ("Policy-break-glass-only", False, False),
        ("Policy-deny", False, False),
    ],
)
def test_overarching_policies_of_pcf_are_base_rules(policy: str, treat: bool, research: bool) -> None:
    # PCF 53.2.1, table of implicit policies
    body = consent(policy=[{"uri": f"https://profiles.ihe.net/ITI/PCF/{policy}"}])
    assert sees(HARBOR, row(), body) is treat
    assert sees(replace(HARBOR, purpose="HRESCH"), row(), body) is research


def test_a_permit_reaches_only_charts_linked_when_it_was_signed_and_a_denial_all() -> None:
    # formats: "a later link never widens it"
    facts = ChartFacts(CHART, frozenset({"pat1"}))
    elsewhere = ConsentList((entry(PERMIT_HARBOR, charts=("c9",)),))
    assert not decide(HARBOR, facts, elsewhere, None, instant=NOW, height=1).permits(row())
    denial = entry(consent(provision("deny", **labels("PSY"))), 2, charts=("c9",))
    both = ConsentList((entry(PERMIT_HARBOR), denial))
    permits = decide(HARBOR, facts, both, None, instant=NOW, height=1).permits
    assert permits(row())
    assert not permits(row(labelled=("PSY",)))


def test_an_institutions_own_list_can_only_take_away() -> None:
    restriction = listed(consent(provision("deny", provision("permit", **purposes("ETREAT")), **labels("PSY"))))
    assert not sees(HARBOR, row(), restricting=listed(PERMIT_HARBOR))
    assert not sees(HARBOR, row(), restricting=listed(consent(rule="OPTIN")))
    assert sees(HARBOR, row(), PERMIT_HARBOR, restricting=restriction)
    assert not sees(HARBOR, row(labelled=("PSY",)), PERMIT_HARBOR, restricting=restriction)
    emergency = replace(HARBOR, purpose="ETREAT")
    assert sees(emergency, row(labelled=("PSY",)), PERMIT_HARBOR, restricting=restriction)
    assert not sees(emergency, row(labelled=("PSY",)), restricting=restriction)


def test_restricts_tells_whether_anything_is_taken_away() -> None:
    assert restricts(compile_consent(consent(rule="OPTOUT")))
    assert restricts(compile_consent(consent(provision("permit", provision("deny", **labels("R"))))))
    assert restricts(compile_consent(PERMIT_HARBOR | {"unheardOf": 1}))
    assert not restricts(compile_consent(consent(provision("permit", **TO_HARBOR))))


def test_a_consent_to_treatment_says_nothing_about_data() -> None:
    body = PERMIT_HARBOR | {"scope": concept(f"{THO}consentscope", "treatment")}
    assert compile_consent(body).understood
    assert not sees(HARBOR, row(), body)
    assert sees(HARBOR, row(), PERMIT_HARBOR, body)


def test_a_decision_names_height_evaluator_and_the_consents_that_had_a_say() -> None:
    made = decision(HARBOR, consent(provision("permit", **to("Organization/org-cedar"))), PERMIT_HARBOR)
    assert (made.height, made.evaluator, made.policies) == (7, "fhir-bridge-consent/3", (("consent-2", "v1"),))
    assert made.basis == "consent"


def test_no_json_object_makes_the_compiler_fail() -> None:
    bodies: list[dict[str, Any]] = [{}, {"provision": 3}, {"scope": []}]
    for body in (*bodies, consent({"provision": [1, {"provision": {}}]}, rule="OPTIN")):
        assert not compile_consent(body).understood


def test_provisions_nested_beyond_the_limit_are_not_understood() -> None:
    root = provision("permit")
    for _ in range(60):
        root = provision("permit", root)
    assert not compile_consent(consent(root)).understood
