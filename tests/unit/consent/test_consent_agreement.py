"""Two evaluators agree on random consents, policies, emergencies and requests.

The naive one is ``test_consent_oracle`` and what stands here, both written from docs/consent.md alone. A case is
one random world, requester and record. How many: ``FHIR_BRIDGE_CONSENT_CASES`` (100,000 without);
``FHIR_BRIDGE_CONSENT_SEED`` chooses them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from fhir_bridge.consent import ChartFacts, OwnRecords, decide, load_policies
from fhir_bridge.model.access import Requester
from fhir_bridge.model.ingest import IndexRow
from tests.unit.consent.consent_samples import (
    ACT_REASON,
    CHART,
    LOINC,
    NOW,
    Json,
    actor,
    coding,
    concept,
    consent,
    labels,
    listed,
    provision,
    row,
)
from tests.unit.consent.test_consent_oracle import ROLE, chains, holds, one_consent, oracle

CASES = int(os.environ.get("FHIR_BRIDGE_CONSENT_CASES", "100000"))
SEED = int(os.environ.get("FHIR_BRIDGE_CONSENT_SEED", "1"))
ROWS = 5
"""Records that are judged for each requester in each world."""

PARTS = 4
"""So that two processes share the cases."""

TYPES = ("Observation", "DocumentReference", "Condition")
RESOURCE_TYPES = "http://hl7.org/fhir/resource-types"
WITHDRAWN: Json = {"policyRule": {}, "provision": {}}
"""Says nothing, in the place of a Consent that is not active."""
EMERGENCY = {"BTG", "ETREAT", "ERTREAT"}


# --- the second evaluator of what is beside consents


def judged(who: Requester, seen: IndexRow, world: Json) -> bool:
    """Say whether a row may be seen, from the page: law, emergency, consents, own records, defaults."""
    owner = [body if body["status"] == "active" else WITHDRAWN for body in world["owner"]]
    institution = [body if body["status"] == "active" else WITHDRAWN for body in world["institution"]]
    policies = [each for each in world["policies"] if _is_for_this_chart(each)]
    for basis in (each for each in policies if each["kind"] == "basis"):
        verdict, is_base = one_consent(who, seen, _as_consent(basis), may_permit=True)
        if verdict == "permit" and not is_base:
            return True
    if world["emergency"] and not (world["denial"] == "stands" and _explicitly_denied(who, seen, owner, institution)):
        return True
    if oracle(who, seen, owner, institution, world["word"]):
        return True
    if any("unheardOf" in body for body in owner + institution) or _is_ruled(who, seen, owner, institution):
        return False
    return _by_default(who, seen, [each for each in policies if each["kind"] == "default"])


def _is_for_this_chart(policy: Json) -> bool:
    return bool(policy.get("institution", "northgate") == "northgate" and policy.get("patient", "pat1") == "pat1")


def _as_consent(policy: Json) -> Json:
    return {"policyRule": policy.get("policyRule", {}), "provision": policy.get("provision", {})}


def _explicitly_denied(who: Requester, seen: IndexRow, owner: Sequence[Json], institution: Sequence[Json]) -> bool:
    bodies = [(number, body) for listing in (owner, institution) for number, body in enumerate(listing, 1)]
    unclear = [number for number, body in bodies if "unheardOf" in body]
    return any(
        _denies_emergency(replace(who, purpose=purpose), seen, body, number > max(unclear, default=0))
        for number, body in bodies
        if "unheardOf" not in body
        for purpose in EMERGENCY
    )


def _denies_emergency(who: Requester, seen: IndexRow, body: Json, may_permit: bool) -> bool:
    found = []
    for chain in chains(body.get("provision", {}), []):
        kind = chain[-1].get("type")
        named = {each["code"] for node in chain for each in node.get("purpose", ())}
        counts = may_permit if kind == "permit" else kind == "deny" and bool(named & EMERGENCY)
        if counts and all(holds(who, seen, node, chain, place, body) for place, node in enumerate(chain)):
            found.append((len(chain), kind))
    deepest = max((depth for depth, _ in found), default=0)
    return (deepest, "deny") in found


def _is_ruled(who: Requester, seen: IndexRow, owner: Sequence[Json], institution: Sequence[Json]) -> bool:
    """Tell whether a consent denies; a permit of the patient's would have shown the row already."""
    return any(one_consent(who, seen, body, may_permit=True)[0] == "deny" for body in [*owner, *institution])


