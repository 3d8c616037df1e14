"""Check the opening of a decision offline, and decide again from what it opens.

For an auditor who was handed the file by a patient and has this package, a
policy from elsewhere and no network. Nothing is believed that the commitment
behind the requester's receipt does not bind, but for two things that the
report names: what the index said of the records, and states that were pruned.

Invariants:
    * whatever does not fit raises; a report never says less than "decided again";
    * the evaluator that runs is the one that answers questions.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fhir_bridge.consent import (
    EVALUATOR,
    ChartFacts,
    ConsentList,
    Inputs,
    NetworkPolicies,
    judge,
    narrowed,
    open_policies,
    permitted_view,
)
from fhir_bridge.errors import BridgeError, IntegrityBroken
from fhir_bridge.fhir.json import NotStrictJson, parse
from fhir_bridge.lines.decision_opening import FORMAT, LISTS
from fhir_bridge.model.access import Decision
from fhir_bridge.model.ingest import ChartRef, IndexRow, instant, pack_values
from fhir_bridge.proof.decision import (
    ChartGrounds,
    chart_digest,
    decision_facts,
    decode_grounds,
)
from ledger_core import NO_LIST, Outcome, Policy, Receipt, verify_receipt

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNCOMPARED = frozenset({"evaluator", "height", "outcome", "shown"})


class OpeningRefused(BridgeError):
    """The opening does not hold what the decision was committed to, or cannot be read."""

    code = "opening-refused"


@dataclass(frozen=True, slots=True)
class Again:
    """One chart decided again.

    Attributes:
        basis, consents: What the evaluator says now, from what was opened.
        differences: Where it departs from what was recorded; empty when the outcome is the same.
        vouched: States of the ledger that the opening proves: ``consents``, ``policies``.
    """

    grounds: ChartGrounds
    basis: str
    consents: tuple[tuple[str, str], ...]
    differences: tuple[str, ...]
    vouched: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What came of an opening: the receipt's outcome, and each chart decided again."""

    outcome: Outcome
    facts: Mapping[str, str | int | bytes]
    charts: tuple[Again, ...]

    @property
    def is_same(self) -> bool:
        """True when every chart comes out as recorded."""
        return all(not each.differences for each in self.charts)


def decide_again(
    text: bytes, *, policy: Policy | None, receipt: str | None = None, now: datetime | None = None
) -> Report:
    """Check an opening and run the evaluator on what it opens.

    Args:
        text: The opening, from anybody.
        policy: Whom to trust; must not come with the opening.
        receipt: A requester's receipt that must be of the same decision.

    Raises:
        OpeningRefused, LedgerError: Something does not fit.
    """
    try:
        told = parse(text)
        return _decided(told, policy, receipt, now)
    except NotStrictJson as broken:
        raise OpeningRefused("the opening is not strict JSON") from broken
    except (KeyError, TypeError, ValueError, AttributeError, IntegrityBroken) as broken:
        raise OpeningRefused(f"the opening cannot be read: {broken}") from broken


def _decided(told: Mapping[str, Any], policy: Policy | None, receipt: str | None, now: datetime | None) -> Report:
    if told["format"] != FORMAT:
        raise OpeningRefused("this is no opening of a decision that this version knows")
    grounds_content = _bytes(told["grounds"])
    charts = [(_bytes(each["salt"]), _bytes(each["content"]), each) for each in told["charts"]]
    if not charts:
        raise OpeningRefused("the opening opens no chart")
    grounds = [ChartGrounds.decode(content) for _, content, _ in charts]
    at_hand = [grounds_content, grounds[0].request]
    outcome = verify_receipt(told["receipt"], records=at_hand, policy=policy, now=now)
    if outcome.claim != "record" or outcome.facts.get("kind") != "decision":
        raise OpeningRefused("the receipt is of no decision")
    if receipt is not None:
        verify_receipt(receipt, policy=policy, now=now)
        if _commitment(receipt) != _commitment(told["receipt"]):
            raise OpeningRefused("the receipt at hand is of another decision")
    digests = decode_grounds(grounds_content)
    for (salt, content, _), each in zip(charts, grounds, strict=True):
        if chart_digest(salt, content) not in digests:
            raise OpeningRefused("the decision was not committed to these grounds")
        _check_facts(outcome.facts, each, grounds[0].request)
    pairs = zip(grounds, (each for _, _, each in charts), strict=True)
    return Report(outcome, outcome.facts, tuple(_again(each, opened, policy, now) for each, opened in pairs))


def _commitment(receipt: str) -> bytes:
    claim = Receipt.decode(receipt).claim
    opening = getattr(claim, "opening", None)
    if opening is None:
        raise OpeningRefused("the receipt at hand is of no decision")
    found: bytes = opening.commitment()
    return found


def _check_facts(facts: Mapping[str, object], grounds: ChartGrounds, request: bytes) -> None:
    """The grounds speak of the request and requester that the receipt shows."""
    stated = decision_facts(
        grounds.requester,
        str(facts.get("id")),
        instant=instant(_at(grounds)),
        evaluator="",
        height=0,
        shown=0,
    )
    differing = [name for name, value in stated.items() if name not in _UNCOMPARED and facts.get(name) != value]
    if differing or grounds.request != request:
        raise OpeningRefused(f"receipt and grounds differ in {', '.join(differing) or 'request'}")


