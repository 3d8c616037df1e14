"""Cut a resource down to a part of itself: ``_elements`` and ``_summary`` (R4 search.html#elements and #summary).

For the answer line. What remains has the exact bytes it had, and ``meta.tag`` says SUBSETTED, so that nobody
takes the part for the whole or checks a receipt against it.

Invariants:
    * ``resourceType``, ``id``, ``meta``, mandatory elements and ``modifierExtension`` always remain;
    * what remains is valid where the whole was: no object or array is left empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import TypeAlias

import msgspec

from fhir_bridge.fhir.tables import Element, r4, summary_elements

Subset = Callable[[bytes], bytes]
"""Takes the bytes of a resource and returns those of its part."""

SUBSETTED = b'{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue","code":"SUBSETTED"}'

_Members: TypeAlias = dict[str, msgspec.Raw]
_Plan: TypeAlias = "Mapping[str, _Part]"
_ALWAYS = ("resourceType", "id", "meta", "modifierExtension")
_object = msgspec.json.Decoder(_Members)
_array = msgspec.json.Decoder(list[msgspec.Raw])


class _Part:
    """What to do with one member: keep it whole, or keep the part of it that ``type_name`` has in a summary."""

    __slots__ = ("is_mandatory", "type_name")

    def __init__(self, type_name: str | None = None, *, is_mandatory: bool = False) -> None:
        self.type_name = type_name
        self.is_mandatory = is_mandatory


_WHOLE = _Part()
_NO_META = msgspec.Raw(b"{}")


@lru_cache(maxsize=256)
def elements_subset(type_name: str, names: tuple[str, ...]) -> Subset:
    """Return the cut for ``_elements``; mandatory and modifier elements remain as well."""
    wanted = frozenset(names)
    return _subset(_plan_of(type_name, lambda e: e.min > 0 or e.modifier or _stem(e) in wanted))


@cache
def text_subset(type_name: str) -> Subset:
    """Return the cut for ``_summary=text``: the narrative and mandatory elements."""
    return _subset(_plan_of(type_name, lambda e: e.min > 0 or e.name == "text"))


@cache
def data_subset(type_name: str) -> Subset:
    """Return the cut for ``_summary=data``: all but the narrative."""
    return _subset(_plan_of(type_name, lambda e: e.name != "text"))


@cache
def summary_subset(type_name: str) -> Subset:
    """Return the cut for ``_summary=true``: what the definitions mark as summary, at every level."""
    return _subset({**_summary_plan(type_name), **dict.fromkeys(_ALWAYS, _WHOLE)})


@cache
def element_names(type_name: str) -> frozenset[str]:
    """Return the names that ``_elements`` can list for a type; a choice goes by its stem."""
    return frozenset(_stem(e) for e in r4().types[type_name].elements.values())


def _stem(element: Element) -> str:
    return element.name.removesuffix("[x]")


def _plan_of(type_name: str, keeps: Callable[[Element], bool]) -> _Plan:
    plan = dict.fromkeys(_ALWAYS, _WHOLE)
    for element in r4().types[type_name].elements.values():
        if keeps(element):
            for key in element.json_keys():
                plan[key] = plan[f"_{key}"] = _WHOLE
    return plan


@cache
def _summary_plan(type_name: str) -> _Plan:
    names = summary_elements().get(type_name, frozenset())
    plan: dict[str, _Part] = {}
    for element in r4().types[type_name].elements.values():
        if element.name in names or element.min > 0 or element.modifier:
            for key, found in element.json_keys().items():
                inner = None if _is_kept_whole(found, element) else found
                plan[key] = _Part(inner, is_mandatory=element.min > 0)
                plan[f"_{key}"] = _WHOLE
    return plan


def _is_kept_whole(type_name: str, element: Element) -> bool:
    """Primitives have no parts, resources are not cut inside others, and half a modifier says something else."""
    row = r4().types.get(type_name)
    return row is None or row.kind in ("primitive-type", "resource") or element.name == "modifierExtension"


def _subset(plan: _Plan) -> Subset:
    def cut(body: bytes) -> bytes:
        kept = _cut_object(body, plan)
        kept["meta"] = _tagged(kept.get("meta", _NO_META))
        return _joined(kept)

    return cut


def _cut_object(body: bytes | msgspec.Raw, plan: _Plan) -> _Members:
    kept: _Members = {}
    for key, value in _object.decode(body).items():
        part = plan.get(key)
        if part is None:
            continue
        left = value if part.type_name is None else _cut(value, _summary_plan(part.type_name))
        if left is not None:
            kept[key] = left
        elif part.is_mandatory:
            kept[key] = value
    return kept


def _cut(value: msgspec.Raw, plan: _Plan) -> msgspec.Raw | None:
    """Return what is left of an object, or of an array of them; None if nothing is."""
    if bytes(value)[:1] == b"[":
        left = [each for each in (_cut(item, plan) for item in _array.decode(value)) if each is not None]
        return msgspec.Raw(b"[" + b",".join(map(bytes, left)) + b"]") if left else None
    if bytes(value)[:1] != b"{":
        return value
    kept = _cut_object(value, plan)
    return msgspec.Raw(_joined(kept)) if kept else None


def _tagged(meta: msgspec.Raw) -> msgspec.Raw:
    members = _object.decode(meta)
    tags = [bytes(each) for each in _array.decode(members["tag"])] if "tag" in members else []
    if not any(b'"SUBSETTED"' in each for each in tags):
        tags.append(SUBSETTED)
    members["tag"] = msgspec.Raw(b"[" + b",".join(tags) + b"]")
    return msgspec.Raw(_joined(members))


def _joined(members: _Members) -> bytes:
    pairs = (msgspec.json.encode(key) + b":" + bytes(value) for key, value in members.items())
    return b"{" + b",".join(pairs) + b"}"
