"""Every Reference of an R4 resource with its place and the types the standard lets it point to, and every code.

Like ``fhir.references.walk``, with what lineage needs: a place is a chain of ``(parent, key, index)`` that is only
written out when a change is put on record. One walk finds both: going through a body costs more than looking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from fhir_bridge.fhir.tables import Element, r4

Chain = tuple[Any, str, int]
"""``(chain of the holder or the type's name, key, index or -1)``."""

FoundReference = tuple[dict[str, Any], Chain, tuple[str, ...]]
"""The Reference object, where it stands, and its possible target types (empty: any)."""

_PLAIN = frozenset({"reference", "display", "type"})
"""What a Reference mostly holds, and nothing further is below."""


@dataclass(frozen=True, slots=True)
class Walked:
    """What a walk through a resource found, contained resources and extensions included, in document order.

    ``coded`` are the objects with a ``code``.
    """

    references: list[FoundReference]
    coded: list[dict[str, Any]]


_Visit = Callable[[Any, Any, Walked], None]


def walk(resource: dict[str, Any]) -> Walked:
    """Find the References and codes of a resource at the places where R4 has any."""
    name = str(resource.get("resourceType", ""))
    found = Walked([], [])
    _walk(name, resource, name, found)
    return found


def written(chain: Chain | str) -> str:
    """Write a place as FHIRPath does: ``Claim.item[1].encounter[0]``."""
    parts = []
    while not isinstance(chain, str):
        chain, key, index = chain
        parts.append(key if index < 0 else f"{key}[{index}]")
    return ".".join([chain, *reversed(parts)])


def _walk(type_name: str, value: Any, chain: Any, found: Walked) -> None:
    _object(type_name)(value, chain, found)


@cache
def _object(type_name: str) -> _Visit:
    # Filled when first met: types hold each other.
    visits: dict[str, _Visit] = {}

    def visit(value: Any, chain: Any, found: Walked) -> None:
        if not visits:
            visits.update(_visits(type_name))
        if "code" in value:
            found.coded.append(value)
        if visits.keys().isdisjoint(value):
            return
        for key, item in value.items():
            below = visits.get(key)
            if below is None:
                continue
            if type(item) is list:
                for index, one in enumerate(item):
                    if type(one) is dict:
                        below(one, (chain, key, index), found)
            elif type(item) is dict:
                below(item, (chain, key, -1), found)

    return visit


def _visits(type_name: str) -> dict[str, _Visit]:
    row = r4().types.get(type_name)
    visits: dict[str, _Visit] = {}
    for element in row.elements.values() if row else ():
        for key, child in element.json_keys().items():
            if child == "Reference":
                visits[key] = _reference(element)
            elif child == "Resource":
                visits[key] = _resource
            elif r4().types[child].kind == "primitive-type":
                visits["_" + key] = _object("Element")
            else:
                visits[key] = _object(child)
    return visits


def _reference(element: Element) -> _Visit:
    targets = element.targets

    def visit(value: Any, chain: Any, found: Walked) -> None:
        found.references.append((value, chain, targets))
        if not value.keys() <= _PLAIN:
            _walk("Reference", value, chain, found)

    return visit


def _resource(value: Any, chain: Any, found: Walked) -> None:
    _walk(str(value.get("resourceType", "")), value, chain, found)
