"""Tells a Kafka reader that stands still before messages from one that has nothing to read.

A consumer can look healthy and fetch nothing: its connections answer and its
fetches come back empty. So whenever nothing has come for a while although the
broker holds something behind a position, a second consumer looks there once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

STILL_S = 10.0
_LONGEST_S = 320.0
_LOOK_MS = 5_000


class ReaderWatch:
    """One reader's progress; ``reopened`` counts how often it was found standing still."""

    def __init__(self, make: Callable[[], Any], stop: Callable[[Any], Awaitable[None]]) -> None:
        """Take what makes a consumer that belongs to no group and is not started, and what stops one safely."""
        self.reopened = 0
        self._make = make
        self._stop = stop
        self._patience_s = STILL_S
        self._in_vain_s = 0.0

    def fetched(self, count: int, seconds: float) -> None:
        """Note a fetch: how many messages it brought and how long it waited. Time between fetches does not count."""
        if count:
            self._patience_s, self._in_vain_s = STILL_S, 0.0
        else:
            self._in_vain_s += seconds

    async def is_stuck(self, consumer: Any, positions: Mapping[Any, int | None]) -> bool:
        """Tell whether a reader should be opened anew; asks the broker only when nothing came for a while.

        What stands behind a position may be nothing that anybody is given (a transaction's mark), and then each look
        is in vain; so patience doubles with each.

        Args:
            positions: Where each partition's reading stands: the next offset.
        """
        if not positions or self._in_vain_s < self._patience_s:
            return False
        self._in_vain_s = 0.0
        ends = await consumer.end_offsets(list(positions))
        behind = {each: at for each, at in positions.items() if at is not None and at < ends[each]}
        if not behind:
            return False
        self._patience_s = min(2 * self._patience_s, _LONGEST_S)
        is_stuck = await self._holds_messages(behind)
        self.reopened += is_stuck
        return is_stuck

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
