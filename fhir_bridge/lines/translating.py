"""``ConceptMap/$translate`` (R4 operation-conceptmap-translate): codes by the maps of the institution that asks.

For the HTTP entrance. The maps are those of the institution's registered pack and of the core it extends; nobody asks
another institution's. No patient's data is touched, so consent has no part in it.

Invariants:
    * a client of an institution sees its own and core's maps only; a patient's agent sees none;
    * a match says how far it means the same, as the map says it; nothing is chosen;
    * the maps are those of the pack in force, whatever an engineer is editing; they are read once for each pack;
    * cost: a look-up for each code and map, and what is found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from fhir_bridge.errors import Issue, NotPermitted, RecordRefused, RulesetBroken, Unavailable
from fhir_bridge.fhir.json import parse, render
from fhir_bridge.lines.registry import Registry
from fhir_bridge.lines.reply import Reply, outcome_reply
from fhir_bridge.lines.scoping import require
from fhir_bridge.model.access import Requester
from fhir_bridge.normalize import CodeMap, MapRow, by_url, load_code_maps, unnamed

Params = Sequence[tuple[str, str]]

_TEXTS: Final = {
    "url": "valueUri",
    "conceptMapVersion": "valueString",
    "code": "valueCode",
    "system": "valueUri",
    "version": "valueString",
    "source": "valueUri",
    "target": "valueUri",
    "targetsystem": "valueUri",
    "reverse": "valueBoolean",
}
"""Parameters with one value, and where Parameters holds it."""

_TURNED: Final = {
    "wider": "narrower",
    "narrower": "wider",
    "subsumes": "specializes",
    "specializes": "subsumes",
}
_NO_MATCH: Final = frozenset({"unmatched", "disjoint"})
_CODING: Final = ("system", "code", "version")
_MAX_BODY_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked: codes as (system, code, version), and what limits the maps."""

    codings: tuple[tuple[str, str, str], ...]
    given: Mapping[str, str]

    @property
    def reverse(self) -> bool:
        """From the target's codes to the source's."""
        return self.given.get("reverse") == "true"


class TranslateLine:
    """Answers which codes stand for a code."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def by_query(self, who: Requester, params: Params) -> Reply:
        """Answer a GET: parameters of plain types, one value each.

        Raises:
            NotPermitted: The token is no institution's, or may not read ConceptMap.
            RecordRefused: A parameter is missing, unknown or given twice.
            Unavailable: The pack on disk does not load.
        """
        given: dict[str, str] = {}
        for name, value in params:
            if name == "_format":
                continue
            if name not in _TEXTS:
                raise _refused("not-supported", f"{_shown(name)} cannot be asked by GET: see the CapabilityStatement")
            if name in given:
                raise _refused("invalid", f"{name} is given twice")
            given[name] = value
        return await self._answer(who, _wanted(given, []))

    async def by_body(self, who: Requester, body: bytes) -> Reply:
        """Answer a POST of Parameters, which may hold a Coding or CodeableConcept instead of code and system.

        Raises:
            NotPermitted: As for GET.
            RecordRefused: As for GET, or the body is no Parameters.
        """
        given, codings = _read(parse(body, max_bytes=_MAX_BODY_BYTES))
        return await self._answer(who, _wanted(given, codings))

    async def _answer(self, who: Requester, wanted: Wanted) -> Reply:
        require(who, "ConceptMap", "read")
        if who.institution is None:
            raise NotPermitted("code maps are an institution's: a patient's agent has none")
        known = self._registry.institution(who.institution)
        try:
            maps = await asyncio.to_thread(_maps, self._registry.pack_dir(who.institution), known.ruleset)
        except RulesetBroken as error:
            raise Unavailable("the code maps of this institution cannot be read now") from error
        url = wanted.given.get("url", "").partition("|")[0]
        chosen = [each for each in maps.values() if _is_asked(each, wanted.given)]
        if url and not chosen:
            return outcome_reply(404, [Issue("error", "not-found", "no code map of yours has this url and version")])
        named = by_url(maps)
        found = list(dict.fromkeys(match for each in chosen for match in _matches(each, wanted, named)))
        return Reply(200, render(_told(found)))


Match = tuple[MapRow, str]
"""A row, and the url of the map that it stands in."""


@lru_cache(maxsize=32)
def _maps(directory: str, _registered: str) -> dict[str, CodeMap]:
    return load_code_maps(Path(directory))


def _is_asked(codes: CodeMap, given: Mapping[str, str]) -> bool:
    url, _, version = given.get("url", "").partition("|")
    version = version or given.get("conceptMapVersion", "")
    limits = ((url, codes.url), (version, codes.version))
    sets = ((given.get("source", ""), codes.source_set), (given.get("target", ""), codes.target_set))
    return all(not asked or asked == has for asked, has in (*limits, *sets))


def _matches(codes: CodeMap, wanted: Wanted, maps: Mapping[str, CodeMap]) -> Iterator[Match]:
    for system, code, version in wanted.codings:
        for row in _rows(codes, system, code, wanted, maps):
            asked, has = (version, row.target_version if wanted.reverse else row.system_version)
            goes_to = row.system if wanted.reverse else row.target.system
            if (asked and has and asked != has) or wanted.given.get("targetsystem", goes_to) != goes_to:
                continue
            yield row, codes.url


def _rows(codes: CodeMap, system: str, code: str, wanted: Wanted, maps: Mapping[str, CodeMap]) -> Iterable[MapRow]:
    if wanted.reverse:
        return (_turned(row) for row in codes.by_target.get((system, code), ()))
    found = codes.by_code.get((system, code))
    return found if found is not None else unnamed(codes, (system, code), maps)


def _turned(row: MapRow) -> MapRow:
    """The row from its target's side."""
    target = replace(row.target, system=row.system, code=row.code, display=row.display)
    return replace(row, target=target, equivalence=_TURNED.get(row.equivalence, row.equivalence))


