"""What rests on an institution's word permits only where and while the pages say so; a denial always holds."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from blake3 import blake3

from fhir_bridge.consent import (
    ChartFacts,
    NetworkPolicies,
    OwnRecords,
    attestation_of,
    decide,
    load_policies,
    open_policies,
)
from fhir_bridge.consent.explaining import Reasons
from fhir_bridge.errors import SetupWrong
from fhir_bridge.model.access import Decision, Requester
from fhir_bridge.model.ingest import ChartRef
from tests.unit.consent.consent_samples import CHART, HARBOR, NOW, Json, consent, listed, provision, row, to

HERE = to("Organization/org-harbor")
PERMIT = consent(provision("permit", **HERE))
DENIAL = consent(provision("deny", **HERE))
MOTHER = Requester("g", patient="pat1", delegate="g1", attested_by="northgate", purpose="PATRQT")


def _by(source: str, body: Json = PERMIT, **tags: str) -> Json:
    named = [{"system": f"urn:fhir-bridge:attested-{name}", "code": code} for name, code in tags.items()]
    return body | {"meta": {"source": f"urn:fhir-bridge:{source}", "tag": named}}


def _paper(body: Json = PERMIT, institution: str = "northgate") -> Json:
    return _by(f"paper:{institution}", body, by=institution)


def _mothers(body: Json = PERMIT, institution: str = "northgate", until: str = "2030-01-01T00:00:00Z") -> Json:
    return _by("guardian:g1", body, by=institution, until=until)


def _policies(paper: str = "counts", guardians: str = "own-chart") -> NetworkPolicies:
    return load_policies(json.dumps({"format": 1, "attestation": {"paper": paper, "guardians": guardians}}).encode())


def _facts(policies: NetworkPolicies, chart: ChartRef = CHART) -> ChartFacts:
    return ChartFacts(chart, frozenset({"pat1", "pat2"}), (), OwnRecords.OPEN, None, policies)


def _decision(*institution: Json, owner: tuple[Json, ...] = (), attested: bool = True, **more: Any) -> Decision:
    facts = _facts(more.pop("policies", _policies()))
    at: datetime = more.pop("at", NOW)
    lists = listed(*owner), listed(*institution)
    return decide(HARBOR, facts, *lists, instant=at, height=7, is_attested=attested, **more)


@pytest.mark.parametrize("body", [_paper(), _mothers()], ids=["paper", "guardian"])
def test_an_attested_permit_counts_and_the_decision_names_the_institution(body: Json) -> None:
    made = _decision(body)
    assert made.permits(row())
    assert (made.basis, made.attested) == ("consent", (("consent-1", "northgate"),))


@pytest.mark.parametrize(
    ("body", "more"),
    [
        (_paper(), {"attested": False}),
        (_paper(), {"policies": _policies(paper="refused")}),
        (_paper(), {"policies": load_policies()}),
        (_paper(institution="harbor"), {}),
        (_mothers(), {"attested": False}),
        (_mothers(), {"policies": _policies(guardians="refused")}),
        (_mothers(institution="harbor"), {}),
        (_mothers(until="2026-03-01T12:00:00Z"), {}),
        (_mothers(), {"at": datetime(2030, 1, 1, tzinfo=UTC)}),
        (_by("guardian:g1", by="northgate"), {}),
        (_by("guardian:g1", by="northgate", until="soon"), {}),
        (_by("institution:northgate", by="northgate", until="2030-01-01T00:00:00Z"), {}),
        (_by("agent"), {}),
        (PERMIT, {}),
    ],
)
def test_it_permits_nothing_otherwise(body: Json, more: Json) -> None:
    assert not _decision(body, **more).permits(row())


@pytest.mark.parametrize("denial", [_paper(DENIAL), _mothers(DENIAL, until="2026-01-01T00:00:00Z")])
def test_a_denial_holds_whether_the_word_counts_or_not(denial: Json) -> None:
    for attested in (True, False):
        for policies in (_policies(), load_policies()):
            assert not _decision(denial, owner=(PERMIT,), attested=attested, policies=policies).permits(row())


def test_the_patients_denial_and_another_guardians_outweigh_a_permit() -> None:
    assert not _decision(_paper(), owner=(DENIAL,)).permits(row())
    assert not _decision(_mothers(), _by("guardian:g2", DENIAL, by="northgate")).permits(row())


@pytest.mark.parametrize(
    ("guardian", "chart", "reach", "sees"),
    [
        (MOTHER, CHART, "own-chart", True),
        (MOTHER, CHART, "person", True),
        (MOTHER, CHART, "refused", False),
        (MOTHER, ChartRef("harbor", "c2", "pat2"), "own-chart", False),
        (MOTHER, ChartRef("harbor", "c2", "pat2"), "person", True),
        (replace(MOTHER, attested_by="harbor"), CHART, "own-chart", False),
        (replace(MOTHER, patient="pat9"), CHART, "person", False),
    ],
)
def test_how_far_a_guardian_sees(guardian: Requester, chart: ChartRef, reach: str, sees: bool) -> None:
    facts = _facts(_policies(guardians=reach), chart)
    made = decide(guardian, facts, None, None, instant=NOW, height=1)
    assert (made.permits(row()), made.basis) == (sees, "guardian" if sees else "default-deny")


@pytest.mark.parametrize(
    "rules", [{"paper": "yes"}, {"guardians": "all"}, {"guardians": True}, {"other": "counts"}, [], "counts"]
)
def test_a_file_with_unclear_attestation_rules_is_refused(rules: object) -> None:
    with pytest.raises(SetupWrong):
        load_policies(json.dumps({"format": 1, "attestation": rules}).encode())


def test_the_rules_are_part_of_the_policies_name_and_of_nothing_when_not_stated() -> None:
    stated = _policies()
    assert stated.content == (
        b'{"attestation":{"guardians":"own-chart","paper":"counts"},"emergency":{"max_minutes":60,'
        b'"patient_denial":"stands","roles":["http://terminology.hl7.org/CodeSystem/practitioner-role|doctor",'
        b'"http://terminology.hl7.org/CodeSystem/practitioner-role|nurse"]},"format":1,"own_records":"open",'
        b'"policies":[]}'
    )
    assert open_policies(stated.content, blake3(stated.content).digest()) == stated
    assert b"attestation" not in load_policies().content


@pytest.mark.parametrize(
    ("body", "more", "why"),
    [
        (PERMIT, {}, "was recorded by the institution and can only deny"),
        (_mothers(until="2026-01-01T00:00:00Z"), {}, "for a guardian whose time is over"),
        (_paper(), {"attested": False}, "do not let it count"),
        (_paper(), {"policies": load_policies()}, "do not let it count"),
    ],
)
def test_an_explanation_says_why_a_permit_of_the_institutions_list_does_not_count(
    body: Json, more: Json, why: str
) -> None:
    made = _decision(body, **more)
    facts, attested = _facts(more.get("policies", _policies())), more.get("attested", True)
    told = Reasons(made, HARBOR, facts, listed(), listed(body), is_attested=attested).of(row())
    assert (told.permits, told.cited) == (False, ())
    assert why in told.silent[0].why


def test_an_explanation_cites_whose_word_it_was() -> None:
    told = Reasons(_decision(_paper()), HARBOR, _facts(_policies()), listed(), listed(_paper()), is_attested=True)
    cited = told.of(row()).cited
    assert [(each.by_patient, each.attested_by, each.permits) for each in cited] == [(False, "northgate", True)]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"meta":[]}', b'{"meta":{"source":1}}', b'{"meta":{"tag":1}}'])
def test_bytes_without_a_word_rest_on_none(body: bytes) -> None:
    assert attestation_of(body) is None
