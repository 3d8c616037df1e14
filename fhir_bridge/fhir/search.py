"""Extract from a resource the values that search parameters match against.

For normalisation, which puts them into the chart's index, and for search, which asks what a type can be searched by.
The parameters are HL7's own for R4 (``definitions/r4-search.json``): every token, date, reference, string, uri,
quantity and number parameter whose path needs nothing but the resource. Composite and special ones are not extracted.

Forms of the values:
    * token: ``(system, code)``, system empty where the data has none or the element is a bare code;
    * date: ``(low, high)``, half-open µs since 1970 UTC;
    * reference: ``Type/id``, ``|system|value`` for a logical or conditional one, else the text (absolute, canonical);
    * string and uri: the text as it stands; :func:`fold` makes two of them comparable;
    * quantity: ``(number text, system, code or unit)``; number: its text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from fhir_bridge.fhir.dates import Interval, interval, period
from fhir_bridge.fhir.path_syntax import PathNotUnderstood
from fhir_bridge.fhir.paths import Evaluate, compile_path, leading_keys, scope_of
from fhir_bridge.fhir.reference_text import ReferenceKind, parse_reference
from fhir_bridge.fhir.subjects import codes
from fhir_bridge.fhir.tables import SearchParameter, r4, search_parameters

__all__ = ["SearchValues", "codes", "extract", "fold", "parameters_of", "targets_of"]

SearchValues = Mapping[str, tuple[Any, ...]]

_KINDS = frozenset({"token", "date", "reference", "string", "uri", "quantity", "number"})
# Matches what a coder would call by sound; the standard leaves the algorithm open, so none is claimed.
_NOT_OFFERED = frozenset({"phonetic"})


@dataclass(frozen=True, slots=True)
class _Extractor:
    """One branch of one parameter's path; it finds nothing in a resource that has none of ``keys``."""

    name: str
    keys: frozenset[str]
    evaluate: Evaluate
    convert: Callable[[Any], Iterator[Any]]


def extract(resource: dict[str, Any]) -> SearchValues:
    """Return the values of every parameter that has some, for a valid R4 resource.

    About 25 µs for an Observation.
    """
    scope = scope_of(resource)
    focus = [resource]
    values: dict[str, list[Any]] = {}
    for extractor in _extractors(resource["resourceType"]):
        if extractor.keys.isdisjoint(resource):
            continue
        convert = extractor.convert
        found = [v for item in extractor.evaluate(focus, scope) for v in convert(item)]
        if found:
            values.setdefault(extractor.name, []).extend(found)
    return {name: tuple(found) if len(found) == 1 else tuple(dict.fromkeys(found)) for name, found in values.items()}


@cache
def parameters_of(type_name: str) -> Mapping[str, str]:
    """Return name → kind of the parameters by which :func:`extract` makes a type searchable.

    Empty for a name that is no R4 resource type.
    """
    if type_name not in r4().resource_types():
        return {}
    return {e.name: _parameters(type_name)[e.name].kind for e in _extractors(type_name)}


@cache
def targets_of(type_name: str, parameter: str) -> tuple[str, ...]:
    """Return the types that a reference parameter can point to; empty means any."""
    found = _parameters(type_name).get(parameter)
    return found.targets if found else ()


def fold(text: str) -> str:
    """Make strings comparable as search.html#string asks: no case, accents or surplus spaces."""
    plain = unicodedata.normalize("NFKD", text)
    return " ".join("".join(c for c in plain if not unicodedata.combining(c)).casefold().split())


def _parameters(type_name: str) -> dict[str, SearchParameter]:
    table = search_parameters()
    return {**table["Resource"], **table.get("DomainResource", {}), **table.get(type_name, {})}


@cache
def _extractors(type_name: str) -> tuple[_Extractor, ...]:
    if type_name not in r4().resource_types():
        return ()
    return tuple(e for p in _parameters(type_name).values() for e in _branches(type_name, p))