def _told(found: Sequence[Match]) -> dict[str, Any]:
    usable = [match for match in found if not match[0].depends]
    result = any(row.equivalence not in _NO_MATCH for row, _ in usable)
    message = "" if result else "the code has no counterpart" if usable else "no map of yours knows the code"
    if len(usable) < len(found):
        message = (message + "; " if message else "") + "counterparts that depend on more than a code are left out"
    parameters: list[dict[str, Any]] = [{"name": "result", "valueBoolean": result}]
    if message:
        parameters.append({"name": "message", "valueString": message})
    parameters += [{"name": "match", "part": _parts(row, url)} for row, url in usable]
    return {"resourceType": "Parameters", "parameter": parameters}


def _parts(row: MapRow, url: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"name": "equivalence", "valueCode": row.equivalence}]
    if row.target.code:
        target = {"system": row.target.system, "code": row.target.code, "display": row.target.display}
        parts.append({"name": "concept", "valueCoding": {name: value for name, value in target.items() if value}})
    if url:
        parts.append({"name": "source", "valueUri": url})
    return parts


def _read(body: dict[str, Any]) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """Return the parameters of plain types and the codings that Parameters holds."""
    listed = body.get("parameter")
    if body.get("resourceType") != "Parameters" or type(listed) is not list:
        raise _refused("structure", "the body must be Parameters")
    given: dict[str, str] = {}
    codings: list[tuple[str, str, str]] = []
    for each in listed:
        name = each.get("name") if type(each) is dict else None
        if name == "coding":
            codings += _codings([each.get("valueCoding")])
        elif name == "codeableConcept":
            concept = each.get("valueCodeableConcept")
            codings += _codings(concept.get("coding") if type(concept) is dict else None)
        elif name in _TEXTS and name not in given:
            given[name] = _text(name, each)
        else:
            what = "is given twice" if name in _TEXTS else "is not supported"
            raise _refused("not-supported", f"{_shown(name)} {what}")
    return given, codings


def _text(name: str, parameter: Mapping[str, Any]) -> str:
    value = parameter.get(_TEXTS[name])
    if type(value) is bool and name == "reverse":
        return "true" if value else "false"
    if type(value) is not str:
        raise _refused("invalid", f"{name} needs {_TEXTS[name]}")
    return value


def _codings(listed: Any) -> list[tuple[str, str, str]]:
    return [_coding(each) for each in (listed if type(listed) is list else [None])]


def _coding(given: Any) -> tuple[str, str, str]:
    read = given if type(given) is dict else {}
    texts = [str(value) for name in _CODING if type(value := read.get(name, "")) is str]
    if len(texts) < len(_CODING) or not texts[1]:
        raise _refused("invalid", "a coding needs a code, and its system if it has one")
    return texts[0], texts[1], texts[2]


def _wanted(given: Mapping[str, str], codings: list[tuple[str, str, str]]) -> Wanted:
    if given.get("reverse", "true") not in ("true", "false"):
        raise _refused("invalid", "reverse is true or false")
    if "code" in given:
        if not given["code"] or "system" not in given:
            raise _refused("required", "code needs system")
        codings = [*codings, (given["system"], given["code"], given.get("version", ""))]
    if not codings:
        raise _refused("required", "give code and system, a coding or a codeableConcept")
    return Wanted(tuple(dict.fromkeys(codings)), given)


def _shown(name: Any) -> str:
    """A parameter's name as far as it is a word of ours; others are not repeated."""
    return name if name in {*_TEXTS, "conceptMap", "dependency", "coding", "codeableConcept"} else "a parameter"


def _refused(code: str, problem: str) -> RecordRefused:
    return RecordRefused([Issue("error", code, problem)])
