"""Every Reference of an R4 resource with its place and the types the standard lets it point to.

Like ``fhir.references.walk``, with what lineage needs: a place is a chain of ``(parent, key, index)`` that is only
written out when a change is put on record.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from fhir_bridge.fhir.tables import Element, r4

Chain = tuple[Any, str, int]
"""``(chain of the holder or the type's name, key, index or -1)``."""

FoundReference = tuple[dict[str, Any], Chain, tuple[str, ...]]
"""The Reference object, where it stands, and its possible target types (empty: any)."""

_Visit = Callable[[Any, Chain, list[FoundReference]], None]


def references(resource: dict[str, Any]) -> list[FoundReference]:
    """Return the References of a resource, contained resources and extensions included, in document order."""
    found: list[FoundReference] = []
    _walk(str(resource.get("resourceType", "")), resource, resource.get("resourceType", ""), found)
    return found


def written(chain: Chain | str) -> str:
    """Write a place as FHIRPath does: ``Claim.item[1].encounter[0]``."""
    parts = []
    while not isinstance(chain, str):
        chain, key, index = chain
        parts.append(key if index < 0 else f"{key}[{index}]")
    return ".".join([chain, *reversed(parts)])


def _walk(type_name: str, value: Any, chain: Any, found: list[FoundReference]) -> None:
    visits = _visits(type_name)
    for key, item in value.items():
        visit = visits.get(key)
        if visit is None:
            continue
        if type(item) is list:
            for index, one in enumerate(item):
                if type(one) is dict:
                    visit(one, (chain, key, index), found)
        elif type(item) is dict:
            visit(item, (chain, key, -1), found)


@cache
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
            elif child in _leading():
                visits[key] = _object(child)
    return visits


def _reference(element: Element) -> _Visit:
    targets = element.targets

    def visit(value: Any, chain: Chain, found: list[FoundReference]) -> None:
        found.append((value, chain, targets))
        if "extension" in value or "identifier" in value:
            _walk("Reference", value, chain, found)

    return visit


def _resource(value: Any, chain: Chain, found: list[FoundReference]) -> None:
    _walk(str(value.get("resourceType", "")), value, chain, found)


def _object(type_name: str) -> _Visit:
    return lambda value, chain, found: _walk(type_name, value, chain, found)


@cache
def _leading() -> frozenset[str]:
    """Types that can hold a Reference other than by way of an extension; Extension itself is visited anywhere."""
    return frozenset(r4().types)
