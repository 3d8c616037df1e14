"""What the consents of a chart have to say to one request.

For deciding. Which consents are in force, whether their permits count, and which
of their rules concern the requester is worked out once and remembered until the
next instant at which any of it can become otherwise: a chart with a thousand
consents is then asked again as fast as one with a single consent.

Invariants:
    * what is remembered is what working it out anew would give: it is kept by the identity of both lists and of
      the attestation rules, and by all else that it depends on;
    * what depends on the rows of a person (``related`` data) is never remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fhir_bridge.consent.attesting import Attestation, attestation_of
from fhir_bridge.consent.compiling import compile_consent
from fhir_bridge.consent.facts import ChartFacts
from fhir_bridge.consent.lists import ConsentEntry, ConsentList
from fhir_bridge.consent.matching import Outgoing, concerns, is_now, row_predicate
from fhir_bridge.consent.policy import Clause, Interval, Policy
from fhir_bridge.consent.remembering import SMALL_BODY, Memory, by_body
from fhir_bridge.errors import BridgeError
from fhir_bridge.fhir.json import parse
from fhir_bridge.model.access import Predicate, Requester
from fhir_bridge.model.ingest import IndexRow

_FOREVER: Interval = (-(2**63), 2**63)

Ruled = tuple[bool, Predicate | None]
"""Whether a rule permits, and what it demands of a row; None for nothing."""

Spoken = tuple[tuple[Ruled, ...], Ruled | None, bool]
"""The clauses and the base rule of one consent, and whether its permits count."""


@dataclass(frozen=True, slots=True)
class Say:
    """What one consent or standing policy has to say to one request; the first predicate that matches decides.

    ``entry`` is None for a policy.
    """

    entry: ConsentEntry | None
    clauses: tuple[Ruled, ...]
    base: Ruled | None
    adds: bool


@dataclass(frozen=True, slots=True)
class Live:
    """A consent in force; ``adds`` is True for those that may permit: the patient's own, and attested ones."""

    entry: ConsentEntry
    adds: bool
    policy: Policy


@dataclass(frozen=True, slots=True)
class Heard:
    """What all consents of a chart have to say to one request.

    Attributes:
        live: The consents in force.
        speaking: What those say that are understood.
        policies: ``(consent id, version)`` behind the says.
        attested: ``(consent id, institution)`` of those that rest on an institution's word.
        grants: One of them permits something.
        is_clear: All in force are understood.
        lasts: ``[since, until)`` µs since 1970 UTC, around the instant of the request, in which all of this holds.
    """

    live: tuple[Live, ...]
    speaking: tuple[Spoken, ...]
    policies: tuple[tuple[str, str], ...]
    attested: tuple[tuple[str, str], ...]
    grants: bool
    is_clear: bool
    lasts: Interval


NOTHING_HEARD = Heard((), (), (), (), False, True, _FOREVER)

_HEARD = Memory[Heard](65_536)
"""By lists and requesters; the weight is that of both lists, which are held as long."""


@by_body
def compiled(body: bytes, base_url: str | None = None) -> Policy:
    """Return the policy of a Consent's bytes, compiled once; unreadable bytes are a policy that is not understood."""
    try:
        return compile_consent(parse(body), base_url=base_url)
    except BridgeError:
        return Policy(understood=False, problems=("Consent is not readable",))


def counts(word: Attestation, facts: ChartFacts, instant_us: int) -> bool:
    """Tell whether permits on an institution's word count in a chart at an instant."""
    return word.is_allowed(facts.chart.institution, facts.network.attestation) and not word.has_ended(instant_us)


def needs_rows(policy: Policy) -> bool:
    """Tell whether a policy names related data, for which the rows of the whole person are looked at."""
    return any(
        data.meaning == "related" for clause in policy.clauses for each in clause.conditions for data in each.data
    )


