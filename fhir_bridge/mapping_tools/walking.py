"""Walk a record by the definitions: every leaf with its path, its place and its type.

A *path* is what all records share (``Observation.component.code``), a *place* stands in one record
(``Observation.component[1].code``). Ranges of extensions are named by the element that holds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from fhir_bridge.fhir.tables import Definitions, definitions_of
from fhir_bridge.model.ingest import Body

UNKNOWN = ""
"""Type of what the definitions do not have."""

_OPEN = ("Resource", "DomainResource")


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value of a record, or a node on the way to one.

    Attributes:
        type: By the definitions; empty for an element that they do not have.
    """

    path: str
    place: str
    type: str
    value: Any


def leaves(body: Body, definitions: Definitions) -> Iterator[Leaf]:
    """Yield every value that is no object and no list, in document order."""
    for node in nodes(body, definitions):
        if type(node.value) is not dict:
            yield node


def nodes(body: Body, definitions: Definitions) -> Iterator[Leaf]:
    """Yield every object and every value of a record, in document order, lists opened."""
    name = str(body.get("resourceType", ""))
    yield from _below(body, name, name, name, definitions.release)


def _below(holder: dict[str, Any], type_name: str, path: str, place: str, release: str) -> Iterator[Leaf]:
    known = _keys(type_name, release)
    for key, value in holder.items():
        if key == "resourceType":
            continue
        # ``_birthDate`` holds the extensions of ``birthDate``.
        kind = "Element" if key.startswith("_") and key[1:] in known else known.get(key, UNKNOWN)
        under, at = f"{path}.{key}", f"{place}.{key}"
        if type(value) is list:
            for index, item in enumerate(value):
                yield from _one(item, kind, under, f"{at}[{index}]", release)
        else:
            yield from _one(value, kind, under, at, release)


def _one(value: Any, kind: str, path: str, place: str, release: str) -> Iterator[Leaf]:
    yield Leaf(path, place, kind, value)
    if type(value) is dict:
        inner = str(value.get("resourceType", kind)) if kind in _OPEN else kind
        yield from _below(value, inner, path, place, release)


@cache
def _keys(type_name: str, release: str) -> dict[str, str]:
    row = definitions_of(release).types.get(type_name)
    if row is None:
        return {}
    found = {key: kind for element in row.elements.values() for key, kind in element.json_keys().items()}
    if row.kind == "resource":
        found.setdefault("id", "id")
    return found
