"""Chart indexes, opened: every row of a chart in memory while it is in use, never anywhere else.

Both lines ask here. The ingest line is the only one that adds rows, after the
commit that made them durable; readers see rows whose batch the ledger has
accepted. Opened charts are bounded in number of rows and dropped at erasure.

Invariants:
    * a chart is read from the vault at most once while it is held here;
    * rows of a batch above ``visible_batch`` are never shown to a reader;
    * a chart that the writer has ``in_use`` is not dropped, or a reader could load it without what is being written.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fhir_bridge.lines.versions import place
from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.ports.vault import Vault
from fhir_bridge.seal import open_segment


@dataclass(slots=True)
class OpenChart:
    """One chart's rows in order of arrival, with the batch that anchors each, and its versions by record."""

    chart: str
    rows: list[tuple[int, IndexRow]] = field(default_factory=list)
    histories: dict[str, list[IndexRow]] = field(default_factory=dict)
    next_segment: int = 0

    def add(self, batch: int, rows: Sequence[IndexRow]) -> None:
        """Append rows of one durable segment."""
        for row in rows:
            self.rows.append((batch, row))
            place(self.histories.setdefault(row.id, []), row)
        self.next_segment += 1

    def visible(self, up_to_batch: int) -> tuple[IndexRow, ...]:
        """Return the rows anchored up to a batch, each record's versions oldest first."""
        if not self.rows or self.rows[-1][0] <= up_to_batch:
            return tuple(row for history in self.histories.values() for row in history)
        histories: dict[str, list[IndexRow]] = {}
        for batch, row in self.rows:
            if batch <= up_to_batch:
                place(histories.setdefault(row.id, []), row)
        return tuple(row for history in histories.values() for row in history)


class ChartBook:
    """Opened charts, least recently used dropped first."""

    def __init__(self, vault: Vault, *, max_rows: int) -> None:
        self._vault = vault
        self._max_rows = max_rows
        self._held_rows = 0
        self._charts: OrderedDict[str, OpenChart] = OrderedDict()
        self._loading: dict[str, asyncio.Task[OpenChart]] = {}
        self.visible_batch = -1
        self.in_use: set[str] = set()

    async def open(self, chart: str, key: bytes) -> OpenChart:
        """Return a chart's rows, read and decrypted if they are not held.

        Raises:
            IntegrityBroken: A segment does not open under the chart's key and place.
        """
        held = self._charts.get(chart)
        if held is not None:
            self._charts.move_to_end(chart)
            return held
        task = self._loading.get(chart)
        if task is None:
            task = self._loading[chart] = asyncio.create_task(self._load(chart, key))
            task.add_done_callback(lambda _: self._loading.pop(chart, None))
        return await asyncio.shield(task)

    def added(self, chart: str, batch: int, rows: Sequence[IndexRow]) -> None:
        """Note rows that a commit made durable; the chart must have been opened before that commit."""
        self._charts[chart].add(batch, rows)
        self._held_rows += len(rows)

    def trim(self) -> None:
        """Drop charts beyond the bound, the least recently used first."""
        if self._held_rows <= self._max_rows:
            return
        for chart in [each for each in self._charts if each not in self.in_use][:-1]:
            if self._held_rows <= self._max_rows:
                return
            self.forget(chart)

    def forget(self, chart: str) -> None:
        """Drop one chart, as erasure demands."""
        dropped = self._charts.pop(chart, None)
        if dropped is not None:
            self._held_rows -= len(dropped.rows)

    async def _load(self, chart: str, key: bytes) -> OpenChart:
        opened = OpenChart(chart)
        for segment in await self._vault.segments(chart):
            opened.add(segment.batch, open_segment(key, segment))
        self._charts[chart] = opened
        self._held_rows += len(opened.rows)
        self.trim()
        return opened


Histories = Mapping[str, Sequence[IndexRow]]
