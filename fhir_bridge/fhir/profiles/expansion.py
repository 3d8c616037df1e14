"""List the codes of a package's value sets, where they can be listed without a terminology server.

For bindings of profiles. Taken are: listed concepts, code systems that the packages hold completely, imports of value
sets, exclusion, filters over such a code system's own hierarchy or properties, and an expansion that is whole. Sets
that the standard binds are taken from the validator's own tables. For everything else the reason is given, so that a
binding is said not to be judged rather than judged wrongly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fhir_bridge.fhir.bindings import Codes
from fhir_bridge.fhir.tables import Definitions

_HL7 = "http://hl7.org/fhir/"
_LEFT_OUT = frozenset({"valueset-unclosed", "valueset-toocostly"})
# R4 valueset-operation-expand.html; the last two are of servers.
_NARROWING = frozenset(
    {
        *("filter", "activeOnly", "count", "offset", "excludeNotForUI", "excludePostCoordinated", "exclude-system"),
        *("limitedExpansion", "limited-expansion"),
    }
)

Json = dict[str, Any]
Concept = tuple[str, str]
"""System and code."""


class NotListed(Exception):
    """A value set cannot be listed here; the text says why."""


class Terms:
    """Value sets and code systems of some packages, expanded when first asked for."""

    def __init__(self, sets: Mapping[str, Json], systems: Mapping[str, Json], base: Definitions) -> None:
        self._sets = sets
        self._systems = systems
        self._base = base
        self._known: dict[str, Codes | NotListed] = {}

    def codes(self, canonical: str) -> Codes:
        """Return system → codes of a value set.

        Raises:
            NotListed: With the reason.
        """
        url = canonical.partition("|")[0]
        found = self._known.get(url)
        if found is None:
            try:
                found = _by_system(self._set(url, frozenset()))
            except NotListed as reason:
                found = reason
            self._known[url] = found
        if isinstance(found, NotListed):
            raise found
        return found

    def _set(self, url: str, above: frozenset[str]) -> frozenset[Concept]:
        if url in above:
            raise NotListed(f"{url} includes itself")
        body = self._sets.get(url)
        if body is None:
            return self._of_base(url)
        try:
            return self._composed(body, above | {url})
        except NotListed:
            whole = _expansion(body)
            if whole is None:
                raise
            return whole

    def _of_base(self, url: str) -> frozenset[Concept]:
        codes = self._base.codes.get(url)
        if codes is None:
            raise NotListed(f"{url} is in no package that is loaded")
        return frozenset((system, code) for system, listed in codes.items() for code in listed)

    def _composed(self, body: Json, above: frozenset[str]) -> frozenset[Concept]:
        compose = body.get("compose")
        if compose is None:
            raise NotListed(f"{body['url']} has neither compose nor a whole expansion")
        found: frozenset[Concept] = frozenset()
        for include in compose.get("include", ()):
            found |= self._included(include, above)
        for exclude in compose.get("exclude", ()):
            found -= self._included(exclude, above)
        return found

    def _included(self, include: Json, above: frozenset[str]) -> frozenset[Concept]:
        """What the system of an include gives and every value set that it names holds too."""
        parts = [self._set(str(url).partition("|")[0], above) for url in include.get("valueSet", ())]
        if "system" in include:
            parts.append(self._of_system(include))
        if not parts:
            raise NotListed("an include names neither system nor value set")
        return frozenset.intersection(*parts)

    def _of_system(self, include: Json) -> frozenset[Concept]:
        system = str(include["system"])
        listed = include.get("concept")
        if listed:
            return frozenset((system, concept["code"]) for concept in listed)
        body = self._systems.get(system)
        if body is None and not include.get("filter"):
            # R4's own value set of the same name holds all codes of such a system.
            whole = (
                self._base.codes.get(system.replace(_HL7, _HL7 + "ValueSet/"), {}) if system.startswith(_HL7) else {}
            )
            if system in whole:
                return frozenset((system, code) for code in whole[system])
        if body is None or body.get("content") != "complete":
            raise NotListed(f"the code system {system} is not in the packages as a whole")
        every = list(_concepts(body.get("concept", ()), None))
        concepts, above = {concept["code"]: concept for concept, _ in every}, _all_above(every)
        codes = frozenset(concepts)
        for each in include.get("filter", ()):
            codes &= _filtered(each, above, concepts, system)
        return frozenset((system, code) for code in codes)


def _concepts(concepts: Any, above: str | None) -> Iterator[tuple[Json, str | None]]:
    """Each concept of a code system with the code that it stands under."""
    for concept in concepts:
        yield concept, above
        yield from _concepts(concept.get("concept", ()), concept["code"])


def _all_above(every: Iterable[tuple[Json, str | None]]) -> Mapping[str, frozenset[str]]:
    """Code → all codes above it, by nesting and by property (R4 codesystem.html#hierarchy)."""
    direct: dict[str, set[str]] = {}
    for concept, above in every:
        told = [p.get("valueCode") for p in concept.get("property", ()) if p.get("code") in ("parent", "subsumedBy")]
        direct.setdefault(concept["code"], set()).update(code for code in (above, *told) if code is not None)
    found: dict[str, frozenset[str]] = {}
    for code in direct:
        seen, waiting = set[str](), list(direct[code])
        while waiting:
            each = waiting.pop()
            if each not in seen:
                seen.add(each)
                waiting.extend(direct.get(each, ()))
        found[code] = frozenset(seen)
    return found


def _filtered(
    each: Json, above: Mapping[str, frozenset[str]], concepts: Mapping[str, Json], system: str
) -> frozenset[str]:
    name, operator, value = each.get("property"), each.get("op"), each.get("value")
    if operator in ("is-a", "descendent-of") and name in ("concept", "code"):
        below = {code for code, codes in above.items() if value in codes}
        return frozenset(below | ({str(value)} if operator == "is-a" else set()))
    if operator == "=" and any(p.get("code") == name for c in concepts.values() for p in c.get("property", ())):
        return frozenset(code for code, concept in concepts.items() if _has_property(concept, name, value))
    raise NotListed(f"the filter {name} {operator} over {system} needs a terminology server")


def _has_property(concept: Json, name: Any, value: Any) -> bool:
    held = (p for p in concept.get("property", ()) if p.get("code") == name)
    return any(str(found) == value for p in held for key, found in p.items() if key.startswith("value"))


def _expansion(body: Json) -> frozenset[Concept] | None:
    """The stored expansion, if it is whole and was not made with parameters that narrow it."""
    expansion = body.get("expansion")
    if expansion is None or "offset" in expansion or _is_narrowed(expansion):
        return None
    found: set[Concept] = set()
    count = 0
    waiting = list(expansion.get("contains", ()))
    while waiting:
        item = waiting.pop()
        count += 1
        if not item.get("abstract") and "code" in item:
            found.add((item.get("system", ""), item["code"]))
        waiting.extend(item.get("contains", ()))
    return frozenset(found) if found and expansion.get("total", count) == count else None


def _is_narrowed(expansion: Json) -> bool:
    """Whether it says of itself that it leaves codes out."""
    told = {str(each.get("url")).rpartition("/")[2] for each in expansion.get("extension", ())}
    given = {
        each.get("name")
        for each in expansion.get("parameter", ())
        if not any(value is False for key, value in each.items() if key.startswith("value"))
    }
    return bool(told & _LEFT_OUT or given & _NARROWING)


def _by_system(concepts: frozenset[Concept]) -> Codes:
    systems: dict[str, set[str]] = {}
    for system, code in concepts:
        systems.setdefault(system, set()).add(code)
    if not systems:
        raise NotListed("it lists no code")
    return {system: frozenset(codes) for system, codes in systems.items()}
