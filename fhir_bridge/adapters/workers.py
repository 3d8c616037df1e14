"""The pure rooms in worker processes, or in a thread of this one.

A worker that dies (killed, out of memory) is replaced and its messages are
done again; the rooms are pure, so doing them twice changes nothing. Workers
end with their parent, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from fhir_bridge.errors import Unavailable
from fhir_bridge.intake import Limits
from fhir_bridge.lines.pure import process
from fhir_bridge.model.ingest import Processed, Received, SourceContext

_ATTEMPTS = 3
_PR_SET_PDEATHSIG = 1


class InlineRooms:
    """The pure rooms in a thread; for tools that handle a few messages."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    async def process(self, received: Received, source: SourceContext) -> Processed:
        """See :class:`fhir_bridge.ports.rooms.Rooms`."""
        return await asyncio.to_thread(process, received, source, self._limits)

    async def close(self) -> None:
        """Nothing to stop."""


class WorkerRooms:
    """The pure rooms in ``workers`` processes, started when first needed."""

    def __init__(self, workers: int, limits: Limits) -> None:
        self._workers = workers
        self._limits = limits
        self._pool: ProcessPoolExecutor | None = None

    async def process(self, received: Received, source: SourceContext) -> Processed:
        """See :class:`fhir_bridge.ports.rooms.Rooms`."""
        loop = asyncio.get_running_loop()
        for _ in range(_ATTEMPTS):
            pool = self._started()
            try:
                return await loop.run_in_executor(pool, process, received, source, self._limits)
            except BrokenProcessPool:
                if self._pool is pool:
                    self._pool = None
                    pool.shutdown(wait=False, cancel_futures=True)
        raise Unavailable("worker processes end as soon as they start")

    async def close(self) -> None:
        """Stop the workers once they have finished what they hold."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_end_with_parent,
                initargs=(os.getpid(),),
            )
        return self._pool


def _end_with_parent(parent: int) -> None:
    """Ask the kernel to end this worker when its parent dies, and leave signals of the terminal to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
