"""All that one chart's decision depends on, as a value, and the one function from it to the decision.

For the answer line, which gathers the inputs, and for whoever re-runs a decision
later from what was opened to them: both call :func:`judge`, so that the same
inputs give the same outcome on any node.

Invariants:
    * what is not in :class:`Inputs` has no part in a decision;
    * lists that the ledger does not vouch for open nothing to anybody but the patient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from fhir_bridge.consent.deciding import EVALUATOR, decide
from fhir_bridge.consent.facts import ChartFacts
from fhir_bridge.consent.lists import ConsentList
from fhir_bridge.consent.remembering import Memory, by_body
from fhir_bridge.fhir.json import parse
from fhir_bridge.model.access import Decision, Predicate, Requester
from fhir_bridge.model.ingest import IndexRow

FAIL_CLOSED: Final = "fail-closed"
"""Basis of a decision on lists that do not have the hashes the ledger holds."""

_AGENT: Final = "agent"
_GUARDIAN: Final = "guardian"
_PAPER: Final = "paper"

_OF_PERSON = Memory[ConsentList](65_536)
_NARROWED = Memory[ConsentList](4_096)
"""Each by the lists it was made of; the weight is that of a list (:attr:`ConsentList.weight`)."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is known when a chart is judged.

    Attributes:
        owner: The patient's list whose hash the ledger holds at ``height``; None if the path was never opened.
        institution: What the chart's institution recorded, vouched for or merely kept (:func:`narrowed`).
        is_sound: Both lists have the hashes that the ledger holds.
        is_attested: The ledger says that the institution attested its list as it is.
        in_emergency: Emergency access to this chart was open to the requester.
        instant: Aware UTC.
    """

    requester: Requester
    facts: ChartFacts
    owner: ConsentList | None
    institution: ConsentList | None
    is_sound: bool
    is_attested: bool
    in_emergency: bool
    instant: datetime
    height: int


def judge(inputs: Inputs) -> Decision:
    """Return the decision on one chart, what was signed in the patient's name being kept from everybody else."""
    who, facts = inputs.requester, inputs.facts
    if not inputs.is_sound and (who.patient is None or who.attested_by is not None):
        version = facts.network.version
        return Decision(
            facts.chart.chart, _nothing, inputs.height, EVALUATOR, inputs.instant, (), FAIL_CLOSED, version
        )
    owner = None if inputs.owner is None else of_person(inputs.owner, facts.patients)
    decision = decide(
        who,
        facts,
        owner,
        inputs.institution,
        instant=inputs.instant,
        height=inputs.height,
        in_emergency=inputs.in_emergency,
        is_attested=inputs.is_attested,
    )
    if who.patient is not None:
        return decision
    return replace(decision, permits=_not_of_agents(_not_of_signed(who, decision.permits)))


def of_person(listed: ConsentList, patients: frozenset[str]) -> ConsentList:
    """Leave out what was signed for somebody whose link to this chart has been undone since.

    The same list and patients give the same object, and a list of which nothing is left out is returned as it is:
    what is remembered of lists is found by their identity.
    """
    entries = listed.entries
    found = _OF_PERSON.find((entries,), patients)
    if found is None:
        left = tuple(entry for entry in entries if _subject(entry.body) in patients)
        found = listed if len(left) == len(entries) else ConsentList(left)
        _OF_PERSON.keep((entries,), patients, found, weight=1 + listed.weight)
    return found


def narrowed(listed: ConsentList | None, kept: ConsentList | None) -> ConsentList | None:
    """Return an institution's list together with what it recorded before the chart's path was opened."""
    if kept is None or listed is None:
        return listed if kept is None else kept
    same = (listed.entries, kept.entries)
    found = _NARROWED.find(same, None)
    if found is None:
        found = listed
        for entry in kept.entries:
            found = found.with_entry(entry)
        _NARROWED.keep(same, None, found, weight=1 + found.weight)
    return found


@by_body
def _subject(consent: bytes) -> str:
    """Return the Patient id that a stored Consent is about; checked when it was taken."""
    reference = parse(consent).get("patient", {}).get("reference", "")
    return str(reference).removeprefix("Patient/")


def _not_of_agents(permits: Predicate) -> Predicate:
    """Keep what a patient's agent wrote from everybody else: a consent's text names what it hides."""
    return lambda row: row.author != _AGENT and permits(row)


def _not_of_signed(who: Requester, permits: Predicate) -> Predicate:
    """Keep what guardians signed from everybody else too, and a paper from all but the institution that has it."""

    def permitted(row: IndexRow) -> bool:
        if row.author == _PAPER:
            return row.origin == who.institution
        return row.author != _GUARDIAN and permits(row)

    return permitted


def _nothing(_: IndexRow) -> bool:
    return False
