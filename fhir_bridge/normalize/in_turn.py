"""Normalise a large message entry after entry, so that no more than one of them is held.

Records come out as ``normalize`` makes them, in the order of their entries, and each entry goes through the rules
twice: first so that all know each other by full URL, id and identifier, then to be finished and given away. Only
whose a record is may depend on entries behind it, so that is said at the end of those that do not say it themselves.

Invariants:
    * what comes out is what ``normalize`` gives for the same message;
    * what is held of an entry is a few short texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.value_sets import LabelSets
from fhir_bridge.model.ingest import ChartRef, Normalized, Quarantined, Reception, SourceContext, Validated
from fhir_bridge.normalize.charts import Placed, follow, own_chart, unknown_chart
from fhir_bridge.normalize.draft import Draft, Unconvertible
from fhir_bridge.normalize.labelling import ruleset_under
from fhir_bridge.normalize.links import Links, local_id
from fhir_bridge.normalize.message import (
    NO_CHART,
    deleted,
    faults_of,
    has_local_times,
    note_release,
    quarantine,
    settle,
    shaped,
)
from fhir_bridge.normalize.pack import Ruleset
from fhir_bridge.normalize.stamping import finish


class InTurn:
    """One message on its way through the rules, see :func:`fhir_bridge.normalize.normalize`.

    ``charts``, ``quarantined`` and ``wanted`` are known when all of :meth:`records` were taken. ``charts`` holds, by
    the number of its entry, whose a record is that was given as of an unknown chart; None where it was given too
    early, because it is among the quarantined. A quarantined entry is without its bytes.
    """

    def __init__(
        self,
        reception: Reception,
        source: SourceContext,
        ruleset: Ruleset,
        sets: LabelSets,
        *,
        same_as: Mapping[str, str],
        patients: Mapping[str, str],
    ) -> None:
        assert reception.whole is not None
        self._is_transaction = reception.kind == "transaction"
        self._entries = [entry for entry in reception.entries if isinstance(entry, Validated)]
        self._whole = reception.whole
        self._source = source
        self._ruleset = ruleset
        self._sets = sets
        self._rules_hash = ruleset_under(ruleset.hash, sets.digest)
        self._links = Links(
            source.id_key, ruleset.base_urls, same_as, patients, ruleset.aliases_for(source.fhir_version)
        )
        self._found: dict[int, Quarantined] = {}
        # Of the records that are no deletions: entry, what it is called and refers to, and whose it says it is.
        self._numbers: list[int] = []
        self._names: list[str] = []
        self._targets: list[tuple[str, ...]] = []
        self._own: list[ChartRef | None] = []
        self._faults: dict[int, tuple[Issue, ...]] = {}
        self.charts: dict[int, ChartRef | None] = {}

    @property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """Entries that the rules cannot convert, in their order."""
        return tuple(self._found[index] for index in sorted(self._found))

    @property
    def wanted(self) -> tuple[str, ...]:
        """Identifiers of conditional references to Patients that no entry is."""
        return tuple(sorted(self._links.wanted))

    def records(self) -> Iterator[Normalized]:
        """Yield the records in the order of their entries; to be taken once."""
        for entry in self._entries:
            if entry.interaction.method != "DELETE":
                self._make_known(self._whole(entry))
        known: dict[str, ChartRef | None] = {}
        for entry in self._entries:
            if entry.index not in self._found:
                made = self._made(self._whole(entry), known)
                if made is not None:
                    yield made
        self._say_charts()

    def _make_known(self, entry: Validated) -> None:
        local = local_id(entry, entry.resource)
        try:
            draft = self._shaped(entry)
        except Unconvertible as verdict:
            self._quarantine(entry, (verdict.issue,))
        else:
            self._names.append(self._links.add(entry, draft.body["resourceType"], local, draft.body))

    def _made(self, entry: Validated, known: dict[str, ChartRef | None]) -> Normalized | None:
        if entry.resource is None:
            made = deleted(entry, self._source, self._rules_hash)
            if isinstance(made, Normalized):
                return made
            self._quarantine(entry, made.issues)
            return None
        local = local_id(entry, entry.resource)
        draft = self._shaped(entry)
        record_id = self._links.id_of(draft.body["resourceType"], local)
        targets, updated_us = settle(draft, record_id, self._links, self._source, self._sets)
        placed = Placed(draft.body["resourceType"], record_id, draft.body, targets)
        chart = own_chart(placed, self._source, known)
        self._numbers.append(entry.index)
        self._targets.append(targets)
        self._own.append(chart)
        faults = faults_of(draft, self._source.fhir_version, entry.flags, self._ruleset.profiles)
        if faults:
            self._faults[entry.index] = faults
            if chart is not None:
                self._quarantine(entry, faults)
            return None
        return finish(
            draft,
            self._links.of_record(entry, placed.type),
            local_id=local,
            chart=chart or unknown_chart(self._source.institution),
            references=targets,
            source_updated_us=updated_us,
            source=self._source,
            ruleset_hash=self._rules_hash,
        )

    def _say_charts(self) -> None:
        """Say whose the records are that did not say it themselves."""
        if None not in self._own:
            return
        unsaid = [at for at, chart in enumerate(self._own) if chart is None]
        charts = follow(self._own, self._names, self._targets, is_transaction=self._is_transaction)
        entries = {entry.index: entry for entry in self._entries}
        for at in unsaid:
            index, chart = self._numbers[at], charts[at]
            faults = self._faults.get(index, ())
            if index not in self._faults:
                self.charts[index] = chart
            if chart is None or faults:
                self._quarantine(entries[index], faults if chart is not None else (*faults, NO_CHART))

    def _shaped(self, entry: Validated) -> Draft:
        assert entry.resource is not None
        draft = shaped(
            entry.resource,
            self._source.fhir_version,
            self._ruleset,
            has_local_times=has_local_times(entry, self._ruleset),
        )
        note_release(draft, self._source.fhir_version, self._ruleset)
        return draft

    def _quarantine(self, entry: Validated, issues: tuple[Issue, ...]) -> None:
        self._found[entry.index] = quarantine(replace(entry, original=b""), issues)