def _by_default(who: Requester, seen: IndexRow, policies: Sequence[Json]) -> bool:
    for level in ([p for p in policies if "institution" in p], [p for p in policies if "institution" not in p]):
        said = [one_consent(who, seen, _as_consent(each), may_permit=True) for each in level]
        for rank in (False, True):
            verdicts = {verdict for verdict, is_base in said if is_base is rank and verdict}
            if verdicts:
                return "deny" not in verdicts
    return False


# --- random worlds


def _some(random: Random, *values: Any) -> list[Any]:
    return random.sample(values, random.randint(1, min(2, len(values))))


def _elements(random: Random, chance: float = 0.2) -> Json:
    actors = [actor("Organization/org-harbor"), actor("Organization/org-northgate"), actor("Practitioner/dr-h")]
    made: Json = {
        "actor": _some(random, *actors, actor("Organization/org-harbor", ROLE)),
        "purpose": [coding(ACT_REASON, c) for c in _some(random, "TREAT", "ETREAT", "BTG", "ERTREAT", "HRESCH")],
        "securityLabel": labels(*_some(random, "N", "R", "V", "PSY"))["securityLabel"],
        "code": [concept(LOINC, c) for c in _some(random, "1-1", "2-2")],
        "class": [coding(RESOURCE_TYPES, c) for c in _some(random, *TYPES)],
        "dataPeriod": {"start": "1970-01-11", "end": "1970-01-20"},
        "data": [
            {"meaning": random.choice(["instance", "dependents"]), "reference": {"reference": "Observation/r1"}}
        ],
    }
    found = {name: value for name, value in made.items() if random.random() < chance}
    return found | (_period(random) if random.random() < chance / 2 else {})


def _period(random: Random) -> Json:
    return {"period": random.choice([{"start": "2026"}, {"end": "2025"}, {"start": "2020", "end": "2030"}])}


def _tree(random: Random, kind: str | None, depth: int, **more: Any) -> Json:
    nested = [
        _tree(random, random.choice(["permit", "deny"]), depth - 1) for _ in range(random.choice([0, 0, 1, 1, 2]))
    ]
    return provision(kind, *(nested if depth else ()), **(_elements(random) if kind else {}) | more)


def _consent(random: Random) -> Json:
    rule = random.choice(["OPTIN", "OPTOUT"])
    if random.random() < 0.5:
        body = consent(_tree(random, random.choice(["permit", "deny"]), 3), random.choice([rule, None]))
    else:
        body = consent(_tree(random, None, 3, **(_period(random) if random.random() < 0.2 else {})), rule)
    body["status"] = random.choice(["active"] * 8 + ["inactive", "entered-in-error"])
    return body | ({"unheardOf": 1} if random.random() < 0.08 else {})


def _of_institution(random: Random) -> Json:
    """A Consent of northgate's list: its own, a paper's or a guardian's, in some name and until some day."""
    body, name = _consent(random), random.choice(["northgate", "northgate", "harbor"])
    until = random.choice(["2026-03-01T11:59:59.000Z", "2026-03-01T12:00:00.000Z", "2026-03-01T12:00:01.000Z"])
    tags = [coding("urn:fhir-bridge:attested-by", name), coding("urn:fhir-bridge:attested-until", until)]
    source = random.choice([f"institution:{name}", f"paper:{name}", "guardian:g1"])
    return body | {"meta": {"source": f"urn:fhir-bridge:{source}", "tag": tags[: random.choice([1, 2, 2, 2])]}}


def _word(random: Random) -> Json:
    guardians = random.choice(["refused", "own-chart", "person"])
    return {
        "paper": random.choice(["refused", "counts", "counts"]),
        "guardians": guardians,
        "list": random.random() < 0.8,
    }


