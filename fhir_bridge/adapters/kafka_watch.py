"""Tells a Kafka reader that stands still before messages from one that has nothing to read.

A consumer can look healthy and fetch nothing: its connections answer and its
fetches come back empty, for all partitions or for one. So whenever a partition
has not moved for a while although the broker holds something behind its
position, a second consumer looks there once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

STILL_S = 10.0
_LONGEST_S = 320.0
_LOOK_MS = 5_000


@dataclass(slots=True)
class _Standing:
    """Where a partition's reading stands, since how much waiting, and how long that is borne."""

    offset: int | None
    since_s: float
    patience_s: float


class ReaderWatch:
    """One reader's progress; ``reopened`` counts how often it was found standing still."""

    def __init__(self, make: Callable[[], Any], stop: Callable[[Any], Awaitable[None]]) -> None:
        """Take what makes a consumer that belongs to no group and is not started, and what stops one safely."""
        self.reopened = 0
        self._make = make
        self._stop = stop
        self._waited_s = self._looked_s = 0.0
        self._standing: dict[Any, _Standing] = {}

    def waited(self, seconds: float) -> None:
        """Note how long a fetch waited. Time between fetches does not count: then nobody asked for messages."""
        self._waited_s += seconds

    async def is_stuck(self, consumer: Any, positions: Mapping[Any, int | None]) -> bool:
        """Tell whether a reader should be opened anew; asks the broker only when a partition has long stood.

        What stands behind a position may be nothing that anybody is given (a transaction's mark), and then each look
        is in vain; so patience with that partition doubles with each.

        Args:
            positions: Where each partition's reading stands: the next offset.
        """
        if self._waited_s < self._looked_s + STILL_S / 10:
            return False
        self._looked_s = self._waited_s
        still = self._long_still(positions)
        if not still:
            return False
        ends = await consumer.end_offsets(list(still))
        behind = {each: at for each, at in still.items() if at < ends[each]}
        is_stuck = bool(behind) and await self._holds_messages(behind)
        self._bear_longer(still, behind)
        self.reopened += is_stuck
        return is_stuck

    def _long_still(self, positions: Mapping[Any, int | None]) -> dict[Any, int]:
        still: dict[Any, int] = {}
        for each, offset in positions.items():
            known = self._standing.get(each)
            if known is None or known.offset != offset:
                self._standing[each] = _Standing(offset, self._waited_s, STILL_S)
            elif offset is not None and self._waited_s >= known.since_s + known.patience_s:
                still[each] = offset
        return still

    def _bear_longer(self, still: Iterable[Any], behind: Mapping[Any, int]) -> None:
        for each in still:
            known = self._standing[each]
            known.since_s = self._waited_s
            known.patience_s = min(2 * known.patience_s, _LONGEST_S) if each in behind else STILL_S

    async def _holds_messages(self, positions: Mapping[Any, int]) -> bool:
        second = self._make()
        try:
            await second.start()
            second.assign(list(positions))
            for partition, offset in positions.items():
                second.seek(partition, offset)
            return bool(await second.getmany(timeout_ms=_LOOK_MS, max_records=1))
        finally:
            await self._stop(second)
