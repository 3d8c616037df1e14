"""Label what is stored by the sets in force: a run over charts (``reissuing``).

Each current version whose labels change gets a successor that differs in its labels alone; its lineage names the
sets. A chart is done when it is no longer behind.

Invariant: a chart is settled only after the versions that it needs are durable and anchored.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from fhir_bridge.errors import SetupWrong
from fhir_bridge.fhir.value_set_files import packaged_sets, read_label_sets
from fhir_bridge.fhir.value_sets import LabelSets
from fhir_bridge.lines.ingest import IngestLine
from fhir_bridge.lines.labels import Labels
from fhir_bridge.lines.registry import Registry
from fhir_bridge.lines.reissuing import Reissued, Runs, reissue
from fhir_bridge.model.ingest import ChartRef
from fhir_bridge.ports.ambient import Clock
from fhir_bridge.ports.vault import Vault

_RUNS = "labels-runs"
_BUSY = "records are being labelled already: watch 'fhir-bridge labels show'"


class RelabelLine:
    """Brings value sets into force and labels charts again."""

    def __init__(self, *, vault: Vault, labels: Labels, registry: Registry, ingest: IngestLine, clock: Clock) -> None:
        self._labels = labels
        self._registry = registry
        self._ingest = ingest
        self._clock = clock
        self._runs = Runs[Reissued]("relabel", vault=vault, collection=_RUNS, task=self, busy=_BUSY)

    async def start(self) -> None:
        """Go on with a run that was cut off."""
        await self._runs.start()

    async def stop(self) -> None:
        """Stop what goes on by itself; the next start takes it up."""
        await self._runs.stop()

    @property
    def is_resuming(self) -> bool:
        """Tell that a run which was cut off was there at the start, and nobody has taken it over."""
        return self._runs.is_resuming

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

    def run(self) -> AsyncGenerator[Reissued, None]:
        """Label every chart that is behind; yield after each how far this run has come.

        A chart that cannot be labelled stays behind.
        """
        return self._runs.run()

    async def begin(self) -> tuple[Sequence[ChartRef], Reissued]:
        """Return the charts that are behind."""
        waiting = [chart for chart in map(self._registry.chart, self._labels.behind) if chart is not None]
        return waiting, Reissued(len(waiting))

    async def chart(self, chart: ChartRef, _progress: Reissued) -> int:
        """Label one chart; begins again when other sets come into force."""
        written = 0
        while True:
            judged = await self._labels.judged(chart)
            written += await reissue(self._ingest, self._clock, chart.institution, judged.renewed, judged.sets)
            if await self._labels.settle(chart, judged):
                return written
