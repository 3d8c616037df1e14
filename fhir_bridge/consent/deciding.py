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
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from fhir_bridge.consent.attesting import Attestation, Reach, attestation_of
from fhir_bridge.consent.compiling import compile_consent
from fhir_bridge.consent.lists import ConsentEntry, ConsentList
from fhir_bridge.consent.matching import Outgoing, concerns, is_about, is_now, row_predicate
from fhir_bridge.consent.network_policy import NO_POLICIES, NetworkPolicies, OwnRecords, StandingPolicy
from fhir_bridge.consent.policy import Clause, Policy
from fhir_bridge.consent.vocabulary import ACT_REASON, EMERGENCIES
from fhir_bridge.errors import BridgeError
from fhir_bridge.fhir.json import parse
from fhir_bridge.model.access import Decision, Predicate, Requester
from fhir_bridge.model.ingest import ChartRef, IndexRow

EVALUATOR = "fhir-bridge-consent/3"
"""Version of these rules; a decision names it, so that anyone can run the same ones again."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class ChartFacts:
    """What deciding needs to know about a chart.

    Attributes:
        patients: Canonical Patient ids linked to this chart's person now, the chart's own included.
        rows: All rows of the person, needed only for consents that name ``related`` data.
        own_records: Network policy on what a consent may close to the institution that wrote it.
        base_url: Our own FHIR base, under which absolute references in consents are ours.
        network: The policies beside consents.
    """

    chart: ChartRef
    patients: frozenset[str] = frozenset()
    rows: Sequence[IndexRow] = ()
    own_records: OwnRecords = OwnRecords.CLOSED_BY_PROVISION
    base_url: str | None = None
    network: NetworkPolicies = NO_POLICIES


Ruled = tuple[bool, Predicate | None]
"""Whether a rule permits, and what it demands of a row; None for nothing."""


@dataclass(frozen=True, slots=True)
class _Say:
    """What one consent or standing policy has to say to one request; the first predicate that matches decides.

    ``entry`` is None for a policy. ``rules`` are the provisions behind ``clauses``, one for one, and ``base_rule``
    is the one behind ``base``.
    """

    entry: ConsentEntry | None
    clauses: tuple[Ruled, ...]
    base: Ruled | None
    adds: bool
    rules: tuple[Clause, ...] = ()
    base_rule: Clause | None = None


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

    def decision(permits: Predicate, basis: str, says: Sequence[_Say] = ()) -> Decision:
        speaking = [say.entry for say in says if say.entry is not None]
        had_a_say = tuple((entry.id, entry.version) for entry in speaking)
        vouched = ((entry.id, attestation_of(entry.body)) for entry in speaking)
        attested = tuple((name, word.institution) for name, word in vouched if word is not None)
        return Decision(
            facts.chart.chart, permits, height, EVALUATOR, instant, had_a_say, basis, facts.network.version, attested
        )

    if facts.chart.is_directory:
        return decision(_everything, "directory")
    if requester.attested_by is not None:
        return decision(*_as_guardian(requester, facts))
    if requester.patient is not None:
        is_own = requester.institution is None and requester.patient in (facts.patients | {facts.chart.patient_id})
        return decision(_everything, "patient") if is_own else decision(_nothing, "default-deny")
    asked = _Asked(requester, facts, (instant - _EPOCH) // _MICROSECOND)
    live = asked.live(owner_list, institution_list, is_attested)
    says = asked.says(live)
    own = _own(requester, facts)
    permits = _combined(says, own, facts.own_records, asked.default(live))
    grants = any(say.adds and (any(p for p, _ in say.clauses) or (say.base and say.base[0])) for say in says)
    basis = "consent" if grants else "own" if own is not _nothing else "default-deny"
    if in_emergency:
        permits, basis = _either(asked.emergency(live), permits), "emergency"
    by_law = asked.by_law()
    if by_law is not None:
        permits, basis = _either(by_law, permits), "law"
    return decision(permits, basis, says)


def counts(word: Attestation, facts: ChartFacts, instant_us: int) -> bool:
    """Tell whether permits on an institution's word count in a chart at an instant."""
    return word.is_allowed(facts.chart.institution, facts.network.attestation) and not word.has_ended(instant_us)


