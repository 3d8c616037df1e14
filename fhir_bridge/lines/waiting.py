"""Messages on the ingest line that no group has taken yet, in the order they came."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence

from fhir_bridge.lines.jobs import Job


class WaitingJobs:
    """A queue for one consumer, who takes groups from its front and may put them back."""

    def __init__(self, *, max_messages: int, max_bytes: int) -> None:
        """Take what a group may hold; the message that reaches ``max_bytes`` is its last."""
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._jobs: deque[Job] = deque()
        self._some = asyncio.Event()

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def put(self, job: Job) -> None:
        """Put a message at the end."""
        self._jobs.append(job)
        self._some.set()

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Put a group where it was, before all others."""
        self._jobs.extendleft(reversed(jobs))
        self._some.set()

    def take_all(self) -> list[Job]:
        """Take everything, whether its rooms are done or not."""
        taken = list(self._jobs)
        self._jobs.clear()
        return taken

    async def group(self) -> list[Job]:
        """Wait for the oldest message and its rooms, then take what is ready."""
        while not self._jobs:
            self._some.clear()
            await self._some.wait()
        await asyncio.wait([self._jobs[0].processed])
        return self.ready()

    def ready(self, *, must_be_full: bool = False) -> list[Job]:
        """Take the oldest messages whose rooms are done, as many as a group may hold.

        Args:
            must_be_full: Take none if a group could hold more.
        """
        count = size = 0
        for job in self._jobs:
            if self._is_full(count, size) or not job.processed.done():
                break
            count += 1
            size += job.weight
        if must_be_full and not self._is_full(count, size):
            return []
        return [self._jobs.popleft() for _ in range(count)]

    def _is_full(self, count: int, size: int) -> bool:
        return count >= self._max_messages or size >= self._max_bytes
