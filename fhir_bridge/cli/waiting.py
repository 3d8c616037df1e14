"""Wait for what a command asks of the service."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end in an event loop of its own and return what it gives."""
    # A tenth of a short command, and half of the commands wait for nothing (2026-11).
    import asyncio

    return asyncio.run(work)
