"""Hold a number or a quantity that is asked for against the values of an index row, across units where UCUM can.

For parsing criteria, as :mod:`fhir_bridge.query.values`, for FHIR R4 search.html#number and #quantity. A search that
names a UCUM unit also finds what is recorded in another unit of the same dimension: "the search processor may choose
to perform a search based on canonical units".

Invariants:
    * the digits of the question alone say how wide ``eq`` and ``ne`` are, in the unit of the question;
    * what a limit is compared with is exact: it is the fraction that UCUM makes of it, or of the value, and no float;
    * amounts of something (:data:`~fhir_bridge.fhir.ucum.AMOUNTS`) are no mere numbers and not each other: whoever
      asks for a percentage gets no mmol/mol, and who asks for mmol/L no meq/L;
    * what is counted in words (``{score}``) is a number by the tables and never a percentage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction
from functools import lru_cache
from typing import Any

from fhir_bridge.fhir.ucum import AMOUNTS, UCUM, canonical, exactly, is_measure
from fhir_bridge.query.refusals import QueryRefused, invalid
from fhir_bridge.query.values import PREFIXED, ValueTest, split, unescape

Exact = Decimal | Fraction
NumberTest = Callable[[Exact], bool]
StoredTest = Callable[[Decimal], bool]

_EXACT = Context(prec=1000)
"""Loses no digit of a measure's limits (:func:`~fhir_bridge.fhir.ucum.is_measure` bounds both ends of a number)."""

_MAX_REMEMBERED = 1024


def number_test(name: str, text: str) -> ValueTest:
    """A number with a prefix."""
    compare = _read(name, text).test()
    return lambda values: any(compare(Decimal(value)) for value in values)


def quantity_test(name: str, text: str) -> ValueTest:
    """``[prefix]number``, ``number|system|code``, or ``number||text`` with the code or the unit as it is written."""
    parts = [unescape(part) for part in split(text, "|")]
    if len(parts) not in (1, 3):
        raise QueryRefused([invalid(name, "is no quantity: number or number|system|code")])
    asked = _read(name, parts[0])
    system, code = (parts[1], parts[2]) if len(parts) == 3 else ("", "")
    compare = asked.test()
    if system == UCUM and code:
        return _across_units(asked, code)
    if system:
        return lambda values: any(
            value[1] == system and code in ("", value[2]) and compare(Decimal(value[0])) for value in values
        )
    if code:
        return lambda values: any(code in value[2:] and compare(Decimal(value[0])) for value in values)
    return lambda values: any(compare(Decimal(value[0])) for value in values)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A prefix and a measure with as many digits as it was written with."""

    prefix: str
    number: Decimal

    def test(self, factor: Fraction = Fraction(1)) -> NumberTest:
        """Return the test of a value of a unit of which one is ``factor`` of the question's."""
        # search.html#number: 100 means [99.5, 100.5); with lt, gt, le, ge, sa and eb it means 100 exactly.
        exponent = self.number.as_tuple().exponent
        # ap allows a tenth of the value, as search.html#prefix recommends.
        half = Decimal((0, (5,), (exponent if isinstance(exponent, int) else 0) - 1))
        slack = self.number.copy_abs().scaleb(-1, _EXACT) if self.prefix == "ap" else half
        limits = self.number, _EXACT.subtract(self.number, slack), _EXACT.add(self.number, slack)
        wanted, low, high = (_per(each, factor) for each in limits)
        compare: dict[str, NumberTest] = {
            "eq": lambda n: n >= low and n < high,
            "ne": lambda n: n < low or n >= high,
            "gt": lambda n: n > wanted,
            "sa": lambda n: n > wanted,
            "lt": lambda n: n < wanted,
            "eb": lambda n: n < wanted,
            "ge": lambda n: n >= wanted,
            "le": lambda n: n <= wanted,
            "ap": lambda n: n >= low and n <= high,
        }
        return compare[self.prefix]


def _read(name: str, text: str) -> _Asked:
    match = PREFIXED.fullmatch(text)
    try:
        number = Decimal(match[2]) if match else Decimal("NaN")
    except InvalidOperation:
        number = Decimal("NaN")
    if match is None or not number.is_finite():
        raise QueryRefused([invalid(name, "is no number")])
    if not is_measure(number):
        raise QueryRefused([invalid(name, "is a number beyond any measurement")])
    return _Asked(match[1] or "eq", number)


def _per(number: Decimal, factor: Fraction) -> Exact:
    return number if factor == 1 else Fraction(number) / factor


def _across_units(asked: _Asked, code: str) -> ValueTest:
    """Return the test for a UCUM unit: every unit that is met is looked up once."""
    tests: dict[str, StoredTest | None] = {code: asked.test()}

    def one(value: Any) -> bool:
        if value[1] != UCUM:
            return False
        unit = value[2]
        if unit not in tests:
            tests[unit] = _in_unit(asked, code, unit)
        test = tests[unit]
        return test is not None and test(Decimal(value[0]))

    return lambda values: any(one(value) for value in values)


def _in_unit(asked: _Asked, code: str, unit: str) -> StoredTest | None:
    """Return the test for values of a unit, or None if they cannot be compared with what is asked for."""
    target, source = canonical(code, AMOUNTS), canonical(unit, AMOUNTS)
    if target is None or source is None or source.dimension != target.dimension:
        return None
    if not target.dimension and source.factor != target.factor and "{" in code + unit:
        return None
    if not source.function and not target.function:
        return asked.test(source.factor / target.factor)
    # Another scale: a limit may turn round (more pH is less acid), so the value goes to the question's.
    compare = asked.test()

    # Worked out once for each number: this takes 15 µs, and a chart's temperatures are few.
    @lru_cache(maxsize=_MAX_REMEMBERED)
    def test(number: Decimal) -> bool:
        found = exactly(number, source, target)
        return found is not None and compare(found)

    return test
