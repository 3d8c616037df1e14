"""Delegates: whom a patient lets act in an own name, with an own key, for a scope and a period.

For the HTTP entrance. A delegate's private key never comes here. What a
delegate reads is recorded, and what a delegate writes is stored, under the
delegate's id; the notice in the patient's charts ties it to a name.

Invariants:
    * only the patient's own agent names and ends delegates: a delegate names nobody;
    * a delegate may do nothing that a patient's agent may not, and nothing outside the period;
    * the notice is durable before a delegate can act; an end counts from the answer on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from fhir_bridge.errors import NotFound, NotPermitted
from fhir_bridge.lines.audit import AuditLine
from fhir_bridge.lines.clients import Clients
from fhir_bridge.lines.mandates import MANDATE_PARAMETERS, read_mandate, read_texts, refused, told
from fhir_bridge.lines.people import People
from fhir_bridge.lines.reply import Reply
from fhir_bridge.model.access import Requester
from fhir_bridge.model.clients import Client, ClientKind, Jwk
from fhir_bridge.model.ingest import ChartRef
from fhir_bridge.ports.ambient import Clock, Randomness
from fhir_bridge.proof import delegation_event

MAX_DELEGATES: Final = 32
"""Active ones of one patient; more than a family and its advisers."""

_MAX_YEARS: Final = 5


class DelegationLine:
    """Answers ``Patient/ID/$delegate`` and ``Patient/ID/$end-delegation``."""

    def __init__(
        self,
        *,
        clients: Clients,
        people: People,
        audit: AuditLine,
        clock: Clock,
        randomness: Randomness,
        is_usable: Callable[[Jwk], bool],
    ) -> None:
        self._clients = clients
        self._people = people
        self._audit = audit
        self._clock = clock
        self._randomness = randomness
        self._is_usable = is_usable
        self._changing = asyncio.Lock()

    async def name(self, who: Requester, patient: str, body: bytes) -> Reply:
        """Register a delegate of the patient who asks; answer with its client id and its id.

        Raises:
            NotPermitted: Not the patient's own agent.
            NotFound: Another patient.
            RecordRefused: Name, key, scope or period are missing or cannot be.
        """
        charts = self._own_charts(who, patient)
        given = read_texts(body, MANDATE_PARAMETERS)
        wish = read_mandate(given, self._clock.now(), self._is_usable, max_years=_MAX_YEARS)
        async with self._changing:
            now = self._clock.now()
            active = [each for each in self._clients.delegates(str(who.patient)) if each.may_act(now.timestamp())]
            if len(active) >= MAX_DELEGATES:
                raise refused(f"at most {MAX_DELEGATES} delegates act for one patient")
            delegate = self._randomness.token(16).hex()
            client = Client(
                client_id=f"delegate-{self._randomness.token(12).hex()}",
                kind=ClientKind.PATIENT,
                keys=(wish.key,),
                scopes=wish.scopes,
                patient=who.patient,
                delegate=delegate,
                period_s=wish.period_s,
            )
            await self._tell(who, charts, {"delegate": delegate, **wish.texts})
            await self._clients.add(client)
        return told(client_id=client.client_id, delegate=delegate)

    async def end(self, who: Requester, patient: str, body: bytes) -> Reply:
        """End a delegation at once, tokens in hand included; ending it twice changes nothing.

        Raises:
            NotPermitted: Not the patient's own agent.
            NotFound: Another patient, or no delegate of this one.
        """
        charts = self._own_charts(who, patient)
        delegate = read_texts(body, frozenset({"delegate"})).get("delegate")
        async with self._changing:
            known = [each for each in self._clients.delegates(str(who.patient)) if each.delegate == delegate]
            if not known:
                raise NotFound
            for client in (each for each in known if each.is_active):
                # Ended first: should the notice fail, the delegate is out all the same.
                await self._clients.add(replace(client, is_active=False))
                await self._tell(who, charts, {"delegate": str(delegate), "ended": "true"})
        return told(delegate=str(delegate))

    def _own_charts(self, who: Requester, patient: str) -> list[ChartRef]:
        if who.patient is None or who.delegate is not None:
            raise NotPermitted("only a patient's own agent names or ends delegates")
        charts = list(self._people.person_of(who, patient))
        if not any(chart.patient_id == who.patient for chart in charts):
            raise NotFound
        return charts

    async def _tell(self, who: Requester, charts: list[ChartRef], texts: dict[str, str]) -> None:
        now = self._clock.now()
        await self._audit.note(
            who, charts, lambda chart, name: delegation_event(who, now, chart, texts, event_id=name)
        )
