"""Conversions between the System types (FHIRPath N1 section 5.5).

Each ``toX`` is empty for what cannot be converted, and each ``convertsToX`` tells whether it can.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from fhir_bridge.fhir.fhirpath.calls import Function, Run, scalar
from fhir_bridge.fhir.fhirpath.temporal import DATE, DATE_TIME, TIME, Temporal, as_date, read_temporal
from fhir_bridge.fhir.fhirpath.types import BOOLEAN, DECIMAL, INTEGER, QUANTITY, STRING, SYSTEM
from fhir_bridge.fhir.fhirpath.units import calendar_unit, counted_in
from fhir_bridge.fhir.fhirpath.values import Items, Node, Quantity, Scope, is_number, single, text_of

_TRUE = frozenset({"true", "t", "yes", "y", "1", "1.0"})
_FALSE = frozenset({"false", "f", "no", "n", "0", "0.0"})
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,64}(?:\.[0-9]{1,64})?")
_QUANTITY = re.compile(
    r"(?P<number>[+-]?[0-9]{1,64}(?:\.[0-9]{1,64})?)(?:\s+(?:'(?P<unit>[^']+)'|(?P<word>[a-z]+)))?"
)


def _boolean(value: Any) -> bool | None:
    if type(value) is bool:
        return value
    if is_number(value):
        return bool(value) if value in (0, 1) else None
    if type(value) is str:
        folded = value.lower()
        return True if folded in _TRUE else False if folded in _FALSE else None
    return None


def _integer(value: Any) -> int | None:
    if type(value) in (bool, int):
        return int(value)
    return int(value) if type(value) is str and _INTEGER.fullmatch(value) else None


def _decimal(value: Any) -> Decimal | None:
    if type(value) is bool or is_number(value):
        return Decimal(value)
    return Decimal(value) if type(value) is str and _DECIMAL.fullmatch(value) else None


def _string(value: Any) -> str | None:
    return None if type(value) is Node else text_of(value)


def _quantity(value: Any) -> Quantity | None:
    if isinstance(value, Quantity):
        return value
    if type(value) is not str:
        number = _decimal(value)
        return None if number is None else Quantity(number)
    match = _QUANTITY.fullmatch(value)
    if match is None or (match["word"] and calendar_unit(match["word"]) is None):
        return None
    return Quantity(Decimal(match["number"]), match["word"] or match["unit"] or "1", bool(match["word"]))


def _in_unit(value: Any, unit: str | None = None) -> Quantity | None:
    """``toQuantity()``, counted in a unit if one is asked for."""
    found = _quantity(value)
    if found is None or unit is None:
        return found
    wanted = Quantity(Decimal(1), unit, calendar_unit(unit) is not None)
    number = counted_in(found, wanted)
    return None if number is None else Quantity(number, unit, wanted.is_word)


def _date(value: Any) -> Temporal | None:
    if isinstance(value, Temporal):
        return as_date(value) if value.kind != TIME else None
    return _read(value, DATE) or (as_date(found) if (found := _read(value, DATE_TIME)) else None)


def _date_time(value: Any) -> Temporal | None:
    if isinstance(value, Temporal):
        return Temporal(DATE_TIME, value.parts, value.zone, value.digits) if value.kind != TIME else None
    return _read(value, DATE_TIME)


def _time(value: Any) -> Temporal | None:
    if isinstance(value, Temporal):
        return value if value.kind == TIME else None
    return _read(value.removeprefix("T"), TIME) if type(value) is str else None


def _read(value: Any, kind: str) -> Temporal | None:
    return read_temporal(value, kind) if type(value) is str else None


_CONVERSIONS: dict[str, tuple[Callable[[Any], Any], frozenset[str]]] = {
    "Boolean": (_boolean, BOOLEAN),
    "Integer": (_integer, INTEGER),
    "Decimal": (_decimal, DECIMAL),
    "String": (_string, STRING),
    "Quantity": (_quantity, QUANTITY),
    "Date": (_date, frozenset({SYSTEM + "Date"})),
    "DateTime": (_date_time, frozenset({SYSTEM + "DateTime"})),
    "Time": (_time, frozenset({SYSTEM + "Time"})),
}


def _converts(name: str, convert: Callable[[Any], Any]) -> Function:
    def run(items: Items, _scope: Scope, _focus: Items) -> Items:
        value = single(items, f"{name}()")
        return [] if value is None else [convert(value) is not None]

    def make(_args: object, _model: object) -> Run:
        return run

    return Function(make, gives=BOOLEAN)


TABLE: dict[str, Function] = {
    **{f"to{name}": scalar(f"to{name}", (), convert, gives) for name, (convert, gives) in _CONVERSIONS.items()},
    "toQuantity": scalar("toQuantity", (), _in_unit, QUANTITY, ("text",), least=0),
    **{f"convertsTo{n}": _converts(f"convertsTo{n}", convert) for n, (convert, _) in _CONVERSIONS.items()},
}
