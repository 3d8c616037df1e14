"""Emergency access: who opens it, for how long, and what tells the patient.

For the HTTP entrance, and for the people line, which asks :meth:`Emergencies.is_open`
at each decision. It is opened on a Patient id with a stated reason, whatever
stands behind that id: one that hides everything and one that nobody uses are
answered alike.

Invariants:
    * nothing is open before the patient's notice is durable (42 CFR 2.51(c): who,
      when, which institution, nature of the emergency);
    * it holds for the same client, practitioner and charts, with the role and an
      emergency purpose in the token of each request, and ends with its time box;
    * a refusal depends on token and body alone, never on the patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from fhir_bridge.consent import EMERGENCIES, EmergencyRules
from fhir_bridge.errors import Issue, NotPermitted, RecordRefused
from fhir_bridge.fhir.json import parse, render
from fhir_bridge.lines.audit import AuditLine
from fhir_bridge.lines.people import People
from fhir_bridge.lines.registry import OPERATOR, Registry
from fhir_bridge.lines.reply import NO_STORE, Reply
from fhir_bridge.lines.scoping import require
from fhir_bridge.lines.versions import microseconds
from fhir_bridge.model.access import Requester
from fhir_bridge.model.ingest import ChartRef, instant
from fhir_bridge.ports.ambient import Clock, Randomness
from fhir_bridge.ports.keys import KeyKind, KeyName, KeyStore
from fhir_bridge.ports.vault import Document, Vault, Work
from fhir_bridge.proof import Emergency, emergency_event
from fhir_bridge.seal import open_blob, seal_blob

_COLLECTION: Final = "emergencies"
_NOBODY: Final = "none"
_MAX_REASON_CHARS: Final = 2_000
_MIN_REASON_CHARS: Final = 8


class _Opened(msgspec.Struct, frozen=True):
    """For whom a chart was opened, and until when (µs since 1970, UTC)."""

    client_id: str
    practitioner: str
    until_us: int


class Emergencies:
    """What is open now; kept sealed in the vault, so that a restart neither ends nor prolongs it."""

    def __init__(
        self, *, vault: Vault, keys: KeyStore, registry: Registry, randomness: Randomness, rules: EmergencyRules
    ) -> None:
        self._vault = vault
        self._keys = keys
        self._registry = registry
        self._randomness = randomness
        self._rules = rules
        self._open: dict[tuple[str, str, str], int] = {}

    async def load(self, now: datetime) -> None:
        """Read what is still open and drop what has run out; called once at start."""
        ended = []
        for place, value in await self._vault.documents(_COLLECTION):
            chart_id, _, _ = place.partition("/")
            chart = self._registry.chart(chart_id)
            key = self._nobodys_key() if chart is None else self._registry.chart_key(chart)
            opened = msgspec.json.decode(open_blob(key, _COLLECTION, place, value), type=_Opened)
            if opened.until_us <= microseconds(now):
                ended.append(Document(_COLLECTION, place, None))
            elif chart is not None:
                self._hold(chart_id, opened)
        if ended:
            await self._vault.commit(Work(documents=ended), None)

    def is_entitled(self, who: Requester) -> bool:
        """Tell whether a token may ask for emergency access at all: practitioner, role and purpose."""
        return (
            who.institution is not None
            and who.practitioner is not None
            and who.purpose.rpartition("|")[2] in EMERGENCIES
            and not self._rules.roles.isdisjoint(who.roles)
        )

    def is_open(self, who: Requester, chart: str, now: datetime) -> bool:
        """Tell whether this requester has opened a chart and the time box has not run out."""
        until_us = self._open.get((who.client_id, who.practitioner or "", chart))
        return until_us is not None and microseconds(now) < until_us and self.is_entitled(who)

    async def open(self, who: Requester, charts: Sequence[ChartRef], until: datetime) -> None:
        """Open charts; durable on return. Without any chart as much is written, which opens nothing."""
        opened = _Opened(who.client_id, who.practitioner or "", microseconds(until))
        number = self._randomness.token(16).hex()
        places = [(f"{chart.chart}/{number}", self._registry.chart_key(chart)) for chart in charts]
        places = places or [(f"{_NOBODY}/{number}", self._nobodys_key())]
        content = msgspec.json.encode(opened)
        documents = [
            Document(_COLLECTION, place, seal_blob(key, _COLLECTION, place, content, self._randomness))
            for place, key in places
        ]
        await self._vault.commit(Work(documents=documents), None)
        for chart in charts:
            self._hold(chart.chart, opened)

    def _hold(self, chart: str, opened: _Opened) -> None:
        name = (opened.client_id, opened.practitioner, chart)
        self._open[name] = max(opened.until_us, self._open.get(name, 0))

    def _nobodys_key(self) -> bytes:
        name = KeyName(KeyKind.INSTITUTION, OPERATOR, _COLLECTION)
        return self._keys.ensure([name])[name]


@dataclass(frozen=True, slots=True)
class _Wish:
    reason: str
    minutes: int


class EmergencyLine:
    """Answers ``Patient/ID/$emergency-access``."""

    def __init__(
        self, *, emergencies: Emergencies, people: People, audit: AuditLine, clock: Clock, rules: EmergencyRules
    ) -> None:
        self._emergencies = emergencies
        self._people = people
        self._audit = audit
        self._clock = clock
        self._rules = rules

    async def open(self, who: Requester, patient: str, body: bytes) -> Reply:
        """Open all charts of a person to the requester, after the patient's notice is durable.

        Raises:
            NotPermitted: The token states no practitioner, no role that counts or no emergency as its purpose.
            RecordRefused: The body states no reason, or a longer time than the network allows.
            Unavailable: Nothing is open; safe to retry.
        """
        require(who, "Patient", "everything")
        if not self._emergencies.is_entitled(who):
            needs = "a practitioner, a role that the network admits and purpose BTG, ETREAT or ERTREAT in the token"
            raise NotPermitted(f"emergency access needs {needs}")
        wish = _wish(body, self._rules.max_minutes)
        now = self._clock.now()
        until = now + timedelta(minutes=wish.minutes)
        charts = self._people.person_of(who, patient)
        emergency = Emergency(who, wish.reason, now, until)
        await self._audit.note(who, charts, lambda chart, name: emergency_event(emergency, chart, event_id=name))
        await self._emergencies.open(who, charts, until)
        told = {"resourceType": "Parameters", "parameter": [{"name": "until", "valueInstant": instant(until)}]}
        return Reply(200, render(told), NO_STORE)


def _wish(body: bytes, max_minutes: int) -> _Wish:
    found = parse(body)
    listed = found.get("parameter")
    if found.get("resourceType") != "Parameters" or not isinstance(listed, list):
        raise _refused("send a Parameters resource with reason", "Parameters")
    given: dict[str, Any] = {}
    for item in listed:
        name = item.get("name") if isinstance(item, dict) else None
        if name not in ("reason", "minutes") or name in given:
            raise _refused("parameters are reason (valueString) and minutes (valuePositiveInt), each once")
        given[name] = item.get("valueString" if name == "reason" else "valuePositiveInt")
    reason, minutes = given.get("reason"), given.get("minutes", max_minutes)
    if not isinstance(reason, str) or not _MIN_REASON_CHARS <= len(reason.strip()) <= _MAX_REASON_CHARS:
        raise _refused(
            f"reason must say in {_MIN_REASON_CHARS} to {_MAX_REASON_CHARS} characters what the emergency is"
        )
    if not isinstance(minutes, int) or isinstance(minutes, bool) or not 1 <= minutes <= max_minutes:
        raise _refused(f"minutes must be 1 to {max_minutes}")
    return _Wish(reason.strip(), minutes)


def _refused(problem: str, place: str = "Parameters.parameter") -> RecordRefused:
    return RecordRefused([Issue("error", "invalid", problem, place)])
