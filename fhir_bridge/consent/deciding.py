"""Decide what a requester may see of one chart.

For the answer line; the one place where consents turn into a predicate over
rows. The order of precedence is that of docs/consent.md: the patient's own
agent sees all; a legal basis and an open emergency come before consents; then
provisions of consents outrank base rules and a denial wins within a rank; where
none applies an institution sees what it wrote itself, and the institution's
policy, then the network's, decide the rest; else nothing.

Invariants:
    * fails closed: no list, no consent, no policy or no match means no row but one's own;
    * the outcome does not depend on the order of consents or of policies;
    * an institution's own list can take away, and adds nothing but what it attests where network policy lets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from fhir_bridge.consent.attesting import Reach
from fhir_bridge.consent.facts import ChartFacts
from fhir_bridge.consent.hearing import NOTHING_HEARD, Heard, Hearing, Live, Ruled, Say, Spoken
from fhir_bridge.consent.lists import ConsentList
from fhir_bridge.consent.matching import is_about, row_predicate
from fhir_bridge.consent.network_policy import OwnRecords, StandingPolicy
from fhir_bridge.consent.policy import Clause, Policy
from fhir_bridge.consent.vocabulary import ACT_REASON, EMERGENCIES
from fhir_bridge.model.access import Decision, Predicate, Requester
from fhir_bridge.model.ingest import IndexRow

EVALUATOR = "fhir-bridge-consent/3"
"""Version of these rules; a decision names it, so that anyone can run the same ones again."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def decide(
    requester: Requester,
    facts: ChartFacts,
    owner_list: ConsentList | None,
    institution_list: ConsentList | None,
    *,
    instant: datetime,
    height: int,
    in_emergency: bool = False,
    is_attested: bool = False,
) -> Decision:
    """Return what ``requester`` may see of a chart at an instant.

    Args:
        requester: Taken from a verified token.
        owner_list: The patient's consents; the caller has checked its hash against
            the ledger's state at ``height``. None if the path was never opened.
        institution_list: Consents that the chart's institution recorded, checked likewise.
        instant: Aware UTC.
        in_emergency: Emergency access to this chart was opened for this requester and has not run out.
        is_attested: The ledger's state at ``height`` says that the institution attested its list as it is now.
    """

    def decision(permits: Predicate, basis: str, heard: Heard = NOTHING_HEARD) -> Decision:
        chart, version = facts.chart.chart, facts.network.version
        return Decision(chart, permits, height, EVALUATOR, instant, heard.policies, basis, version, heard.attested)

    if facts.chart.is_directory:
        return decision(_everything, "directory")
    if requester.attested_by is not None:
        return decision(*_as_guardian(requester, facts))
    if requester.patient is not None:
        is_own = requester.institution is None and requester.patient in (facts.patients | {facts.chart.patient_id})
        return decision(_everything, "patient") if is_own else decision(_nothing, "default-deny")
    asked = _Asked(requester, facts, (instant - _EPOCH) // _MICROSECOND)
    heard = asked.heard(owner_list, institution_list, is_attested)
    own = _own(requester, facts)
    permits = _combined(heard.speaking, own, facts.own_records, asked.default(heard))
    basis = "consent" if heard.grants else "own" if own is not _nothing else "default-deny"
    if in_emergency:
        permits, basis = _either(asked.emergency(heard.live), permits), "emergency"
    by_law = asked.by_law()
    if by_law is not None:
        permits, basis = _either(by_law, permits), "law"
    return decision(permits, basis, heard)


class _Asked(Hearing):
    """One request about one chart, held against everything that has a say."""

    def by_law(self) -> Predicate | None:
        """Return what legal bases other than consent permit to this request; None if there is none for it."""
        says = [self._say(each.policy, None, True, True) for each in self._applying(self._facts.network.bases)]
        found = [say.clauses for say in says if any(permit for permit, _ in say.clauses)]
        return (lambda row: any(_first(clauses, row) for clauses in found)) if found else None

    def emergency(self, live: Sequence[Live]) -> Predicate:
        """Return what an open emergency shows: everything but what a patient's explicit denial keeps from it."""
        if not self._facts.network.emergency.denial_stands:
            return _everything
        # Whoever states one kind of emergency is held to the denial of any.
        entitled = self._entitled(live)
        said = [self._of_emergency(each.policy, may, purpose) for each, may in entitled for purpose in EMERGENCIES]
        denials = [clauses for clauses in said if any(not permit for permit, _ in clauses)]
        return lambda row: not any(_first(clauses, row) is False for clauses in denials)

    def default(self, heard: Heard) -> Predicate:
        """Return what the institution's policy and then the network's permit where no consent applies.

        A consent that is not understood might forbid just this: it suspends these permits too.
        """
        if not heard.is_clear:
            return _nothing
        policies = self._applying(self._facts.network.defaults)
        said = [(each.institution, self._say(each.policy, None, True, True)) for each in policies]
        levels = [[say for owner, say in said if (owner is None) is last] for last in (False, True)]
        return _in_turn([level for level in levels if level])

    def _applying(self, policies: Sequence[StandingPolicy]) -> list[StandingPolicy]:
        patients = self._facts.patients | {self._facts.chart.patient_id}
        return [
            each
            for each in policies
            if each.institution in (None, self._facts.chart.institution)
            and (each.patient is None or each.patient in patients)
            and each.policy.valid[0] <= self._instant_us < each.policy.valid[1]
        ]

    def _of_emergency(self, policy: Policy, may_permit: bool, purpose: str) -> tuple[Ruled, ...]:
        """Return a consent's clauses for an emergency, without the denials that say nothing of emergencies."""
        asks = replace(self._requester, purpose=purpose)
        outgoing = self._outgoing_of(policy)
        return tuple(
            (clause.permits, row_predicate(clause, outgoing))
            for clause in policy.clauses
            if (clause.permits or _names_emergency(clause)) and self._counts(clause, may_permit, asks)
        )

    def _counts(self, clause: Clause, may_permit: bool, requester: Requester) -> bool:
        return (may_permit or not clause.permits) and is_about(clause, requester, self._instant_us)


def _names_emergency(clause: Clause) -> bool:
    named = {f"{ACT_REASON}|{code}" for code in EMERGENCIES}
    return any(each.purposes & named for each in clause.conditions)


def _as_guardian(requester: Requester, facts: ChartFacts) -> tuple[Predicate, str]:
    """Return what an attested guardian sees: the institution's own chart, or the person's where policy says so."""
    reach = facts.network.attestation.guardians
    here = requester.patient == facts.chart.patient_id and requester.attested_by == facts.chart.institution
    is_own = here or (reach is Reach.PERSON and requester.patient in facts.patients)
    return (_everything, "guardian") if is_own and reach is not Reach.REFUSED else (_nothing, "default-deny")


def _own(requester: Requester, facts: ChartFacts) -> Predicate:
    name = requester.institution
    if name is None or name != facts.chart.institution:
        return _nothing
    return lambda row: row.author == "institution" and row.origin == name


def _combined(speaking: Sequence[Spoken], own: Predicate, policy: OwnRecords, default: Predicate) -> Predicate:
    """Join what all consents say into one predicate: provisions, base rules, own records, the default."""
    if not speaking:
        return _either(own, default)

    stays_open = own if policy is OwnRecords.OPEN else _nothing
    survives_base = _nothing if policy is OwnRecords.CLOSED_BY_ANY else own

    def permits(row: IndexRow) -> bool:
        if stays_open(row):
            return True
        granted = False
        bases: list[tuple[Ruled, bool]] = []
        for clauses, base, adds in speaking:
            for permit, test in clauses:
                if test is None or test(row):
                    if not permit:
                        return False
                    granted = granted or adds
                    break
            else:
                # A base rule holds only where no provision of the same consent matches.
                if base is not None:
                    bases.append((base, adds))
        if granted:
            return True
        for (permit, test), adds in bases:
            if test is None or test(row):
                if not permit:
                    return survives_base(row)
                granted = granted or adds
        return granted or own(row) or default(row)

    return permits


def _in_turn(levels: Sequence[Sequence[Say]]) -> Predicate:
    """Return the predicate of default policies: a level decides what it says anything about, then the next does."""
    if not levels:
        return _nothing

    def permits(row: IndexRow) -> bool:
        for says in levels:
            ruled = [_first(say.clauses, row) for say in says]
            based = [_first((say.base,), row) for say in says if say.base]
            for answers in (ruled, based):
                if False in answers:
                    return False
                if True in answers:
                    return True
        return False

    return permits


def _first(clauses: Sequence[tuple[bool, Predicate | None]], row: IndexRow) -> bool | None:
    """Return what the first clause that matches says; None if none does."""
    for permit, test in clauses:
        if test is None or test(row):
            return permit
    return None


def _either(first: Predicate, second: Predicate) -> Predicate:
    if first is _nothing or second is _everything:
        return second
    if second is _nothing or first is _everything:
        return first
    return lambda row: first(row) or second(row)


def _everything(_row: IndexRow) -> bool:
    return True


def _nothing(_row: IndexRow) -> bool:
    return False
