"""One node, one writer thread, group commit.

A block takes whatever is waiting when the one before it is durable, so a single
submission is quick and a busy ledger commits in large groups without any timer.
The signatures of a block are checked by other threads while the one before it
is written; checking is pure, so who does it changes no outcome. The writer reads
the envelopes itself: reading needs the interpreter's lock all the time, and
threads that fight over it cost more than they save. Futures resolve after the
commit: an accepted transaction survives loss of power.

Invariants:
    * the published head is durable before anybody can see it;
    * an envelope that was accepted before is answered with its first position
      and changes nothing;
    * after a storage failure nothing more is taken until the ledger is opened again;
    * but while a store's server is away, what is submitted fails, and what became of the
      block that it was lost in is found out before the next one is made.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from ledger_core.checkpoint import Checkpoint, sign_checkpoint
from ledger_core.errors import LedgerAway, LedgerBusy, LedgerClosed, LedgerUnavailable, TransactionRefused
from ledger_core.keys import Identity
from ledger_core.log import TiledLog
from ledger_core.machine import Accepted, BlockResult, Header, Result, State, apply_block
from ledger_core.ports import Commit, Store, Submission, commit_of, find_accepted
from ledger_core.transactions import Prepared, check_signatures, prepare

_POLL_S: Final = 0.001
# Fewer than this are checked at once by the writer: handing them over costs more than it saves.
_WORTH_SHARING: Final = 8
# With fewer waiting, the next block had better be gathered after this one: it is larger then.
_WORTH_AHEAD: Final = 128
_CHECKERS: Final = 2

Outcome: TypeAlias = Accepted | TransactionRefused


@dataclass(slots=True)
class _Job:
    """Envelopes submitted together, the outcomes so far, and who waits for them."""

    envelopes: Sequence[bytes]
    is_single: bool
    # Accepted for a single envelope, else list[Outcome].
    future: "Future[Any]" = field(default_factory=Future)
    outcomes: list[Outcome] = field(default_factory=list)
    taken: int = 0

    def settle(self) -> None:
        """Resolve the future if every envelope has its outcome."""
        # A caller may have cancelled; the transactions are in the log all the same.
        if len(self.outcomes) < len(self.envelopes) or not self.future.set_running_or_notify_cancel():
            return
        if not self.is_single:
            self.future.set_result(self.outcomes)
        elif isinstance(self.outcomes[0], Accepted):
            self.future.set_result(self.outcomes[0])
        else:
            self.future.set_exception(self.outcomes[0])


_Slice: TypeAlias = tuple[_Job, int, int]


@dataclass(slots=True)
class _Group:
    """What one block takes: slices of jobs, and their envelopes once checked."""

    slices: list[_Slice]
    checked: "Sequence[Future[list[Prepared]]] | None" = None

    def read(self) -> list[Prepared]:
        return [
            prepare(each, signatures=False) for job, begin, end in self.slices for each in job.envelopes[begin:end]
        ]

    def prepared(self) -> list[Prepared]:
        if self.checked is None:
            return _check_all(self.read())
        return [each for part in self.checked for each in part.result()]


class EmbeddedEngine:
    """Orders transactions in one thread and commits them in groups."""

    def __init__(
        self,
        *,
        store: Store,
        state: State,
        log: TiledLog,
        origin: str,
        log_identity: Identity,
        clock_ms: Callable[[], int],
        max_block: int = 512,
        max_waiting: int = 4096,
    ) -> None:
        self._store, self._state, self._log = store, state, log
        self._origin, self._log_identity, self._clock_ms = origin, log_identity, clock_ms
        self._max_block, self._max_waiting = max_block, max_waiting
        self._room: deque[_Job] = deque()
        self._waiting = 0
        self._changed = threading.Condition()
        self._is_closed = False
        self._failure: LedgerUnavailable | None = None
        self._doubtful: tuple[Commit, State] | None = None
        self._checkers = ThreadPoolExecutor(_CHECKERS, "ledger-checker")
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    @property
    def state(self) -> State:
        """The newest durable state; never changes once returned."""
        return self._state

    def submit(self, envelope: bytes, *, timeout_ms: int = 10_000) -> "Future[Accepted]":
        """Queue an envelope; the future resolves when it is durable or refused.

        Waits for a place at most ``timeout_ms``. There is one while fewer than
        ``max_waiting`` transactions wait.

        Raises:
            LedgerBusy: No place became free in time; nothing was taken.
            LedgerClosed: The ledger is closed or has stopped.
        """
        return self._enqueue(_Job((envelope,), True), timeout_ms)

    def submit_many(self, envelopes: Sequence[bytes], *, timeout_ms: int = 10_000) -> "Future[list[Outcome]]":
        """Queue envelopes in order; the future resolves when each is durable or refused; otherwise as ``submit``."""
        return self._enqueue(_Job(tuple(envelopes), False), timeout_ms)

    async def asubmit(self, envelope: bytes, *, timeout_ms: int = 10_000) -> Accepted:
        """Submit from an event loop without blocking it; otherwise as ``submit``.

        Raises:
            TransactionRefused: The rules refuse it.
            LedgerBusy: No place became free in time; nothing was taken.
            LedgerClosed: The ledger is closed or has stopped.
        """
        job = _Job((envelope,), True)
        deadline = time.monotonic() + timeout_ms / 1000
        while not self._offer(job):
            if time.monotonic() >= deadline:
                raise LedgerBusy("the queue of the ledger stayed full")
            await asyncio.sleep(_POLL_S)
        # Shielded: a caller who gives up must not cancel what is already being committed.
        accepted: Accepted = await asyncio.shield(asyncio.wrap_future(job.future))
        return accepted

    def close(self) -> None:
        """Commit what is queued and stop; calling again does nothing.

        Raises:
            RuntimeError: Called from a future's callback, which runs in the writer that is to end.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("the ledger cannot be closed from a future's callback: close it from another thread")
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()
        self._checkers.shutdown()

    def _enqueue(self, job: _Job, timeout_ms: int) -> "Future[Any]":
        deadline = time.monotonic() + timeout_ms / 1000
        if not job.envelopes:
            job.settle()
            return job.future
        while not self._offer(job):
            with self._changed:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise LedgerBusy("the queue of the ledger stayed full")
                if self._waiting >= self._max_waiting:
                    self._changed.wait(left)
        return job.future

    def _offer(self, job: _Job) -> bool:
        with self._changed:
            if self._is_closed or self._failure is not None:
                raise LedgerClosed("the ledger is closed") from self._failure
            # Told to the caller at once: in the writer it would stop the ledger for everybody.
            if not all(isinstance(each, bytes) for each in job.envelopes):
                raise TypeError("an envelope is bytes")
            if self._waiting >= self._max_waiting:
                return False
            self._room.append(job)
            self._waiting += len(job.envelopes)
            self._changed.notify_all()
        return True

    def _run(self) -> None:
        ahead: _Group | None = None
        while True:
            group = ahead or self._gather(is_patient=True)
            if group is None:
                return
            ahead = None
            try:
                if self._failure is not None:
                    raise LedgerClosed("the ledger stopped after a storage failure")
                prepared = group.prepared()
                if self._waiting >= _WORTH_AHEAD:
                    ahead = self._gather(is_patient=False)
                self._commit(group, prepared)
            except LedgerAway as away:
                self._turn_away([group, ahead], away)
                ahead = None
            except LedgerUnavailable as failure:
                self._fail(group, failure)
            except Exception as failure:  # noqa: BLE001 - the thread must answer every waiting caller
                self._fail(group, LedgerUnavailable(f"the ledger's writer stopped: {type(failure).__name__}"))

    def _gather(self, *, is_patient: bool) -> _Group | None:
        """Take what is waiting, up to a block; begin to check it if it is much."""
        slices: list[_Slice] = []
        count = 0
        with self._changed:
            while is_patient and not self._room and not self._is_closed:
                self._changed.wait()
            while self._room and count < self._max_block:
                job = self._room[0]
                end = min(len(job.envelopes), job.taken + self._max_block - count)
                slices.append((job, job.taken, end))
                count += end - job.taken
                job.taken = end
                if end == len(job.envelopes):
                    self._room.popleft()
            self._waiting -= count
            if count:
                self._changed.notify_all()
        if not slices:
            return None
        group = _Group(slices)
        if count >= _WORTH_SHARING:
            read = group.read()
            width = -(-count // _CHECKERS)
            parts = [read[begin : begin + width] for begin in range(0, count, width)]
            # No thread to be had, or the interpreter is ending: the writer checks them itself.
            with contextlib.suppress(RuntimeError):
                group.checked = [self._checkers.submit(_check_all, part) for part in parts]
        return group

    def _commit(self, group: _Group, prepared: list[Prepared]) -> None:
        self._settle()
        state = self._state
        header = Header(state.header.height + 1, max(state.header.time_ms, self._clock_ms()))
        block = apply_block(state, header, prepared)
        if block.entries:
            row = block.state.row()
            checkpoint = Checkpoint(self._origin, row.size, row.log_root)
            note = sign_checkpoint(checkpoint, self._log_identity, time_s=header.time_ms // 1000)
            commit = commit_of(block, self._log, note, _submissions(prepared, block.results))
            self._doubtful = commit, block.state
            self._store.commit(commit)
            self._publish(commit, block.state)
        self._answer(group, prepared, block, header.height)

    def _settle(self) -> None:
        """Find out what became of the block that the store's server was lost in, if it was."""
        if self._doubtful is None:
            return
        commit, state = self._doubtful
        if self._store.recover() == commit.row:
            self._publish(commit, state)
        self._doubtful = None

    def _publish(self, commit: Commit, state: State) -> None:
        self._log.publish(commit.tiles, commit.row.size)
        self._state, self._doubtful = state, None

    def _answer(self, group: _Group, prepared: list[Prepared], block: BlockResult, height: int) -> None:
        judged = zip(prepared, block.results, strict=True)
        outcomes = iter([self._outcome(item, result, height) for item, result in judged])
        for job, begin, end in group.slices:
            job.outcomes += [next(outcomes) for _ in range(begin, end)]
            job.settle()

    def _outcome(self, item: Prepared, result: Result, height: int) -> Outcome:
        if result.index is not None:
            return Accepted(result.index, height, result.digest, False)
        earlier = find_accepted(self._store, item)
        return earlier or TransactionRefused(result.code)

    def _turn_away(self, groups: Sequence[_Group | None], away: LedgerAway) -> None:
        """Answer all that waits: nonces rise in the order of submission, so none may pass those that failed."""
        with self._changed:
            waiting = [*self._room]
            self._room.clear()
            self._waiting = 0
            self._changed.notify_all()
        for job in [*waiting, *(job for group in groups if group for job, _, _ in group.slices)]:
            _answer(job, away)

    def _fail(self, group: _Group, failure: LedgerUnavailable) -> None:
        with self._changed:
            self._failure = self._failure or failure
            self._changed.notify_all()
        for job, _, _ in group.slices:
            _answer(job, failure)


def _answer(job: _Job, failure: LedgerUnavailable) -> None:
    with contextlib.suppress(Exception):
        if not job.future.done() and job.future.set_running_or_notify_cancel():
            job.future.set_exception(failure)


def _check_all(read: Sequence[Prepared]) -> list[Prepared]:
    return [check_signatures(each) for each in read]


def _submissions(prepared: Sequence[Prepared], results: Sequence[Result]) -> tuple[Submission, ...]:
    made: list[Submission] = []
    for item, result in zip(prepared, results, strict=True):
        transaction = item.transaction
        if result.index is not None and transaction is not None:
            made.append(Submission(transaction.signer, transaction.nonce, result.index))
    return tuple(made)
