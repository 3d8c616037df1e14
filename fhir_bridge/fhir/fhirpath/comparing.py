"""Equality, equivalence and order of items (FHIRPath N1 sections 6.1 and 6.2).

Equality and order have a third answer, None: of dates of other precision, of quantities that measure something else.
"""

from __future__ import annotations

from collections import Counter
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any

from fhir_bridge.fhir.fhirpath.temporal import Temporal, are_alike, in_utc, order
from fhir_bridge.fhir.fhirpath.units import counted_in
from fhir_bridge.fhir.fhirpath.values import EXACT, Items, Node, PathFailed, Quantity, is_number, plain
from fhir_bridge.fhir.json import render

_MOST_NUMBERS = 1_000


def are_equal(a: Items, b: Items) -> bool | None:
    """``=`` of two collections that hold something: the same items in the same order."""
    if len(a) != len(b):
        return False
    told: bool | None = True
    for one, other in zip(a, b, strict=True):
        found = is_equal(plain(one), plain(other))
        if found is False:
            return False
        told = told if found else None
    return told


def is_equal(a: Any, b: Any) -> bool | None:
    """``=`` of two plain values."""
    if type(a) is str or type(b) is str or type(a) is bool or type(b) is bool:
        return type(a) is type(b) and bool(a == b)
    if is_number(a) and is_number(b):
        return bool(a == b)
    if isinstance(a, Temporal) and isinstance(b, Temporal):
        if not are_alike(a, b):
            return False
        told = order(a, b)
        return None if told is None else told == 0
    if isinstance(a, Quantity) or isinstance(b, Quantity):
        first, second = _as_quantity(a), _as_quantity(b)
        if first is None or second is None:
            return False
        told = _order_of_quantities(first, second)
        return None if told is None else told == 0
    if type(a) is Node and type(b) is Node:
        return bool(_key(a) == _key(b))
    return type(a) is type(b) and bool(a == b)


def _as_quantity(value: Any) -> Quantity | None:
    if isinstance(value, Quantity):
        return value
    return Quantity(Decimal(value)) if is_number(value) else None


def compare(a: Any, b: Any, op: str) -> int | None:
    """Return -1, 0 or 1 for two plain values; None where it is not known.

    Raises:
        PathFailed: There is no order between values of these kinds.
    """
    if type(a) is str and type(b) is str:
        return (a > b) - (a < b)
    if is_number(a) and is_number(b):
        return int(a > b) - int(a < b)
    if isinstance(a, Temporal) and isinstance(b, Temporal) and are_alike(a, b):
        return order(a, b)
    if isinstance(a, Quantity) or isinstance(b, Quantity):
        first, second = _as_quantity(a), _as_quantity(b)
        if first is not None and second is not None:
            return _order_of_quantities(first, second)
    raise PathFailed(f"{op} cannot compare {kind_of(a)} with {kind_of(b)}")


def kind_of(value: Any) -> str:
    """Name the kind of a plain value for an error; never the value."""
    if type(value) is Node:
        return f"a {value.type}"
    if isinstance(value, Temporal):
        return f"a {value.kind}"
    names = {str: "a String", bool: "a Boolean", int: "an Integer"}
    return names.get(type(value), "a Decimal" if isinstance(value, Decimal) else f"a {type(value).__name__}")


def _order_of_quantities(a: Quantity, b: Quantity) -> int | None:
    other = counted_in(b, a)
    return None if other is None else (a.value > other) - (a.value < other)


def are_equivalent(a: Items, b: Items) -> bool:
    """``~`` of two collections: the same items whatever their order.

    Numbers, which have no stand-in that is equal when they are equivalent, are tried with each other.

    Raises:
        PathFailed: There are more numbers than that is worth.
    """
    if len(a) != len(b):
        return False
    ours, theirs = [plain(item) for item in a], [plain(item) for item in b]
    if Counter(map(_loose_key, ours)) != Counter(map(_loose_key, theirs)):
        return False
    rest = [value for value in theirs if _loose_key(value) is None]
    if len(rest) > _MOST_NUMBERS:
        raise PathFailed(f"~ wants at most {_MOST_NUMBERS} numbers")
    for value in ours:
        if _loose_key(value) is None:
            at = next((at for at, other in enumerate(rest) if is_equivalent(value, other)), None)
            if at is None:
                return False
            del rest[at]
    return True


def _loose_key(value: Any) -> Any:
    """A stand-in that is equal for equivalent values; None for numbers and quantities."""
    if type(value) is str:
        return _folded(value)
    if is_number(value) or isinstance(value, Quantity):
        return None
    return (Node, _folded_json(value.value)) if type(value) is Node else distinct_key(value)


def is_equivalent(a: Any, b: Any) -> bool:
    """``~`` of two plain values: texts whatever their case and blanks, numbers to the coarser precision."""
    if type(a) is str and type(b) is str:
        return _folded(a) == _folded(b)
    if is_number(a) and is_number(b):
        return _rounded_alike(Decimal(a), Decimal(b))
    if isinstance(a, Temporal) and isinstance(b, Temporal):
        return are_alike(a, b) and order(a, b) == 0
    if isinstance(a, Quantity) and isinstance(b, Quantity):
        coarse, fine = (a, b) if _digits(a.value) <= _digits(b.value) else (b, a)
        other = counted_in(fine, coarse, is_loose=True)
        return other is not None and _rounded_alike(coarse.value, other)
    if type(a) is Node and type(b) is Node:
        return bool(_folded_json(a.value) == _folded_json(b.value))
    return is_equal(a, b) is True


def _digits(number: Decimal) -> int:
    return len(number.as_tuple().digits)


def _rounded_alike(a: Decimal, b: Decimal) -> bool:
    places = min(_places(a), _places(b))
    with localcontext(EXACT) as context:
        context.prec = 400
        step = Decimal(1).scaleb(-places)
        if max(a.adjusted(), b.adjusted()) + places > context.prec - 2:
            return a == b
        return a.quantize(step, ROUND_HALF_UP) == b.quantize(step, ROUND_HALF_UP)


def _places(number: Decimal) -> int:
    """Digits behind the point, zeros at the end left out (N1: trailing zeroes are ignored)."""
    exponent = number.normalize(EXACT).as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _folded_json(value: Any) -> Any:
    """A JSON value as equivalence sees it: without ids, texts folded, lists in one order."""
    if type(value) is dict:
        return (dict, tuple(sorted((k, _folded_json(v)) for k, v in value.items() if k != "id")))
    if type(value) is list:
        return (list, tuple(sorted((_folded_json(v) for v in value), key=repr)))
    if type(value) is str:
        return (str, _folded(value))
    return (type(value) is bool, value)


def distinct_key(item: Any) -> Any:
    """A hashable stand-in that is equal for equal items; a quantity stands for its number and unit."""
    value = plain(item)
    kind = type(value)
    if kind is str:
        return value
    if kind is Node:
        return _key(value)
    if is_number(value):
        return (int, value)
    if kind is Temporal:
        return (Temporal, in_utc(value).parts, value.zone is None)
    return (kind, value)


def _key(node: Node) -> Any:
    return (Node, render(_sorted(node.value)), None if node.value is not None else render(_sorted(node.beside)))


def _sorted(value: Any) -> Any:
    """Keys in one order, numbers by their value."""
    if type(value) is dict:
        return {key: _sorted(value[key]) for key in sorted(value)}
    if type(value) is list:
        return [_sorted(each) for each in value]
    return Decimal(value).normalize(EXACT) if is_number(value) else value
