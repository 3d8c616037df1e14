"""The definitions of FHIR as typed rows, loaded when first used.

For the validator, the search values and the compartment. The tables are made from HL7's packages by
``tools/definitions/generate.py``; types of backbone elements carry their path (``Patient.contact``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

import msgspec


class Invariant(msgspec.Struct, frozen=True, array_like=True):
    """One error-level constraint of the standard."""

    key: str
    human: str
    expression: str


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a type.

    Attributes:
        name: Name; ends in ``[x]`` for a choice of types.
        targets: Types a Reference may point to; empty means any.
        codes: URL of the value set whose binding is required, when it can be listed.
    """

    name: str
    min: int
    many: bool
    types: tuple[str, ...]
    targets: tuple[str, ...] = ()
    codes: str | None = None
    modifier: bool = False
    invariants: tuple[Invariant, ...] = ()

    @property
    def is_choice(self) -> bool:
        """True for ``value[x]`` and its like."""
        return self.name.endswith("[x]")

    def json_keys(self) -> dict[str, str]:
        """JSON key → type, one for each type of a choice."""
        if not self.is_choice:
            return {self.name: self.types[0]}
        stem = self.name[:-3]
        return {f"{stem}{t[0].upper()}{t[1:]}": t for t in self.types}


@dataclass(frozen=True, eq=False)
class TypeRow:
    """One resource type, datatype, backbone element or primitive. Equal only to itself."""

    name: str
    kind: str
    is_abstract: bool
    invariants: tuple[Invariant, ...]
    written: msgspec.Raw = field(repr=False)

    @cached_property
    def elements(self) -> Mapping[str, Element]:
        """Its elements by name, made when first asked for: whoever starts needs a few types of hundreds."""
        rows = _ELEMENTS.decode(self.written)
        return {
            name: Element(name, row.min, row.many, row.types, row.targets, row.codes, row.modifier, row.invariants)
            for name, row in rows.items()
        }


@dataclass(frozen=True, eq=False)
class Definitions:
    """One release of FHIR: types by name, value sets as url → system → codes. Equal only to itself."""

    release: str
    types: Mapping[str, TypeRow]
    codes: Mapping[str, Mapping[str, frozenset[str]]]

    def resource_types(self) -> frozenset[str]:
        """Names of the concrete resource types."""
        return self._resource_types

    @cached_property
    def _resource_types(self) -> frozenset[str]:
        return frozenset(n for n, t in self.types.items() if t.kind == "resource" and not t.is_abstract)

    def element_names(self) -> frozenset[str]:
        """Every JSON key that some type defines; nothing else is ever named in a diagnostic."""
        return frozenset(k for t in self.types.values() for e in t.elements.values() for k in e.json_keys())

    def part_keys(self, types: tuple[str | None, ...]) -> frozenset[str]:
        """JSON keys of these resource types, of their parts and of every complex datatype."""
        found = self._part_keys.get(types)
        if found is None:
            found = self._part_keys[types] = frozenset(
                key
                for name, row in self.types.items()
                if name.partition(".")[0] in types or row.kind == "complex-type"
                for element in row.elements.values()
                for key in element.json_keys()
            )
        return found

    @cached_property
    def _part_keys(self) -> dict[tuple[str | None, ...], frozenset[str]]:
        return {}


@dataclass(frozen=True, slots=True)
class SearchParameter:
    """One search parameter of one type; ``path`` is FHIRPath.

    ``components`` of a composite one are (parameter, kind, FHIRPath from what ``path`` selects).
    """

    name: str
    kind: str
    path: str
    targets: tuple[str, ...]
    components: tuple[tuple[str, str, str], ...] = ()


@cache
def r4() -> Definitions:
    """FHIR R4 (4.0.1)."""
    return _definitions("R4", "r4.json")


@cache
def stu3() -> Definitions:
    """FHIR STU3 (3.0.2)."""
    return _definitions("STU3", "stu3.json")


@cache
def r4b() -> Definitions:
    """FHIR R4B (4.3.0): R4 but for what its table holds."""
    table, base = _table("r4b.json"), r4()
    kept = {name: row for name, row in base.types.items() if name not in table.without}
    return Definitions("R4B", kept | _types(table), {**base.codes, **table.codes})


@cache
def r5() -> Definitions:
    """FHIR R5 (5.0.0)."""
    return _definitions("R5", "r5.json")


def definitions_of(release: str) -> Definitions:
    """The definitions of ``STU3``, ``R4``, ``R4B`` or ``R5``; loaded when first asked for."""
    return _RELEASES[release]()


_RELEASES: Mapping[str, Callable[[], Definitions]] = {"STU3": stu3, "R4": r4, "R4B": r4b, "R5": r5}


@cache
def search_parameters() -> Mapping[str, Mapping[str, SearchParameter]]:
    """Type → name → R4 search parameter; ``Resource`` and ``DomainResource`` hold what is common."""
    return {
        base: {name: _search_parameter(name, row) for name, row in rows.items()}
        for base, rows in _load("r4-search.json").items()
    }


def _search_parameter(name: str, row: dict[str, Any]) -> SearchParameter:
    components = tuple((part, kind, path) for part, kind, path in row.get("components", ()))
    return SearchParameter(name, row["kind"], row["path"], tuple(row.get("targets", ())), components)


@cache
def patient_compartment() -> Mapping[str, tuple[str, ...]]:
    """Type → search parameters that put a resource into a Patient compartment."""
    return {name: tuple(parameters) for name, parameters in _load("r4-compartment.json").items()}


@cache
def summary_elements() -> Mapping[str, frozenset[str]]:
    """Type or backbone element → names of its R4 elements that are part of a summary."""
    return {name: frozenset(elements) for name, elements in _load("r4-summary.json").items()}


def _definitions(release: str, file: str) -> Definitions:
    table = _table(file)
    return Definitions(release, _types(table), table.codes)


def _types(table: _Table) -> dict[str, TypeRow]:
    return {
        name: TypeRow(name, row.kind, row.abstract, row.invariants, row.elements) for name, row in table.types.items()
    }


class _ElementText(msgspec.Struct):
    """An element as it stands in a file of definitions."""

    min: int
    many: bool
    types: tuple[str, ...]
    targets: tuple[str, ...] = ()
    codes: str | None = None
    modifier: bool = False
    invariants: tuple[Invariant, ...] = ()


class _TypeText(msgspec.Struct):
    kind: str
    elements: msgspec.Raw
    abstract: bool = False
    invariants: tuple[Invariant, ...] = ()


class _Table(msgspec.Struct):
    types: dict[str, _TypeText]
    codes: dict[str, dict[str, frozenset[str]]]
    without: frozenset[str] = frozenset()


_ELEMENTS = msgspec.json.Decoder(dict[str, _ElementText])


def _table(file: str) -> _Table:
    return msgspec.json.decode(_bytes(file), type=_Table)


def _load(file: str) -> Any:
    return msgspec.json.decode(_bytes(file))


def _bytes(file: str) -> bytes:
    return files("fhir_bridge.fhir").joinpath("definitions", file).read_bytes()
