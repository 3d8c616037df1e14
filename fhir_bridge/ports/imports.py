"""Bodies of imports that wait: the lines of each, sealed, until the vault holds what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a body; ``number`` counts from 1, blank lines included.

    ``body`` is empty if the line was too long to be kept (``is_too_long``) or its key was erased (``is_erased``).
    """

    number: int
    body: bytes
    is_too_long: bool = False
    is_erased: bool = False


class ImportStore(Protocol):
    """Lines by job, in their order; nothing of them rests in plain text."""

    async def begin(self, job: str, institution: str) -> None:
        """Make room for the lines of a new job of an institution, under whose keys they will be."""
        ...

    async def add(self, job: str, lines: Sequence[Line]) -> None:
        """Append lines, each under a message key of its own; returns once they survive loss of power.

        Raises:
            Unavailable: None of them was written.
        """
        ...

    async def read(self, job: str, after: int, *, max_lines: int, max_bytes: int) -> Sequence[Line]:
        """Return the next lines behind number ``after``; none at the end, at least one before.

        Raises:
            IntegrityBroken: There is no such job, or a line was changed.
            Unavailable: Safe to retry.
        """
        ...

    async def discard(self, job: str) -> None:
        """Erase the keys of a job's lines, then the lines; repeatable, a no-op for a job that is not there."""
        ...

    async def jobs(self) -> Sequence[str]:
        """Return the jobs whose lines are here, whole or not."""
        ...

    async def close(self) -> None:
        """Release the files."""
        ...
