"""Walk a resource by its definition: every value with its type and its path, contained and extended ones included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fhir_bridge.fhir.tables import Definitions


@dataclass(frozen=True, slots=True)
class Found:
    """One value: ``holder[key]`` or a member of that list.

    Attributes:
        type_name: Its FHIR type.
        owner: Resource type that it belongs to; of what is contained, the contained one.
        path: From there, by JSON keys and without indexes: ``component.valueQuantity``.
    """

    value: Any
    type_name: str
    owner: str
    path: str
    holder: dict[str, Any]
    key: str
    index: int | None = None

    def put(self, value: Any) -> None:
        """Set another value in its place."""
        if self.index is None:
            self.holder[self.key] = value
        else:
            self.holder[self.key][self.index] = value


def walk(resource: dict[str, Any], definitions: Definitions) -> Iterator[Found]:
    """Yield every value of a resource whose element the definitions know, parents before their parts."""
    name = str(resource.get("resourceType"))
    if name in definitions.types:
        yield from _walk(resource, name, name, "", definitions)


def _walk(value: dict[str, Any], type_name: str, owner: str, path: str, definitions: Definitions) -> Iterator[Found]:
    row = definitions.types.get(type_name)
    keys = (
        {key: kind for element in row.elements.values() for key, kind in element.json_keys().items()} if row else {}
    )
    for key in list(value):
        kind = keys.get(key)
        if kind is None:
            continue
        here = f"{path}.{key}" if path else key
        items = value[key]
        each = enumerate(items) if type(items) is list else [(None, items)]
        for index, item in list(each):
            if kind == "Resource":
                if type(item) is dict:
                    yield from walk(item, definitions)
                continue
            yield Found(item, kind, owner, here, value, key, index)
            if type(item) is dict:
                yield from _walk(item, kind, owner, here, definitions)