def _policy(random: Random, number: int) -> Json:
    made: Json = {"id": f"p{number}", "citation": "a law", "kind": random.choice(["basis", "default"])}
    if random.random() < 0.4:
        made["institution"] = random.choice(["northgate", "harbor"])
    if random.random() < 0.2:
        made["patient"] = random.choice(["pat1", "pat2"])
    if made["kind"] == "default":
        return made | {name: value for name, value in _consent(random).items() if name in ("policyRule", "provision")}
    narrow = {
        "actor": [random.choice([actor("Organization/org-harbor"), actor("Practitioner/dr-h")])],
        "purpose": [coding(ACT_REASON, random.choice(["TREAT", "ETREAT", "HRESCH"]))],
    }
    return made | {"provision": _tree(random, "permit", 2, **narrow)}


def _world(random: Random) -> Json:
    policies = [_policy(random, number) for number in range(random.choice([0, 0, 0, 1, 2, 3]))]
    return {
        "owner": [_consent(random) for _ in range(random.choice([0, 1, 1, 2, 3]))],
        "institution": [_of_institution(random) for _ in range(random.choice([0, 0, 1, 2]))],
        "word": _word(random),
        "policies": [each for each in policies if each["kind"] == "basis" or "policyRule" in each or _typed(each)],
        "emergency": random.random() < 0.3,
        "denial": random.choice(["stands", "stands", "yields"]),
    }


def _typed(policy: Json) -> bool:
    return "type" in policy.get("provision", {})


def _requester(random: Random) -> Requester:
    if random.random() < 0.25:
        return Requester("n", institution="northgate", institution_id="org-northgate", practitioner="dr-n")
    return Requester(
        "c",
        institution="harbor",
        institution_id="org-harbor",
        practitioner=random.choice([None, "dr-h", "dr-n"]),
        roles=random.choice([(), ("http://example.org/roles|cardiologist",), ("http://example.org/roles|nurse",)]),
        purpose=random.choice(["", "TREAT", "ETREAT", "BTG", "HRESCH"]),
    )


def _row(random: Random) -> IndexRow:
    return row(
        random.choice(TYPES),
        random.choice(["r1", "r2"]),
        labelled=random.choice([(), ("N",), ("R",), ("R", "PSY"), ("PSY",), ("V",), ("U", "N")]),
        codes=random.choice([(), (f"{LOINC}|1-1",), (f"{LOINC}|2-2", f"{LOINC}|9-9")]),
        days=random.choice([None, (10, 11), (5, 12), (30, 31)]),
        references=random.choice([(), ("Observation/r1",)]),
        origin=random.choice(["northgate", "harbor"]),
        author=random.choice(["institution", "agent"]),
    )


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("part", range(PARTS))
def test_two_evaluators_agree_on_random_worlds(part: int) -> None:
    random = Random(f"{SEED}/{part}")
    outcomes: Counter[tuple[str, bool]] = Counter()
    worlds = CASES // ROWS // PARTS
    for number in range(worlds):
        who, world = _requester(random), _world(random)
        rules = {"format": 1, "emergency": {"patient_denial": world["denial"]}, "policies": world["policies"]}
        rules["attestation"] = {name: world["word"][name] for name in ("paper", "guardians")}
        policies = load_policies(json.dumps(rules).encode())
        facts = ChartFacts(CHART, frozenset({"pat1"}), (), OwnRecords.CLOSED_BY_PROVISION, None, policies)
        lists = listed(*world["owner"]), listed(*world["institution"])
        more = {"in_emergency": world["emergency"], "is_attested": world["word"]["list"]}
        made, again = (decide(who, facts, *lists, instant=NOW, height=7, **more) for _ in range(2))
        for _ in range(ROWS):
            seen = _row(random)
            shown = made.permits(seen)
            assert again.permits(seen) == shown, "what is remembered says otherwise"
            assert shown == judged(who, seen, world), (SEED, part, number, who, seen, json.dumps(world))
            outcomes[made.basis, shown] += 1
            outcomes["attested", shown] += shown and not judged(who, seen, world | {"word": {}})
    # Agreement on nothing but refusals would prove little.
    for basis in ("consent", "default-deny", "emergency", "law", "own"):
        assert outcomes[basis, True] > worlds // 100, (basis, outcomes)
        assert outcomes[basis, False] > worlds // 100, (basis, outcomes)
    assert outcomes["attested", True] > worlds // 100, outcomes
