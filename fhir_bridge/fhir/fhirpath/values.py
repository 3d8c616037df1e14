"""What FHIRPath computes with: elements of a resource, and values of the System types.

A collection is a list. An element of a resource is a ``Node``; whatever an expression makes itself is a plain value:
``str``, ``bool``, ``int``, ``Decimal``, ``Temporal``, ``Quantity`` or ``TypeInfo``. A Node is turned into a plain
value only where an operator or a function asks for one (FHIR R4 fhirpath.html#types).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal
from typing import Any, ClassVar, NamedTuple

from fhir_bridge.errors import BridgeError
from fhir_bridge.fhir.fhirpath.temporal import Temporal, read_temporal

# More digits than any measurement has; FHIRPath N1 section 4 asks for 28.
EXACT = Context(prec=34)
MAX_TEXT_CHARS = 1_000_000


class PathFailed(BridgeError):
    """An expression met data that it cannot judge: many items where one is wanted, a text where a number is.

    The message names the operator and what it wanted, never a value.
    """

    code: ClassVar[str] = "path-failed"


class Node(NamedTuple):
    """An element of a resource.

    Attributes:
        value: Its JSON value; None for a primitive that has only extensions.
        type: Its type in the tables (``code``, ``Patient.contact``, ``Patient``).
        beside: Of a primitive the object with its id and extensions (``_birthDate``), or None.
    """

    value: Any
    type: str
    beside: Any = None


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with a unit: a UCUM code, or the word of a calendar duration."""

    value: Decimal
    unit: str = "1"
    is_word: bool = False


@dataclass(frozen=True, slots=True)
class TypeInfo:
    """What ``type()`` gives."""

    namespace: str
    name: str
    base: str


Value = str | bool | int | Decimal | Temporal | Quantity | TypeInfo
Items = list[Any]
"""A collection of Nodes and Values."""


@dataclass(slots=True)
class Scope:
    """What an expression sees beside its focus; made for one evaluation.

    Attributes:
        resource: ``%resource``; ``root`` is what contains it, ``context`` where the expression started.
        contained: Local id → type of the contained resources.
        now: The moment of evaluation, only for expressions that may ask for it.
        targets: What a reference can name within the record, once it is asked for.
        index, total: ``$index`` and ``$total`` while a function goes through its items.
    """

    resource: Node
    context: Node
    root: Node
    contained: Mapping[str, str]
    now: datetime | None = None
    targets: dict[str, dict[str, Any]] | None = None
    index: int | None = None
    total: Items | None = None


Evaluate = Callable[[Items, Scope], Items]
"""Focus and scope → collection."""

_DATED = frozenset({"date", "dateTime", "instant", "time"})
QUANTITIES = frozenset({"Quantity", "SimpleQuantity", "Age", "Count", "Distance", "Duration", "MoneyQuantity"})
_UCUM = "http://unitsofmeasure.org"


def plain(item: Any) -> Any:
    """Return an item as a Value where FHIR R4 says it is one; a Node that is none stays, also one without a value."""
    if type(item) is not Node:
        return item
    value, kind = item.value, item.type
    if type(value) is str:
        return (read_temporal(value, kind) or value) if kind in _DATED else value
    if type(value) is dict:
        return (_quantity(value) or item) if kind in QUANTITIES else item
    if type(value) is int and kind == "decimal":
        return Decimal(value)
    return value if type(value) is bool or is_number(value) else item


def _quantity(value: dict[str, Any]) -> Quantity | None:
    number = value.get("value")
    if type(number) is int or isinstance(number, Decimal):
        if value.get("comparator") is not None:
            return None
        code, unit = value.get("code"), value.get("unit")
        if value.get("system") == _UCUM and type(code) is str:
            return Quantity(Decimal(number), code)
        if code is None and unit is None:
            return Quantity(Decimal(number))
    return None


def single(items: Items, what: str) -> Any:
    """Return the one item of a collection as a plain value; None of an empty one.

    Raises:
        PathFailed: It holds several.
    """
    if not items:
        return None
    if len(items) > 1:
        raise PathFailed(f"{what} wants one item and found {len(items)}")
    return plain(items[0])


def truth(items: Items, what: str) -> bool | None:
    """Value of a collection where a boolean is asked for (N1 section 4.5): one item that is none counts as true.

    Raises:
        PathFailed: It holds several.
    """
    if not items:
        return None
    if len(items) > 1:
        raise PathFailed(f"{what} wants one boolean and found {len(items)} items")
    item = items[0]
    value = item.value if type(item) is Node else item
    return value if type(value) is bool else True


def is_number(value: Any) -> bool:
    """True for an integer or a decimal, not for a boolean."""
    return type(value) is int or isinstance(value, Decimal)


def text_of(value: Value) -> str | None:
    """Write a value as ``toString()`` does; None for what has no text."""
    if type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, Quantity):
        unit = value.unit if value.is_word else f"'{value.unit}'"
        return f"{value.value:f} {unit}"
    return str(value) if isinstance(value, (int, Temporal)) else None
