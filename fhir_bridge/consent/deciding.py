"""Decide what a requester may see of one chart.

For the answer line; the one place where consents turn into a predicate over
rows. The order of precedence is that of docs/consent.md: the patient's own
agent sees all; else provisions of consents outrank base rules and a denial wins
within a rank; else an institution sees what it wrote itself; else nothing.

Invariants:
    * fails closed: no list, no consent or no match means no row but one's own;
    * the outcome does not depend on the order of consents;
    * an institution's own list can take away and never adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache

from fhir_bridge.consent.compiling import compile_consent
from fhir_bridge.consent.lists import ConsentEntry, ConsentList
from fhir_bridge.consent.matching import Outgoing, is_about, row_predicate
from fhir_bridge.consent.policy import Policy
from fhir_bridge.errors import BridgeError
from fhir_bridge.fhir.json import parse
from fhir_bridge.model.access import Decision, Predicate, Requester
from fhir_bridge.model.ingest import ChartRef, IndexRow

EVALUATOR = "fhir-bridge-consent/1"
"""Version of these rules; a decision names it, so that anyone can run the same ones again."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class OwnRecords(StrEnum):
    """How far a patient's denial reaches into what an institution wrote itself.

    By default a provision that matches does and a mere base rule (OPTOUT) does not:
    opting out of sharing is no order to a hospital to stop reading its own files.
    """

    CLOSED_BY_PROVISION = "closed-by-provision"
    CLOSED_BY_ANY = "closed-by-any"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class ChartFacts:
    """What deciding needs to know about a chart.

    Attributes:
        patients: Canonical Patient ids linked to this chart's person now, the chart's own included.
        rows: All rows of the person, needed only for consents that name ``related`` data.
        own_records: Network policy on what a consent may close to the institution that wrote it.
        base_url: Our own FHIR base, under which absolute references in consents are ours.
    """

    chart: ChartRef
    patients: frozenset[str] = frozenset()
    rows: Sequence[IndexRow] = ()
    own_records: OwnRecords = OwnRecords.CLOSED_BY_PROVISION
    base_url: str | None = None


@dataclass(frozen=True, slots=True)
class _Say:
    """What one consent has to say to one request; predicates are tried in order, the first that matches decides."""

    entry: ConsentEntry
    clauses: tuple[tuple[bool, Predicate | None], ...]
    base: tuple[bool, Predicate | None] | None
    adds: bool


