"""The functions of special units (UCUM section 21): from their scale to a ratio and back.

Temperatures are exact. Logarithms and roots carry 40 digits, angles the 15 of a float.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Context, Decimal
from fractions import Fraction

DIGITS = Context(prec=40)
"""Digits of what does not end."""

Convert = Callable[[Fraction], Fraction]

FALLING = frozenset({"pH", "hpX", "hpC", "hpM", "hpQ"})
"""Functions under which more is less: a lower limit would become an upper one."""


def decimal(number: Fraction) -> Decimal:
    """Return a fraction as decimal number: exact if it ends within 40 digits, else rounded to as many."""
    return DIGITS.divide(Decimal(number.numerator), Decimal(number.denominator))


def _shifted(zero: str) -> tuple[Convert, Convert]:
    """A scale whose zero lies ``zero`` of its own units above absolute zero."""
    return (lambda told: told + Fraction(zero)), (lambda ratio: ratio - Fraction(zero))


def _logarithm(base: int, times: int = 1) -> tuple[Convert, Convert]:
    """A scale that counts powers of ``base``, ``times`` for each."""

    def ratio(told: Fraction) -> Fraction:
        return Fraction(DIGITS.power(Decimal(base), decimal(told / times)))

    def told(ratio: Fraction) -> Fraction:
        return Fraction(DIGITS.divide(DIGITS.ln(decimal(ratio)), DIGITS.ln(Decimal(base)))) * times

    return ratio, told if base != 10 else lambda ratio: Fraction(DIGITS.log10(decimal(ratio))) * times


def _natural() -> tuple[Convert, Convert]:
    return (lambda told: Fraction(DIGITS.exp(decimal(told)))), (lambda ratio: Fraction(DIGITS.ln(decimal(ratio))))


def _root() -> tuple[Convert, Convert]:
    return (lambda told: told**2), (lambda ratio: Fraction(DIGITS.sqrt(decimal(ratio))))


def _tangent() -> tuple[Convert, Convert]:
    """A hundred times the tangent of an angle in radian."""
    return (lambda told: Fraction(math.atan(told / 100))), (lambda ratio: Fraction(math.tan(ratio)) * 100)


FUNCTIONS: Mapping[str, tuple[Convert, Convert]] = {
    "Cel": _shifted("273.15"),
    "degF": _shifted("459.67"),
    "degRe": _shifted("218.52"),
    "ln": _natural(),
    "lg": _logarithm(10),
    "lgTimes2": _logarithm(10, 2),
    "ld": _logarithm(2),
    "pH": _logarithm(10, -1),
    "hpX": _logarithm(10, -1),
    "hpC": _logarithm(100, -1),
    "hpM": _logarithm(1000, -1),
    "hpQ": _logarithm(50_000, -1),
    "sqrt": _root(),
    "tanTimes100": _tangent(),
    "100tan": _tangent(),
}
"""Function → from what is told to the ratio, and back."""
