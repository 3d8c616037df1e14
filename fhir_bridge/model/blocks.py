"""Values some at a time, so that neither many small ones nor a few large ones are held together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

BLOCK_BYTES: Final = 1 << 20
"""So many bytes close a block."""
_Value = TypeVar("_Value")


def in_blocks(
    values: Iterable[_Value], most: int, weight: Callable[[_Value], int], most_bytes: int = BLOCK_BYTES
) -> Iterator[list[_Value]]:
    """Yield values in their order, in blocks that close with the value that makes them full.

    Args:
        most: Values in a block.
        weight: Bytes of a value.
        most_bytes: Bytes that close a block; it holds more by its last value at most.
    """
    block: list[_Value] = []
    held = 0
    for value in values:
        block.append(value)
        held += weight(value)
        if len(block) >= most or held >= most_bytes:
            yield block
            block, held = [], 0
    if block:
        yield block
