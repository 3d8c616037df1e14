"""Say why a decision about a record came out as it did: which rule of which consent, and what the others said.

For the patient's agent and nobody else: an explanation names consents. The
outcome is always the engine's own (``Decision.permits``); the reason is found by
walking the consents once more, one record at a time, with what the engine
dropped: the place of each rule and its words.

Invariants:
    * an explanation never says another outcome than the decision it is about;
    * a rule is cited only if it matches the request and the record and its consent may say so;
    * an outcome that no rule of a consent accounts for is put down to the decision's basis, never to a consent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from fhir_bridge.consent.attesting import Attestation, attestation_of
from fhir_bridge.consent.facts import ChartFacts
from fhir_bridge.consent.hearing import compiled, counts
from fhir_bridge.consent.lists import ConsentEntry, ConsentList
from fhir_bridge.consent.matching import Outgoing, is_about, row_predicate
from fhir_bridge.consent.policy import Clause, Policy
from fhir_bridge.consent.wording import rule_in_words
from fhir_bridge.model.access import Decision, Predicate, Requester
from fhir_bridge.model.ingest import IndexRow

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WHOLE_CHART = frozenset({"patient", "guardian", "directory", "fail-closed"})
_BEFORE_CONSENT = frozenset({"emergency", "law"})


class Rule(StrEnum):
    """What kind of rule decided; what is none of these is the decision's basis, by its name."""

    PROVISION = "provision"
    BASE_RULE = "base-rule"
    OWN = "own"
    POLICY = "policy"
    DEFAULT = "default-deny"


@dataclass(frozen=True, slots=True)
class Cited:
    """One rule of one consent.

    Attributes:
        by_patient: The patient's own consent; False for one that the institution recorded.
        path: Place in the Consent, as FHIRPath.
        attested_by: Institution on whose word the consent rests; empty for any other.
    """

    consent: str
    version: str
    by_patient: bool
    path: str
    permits: bool
    words: str
    attested_by: str = ""


