"""Bodies of imports that wait: the lines of each, sealed, until the vault holds what they say."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a body; ``number`` counts from 1, blank lines included.

    ``body`` is empty if the line was too long to be kept (``is_too_long``) or was erased (``is_erased``).
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
        """Append lines, as one chunk under a key of its own; returns once they survive loss of power.

        Raises:
            Unavailable: None of them was written.
        """
        ...

    async def read(self, job: str, after: int) -> Sequence[Line]:
        """Return the next lines behind number ``after``, of one chunk; none at the end.

        Raises:
            IntegrityBroken: There is no such job, or a chunk was changed or does not open.
            Unavailable: Safe to retry.
        """
        ...

    async def erase(self, job: str, numbers: Collection[int]) -> None:
        """Erase lines that wait, as the erasure of a chart demands: nothing opens them, and they are read as erased.

        Raises:
            Unavailable: Some may be erased, or all; erase again.
        """
        ...

    async def discard(self, job: str) -> None:
        """Delete a job's chunks and erase their keys; repeatable, a no-op for a job that is not there.

        Raises:
            Unavailable: The chunks may be deleted, but not all of their keys are erased: :meth:`tidy` does it.
        """
        ...

    async def tidy(self, known: Collection[str], institutions: Collection[str]) -> None:
        """Discard every job but those ``known``, with keys of these institutions that a crash left without chunk.

        To be called while no body is being received.

        Raises:
            Unavailable: As :meth:`discard`.
        """
        ...

    async def close(self) -> None:
        """Release the files."""
        ...