@lru_cache(maxsize=1_024)
def compiled(body: bytes, base_url: str | None = None) -> Policy:
    """Return the policy of a Consent's bytes, compiled once; unreadable bytes are a policy that is not understood."""
    try:
        return compile_consent(parse(body), base_url=base_url)
    except BridgeError:
        return Policy(understood=False, problems=("Consent is not readable",))


@dataclass(frozen=True, slots=True)
class _Live:
    """A consent in force; ``adds`` is True for those that may permit: the patient's own, and attested ones."""

    entry: ConsentEntry
    adds: bool
    policy: Policy


class _Asked:
    """One request about one chart, held against everything that has a say."""

    def __init__(self, requester: Requester, facts: ChartFacts, instant_us: int) -> None:
        self._requester = requester
        self._facts = facts
        self._instant_us = instant_us
        self._outgoing: Outgoing | None = None
        self._remembered = _memory_of(_attributes(requester))

    def live(
        self, owner_list: ConsentList | None, institution_list: ConsentList | None, is_attested: bool
    ) -> list[_Live]:
        """Return the consents that are in force now."""
        found = []
        for listed, is_owners in ((owner_list, True), (institution_list, False)):
            for entry in listed.entries if listed else ():
                adds = is_owners or (is_attested and self._adds_attested(entry))
                if entry.is_in_force(self._instant_us):
                    policy = compiled(entry.body, self._facts.base_url)
                    if policy.valid[0] <= self._instant_us < policy.valid[1]:
                        found.append(_Live(entry, adds, policy))
        return found

    def _adds_attested(self, entry: ConsentEntry) -> bool:
        word = attestation_of(entry.body)
        return word is not None and counts(word, self._facts, self._instant_us)

    def says(self, live: Sequence[_Live]) -> tuple[_Say, ...]:
        """Return what each consent has to say to this request; those that say nothing are left out."""
        says = [_Say(each.entry, (), None, each.adds) for each in live if not each.policy.understood]
        for each, may_permit in self._entitled(live):
            say = self._say(each.policy, each.entry, each.adds, may_permit)
            if say.clauses or say.base:
                says.append(say)
        return tuple(says)

    def _entitled(self, live: Sequence[_Live]) -> list[tuple[_Live, bool]]:
        """Return each consent with whether its permits count: none does that an unclear one suspends.

        A permit of the patient's reaches the charts that were linked when it was signed.
        """
        until = max((each.entry.signed_at_us for each in live if not each.policy.understood), default=None)
        return [
            (
                each,
                (not each.adds or chart in each.entry.charts) and (until is None or each.entry.signed_at_us > until),
            )
            for chart in (self._facts.chart.chart,)
            for each in live
        ]

    def by_law(self) -> Predicate | None:
        """Return what legal bases other than consent permit to this request; None if there is none for it."""
        says = [self._say(each.policy, None, True, True) for each in self._applying(self._facts.network.bases)]
        found = [say.clauses for say in says if any(permit for permit, _ in say.clauses)]
        return (lambda row: any(_first(clauses, row) for clauses in found)) if found else None

    def emergency(self, live: Sequence[_Live]) -> Predicate:
        """Return what an open emergency shows: everything but what a patient's explicit denial keeps from it."""
        if not self._facts.network.emergency.denial_stands:
            return _everything
        # Whoever states one kind of emergency is held to the denial of any.
        entitled = self._entitled(live)
        said = [self._of_emergency(each.policy, may, purpose) for each, may in entitled for purpose in EMERGENCIES]
        denials = [clauses for clauses in said if any(not permit for permit, _ in clauses)]
        return lambda row: not any(_first(clauses, row) is False for clauses in denials)

    def default(self, live: Sequence[_Live]) -> Predicate:
        """Return what the institution's policy and then the network's permit where no consent applies.

        A consent that is not understood might forbid just this: it suspends these permits too.
        """
        if not all(each.policy.understood for each in live):
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

    def _say(self, policy: Policy, entry: ConsentEntry | None, adds: bool, may_permit: bool) -> _Say:
        concerning = self._concerning(policy)
        if not concerning.rules and concerning.base is None:
            return _SILENT
        kept = [
            (rule, ruled)
            for rule, ruled in concerning.rules
            if (may_permit or not rule.permits) and is_now(rule, self._instant_us)
        ]
        base = concerning.base
        if base is not None and not ((may_permit or not base[0].permits) and is_now(base[0], self._instant_us)):
            base = None
        if not kept and base is None:
            return _SILENT
        rules, clauses = tuple(rule for rule, _ in kept), tuple(ruled for _, ruled in kept)
        return _Say(entry, clauses, base[1] if base else None, adds, rules, base[0] if base else None)

    def _concerning(self, policy: Policy) -> _Concerning:
        found = self._remembered.get(id(policy))
        # An id is used again once its object is gone: what is kept holds the policy, so that the two are one.
        if found is not None and found.policy is policy:
            return found
        made = _concerning(policy, self._requester, self._outgoing_of(policy))
        if not needs_rows(policy):
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[id(policy)] = made
        return made

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

    def _outgoing_of(self, policy: Policy) -> Outgoing:
        """Return which record refers to which, worked out only for a policy that asks."""
        if not needs_rows(policy):
            return {}
        if self._outgoing is None:
            self._outgoing = _outgoing(self._facts.rows)
        return self._outgoing


