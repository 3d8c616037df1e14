"""Keep the index segments of charts few and of today's definitions.

Every commit appends a segment to each chart it touches. Many small ones are
merged in the background; rows that other definitions made are made anew, from
the sealed bodies, when their chart is opened or in the background, whichever
comes first. Both put a segment in the place of others in one vault commit.

Invariants:
    * whoever opens a chart gets rows that today's definitions made, and all of them;
    * one replacement is made at a time, from segments read while nobody else replaces any;
    * what is interrupted has replaced a segment whole or not at all, and goes on where it stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fhir_bridge.fhir.indexing import definitions, renewed
from fhir_bridge.lines.registry import Registry
from fhir_bridge.model.ingest import ChartRef, IndexRow
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.vault import Document, Replacement, Segment, StoredSegment, Vault, Work
from fhir_bridge.seal import (
    OpenedSegment,
    check_numbers,
    open_contents,
    open_parts,
    seal_merged,
    seal_parts,
)
from fhir_bridge.settings import IndexSettings
from fhir_bridge.telemetry import logger

SMALL_BYTES = 16 << 10
FULL_BYTES = 256 << 10
"""Sealed bytes from which a segment is merged no more: it opens in some 50 ms."""

_FEW_BYTES = 64 << 10
_FEW_UNPACKED = 512 << 10
"""So small an index is opened and unpacked in a few milliseconds, for which a thread is not worth its while."""

_STATE, _DEFINITIONS = "index", "definitions"
_log = logger("index")

BatchRows = tuple[int, Sequence[IndexRow]]


@dataclass(frozen=True, slots=True)
class LoadedIndex:
    """A chart's segments, opened; ``is_small`` if unpacking their rows is not worth a thread."""

    segments: Sequence[OpenedSegment]
    is_small: bool

    @property
    def next_segment(self) -> int:
        """Number of the segment that is appended next."""
        return self.segments[-1].number + 1 if self.segments else 0

    def rows(self) -> Iterator[BatchRows]:
        """Unpack the rows, in order of arrival, with the batch that anchors each."""
        return ((part.batch, part.rows()) for each in self.segments for part in each.parts)


def run_to_merge(sizes: Sequence[tuple[int, int]], merge_at: int) -> tuple[int, ...]:
    """Return the numbers of consecutive segments to merge now; empty if there is nothing to do.

    Small ones are merged among themselves before larger ones are, so that a row is sealed anew a few times in its
    life, however many commits follow.

    Args:
        sizes: Number and sealed bytes of each segment, in order.
        merge_at: So many that stand together are merged.
    """
    for limit in (SMALL_BYTES, FULL_BYTES):
        run: list[int] = []
        weight = 0
        for number, size in (*sizes, (-1, FULL_BYTES)):
            if size < limit and weight < FULL_BYTES:
                run.append(number)
                weight += size
                continue
            if len(run) >= merge_at or (len(run) > 1 and weight >= FULL_BYTES):
                return tuple(run)
            run, weight = ([number], size) if size < limit else ([], 0)
    return ()


