"""Find every Reference in a resource, at the places where FHIR defines one.

For normalisation, which rewrites them, and for the index, which follows them. The definitions decide what is a
Reference: an object that merely has a member ``reference`` (``Consent.provision.data``, ``Signature`` parts,
``Expression.reference``) is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from fhir_bridge.fhir.reference_text import ParsedReference, ReferenceKind, contained_types, parse_reference, type_of
from fhir_bridge.fhir.tables import Definitions, definitions_of

__all__ = [
    "ParsedReference",
    "ReferenceKind",
    "contained_types",
    "literal_targets",
    "parse_reference",
    "type_of",
    "walk",
]

_Walk = Callable[[Any, list[dict[str, Any]]], None]


def walk(resource: dict[str, Any], *, release: str = "R4") -> Iterator[dict[str, Any]]:
    """Yield each Reference object of a resource and of what it contains; the objects themselves, to be changed.

    The list is complete before the first is yielded, so that changing one disturbs nothing. Extensions and
    contained resources are included, the resources in a Bundle's entries too.

    Args:
        resource: Valid in ``release``; unknown parts are passed over.
        release: ``STU3``, ``R4``, ``R4B`` or ``R5``.
    """
    found: list[dict[str, Any]] = []
    _walker(release).resource(resource, found)
    return iter(found)


def literal_targets(resource: dict[str, Any]) -> tuple[str, ...]:
    """Return ``Type/id`` of every relative reference, each once, in the order of the document."""
    targets: dict[str, None] = {}
    for reference in walk(resource):
        text = reference.get("reference")
        if type(text) is str:
            parsed = parse_reference(text)
            if parsed.kind is ReferenceKind.RELATIVE:
                targets[f"{parsed.type}/{parsed.id}"] = None
    return tuple(targets)


class _Walker:
    """Per type, the keys under which a Reference can be found, at any depth."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions
        self._types: dict[str, dict[str, _Walk]] = {}
        self._leading = _types_leading_to_references(definitions)

    def resource(self, value: Any, found: list[dict[str, Any]]) -> None:
        """Walk a resource of any type."""
        name = value.get("resourceType") if type(value) is dict else None
        if type(name) is str and name in self._definitions.types:
            self.object(name, value, found)

    def object(self, type_name: str, value: Any, found: list[dict[str, Any]]) -> None:
        """Walk an object of a known type."""
        if type(value) is not dict:
            return
        if type_name == "Reference":
            found.append(value)
        keys = self._types.get(type_name)
        if keys is None:
            keys = self._types.setdefault(type_name, self._keys(type_name))
        for key, item in value.items():
            visit = keys.get(key)
            if visit is None:
                continue
            if type(item) is list:
                for one in item:
                    visit(one, found)
            else:
                visit(item, found)

    def _keys(self, type_name: str) -> dict[str, _Walk]:
        keys: dict[str, _Walk] = {}
        for element in self._definitions.types[type_name].elements.values():
            for key, child in element.json_keys().items():
                if child == "Resource":
                    keys[key] = self.resource
                elif self._definitions.types[child].kind == "primitive-type":
                    # What stands beside a primitive can hold an extension with a Reference.
                    keys["_" + key] = self._visit("Element")
                elif child in self._leading:
                    keys[key] = self._visit(child)
        return keys

    def _visit(self, type_name: str) -> _Walk:
        return lambda value, found: self.object(type_name, value, found)


def _types_leading_to_references(definitions: Definitions) -> frozenset[str]:
    """Types that are References or can hold one, extensions included: nearly all, but computed all the same."""
    leading = {"Reference", "Resource", "Extension"}
    grew = True
    while grew:
        more = {
            name
            for name, row in definitions.types.items()
            if name not in leading and any(t in leading for e in row.elements.values() for t in e.types)
        }
        leading |= more
        grew = bool(more)
    return frozenset(leading)


@cache
def _walker(release: str) -> _Walker:
    return _Walker(definitions_of(release))
