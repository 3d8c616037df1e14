"""Run something between every two steps of a coroutine: every interleaving there is, instead of those chance brings.

An event loop switches only where something is awaited. :func:`run` counts the
stretches between those points, in the coroutine and in every task that it
starts, and before the one that is named it runs another coroutine to its end.

Invariants:
    * what is run in between has returned before the stretch begins;
    * nothing else is changed: the coroutine waits for what it waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Script:
    """Before which stretches what is run: before number ``at``, counted from 0, or before each if that is None."""

    between: Callable[[], Awaitable[None]]
    at: int | None = None
    apart: frozenset[str] = frozenset()
    """Names of coroutines whose tasks are left alone, because others wait for them and so might what is run."""
    stretches: int = 0
    runs: int = 0
    is_between: bool = False

    def is_due(self) -> bool:
        """Count a stretch that is about to begin; tell whether something is to be run before it."""
        if self.is_between:
            return False
        number = self.stretches
        self.stretches += 1
        return self.at is None or number == self.at


_script: ContextVar[Script | None] = ContextVar("script", default=None)


async def run(work: Coroutine[Any, Any, T], script: Script) -> T:
    """Run ``work`` by a script and return what it returns."""

    async def scripted() -> T:
        _script.set(script)
        return await _Stretched(work, script)

    with _tasks_by_script():
        return await asyncio.create_task(scripted())


@contextmanager
def _tasks_by_script() -> Iterator[None]:
    """Let tasks started under a script be counted too."""
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()

    def factory(loop: asyncio.AbstractEventLoop, work: Any, **named: Any) -> asyncio.Task[Any]:
        script = _script.get()
        if (
            script is not None
            and not script.is_between
            and asyncio.iscoroutine(work)
            and _name(work) not in script.apart
        ):
            work = _awaited(_Stretched(work, script))
        return asyncio.Task(work, loop=loop, **named)

    loop.set_task_factory(factory)
    try:
        yield
    finally:
        loop.set_task_factory(before)


def _name(work: object) -> str:
    return str(getattr(work, "__qualname__", ""))


async def _awaited(work: Awaitable[T]) -> T:
    return await work


class _Stretched(Awaitable[T]):
    """Drives a coroutine stretch by stretch."""

    def __init__(self, work: Coroutine[Any, Any, T], script: Script) -> None:
        self._work = work
        self._script = script

    def __await__(self) -> Generator[Any, Any, T]:
        thrown: BaseException | None = None
        while True:
            if self._script.is_due():
                yield from self._between()
            try:
                awaited = self._work.send(None) if thrown is None else self._work.throw(thrown)
            except StopIteration as done:
                result: T = done.value
                return result
            thrown = None
            try:
                yield awaited
            except BaseException as error:
                thrown = error

    def _between(self) -> Generator[Any, Any, None]:
        script = self._script
        script.is_between = True
        script.runs += 1
        try:
            yield from script.between().__await__()
        finally:
            script.is_between = False