class Hearing:
    """One request about one chart, held against consents."""

    def __init__(self, requester: Requester, facts: ChartFacts, instant_us: int) -> None:
        self._requester = requester
        self._facts = facts
        self._instant_us = instant_us
        self._outgoing: Outgoing | None = None
        self._who = _attributes(requester)
        self._remembered = _memory_of(self._who)

    def heard(self, owner_list: ConsentList | None, institution_list: ConsentList | None, is_attested: bool) -> Heard:
        """Return what all consents have to say; remembered while nothing of it can change."""
        chart, network = self._facts.chart, self._facts.network
        listed = tuple(each.entries if each else () for each in (owner_list, institution_list))
        same = (*listed, network.attestation)
        equal = (self._who, chart.chart, chart.institution, self._facts.base_url, is_attested)
        found = _HEARD.find(same, equal)
        if found is not None and found.lasts[0] <= self._instant_us < found.lasts[1]:
            return found
        live, edges = self._live(owner_list, institution_list, is_attested)
        concerning = [self._concerning(each.policy, each.entry) for each in live]
        edges += [edge for each in concerning for edge in each.edges]
        made = self._made(live, self._says(live), edges)
        if not any(each.needs_rows for each in concerning):
            _HEARD.keep(
                same, equal, made, weight=1 + sum(each.weight for each in (owner_list, institution_list) if each)
            )
        return made

    def _made(self, live: Sequence[Live], says: Sequence[Say], edges: Sequence[int]) -> Heard:
        speaking = [say.entry for say in says if say.entry is not None]
        vouched = ((entry.id, attestation_of(entry.body)) for entry in speaking)
        return Heard(
            tuple(live),
            tuple((say.clauses, say.base, say.adds) for say in says if say.clauses or say.base),
            tuple((entry.id, entry.version) for entry in speaking),
            tuple((name, word.institution) for name, word in vouched if word is not None),
            any(say.adds and (any(p for p, _ in say.clauses) or (say.base and say.base[0])) for say in says),
            all(each.policy.understood for each in live),
            _around(self._instant_us, edges),
        )

    def _live(
        self, owner_list: ConsentList | None, institution_list: ConsentList | None, is_attested: bool
    ) -> tuple[list[Live], list[int]]:
        """Return the consents that are in force now, and every instant at which that may become otherwise."""
        found: list[Live] = []
        edges: list[int] = []
        for listed, is_owners in ((owner_list, True), (institution_list, False)):
            for entry in listed.entries if listed else ():
                edges += entry.valid
                adds = is_owners or (is_attested and self._adds_attested(entry, edges))
                if entry.is_in_force(self._instant_us):
                    policy = compiled(entry.body, self._facts.base_url)
                    if policy.valid[0] <= self._instant_us < policy.valid[1]:
                        found.append(Live(entry, adds, policy))
                    edges += policy.valid
        return found, edges

    def _adds_attested(self, entry: ConsentEntry, edges: list[int]) -> bool:
        word = attestation_of(entry.body)
        if word is None:
            return False
        edges += () if word.until_us is None else (word.until_us,)
        return counts(word, self._facts, self._instant_us)

    def _says(self, live: Sequence[Live]) -> tuple[Say, ...]:
        """Return what each consent has to say to this request; those that say nothing are left out."""
        says = [Say(each.entry, (), None, each.adds) for each in live if not each.policy.understood]
        for each, may_permit in self._entitled(live):
            say = self._say(each.policy, each.entry, each.adds, may_permit)
            if say.clauses or say.base:
                says.append(say)
        return tuple(says)

    def _entitled(self, live: Sequence[Live]) -> list[tuple[Live, bool]]:
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

    def _say(self, policy: Policy, entry: ConsentEntry | None, adds: bool, may_permit: bool) -> Say:
        concerning = self._concerning(policy, entry)
        if not concerning.rules and concerning.base is None:
            return _SILENT
        clauses = tuple(
            ruled
            for rule, ruled in concerning.rules
            if (may_permit or not rule.permits) and is_now(rule, self._instant_us)
        )
        base = concerning.base
        if base is not None and not ((may_permit or not base[0].permits) and is_now(base[0], self._instant_us)):
            base = None
        if not clauses and base is None:
            return _SILENT
        return Say(entry, clauses, base[1] if base else None, adds)

    def _concerning(self, policy: Policy, entry: ConsentEntry | None) -> _Concerning:
        found = self._remembered.get(id(policy))
        # An id is used again once its object is gone: what is kept holds the policy, so that the two are one.
        if found is not None and found.policy is policy:
            return found
        made = _concerning(policy, self._requester, self._outgoing_of(policy))
        if not made.needs_rows and (entry is None or len(entry.body) <= SMALL_BODY):
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[id(policy)] = made
        return made

    def _outgoing_of(self, policy: Policy) -> Outgoing:
        """Return which record refers to which, worked out only for a policy that asks."""
        if not needs_rows(policy):
            return {}
        if self._outgoing is None:
            self._outgoing = _outgoing(self._facts.rows)
        return self._outgoing


_SILENT = Say(None, (), None, False)


@dataclass(frozen=True, slots=True)
class _Concerning:
    """The rules of a policy that concern one requester, whenever; each with what it demands of a row.

    Attributes:
        edges: The instants at which their periods begin and end.
        needs_rows: What is demanded depends on the rows of the person.
    """

    policy: Policy
    rules: tuple[tuple[Clause, Ruled], ...]
    base: tuple[Clause, Ruled] | None
    edges: tuple[int, ...]
    needs_rows: bool


_MAX_REMEMBERED = 4_096
"""Policies whose rules are kept for one requester."""


def _attributes(requester: Requester) -> tuple[object, ...]:
    """Return all that a clause looks at in a requester (:func:`fhir_bridge.consent.matching.concerns`)."""
    who = (requester.institution, requester.institution_id, requester.practitioner, requester.patient)
    return (*who, requester.roles, requester.purpose, requester.groups)


@lru_cache(maxsize=256)
def _memory_of(_attributes: tuple[object, ...]) -> dict[int, _Concerning]:
    """Return what is remembered for requesters with these attributes, by the identity of compiled policies."""
    return {}


def _concerning(policy: Policy, requester: Requester, outgoing: Outgoing) -> _Concerning:
    rules = tuple(
        (clause, (clause.permits, row_predicate(clause, outgoing)))
        for clause in policy.clauses
        if concerns(clause, requester)
    )
    base = None
    if policy.base is not None and concerns(policy.base, requester):
        base = policy.base, (policy.base.permits, row_predicate(policy.base, outgoing))
    edges = _edges_of([rule for rule, _ in (*rules, *((base,) if base else ()))])
    return _Concerning(policy, rules, base, edges, needs_rows(policy))


def _edges_of(rules: Iterable[Clause]) -> tuple[int, ...]:
    periods = (each.period for rule in rules for each in rule.conditions)
    return tuple(edge for period in periods if period is not None for edge in period)


def _around(instant_us: int, edges: Sequence[int]) -> Interval:
    """Return the longest ``[since, until)`` around an instant that no edge divides."""
    since = max((edge for edge in edges if edge <= instant_us), default=_FOREVER[0])
    until = min((edge for edge in edges if edge > instant_us), default=_FOREVER[1])
    return since, until


def _outgoing(rows: Sequence[IndexRow]) -> Outgoing:
    found: dict[str, frozenset[str]] = {}
    for row in rows:
        name = f"{row.type}/{row.id}"
        found[name] = found.get(name, frozenset()).union(row.references)
    return found
