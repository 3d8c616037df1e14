"""Why somebody sees a record or does not, and what a change of consent would do: told to the patient's agent alone.

The outcome is that of the very view through which an answer would be made, asked
for in the name of somebody else; the reason comes from ``consent``. Whoever is no
patient's agent gets the answer for a record that does not exist, whatever is named.

Invariants:
    * nothing is told but of charts that the asking patient's own agent sees whole;
    * nothing is stored or signed here but the AuditEvent of the question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from fhir_bridge.consent.explaining import Explanation, Reasons
from fhir_bridge.errors import Issue, NotFound, NotPermitted
from fhir_bridge.lines.audit import AuditLine, Interaction
from fhir_bridge.lines.drafts import Change, Drafts
from fhir_bridge.lines.people import People, Sight
from fhir_bridge.lines.registry import Registry
from fhir_bridge.lines.reply import NO_STORE, Reply
from fhir_bridge.lines.scoping import Params, Scoping, require, within_scopes
from fhir_bridge.lines.signatories import AGENT, GUARDIAN, PAPER
from fhir_bridge.lines.telling import Difference, Judged, difference_report, person_report, record_report
from fhir_bridge.model.access import Found, Requester
from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.ports.ambient import Clock, Randomness
from fhir_bridge.query import QueryRefused, read

AGENTS_OWN = "agents-own"
"""The rule that what a patient's agent or guardian wrote is for that patient only."""

PAPERS = "attested-paper"
"""The rule that a signed paper is for the patient and the institution that has it only."""

_ASKER = frozenset({"institution", "practitioner", "purpose", "role"})


