"""The pure rooms in worker processes, or in a thread of this one.

Each worker has a pipe of its own and does one message at a time, so that a
worker's death (killed, out of memory) is the end of exactly one message's
attempt: the message is done again by another worker, and its neighbours notice
nothing. The rooms are pure, so doing a message twice changes nothing. A message
whose workers keep dying is refused. Workers end with their parent, however it
ends.

Not concurrent.futures: when a worker dies, CPython 3.11's ProcessPoolExecutor
fails every message that waits, and now and then forgets them, so that whoever
waits for one waits for ever (its ``terminate_broken`` walks through a
dictionary that grows meanwhile).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import gc
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Final

from fhir_bridge.errors import Issue, RecordRefused, Unavailable
from fhir_bridge.intake import Limits
from fhir_bridge.lines.keeping import RECORDS_AT_ONCE, KeptRecords, decode, encode, in_blocks
from fhir_bridge.lines.pure import Flow, process
from fhir_bridge.model.ingest import ChartRef, Normalized, Processed, Received, SourceContext
from fhir_bridge.model.shared_bytes import CAN_SHARE, attached, shared
from fhir_bridge.ports.overflow import Overflow, Overflows

_ATTEMPTS: Final = 4
"""So many workers may die of one message: one may be killed by somebody else, or two."""
_STARTS: Final = 2
_DEADLY = Issue("error", "too-costly", "processing this message ends the process that does it")
_PR_SET_PDEATHSIG = 1
_END_S = 10.0
_WORTH_A_WORKER_BYTES = 32 << 20
"""A worker that has done so large a message is ended: what it has freed lies scattered and is not given back."""
_USED_UP: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})
"""What this process lacks, or the machine: no sign that a worker has died."""
_GC_THRESHOLDS = (50_000, 20, 50)

Work = Callable[[Received, SourceContext, Limits], Processed]


@dataclass(frozen=True, slots=True)
class Large:
    """From how many bytes on a message is large, so that what it makes is kept on disk, and where."""

    at_least_bytes: int
    overflows: Overflows

    def holds(self, received: Received, source: SourceContext) -> bool:
        """Tell whether a message is large; one on which a ruleset is tried is compared whole."""
        return CAN_SHARE and len(received.body) >= self.at_least_bytes and source.trial is None


class InlineRooms:
    """The pure rooms in a thread; for tools that handle a few messages."""

    def __init__(self, limits: Limits, large: Large | None = None) -> None:
        self._limits = limits
        self._large = large

    async def process(self, received: Received, source: SourceContext) -> Processed:
        """See :class:`fhir_bridge.ports.rooms.Rooms`."""
        if self._large is not None and self._large.holds(received, source):
            return await asyncio.to_thread(self._process_large, received, source, self._large.overflows.open())
        return await asyncio.to_thread(process, received, source, self._limits)

    def _process_large(self, received: Received, source: SourceContext, overflow: Overflow) -> Processed:
        kept, flow = KeptRecords(overflow), Flow(received, source, self._limits)
        for some in in_blocks(flow):
            kept.put(encode(some))
        kept.say_charts(flow.charts)
        return replace(flow.done, records=kept)

    async def close(self) -> None:
        """Nothing to stop."""


class WorkerRooms:
    """The pure rooms in ``workers`` processes, each started when first needed, each fed by a thread of this one."""

    work: Work = staticmethod(process)

    def __init__(self, workers: int, limits: Limits, large: Large | None = None) -> None:
        self._limits = limits
        self._large = large
        self._threads = ThreadPoolExecutor(workers, "room")
        self._own = threading.local()
        self._workers: set[_Worker] = set()
        self._is_closed = False

    async def process(self, received: Received, source: SourceContext) -> Processed:
        """See :class:`fhir_bridge.ports.rooms.Rooms`.

        Raises:
            RecordRefused: This message ended every worker that did it.
            Unavailable: Workers end as soon as they start, or the rooms are closed; safe to retry.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._process, received, source)
        except RuntimeError as error:  # the threads take no more
            if self._is_closed:
                raise Unavailable("the service is ending") from error
            raise

    async def close(self) -> None:
        """Stop the workers once they have finished what they hold."""
        self._is_closed = True
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)
        for worker in list(self._workers):
            await asyncio.to_thread(self._end, worker)

    @property
    def pids(self) -> list[int]:
        """The worker processes there are."""
        return [worker.pid for worker in list(self._workers)]

    # --- in a worker's thread

    def _process(self, received: Received, source: SourceContext) -> Processed:
        for _ in range(_ATTEMPTS):
            try:
                done = self._asked(received, source)
            except (EOFError, OSError) as error:
                if getattr(error, "errno", None) in _USED_UP:
                    raise Unavailable("no descriptors or no memory are left for worker processes") from error
                # A ruleset on trial may be what ended it, and must not cost the message.
                source = replace(source, trial=None)
                continue
            # Outside: what the work raised may be an OSError too, and says nothing about the worker.
            if isinstance(done, Exception):
                raise done
            return done
        raise RecordRefused([_DEADLY])

    def _asked(self, received: Received, source: SourceContext) -> Processed | Exception:
        """Have a worker do a message once.

        Raises:
            EOFError, OSError: The worker has died.
        """
        if self._large is None or not self._large.holds(received, source):
            with self._working(received) as worker:
                return worker.ask(received, source, self._limits)
        # Before a worker is asked: that there is no room is not its fault.
        kept = KeptRecords(self._large.overflows.open())
        with shared(received.body) as memory, self._working(received) as worker:
            done = worker.ask_large(received, source, self._limits, memory, kept)
            if isinstance(done, Exception):
                # Its traceback holds the message there, with two descriptors.
                self._end(worker)
            return done

    @contextmanager
    def _working(self, received: Received) -> Iterator[_Worker]:
        """Give this thread's worker, which stays only if its answer was taken whole."""
        worker = self._worker()
        try:
            yield worker
        except BaseException:
            # What it still sends would be taken for the answer to the next message.
            self._end(worker)
            raise
        if len(received.body) >= _WORTH_A_WORKER_BYTES:
            self._end(worker)

    def _worker(self) -> _Worker:
        """Return this thread's worker, started if there is none or it has died since."""
        worker: _Worker | None = getattr(self._own, "worker", None)
        if worker is not None and worker.is_alive:
            return worker
        if worker is not None:
            self._end(worker)
        for _ in range(_STARTS):
            worker = _Worker(self.work)
            if worker.is_ready():
                self._own.worker = worker
                self._workers.add(worker)
                return worker
            worker.end()
        raise Unavailable("worker processes end as soon as they start")

    def _end(self, worker: _Worker) -> None:
        self._workers.discard(worker)
        if getattr(self._own, "worker", None) is worker:
            self._own.worker = None
        worker.end()


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, work: Work) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, os.getpid(), work), daemon=True, name="room")
        self._process.start()
        # Held here too, its end could not be told from the other side's.
        theirs.close()
        self._numbers = itertools.count()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def is_ready(self) -> bool:
        """Wait for the worker's first word; False if it ended before."""
        try:
            return self._pipe.recv() is None
        except (EOFError, OSError):
            return False

    def ask(self, received: Received, source: SourceContext, limits: Limits) -> Processed | Exception:
        """Have one message done; return what came of it, or what the work raised.

        Raises:
            EOFError, OSError: The worker has died, or answers another message.
        """
        number = self._send(received, source, limits)
        self._pipe.send_bytes(received.body)
        self._expect(number)
        return _taken(self._pipe)

    def ask_large(
        self, received: Received, source: SourceContext, limits: Limits, memory: int, kept: KeptRecords
    ) -> Processed | Exception:
        """Have a large message done, its records put to ``kept`` as they come; else as :meth:`ask`.

        Args:
            memory: Descriptor of shared memory that holds the body.

        Raises:
            EOFError, OSError: The worker has died, or answers another message.
            Unavailable: The records cannot be kept.
        """
        number = self._send(received, source, limits, len(received.body))
        send_handle(self._pipe, memory, self.pid)
        self._expect(number)
        while block := self._pipe.recv_bytes():
            kept.put(block)
        received_last: tuple[Processed | Exception, Mapping[int, ChartRef | None]] = self._pipe.recv()
        done, charts = received_last
        if isinstance(done, Exception):
            return done
        kept.say_charts(charts)
        return replace(done, records=kept)

    def _send(self, received: Received, source: SourceContext, limits: Limits, shared_bytes: int = 0) -> int:
        number = next(self._numbers)
        self._pipe.send((number, replace(received, body=b""), source, limits, shared_bytes))
        return number

    def _expect(self, number: int) -> None:
        """Wait for the beginning of the answer to a message.

        Raises:
            EOFError, OSError: The worker has died, or answers another message.
        """
        if self._pipe.recv() != number:
            raise OSError("a worker answers another message than it was given")

    def end(self) -> None:
        """End the process, in order if it still listens."""
        self._pipe.close()
        self._process.join(_END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(_END_S)


def _serve(pipe: Connection, parent: int, work: Work) -> None:
    """Do one message after the other until the other side closes."""
    _end_with_parent(parent)
    gc.set_threshold(*_GC_THRESHOLDS)
    with contextlib.suppress(EOFError, OSError):
        pipe.send(None)
        for number in itertools.count():
            _serve_one(pipe, work)
            if number == 0:
                _spare_the_collector()


def _serve_one(pipe: Connection, work: Work) -> None:
    """Wait for a message and give what comes of it."""
    number, received, source, limits, shared_bytes = pipe.recv()
    if shared_bytes:
        handle = recv_handle(pipe)
        pipe.send(number)
        _give_flow(pipe, lambda: Flow(replace(received, body=attached(handle, shared_bytes)), source, limits))
    else:
        done = _done(replace(received, body=pipe.recv_bytes()), source, limits, work)
        pipe.send(number)
        _give(pipe, done)


def _done(received: Received, source: SourceContext, limits: Limits, work: Work) -> Processed | Exception:
    try:
        return work(received, source, limits)
    except Exception as error:  # noqa: BLE001 - it is raised on the other side of the pipe
        return error


def _give_flow(pipe: Connection, begin: Callable[[], Flow]) -> None:
    """Send the records of a large message as they come, in blocks that end with an empty one, then the rest."""
    done: Processed | Exception
    charts: Mapping[int, ChartRef | None] = {}
    try:
        flow = begin()
        for block in in_blocks(flow):
            pipe.send_bytes(encode(block))
        done, charts = flow.done, flow.charts
    except Exception as error:  # noqa: BLE001 - it is raised on the other side of the pipe
        done = error
    pipe.send_bytes(b"")
    pipe.send((done, charts))


def _give(pipe: Connection, done: Processed | Exception) -> None:
    """Send what came of a message, its records a few at a time: all of them encoded would be held once more."""
    if isinstance(done, Exception):
        pipe.send((done, 0))
        return
    records, done = list(done.records), replace(done, records=())
    records.reverse()
    pipe.send((done, len(records)))
    while records:
        pipe.send_bytes(encode(records[-RECORDS_AT_ONCE:][::-1]))
        # What the other side holds by now need not be held here.
        del records[-RECORDS_AT_ONCE:]


def _taken(pipe: Connection) -> Processed | Exception:
    """Receive what :func:`_give` sends."""
    received: tuple[Processed | Exception, int] = pipe.recv()
    done, count = received
    records: list[Normalized] = []
    while len(records) < count:
        records += decode(pipe.recv_bytes())
    return replace(done, records=tuple(records)) if isinstance(done, Processed) and records else done


def _spare_the_collector() -> None:
    """Keep the cyclic collector from walking through a message's values again and again while they are made.

    What a message leaves behind is freed by its reference counts, and the definitions that its first one loaded stay.
    With the defaults a seventh of the time for a bundle of 536 resources went there (2026-11).
    """
    gc.collect()
    gc.freeze()


def _end_with_parent(parent: int) -> None:
    """Ask the kernel to end this worker when its parent dies, and leave signals of the terminal to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