@dataclass(frozen=True, slots=True)
class Silent:
    """A consent that had no part in the outcome, and why."""

    consent: str
    version: str
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The reason for one outcome.

    Attributes:
        rule: A :class:`Rule`, or the basis of the decision (``patient``, ``directory``, ``law`` …).
        cited: The rules that decided; each of them alone would have.
        overruled: Rules that matched and gave way.
    """

    permits: bool
    rule: str
    cited: tuple[Cited, ...]
    overruled: tuple[Cited, ...]
    silent: tuple[Silent, ...]


@dataclass(frozen=True, slots=True)
class _Live:
    entry: ConsentEntry
    by_patient: bool
    policy: Policy
    word: Attestation | None


@dataclass(frozen=True, slots=True)
class _Voice:
    """A consent and its rules that are about the request, in the order in which they are tried.

    ``only_denies`` says why its permits do not count; empty if they do.
    """

    entry: ConsentEntry
    by_patient: bool
    rules: tuple[tuple[Clause, Predicate | None], ...]
    base: tuple[Clause, Predicate | None] | None
    word: Attestation | None
    only_denies: str


class Reasons:
    """Explains one decision, record by record.

    Args:
        decision: What the engine decided for this requester and chart.
        owner_list: The lists that it decided with.
        is_attested: As the decision was told.
    """

    def __init__(
        self,
        decision: Decision,
        requester: Requester,
        facts: ChartFacts,
        owner_list: ConsentList | None,
        institution_list: ConsentList | None,
        *,
        is_attested: bool = False,
    ) -> None:
        self._is_attested = is_attested
        self._decision = decision
        self._requester = requester
        self._facts = facts
        self._instant_us = (decision.instant - _EPOCH) // timedelta(microseconds=1)
        self._outgoing = _outgoing(facts.rows)
        self._silent: list[Silent] = []
        self._voices = self._heard(owner_list, institution_list)

    def of(self, row: IndexRow) -> Explanation:
        """Return why the record's row may or may not be seen."""
        permits = self._decision.permits(row)
        if self._decision.basis in _WHOLE_CHART or self._requester.patient is not None:
            return Explanation(permits, self._decision.basis, (), (), ())
        silent = {each.consent: each for each in self._silent}
        ruled: list[Cited] = []
        based: list[Cited] = []
        for voice in self._voices:
            rule, is_base = _first(voice, row)
            if rule is None:
                what = "this record" if voice.rules or voice.base else "this requester"
                silent.setdefault(voice.entry.id, _silent(voice.entry, f"says nothing about {what}"))
            elif rule.permits and voice.only_denies:
                silent[voice.entry.id] = _silent(voice.entry, voice.only_denies)
            else:
                (based if is_base else ruled).append(_cited(voice, rule))
        kind, cited = self._accounted(permits, row, ruled, based)
        overruled = tuple(each for each in (*ruled, *based) if each not in cited)
        return Explanation(permits, kind, cited, overruled, tuple(silent[name] for name in sorted(silent)))

    def _accounted(
        self, permits: bool, row: IndexRow, ruled: Sequence[Cited], based: Sequence[Cited]
    ) -> tuple[str, tuple[Cited, ...]]:
        """Return which kind of rule accounts for the outcome, and the rules of that kind."""
        for kind, said in ((Rule.PROVISION, ruled), (Rule.BASE_RULE, based)):
            denials = tuple(each for each in said if not each.permits)
            if denials and not permits:
                return kind, denials
            if denials:
                break
            grants = tuple(each for each in said if each.permits)
            if grants and permits:
                return kind, grants
            if grants:
                break
        if not permits:
            return Rule.DEFAULT, ()
        if self._is_own(row):
            return Rule.OWN, ()
        return (self._decision.basis if self._decision.basis in _BEFORE_CONSENT else Rule.POLICY), ()

    def _is_own(self, row: IndexRow) -> bool:
        name = self._requester.institution
        is_here = name is not None and name == self._facts.chart.institution
        return is_here and row.author == "institution" and row.origin == name

    # --- which consents may say anything

    def _heard(self, owner_list: ConsentList | None, institution_list: ConsentList | None) -> list[_Voice]:
        """Return the consents in force that are understood; of the others tell why they are silent."""
        live = [*self._in_force(owner_list, True), *self._in_force(institution_list, False)]
        unclear = [each for each in live if not each.policy.understood]
        for each in unclear:
            problems = "; ".join(each.policy.problems)
            why = f"is not understood and suspends permits signed before it: {problems}"
            self._silent.append(_silent(each.entry, why))
        suspended_until = max((each.entry.signed_at_us for each in unclear), default=None)
        return [self._voice(each, suspended_until) for each in live if each.policy.understood]

    def _in_force(self, listed: ConsentList | None, by_patient: bool) -> Iterator[_Live]:
        for entry in listed.entries if listed else ():
            policy = compiled(entry.body, self._facts.base_url)
            if entry.status != "active":
                self._silent.append(_silent(entry, f"has status {entry.status}"))
            elif not entry.is_in_force(self._instant_us) or not _contains(policy.valid, self._instant_us):
                self._silent.append(_silent(entry, "is not in force at this time"))
            else:
                yield _Live(entry, by_patient, policy, None if by_patient else attestation_of(entry.body))

    def _voice(self, live: _Live, suspended_until: int | None) -> _Voice:
        """Return what a consent may say to the request; it may not permit if suspended or about other charts."""
        may_permit = True
        if live.by_patient and self._facts.chart.chart not in live.entry.charts:
            may_permit = False
            self._silent.append(
                _silent(live.entry, "was signed before this chart was linked: permits do not reach it")
            )
        elif suspended_until is not None and live.entry.signed_at_us <= suspended_until:
            may_permit = False
            self._silent.append(_silent(live.entry, "has its permits suspended by a consent that is not understood"))
        rules = tuple(
            (clause, row_predicate(clause, self._outgoing))
            for clause in live.policy.clauses
            if self._applies(clause, may_permit)
        )
        base = live.policy.base
        based = None if base is None or not self._applies(base, may_permit) else base
        tested = None if based is None else (based, row_predicate(based, self._outgoing))
        return _Voice(live.entry, live.by_patient, rules, tested, live.word, self._only_denies(live))

    def _only_denies(self, live: _Live) -> str:
        """Say why the permits of a consent do not count; empty if they do."""
        if live.by_patient:
            return ""
        if live.word is None:
            return "was recorded by the institution and can only deny"
        attested = f"was attested by institution {live.word.institution}"
        if live.word.has_ended(self._instant_us):
            return f"{attested} for a guardian whose time is over and can only deny"
        if not self._is_attested or not counts(live.word, self._facts, self._instant_us):
            return f"{attested} and can only deny where network policy or the ledger's state do not let it count"
        return ""

    def _applies(self, clause: Clause, may_permit: bool) -> bool:
        return (may_permit or not clause.permits) and is_about(clause, self._requester, self._instant_us)


def _first(voice: _Voice, row: IndexRow) -> tuple[Clause | None, bool]:
    """Return the rule of a consent that is about the record, and whether it is the base rule."""
    for clause, test in voice.rules:
        if test is None or test(row):
            return clause, False
    if voice.base is not None:
        clause, test = voice.base
        if test is None or test(row):
            return clause, True
    return None, False


def _contains(interval: tuple[int, int], instant_us: int) -> bool:
    return interval[0] <= instant_us < interval[1]


def _cited(voice: _Voice, rule: Clause) -> Cited:
    entry = voice.entry
    word = "" if voice.word is None else voice.word.institution
    return Cited(entry.id, entry.version, voice.by_patient, rule.path, rule.permits, rule_in_words(rule), word)


def _silent(entry: ConsentEntry, why: str) -> Silent:
    return Silent(entry.id, entry.version, why)


def _outgoing(rows: Sequence[IndexRow]) -> Outgoing:
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(f"{row.type}/{row.id}", set()).update(row.references)
    return {name: frozenset(references) for name, references in found.items()}
