"""Room on disk for what one message makes and memory should not hold; nothing of it outlives the process."""

from __future__ import annotations

from typing import Protocol


class Overflow(Protocol):
    """Blocks of bytes in sealed form, to be read until nobody refers to this any more. Any thread may call it."""

    def put(self, content: bytes) -> int:
        """Keep a block; return its number, counted from 0.

        Raises:
            Unavailable: The disk does not take it; safe to retry with a new overflow.
        """
        ...

    def get(self, number: int) -> bytes:
        """Return a block.

        Raises:
            IntegrityBroken: It is not what was put there.
            Unavailable: It cannot be read.
        """
        ...


class Overflows(Protocol):
    """Gives room."""

    def open(self) -> Overflow:
        """Return an empty overflow.

        Raises:
            Unavailable: The disk gives no file.
        """
        ...
