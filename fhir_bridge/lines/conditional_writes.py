"""Conditional update and delete (R4 http.html#cond-update, #3.1.0.7.1): by a business identifier instead of an id.

For the write line. A write is tried for what the criteria matched a moment ago;
the ingest line looks again when it commits, and where something else matches by
then nothing is stored and the write is tried for that.

Invariants:
    * only the sender's own records match, so no answer tells of anybody else's;
    * what is written is what the criteria match at the moment of the commit, however many write at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import urlencode

from msgspec import structs

from fhir_bridge.errors import Issue, PreconditionFailed, RecordRefused, Unavailable
from fhir_bridge.fhir.json import NotStrictJson, parse
from fhir_bridge.lines.charts import ChartBook, OpenChart
from fhir_bridge.lines.conditional import criterion, match_among, patients_with
from fhir_bridge.lines.ingest import IngestLine
from fhir_bridge.lines.registry import Registry
from fhir_bridge.lines.staging import Layer, Refused
from fhir_bridge.model.ids import DIRECTORY_TYPES, canonical_id
from fhir_bridge.model.ingest import Anchored, ChartRef, IndexRow, Interaction, Received
from fhir_bridge.ports.vault import Vault

_ATTEMPTS: Final = 32
"""Each is lost to another write of the same record that was committed meanwhile."""
_PATIENT: Final = ("patient", "subject")


class ConditionalWrites:
    """Finds what criteria match and writes it."""

    def __init__(self, *, ingest: IngestLine, registry: Registry, book: ChartBook, vault: Vault) -> None:
        self._ingest = ingest
        self._registry = registry
        self._book = book
        self._vault = vault

    async def update(self, received: Received, query: str) -> Anchored:
        """Update the record that matches, or create one.

        Raises:
            RecordRefused: The criteria are none that are taken, or the body states another id than the match has.
            PreconditionFailed: Several records match.
            Unavailable: Others kept changing what matches; nothing was stored, safe to retry.
        """
        _checked(query)
        asked = Interaction("POST", _type(received), match=query, if_match=_if_match(received))
        for _ in range(_ATTEMPTS):
            anchored = await self._ingest.push(replace(received, interaction=asked))
            if anchored.elsewhere is None:
                return _told(anchored)
            if asked.id is None and _states_id(received.content):
                problem = "the body states another id than the matching record has"
                raise RecordRefused([Issue("error", "invalid", problem, f"{asked.type}.id")])
            asked = structs.replace(asked, id=anchored.elsewhere or None)
        raise Unavailable("what matches keeps changing")

    async def delete(self, received: Received, params: Sequence[tuple[str, str]]) -> Anchored | None:
        """Delete the record that matches; None if none does.

        Args:
            params: ``identifier``, and ``patient`` where the type belongs to patients and is not Patient itself.

        Raises:
            RecordRefused: The criteria are none that are taken.
            PreconditionFailed: Several records match.
            Unavailable: Others kept changing what matches; nothing was stored, safe to retry.
        """
        patients = [value for name, value in params if name in _PATIENT]
        query = urlencode([pair for pair in params if pair[0] not in _PATIENT])
        identifier = _checked(query)
        type_name = _type(received)
        for _ in range(_ATTEMPTS):
            found = await self._find(received.institution, type_name, identifier, patients)
            if found is None:
                return None
            asked = Interaction("DELETE", type_name, found.id, match=query, if_match=_if_match(received))
            anchored = await self._ingest.push(replace(received, interaction=asked))
            if anchored.elsewhere is None:
                return _told(anchored)
        raise Unavailable("what matches keeps changing")

    async def _find(
        self, institution: str, type_name: str, identifier: str, patients: Sequence[str]
    ) -> IndexRow | None:
        opened: dict[str, OpenChart] = {}
        for chart in await self._charts(institution, type_name, identifier, patients):
            opened[chart.chart] = await self._book.open(chart, self._registry.chart_key(chart))
        try:
            return match_among(type_name, identifier, Layer(opened), opened)
        except Refused as several:
            raise PreconditionFailed([several.issue]) from several

    async def _charts(
        self, institution: str, type_name: str, identifier: str, patients: Sequence[str]
    ) -> list[ChartRef]:
        """Return the institution's own charts in which criteria can match."""
        key = self._registry.id_key(institution)
        if type_name in DIRECTORY_TYPES:
            found = [self._registry.chart(self._registry.directory(institution).chart)]
        elif type_name == "Patient":
            found = [
                self._registry.chart_of_patient(each) for each in await patients_with(self._vault, key, identifier)
            ]
        else:
            if len(patients) != 1:
                problem = "name the patient too: patient=ID&identifier=system|value"
                raise RecordRefused([Issue("error", "required", problem, "patient")])
            named = patients[0].removeprefix("Patient/")
            found = [self._registry.chart_of_patient(canonical_id(key, "Patient", named))]
        return [chart for chart in found if chart is not None and chart.institution == institution]


def _checked(query: str) -> str:
    try:
        return criterion(query)
    except Refused as no:
        raise RecordRefused([no.issue]) from no


def _told(anchored: Anchored) -> Anchored:
    """Return an answer of the line, or raise what refused the whole of it."""
    if anchored.refused:
        raise (PreconditionFailed if anchored.status.startswith("412") else RecordRefused)(anchored.refused)
    return anchored


def _type(received: Received) -> str:
    return "" if received.interaction is None else received.interaction.type


def _if_match(received: Received) -> str | None:
    return None if received.interaction is None else received.interaction.if_match


def _states_id(body: bytes) -> bool:
    try:
        return "id" in parse(body)
    except NotStrictJson:
        return False
