"""``fit-to-r4``: what rules of the stage ``version`` left over takes the shape that R4 defines.

Rules know what an element means; this function knows only the two definitions. Where R4 has the element it gets R4's
cardinality and datatypes; where R4 has none it becomes the extension that HL7 reserved for it
(``http://hl7.org/fhir/3.0/StructureDefinition/extension-Type.element``, R4 versions.html#extensions). What R4
requires and STU3 did not ask for is marked absent with ``data-absent-reason``, never made up.

Invariants:
    * no value of the sender disappears: it stands in the result or in the account of changes;
    * a resource that has no type in R4 is not converted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.tables import Definitions, Element, r4, stu3
from fhir_bridge.normalize.draft import By, Draft, Unconvertible
from fhir_bridge.normalize.functions.datatypes import DATATYPES
from fhir_bridge.normalize.verb_args import Act, Args

CROSS_VERSION = "http://hl7.org/fhir/3.0/StructureDefinition/extension-"
DATA_ABSENT = {"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}

_TABLE_SYSTEM = re.compile(r"http://hl7\.org/fhir/(v[23])/(?P<name>[A-Za-z0-9-]+)(?:/[\d.]+)?")
_GUESSES = (("coding", "CodeableConcept"), ("reference", "Reference"), ("currency", "Money"), ("start", "Period"))


def fit_to_r4(args: Args) -> Act:
    """Make the closure; argument ``map`` names the code systems that R4 renamed."""
    renamed = {code: t.code for (_s, code), t in args.named("map", args.bench.tables.maps, "map").targets.items()}
    by = args.bench.by

    def act(draft: Draft) -> None:
        name = draft.body["resourceType"]
        if name not in _resource_types():
            raise Unconvertible(Issue("error", "not-supported", "R4 has no such resource type", name))
        _Fit(draft, by, renamed).object(draft.body, name, draft.sent_type, name)

    return act


class _Fit:
    """One walk over one resource."""

    def __init__(self, draft: Draft, by: By, renamed: Mapping[str, str]) -> None:
        self._draft = draft
        self._by = by
        self._renamed = renamed

    def object(self, holder: dict[str, Any], name: str, sent: str | None, place: str) -> None:
        """Fit an object of the R4 type ``name`` that was of the STU3 type ``sent``, and all below it."""
        convert = DATATYPES.get(name)
        if convert is not None:
            convert(self._draft, self._by, holder, place)
        if name in ("Coding", "Identifier"):
            self._system(holder, place)
        known, old = _elements(r4(), name), _elements(stu3(), sent) if sent else {}
        for key in [k for k in holder if k != "resourceType"]:
            if key in known:
                self._element(holder, key, known[key], old.get(key), place)
            elif not key.startswith("_"):
                self._move_out(holder, key, old.get(key), sent or name, place)
            elif key[1:] not in known:
                self._draft.changed(self._by, f"{place}.{key}", holder.pop(key), None)
        self._mark_absent(holder, name, sent, place)

    def _element(
        self, holder: dict[str, Any], key: str, now: tuple[Element, str], old: tuple[Element, str] | None, place: str
    ) -> None:
        element, name = now
        self._cardinality(holder, key, element, place)
        self._recast(holder, key, name, old[1] if old else None, place)
        value = holder[key]
        if type(value) is list:
            for index, item in enumerate(value):
                self._value(item, name, old, f"{place}.{key}[{index}]")
        else:
            self._value(value, name, old, f"{place}.{key}")

    def _value(self, value: Any, name: str, old: tuple[Element, str] | None, place: str) -> None:
        if type(value) is not dict:
            return
        # Contained resources went through every rule before the one that holds them.
        if name != "Resource":
            sent = old[1] if old else name if name in stu3().types else None
            self.object(value, name, sent, place)

    def _cardinality(self, holder: dict[str, Any], key: str, element: Element, place: str) -> None:
        before = holder[key]
        if element.many is (type(before) is list):
            return
        if element.many:
            holder[key] = [before]
        elif len(before) == 1:
            holder[key] = before[0]
        else:
            raise Unconvertible(Issue("error", "structure", "R4 allows one value where several were sent", place))
        sources = {"[0]": f"{place}.{key}"} if element.many else {"": f"{place}.{key}[0]"}
        self._draft.changed(self._by, f"{place}.{key}", before, holder[key], sources=sources)

    def _recast(self, holder: dict[str, Any], key: str, now: str, old: str | None, place: str) -> None:
        """Texts that became concepts, references that became canonical URLs."""
        cast = _CASTS.get((old, now))
        if cast is None:
            return
        before, here = holder[key], f"{place}.{key}"
        holder[key] = [cast(item) for item in before] if type(before) is list else cast(before)
        to, part = (".text", "") if now == "CodeableConcept" else ("", ".reference")
        sources = {to.removeprefix("."): here + part}
        if type(before) is list:
            sources = {f"[{i}]{to}": f"{here}[{i}]{part}" for i in range(len(before))}
        self._draft.changed(self._by, here, before, holder[key], sources=sources)

    def _system(self, holder: dict[str, Any], place: str) -> None:
        before = holder.get("system")
        after = _system(before, self._renamed) if type(before) is str else before
        if after != before:
            holder["system"] = after
            self._draft.changed(self._by, f"{place}.system", before, after)

    def _move_out(
        self, holder: dict[str, Any], key: str, old: tuple[Element, str] | None, owner: str, place: str
    ) -> None:
        value = holder.pop(key)
        kind = old[1] if old else _guess(value)
        stem = old[0].name.removesuffix("[x]") if old else key
        held = holder.get("extension", [])
        where = f"{place}.{key}"
        made = []
        for index, item in enumerate(_listed(value)):
            source = f"{where}[{index}]" if type(value) is list else where
            extension, sources = self._extension(f"{CROSS_VERSION}{owner}.{stem}", kind, item, source)
            at = f"{place}.extension[{len(held) + index}]"
            self._draft.changed(self._by, at, None, extension, sources=sources)
            made.append(extension)
        # Extensions stand where FHIR puts them in every example: before the elements they add to.
        rest = {k: v for k, v in holder.items() if k not in ("resourceType", "id", "meta", "extension")}
        for k in rest:
            del holder[k]
        holder.pop("extension", None)
        holder["extension"] = [*held, *made]
        holder.update(rest)
        self._draft.changed(self._by, where, value, None)

    def _extension(self, url: str, kind: str, value: Any, place: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the extension that holds the value of ``place``, and where each part of it comes from."""
        if _is_value(kind):
            self._value(value, kind, None, place)
            return {"url": url, _value_key(kind): value}, {_value_key(kind): place}
        children = _elements(stu3(), kind)
        parts: list[dict[str, Any]] = []
        sources: dict[str, str] = {}
        for key, item in value.items() if type(value) is dict else ():
            if key in ("id", "extension") or key.startswith("_"):
                continue
            child = children.get(key)
            name = child[1] if child else _guess(item)
            stem = child[0].name.removesuffix("[x]") if child else key
            for index, one in enumerate(_listed(item)):
                source = f"{place}.{key}[{index}]" if type(item) is list else f"{place}.{key}"
                part, inner = self._extension(stem, name, one, source)
                sources |= {f"extension[{len(parts)}].{to}": origin for to, origin in inner.items()}
                parts.append(part)
        return {"url": url, "extension": parts}, sources

    def _mark_absent(self, holder: dict[str, Any], name: str, sent: str | None, place: str) -> None:
        """Mark what R4 requires and the sender's release did not."""
        for element in _required(name):
            keys = element.json_keys()
            if any(key in holder or "_" + key in holder for key in keys):
                continue
            before = _element_of(stu3(), sent or name, element.name)
            if before is not None and before.min > 0:
                continue
            key, kind = next(iter(keys.items()))
            written, value = _absent(element, key, kind)
            holder[written] = value
            self._draft.changed(self._by, f"{place}.{written}", None, value)


