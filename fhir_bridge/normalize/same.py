"""Know a value by its identity: for caches whose keys are large values that nobody changes.

A table or a page of rules comes from a cache by its content (``loaded_tables``, ``yaml_text``), so that what is made
from it can be kept under the very value, without looking into it again.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Same(Generic[T]):
    """A value that equals nothing but itself; holds it, so that its place in memory is not given to another."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.value is self.value
