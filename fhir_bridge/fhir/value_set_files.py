"""Read FHIR ValueSet resources into lists, and say by file and line what cannot be one.

For operators who put value sets into force. Taken are: concepts listed in ``compose.include``, included value sets
that are among the files given, ``is-a`` over ICD-10 (whose hierarchy is in its spelling), and an ``expansion`` that
is whole. Everything else would need a terminology server, and a set that is silently too small hides too little:
it is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from fhir_bridge.errors import RecordRefused, ValueSetBroken
from fhir_bridge.fhir.json import parse
from fhir_bridge.fhir.value_sets import SPELLED_SYSTEMS, STEM_CHARS, Concept, LabelSets, ValueSet

_LABEL = re.compile(r"[A-Z][A-Z0-9]{0,31}")
_NO_SETS: frozenset[str] = frozenset()
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],]|[^\s{}\[\],:"]+|:')
_INCLUDE_KEYS = frozenset({"system", "version", "concept", "filter", "valueSet", "id", "extension"})
Place = tuple[str | int, ...]
"""Where in a file: keys and indexes from its root."""


@dataclass(slots=True)
class _Listing:
    """What one set lists, while it is read."""

    codes: dict[str, set[str]]
    stems: dict[str, set[str]]

    def add(self, concept: Concept) -> None:
        self.codes.setdefault(concept[0], set()).add(concept[1])

    def join(self, other: _Listing) -> None:
        for mine, theirs in ((self.codes, other.codes), (self.stems, other.stems)):
            for system, listed in theirs.items():
                mine.setdefault(system, set()).update(listed)


def read_label_sets(topics: Mapping[str, str], also: Mapping[str, bytes], texts: Mapping[str, bytes]) -> LabelSets:
    """Return the sets that files spell out.

    Args:
        topics: Label (a code of v3-ActCode) → name of its file in ``texts``.
        also: Files whose sets label nothing and can be asked for in searches.
        texts: Every file by name, those that others include among them.

    Raises:
        ValueSetBroken: Names file, line and concept.
    """
    for label in topics:
        if not _LABEL.fullmatch(label):
            raise ValueSetBroken(f"{label!r} is no label: give a code of v3-ActCode such as HIV")
    reader = _Reader({**texts, **also})
    found = [(label, reader.read(name)) for label, name in topics.items()]
    return LabelSets([*found, *(("", reader.read(name)) for name in also)])


@lru_cache(maxsize=1)
def packaged_sets() -> LabelSets:
    """Return the sets that ship with the package, or those of the source tree: a file for each label."""
    folder = Path(str(files("fhir_bridge"))) / "_mappings" / "labels"
    if not folder.is_dir():
        folder = Path(str(files("fhir_bridge"))).parent / "mappings" / "labels"
    texts = {path.name: path.read_bytes() for path in sorted(folder.glob("*.json"))}
    return read_label_sets({name.removesuffix(".json"): name for name in texts}, {}, texts)


class _Reader:
    """Reads files that may include each other."""

    def __init__(self, texts: Mapping[str, bytes]) -> None:
        self._texts = texts
        self._bodies: dict[str, dict[str, Any]] = {}
        self._files: dict[str, str] = {}
        for name, text in texts.items():
            body = self._bodies[name] = self._parsed(name, text)
            url, version = body["url"], body["version"]
            for known in (url, f"{url}|{version}"):
                other = self._files.setdefault(known, name)
                if other != name and self._bodies[other] != body:
                    raise self._wrong(name, ("url",), f"another value set of this URL is in {other}")

    def read(self, name: str) -> ValueSet:
        """Return the set of one file, with what it includes."""
        body = self._bodies[name]
        listing = self._listing(name, _NO_SETS)
        if not listing.codes and not listing.stems:
            raise self._wrong(name, (), "the value set lists no concept")
        codes, stems = (
            {system: frozenset(found) for system, found in each.items()} for each in (listing.codes, listing.stems)
        )
        return ValueSet(body["url"], body["version"], codes, stems)

    def _parsed(self, name: str, text: bytes) -> dict[str, Any]:
        try:
            body = parse(text)
        except RecordRefused as refused:
            raise ValueSetBroken(f"{name}: not strict JSON: {refused.issues[0].diagnostics}") from refused
        if body.get("resourceType") != "ValueSet":
            raise ValueSetBroken(f"{name}:1: is no FHIR ValueSet")
        for key in ("url", "version"):
            value = body.get(key)
            if type(value) is not str or not value or "|" in value:
                raise self._wrong(name, (key,) if key in body else (), f"needs a {key}: lineage names sets by both")
        return body

    def _listing(self, name: str, above: frozenset[str]) -> _Listing:
        if name in above:
            raise self._wrong(name, (), "the value set includes itself")
        body = self._bodies[name]
        listing = _Listing({}, {})
        if "expansion" in body:
            self._expand(name, body["expansion"], listing)
            return listing
        compose = body.get("compose")
        includes = compose.get("include") if type(compose) is dict else None
        if type(compose) is not dict or type(includes) is not list:
            raise self._wrong(name, (), "has neither compose.include nor expansion")
        if compose.get("exclude"):
            raise self._wrong(name, ("compose", "exclude"), "'exclude' is not worked out here; give an expansion")
        for number, include in enumerate(includes):
            self._include(name, ("compose", "include", number), include, listing, above | {name})
        return listing

    def _include(self, name: str, place: Place, include: Any, listing: _Listing, above: frozenset[str]) -> None:
        if type(include) is not dict or not _INCLUDE_KEYS.issuperset(include):
            raise self._wrong(name, place, "is no include of FHIR R4")
        system, sets = include.get("system"), include.get("valueSet", [])
        if sets:
            if "system" in include or len(sets) > 1:
                problem = "the intersection of value sets, or of one with a system, is not worked out here"
                raise self._wrong(name, (*place, "valueSet"), f"{problem}; give an expansion")
            listing.join(self._listing(self._included(name, (*place, "valueSet", 0), sets[0]), above))
            return
        if type(system) is not str or not system:
            raise self._wrong(name, place, "names no system")
        concepts, filters = include.get("concept", []), include.get("filter", [])
        if not concepts and not filters:
            raise self._wrong(name, place, f"means the whole of {system}, which is not listed here")
        if concepts and filters:
            raise self._wrong(name, place, "has concepts and filters; R4 allows one of the two")
        for number, concept in enumerate(concepts):
            listing.add((system, self._code(name, (*place, "concept", number), concept)))
        for number, each in enumerate(filters):
            self._filter(name, (*place, "filter", number), system, each, listing, is_only=len(filters) == 1)

    def _included(self, name: str, place: Place, wanted: Any) -> str:
        found = self._files.get(wanted) if type(wanted) is str else None
        if found is None:
            raise self._wrong(name, place, f"includes {wanted}, which is not among the files given")
        return found

    def _code(self, name: str, place: Place, concept: Any) -> str:
        code = concept.get("code") if type(concept) is dict else None
        if type(code) is not str or not code.strip():
            raise self._wrong(name, place, "has no code")
        return code

    def _filter(self, name: str, place: Place, system: str, each: Any, listing: _Listing, *, is_only: bool) -> None:
        given = each if type(each) is dict else {}
        value = given.get("value")
        operator = given.get("op")
        if system not in SPELLED_SYSTEMS or operator != "is-a" or given.get("property") != "concept" or not is_only:
            told = f"filter {given.get('property')} {operator} {value} over {system}"
            raise self._wrong(name, place, f"{told} needs a terminology server; give an expansion")
        stem = str(value).replace(".", "").upper()
        if len(stem) < STEM_CHARS or not stem.isalnum():
            raise self._wrong(name, place, f"{value} is no category of ICD-10 (such as B20)")
        listing.stems.setdefault(system, set()).add(stem)

    def _expand(self, name: str, expansion: Any, listing: _Listing) -> None:
        contains = expansion.get("contains") if type(expansion) is dict else None
        if type(contains) is not list:
            raise self._wrong(name, ("expansion",), "the expansion contains nothing")
        found = 0
        for place, item in _nested(contains, ("expansion", "contains")):
            if type(item) is not dict:
                raise self._wrong(name, place, "is no concept")
            found += 1
            if item.get("abstract") is True:
                continue
            system = item.get("system")
            if type(system) is not str or not system:
                raise self._wrong(name, place, "names no system")
            listing.add((system, self._code(name, place, item)))
        total = expansion.get("total", found)
        if total != found or expansion.get("offset", 0) != 0:
            raise self._wrong(name, ("expansion",), f"the expansion is a part: it holds {found} of {total} concepts")

    def _wrong(self, name: str, place: Place, problem: str) -> ValueSetBroken:
        where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).lstrip(".")
        line = line_of(self._texts[name].decode(errors="replace"), place)
        return ValueSetBroken(f"{name}:{line}: {where + ' ' if where else ''}{problem}")


def _nested(contains: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    for number, item in enumerate(contains if type(contains) is list else ()):
        yield (*place, number), item
        if type(item) is dict and "contains" in item:
            yield from _nested(item["contains"], (*place, number, "contains"))


def line_of(text: str, place: Place) -> int:
    """Return the line on which the value at ``place`` of a JSON text begins; the nearest value above it if none."""
    stack: list[list[Any]] = []
    best, best_depth = 1, 0
    for token in _TOKEN.finditer(text):
        word = token.group()
        if word in ("}", "]"):
            stack.pop()
            continue
        if word == ",":
            if stack and stack[-1][0] == "[":
                stack[-1][1] += 1
            else:
                stack[-1][1] = None
            continue
        if word == ":":
            continue
        if stack and stack[-1][0] == "{" and stack[-1][1] is None:
            stack[-1][1] = json.loads(word)
            continue
        path = tuple(key for _, key in stack)
        if len(path) > best_depth and path == place[: len(path)]:
            best, best_depth = text.count("\n", 0, token.start()) + 1, len(path)
        if word in ("{", "["):
            stack.append([word, None if word == "{" else 0])
    return best
