"""A consent that nobody has signed: what a chart's list would be with it, for simulating.

Invariants:
    * nothing is stored, signed or submitted;
    * a draft is read and checked as a Consent is that a patient's agent writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from fhir_bridge.consent import SALT_BYTES, ConsentEntry, ConsentList, compile_consent
from fhir_bridge.errors import Issue, RecordRefused
from fhir_bridge.fhir.json import NotStrictJson, parse
from fhir_bridge.lines.agents import agent_record, patient_of
from fhir_bridge.lines.people import People
from fhir_bridge.lines.registry import Registry
from fhir_bridge.lines.signatories import agent_of
from fhir_bridge.lines.versions import microseconds
from fhir_bridge.model.access import Requester
from fhir_bridge.model.ingest import ChartRef, FhirVersion, Interaction, Received
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.query import QueryRefused

Change = Callable[[ConsentList], ConsentList]

DRAFT_VERSION = "draft"


class Drafts:
    """Makes the change of a list that a draft, or a withdrawal, would be."""

    def __init__(self, *, people: People, registry: Registry, randomness: Randomness) -> None:
        self._people = people
        self._registry = registry
        self._randomness = randomness

    async def change(
        self, who: Requester, charts: Sequence[ChartRef], draft: bytes, revoked: Sequence[str], now: datetime
    ) -> Change | None:
        """Return the change; None for neither a draft nor a withdrawal.

        Raises:
            RecordRefused: The draft is no valid Consent about this patient.
            QueryRefused: A withdrawal names no consent of the patient's own.
        """
        if not draft and not revoked:
            return None
        sight = await self._people.view(who, charts, instant=now)
        owned = [grounds.lists.owner for grounds in sight.grounds if grounds.lists.owner is not None]
        known = frozenset(entry.id for listed in owned for entry in listed.entries)
        ended = frozenset(self._known(who, name.removeprefix("Consent/"), known) for name in revoked)
        if None in ended:
            raise QueryRefused([Issue("error", "not-found", "revoke names no consent of this patient", "revoke")])
        entry = self._entry(who, charts, draft, known, now) if draft else None

        def changed(listed: ConsentList) -> ConsentList:
            left = [replace(each, status="inactive") if each.id in ended else each for each in listed.entries]
            after = ConsentList(tuple(left))
            return after if entry is None else after.with_entry(entry)

        return changed

    def _known(self, who: Requester, consent_id: str, known: frozenset[str]) -> str | None:
        return next((each for each in self._people.ids(who, "Consent", consent_id) if each in known), None)

    def _entry(
        self, who: Requester, charts: Sequence[ChartRef], draft: bytes, known: frozenset[str], now: datetime
    ) -> ConsentEntry:
        home = self._registry.chart_of_patient(who.patient or "")
        if home is None:
            raise QueryRefused([Issue("error", "not-found", "this patient is not enrolled here")])
        local_id = _id_of(draft)
        asked = Interaction("POST" if local_id is None else "PUT", "Consent", local_id)
        received = Received(home.institution, FhirVersion.R4, draft, now, interaction=asked)
        record = agent_record(received, home, self._registry, self._randomness, agent_of(who, home, self._registry))
        if patient_of(record) not in {f"Patient/{chart.patient_id}" for chart in charts}:
            problem = "patient must refer to the Patient whose agent asks"
            raise RecordRefused([Issue("error", "invalid", problem, "Consent.patient")])
        content = parse(record.content)
        return ConsentEntry(
            id=(self._known(who, local_id, known) if local_id is not None else None) or record.id,
            version=DRAFT_VERSION,
            status=str(content.get("status", "")),
            valid=compile_consent(content).valid,
            salt=bytes(SALT_BYTES),
            body=record.content,
            signed_at_us=microseconds(now),
            charts=tuple(chart.chart for chart in charts),
        )


def _id_of(draft: bytes) -> str | None:
    """Return the id that a draft states; None if it states none or cannot be read, which is refused later."""
    try:
        found = parse(draft).get("id")
    except NotStrictJson:
        return None
    return found if isinstance(found, str) else None
