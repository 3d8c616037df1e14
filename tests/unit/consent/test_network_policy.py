"""Policies beside consents: refused whole when not understood, named by their bytes, never wider than stated."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from blake3 import blake3

from fhir_bridge.consent import ChartFacts, NetworkPolicies, OwnRecords, decide, load_policies, open_policies
from fhir_bridge.errors import IntegrityBroken, SetupWrong
from fhir_bridge.model.access import Requester
from fhir_bridge.model.ingest import IndexRow
from tests.unit.consent.consent_samples import (
    CHART,
    HARBOR,
    NOW,
    Json,
    actor,
    concept,
    consent,
    listed,
    provision,
    purposes,
    row,
    to,
)

PUBLIC_HEALTH = replace(HARBOR, purpose="PUBHLTH")
LAW = {
    "id": "reportable",
    "kind": "basis",
    "citation": "45 CFR 164.512(b)",
    "provision": provision("permit", **to("Organization/org-harbor"), **purposes("PUBHLTH")),
}
DEFAULT = {"id": "all", "kind": "default", "citation": "agreement", "provision": {"type": "permit"}}


def _file(*policies: Json, **more: Any) -> NetworkPolicies:
    return load_policies(json.dumps({"format": 1, "policies": list(policies)} | more).encode())


def _sees(who: Requester, policies: NetworkPolicies, *owner: Json, seen: IndexRow | None = None, **more: Any) -> bool:
    facts = ChartFacts(CHART, frozenset({"pat1"}), (), OwnRecords.OPEN, None, policies)
    return decide(who, facts, listed(*owner), None, instant=NOW, height=1, **more).permits(seen or row())


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"[]",
        b'{"format":1,"format":1}',
        b'{"format":2}',
        b'{"format":1,"unheardOf":1}',
        b'{"format":1,"own_records":"maybe"}',
        b'{"format":1,"policies":{}}',
        b'{"format":1,"policies":["x"]}',
        b'{"format":1,"emergency":[]}',
        b'{"format":1,"emergency":{"roles":"x|y"}}',
        b'{"format":1,"emergency":{"roles":["y"]}}',
        b'{"format":1,"emergency":{"max_minutes":0}}',
        b'{"format":1,"emergency":{"max_minutes":1441}}',
        b'{"format":1,"emergency":{"max_minutes":true}}',
        b'{"format":1,"emergency":{"patient_denial":"perhaps"}}',
        b'{"format":1,"emergency":{"unheardOf":1}}',
    ],
    ids=bytes.decode,
)
def test_a_file_with_anything_not_known_is_refused(file: bytes) -> None:
    with pytest.raises(SetupWrong):
        load_policies(file)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "Not A Name"},
        {"id": None},
        {"kind": "law"},
        {"citation": " "},
        {"institution": ""},
        {"patient": 1},
        {"unheardOf": 1},
        {"policyRule": concept("urn:x", "OPTIN")},
        {"provision": provision("permit", unheardOf=1)},
        {"provision": {}},
        {"provision": provision("deny")},
        {"provision": provision("permit", **purposes("PUBHLTH"))},
        {"provision": provision("permit", **to("Organization/org-harbor"))},
        {
            "policyRule": concept("http://terminology.hl7.org/CodeSystem/v3-ActCode", "OPTIN"),
            "provision": provision("deny", **to("Organization/x"), **purposes("PUBHLTH")),
        },
    ],
    ids=repr,
)
def test_a_policy_that_is_not_understood_or_too_wide_for_a_law_is_refused(change: Json) -> None:
    with pytest.raises(SetupWrong):
        _file(LAW | change)
    assert _file(LAW).bases


def test_a_default_that_is_not_understood_is_refused() -> None:
    wrong: tuple[Json, ...] = ({"provision": provision("permit", unheardOf=1)}, {"provision": {}})
    for rules in wrong:
        with pytest.raises(SetupWrong):
            _file(DEFAULT | rules)


def test_two_policies_of_one_id_are_refused() -> None:
    with pytest.raises(SetupWrong):
        _file(LAW, LAW)


def test_the_name_is_the_hash_of_the_canonical_bytes_whatever_the_file_looks_like() -> None:
    spaced = json.dumps({"policies": [dict(reversed(LAW.items()))], "format": 1}, indent=3).encode()
    assert load_policies(spaced) == _file(LAW)
    wanted = json.dumps(json.loads(_file(LAW).content), sort_keys=True, separators=(",", ":")).encode()
    assert _file(LAW).version == blake3(wanted).hexdigest()
    assert _file(LAW).version != _file(LAW, own_records="closed-by-any").version


def test_opened_policies_give_the_same_outcome_and_others_are_refused() -> None:
    here = _file(LAW, DEFAULT)
    there = open_policies(here.content, here.digest)
    assert there == here
    for content, digest in (
        (here.content, _file(LAW).digest),
        (here.content + b" ", blake3(here.content + b" ").digest()),
        (b"{}", blake3(b"{}").digest()),
        (b"x", blake3(b"x").digest()),
    ):
        with pytest.raises(IntegrityBroken):
            open_policies(content, digest)


def test_law_comes_before_consents_and_reaches_no_further_than_it_says() -> None:
    denial = consent(provision("deny"))
    assert _sees(PUBLIC_HEALTH, _file(LAW), denial)
    assert not _sees(HARBOR, _file(LAW), denial)
    assert not _sees(replace(PUBLIC_HEALTH, institution_id="org-x"), _file(LAW), denial)
    assert not _sees(replace(PUBLIC_HEALTH, institution_id=None), _file(LAW), denial)
    assert not _sees(replace(PUBLIC_HEALTH, purpose=""), _file(LAW), denial)
    assert not _sees(PUBLIC_HEALTH, _file(LAW | {"institution": "harbor"}), denial)
    assert not _sees(PUBLIC_HEALTH, _file(LAW | {"patient": "pat2"}), denial)
    assert _sees(PUBLIC_HEALTH, _file(LAW | {"patient": "pat1"}), denial)


def test_what_a_law_denies_is_left_to_consents() -> None:
    law = LAW | {
        "provision": provision(
            "permit",
            provision("deny", code=[concept("http://loinc.org", "1-1")]),
            **to("Organization/org-harbor"),
            **purposes("PUBHLTH"),
        )
    }
    coded = row(codes=("http://loinc.org|1-1",))
    assert not _sees(PUBLIC_HEALTH, _file(law), seen=coded)
    assert _sees(PUBLIC_HEALTH, _file(law), consent(provision("permit")), seen=coded)


def test_a_default_gives_way_to_any_consent_that_applies() -> None:
    assert _sees(HARBOR, _file(DEFAULT))
    assert not _sees(HARBOR, _file(DEFAULT), consent(rule="OPTOUT"))
    assert not _sees(HARBOR, _file(DEFAULT), consent(provision("deny", **to("Practitioner/dr-h"))))
    assert _sees(HARBOR, _file(DEFAULT), consent(provision("deny", **to("Practitioner/dr-x"))))
    assert not _sees(HARBOR, _file(DEFAULT), consent(provision("deny", **to("Practitioner/dr-x"))) | {"unheardOf": 1})


def test_the_institutions_default_comes_before_the_networks() -> None:
    closed = DEFAULT | {"id": "closed", "institution": "northgate", "provision": {"type": "deny"}}
    assert not _sees(HARBOR, _file(DEFAULT, closed))
    assert not _sees(HARBOR, _file(closed, DEFAULT))
    assert _sees(HARBOR, _file(DEFAULT, closed | {"institution": "harbor"}))
    opened = DEFAULT | {"institution": "northgate"}
    assert _sees(HARBOR, _file(opened, DEFAULT | {"id": "closed", "provision": {"type": "deny"}}))


def test_own_records_are_open_whatever_a_default_says() -> None:
    own = Requester("n", institution="northgate", institution_id="org-northgate")
    assert _sees(own, _file(DEFAULT | {"provision": {"type": "deny"}}))


@pytest.mark.parametrize("stated", ["BTG", "ETREAT", "ERTREAT"])
@pytest.mark.parametrize("denied", ["BTG", "ETREAT", "ERTREAT"])
def test_a_denial_of_any_emergency_holds_against_each(stated: str, denied: str) -> None:
    asks = replace(HARBOR, purpose=stated)
    denial = consent(provision("deny", **purposes(denied)))
    assert not _sees(asks, _file(), denial, in_emergency=True)
    assert _sees(asks, _file(emergency={"patient_denial": "yields"}), denial, in_emergency=True)


def test_a_denial_that_names_no_emergency_does_not_hold_in_one() -> None:
    asks = replace(HARBOR, purpose="BTG")
    for denial in (
        consent(provision("deny")),
        consent(rule="OPTOUT"),
        consent(provision("deny", **purposes("TREAT"))),
    ):
        assert not _sees(asks, _file(), denial)
        assert _sees(asks, _file(), denial, in_emergency=True)
        assert _sees(asks, _file(), denial | {"unheardOf": 1}, in_emergency=True)


def test_the_patient_may_except_somebody_from_the_denial_of_emergencies() -> None:
    asks = replace(HARBOR, purpose="BTG")
    nested = provision("permit", actor=[actor("Practitioner/dr-h")])
    body = consent(provision("deny", nested, **purposes("ETREAT")))
    assert _sees(asks, _file(), body, in_emergency=True)
    assert not _sees(replace(asks, practitioner="dr-x"), _file(), body, in_emergency=True)
    assert not _sees(replace(asks, practitioner=None), _file(), body, in_emergency=True)
    suspended = _sees(asks, _file(), body, consent() | {"unheardOf": 1}, in_emergency=True)
    assert not suspended


def test_each_decision_names_the_policies() -> None:
    facts = ChartFacts(CHART, network=_file(LAW))
    assert decide(HARBOR, facts, None, None, instant=NOW, height=1).network_policy == _file(LAW).version