def _branches(type_name: str, parameter: SearchParameter) -> list[_Extractor]:
    if parameter.kind not in _KINDS or parameter.name in _NOT_OFFERED:
        return []
    # Resource.id and its like are compiled for the type at hand.
    path = parameter.path.replace("DomainResource.", f"{type_name}.").replace("Resource.", f"{type_name}.")
    made = []
    for branch in path.split(" | "):
        try:
            compiled = compile_path(branch, type_name, r4())
        except PathNotUnderstood:
            return []
        keys = leading_keys(branch, type_name, r4())
        convert = _converter(parameter.kind, compiled.types)
        made.append(_Extractor(parameter.name, keys, compiled.evaluate, convert))
    return made


def _converter(kind: str, types: frozenset[str]) -> Callable[[Any], Iterator[Any]]:
    match kind:
        case "token":
            return _identifiers if types & {"Identifier", "ContactPoint"} else _tokens
        case "date":
            return _dates
        case "reference":
            return _references
        case "quantity":
            return _quantities
        case "number":
            return _numbers
    return _strings


def _tokens(value: Any) -> Iterator[tuple[str, str]]:
    if type(value) is str:
        yield "", value
    elif type(value) is bool:
        yield "", "true" if value else "false"
    elif type(value) is dict:
        for coding in value.get("coding", ()) if "coding" in value else (value,):
            if "code" in coding:
                yield coding.get("system", ""), coding["code"]


def _identifiers(value: Any) -> Iterator[tuple[str, str]]:
    if type(value) is not dict:
        yield from _tokens(value)
    elif "value" in value:
        # The system of a ContactPoint is a kind of device, not the owner of the number.
        system = value.get("system", "")
        yield (system if ":" in system else ""), value["value"]
    elif "coding" in value or "code" in value:
        yield from _tokens(value)


def _dates(value: Any) -> Iterator[Interval]:
    if type(value) is str:
        found = interval(value)
        if found:
            yield found
    elif type(value) is dict and ("event" in value or "repeat" in value):
        yield from _timing(value)
    else:
        found = period(value)
        if found:
            yield found


def _timing(value: dict[str, Any]) -> Iterator[Interval]:
    """A Timing covers from its first to its last event, or the bounds of its repetition."""
    events = [i for i in map(interval, filter(None, value.get("event", ()))) if i]
    if events:
        yield min(e[0] for e in events), max(e[1] for e in events)
    bounds = period(value.get("repeat", {}).get("boundsPeriod"))
    if bounds:
        yield bounds


def _references(value: Any) -> Iterator[str]:
    if type(value) is str:
        yield value
        return
    if type(value) is not dict:
        return
    text = value.get("reference")
    if type(text) is str:
        yield from _reference_text(text)
    identifier = value.get("identifier")
    if type(identifier) is dict and type(identifier.get("value")) is str:
        yield f"|{identifier.get('system', '')}|{identifier['value']}"


def _reference_text(text: str) -> Iterator[str]:
    parsed = parse_reference(text)
    if parsed.kind is ReferenceKind.RELATIVE:
        yield f"{parsed.type}/{parsed.id}"
    elif parsed.kind is ReferenceKind.CONDITIONAL and parsed.identifier:
        yield f"|{parsed.identifier[0] or ''}|{parsed.identifier[1]}"
    elif parsed.kind is not ReferenceKind.CONTAINED:
        yield text


def _strings(value: Any) -> Iterator[str]:
    """A string, or every part of a HumanName or Address."""
    if type(value) is str:
        yield value
    elif type(value) is dict:
        for key, part in value.items():
            if key in ("use", "type", "period", "extension", "id") or key.startswith("_"):
                continue
            for text in part if type(part) is list else (part,):
                if type(text) is str:
                    yield text


def _quantities(value: Any) -> Iterator[tuple[str, str, str]]:
    if type(value) is not dict:
        return
    # Money says currency where Quantity says code.
    code = value.get("code") or value.get("currency") or value.get("unit") or ""
    if "value" in value:
        yield str(value["value"]), value.get("system", ""), code


def _numbers(value: Any) -> Iterator[str]:
    if type(value) not in (str, dict, bool):
        yield str(value)
