"""Functions over numbers and quantities (FHIRPath N1 section 5.7), and the boundaries that 2.1 adds.

Decimals are exact to 34 digits; what leaves the numbers (``sqrt`` of -1) is empty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import (
    ROUND_CEILING,
    ROUND_DOWN,
    ROUND_FLOOR,
    ROUND_HALF_UP,
    Decimal,
    DecimalException,
)
from typing import Any

from fhir_bridge.fhir.fhirpath.calls import Function, scalar, within_integers
from fhir_bridge.fhir.fhirpath.temporal import Temporal, boundary, precision
from fhir_bridge.fhir.fhirpath.types import BOOLEAN, DECIMAL, INTEGER
from fhir_bridge.fhir.fhirpath.units import counted_in
from fhir_bridge.fhir.fhirpath.values import EXACT, PathFailed, Quantity

_NUMBER = ("number",)
_NUMBERS = ("number", "quantity")
_MOST_DIGITS = 28


def _exact(run: Callable[..., Decimal | int]) -> Callable[..., Any]:
    """Empty where the result is no number, or one that cannot be held."""

    def tried(*values: Decimal | int) -> Decimal | int | None:
        try:
            found = run(*values)
        except (DecimalException, ArithmeticError, ValueError):
            return None
        if type(found) is int:
            return within_integers(found)
        return found if isinstance(found, Decimal) and found.is_finite() else None

    return tried


def _of_quantity(run: Callable[..., Any]) -> Callable[..., Any]:
    """The same over a quantity, which keeps its unit."""

    def either(value: Any, *given: Any) -> Any:
        if not isinstance(value, Quantity):
            return run(value, *given)
        found = run(value.value, *given)
        return None if found is None else replace(value, value=Decimal(found))

    return either


def _whole(rounding: str) -> Callable[..., Any]:
    def rounded(value: Decimal | int) -> int:
        number = Decimal(value)
        if number.adjusted() > _MOST_DIGITS:
            raise OverflowError
        return int(number.to_integral_value(rounding))

    return _exact(rounded)


def _abs(value: Decimal | int) -> Decimal | int:
    return value.copy_abs() if isinstance(value, Decimal) else abs(value)


def _round(value: Decimal | int, places: int = 0) -> Decimal | None:
    if places < 0:
        raise PathFailed("round() wants a number of places that is not negative")
    if places > _MOST_DIGITS or type(value) is int:
        return Decimal(value)
    try:
        # An int has left above, by a test that mypy does not narrow by.
        return value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP, EXACT)  # type: ignore[union-attr]
    except DecimalException:
        return Decimal(value)


def _power(value: Decimal | int, by: Decimal | int) -> Decimal | int:
    if type(value) is int and type(by) is int and by >= 0:
        if value not in (0, 1, -1) and by > 64:
            raise OverflowError
        return int(value**by)
    return EXACT.power(Decimal(value), Decimal(by))


def _log(value: Decimal | int, base: Decimal | int) -> Decimal:
    if value <= 0 or base <= 0 or base == 1:
        raise ValueError
    found = EXACT.divide(EXACT.ln(Decimal(value)), EXACT.ln(Decimal(base)))
    # A logarithm that is whole shall not miss it by the last digit.
    near = found.to_integral_value()
    return near if abs(found - near) < Decimal("1e-28") else found


def _boundary(is_low: bool) -> Callable[..., Any]:
    def find(value: Any, digits: int | None = None) -> Any:
        if isinstance(value, Temporal):
            return boundary(value, digits, is_low=is_low)
        if isinstance(value, Quantity):
            found = find(value.value, digits)
            return None if found is None else replace(value, value=found)
        places = 8 if digits is None else digits
        if not 0 <= places <= _MOST_DIGITS:
            return None
        return _number_boundary(Decimal(value), places, is_low=is_low)

    return find


def _number_boundary(value: Decimal, places: int, *, is_low: bool) -> Decimal | None:
    """Half a unit of the last digit below or above.

    Cut to fewer digits than that needs, the bound nearer to zero is cut off and the other one rounded, as the
    official tests have it (``1.587.lowBoundary(2)`` is 1.58, ``0.0034.highBoundary(1)`` is 0.0).
    """
    exponent = value.as_tuple().exponent
    half = Decimal(5).scaleb(min(0, exponent if isinstance(exponent, int) else 0) - 1)
    bound = EXACT.subtract(value, half) if is_low else EXACT.add(value, half)
    is_outer = is_low is value.is_signed()
    try:
        return bound.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP if is_outer else ROUND_DOWN, EXACT)
    except DecimalException:
        return None


def _precision(value: Any) -> int:
    if isinstance(value, Temporal):
        return precision(value)
    exponent = Decimal(value).as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _comparable(value: Quantity, other: Quantity) -> bool:
    return counted_in(other, value) is not None


_BOUND = ("number", "quantity", "moment")

TABLE: dict[str, Function] = {
    "abs": scalar("abs", _NUMBERS, _of_quantity(_abs), "input"),
    "ceiling": scalar("ceiling", _NUMBER, _whole(ROUND_CEILING), INTEGER),
    "floor": scalar("floor", _NUMBER, _whole(ROUND_FLOOR), INTEGER),
    "truncate": scalar("truncate", _NUMBER, _whole(ROUND_DOWN), INTEGER),
    "round": scalar("round", _NUMBER, _round, DECIMAL, ("whole",), least=0),
    "exp": scalar("exp", _NUMBER, _exact(lambda value: EXACT.exp(Decimal(value))), DECIMAL),
    "ln": scalar("ln", _NUMBER, _exact(lambda value: EXACT.ln(Decimal(value))), DECIMAL),
    "log": scalar("log", _NUMBER, _exact(_log), DECIMAL, _NUMBER),
    "sqrt": scalar("sqrt", _NUMBER, _exact(lambda value: EXACT.sqrt(Decimal(value))), DECIMAL),
    "power": scalar("power", _NUMBER, _exact(_power), INTEGER | DECIMAL, _NUMBER),
    "lowBoundary": scalar("lowBoundary", _BOUND, _boundary(is_low=True), frozenset(), ("whole",), least=0),
    "highBoundary": scalar("highBoundary", _BOUND, _boundary(is_low=False), frozenset(), ("whole",), least=0),
    "precision": scalar("precision", ("number", "moment"), _precision, INTEGER),
    "comparable": scalar("comparable", ("quantity",), _comparable, BOOLEAN, ("quantity",)),
}
