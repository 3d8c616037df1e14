"""The operators of FHIRPath (N1 section 6): what each does with two collections, and which types it fits.

Logic is three-valued, with the empty collection as unknown. ``and``, ``or`` and ``implies`` look at the right side
only if the left one leaves it open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, DecimalException
from typing import Any

from fhir_bridge.fhir.fhirpath.calls import within_integers
from fhir_bridge.fhir.fhirpath.comparing import (
    are_equal,
    are_equivalent,
    compare,
    distinct_key,
    kind_of,
)
from fhir_bridge.fhir.fhirpath.on_collections import union
from fhir_bridge.fhir.fhirpath.temporal import TIME, Temporal, shifted
from fhir_bridge.fhir.fhirpath.types import (
    ANY,
    BOOLEAN,
    DECIMAL,
    INTEGER,
    KINDS,
    STRING,
    Types,
    could_be,
    could_be_equal,
    kinds_of,
    shown,
)
from fhir_bridge.fhir.fhirpath.units import code_of, counted_in, duration_unit
from fhir_bridge.fhir.fhirpath.values import (
    EXACT,
    MAX_TEXT_CHARS,
    Evaluate,
    Items,
    PathFailed,
    Quantity,
    Scope,
    is_number,
    single,
    truth,
)
from fhir_bridge.fhir.path_syntax import PathNotUnderstood

Truth = bool | None
Apply = Callable[[Items, Items], Items]


def _and(a: Truth, b: Truth) -> Truth:
    return False if a is False or b is False else None if a is None or b is None else True


def _or(a: Truth, b: Truth) -> Truth:
    return True if a or b else None if a is None or b is None else False


def _xor(a: Truth, b: Truth) -> Truth:
    return None if a is None or b is None else a is not b


def _implies(a: Truth, b: Truth) -> Truth:
    return _or(None if a is None else not a, b)


LOGIC: dict[str, Callable[[Truth, Truth], Truth]] = {"and": _and, "or": _or, "xor": _xor, "implies": _implies}
SETTLED: dict[str, Truth] = {"and": False, "or": True, "implies": False}
"""The left side that settles the matter alone."""


def logic(op: str, left: Evaluate, right: Evaluate) -> Evaluate:
    """``and``, ``or``, ``xor`` or ``implies`` between two expressions."""
    join, settled = LOGIC[op], SETTLED.get(op)
    is_lazy = op in SETTLED

    def run(items: Items, scope: Scope) -> Items:
        first = truth(left(items, scope), op)
        if is_lazy and first is settled:
            return [join(first, None)]
        told = join(first, truth(right(items, scope), op))
        return [] if told is None else [told]

    return run


def _equal(a: Items, b: Items) -> Items:
    told = are_equal(a, b) if a and b else None
    return [] if told is None else [told]


def _unequal(a: Items, b: Items) -> Items:
    told = are_equal(a, b) if a and b else None
    return [] if told is None else [not told]


def _ordered(op: str, test: Callable[[int], bool]) -> Apply:
    def run(a: Items, b: Items) -> Items:
        first, second = single(a, op), single(b, op)
        if first is None or second is None:
            return []
        told = compare(first, second, op)
        return [] if told is None else [test(told)]

    return run


def _in(a: Items, b: Items) -> Items:
    if len(a) > 1:
        raise PathFailed(f"in wants one item and found {len(a)}")
    if not a:
        return []
    key = distinct_key(a[0])
    return [any(distinct_key(item) == key for item in b)]


def _arithmetic(op: str, run: Callable[[Any, Any], Any]) -> Apply:
    def apply(a: Items, b: Items) -> Items:
        first, second = single(a, op), single(b, op)
        if first is None or second is None:
            return []
        try:
            found = run(first, second)
        except (DecimalException, ZeroDivisionError):
            return []
        return [] if found is None else [found]

    return apply


def _unfit(op: str, a: Any, b: Any) -> PathFailed:
    return PathFailed(f"{op} cannot be put between {kind_of(a)} and {kind_of(b)}")


def _plus(a: Any, b: Any) -> Any:
    if type(a) is str and type(b) is str:
        if len(a) + len(b) > MAX_TEXT_CHARS:
            raise PathFailed(f"+ makes a text longer than {MAX_TEXT_CHARS} characters")
        return a + b
    return _sum("+", a, b, 1)


def _minus(a: Any, b: Any) -> Any:
    return _sum("-", a, b, -1)


def _sum(op: str, a: Any, b: Any, sign: int) -> Any:
    if is_number(a) and is_number(b):
        if type(a) is int and type(b) is int:
            return within_integers(a + sign * b)
        return EXACT.add(Decimal(a), _times_sign(Decimal(b), sign))
    if isinstance(a, Quantity) and isinstance(b, Quantity):
        return _sum_of_quantities(a, replace(b, value=_times_sign(b.value, sign)))
    if isinstance(a, Temporal) and isinstance(b, Quantity):
        unit = duration_unit(b)
        if unit is None or (a.kind == TIME and unit in ("year", "month", "week", "day")):
            raise PathFailed(f"{op} cannot add that unit to a {a.kind}")
        return shifted(a, _times_sign(b.value, sign), unit)
    raise _unfit(op, a, b)


def _times_sign(number: Decimal, sign: int) -> Decimal:
    """The number or its negative, every digit kept."""
    return number.copy_negate() if sign < 0 else number


def _sum_of_quantities(a: Quantity, b: Quantity) -> Quantity | None:
    other = counted_in(b, a)
    return None if other is None else replace(a, value=EXACT.add(a.value, other))


def _times(a: Any, b: Any) -> Any:
    if is_number(a) and is_number(b):
        if type(a) is int and type(b) is int:
            return within_integers(a * b)
        return EXACT.multiply(Decimal(a), Decimal(b))
    first, second = _quantities("*", a, b)
    return Quantity(EXACT.multiply(first.value, second.value), _product(code_of(first), code_of(second)))


def _divide(a: Any, b: Any) -> Any:
    if is_number(a) and is_number(b):
        return EXACT.divide(Decimal(a), Decimal(b))
    first, second = _quantities("/", a, b)
    return Quantity(EXACT.divide(first.value, second.value), _ratio(code_of(first), code_of(second)))


def _quantities(op: str, a: Any, b: Any) -> tuple[Quantity, Quantity]:
    first = Quantity(Decimal(a)) if is_number(a) else a
    second = Quantity(Decimal(b)) if is_number(b) else b
    if not isinstance(first, Quantity) or not isinstance(second, Quantity):
        raise _unfit(op, a, b)
    return first, second


def _product(a: str, b: str) -> str:
    return b if a == "1" else a if b == "1" else f"{_grouped(a)}.{_grouped(b)}"


def _ratio(a: str, b: str) -> str:
    if a == b:
        return "1"
    return a if b == "1" else f"{_grouped(a)}/{b if b.isalnum() else f'({b})'}"


def _grouped(unit: str) -> str:
    return f"({unit})" if "/" in unit else unit


def _div(a: Any, b: Any) -> Any:
    if not is_number(a) or not is_number(b):
        raise _unfit("div", a, b)
    if type(a) is int and type(b) is int:
        return abs(a) // abs(b) * (1 if (a < 0) is (b < 0) else -1)
    return int(EXACT.divide_int(Decimal(a), Decimal(b)))


def _mod(a: Any, b: Any) -> Any:
    if not is_number(a) or not is_number(b):
        raise _unfit("mod", a, b)
    if type(a) is int and type(b) is int:
        return abs(a) % abs(b) * (-1 if a < 0 else 1)
    return EXACT.remainder(Decimal(a), Decimal(b))


def _concatenate(a: Items, b: Items) -> Items:
    first, second = single(a, "&"), single(b, "&")
    texts = ["" if value is None else value for value in (first, second)]
    if any(type(text) is not str for text in texts):
        raise _unfit("&", first if first is not None else "", second if second is not None else "")
    if sum(map(len, texts)) > MAX_TEXT_CHARS:
        raise PathFailed(f"& makes a text longer than {MAX_TEXT_CHARS} characters")
    return ["".join(texts)]


def signed(op: str, operand: Evaluate) -> Evaluate:
    """``+x`` or ``-x``."""
    sign = -1 if op == "-" else 1

    def run(items: Items, scope: Scope) -> Items:
        value = single(operand(items, scope), op)
        if value is None:
            return []
        if is_number(value):
            return [value * sign if type(value) is int else _times_sign(value, sign)]
        if isinstance(value, Quantity):
            return [replace(value, value=_times_sign(value.value, sign))]
        raise PathFailed(f"{op} is not for {kind_of(value)}")

    return run


OPERATORS: dict[str, Apply] = {
    "=": _equal,
    "!=": _unequal,
    "~": lambda a, b: [are_equivalent(a, b)],
    "!~": lambda a, b: [not are_equivalent(a, b)],
    "<": _ordered("<", lambda told: told < 0),
    ">": _ordered(">", lambda told: told > 0),
    "<=": _ordered("<=", lambda told: told <= 0),
    ">=": _ordered(">=", lambda told: told >= 0),
    "|": union,
    "in": _in,
    "contains": lambda a, b: _in(b, a),
    "+": _arithmetic("+", _plus),
    "-": _arithmetic("-", _minus),
    "*": _arithmetic("*", _times),
    "/": _arithmetic("/", _divide),
    "div": _arithmetic("div", _div),
    "mod": _arithmetic("mod", _mod),
    "&": _concatenate,
}

_EQUALITY = frozenset({"=", "!=", "~", "!~"})
_SAME = (("number", "number"), ("quantity", "quantity"), ("quantity", "number"), ("number", "quantity"))
_ORDERED = (*_SAME, ("text", "text"), ("moment", "moment"))
_FITTING: dict[str, tuple[tuple[str, str], ...]] = {
    **dict.fromkeys(("<", ">", "<=", ">="), _ORDERED),
    "+": (*_SAME[:2], ("text", "text"), ("moment", "quantity")),
    "-": (*_SAME[:2], ("moment", "quantity")),
    "*": _SAME,
    "/": _SAME,
    "div": _SAME[:1],
    "mod": _SAME[:1],
    "&": (("text", "text"),),
}


def result_types(op: str, left: Types, right: Types) -> Types:
    """Types of what an operator gives.

    Raises:
        PathNotUnderstood: It can never be put between values of these types.
    """
    fitting = _FITTING.get(op)
    if op in _EQUALITY and not could_be_equal(left, right):
        hint = "; a date is written @2026-01-31" if kinds_of(left | right) == {"text", "moment"} else ""
        raise PathNotUnderstood(f"{op} never finds {shown(left)} and {shown(right)} equal{hint}")
    if fitting is None:
        return (left | right if left and right else ANY) if op == "|" else BOOLEAN
    if not any(could_be(left, (a,)) and could_be(right, (b,)) for a, b in fitting):
        raise PathNotUnderstood(f"{op} cannot be put between {shown(left)} and {shown(right)}")
    if fitting is _ORDERED:
        return BOOLEAN
    if op == "&":
        return STRING
    if not left or not right or not (left | right) <= KINDS["number"]:
        return ANY
    whole = (left | right) <= KINDS["number"] - DECIMAL - {"decimal"}
    return INTEGER if op == "div" or (whole and op != "/") else DECIMAL
