"""Label what is stored by the sets in force: chart by chart, by the ordinary way in, as often as it takes.

Each current version whose labels change gets a successor that differs in its labels alone, sealed, anchored and
indexed like any other; its lineage names the sets. A run that ends in the middle, however it ends, goes on by itself
at the next start, or by the next run: a chart is done when it is no longer behind, and labelling it twice changes
nothing.

Invariants:
    * a version is written only over the version that was judged (``If-Match``), so what a sender sends meanwhile
      stays the newest;
    * a chart is settled only after the versions that it needs are durable and anchored.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fhir_bridge.errors import BridgeError, SetupWrong, Unavailable
from fhir_bridge.fhir.value_set_files import packaged_sets, read_label_sets
from fhir_bridge.fhir.value_sets import LabelSets
from fhir_bridge.lines.ingest import IngestLine
from fhir_bridge.lines.labels import Judgement, Labels
from fhir_bridge.lines.registry import Registry
from fhir_bridge.model.ingest import ChartRef, FhirVersion, Normalized, Processed, Received
from fhir_bridge.ports.ambient import Clock
from fhir_bridge.ports.vault import Document, Vault, Work
from fhir_bridge.telemetry import logger

_log = logger("relabel")
_AT_ONCE = 100
_RUNS = "labels-runs"
_RUN = "begun"
_TAKEN = ("200", "412")
"""What may become of a successor: stored, or passed over because a newer version came meanwhile."""


@dataclass(slots=True)
class Relabelled:
    """How far a run has come; ``failed`` names the public code of what went wrong and how many charts it kept."""

    charts: int
    done: int = 0
    versions: int = 0
    failed: dict[str, int] | None = None


class RelabelLine:
    """Brings value sets into force and labels charts again."""

    def __init__(self, *, vault: Vault, labels: Labels, registry: Registry, ingest: IngestLine, clock: Clock) -> None:
        self._vault = vault
        self._labels = labels
        self._registry = registry
        self._ingest = ingest
        self._clock = clock
        self._running = asyncio.Lock()
        self._resumed: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Go on, beside everything else, with a run that was cut off; begin none that nobody began."""
        if await self._vault.document(_RUNS, _RUN) is not None:
            self._resumed = asyncio.create_task(self._resume(), name="relabel")

    async def stop(self) -> None:
        """Stop what goes on by itself; the next start takes it up."""
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await resumed

    def described(self) -> dict[str, Any]:
        """Return the sets in force and how many charts they have not labelled yet."""
        sets = self._labels.sets
        rows = [{"label": label or None, "value_set": each.name, "concepts": each.size} for label, each in sets.sets]
        return {"digest": sets.digest.hex(), "sets": rows, "charts_behind": len(self._labels.behind)}

    def read(
        self, topics: Mapping[str, str], also: Sequence[str], texts: Mapping[str, str], *, packaged: bool
    ) -> LabelSets:
        """Return the sets that would be in force: those given, and of the rest those in force or in the package.

        Raises:
            ValueSetBroken: A file cannot be taken; names file, line and concept.
        """
        missing = [name for name in [*topics.values(), *also] if name not in texts]
        if missing:
            raise SetupWrong(f"{missing[0]} is not among the files sent")
        encoded = {name: text.encode() for name, text in texts.items()}
        given = read_label_sets(topics, {name: encoded[name] for name in also}, encoded)
        base = packaged_sets() if packaged else self._labels.sets
        new_urls = {each.url for label, each in given.sets if not label}
        kept = [
            (label, each) for label, each in base.sets if label not in topics and (label or each.url not in new_urls)
        ]
        return LabelSets([*given.sets, *kept])

    async def activate(self, sets: LabelSets) -> None:
        """Bring sets into force, at once and for every question from now on; records are labelled by :meth:`run`."""
        await self._labels.activate(sets)

    async def run(self) -> AsyncGenerator[Relabelled, None]:
        """Label every chart that is behind; yield after each how far this run has come.

        A chart that cannot be labelled stays behind, is counted, and does not keep the others from it. What goes on
        by itself since the start gives way to this run.
        """
        await self.stop()
        if self._running.locked():
            raise SetupWrong("records are being labelled already: watch 'fhir-bridge labels show'")
        async with contextlib.aclosing(self._run()) as run:
            async for progress in run:
                yield progress

    async def _resume(self) -> None:
        try:
            told = [progress async for progress in self._run()][-1]
        except Exception as error:
            _log.error("labelling did not go on", code=getattr(error, "code", type(error).__name__))
        else:
            _log.info("labelling went on to its end", charts=told.done, versions=told.versions)

    async def _run(self) -> AsyncGenerator[Relabelled, None]:
        async with self._running:
            await self._vault.commit(Work(documents=[Document(_RUNS, _RUN, b"")]), None)
            waiting = [chart for chart in map(self._registry.chart, self._labels.behind) if chart is not None]
            progress = Relabelled(len(waiting), failed={})
            yield progress
            for chart in waiting:
                await self._one(chart, progress)
                yield progress
            await self._vault.commit(Work(documents=[Document(_RUNS, _RUN, None)]), None)

    async def _one(self, chart: ChartRef, progress: Relabelled) -> None:
        try:
            progress.versions += await self._relabel(chart)
            progress.done += 1
        except BridgeError as error:
            _log.error("chart not labelled", code=error.code)
            failed = progress.failed = progress.failed or {}
            failed[error.code] = failed.get(error.code, 0) + 1

    async def _relabel(self, chart: ChartRef) -> int:
        """Label one chart; return how many versions that took. Begins again when other sets come into force."""
        written = 0
        while True:
            judgement = await self._labels.judged(chart)
            written += await self._write(chart, judgement)
            if await self._labels.settle(chart, judgement):
                return written

    async def _write(self, chart: ChartRef, judgement: Judgement) -> int:
        written = 0
        for start in range(0, len(judgement.renewed), _AT_ONCE):
            some = judgement.renewed[start : start + _AT_ONCE]
            numbered = tuple(replace(record, index=number) for number, record in enumerate(some))
            written += await self._push(chart, numbered, judgement.sets)
        return written

    async def _push(self, chart: ChartRef, records: Sequence[Normalized], sets: LabelSets) -> int:
        received = Received(chart.institution, FhirVersion.R4, b"", self._clock.now())
        processed = Processed("batch", tuple(records), sets=sets.digest.hex())
        done = await self._ingest.push_relabelled(received, processed)
        if done.refused:
            return 0
        if any(not outcome.status.startswith(_TAKEN) for outcome in done.outcomes):
            raise Unavailable("a version with new labels was not taken")
        return sum(outcome.status.startswith("200") for outcome in done.outcomes)