class Decisions:
    """Answers ``$explain`` and ``$simulate``."""

    def __init__(
        self,
        *,
        people: People,
        scoping: Scoping,
        registry: Registry,
        audit: AuditLine,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._people = people
        self._scoping = scoping
        self._registry = registry
        self._audit = audit
        self._clock = clock
        self._drafts = Drafts(people=people, registry=registry, randomness=randomness)

    async def explain(self, who: Requester, type_name: str, record_id: str, params: Params) -> Reply:
        """Tell which rule decides on one record for a requester, or for every institution.

        Raises:
            NotFound: The asker is no patient's agent, or the patient has no such record.
            QueryRefused: A parameter is unknown or names nobody.
        """
        require(who, type_name, "read")
        now = self._clock.now()
        await self._patients_only(who, Interaction("explain", type_name, record_id), now)
        require(who, "Consent", "read")
        askers = self._askers(params, _ASKER)
        sight, canonical = await self._scoping.of_record(who, type_name, record_id, now)
        found = read(sight.view, type_name, canonical)
        shown = () if found is None or found.row.deleted else (found,)
        await self._audit.record(who, Interaction("explain", type_name, canonical, params), sight, shown, now)
        if not shown:
            raise NotFound
        told = [(asker, await self._judge(asker, sight, shown, now)) for asker in askers]
        return Reply(200, record_report(f"{type_name}/{canonical}", told), NO_STORE)

    async def explain_person(self, who: Requester, patient: str, params: Params) -> Reply:
        """Tell for all records of the asking patient by which rules they are open or closed, counted by type."""
        sight, canonical, now = await self._person(who, patient, "explain", params)
        askers = self._askers(params, _ASKER)
        told = [(asker, await self._judge(asker, sight, _current(sight), now)) for asker in askers]
        return Reply(200, person_report(f"Patient/{canonical}", told), NO_STORE)

    async def simulate(self, who: Requester, patient: str, params: Params, draft: bytes = b"") -> Reply:
        """Tell what a requester sees now and, given a draft Consent or a ``revoke``, what that would change.

        Raises:
            RecordRefused: The draft is no valid Consent about this patient.
            NotPermitted: An attested guardian asks about a change.
        """
        if who.attested_by is not None and (draft or any(name == "revoke" for name, _ in params)):
            # What a guardian signs goes to another list than the one that is simulated.
            raise NotPermitted("changes are simulated for the patient's own agent and its delegates")
        sight, canonical, now = await self._person(who, patient, "simulate", params)
        askers = self._askers(params, _ASKER | {"revoke"})
        revoked = [value for name, value in params if name == "revoke"]
        change = await self._drafts.change(who, sight.charts, draft, revoked, now)
        told = [(asker, await self._compare(asker, sight, change, now)) for asker in askers]
        return Reply(200, difference_report(f"Patient/{canonical}", told), NO_STORE)

    async def _person(
        self, who: Requester, patient: str, operation: str, params: Params
    ) -> tuple[Sight, str, datetime]:
        """Return what the asking patient's agent sees of its own person."""
        require(who, "Patient", "everything")
        now = self._clock.now()
        await self._patients_only(who, Interaction(operation, "Patient", patient), now)
        require(who, "Consent", "read")
        sight, canonical = await self._scoping.of_person(who, patient, now, None)
        sight = within_scopes(who, sight)
        asked = Interaction(operation, "Patient", canonical or patient, params)
        await self._audit.record(who, asked, sight, _current(sight), now)
        if canonical is None:
            raise NotFound
        return sight, canonical, now

    async def _patients_only(self, who: Requester, asked: Interaction, now: datetime) -> None:
        """Answer an institution before anything is looked up: its answer cannot depend on what there is."""
        if who.patient is None:
            await self._audit.record(who, asked, await self._people.view(who, [], instant=now), (), now)
            raise NotFound

    async def _judge(self, asker: Requester, own: Sight, found: Sequence[Found], now: datetime) -> list[Judged]:
        seen = await self._people.view(asker, own.charts, instant=now)
        return await asyncio.to_thread(_judged, asker, seen, found)

    async def _compare(self, asker: Requester, own: Sight, change: Change | None, now: datetime) -> Difference:
        sees = await self._people.view(asker, own.charts, instant=now)
        names = own.view.current.keys()
        before = frozenset(sees.view.current.keys() & names)
        if change is None:
            return Difference(before, None)
        would = await self._people.view(asker, own.charts, instant=now, revised=change)
        return Difference(before, frozenset(would.view.current.keys() & names))

    def _askers(self, params: Params, known: frozenset[str]) -> list[Requester]:
        """Return whom the question is about; without ``institution`` a requester of each."""
        for name, _ in params:
            if name not in known:
                raise QueryRefused([Issue("error", "not-supported", "this operation takes no such parameter")])
        for name in ("institution", "practitioner", "purpose"):
            if sum(each == name for each, _ in params) > 1:
                raise QueryRefused([Issue("error", "not-supported", f"name one {name} at a time", name)])
        given = dict(params)
        listed = sorted(self._registry.institutions.values(), key=lambda each: each.name)
        chosen = [each for each in listed if given.get("institution") in (None, each.name, each.id)]
        if not chosen:
            raise QueryRefused([Issue("error", "not-found", "there is no such institution", "institution")])
        asker = Requester(
            client_id="",
            practitioner=given.get("practitioner", "").removeprefix("Practitioner/") or None,
            roles=tuple(role for name, value in params if name == "role" for role in value.split()),
            purpose=given.get("purpose") or "TREAT",
        )
        return [replace(asker, institution=each.name, institution_id=each.id) for each in chosen]


def _current(sight: Sight) -> list[Found]:
    return [Found(chart.chart, row) for chart, row in sight.view.current.values()]


def _judged(asker: Requester, seen: Sight, found: Sequence[Found]) -> list[Judged]:
    decisions = {each.chart: each for each in seen.decisions}
    reasons = {
        grounds.facts.chart.chart: Reasons(
            decisions[grounds.facts.chart.chart],
            asker,
            grounds.facts,
            grounds.lists.owner,
            grounds.lists.institution,
            is_attested=grounds.lists.is_attested,
        )
        for grounds in seen.grounds
    }
    return [Judged(each.row, decisions[each.chart], _why(each.row, reasons[each.chart])) for each in found]


def _why(row: IndexRow, reasons: Reasons) -> Explanation:
    why = reasons.of(row)
    rule = {AGENT: AGENTS_OWN, GUARDIAN: AGENTS_OWN, PAPER: PAPERS}.get(row.author)
    return why if rule is None else Explanation(why.permits, rule, (), (), ())
