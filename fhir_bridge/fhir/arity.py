"""Judge whether what stands under a key is one value or an array, as its definition says, and then each value.

For ``compile.py``, which knows the definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fhir_bridge.fhir.run import Place, Run

Check = Callable[[Any, Place, Run], None]
"""Checks one value at one place."""

KeyCheck = Callable[[Any, Place, Run, dict[str, Any]], None]
"""Checks what stands under one key of an object, which it is given too."""


def single_value(check: Check) -> KeyCheck:
    """Return the check of a key that holds one value."""

    def single(value: Any, place: Place, run: Run, _owner: dict[str, Any]) -> None:
        if type(value) is list:
            run.error("structure", "must be a single value, not an array", place)
        else:
            check(value, place, run)

    return single


def array(check: Check) -> KeyCheck:
    """Return the check of a key that holds an array."""

    def many(value: Any, place: Place, run: Run, _owner: dict[str, Any]) -> None:
        if is_filled_list(value, place, run):
            for index, item in enumerate(value):
                check(item, (place, index), run)

    return many


def single_of(types: Mapping[str, Check], type_name: str) -> KeyCheck:
    """As :func:`single_value`, for a type whose check is another one once it has been met."""

    def single(value: Any, place: Place, run: Run, _owner: dict[str, Any]) -> None:
        if type(value) is list:
            run.error("structure", "must be a single value, not an array", place)
        else:
            types[type_name](value, place, run)

    return single


def many_of(types: Mapping[str, Check], type_name: str) -> KeyCheck:
    """As :func:`array`, for a type whose check is another one once it has been met."""

    def many(value: Any, place: Place, run: Run, _owner: dict[str, Any]) -> None:
        if is_filled_list(value, place, run):
            for index, item in enumerate(value):
                types[type_name](item, (place, index), run)

    return many


def many_primitives(check: Check, key: str) -> KeyCheck:
    """Return the check of an array of primitives, where null stands for one that has only an extension beside it."""

    def many(value: Any, place: Place, run: Run, owner: dict[str, Any]) -> None:
        if not is_filled_list(value, place, run):
            return
        for index, item in enumerate(value):
            if item is not None:
                check(item, (place, index), run)
            elif not _has_sibling(owner.get("_" + key), index):
                run.error("structure", "null needs an extension beside it", (place, index))

    return many


def _has_sibling(siblings: Any, index: int) -> bool:
    return type(siblings) is list and index < len(siblings) and siblings[index] is not None


def is_filled_list(value: Any, place: Place, run: Run) -> bool:
    """Tell whether a value is an array that holds something; if not, that is put on record."""
    if type(value) is not list:
        run.error("structure", "must be an array", place)
        return False
    if not value:
        run.error("structure", "an array must not be empty; leave the element out instead", place)
        return False
    return True
