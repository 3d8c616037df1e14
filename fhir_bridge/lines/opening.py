"""Open the bodies of what an answer shows, and of nothing else.

For the answer line. Charts are read side by side; many records are opened in
a thread, so that others' answers go on meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fhir_bridge.errors import KeyMissing
from fhir_bridge.lines.registry import Registry
from fhir_bridge.model.access import Found
from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.ports.vault import Vault
from fhir_bridge.seal import open_contents

FEW = 50
"""So many records are opened or joined in less than a millisecond, which a thread's hand-over costs as well."""

FEW_BYTES = 256 << 10
"""In all: large records take a thread, however few they are."""


class Opening:
    """Turns rows of a permitted view into the exact bytes of their records."""

    def __init__(self, *, vault: Vault, registry: Registry) -> None:
        self._vault = vault
        self._registry = registry

    async def bodies(self, found: Sequence[Found]) -> list[bytes]:
        """Return the normalised forms of what was found, in order; empty for a tombstone."""
        by_chart: dict[str, list[int]] = {}
        for place, each in enumerate(found):
            if not each.row.deleted:
                by_chart.setdefault(each.chart, []).append(place)
        bodies = [b""] * len(found)
        opened = await asyncio.gather(
            *(self._open(chart, [found[place].row for place in places]) for chart, places in by_chart.items())
        )
        for places, contents in zip(by_chart.values(), opened, strict=True):
            for place, body in zip(places, contents, strict=True):
                bodies[place] = body
        return bodies

    async def _open(self, chart: str, rows: Sequence[IndexRow]) -> Sequence[bytes]:
        envelopes = await self._vault.normalised(chart, [(row.id, row.version) for row in rows])
        ref = self._registry.chart(chart)
        if ref is None:
            raise KeyMissing("a chart of the answer is not known")
        key = self._registry.chart_key(ref)
        if len(rows) <= FEW and sum(map(len, envelopes)) <= FEW_BYTES:
            return open_contents(key, chart, rows, envelopes)
        return await asyncio.to_thread(open_contents, key, chart, rows, envelopes)
