"""One node, one writer thread, group commit.

A block takes whatever is waiting when the one before it is durable, so a single
submission is quick and a busy ledger commits in large groups without any timer.
Futures resolve after the commit: an accepted transaction survives loss of power.

Invariants:
    * the published head is durable before anybody can see it;
    * an envelope that was accepted before is answered with its first position
      and changes nothing;
    * after a storage failure nothing more is taken until the ledger is opened again.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Protocol, TypeAlias

from ledger_core.checkpoint import Checkpoint, sign_checkpoint
from ledger_core.errors import LedgerBusy, LedgerClosed, LedgerUnavailable, TransactionRefused
from ledger_core.keys import Identity
from ledger_core.log import History
from ledger_core.machine import Accepted, BlockResult, Header, Result, State, apply_block

_POLL_S: Final = 0.001


class BlockStore(Protocol):
    """What the engine needs of a store."""

    def commit(self, block: BlockResult, note: str) -> None:
        """Keep a block; return once it survives loss of power."""
        ...

    def find(self, digest: bytes) -> tuple[int, int] | None:
        """Return entry index and block height of an accepted envelope, or None."""
        ...


_Waiting: TypeAlias = tuple[bytes, "Future[Accepted]"]


class EmbeddedEngine:
    """Orders transactions in one thread and commits them in groups."""

    def __init__(
        self,
        *,
        store: BlockStore,
        state: State,
        history: History,
        origin: str,
        log_identity: Identity,
        clock_ms: Callable[[], int],
        max_block: int = 512,
        max_waiting: int = 4096,
    ) -> None:
        self._store, self._state, self._history = store, state, history
        self._origin, self._log_identity, self._clock_ms = origin, log_identity, clock_ms
        self._max_block = max_block
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(max_waiting)
        self._gate = threading.Lock()
        self._is_closed = False
        self._failure: LedgerUnavailable | None = None
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    @property
    def state(self) -> State:
        """The newest durable state; never changes once returned."""
        return self._state

    def submit(self, envelope: bytes, *, timeout_ms: int = 10_000) -> "Future[Accepted]":
        """Queue an envelope; the future resolves when it is durable or refused.

        Waits for a place in the queue for at most ``timeout_ms``.

        Raises:
            LedgerBusy: No place became free in time; nothing was taken.
            LedgerClosed: The ledger is closed or has stopped.
        """
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            future = self._offer(envelope)
            if future is not None:
                return future
            if time.monotonic() >= deadline:
                raise LedgerBusy("the queue of the ledger stayed full")
            time.sleep(_POLL_S)

    async def asubmit(self, envelope: bytes, *, timeout_ms: int = 10_000) -> Accepted:
        """Submit from an event loop without blocking it; otherwise as ``submit``.

        Raises:
            TransactionRefused: The rules refuse it.
            LedgerBusy: No place became free in time; nothing was taken.
            LedgerClosed: The ledger is closed or has stopped.
        """
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            future = self._offer(envelope)
            if future is not None:
                # Shielded: a caller who gives up must not cancel what is already being committed.
                return await asyncio.shield(asyncio.wrap_future(future))
            if time.monotonic() >= deadline:
                raise LedgerBusy("the queue of the ledger stayed full")
            await asyncio.sleep(_POLL_S)

    def close(self) -> None:
        """Commit what is queued and stop; calling again does nothing."""
        with self._gate:
            already, self._is_closed = self._is_closed, True
        if not already:
            self._queue.put(None)
        self._thread.join()

    def _offer(self, envelope: bytes) -> "Future[Accepted] | None":
        future: Future[Accepted] = Future()
        # Under the gate, so that nothing is queued behind the mark that close() leaves.
        with self._gate:
            if self._is_closed or self._failure is not None:
                raise LedgerClosed("the ledger is closed") from self._failure
            try:
                self._queue.put_nowait((envelope, future))
            except queue.Full:
                return None
        return future

    def _run(self) -> None:
        is_last = False
        while not is_last:
            group, is_last = self._gather()
            if not group:
                continue
            try:
                if self._failure is not None:
                    raise LedgerClosed("the ledger stopped after a storage failure")
                self._commit(group)
            except LedgerUnavailable as failure:
                self._fail(group, failure)
            except Exception as failure:  # noqa: BLE001 - the thread must answer every waiting caller
                self._fail(group, LedgerUnavailable(f"the ledger's writer stopped: {type(failure).__name__}"))

    def _gather(self) -> tuple[list[_Waiting], bool]:
        first = self._queue.get()
        if first is None:
            return [], True
        group = [first]
        while len(group) < self._max_block:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None:
                return group, True
            group.append(item)
        return group, False

    def _commit(self, group: list[_Waiting]) -> None:
        state = self._state
        header = Header(state.header.height + 1, max(state.header.time_ms, self._clock_ms()))
        block = apply_block(state, header, [envelope for envelope, _ in group])
        if block.entries:
            row = block.state.row()
            checkpoint = Checkpoint(self._origin, row.size, row.log_root)
            note = sign_checkpoint(checkpoint, self._log_identity, time_s=header.time_ms // 1000)
            self._store.commit(block, note)
            self._history.extend(block.leaves)
            self._state = block.state
        for (_, future), result in zip(group, block.results, strict=True):
            self._answer(future, result, header.height)

    def _answer(self, future: "Future[Accepted]", result: Result, height: int) -> None:
        # A caller may have cancelled; the transaction is in the log all the same.
        if not future.set_running_or_notify_cancel():
            return
        if result.index is not None:
            future.set_result(Accepted(result.index, height, result.digest, False))
            return
        earlier = self._store.find(result.digest)
        if earlier is not None:
            future.set_result(Accepted(*earlier, result.digest, True))
        else:
            future.set_exception(TransactionRefused(result.code))

    def _fail(self, group: list[_Waiting], failure: LedgerUnavailable) -> None:
        self._failure = self._failure or failure
        for _, future in group:
            with contextlib.suppress(Exception):
                if not future.done() and future.set_running_or_notify_cancel():
                    future.set_exception(failure)
