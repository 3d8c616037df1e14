"""Numbers of one unit in another: the one place where FHIRPath asks about units.

Calendar durations and the units of time in UCUM relate as FHIRPath N1 sections 4.1.8 and 6.1 say: a day is ``'d'``,
but a calendar year is no number of seconds and only equivalent to ``'a'``. All other units are UCUM's.
"""

from __future__ import annotations

from decimal import Decimal

from fhir_bridge.fhir.fhirpath.values import EXACT, Quantity
from fhir_bridge.fhir.path_syntax import CALENDAR_UNITS
from fhir_bridge.fhir.ucum import convert

_WORDS = {word: unit for unit in CALENDAR_UNITS for word in (unit, f"{unit}s")}
_CODES = {"week": "wk", "day": "d", "hour": "h", "minute": "min", "second": "s", "millisecond": "ms"}
_LOOSE_CODES = {"year": "a", "month": "mo"}
_UNITS = {code: unit for unit, code in _CODES.items()}
_MONTHS = {"year": Decimal(12), "month": Decimal(1)}


def calendar_unit(unit: str) -> str | None:
    """Return the calendar unit of a word (``days``), or None."""
    return _WORDS.get(unit)


def duration_unit(quantity: Quantity) -> str | None:
    """Return the calendar unit that a quantity adds to a date; a year or month of UCUM has none (N1 section 6.7)."""
    return _WORDS.get(quantity.unit) or (None if quantity.is_word else _UNITS.get(quantity.unit))


def code_of(quantity: Quantity) -> str:
    """Return the UCUM code of a unit; the word of a calendar year or month, which have none."""
    word = _WORDS.get(quantity.unit) if quantity.is_word else None
    return quantity.unit if word is None else _CODES.get(word, word)


def counted_in(quantity: Quantity, unit: Quantity, *, is_loose: bool = False) -> Decimal | None:
    """Return the number of ``quantity`` in the unit of another; None where they do not measure the same.

    Args:
        is_loose: Let a calendar year or month be that of UCUM, as equivalence does.
    """
    source, target = code_of(quantity), code_of(unit)
    if source == target:
        return quantity.value
    if source in _MONTHS and target in _MONTHS and quantity.is_word and unit.is_word:
        return EXACT.divide(EXACT.multiply(quantity.value, _MONTHS[source]), _MONTHS[target])
    if is_loose:
        source, target = _LOOSE_CODES.get(source, source), _LOOSE_CODES.get(target, target)
    return convert(quantity.value, source, target)
