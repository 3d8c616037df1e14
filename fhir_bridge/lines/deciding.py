"""Decides what becomes of one message, by what is stored and what the messages before it have staged.

Nothing is written here: a message joins its group's layer whole or, if it is refused as a whole, not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from fhir_bridge.errors import Issue, RecordRefused, Unavailable
from fhir_bridge.lines.charts import ChartBook, OpenChart
from fhir_bridge.lines.conditional import criterion, match_among, patients_with
from fhir_bridge.lines.jobs import Job, Redirected, RoomsFailed, judged, names_a_patient, only, placed, referred_to
from fhir_bridge.lines.keeping import in_blocks
from fhir_bridge.lines.letters import letters_of, seal_letter
from fhir_bridge.lines.registry import Registry
from fhir_bridge.lines.staging import Elsewhere, Layer, Refused, check_if_match, check_match, instant_of
from fhir_bridge.lines.versions import microseconds
from fhir_bridge.model.ids import canonical_id
from fhir_bridge.model.ingest import ChartRef, IndexRow, Normalized, Outcome, Processed, Refusal
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.keys import KeyStore
from fhir_bridge.ports.vault import Vault
from fhir_bridge.telemetry import logger

_log = logger("ingest")
_RECORDS_AT_ONCE: Final = 512
_MOVED = Issue(
    "error", "conflict", "this record belongs to another patient already: delete it and send it under a new id"
)
_GONE = Issue("error", "conflict", "the record that ifNoneExist matched has just gone: send the message again")
_NO_PATIENT = Issue(
    "error",
    "not-found",
    "a conditional reference finds no Patient of yours: send the Patient first, or in the same transaction",
)
_UNPROCESSED = Issue("error", "exception", "this message could not be processed; the operator has been told")


class Decider:
    """Stages messages, one after the other."""

    def __init__(
        self, *, vault: Vault, keys: KeyStore, registry: Registry, book: ChartBook, randomness: Randomness
    ) -> None:
        self._vault = vault
        self._keys = keys
        self._registry = registry
        self._book = book
        self._randomness = randomness

    async def stage(self, job: Job, group: Layer, charts: dict[str, OpenChart], now: datetime) -> None:
        """Decide what becomes of a message, into the job and its group's layer.

        Raises:
            Redirected: It has to go through its rooms again.
            Unavailable: Something cannot be read now; safe to retry, after the job is reset.
        """
        processed = self._result(job)
        job.opened, job.signed = processed.opened, processed.signed
        if job.again is not None and job.again.entries is not None:
            processed = only(processed, job.again.entries)
        if not processed.refused and processed.wanted:
            processed = await self._refer_to_patients(job, processed, group, charts)
        if not processed.refused:
            layer = Layer(charts, below=group)
            if job.again is not None:
                layer.replayed_from_us = microseconds(job.received.received_at)
            refusals = list(processed.refusals)
            same_as: dict[str, str] = {}
            names: list[str] = []
            # A large message would keep everybody else waiting, and its records are not all to be held.
            for some in in_blocks(processed.records, _RECORDS_AT_ONCE):
                homes = await self._homes(some, layer)
                for record in some:
                    try:
                        home = layer.home(record.id) or homes.get(record.id)
                        outcome = await self._take(record, home, layer, charts, now)
                        if outcome.id != record.id:
                            same_as[record.id] = outcome.id
                            names.append(f"{record.type}/{record.id}")
                        job.outcomes.append(outcome)
                    except Refused as no:
                        issue = placed(no.issue, processed, record.index)
                        refusals.append(Refusal(record.index, (issue,)))
                        job.elsewhere = no.found if isinstance(no, Elsewhere) else None
                        job.outcomes.append(Outcome(record.index, no.status, record.type, issues=(issue,)))
                        job.status = no.status if len(refusals) == 1 else job.status
            processed = judged(processed, refusals)
            if names and not processed.refused and not referred_to(processed.records).isdisjoint(names):
                raise Redirected(job, same_as, {})
            if not processed.refused:
                group.merge(layer)
                job.changed = layer.staged
        self._conclude(job, processed)

    def _result(self, job: Job) -> Processed:
        """Return what the rooms made of a message; a failure of ours becomes a dead letter, never a lost message."""
        error = job.processed.exception()
        if error is None and not job.is_set_aside:
            return job.processed.result()
        if isinstance(error, Unavailable):
            raise error
        opened = job.processed.result().opened if error is None else None
        if isinstance(error, RoomsFailed):
            opened, error = error.message, error.__cause__
        if error is not None:
            _log.error("rooms failed", code=getattr(error, "code", type(error).__name__))
        if isinstance(error, RecordRefused):
            return Processed("single", refused=error.issues)
        job.status = "500 Internal Server Error"
        return Processed("single", refused=(_UNPROCESSED,), opened=opened)

    async def _take(
        self, record: Normalized, chart: ChartRef | None, layer: Layer, charts: dict[str, OpenChart], now: datetime
    ) -> Outcome:
        if chart is None:
            check_if_match(record, ())
            return Outcome(record.index, "204 No Content", record.type, record.id)
        if record.chart.chart not in ("", chart.chart) and names_a_patient(record):
            raise Refused("409 Conflict", _MOVED)
        await self._hold(chart, charts)
        id_key = self._registry.id_key(chart.institution)
        if record.interaction.match is not None:
            check_match(record, await self._existing(record, chart, layer, charts, record.interaction.match))
        if record.interaction.if_none_exist is not None:
            match = await self._existing(record, chart, layer, charts, record.interaction.if_none_exist)
            if match is not None:
                when = instant_of(match.last_updated_us)
                return Outcome(record.index, "200 OK", match.type, match.id, match.version, when)
            if record.id != canonical_id(id_key, record.type, record.local_id):
                raise Refused("409 Conflict", _GONE)
        return layer.take(record, chart, id_key, now)

    async def _hold(self, chart: ChartRef, charts: dict[str, OpenChart]) -> None:
        if chart.chart not in charts:
            # Said before it is opened: a reader's load may trim the book in between.
            self._book.in_use.add(chart.chart)
            charts[chart.chart] = await self._book.open(chart, self._registry.chart_key(chart))

    async def _existing(
        self, record: Normalized, chart: ChartRef, layer: Layer, charts: dict[str, OpenChart], query: str
    ) -> IndexRow | None:
        """Return what criteria match among the sender's own: of a Patient anywhere, else in its chart."""
        identifier = criterion(query)
        if record.type == "Patient":
            return await self._patient(chart.institution, identifier, layer, charts)
        await self._hold(chart, charts)
        return match_among(record.type, identifier, layer, [chart.chart])

    async def _refer_to_patients(
        self, job: Job, processed: Processed, group: Layer, charts: dict[str, OpenChart]
    ) -> Processed:
        """Resolve conditional references to the sender's own Patients (R4 http.html#trules).

        Raises:
            Redirected: Some were found; the message goes through its rooms again with them.
        """
        found: dict[str, str] = {}
        for identifier in processed.wanted:
            try:
                match = await self._patient(job.received.institution, identifier, group, charts)
            except Refused as no:
                return _refused(processed, no.issue)
            if match is not None:
                found[identifier] = match.id
            elif processed.kind == "transaction":
                return _refused(processed, _NO_PATIENT)
        if found:
            raise Redirected(job, {}, found)
        return processed

    async def _patient(
        self, institution: str, identifier: str, layer: Layer, charts: dict[str, OpenChart]
    ) -> IndexRow | None:
        """Return the sender's one current Patient with an identifier."""
        homes: dict[str, ChartRef] = {}
        for patient in await patients_with(self._vault, self._registry.id_key(institution), identifier):
            home = self._registry.chart_of_patient(patient)
            if home is not None:
                homes[home.chart] = home
        # What others of this group have staged has no look-up document yet.
        homes |= {each.chart: each for each in layer.charts_of_patients() if each.institution == institution}
        for each in homes.values():
            await self._hold(each, charts)
        return match_among("Patient", identifier, layer, homes)

    async def _homes(self, records: Sequence[Normalized], layer: Layer) -> dict[str, ChartRef]:
        """Return the chart of each record: the one it was first stored in, else the one its content names."""
        stored = await self._vault.charts_of({r.id for r in records if layer.home(r.id) is None})
        homes = {r.id: r.chart for r in records if r.chart.chart}
        for record_id, chart in stored.items():
            known = self._registry.chart(chart)
            if known is not None:
                homes[record_id] = known
        return homes

    def _conclude(self, job: Job, processed: Processed) -> None:
        job.kind, job.refused = processed.kind, processed.refused
        if processed.refused:
            job.outcomes = []
        told = {outcome.index for outcome in job.outcomes}
        for refusal in processed.refusals:
            if refusal.index not in told:
                job.outcomes.append(Outcome(refusal.index, "400 Bad Request", issues=refusal.issues))
        for entry in processed.quarantined:
            job.outcomes.append(Outcome(entry.index, "202 Accepted", entry.interaction.type, issues=entry.issues))
        job.outcomes.sort(key=lambda outcome: outcome.index)
        for reason, letter in letters_of(job.message, processed):
            if not job.is_answered or reason == "quarantined":
                job.letters.append(seal_letter(self._keys, self._randomness, reason, letter))


def _refused(processed: Processed, issue: Issue) -> Processed:
    return Processed(processed.kind, refused=(issue,))
