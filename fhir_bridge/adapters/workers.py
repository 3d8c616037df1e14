"""The pure rooms in worker processes, or in a thread of this one.

A worker that dies (killed, out of memory) is replaced and its messages are
done again; the rooms are pure, so doing them twice changes nothing. A message
whose workers keep dying is done alone, twice at the most: if those workers die
too, it is this message, which is refused so that its neighbours go on. One
worker serves all who have to be alone, one after the other. Workers end with
their parent, however it ends.
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

from fhir_bridge.errors import Issue, RecordRefused, Unavailable
from fhir_bridge.intake import Limits
from fhir_bridge.lines.pure import process
from fhir_bridge.model.ingest import Processed, Received, SourceContext

_ATTEMPTS = _ATTEMPTS_ALONE = 2
_DEADLY = Issue("error", "too-costly", "processing this message ends the process that does it")
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

    work = staticmethod(process)

    def __init__(self, workers: int, limits: Limits) -> None:
        self._workers = workers
        self._limits = limits
        self._pool: ProcessPoolExecutor | None = None
        self._solitary: ProcessPoolExecutor | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def process(self, received: Received, source: SourceContext) -> Processed:
        """See :class:`fhir_bridge.ports.rooms.Rooms`.

        Raises:
            RecordRefused: Doing this message alone ended the workers that did nothing else.
            Unavailable: Workers end as soon as they start; safe to retry.
        """
        for _ in range(_ATTEMPTS):
            pool = self._started()
            try:
                return await self._run(pool, received, source)
            except BrokenProcessPool:
                if self._pool is pool:
                    self._pool = None
                    _end(pool)
        self._waiting += 1
        try:
            async with self._turn:
                return await self._process_alone(received, source)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._end_solitary()

    async def _process_alone(self, received: Received, source: SourceContext) -> Processed:
        for _ in range(_ATTEMPTS_ALONE):
            try:
                return await self._run(await self._solitary_pool(), received, source)
            except BrokenProcessPool:
                self._end_solitary()
        raise RecordRefused([_DEADLY])

    async def _solitary_pool(self) -> ProcessPoolExecutor:
        """Return a pool of one worker that lives: the one there is, or another."""
        loop = asyncio.get_running_loop()
        for _ in range(_ATTEMPTS_ALONE):
            if self._solitary is None:
                self._solitary = _pool(1)
            try:
                await loop.run_in_executor(self._solitary, os.getpid)
            except BrokenProcessPool:
                self._end_solitary()
            else:
                return self._solitary
        raise Unavailable("worker processes end as soon as they start")

    def _end_solitary(self) -> None:
        if self._solitary is not None:
            _end(self._solitary)
            self._solitary = None

    async def _run(self, pool: ProcessPoolExecutor, received: Received, source: SourceContext) -> Processed:
        return await asyncio.get_running_loop().run_in_executor(pool, self.work, received, source, self._limits)

    async def close(self) -> None:
        """Stop the workers once they have finished what they hold."""
        self._end_solitary()
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = _pool(self._workers)
        return self._pool


def _end(pool: ProcessPoolExecutor) -> None:
    pool.shutdown(wait=False, cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_end_with_parent,
        initargs=(os.getpid(),),
    )


def _end_with_parent(parent: int) -> None:
    """Ask the kernel to end this worker when its parent dies, and leave signals of the terminal to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