@dataclass(frozen=True, slots=True)
class _Concerning:
    """The rules of a policy that concern one requester, whenever; each with what it demands of a row."""

    policy: Policy
    rules: tuple[tuple[Clause, Ruled], ...]
    base: tuple[Clause, Ruled] | None


_Memory = dict[int, _Concerning]
_MAX_REMEMBERED = 4_096
"""Policies whose rules are kept for one requester."""


def _attributes(requester: Requester) -> tuple[object, ...]:
    """Return all that a clause looks at in a requester (:func:`fhir_bridge.consent.matching.concerns`)."""
    who = (requester.institution, requester.institution_id, requester.practitioner, requester.patient)
    return (*who, requester.roles, requester.purpose, requester.groups)


@lru_cache(maxsize=256)
def _memory_of(_attributes: tuple[object, ...]) -> _Memory:
    """Return what is remembered for requesters with these attributes, by the identity of compiled policies."""
    return {}


def _concerning(policy: Policy, requester: Requester, outgoing: Outgoing) -> _Concerning:
    rules = tuple(
        (clause, (clause.permits, row_predicate(clause, outgoing)))
        for clause in policy.clauses
        if concerns(clause, requester)
    )
    base = policy.base
    if base is None or not concerns(base, requester):
        return _Concerning(policy, rules, None)
    return _Concerning(policy, rules, (base, (base.permits, row_predicate(base, outgoing))))


_SILENT = _Say(None, (), None, False)


def _names_emergency(clause: Clause) -> bool:
    named = {f"{ACT_REASON}|{code}" for code in EMERGENCIES}
    return any(each.purposes & named for each in clause.conditions)


def needs_rows(policy: Policy) -> bool:
    """Tell whether a policy names related data, for which the rows of the whole person are looked at."""
    return any(
        data.meaning == "related" for clause in policy.clauses for each in clause.conditions for data in each.data
    )


def _outgoing(rows: Sequence[IndexRow]) -> Outgoing:
    found: dict[str, frozenset[str]] = {}
    for row in rows:
        name = f"{row.type}/{row.id}"
        found[name] = found.get(name, frozenset()).union(row.references)
    return found


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


def _combined(says: Sequence[_Say], own: Predicate, policy: OwnRecords, default: Predicate) -> Predicate:
    """Join what all consents say into one predicate: provisions, base rules, own records, the default."""
    speaking = [(say.clauses, say.base, say.adds) for say in says if say.clauses or say.base]
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


def _in_turn(levels: Sequence[Sequence[_Say]]) -> Predicate:
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
