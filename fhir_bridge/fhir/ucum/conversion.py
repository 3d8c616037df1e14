"""Values from one unit in another."""

from __future__ import annotations

from decimal import Decimal, DecimalException
from fractions import Fraction

from fhir_bridge.fhir.ucum.canonical import Canonical, canonical
from fhir_bridge.fhir.ucum.special import FALLING, FUNCTIONS, decimal

# A number beyond these powers of ten measures nothing, and as a fraction it would fill the memory.
_MAX_EXPONENT = 400


def commensurable(one: str, other: str) -> bool:
    """Tell whether values of two units can be compared. Units that are no UCUM are commensurable with none."""
    a, b = canonical(one), canonical(other)
    return a is not None and b is not None and a.dimension == b.dimension


def convert(value: Decimal, unit: str, to: str) -> Decimal | None:
    """Return ``value`` of ``unit`` counted in ``to``, or None where UCUM has no answer.

    The result is exact if it ends within 40 digits, else rounded to as many; how much of it the measurement supports
    is for the caller to say. A value that stays what it is keeps its digits.

    By UCUM a mole is a number and an equivalent is a mole: see :func:`canonical` for keeping them apart.
    """
    source, target = canonical(unit), canonical(to)
    if source is None or target is None:
        return None
    if source == target:
        return value
    exact = exactly(value, source, target)
    return None if exact is None else decimal(exact)


def is_falling(unit: str) -> bool:
    """Tell whether a higher value of this unit means less, as of the pH."""
    form = canonical(unit)
    return form is not None and form.function in FALLING


def exactly(value: Decimal, source: Canonical, target: Canonical) -> Fraction | None:
    """Return ``value`` counted in another unit as a fraction, or None where there is no such value.

    Only logarithms, roots and angles are rounded, to 40 and 15 digits.
    """
    if source.dimension != target.dimension or not is_measure(value):
        return None
    try:
        base = Fraction(value)
        if source.function:
            base = FUNCTIONS[source.function][0](base * source.step)
        base *= source.factor / target.factor
        return FUNCTIONS[target.function][1](base) / target.step if target.function else base
    except (DecimalException, ArithmeticError, ValueError):
        return None


def is_measure(value: Decimal) -> bool:
    """Tell whether a number is within what anybody measures, and small enough to be made a fraction of."""
    return (
        value.is_finite()
        and (not value or abs(value.adjusted()) <= _MAX_EXPONENT)
        and _digits(value) <= _MAX_EXPONENT
    )


def _digits(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return abs(exponent) if isinstance(exponent, int) else 0