def _again(grounds: ChartGrounds, opened: Mapping[str, Any], policy: Policy | None, now: datetime | None) -> Again:
    if grounds.evaluator != EVALUATOR:
        raise OpeningRefused(f"decided by {grounds.evaluator}: run the version of fhir-bridge that has it")
    lists = _lists(grounds, opened["lists"])
    network = open_policies(_bytes(opened["policies"]), grounds.policies)
    vouched = _vouched(grounds, opened, policy, now)
    owner, institution, kept = lists
    if grounds.is_sound:
        # A path without a list of a kind holds an empty one; without a path only what the institution kept counts.
        owner = owner or (ConsentList() if grounds.path is not None else None)
        institution = narrowed(institution or ConsentList(), kept)
    facts = _facts(grounds, network, opened["related"])
    inputs = Inputs(
        grounds.requester,
        facts,
        owner,
        institution,
        grounds.is_sound,
        grounds.is_attested,
        grounds.in_emergency,
        _at(grounds),
        grounds.height,
    )
    decision = judge(inputs)
    rows = [_row(each) for each in opened["records"]]
    return Again(
        grounds,
        decision.basis,
        decision.policies,
        tuple(_differences(grounds, decision, facts.chart, rows)),
        vouched,
    )


def _lists(grounds: ChartGrounds, opened: Mapping[str, Any]) -> list[ConsentList | None]:
    found: list[ConsentList | None] = []
    for name, wanted in zip(LISTS, grounds.lists, strict=True):
        given = opened[name]
        listed = None if given is None else ConsentList.decode(_bytes(given))
        if (None if listed is None else listed.list_hash()) != wanted:
            raise OpeningRefused(f"the {name} list is not the one that was decided on")
        found.append(listed)
    return found


def _vouched(
    grounds: ChartGrounds, opened: Mapping[str, Any], policy: Policy | None, now: datetime | None
) -> tuple[str, ...]:
    """Return which states of the ledger at the decision's height are proved, each checked against the grounds."""
    found = []
    if opened["consent_state"] is not None and grounds.path is not None:
        owner, institution, _ = grounds.lists
        told = _state(opened["consent_state"], "consent", grounds.path, grounds.height, policy, now)
        held = (told.get("owner_list"), told.get("institution_list"))
        if grounds.is_sound and held != ((owner or NO_LIST).hex(), (institution or NO_LIST).hex()):
            raise OpeningRefused("the ledger held other consent lists at that height")
        counter = told.get("institution_counter")
        if grounds.is_attested != (told.get("attested") == counter != "0"):
            raise OpeningRefused("the ledger says otherwise whether the institution attested its list")
        found.append("consents")
    if opened["policy_state"] is not None:
        _state(opened["policy_state"], "policy", grounds.policies, grounds.height, policy, now)
        found.append("policies")
    return tuple(found)


def _state(
    receipt: str, kind: str, key: bytes, height: int, policy: Policy | None, now: datetime | None
) -> Mapping[str, str]:
    outcome = verify_receipt(receipt, policy=policy, now=now)
    claim, told = Receipt.decode(receipt).claim, dict(outcome.details)
    named = (getattr(claim, "kind", None), getattr(claim, "key", None))
    if outcome.claim != f"state present as of height {height}" or named != (kind, key):
        raise OpeningRefused(f"the receipt proves no {kind} at the decision's height")
    return told


def _facts(grounds: ChartGrounds, network: NetworkPolicies, related: Sequence[Any]) -> ChartFacts:
    rows = [_row({"type": kind, "id": name, "references": found}) for kind, name, found in related]
    chart = ChartRef(grounds.home, grounds.chart, grounds.patient)
    linked = frozenset(grounds.linked)
    return ChartFacts(chart, linked, rows, network.own_records, grounds.base_url or None, network)


def _differences(grounds: ChartGrounds, decision: Decision, chart: ChartRef, rows: Sequence[IndexRow]) -> list[str]:
    found = []
    if decision.basis != grounds.basis:
        found.append(f"basis {decision.basis}, recorded {grounds.basis}")
    if decision.policies != grounds.consents:
        found.append("other consents have a say than recorded")
    view = permitted_view([(decision, chart, rows)])
    seen = {(row.type, row.id, row.version) for each in view.charts for row in each.rows}
    given = {(row.type, row.id, row.version) for row in rows}
    missing = [name for name in grounds.shown if name not in given]
    missing += [(*name, "") for name in grounds.withheld if name not in {each[:2] for each in given}]
    if missing:
        raise OpeningRefused(f"the opening does not hold {missing[0][0]}/{missing[0][1]}")
    found += [f"{kind}/{name} was shown and is denied" for kind, name, version in grounds.shown
              if (kind, name, version) not in seen]  # fmt: skip
    found += [f"{kind}/{name} was withheld and is permitted" for kind, name in grounds.withheld
              if any((kind, name) == each[:2] for each in seen)]  # fmt: skip
    return found


def _row(told: Mapping[str, Any]) -> IndexRow:
    period = told.get("data_period_us")
    return IndexRow(
        type=told["type"],
        id=told["id"],
        version=told.get("version", ""),
        deleted=told.get("deleted", False),
        origin=told.get("origin", ""),
        author=told.get("author", ""),
        last_updated_us=0,
        source_updated_us=None,
        dated_us=None,
        labels=tuple(told.get("labels", ())),
        codes=tuple(told.get("codes", ())),
        data_period_us=None if period is None else (period[0], period[1]),
        search=pack_values({name: tuple(values) for name, values in told.get("authors", {}).items()}),
        references=tuple(told["references"]),
        content=b"",
    )


def _at(grounds: ChartGrounds) -> datetime:
    return _EPOCH + timedelta(microseconds=grounds.instant_us)


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as broken:
        raise OpeningRefused("a field of the opening is not base64") from broken