def _as_concept(value: Any) -> Any:
    return {"text": value} if type(value) is str else value


def _as_canonical(value: Any) -> Any:
    return value["reference"] if type(value) is dict and set(value) == {"reference"} else value


_CASTS: Mapping[tuple[str | None, str], Callable[[Any], Any]] = {
    ("string", "CodeableConcept"): _as_concept,
    ("Reference", "canonical"): _as_canonical,
}


def _absent(element: Element, key: str, kind: str) -> tuple[str, Any]:
    """The key and value that say "required, but not known"."""
    mark: dict[str, Any] = {"extension": [dict(DATA_ABSENT)]}
    if r4().types[kind].kind == "primitive-type":
        return "_" + key, mark
    if "." in kind:
        mark = {}
        for child in _required(kind):
            child_key, child_kind = next(iter(child.json_keys().items()))
            written, value = _absent(child, child_key, child_kind)
            mark[written] = value
    return key, [mark] if element.many else mark


def _system(system: str, renamed: Mapping[str, str]) -> str:
    match = _TABLE_SYSTEM.fullmatch(system)
    if match:
        return f"http://terminology.hl7.org/CodeSystem/{match[1]}-{match['name']}"
    return renamed.get(system, system)


def _listed(value: Any) -> list[Any]:
    return value if type(value) is list else [value]


def _guess(value: Any) -> str:
    """Datatype of a value whose element neither release knows under this name."""
    first = value[0] if type(value) is list and value else value
    if type(first) is dict:
        return next((kind for key, kind in _GUESSES if key in first), "Element")
    if type(first) is bool:
        return "boolean"
    if type(first) is int:
        return "integer"
    return "string" if type(first) is str else "decimal"


def _is_value(kind: str) -> bool:
    return _value_key(kind) in _elements(r4(), "Extension")


def _value_key(kind: str) -> str:
    return f"value{kind[0].upper()}{kind[1:]}"


@cache
def _resource_types() -> frozenset[str]:
    return r4().resource_types()


@cache
def _by_name(release: Callable[[], Definitions], name: str) -> dict[str, tuple[Element, str]]:
    row = release().types.get(name)
    return {key: (e, t) for e in (row.elements.values() if row else ()) for key, t in e.json_keys().items()}


def _elements(definitions: Definitions, name: str) -> dict[str, tuple[Element, str]]:
    return _by_name(stu3 if definitions.release == "STU3" else r4, name)


@cache
def _required(name: str) -> tuple[Element, ...]:
    row = r4().types.get(name)
    return tuple(e for e in (row.elements.values() if row else ()) if e.min > 0)


def _element_of(definitions: Definitions, type_name: str, name: str) -> Element | None:
    row = definitions.types.get(type_name)
    return row.elements.get(name) if row else None