def decide(
    requester: Requester,
    facts: ChartFacts,
    owner_list: ConsentList | None,
    institution_list: ConsentList | None,
    *,
    instant: datetime,
    height: int,
) -> Decision:
    """Return what ``requester`` may see of a chart at an instant.

    Args:
        requester: Taken from a verified token.
        owner_list: The patient's consents; the caller has checked its hash against
            the ledger's state at ``height``. None if the path was never opened.
        institution_list: Consents that the chart's institution recorded, checked likewise.
        instant: Aware UTC.
    """

    def decision(permits: Predicate, basis: str, says: Sequence[_Say] = ()) -> Decision:
        had_a_say = tuple((say.entry.id, say.entry.version) for say in says)
        return Decision(facts.chart.chart, permits, height, EVALUATOR, instant, had_a_say, basis)

    if facts.chart.is_directory:
        return decision(_everything, "directory")
    if requester.patient is not None:
        is_own = requester.institution is None and requester.patient in (facts.patients | {facts.chart.patient_id})
        return decision(_everything, "patient") if is_own else decision(_nothing, "default-deny")
    says = _says(requester, facts, owner_list, institution_list, (instant - _EPOCH) // _MICROSECOND)
    own = _own(requester, facts)
    grants = any(say.adds and (any(p for p, _ in say.clauses) or (say.base and say.base[0])) for say in says)
    basis = "consent" if grants else "own" if own is not _nothing else "default-deny"
    return decision(_combined(says, own, facts.own_records), basis, says)


@lru_cache(maxsize=1_024)
def compiled(body: bytes, base_url: str | None = None) -> Policy:
    """Return the policy of a Consent's bytes, compiled once; unreadable bytes are a policy that is not understood."""
    try:
        return compile_consent(parse(body), base_url=base_url)
    except BridgeError:
        return Policy(understood=False, problems=("Consent is not readable",))


def _says(
    requester: Requester,
    facts: ChartFacts,
    owner_list: ConsentList | None,
    institution_list: ConsentList | None,
    instant_us: int,
) -> tuple[_Say, ...]:
    """Return what each consent in force has to say to this request; those that say nothing are left out."""
    live = [
        *_live(owner_list, True, facts.base_url, instant_us),
        *_live(institution_list, False, facts.base_url, instant_us),
    ]
    unclear = [each for each in live if not each.policy.understood]
    suspended_until = max((each.entry.signed_at_us for each in unclear), default=None)
    outgoing = _outgoing(facts.rows) if any(_needs_rows(each.policy) for each in live) else {}
    says = [_Say(each.entry, (), None, each.adds) for each in unclear]
    for each in live:
        is_suspended = suspended_until is not None and each.entry.signed_at_us <= suspended_until
        is_reached = not each.adds or facts.chart.chart in each.entry.charts
        may_permit = is_reached and not is_suspended
        clauses = tuple(
            (clause.permits, row_predicate(clause, outgoing))
            for clause in each.policy.clauses
            if (may_permit or not clause.permits) and is_about(clause, requester, instant_us)
        )
        base = each.policy.base
        if base and not ((may_permit or not base.permits) and is_about(base, requester, instant_us)):
            base = None
        if clauses or base:
            ruled = (base.permits, row_predicate(base, outgoing)) if base else None
            says.append(_Say(each.entry, clauses, ruled, each.adds))
    return tuple(says)


@dataclass(frozen=True, slots=True)
class _Live:
    """A consent in force; ``adds`` is True for the patient's own, which alone may permit."""

    entry: ConsentEntry
    adds: bool
    policy: Policy


def _live(listed: ConsentList | None, adds: bool, base_url: str | None, instant_us: int) -> list[_Live]:
    found = []
    for entry in listed.entries if listed else ():
        if entry.is_in_force(instant_us):
            policy = compiled(entry.body, base_url)
            if policy.valid[0] <= instant_us < policy.valid[1]:
                found.append(_Live(entry, adds, policy))
    return found


def _needs_rows(policy: Policy) -> bool:
    return any(
        data.meaning == "related" for clause in policy.clauses for each in clause.conditions for data in each.data
    )


def _outgoing(rows: Sequence[IndexRow]) -> Outgoing:
    found: dict[str, frozenset[str]] = {}
    for row in rows:
        name = f"{row.type}/{row.id}"
        found[name] = found.get(name, frozenset()).union(row.references)
    return found


def _own(requester: Requester, facts: ChartFacts) -> Predicate:
    name = requester.institution
    if name is None or name != facts.chart.institution:
        return _nothing
    return lambda row: row.author == "institution" and row.origin == name


def _combined(says: Sequence[_Say], own: Predicate, policy: OwnRecords) -> Predicate:
    """Join what all consents say into one predicate: provisions, then base rules, then the default."""
    ruling = [(say.clauses, say.adds) for say in says if say.clauses]
    bases = [(say.base[0], say.base[1], say.adds) for say in says if say.base]
    if not ruling and not bases:
        return own

    stays_open = own if policy is OwnRecords.OPEN else _nothing
    survives_base = _nothing if policy is OwnRecords.CLOSED_BY_ANY else own

    def permits(row: IndexRow) -> bool:
        if stays_open(row):
            return True
        granted = False
        for clauses, adds in ruling:
            for permit, test in clauses:
                if test is None or test(row):
                    if not permit:
                        return False
                    granted = granted or adds
                    break
        if granted:
            return True
        for permit, test, adds in bases:
            if test is None or test(row):
                if not permit:
                    return survives_base(row)
                granted = granted or adds
        return granted or own(row)

    return permits


def _everything(_row: IndexRow) -> bool:
    return True


def _nothing(_row: IndexRow) -> bool:
    return False
