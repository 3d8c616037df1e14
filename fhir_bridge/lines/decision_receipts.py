"""Receipts of decisions: the requester's, which shows no grounds, and the opening, which the patient hands on.

Both lead to one commitment. A receipt is there once the epoch of the decision
is on the ledger; until then the answer says when to come back.

Invariants:
    * a receipt goes only to whoever asked, an opening only to the patient of a chart that was looked at;
    * an id that names nothing and one that names another's decision get one answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from fhir_bridge.consent import NetworkPolicies
from fhir_bridge.errors import IntegrityBroken, Issue, NotFound, NotPermitted, NotYet
from fhir_bridge.fhir.json import render
from fhir_bridge.lines.audit import AuditLine, Interaction
from fhir_bridge.lines.decided import DecisionBook, Held, StoredDecision, owner_of, place_in
from fhir_bridge.lines.decision_opening import opened_chart, opening_text
from fhir_bridge.lines.grant import GrantLine
from fhir_bridge.lines.notary import Notary
from fhir_bridge.lines.people import People
from fhir_bridge.lines.registry import OPERATOR, Registry
from fhir_bridge.lines.reply import NO_STORE, Reply
from fhir_bridge.lines.scoping import Params, require
from fhir_bridge.model.access import Requester
from fhir_bridge.model.ingest import ChartRef
from fhir_bridge.model.scopes import readable_types
from fhir_bridge.ports.ambient import Clock, Randomness
from fhir_bridge.ports.keys import KeyKind, KeyName, KeyStore
from fhir_bridge.ports.vault import Document, Vault, Work
from fhir_bridge.proof.decision import GROUNDS, SHOWN, ChartGrounds
from fhir_bridge.query import QueryRefused
from fhir_bridge.seal import open_blob, seal_blob
from ledger_core import Opening

_POLICIES = "policies-past"
_DEFAULT_COUNT = 50
_MAX_COUNT = 1_000
_SOON_S = 1


class DecisionReceipts:
    """Answers ``$decision-receipt``, ``$decisions`` and ``$decision-opening``."""

    def __init__(
        self,
        *,
        vault: Vault,
        keys: KeyStore,
        registry: Registry,
        people: People,
        grant: GrantLine,
        audit: AuditLine,
        notary: Notary,
        clock: Clock,
        randomness: Randomness,
        book: DecisionBook,
    ) -> None:
        self._vault = vault
        self._keys = keys
        self._registry = registry
        self._people = people
        self._grant = grant
        self._audit = audit
        self._notary = notary
        self._clock = clock
        self._randomness = randomness
        self._book = book

    async def keep(self, policies: NetworkPolicies) -> None:
        """Keep the network's policies by their digest, for decisions that rest on them; called at start."""
        name = policies.version
        if await self._vault.document(_POLICIES, name) is None:
            sealed = seal_blob(self._key(), _POLICIES, name, policies.content, self._randomness)
            await self._vault.commit(Work(documents=[Document(_POLICIES, name, sealed)]), None)

    async def receipt(self, who: Requester, params: Params) -> Reply:
        """Answer ``GET [base]/AuditEvent/$decision-receipt?request=ID`` for whoever got that answer.

        Raises:
            NotFound: No decision of this requester has that id.
            NotYet: Its epoch is not on the ledger.
        """
        decision_id, now = _only(params), self._clock.now()
        await self._record(who, Interaction("decision-receipt", "AuditEvent", query=params), now)
        held = await self._book.find(decision_id)
        if held.stored.owner != owner_of(who):
            raise NotFound
        text = await self._receipt(held.stored, held.stored.opening.sealing(GROUNDS))
        return Reply(200, text.encode(), NO_STORE, "application/json")

    async def listed(self, who: Requester, patient: str, params: Params) -> Reply:
        """Answer ``GET [base]/Patient/ID/$decisions``: who asked about the patient, and what came of it.

        Raises:
            NotFound: The asker is not this patient's agent.
            NotPermitted: A guardian asks who may not know of the person's other charts.
        """
        count = _count(params)
        charts = await self._own(who, patient, Interaction("decisions", "Patient", patient, params))
        told = []
        for decision_id in (await self._book.of_charts(charts))[:count]:
            held = await self._book.find(decision_id)
            opened = [grounds for _, _, _, grounds in self._opened(held, charts)]
            if opened:
                told.append(_told(held.stored, opened))
        return Reply(200, render({"resourceType": "Parameters", "parameter": told}), NO_STORE)

    async def opening(self, who: Requester, patient: str, params: Params) -> Reply:
        """Answer ``GET [base]/Patient/ID/$decision-opening?request=ID`` with what the decision rested on.

        Raises:
            NotFound: The asker is not this patient's agent, or the decision is about nobody of hers.
            NotPermitted: A delegate's scopes leave types out, or a guardian may not know of all charts.
            NotYet: Its epoch is not on the ledger.
        """
        decision_id = _only(params)
        charts = await self._own(who, patient, Interaction("decision-opening", "Patient", patient, params))
        if not readable_types(who)("*"):
            raise NotPermitted("an opening tells of records of all types: the token's scopes do not allow that")
        held = await self._book.find(decision_id)
        opened = self._opened(held, charts)
        if not opened:
            raise NotFound
        stored = held.stored
        receipt = await self._receipt(stored, stored.opening.sealing(SHOWN))
        told = [await self._chart(*each, reached=charts) for each in opened]
        text = await asyncio.to_thread(opening_text, receipt, stored.grounds, told)
        return Reply(200, text, NO_STORE, "application/json")

    async def _own(self, who: Requester, patient: str, asked: Interaction) -> list[ChartRef]:
        """Return the asking patient's charts; an institution is answered before anything is looked up."""
        await self._record(who, asked, self._clock.now())
        if who.patient is None:
            raise NotFound
        if not self._people.reaches_person(who):
            # Questions name the Patient by whichever id, and grounds name all that were linked.
            raise NotPermitted("decisions are about all charts of a person; this guardian acts for one of them")
        require(who, "AuditEvent", "search")
        require(who, "Consent", "read")
        charts = [chart for chart in self._people.own_person(who, patient) if chart.patient_id is not None]
        if not charts:
            raise NotFound
        return charts

    async def _record(self, who: Requester, asked: Interaction, now: datetime) -> None:
        await self._audit.record(who, asked, await self._people.view(who, [], instant=now), (), now)

    def _opened(self, held: Held, charts: list[ChartRef]) -> list[tuple[ChartRef, bytes, bytes, ChartGrounds]]:
        found = []
        for chart in charts:
            opened = self._book.chart_of(held, chart)
            if opened is not None:
                salt, content = opened
                found.append((chart, salt, content, ChartGrounds.decode(content)))
        return found

    async def _receipt(self, stored: StoredDecision, opening: Opening) -> str:
        anchored = await self._book.anchored(stored)
        if anchored is None:
            raise NotYet("the decision is not on the ledger yet", self._audit.retry_after_s)
        index = self._notary.position_of(anchored.envelope)
        if index is None:
            raise NotYet("the decision is on its way to the ledger", _SOON_S)
        place, path = await asyncio.to_thread(place_in, anchored, opening.commitment())
        return self._notary.record_receipt(opening, batch_index=place, batch_path=path, index=index)

    async def _chart(
        self, chart: ChartRef, salt: bytes, content: bytes, grounds: ChartGrounds, *, reached: Sequence[ChartRef]
    ) -> dict[str, Any]:
        """Return a chart's part of an opening; of other charts it tells only where they are the asker's now."""
        lists = [None if name is None else await self._grant.past.find(chart, name) for name in grounds.lists]
        sealed = await self._vault.document(_POLICIES, grounds.policies.hex())
        if sealed is None:
            raise IntegrityBroken("the policies that a decision rested on are not in the vault")
        policies = open_blob(self._key(), _POLICIES, grounds.policies.hex(), sealed)
        own = await self._people.past_rows(chart, grounds.batch)
        every = [
            row
            for patient in grounds.linked
            if (linked := self._registry.chart_of_patient(patient)) in reached and linked is not None
            for row in await self._people.past_rows(linked, grounds.batch)
        ]
        states = (
            None
            if grounds.path is None
            else self._notary.past_state_receipt("consent", grounds.path, grounds.height),
            self._notary.past_state_receipt("policy", grounds.policies, grounds.height),
        )
        return opened_chart(salt, content, grounds, lists, policies, own, every, states)

    def _key(self) -> bytes:
        name = KeyName(KeyKind.INSTITUTION, OPERATOR, _POLICIES)
        return self._keys.ensure([name])[name]


