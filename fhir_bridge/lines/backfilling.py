"""Make stored records again where a rule was mended: a run over an institution's charts (``reissuing``).

Every current version that the institution sent, and that the mended rules may concern, is made again from its sealed
original under the rules it is registered with now. Where that gives other content it gets a successor; where not,
nothing is written. Earlier versions stay, so whoever asks for the past still finds what was served then.

Invariants:
    * consents are never made again: what a patient or an institution has decided is not for a mapping to change;
    * a chart whose key is erased is passed over, and no key is made for it;
    * a record that today's rules would not take keeps its version, and is counted with the reason;
    * work is done in small pieces with pauses as long, and waits while messages do.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from fhir_bridge.errors import IntegrityBroken, RecordRefused, SetupWrong
from fhir_bridge.fhir.json import parse
from fhir_bridge.fhir.value_sets import LabelSets
from fhir_bridge.lines.charts import ChartBook
from fhir_bridge.lines.ingest import IngestLine
from fhir_bridge.lines.labels import Labels
from fhir_bridge.lines.registry import Registry
from fhir_bridge.lines.reissuing import Reissued, Runs, reissue
from fhir_bridge.model.ingest import ChartRef, IndexRow, Normalized, SourceContext
from fhir_bridge.normalize import (
    Ruleset,
    StoredVersion,
    changed_elements,
    load_ruleset,
    names_rule,
    renormalised,
    ruleset_under,
)
from fhir_bridge.ports.ambient import Clock
from fhir_bridge.ports.vault import Document, Vault, Work
from fhir_bridge.seal import LINEAGE, ORIGINAL, RecordPlace, open_normalised, open_part

_RUNS = "backfill-runs"
_ORDER = "order"
"""Document of an unfinished run: what was asked for."""
_WAITING = "backfill-charts"
"""Charts that an unfinished run has not done."""
_BUSY = "a backfill is under way: wait for its end"
_PIECE = 50
_LONGEST_PAUSE_S = 2.0
_INSTITUTION = "institution"
_CONSENT = "Consent"


class Wanted(msgspec.Struct, frozen=True):
    """What a run is to make again: everything that other rules made, or less.

    Attributes:
        rule: Only what this rule had a hand in.
        since: Only what was stored since the first record that the ruleset of this hash made.
        since_us: That moment, once it is known.
    """

    institution: str
    rule: str = ""
    since: str = ""
    since_us: int = 0


@dataclass(slots=True)
class Backfilled(Reissued):
    """How far a run has come.

    Attributes:
        looked_at: Records that were made again.
        refused: Records that today's rules would not take, by the code of the reason; they keep their version.
        erased: Charts passed over.
        elements: Elements that differ, and in how many records.
    """

    looked_at: int = 0
    erased: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    elements: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Rules:
    """What is in force for one institution."""

    source: SourceContext
    ruleset: Ruleset
    sets: LabelSets

    @property
    def made(self) -> str:
        """The hash that names what these rules make."""
        return ruleset_under(self.ruleset.hash, self.sets.digest)


class BackfillLine:
    """Runs a backfill, and tells what one would do."""

    def __init__(
        self,
        *,
        vault: Vault,
        registry: Registry,
        book: ChartBook,
        labels: Labels,
        ingest: IngestLine,
        clock: Clock,
    ) -> None:
        self._vault = vault
        self._registry = registry
        self._book = book
        self._labels = labels
        self._ingest = ingest
        self._clock = clock
        self._wanted = Wanted("")
        self._loaded: tuple[tuple[str, str], Ruleset] | None = None
        self._runs = Runs[Backfilled]("backfill", vault=vault, collection=_RUNS, task=self, busy=_BUSY)

    async def start(self) -> None:
        """Go on with a run that was cut off."""
        await self._runs.start()

    async def stop(self) -> None:
        """Stop what goes on by itself; the next start takes it up."""
        await self._runs.stop()

    async def run(self, wanted: Wanted) -> AsyncGenerator[Backfilled, None]:
        """Make records again; yield at the beginning and after each chart how far this run has come.

        Takes up an unfinished run if it is the same.

        Raises:
            SetupWrong: The institution, its pack or a hash is not there, or another run is under way.
        """
        await self._rules(wanted.institution)
        unfinished = await self._order() if await self._runs.is_begun() else None
        if unfinished is not None and not _same(unfinished, wanted):
            raise SetupWrong(f"a backfill of {unfinished.institution} goes on: wait for its end")
        planned = wanted if unfinished is not None else await self._planned(wanted)

        async def documents() -> Sequence[Document]:
            return [] if unfinished is not None else await self._documents(planned)

        async for progress in self._runs.run(documents):
            yield progress

    async def rehearse(self, wanted: Wanted) -> AsyncGenerator[Backfilled, None]:
        """Do as :meth:`run` and write nothing; ``versions`` counts what would be written."""
        planned = await self._planned(wanted)
        charts = self._charts(wanted.institution)
        progress = Backfilled(len(charts))
        yield progress
        for chart in charts:
            rules = await self._rules(wanted.institution)
            async for records in self._judged(chart, planned, rules, progress):
                progress.versions += len(records)
            progress.done += 1
            yield progress

    # --- the run, chart by chart

    async def begin(self) -> tuple[Sequence[ChartRef], Backfilled]:
        """Return the charts that the run has not done."""
        self._wanted = await self._order()
        names = [name for name, _ in await self._vault.documents(_WAITING)]
        waiting = [chart for chart in map(self._registry.chart, names) if chart is not None]
        return waiting, Backfilled(len(waiting))

    async def chart(self, chart: ChartRef, progress: Backfilled) -> int:
        """Do one chart, again if other value sets or rules come into force meanwhile."""
        written = 0
        while True:
            rules = await self._rules(chart.institution)
            async for records in self._judged(chart, self._wanted, rules, progress):
                written += await reissue(self._ingest, self._clock, chart.institution, records, rules.sets)
            if rules.sets is self._labels.sets and rules.source == self._registry.source(chart.institution):
                break
        await self._vault.commit(Work(documents=[Document(_WAITING, chart.chart, None)]), None)
        return written

    async def _judged(
        self, chart: ChartRef, wanted: Wanted, rules: _Rules, progress: Backfilled
    ) -> AsyncGenerator[Sequence[Normalized], None]:
        """Yield the successors that a chart's current versions need, piece by piece."""
        key = self._registry.held_chart_key(chart)
        if key is None:
            progress.erased += 1
            return
        opened = await self._book.open(chart, key)
        rows = [history[-1] for history in opened.histories.values() if _may_be_made_again(history[-1], chart)]
        rows = [row for row in rows if row.last_updated_us >= wanted.since_us]
        for start in range(0, len(rows), _PIECE):
            began = time.perf_counter()
            stored = await self._stored(chart, rows[start : start + _PIECE], key)
            yield await asyncio.to_thread(_piece, stored, chart, wanted, rules, progress)
            await self._give_way(time.perf_counter() - began)

    async def _stored(self, chart: ChartRef, rows: Sequence[IndexRow], key: bytes) -> list[StoredVersion]:
        found = []
        for row in rows:
            stored = await self._vault.record(chart.chart, row.id, row.version)
            if stored is None:
                raise IntegrityBroken("a version of the index is not in the vault: run fsck")
            place = RecordPlace.of(chart.chart, row)
            opened = open_normalised(key, place, stored.normalised)
            original, lineage = (
                open_part(key, place, part, envelope).content
                for part, envelope in ((ORIGINAL, stored.original), (LINEAGE, stored.lineage))
            )
            found.append(StoredVersion(row, opened.content, original, lineage, opened.ruleset))
        return found

    async def _give_way(self, spent_s: float) -> None:
        """Pause as long as was worked, and for a while longer if messages wait."""
        await asyncio.sleep(spent_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ingest.quiet(), _LONGEST_PAUSE_S)

    # --- what is asked for, and by which rules

    async def _planned(self, wanted: Wanted) -> Wanted:
        """Return the order with the moment that a hash means."""
        if not wanted.since:
            return wanted
        rules = await self._rules(wanted.institution)
        hashes = {wanted.since}
        if len(wanted.since) == 64:
            hashes.add(ruleset_under(wanted.since, rules.sets.digest))
        found: list[int] = []
        for chart in self._charts(wanted.institution):
            key = self._registry.held_chart_key(chart)
            if key is None:
                continue
            opened = await self._book.open(chart, key)
            rows = [row for _, row in opened.rows if row.author == _INSTITUTION]
            envelopes = await self._vault.normalised(chart.chart, [(row.id, row.version) for row in rows])
            for row, envelope in zip(rows, envelopes, strict=True):
                if open_normalised(key, RecordPlace.of(chart.chart, row), envelope).ruleset in hashes:
                    found.append(row.last_updated_us)
            await asyncio.sleep(0)
        if not found:
            raise SetupWrong("no record of this institution was made by a ruleset of this hash")
        return msgspec.structs.replace(wanted, since_us=min(found))

    async def _documents(self, wanted: Wanted) -> Sequence[Document]:
        old = [Document(_WAITING, name, None) for name, _ in await self._vault.documents(_WAITING)]
        charts = [Document(_WAITING, chart.chart, b"1") for chart in self._charts(wanted.institution)]
        return [*old, *charts, Document(_RUNS, _ORDER, msgspec.json.encode(wanted))]

    async def _order(self) -> Wanted:
        encoded = await self._vault.document(_RUNS, _ORDER)
        if encoded is None:
            raise IntegrityBroken("a backfill was begun and nobody knows of what: run fsck")
        return msgspec.json.decode(encoded, type=Wanted)

    def _charts(self, institution: str) -> list[ChartRef]:
        found = [chart for chart in self._registry.all_charts() if chart.institution == institution]
        return sorted(found, key=lambda chart: chart.chart)

    async def _rules(self, institution: str) -> _Rules:
        """Return the rules that messages of the institution meet now.

        Raises:
            SetupWrong: The pack has changed since it was registered.
        """
        source = self._registry.source(institution)
        name = (source.ruleset_dir, source.ruleset)
        if self._loaded is None or self._loaded[0] != name:
            ruleset = await asyncio.to_thread(load_ruleset, Path(source.ruleset_dir))
            if ruleset.hash != source.ruleset:
                raise SetupWrong("the pack's copy is not the one in force: restart the service, which lays it out")
            self._loaded = (name, ruleset)
        return _Rules(source, self._loaded[1], self._labels.sets)


def _piece(
    stored: Sequence[StoredVersion], chart: ChartRef, wanted: Wanted, rules: _Rules, progress: Backfilled
) -> list[Normalized]:
    renewed = []
    for each in stored:
        if each.ruleset == rules.made or (wanted.rule and not names_rule(each.lineage, wanted.rule)):
            continue
        progress.looked_at += 1
        try:
            again = renormalised(each, chart, rules.source, rules.ruleset, rules.sets)
        except RecordRefused as no:
            code = no.issues[0].code
            progress.refused[code] = progress.refused.get(code, 0) + 1
            continue
        if again.row.content != each.row.content:
            renewed.append(again)
            for element in changed_elements(parse(each.content), parse(again.content)):
                progress.elements[element] = progress.elements.get(element, 0) + 1
    return renewed


def _may_be_made_again(row: IndexRow, chart: ChartRef) -> bool:
    is_theirs = row.author == _INSTITUTION and row.origin == chart.institution
    return is_theirs and not row.deleted and row.type != _CONSENT


def _same(one: Wanted, other: Wanted) -> bool:
    return (one.institution, one.rule, one.since) == (other.institution, other.rule, other.since)
