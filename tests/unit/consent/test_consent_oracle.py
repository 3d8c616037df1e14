"""The evaluator agrees with a second one, written apart from it straight from docs/consent.md and plainly slow.

The oracle walks the JSON of each Consent for each row; it knows neither clauses
nor predicates nor compilation.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_bridge.model.access import Requester
from fhir_bridge.model.ingest import IndexRow
from tests.unit.consent.consent_samples import (
    ACT_REASON,
    DAY_US,
    LOINC,
    Json,
    actor,
    coding,
    concept,
    consent,
    decision,
    labels,
    listed,
    provision,
    row,
)

LEVELS = "ULMNRV"
PARENTS = {"BTG": "ETREAT", "ERTREAT": "ETREAT", "ETREAT": "TREAT"}
ROLE = concept("http://example.org/roles", "cardiologist")


def oracle(
    requester: Requester, seen: IndexRow, owner: list[Json], institution: list[Json], word: Json | None = None
) -> bool:
    """Say whether a row may be seen; consents are signed in the order given, all active, all of this chart.

    ``word`` is what network policy says of attestations, with ``list`` for whether the ledger has the
    institution's list by an attestation; None lets none count.
    """
    signed = [(number, body, True) for number, body in enumerate(owner, 1)]
    signed += [(number, body, is_attested(body, word or {})) for number, body in enumerate(institution, 1)]
    unclear = [number for number, body, _ in signed if "unheardOf" in body]
    by_provision: list[str | None] = []
    by_base: list[str | None] = []
    for number, body, adds in signed:
        if "unheardOf" in body:
            continue
        suspended = bool(unclear) and number <= max(unclear)
        verdict, is_base = one_consent(requester, seen, body, may_permit=not suspended)
        if verdict == "permit" and not adds:
            continue
        (by_base if is_base else by_provision).append(verdict)
    own = requester.institution == "northgate" and seen.origin == "northgate" and seen.author == "institution"
    if "deny" in by_provision:
        return False
    if "permit" in by_provision:
        return True
    if "deny" in by_base:
        return own
    return "permit" in by_base or own


def is_attested(body: Json, word: Json) -> bool:
    """Tell whether a Consent of northgate's list may permit on northgate's word, on 1 March 2026 at noon."""
    source = body.get("meta", {}).get("source", "")
    if not word.get("list"):
        return False
    if source.startswith("urn:fhir-bridge:paper:"):
        return source == "urn:fhir-bridge:paper:northgate" and word.get("paper") == "counts"
    if not source.startswith("urn:fhir-bridge:guardian:") or word.get("guardians") not in ("own-chart", "person"):
        return False
    said = {tag["system"]: tag["code"] for tag in body["meta"]["tag"]}
    until = said.get("urn:fhir-bridge:attested-until", "")
    return said.get("urn:fhir-bridge:attested-by") == "northgate" and until > "2026-03-01T12:00:00.000Z"


def one_consent(requester: Requester, seen: IndexRow, body: Json, may_permit: bool) -> tuple[str | None, bool]:
    if not is_now(body.get("provision", {})):
        return None, False
    found = [
        (len(chain), chain[-1]["type"])
        for chain in chains(body.get("provision", {}), [])
        if "type" in chain[-1]
        and (may_permit or chain[-1]["type"] == "deny")
        and all(holds(requester, seen, node, chain, position, body) for position, node in enumerate(chain))
    ]
    if found:
        deepest = max(depth for depth, _ in found)
        kinds = {kind for depth, kind in found if depth == deepest}
        return ("deny" if "deny" in kinds else "permit"), False
    return base(body, may_permit), True


def base(body: Json, may_permit: bool) -> str | None:
    rule = body.get("policyRule", {}).get("coding", [{}])[0].get("code")
    root = body.get("provision", {})
    top = [root] if "type" in root else root.get("provision", [])
    if rule == "OPTOUT":
        return "deny"
    narrowed = any(each["type"] == "permit" for each in top)
    return "permit" if rule == "OPTIN" and may_permit and not narrowed else None


def chains(node: Json, above: list[Json]) -> list[list[Json]]:
    chain = [*above, node]
    return [chain] + [each for child in node.get("provision", []) for each in chains(child, chain)]


def holds(requester: Requester, seen: IndexRow, node: Json, chain: list[Json], position: int, body: Json) -> bool:
    if not is_now(node):
        return False
    deciding = chain[-1]["type"]
    stated = node.get("type") or ("permit" if body["policyRule"]["coding"][0]["code"] == "OPTIN" else "deny")
    if "actor" in node and not actor_holds(requester, node["actor"], deciding):
        return False
    if "purpose" in node and not purpose_holds(requester, node["purpose"], deciding):
        return False
    replaced = any("securityLabel" in later for later in chain[position + 1 :])
    if "securityLabel" in node and not replaced and not label_holds(seen, node["securityLabel"], stated):
        return False
    if "code" in node:
        wanted = {f"{c['coding'][0]['system']}|{c['coding'][0]['code']}" for c in node["code"]}
        if not (wanted & set(seen.codes) or (stated == "deny" and free_text(seen))):
            return False
    if "class" in node and seen.type not in [c["code"] for c in node["class"]]:
        return False
    if "data" in node:
        refers = node["data"][0]["reference"]["reference"]
        is_it = refers == f"{seen.type}/{seen.id}"
        if not (is_it or (node["data"][0]["meaning"] == "dependents" and refers in seen.references)):
            return False
    return "dataPeriod" not in node or period_holds(seen, stated)


def is_now(node: Json) -> bool:
    """Tell whether 1 March 2026 lies in a period of whole years, or there is none."""
    years = node.get("period", {})
    return int(years.get("start", "0001")) <= 2026 <= int(years.get("end", "9999"))


def actor_holds(requester: Requester, actors: list[Json], deciding: str) -> bool:
    answers = []
    for each in actors:
        kind, name = each["reference"]["reference"].split("/")
        stated = requester.institution_id if kind == "Organization" else requester.practitioner
        tests = [None if stated is None else stated == name]
        if each["role"] == ROLE:
            tests.append("http://example.org/roles|cardiologist" in requester.roles if requester.roles else None)
        answers.append(False if False in tests else None if None in tests else True)
    return True in answers or (deciding == "deny" and None in answers)


def purpose_holds(requester: Requester, purposes: list[Json], deciding: str) -> bool:
    if not requester.purpose:
        return deciding == "deny"
    name: str | None = requester.purpose
    while name:
        if name in [p["code"] for p in purposes]:
            return True
        name = PARENTS.get(name)
    return False


def label_holds(seen: IndexRow, stated_labels: list[Json], stated: str) -> bool:
    levels = [LEVELS.index(each.split("|")[1]) for each in seen.labels if len(each.split("|")[1]) == 1]
    for each in stated_labels:
        if f"{each['system']}|{each['code']}" in seen.labels and (len(each["code"]) > 1 or stated == "deny"):
            return True
        if len(each["code"]) == 1 and levels and stated == "deny" and max(levels) >= LEVELS.index(each["code"]):
            return True
    marks = [LEVELS.index(each["code"]) for each in stated_labels if len(each["code"]) == 1]
    if stated == "permit":
        return bool(marks and levels) and max(levels) <= max(marks)
    return free_text(seen)


def free_text(seen: IndexRow) -> bool:
    return seen.type == "DocumentReference" and not seen.labels


def period_holds(seen: IndexRow, stated: str) -> bool:
    low, high = 10 * DAY_US, 20 * DAY_US
    if seen.data_period_us is None:
        return stated == "deny"
    first, last = seen.data_period_us
    return (low <= first and last <= high) if stated == "permit" else (first < high and low < last)


def listing(element: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(element, min_size=1, max_size=2)


organizations = st.sampled_from(["org-harbor", "org-northgate"]).map(lambda n: actor(f"Organization/{n}"))
practitioners = st.sampled_from(["dr-h", "dr-n"]).map(lambda n: actor(f"Practitioner/{n}"))
roles = st.just(actor("Organization/org-harbor", ROLE))
elements = st.fixed_dictionaries(
    {},
    optional={
        "actor": listing(organizations | practitioners | roles),
        "purpose": listing(st.sampled_from(["TREAT", "ETREAT", "HRESCH"]).map(lambda c: coding(ACT_REASON, c))),
        "securityLabel": listing(st.sampled_from(["N", "R", "V", "PSY"])).map(
            lambda codes: labels(*codes)["securityLabel"]
        ),
        "code": listing(st.sampled_from(["1-1", "2-2"]).map(lambda c: concept(LOINC, c))),
        "class": listing(
            st.sampled_from(["Observation", "DocumentReference"]).map(
                lambda c: coding("http://hl7.org/fhir/resource-types", c)
            )
        ),
        "dataPeriod": st.just({"start": "1970-01-11", "end": "1970-01-20"}),
        "data": st.sampled_from(["instance", "dependents"]).map(
            lambda meaning: [{"meaning": meaning, "reference": {"reference": "Observation/r1"}}]
        ),
    },
)
kinds = st.sampled_from(["permit", "deny"])
leaves = st.builds(lambda kind, more: provision(kind, **more), kinds, elements)
provisions = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda kind, more, nested: provision(kind, *nested, **more), kinds, elements, st.lists(inner, max_size=2)
    ),
    max_leaves=6,
)
untyped_roots = st.lists(provisions, max_size=2).map(lambda nested: provision(None, *nested))
understood = st.one_of(
    st.builds(consent, provisions),
    st.builds(consent, provisions, st.sampled_from(["OPTIN", "OPTOUT"])),
    st.builds(consent, untyped_roots, st.sampled_from(["OPTIN", "OPTOUT"])),
)
consents = st.one_of(understood, understood, understood, understood.map(lambda body: body | {"unheardOf": 1}))
requesters = st.builds(
    Requester,
    client_id=st.just("c"),
    institution=st.just("harbor"),
    institution_id=st.just("org-harbor"),
    practitioner=st.sampled_from([None, "dr-h", "dr-n"]),
    roles=st.sampled_from([(), ("http://example.org/roles|cardiologist",), ("http://example.org/roles|nurse",)]),
    purpose=st.sampled_from(["", "TREAT", "ETREAT", "BTG", "HRESCH"]),
) | st.just(Requester("n", institution="northgate", institution_id="org-northgate", practitioner="dr-n"))
rows = st.builds(
    row,
    st.sampled_from(["Observation", "DocumentReference", "Condition"]),
    st.sampled_from(["r1", "r2"]),
    labelled=st.sampled_from([(), ("N",), ("R",), ("R", "PSY"), ("PSY",), ("V",), ("U", "N")]),
    codes=st.sampled_from([(), (f"{LOINC}|1-1",), (f"{LOINC}|2-2", f"{LOINC}|9-9")]),
    days=st.sampled_from([None, (10, 11), (5, 12), (30, 31)]),
    references=st.sampled_from([(), ("Observation/r1",)]),
    origin=st.sampled_from(["northgate", "harbor"]),
    author=st.sampled_from(["institution", "agent"]),
)


@settings(max_examples=300, deadline=None)
@given(
    requesters, st.lists(rows, min_size=1, max_size=6), st.lists(consents, max_size=3), st.lists(consents, max_size=1)
)
def test_the_evaluator_agrees_with_a_naive_one(
    requester: Requester, seen: list[IndexRow], owner: list[Json], institution: list[Json]
) -> None:
    permits = decision(requester, *owner, restricting=listed(*institution)).permits
    assert [permits(each) for each in seen] == [oracle(requester, each, owner, institution) for each in seen]


@settings(max_examples=100, deadline=None)
@given(requesters, st.lists(rows, min_size=1, max_size=6), st.lists(understood, max_size=3), understood)
def test_a_consent_of_the_institution_never_shows_more(
    requester: Requester, seen: list[IndexRow], owner: list[Json], institution: Json
) -> None:
    without = decision(requester, *owner).permits
    with_it = decision(requester, *owner, restricting=listed(institution)).permits
    assert not [each for each in seen if with_it(each) and not without(each)]