def _only(params: Params) -> str:
    if [name for name, _ in params] != ["request"]:
        problem = "name one decision: request=ID, the X-Request-Id of the answer"
        raise QueryRefused([Issue("error", "required", problem, "request")])
    return params[0][1]


def _count(params: Params) -> int:
    if not params:
        return _DEFAULT_COUNT
    name, value = params[0]
    if len(params) > 1 or name != "_count" or not (value.isascii() and value.isdecimal() and len(value) < 8):
        raise QueryRefused([Issue("error", "not-supported", "this operation takes _count and nothing else")])
    return min(int(value), _MAX_COUNT)


def _told(stored: StoredDecision, charts: list[ChartGrounds]) -> dict[str, Any]:
    """Return what the patient is told of one decision; ``outcome`` is about her charts alone."""
    first = charts[0]
    who = first.requester
    shown = [f"{kind}/{name}/_history/{version}" for each in charts for kind, name, version in each.shown]
    withheld = [f"{kind}/{name}" for each in charts for kind, name in each.withheld]
    parts: list[dict[str, Any]] = [
        {"name": "request", "valueString": stored.id},
        {"name": "instant", "valueInstant": stored.facts["instant"]},
        {"name": "outcome", "valueCode": "permit" if shown else "deny"},
        {"name": "asked", "valueString": first.request.decode("utf-8", "replace")},
        {"name": "purpose", "valueString": who.purpose},
    ]
    if who.institution_id:
        parts.append({"name": "institution", "valueReference": {"reference": f"Organization/{who.institution_id}"}})
    for name, value in (("practitioner", who.practitioner), ("delegate", who.delegate), ("agent-of", who.patient)):
        if value:
            parts.append({"name": name, "valueString": value})
    parts += [{"name": "shown", "valueReference": {"reference": each}} for each in shown]
    parts += [{"name": "withheld", "valueReference": {"reference": each}} for each in withheld]
    return {"name": "decision", "part": parts}
