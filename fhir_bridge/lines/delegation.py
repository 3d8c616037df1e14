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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from fhir_bridge.errors import Issue, NotFound, NotPermitted, RecordRefused
from fhir_bridge.fhir.dates import interval
from fhir_bridge.fhir.json import NotStrictJson, parse, render
from fhir_bridge.lines.audit import AuditLine
from fhir_bridge.lines.clients import Clients
from fhir_bridge.lines.people import People
from fhir_bridge.lines.reply import NO_STORE, Reply
from fhir_bridge.model.access import Requester
from fhir_bridge.model.clients import Client, ClientKind, Jwk
from fhir_bridge.model.ingest import ChartRef
from fhir_bridge.model.scopes import PATIENT_SCOPES, ScopeUnknown, is_within, parse_scopes
from fhir_bridge.ports.ambient import Clock, Randomness
from fhir_bridge.proof import delegation_event

MAX_DELEGATES: Final = 32
"""Active ones of one patient; more than a family and its advisers."""

_MAX_YEARS_S: Final = 5 * 366 * 86_400
_SECRETS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_PARAMETERS: Final = frozenset({"name", "key", "scope", "from", "until"})


@dataclass(frozen=True, slots=True)
class _Wish:
    name: str
    key: Jwk
    scopes: tuple[str, ...]
    period_s: tuple[int, int]
    texts: dict[str, str]


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
        wish = self._wish(body)
        async with self._changing:
            now = self._clock.now()
            active = [each for each in self._clients.delegates(str(who.patient)) if each.may_act(now.timestamp())]
            if len(active) >= MAX_DELEGATES:
                raise _refused(f"at most {MAX_DELEGATES} delegates act for one patient")
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
        return _parameters(client_id=client.client_id, delegate=delegate)

    async def end(self, who: Requester, patient: str, body: bytes) -> Reply:
        """End a delegation at once, tokens in hand included; ending it twice changes nothing.

        Raises:
            NotPermitted: Not the patient's own agent.
            NotFound: Another patient, or no delegate of this one.
        """
        charts = self._own_charts(who, patient)
        delegate = _given(body, frozenset({"delegate"})).get("delegate")
        async with self._changing:
            known = [each for each in self._clients.delegates(str(who.patient)) if each.delegate == delegate]
            if not known:
                raise NotFound
            for client in (each for each in known if each.is_active):
                # Ended first: should the notice fail, the delegate is out all the same.
                await self._clients.add(replace(client, is_active=False))
                await self._tell(who, charts, {"delegate": str(delegate), "ended": "true"})
        return _parameters(delegate=str(delegate))

    def _own_charts(self, who: Requester, patient: str) -> list[ChartRef]:
        if who.patient is None or who.delegate is not None:
            raise NotPermitted("only a patient's own agent names or ends delegates")
        charts = list(self._people.person_of(who, patient))
        if not any(chart.patient_id == who.patient for chart in charts):
            raise NotFound
        return charts

    async def _tell(self, who: Requester, charts: list[ChartRef], told: dict[str, str]) -> None:
        now = self._clock.now()
        await self._audit.note(
            who, charts, lambda chart, name: delegation_event(who, now, chart, told, event_id=name)
        )

    def _wish(self, body: bytes) -> _Wish:
        given = _given(body, _PARAMETERS)
        missing = sorted(_PARAMETERS - {"from"} - given.keys())
        if missing:
            raise _refused(f"missing: {', '.join(missing)}")
        start, end = self._period(given)
        key = _public_key(given["key"])
        if not self._is_usable(key):
            raise _refused("key must be the JSON Web Key of a public signature key with a kid")
        name, scopes = given["name"].strip(), _scopes(given["scope"])
        if not 1 <= len(name) <= 200:
            raise _refused("name must have 1 to 200 characters")
        texts = {"name": name, "scope": " ".join(scopes), "from": given.get("from", "now"), "until": given["until"]}
        return _Wish(name, key, scopes, (start, end), texts)

    def _period(self, given: Mapping[str, str]) -> tuple[int, int]:
        now_s = int(self._clock.now().timestamp())
        first, last = interval(given["from"]) if "from" in given else (now_s * 1_000_000, 0), interval(given["until"])
        if first is None or last is None:
            raise _refused("from and until must be dates")
        start, end = first[0] // 1_000_000, last[1] // 1_000_000
        if not max(start, now_s) < end <= now_s + _MAX_YEARS_S:
            raise _refused("until must lie in the future, after from, within five years")
        return start, end


def _scopes(text: str) -> tuple[str, ...]:
    try:
        asked = parse_scopes(text)
    except ScopeUnknown as error:
        raise _refused(str(error)) from error
    if not asked or not is_within(asked, parse_scopes(" ".join(PATIENT_SCOPES))):
        raise _refused("scope must be within what a patient's agent may do")
    return tuple(text.split())


def _public_key(text: str) -> Jwk:
    try:
        key = parse(text.encode())
    except NotStrictJson as error:
        raise _refused("key must be a JSON Web Key") from error
    if _SECRETS & key.keys():
        raise _refused("key holds a private part, which is no longer secret now: make another one")
    return key


def _given(body: bytes, known: frozenset[str]) -> dict[str, str]:
    listed = parse(body).get("parameter")
    given: dict[str, str] = {}
    for item in listed if isinstance(listed, list) else ():
        name: Any = item.get("name") if isinstance(item, dict) else None
        if name not in known or name in given or not isinstance(item.get("valueString"), str):
            raise _refused(f"parameters are {', '.join(sorted(known))}, each once, as valueString")
        given[name] = item["valueString"]
    return given


def _parameters(**values: str) -> Reply:
    listed = [{"name": name, "valueString": value} for name, value in values.items()]
    return Reply(200, render({"resourceType": "Parameters", "parameter": listed}), NO_STORE)


def _refused(problem: str) -> RecordRefused:
    return RecordRefused([Issue("error", "invalid", problem, "Parameters.parameter")])
