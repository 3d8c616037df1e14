"""Memory of opened index rows: all charts of two hospitals, opened many times over in this process."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from fhir_bridge.lines.charts import OpenChart
from fhir_bridge.model.ingest import ChartRef
from fhir_bridge.seal.index import Part
from tests.bench.feeding import Figures
from tests.support.bridge_world import NAMES, fresh, running
from tests.support.hospitals import directory, lanes

_GC_THRESHOLDS = (50_000, 20, 50)
_ASKED = ("patient", "code", "date", "identifier")


def opened_rows(times: int) -> dict[str, Figures]:
    """Open every chart so often; return what a row takes, and what it takes once four parameters were asked for."""
    charts = asyncio.run(_charts())
    before_us = gc.get_threshold()
    # As the server has them: by Python's own the collector takes more than half of the time (2026-11).
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        return {"opened_rows": _measured(charts, times)}
    finally:
        gc.set_threshold(*before_us)


def _measured(charts: list[tuple[ChartRef, list[tuple[int, bytes]]]], times: int) -> Figures:
    gc.collect()
    before, begun = _resident(), time.process_time()
    held = [_opened(*each) for _ in range(times) for each in charts]
    took, rows = time.process_time() - begun, sum(len(each.rows) for each in held)
    gc.collect()
    opened = _resident() - before
    for each in held:
        for _, row in each.rows:
            for name in _ASKED:
                row.values_of(name)
    asked = _resident() - before
    return {
        "rows": rows,
        "bytes_per_row": round(opened / rows),
        "bytes_per_row_asked": round(asked / rows),
        "open_us_per_row": round(took / rows * 1e6, 1),
    }


async def _charts() -> list[tuple[ChartRef, list[tuple[int, bytes]]]]:
    """Return each chart with what its index segments hold, sent through the real line."""
    with TemporaryDirectory(prefix="fhir-bridge-bench-") as folder:
        async with running(fresh(Path(folder))) as world:
            for name in NAMES:
                await world.send(directory(name), name)
                for lane in lanes(name):
                    for message in lane.messages:
                        await world.send(message, name)
            book, registry = world.bridge.services.ingest._book, world.bridge.services.ingest._registry
            found = []
            for chart in registry.all_charts():
                loaded = await book._indexes.load(chart, registry.chart_key(chart))
                parts = [(part.batch, bytes(part.packed)) for segment in loaded.segments for part in segment.parts]
                found.append((chart, parts))
            return found


def _opened(chart: ChartRef, parts: list[tuple[int, bytes]]) -> OpenChart:
    made = OpenChart(chart)
    for batch, packed in parts:
        # A copy of its own, as each segment that is read from disk has.
        made.add(batch, Part(batch, bytes(bytearray(packed))).rows())
    made.visible(1 << 60)
    return made


def _resident() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10
