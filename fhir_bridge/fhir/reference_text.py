"""Read the text of a reference: relative, absolute, ``urn:``, ``#contained``, versioned or conditional.

For validation, search values and the rewriting of ids. FHIR R4 references.html#literal names the forms; the
conditional one (``Type?identifier=system|value``) belongs to transactions (http.html#trules).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from fhir_bridge.fhir.releases import RENAMED, WITHOUT_R4
from fhir_bridge.fhir.tables import r4


class ReferenceKind(StrEnum):
    """The form in which a reference names its target."""

    RELATIVE = "relative"
    ABSOLUTE = "absolute"
    URN = "urn"
    CONTAINED = "contained"
    CONDITIONAL = "conditional"
    OTHER = "other"


class ParsedReference(msgspec.Struct, frozen=True):
    """What a reference's text says.

    Attributes:
        type: Resource type, where the text shows one.
        id: Logical id; the local id after ``#`` of a contained one (empty for ``#`` itself, the container).
        version: ``_history`` part.
        base: Service base of an absolute one, without the slash at its end; the whole text of a ``urn:``.
        query: What follows ``?`` of a conditional one.
        identifier: ``(system, value)`` of a conditional one by exactly one identifier. The system is None where the
            text has no ``|`` (any system) and empty for ``|value`` (no system).
    """

    kind: ReferenceKind
    type: str | None = None
    id: str | None = None
    version: str | None = None
    base: str | None = None
    query: str | None = None
    identifier: tuple[str | None, str] | None = None


_RESTFUL = re.compile(
    r"(?:(?P<base>https?://\S*[^/\s])/)?(?P<type>[A-Z][A-Za-z]+)/(?P<id>[A-Za-z0-9.-]{1,64})"
    r"(?:/_history/(?P<version>[A-Za-z0-9.-]{1,64}))?"
)
_CONDITIONAL = re.compile(r"(?P<type>[A-Z][A-Za-z]+)\?(?P<query>\S+)")
_OTHER = ParsedReference(ReferenceKind.OTHER)
_LONGEST_REMEMBERED = 256


def parse_reference(text: str) -> ParsedReference:
    """Read the text of ``Reference.reference``; what fits no form is of kind ``other``.

    The last few thousand texts are remembered: each room asks again what a reference says.
    """
    return _remembered(text) if len(text) <= _LONGEST_REMEMBERED else _read(text)


def _read(text: str) -> ParsedReference:
    if text.startswith("#"):
        return ParsedReference(ReferenceKind.CONTAINED, id=text[1:])
    if text.startswith("urn:"):
        return ParsedReference(ReferenceKind.URN, base=text)
    match = _RESTFUL.fullmatch(text)
    if match:
        base, type_name, local_id, version = match.groups()
        if type_name in _known_types():
            kind = ReferenceKind.ABSOLUTE if base else ReferenceKind.RELATIVE
            return ParsedReference(kind, type_name, local_id, version, base)
    match = _CONDITIONAL.fullmatch(text)
    if match and match["type"] in _known_types():
        query = match["query"]
        return ParsedReference(ReferenceKind.CONDITIONAL, match["type"], query=query, identifier=_identifier(query))
    return _OTHER


def _identifier(query: str) -> tuple[str | None, str] | None:
    pairs = parse_qsl(query, keep_blank_values=True)
    if len(pairs) != 1 or pairs[0][0] != "identifier":
        return None
    system, bar, value = pairs[0][1].rpartition("|")
    return (system if bar else None, value) if value else None


_remembered = lru_cache(maxsize=4096)(_read)


def type_of(reference: Any, contained: Mapping[str, str]) -> str | None:
    """Return the resource type that a Reference shows to point to, or None where it does not show.

    Args:
        contained: :func:`contained_types` of the resource that holds it.
    """
    if type(reference) is not dict:
        return None
    text = reference.get("reference")
    if type(text) is str:
        parsed = parse_reference(text)
        if parsed.type is not None:
            return parsed.type
        if parsed.kind is ReferenceKind.CONTAINED:
            return contained.get(parsed.id or "")
    stated = reference.get("type")
    return stated if type(stated) is str and stated.isalpha() else None


def contained_types(resource: Any) -> dict[str, str]:
    """Return what ``#id`` means in a resource: local id → type; the empty id is the resource itself.

    Made once for a resource, because a hostile one can hold many references to many contained resources.
    """
    types: dict[str, str] = {}
    if type(resource) is not dict:
        return types
    if "contained" not in resource:
        own = resource.get("resourceType")
        return {"": own} if type(own) is str else types
    held = resource["contained"]
    for found in (resource | {"id": ""}, *(held if type(held) is list else ())):
        if type(found) is dict and type(found.get("id")) is str and type(found.get("resourceType")) is str:
            types[found["id"]] = found["resourceType"]
    return types


def _known_types() -> frozenset[str]:
    global _types
    if not _types:
        _types = r4().resource_types() | RENAMED.keys() | WITHOUT_R4
    return _types


_types: frozenset[str] = frozenset()
