"""Write what R4 has no element for as the extension that HL7 reserved for it.

For ``fit-to-r4``. The address of such an extension says release and path of the element: ``…/5.0/StructureDefinition/
extension-Encounter.plannedStartDate`` (R4 versions.html#extensions). A datatype that R4 lacks and a backbone element
become an extension of extensions, one a child, named by the child.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from fhir_bridge.fhir.tables import Definitions, Element, TypeRow, definitions_of, r4

PREFIXES: Final = {
    release: f"http://hl7.org/fhir/{number}/StructureDefinition/extension-"
    for release, number in (("STU3", "3.0"), ("R4B", "4.3"), ("R5", "5.0"))
}
DATA_ABSENT: Final = {"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}

# What R4's Extension.value[x] cannot hold, and how its text is held. R5 json.html: an integer64 is a JSON string.
_HELD_AS: Final = {"integer64": "string", "xhtml": "string"}
_GUESSES: Final = (
    ("coding", "CodeableConcept"),
    ("reference", "Reference"),
    ("currency", "Money"),
    ("start", "Period"),
    ("value", "Identifier"),
    ("text", "Annotation"),
)


def url_of(release: str, path: str) -> str:
    """Return the address of the extension for an element of a release."""
    return PREFIXES[release] + path


def keys_of(release: str, type_name: str | None) -> Mapping[str, tuple[Element, str]]:
    """Return the JSON keys of a type with element and datatype; empty for a type the release lacks."""
    return _keys(release, type_name) if type_name else {}


@cache
def _keys(release: str, type_name: str) -> dict[str, tuple[Element, str]]:
    row: TypeRow | None = definitions_of(release).types.get(type_name)
    return {key: (e, t) for e in (row.elements.values() if row else ()) for key, t in e.json_keys().items()}


def is_value(kind: str) -> bool:
    """Tell whether R4's Extension can hold a datatype as its value."""
    return value_key(kind) in keys_of("R4", "Extension")


def value_key(kind: str) -> str:
    """``valueString`` and its like."""
    kind = _HELD_AS.get(kind, kind)
    return f"value{kind[0].upper()}{kind[1:]}"


def stem_of(element: Element) -> str:
    """Name of an element as paths have it: without ``[x]``."""
    return element.name.removesuffix("[x]")


def extension_of(release: Definitions, url: str, kind: str, value: Any, sibling: Any = None) -> dict[str, Any]:
    """Return the extension that holds a value of a datatype of ``release``.

    Args:
        value: In R4's shape where R4 has the datatype; None for a primitive that is nothing but its ``sibling``.
        sibling: What stood under ``_key`` beside a primitive: its id and extensions.
    """
    if kind == "CodeableReference" and set(value) in ({"concept"}, {"reference"}):
        # R4 has the datatype of either part.
        (part,) = value
        return {"url": url, "valueCodeableConcept" if part == "concept" else "valueReference": value[part]}
    if not is_value(kind):
        return {"url": url, **_parts(release, kind, value)}
    key = value_key(kind)
    made = {"url": url}
    if value is not None:
        made[key] = value
    if sibling is not None:
        made["_" + key] = sibling
    return made


def _parts(release: Definitions, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    known = keys_of(release.release, kind)
    parts: list[dict[str, Any]] = []
    made: dict[str, Any] = {}
    for key in plain_keys(value):
        if key == "id":
            made["id"] = value["id"]
        elif key == "extension":
            parts += value["extension"]
        else:
            parts += _child(release, key, known.get(key), value)
    return {**made, "extension": parts}


def _child(
    release: Definitions, key: str, known: tuple[Element, str] | None, holder: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    kind = known[1] if known else guessed(holder.get(key))
    url = stem_of(known[0]) if known else key
    for item, sibling in items_of(holder, key):
        yield extension_of(release, url, kind, item, sibling)


def plain_keys(holder: Mapping[str, Any]) -> list[str]:
    """Return the keys of an object, each once, without the underscore of what stands beside a primitive."""
    return list(dict.fromkeys(key.removeprefix("_") for key in holder))


def items_of(holder: Mapping[str, Any], key: str) -> list[tuple[Any, Any]]:
    """Return every value under a key with what stands beside it (R4 json.html#primitive)."""
    value, beside = holder.get(key), holder.get("_" + key)
    if type(value) is not list and type(beside) is not list:
        return [(value, beside)]
    values = value if type(value) is list else []
    siblings = beside if type(beside) is list else []
    length = max(len(values), len(siblings))
    values = [*values, *[None] * (length - len(values))]
    return list(zip(values, [*siblings, *[None] * (length - len(siblings))], strict=True))


def guessed(value: Any) -> str:
    """Return the datatype of a value whose element no release knows under this name."""
    first = value[0] if type(value) is list and value else value
    if type(first) is dict:
        if type(first.get("value")) is dict:
            return "Element"
        return next((kind for key, kind in _GUESSES if key in first), "Element")
    if type(first) is bool:
        return "boolean"
    if type(first) is int:
        return "integer"
    return "string" if type(first) is str or first is None else "decimal"


def absent(element: Element, key: str, kind: str) -> tuple[str, Any]:
    """Return the key and value that say "required, but not known"."""
    mark: dict[str, Any] = {"extension": [dict(DATA_ABSENT)]}
    if "." in kind and not required(kind):
        return key, [mark] if element.many else mark
    if r4().types[kind].kind == "primitive-type":
        return "_" + key, [mark] if element.many else mark
    if "." in kind:
        mark = {}
        for child in required(kind):
            child_key, child_kind = next(iter(child.json_keys().items()))
            written, value = absent(child, child_key, child_kind)
            mark[written] = value
    return key, [mark] if element.many else mark


@cache
def required(name: str) -> tuple[Element, ...]:
    """Return the elements that R4 requires of a type."""
    row = r4().types.get(name)
    return tuple(e for e in (row.elements.values() if row else ()) if e.min > 0)
