"""Standing work: tasks that last as long as the service, and the alarm when one ends by itself.

A committer or an anchoring task that dies without a word would leave senders
waiting for ever. Here its end is logged, readiness turns false, and ``serve``
stops with an error, so that a supervisor starts it again from what is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fhir_bridge.telemetry import logger

_log = logger("standing")


class Standing:
    """Watches the tasks of all lines."""

    def __init__(self) -> None:
        self._fallen = asyncio.Event()
        self._is_leaving = False

    def leave(self) -> None:
        """Say that the service is about to stop, so that readiness sends new requests elsewhere."""
        self._is_leaving = True

    @property
    def is_ready(self) -> bool:
        """True while every task stands and nobody has asked the service to stop."""
        return self.is_sound and not self._is_leaving

    @property
    def is_sound(self) -> bool:
        """True while every task stands."""
        return not self._fallen.is_set()

    async def fallen(self) -> None:
        """Wait until a task has ended by itself."""
        await self._fallen.wait()

    def fall(self, name: str) -> None:
        """Say that something all lines stand on has stopped for good; the service must be started again."""
        if self.is_sound:
            _log.error("stopped for good", task=name)
            self._fallen.set()

    def begin(
        self, name: str, work: Coroutine[Any, Any, None], on_fall: Callable[[], None] | None = None
    ) -> asyncio.Task[None]:
        """Start a task that must last until it is cancelled.

        Args:
            on_fall: Called when it ends by itself, to answer whoever waits for it.
        """
        task = asyncio.create_task(work, name=name)

        def ended(done: asyncio.Task[None]) -> None:
            if done.cancelled():
                return
            error = done.exception()
            _log.error("task ended", task=name, code=getattr(error, "code", type(error).__name__))
            self._fallen.set()
            if on_fall is not None:
                on_fall()

        task.add_done_callback(ended)
        return task
