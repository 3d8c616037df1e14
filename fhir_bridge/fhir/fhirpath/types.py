"""Names of types, what is a kind of what, and the elements a type has (FHIR R4 fhirpath.html#types).

Types of FHIR have their name in the tables; those of FHIRPath itself are written with their namespace
(``System.String``). The static type of an expression is a set of such names; the empty set stands for any.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any

from fhir_bridge.fhir.fhirpath.temporal import Temporal
from fhir_bridge.fhir.fhirpath.values import QUANTITIES, Node, Quantity, TypeInfo
from fhir_bridge.fhir.path_syntax import PathNotUnderstood
from fhir_bridge.fhir.tables import Definitions

Types = frozenset[str]
ANY: Types = frozenset()

SYSTEM = "System."
BOOLEAN, STRING, INTEGER, DECIMAL = (frozenset({SYSTEM + n}) for n in ("Boolean", "String", "Integer", "Decimal"))
QUANTITY = frozenset({SYSTEM + "Quantity"})
TYPE_INFO = frozenset({SYSTEM + "ClassInfo"})
_SYSTEM_NAMES = ("Boolean", "String", "Integer", "Decimal", "Date", "DateTime", "Time", "Quantity")

_PRIMITIVE_BASES = {
    **dict.fromkeys(("canonical", "oid", "url", "uuid"), "uri"),
    **dict.fromkeys(("code", "id", "markdown"), "string"),
    **dict.fromkeys(("positiveInt", "unsignedInt"), "integer"),
}
_PLAIN_RESOURCES = frozenset({"Bundle", "Binary", "Parameters", "DomainResource"})
_OPEN = frozenset({"Resource", "DomainResource"})

# What a function or an operator can want, and the types that give it.
_TEXT = frozenset("string code id markdown uri url canonical oid uuid base64Binary xhtml".split())  # noqa: SIM905 - reads as a table
KINDS: Mapping[str, Types] = {
    "text": STRING | _TEXT,
    "number": INTEGER | DECIMAL | {"integer", "positiveInt", "unsignedInt", "decimal"},
    "boolean": BOOLEAN | {"boolean"},
    "moment": frozenset({"System.Date", "System.DateTime", "System.Time", "date", "dateTime", "instant", "time"}),
    "quantity": QUANTITY | QUANTITIES,
}


def could_be(types: Types, kinds: Collection[str]) -> bool:
    """Whether a value of one of ``types`` can be what is wanted."""
    return not types or any(types & KINDS[kind] for kind in kinds)


def kinds_of(types: Types) -> frozenset[str]:
    """Kinds that values of ``types`` are of; ``other`` for what no kind lists."""
    found = {next((kind for kind, listed in KINDS.items() if each in listed), "other") for each in types}
    return frozenset(found)


def could_be_equal(left: Types, right: Types) -> bool:
    """Whether values of the one can equal values of the other; a number counts as a quantity."""
    if not left or not right:
        return True
    first, second = ({"quantity" if k == "number" else k for k in kinds_of(types)} for types in (left, right))
    return bool(first & second)


def shown(types: Types) -> str:
    """Write types for an error."""
    return "|".join(sorted(types)) if len(types) <= 5 else f"{len(types)} types"


def did_you_mean(word: str, known: Collection[str]) -> str:
    """A hint to add to an error, or nothing."""
    near = difflib.get_close_matches(word, sorted(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


@dataclass(frozen=True, slots=True)
class TypeName:
    """A type specifier: namespaces in which the name is meant, and the name."""

    name: str
    in_fhir: bool
    in_system: bool


Child = tuple[str, str | None, str]
"""JSON key of an element, the key beside it if it is a primitive, and its type (``Resource`` where any may stand)."""


@dataclass(frozen=True, eq=False)
class Model:
    """The types of one release, as expressions need them."""

    definitions: Definitions
    _children: dict[str, Mapping[str, tuple[Child, ...]]] = field(default_factory=dict)

    def children(self, type_name: str) -> Mapping[str, tuple[Child, ...]]:
        """Return element name → where its values stand, of a type; ``value`` for all keys of ``value[x]``."""
        found = self._children.get(type_name)
        if found is None:
            found = self._children[type_name] = self._read(type_name)
        return found

    def _read(self, type_name: str) -> Mapping[str, tuple[Child, ...]]:
        row = self.definitions.types.get(type_name)
        if row is None:
            return {}
        primitive = self.is_primitive(type_name)
        return {
            e.name.removesuffix("[x]"): tuple(
                (key, "_" + key if self.is_primitive(kind) else None, kind) for key, kind in e.json_keys().items()
            )
            for e in row.elements.values()
            if not (primitive and e.name == "value")
        }

    def is_primitive(self, type_name: str) -> bool:
        """True for ``code`` and its like."""
        row = self.definitions.types.get(type_name)
        return row is not None and row.kind == "primitive-type"

    def is_open(self, types: Types) -> bool:
        """Whether what a step finds can only be told when it runs."""
        return not types or bool(types & _OPEN)

    def bases(self, type_name: str) -> tuple[str, ...]:
        """A FHIR type and what it is besides, from the nearest."""
        row = self.definitions.types.get(type_name)
        if row is None:
            return (type_name,)
        if row.kind == "primitive-type":
            above = _PRIMITIVE_BASES.get(type_name)
            return (type_name, *((above,) if above else ()), "Element")
        if row.kind == "resource":
            domain = () if type_name in _PLAIN_RESOURCES or type_name == "Resource" else ("DomainResource",)
            return (type_name, *domain, *(("Resource",) if type_name != "Resource" else ()))
        if row.kind == "backbone":
            return (type_name, "BackboneElement", "Element")
        if type_name in QUANTITIES and type_name != "Quantity":
            return (type_name, "Quantity", "Element")
        return (type_name, "Element") if type_name != "Element" else (type_name,)

    def type_named(self, text: str) -> TypeName:
        """Read a type specifier.

        Raises:
            PathNotUnderstood: No such type; a name with its namespace may be of none.
        """
        namespace, _, name = text.rpartition(".")
        if namespace:
            if namespace not in ("FHIR", "System"):
                raise PathNotUnderstood(f"no namespace {namespace!r}: a type is one of FHIR or of System")
            return TypeName(name, namespace == "FHIR", namespace == "System")
        made = TypeName(name, name in self.definitions.types, name in _SYSTEM_NAMES)
        if not made.in_fhir and not made.in_system:
            known = [n for n in self.definitions.types if "." not in n]
            raise PathNotUnderstood(f"no type {name!r}{did_you_mean(name, [*known, *_SYSTEM_NAMES])}")
        return made

    def is_a(self, item: Any, wanted: TypeName) -> bool:
        """``is``: an item has the type, or one below it."""
        if type(item) is Node:
            return wanted.in_fhir and wanted.name in self.bases(item.type)
        return wanted.in_system and system_name(item) == wanted.name

    def counts_as(self, item: Any, wanted: TypeName) -> bool:
        """``as`` and ``ofType``: like ``is``, but a primitive must have the very type (a ``code`` is no string)."""
        if type(item) is Node and self.is_primitive(wanted.name):
            return wanted.in_fhir and item.type == wanted.name
        return self.is_a(item, wanted)

    def info(self, item: Any) -> TypeInfo:
        """``type()`` of an item."""
        if type(item) is not Node:
            return TypeInfo("System", system_name(item), "System.Any")
        bases = self.bases(item.type)
        return TypeInfo("FHIR", item.type, f"FHIR.{bases[1]}" if len(bases) > 1 else "System.Any")


@lru_cache(maxsize=8)
def model_of(definitions: Definitions) -> Model:
    """The model of a release, shared by its expressions."""
    return Model(definitions)


def type_of(item: Any) -> str:
    """Name of an item's type: that of FHIR, or of System with its namespace."""
    return item.type if type(item) is Node else SYSTEM + system_name(item)


def system_name(value: Any) -> str:
    """Name of the System type of a plain value."""
    if isinstance(value, Temporal):
        return value.kind
    if isinstance(value, Decimal):
        return "Decimal"
    names = {str: "String", bool: "Boolean", int: "Integer", Quantity: "Quantity", TypeInfo: "ClassInfo"}
    return names.get(type(value), "Any")
