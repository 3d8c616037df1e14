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
from collections.abc import Collection, Hashable, Iterable, Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace

from fhir_bridge.lines.indexes import Indexes, LoadedIndex
from fhir_bridge.lines.versions import place
from fhir_bridge.model.index import Records
from fhir_bridge.model.ingest import ChartRef, IndexRow


class OpenChart:
    """One chart's rows in order of arrival, with the batch that anchors each, and its versions by record.

    ``histories`` holds all versions, for the writer; what readers get is as far as the ledger has accepted batches.
    """

    def __init__(self, chart: ChartRef) -> None:
        self.rows: list[tuple[int, IndexRow]] = []
        self.histories: dict[str, list[IndexRow]] = {}
        self.next_segment = 0
        self._visible = Records(chart)
        self._taken = 0
        self._known: dict[Hashable, Any] = {}

    def add(self, batch: int, rows: Sequence[IndexRow]) -> None:
        """Append rows of one durable segment."""
        for each in rows:
            row = self._compact(each)
            self.rows.append((batch, row))
            place(self.histories.setdefault(row.id, []), row)
        self.next_segment += 1

    def visible(self, up_to_batch: int) -> Records:
        """Return the rows anchored up to a batch that is not older than any asked for before."""
        end = self._taken
        while end < len(self.rows) and self.rows[end][0] <= up_to_batch:
            end += 1
        if end > self._taken:
            changed = {row.id for _, row in self.rows[self._taken : end]}
            self._taken = end
            if end == len(self.rows):
                self._visible.put(_named(self.histories[each] for each in changed))
            else:
                self._visible.put(_named(self._until(changed, end)))
        return self._visible

    def as_of(self, batch: int) -> Sequence[IndexRow]:
        """Return the rows anchored up to any batch, each record's versions oldest first; walks all rows."""
        end = 0
        while end < len(self.rows) and self.rows[end][0] <= batch:
            end += 1
        histories = self._until({row.id for _, row in self.rows[:end]}, end)
        return [row for history in histories for row in history]

    def changed_since(self, batch: int) -> tuple[frozenset[str], Sequence[IndexRow]]:
        """Return the names of records that have visible versions of later batches, and their versions up to then."""
        start = self._taken
        while start and self.rows[start - 1][0] > batch:
            start -= 1
        later = [row for _, row in self.rows[start : self._taken]]
        before = self._until({row.id for row in later}, start) if later else ()
        return frozenset(f"{row.type}/{row.id}" for row in later), [row for history in before for row in history]

    def _compact(self, row: IndexRow) -> IndexRow:
        """Return a row that holds the same objects as others for what they have in common, and no larger buffer."""
        same = self._known.setdefault
        return replace(
            row,
            type=same(row.type, row.type),
            origin=same(row.origin, row.origin),
            author=same(row.author, row.author),
            labels=same(row.labels, row.labels),
            codes=same(row.codes, row.codes),
            references=same(row.references, row.references),
            search=row.search.copy(),
        )

    def _until(self, changed: Collection[str], end: int) -> Iterable[list[IndexRow]]:
        """Return the versions of some records among the first rows, oldest first."""
        histories: dict[str, list[IndexRow]] = {}
        for _, row in self.rows[:end]:
            if row.id in changed:
                place(histories.setdefault(row.id, []), row)
        return histories.values()


def _named(histories: Iterable[Sequence[IndexRow]]) -> dict[str, Sequence[IndexRow]]:
    return {f"{history[0].type}/{history[0].id}": history for history in histories}


class ChartBook:
    """Opened charts, least recently used dropped first."""

    def __init__(self, indexes: Indexes, *, max_rows: int) -> None:
        self._indexes = indexes
        self._max_rows = max_rows
        self._held_rows = 0
        self._charts: OrderedDict[str, OpenChart] = OrderedDict()
        self._loading: dict[str, asyncio.Task[OpenChart]] = {}
        self.visible_batch = -1
        self.in_use: set[str] = set()

    async def open(self, chart: ChartRef, key: bytes) -> OpenChart:
        """Return a chart's rows, read and decrypted if they are not held.

        Raises:
            IntegrityBroken: A segment does not open under the chart's key and place.
        """
        name = chart.chart
        held = self._charts.get(name)
        if held is not None:
            self._charts.move_to_end(name)
            return held
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(self._load(chart, key))
            task.add_done_callback(lambda _: self._loading.pop(name, None))
        return await asyncio.shield(task)

    def added(self, chart: str, batch: int, rows: Sequence[IndexRow]) -> None:
        """Note rows that a commit made durable; the chart must have been opened before that commit."""
        self._charts[chart].add(batch, rows)
        self._indexes.appended(chart)
        self._held_rows += len(rows)

    def outgrown(self, charts: Iterable[str]) -> None:
        """Drop charts to which a commit has appended segments, named once for each, that are too much to be held.

        Each must have been opened before that commit; who asks for it next reads it from the vault.
        """
        for chart in charts:
            self.forget(chart)
            self._indexes.appended(chart)

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

    async def _load(self, chart: ChartRef, key: bytes) -> OpenChart:
        loaded = await self._indexes.load(chart, key)
        made = partial(_opened, chart, loaded, self.visible_batch)
        opened = made() if loaded.is_small else await asyncio.to_thread(made)
        self._charts[chart.chart] = opened
        self._held_rows += len(opened.rows)
        self.trim()
        return opened


def _opened(chart: ChartRef, loaded: LoadedIndex, visible_batch: int) -> OpenChart:
    opened = OpenChart(chart)
    for batch, rows in loaded.rows():
        opened.add(batch, rows)
    opened.next_segment = loaded.next_segment
    opened.visible(visible_batch)
    return opened
