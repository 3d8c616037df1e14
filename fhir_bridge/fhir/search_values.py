"""Turn one item of a search parameter's path into the values that the parameter is found by.

For ``search.py``, which says what forms the values have. Each function takes whatever can stand in a resource and
gives a tuple, empty for what the kind of parameter does not match.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fhir_bridge.fhir.dates import Interval, interval, period
from fhir_bridge.fhir.reference_text import ReferenceKind, parse_reference

Convert = Callable[[Any], tuple[Any, ...]]
"""Gives the values that one item of a path's result is found by."""

_DATED = frozenset({"date", "dateTime", "instant"})
_NO_STRINGS = frozenset({"use", "type", "period", "extension", "id"})


def converter(kind: str, types: frozenset[str]) -> Convert:
    """Return what gives the values of a plain parameter whose path finds elements of ``types``."""
    match kind:
        case "token":
            return _identifiers if types & {"Identifier", "ContactPoint"} else _tokens
        case "date":
            return _dates if types & _DATED else _dates_of_parts
        case "reference":
            return _references
        case "quantity":
            return _quantities
        case "number":
            return _numbers
    return _strings


def texts(value: Any) -> tuple[str, ...]:
    """R4 search.html#modifiers: "CodeableConcept.text, Coding.display, or Identifier.type.text"."""
    if type(value) is not dict:
        return ()
    concept = value.get("type", {}) if "value" in value and "coding" not in value else value
    found = []
    for holder in (concept, *(concept.get("coding") or ()), *([value] if "display" in value else ())):
        for key in ("text", "display"):
            text = holder.get(key)
            if type(text) is str:
                found.append(text)
    return tuple(found)


def typed_identifiers(value: Any) -> tuple[tuple[str, str, str], ...]:
    """Return system and code of an Identifier's types, each with its value."""
    if type(value) is not dict or "value" not in value or "type" not in value:
        return ()
    codings = value["type"].get("coding", ())
    return tuple([(c.get("system", ""), c.get("code", ""), value["value"]) for c in codings])


def _tokens(value: Any) -> tuple[tuple[str, str], ...]:
    if type(value) is dict:
        codings = value.get("coding", (value,))
        return tuple([(c.get("system", ""), c["code"]) for c in codings if "code" in c])
    if type(value) is str:
        return (("", value),)
    return (("", "true" if value else "false"),) if type(value) is bool else ()


def _identifiers(value: Any) -> tuple[tuple[str, str], ...]:
    if type(value) is not dict:
        return _tokens(value)
    if "value" in value:
        # The system of a ContactPoint is a kind of device, not the owner of the number.
        system = value.get("system", "")
        return (((system if ":" in system else ""), value["value"]),)
    return _tokens(value) if "coding" in value or "code" in value else ()


def _dates(value: Any) -> tuple[Interval, ...]:
    if type(value) is dict and ("event" in value or "repeat" in value):
        return _timing(value)
    found = interval(value) if type(value) is str else period(value)
    return (found,) if found else ()


def _dates_of_parts(value: Any) -> tuple[Interval, ...]:
    """Of an element that may be text but no date: what it writes as text is none (R4 search.html#date)."""
    return _dates(value) if type(value) is dict else ()


def _timing(value: dict[str, Any]) -> tuple[Interval, ...]:
    """A Timing covers from its first to its last event, or the bounds of its repetition."""
    events = [i for i in map(interval, filter(None, value.get("event", ()))) if i]
    bounds = period(value.get("repeat", {}).get("boundsPeriod"))
    span = ((min(e[0] for e in events), max(e[1] for e in events)),) if events else ()
    return (*span, bounds) if bounds else span


def _references(value: Any) -> tuple[str, ...]:
    if type(value) is str:
        return (value,)
    if type(value) is not dict:
        return ()
    text, identifier = value.get("reference"), value.get("identifier")
    found = _reference_text(text) if type(text) is str else ()
    if type(identifier) is dict and type(identifier.get("value")) is str:
        return (*found, f"|{identifier.get('system', '')}|{identifier['value']}")
    return found


def _reference_text(text: str) -> tuple[str, ...]:
    parsed = parse_reference(text)
    if parsed.kind is ReferenceKind.RELATIVE:
        return (f"{parsed.type}/{parsed.id}",)
    if parsed.kind is ReferenceKind.CONDITIONAL and parsed.identifier:
        return (f"|{parsed.identifier[0] or ''}|{parsed.identifier[1]}",)
    return () if parsed.kind is ReferenceKind.CONTAINED else (text,)


def _strings(value: Any) -> tuple[str, ...]:
    """A string, or every part of a HumanName or Address."""
    if type(value) is str:
        return (value,)
    if type(value) is not dict:
        return ()
    found: list[str] = []
    for key, part in value.items():
        if key not in _NO_STRINGS and not key.startswith("_"):
            found += [text for text in (part if type(part) is list else (part,)) if type(text) is str]
    return tuple(found)


def _quantities(value: Any) -> tuple[tuple[str, ...], ...]:
    if type(value) is not dict or "value" not in value:
        return ()
    # Money says currency where Quantity says code.
    unit = value.get("unit") or ""
    code = value.get("code") or value.get("currency") or unit
    found = (str(value["value"]), value.get("system", ""), code)
    return (found if unit in ("", code) else (*found, unit),)


def _numbers(value: Any) -> tuple[str, ...]:
    return () if value is None or type(value) in (str, dict, bool) else (str(value),)