class Indexes:
    """Opens charts' indexes, and keeps them small and of today."""

    def __init__(self, *, vault: Vault, registry: Registry, randomness: Randomness, settings: IndexSettings) -> None:
        self._vault = vault
        self._registry = registry
        self._randomness = randomness
        self._merge_at = settings.merge_at
        self._replacing = asyncio.Lock()
        self._sweeping = asyncio.Lock()
        self._appended: dict[str, int] = {}
        self._crowded: asyncio.Queue[str] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_of_today = False
        self.counters = {"merged": 0, "renewed": 0}

    async def start(self) -> None:
        """Begin to merge, and to renew what other definitions made if there is any."""
        found = await self._vault.document(_STATE, _DEFINITIONS)
        self._is_of_today = found == definitions()
        for chart in await self._vault.crowded_charts(self._merge_at):
            self._crowded.put_nowait(chart)
        self._tasks = [asyncio.create_task(self._merge_forever(), name="merge")]
        if not self._is_of_today:
            self._tasks.append(asyncio.create_task(self._renew_in_background()))

    async def stop(self) -> None:
        """Stop; what was being replaced is replaced or left as it was."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def state(self) -> dict[str, object]:
        """What an operator sees: counters since the start, definitions in use, whether all charts are of them."""
        return {**self.counters, "definitions": definitions().hex(), "is_of_today": self._is_of_today}

    # --- opening

    async def load(self, chart: ChartRef, key: bytes) -> LoadedIndex:
        """Return the rows of a chart; those that other definitions made are made anew first, and kept.

        Raises:
            IntegrityBroken: A segment does not open, or is missing.
        """
        opened = await self._opened(chart.chart, key)
        if not all(each.is_of_today for each in opened):
            opened = await self._renewed(chart.chart, key)
        return LoadedIndex(opened, sum(len(part.packed) for each in opened for part in each.parts) < _FEW_UNPACKED)

    async def _opened(self, chart: str, key: bytes) -> Sequence[OpenedSegment]:
        stored = await self._vault.segments(chart)
        if sum(len(each.ciphertext) for each in stored) < _FEW_BYTES:
            return _open(key, stored)
        return await asyncio.to_thread(_open, key, stored)

    # --- definitions

    async def renew_all(self, progress: asyncio.Queue[tuple[int, int]] | None = None) -> int:
        """Make the rows of all charts anew that other definitions made; return how many segments that were.

        Safe to break off at any moment, and to repeat.

        Args:
            progress: Gets ``(charts done, charts in all)`` after each chart.
        """
        async with self._sweeping:
            before = self.counters["renewed"]
            charts = self._registry.all_charts()
            for done, chart in enumerate(charts, 1):
                await self._renewed(chart.chart, self._registry.chart_key(chart))
                if progress is not None:
                    progress.put_nowait((done, len(charts)))
            await self._vault.commit(Work(documents=[Document(_STATE, _DEFINITIONS, definitions())]), None)
            self._is_of_today = True
            return self.counters["renewed"] - before

    async def _renewed(self, chart: str, key: bytes) -> Sequence[OpenedSegment]:
        """Renew a chart's segments one by one, so that a break loses one at the most; return all, opened."""
        async with self._replacing:
            opened = list(await self._opened(chart, key))
            for at, old in enumerate(opened):
                if old.is_of_today:
                    continue
                parts = await asyncio.to_thread(_unpacked, old)
                keys = [(row.id, row.version) for _, rows in parts for row in rows]
                envelopes = await self._vault.normalised(chart, keys)
                segment = await asyncio.to_thread(self._make_anew, key, old, parts, envelopes)
                await self._replace(segment, [old])
                opened[at] = open_parts(key, StoredSegment(chart, segment.number, _newest([old]), segment.ciphertext))
                self.counters["renewed"] += 1
        return opened

    def _make_anew(
        self, key: bytes, old: OpenedSegment, parts: Sequence[BatchRows], envelopes: Sequence[bytes]
    ) -> Segment:
        every = [row for _, rows in parts for row in rows]
        bodies = iter(open_contents(key, old.chart, every, envelopes))
        made = [(batch, [renewed(row, next(bodies)) for row in rows]) for batch, rows in parts]
        return seal_parts(key, old.chart, old.first, old.number, made, self._randomness)

    async def _renew_in_background(self) -> None:
        try:
            await self.renew_all()
        except Exception as error:
            # Charts are renewed when they are opened all the same; the next start tries the rest again.
            _log.error("reindex broke off", code=getattr(error, "code", type(error).__name__))

    # --- merging

    def appended(self, chart: str) -> None:
        """Note that a commit appended a segment to a chart."""
        count = self._appended.get(chart, 0) + 1
        self._appended[chart] = count
        if count >= self._merge_at:
            del self._appended[chart]
            self._crowded.put_nowait(chart)

    async def settle(self) -> None:
        """Wait until every chart that was found crowded has been seen to."""
        await self._crowded.join()

    async def _merge_forever(self) -> None:
        while True:
            chart = await self._crowded.get()
            try:
                await self.merge(chart)
            except Exception as error:
                # The chart stays as it was and is looked at again when more has been appended.
                _log.error("merge failed", code=getattr(error, "code", type(error).__name__))
            finally:
                self._crowded.task_done()

    async def merge(self, chart: str) -> None:
        """Merge a chart's segments until none stand together in such a number."""
        ref = self._registry.chart(chart)
        if ref is None:
            return
        while run := run_to_merge(await self._vault.segment_sizes(chart), self._merge_at):
            if not await self._merge(chart, self._registry.chart_key(ref), run):
                return

    async def _merge(self, chart: str, key: bytes, run: Sequence[int]) -> bool:
        async with self._replacing:
            wanted = frozenset(run)
            stored = [each for each in await self._vault.segments(chart) if each.number in wanted]
            opened = await asyncio.to_thread(_open_few, key, stored)
            if len(opened) != len(run) or len({each.definitions for each in opened}) != 1:
                # Somebody else has replaced some, or they are to be renewed first.
                return False
            segment = await asyncio.to_thread(seal_merged, key, opened, self._randomness)
            await self._replace(segment, opened)
            self.counters["merged"] += len(run)
        return True

    async def _replace(self, segment: Segment, old: Sequence[OpenedSegment]) -> None:
        replacement = Replacement(segment, _newest(old), tuple(each.number for each in old))
        await self._vault.commit(Work(replacements=[replacement]), None)


def _newest(segments: Sequence[OpenedSegment]) -> int:
    return max(part.batch for each in segments for part in each.parts)


def _unpacked(segment: OpenedSegment) -> list[BatchRows]:
    return [(part.batch, part.rows()) for part in segment.parts]


def _open_few(key: bytes, stored: Sequence[StoredSegment]) -> list[OpenedSegment]:
    return [open_parts(key, each) for each in stored]


def _open(key: bytes, stored: Sequence[StoredSegment]) -> list[OpenedSegment]:
    opened = _open_few(key, stored)
    check_numbers(opened)
    return opened
