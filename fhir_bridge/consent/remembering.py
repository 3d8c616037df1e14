"""Keep what was worked out together with what it was worked out from.

For deciding, where the same lists of consents are asked about again and again
and comparing two of them costs more than the answer. Large values are told
apart by identity, small ones by equality.

Invariants:
    * what is found was worked out from these very objects: they are held as long as it is, so that no
      other object can come to have their identity;
    * no more than ``capacity`` is held; the oldest gives way to the newest.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache, wraps
from threading import Lock
from typing import Final, Generic, TypeVar, TypeVarTuple, Unpack

Value = TypeVar("Value")
_Rest = TypeVarTuple("_Rest")

SMALL_BODY: Final = 16 << 10
"""Consents of more bytes are read anew each time: whoever may try drafts would fill the memory with them."""
_BODIES = 4_096

_Same = tuple[object, ...]
_Key = tuple[tuple[int, ...], Hashable]


def by_body(work: Callable[[bytes, Unpack[_Rest]], Value]) -> Callable[[bytes, Unpack[_Rest]], Value]:
    """Remember what a function of a Consent's bytes returns, for 4,096 small ones."""
    kept = lru_cache(maxsize=_BODIES)(work)

    @wraps(work)
    def found(body: bytes, /, *rest: *_Rest) -> Value:
        return kept(body, *rest) if len(body) <= SMALL_BODY else work(body, *rest)

    return found


class Memory(Generic[Value]):
    """Results by the identity of some values and the equality of others.

    Threads may share one: at worst a result is worked out twice.

    Args:
        capacity: The sum of the weights that may be held.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._weight = 0
        self._held: dict[_Key, tuple[_Same, Value, int]] = {}
        self._changing = Lock()

    def find(self, same: _Same, equal: Hashable) -> Value | None:
        """Return what was kept for these very objects and for equal others, or None."""
        found = self._held.get((tuple(map(id, same)), equal))
        return None if found is None else found[1]

    def keep(self, same: _Same, equal: Hashable, value: Value, *, weight: int = 1) -> None:
        """Hold a result; one that by itself weighs more than all that may be held is not kept.

        Args:
            same: Values that do not change, told apart by identity.
            equal: All else that the result depends on.
        """
        if weight > self._capacity:
            return
        key = tuple(map(id, same)), equal
        with self._changing:
            self._forget(key)
            while self._weight + weight > self._capacity:
                self._forget(next(iter(self._held)))
            self._weight += weight
            self._held[key] = same, value, weight

    def _forget(self, key: _Key) -> None:
        held = self._held.pop(key, None)
        self._weight -= 0 if held is None else held[2]
