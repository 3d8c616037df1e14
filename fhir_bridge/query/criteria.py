"""Read search parameters into criteria over index rows, refusing what is not understood.

For searching. Strict by default, as the design asks: an unknown parameter or
modifier refuses the search, because ignoring it would answer another question;
``lenient`` (Prefer: handling=lenient) ignores and names them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.search import (
    COMPOSITE,
    composite_of,
    has_plain_codes,
    implied_systems,
    names_beside,
    parameters_of,
    stored_names,
    targets_of,
)
from fhir_bridge.model.access import PermittedView, Place, Predicate
from fhir_bridge.model.index import Places
from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.query import amounts, linking, values
from fhir_bridge.query.including import INCLUDES, Include, read_include
from fhir_bridge.query.refusals import QueryRefused, invalid, unsupported
from fhir_bridge.query.values import FindSet, ValueTest

Params = Sequence[tuple[str, str]]

CONTROLS = frozenset({"_sort", "_count", "_total", "_summary", "_elements", "_cursor", "_format", "_pretty"})
"""Parameters about the answer; the last two are the entrance's business."""

MAX_LINKS = 8
"""Links of one chain or nested ``_has``; no record of R4 is further from a patient."""

BUILT_IN = {"_id": "token", "_lastUpdated": "date"}
MODIFIERS = {
    "token": frozenset({"not", "missing", "text", "in", "not-in", "of-type"}),
    "date": frozenset({"missing"}),
    "reference": frozenset({"missing", "identifier"}),
    "string": frozenset({"missing", "exact", "contains"}),
    "uri": frozenset({"missing"}),
    "quantity": frozenset({"missing"}),
    "number": frozenset({"missing"}),
    # search.html#modifiers gives :missing to "all parameters (except combination)".
    "composite": frozenset(),
}
_NEGATED = frozenset({"not", "not-in"})
_BESIDE = frozenset({"text", "of-type"})
"""Modifiers that look at values of their own, beside those of the parameter."""
_MILLISECOND = 1_000


@dataclass(frozen=True, slots=True)
class Holds:
    """The criterion that a row's values of one parameter pass one of the tests; nothing else of the row counts."""

    name: str
    tests: Sequence[ValueTest]

    def __call__(self, row: IndexRow) -> bool:
        """Tell whether a row is a match."""
        return self.of_values(values_of(row, self.name))

    def of_values(self, values: Sequence[Any]) -> bool:
        """Tell whether a row with these values is a match."""
        # No generator: this is asked of every row, and it would cost as much again.
        for test in self.tests:  # noqa: SIM110
            if test(values):
                return True
        return False

    def of_all(self, places: Mapping[str, Place]) -> bool | None:
        """Tell of many rows at once whether all of them match or none; None if they must be asked one by one."""
        if self.name in BUILT_IN or not isinstance(places, Places):
            return None
        values = places.alike(self.name)
        return None if values is None else self.of_values(values)


@dataclass(frozen=True, slots=True)
class Criteria:
    """Tests that a row must all pass; ``ignored`` names what a lenient search left out."""

    tests: tuple[Predicate, ...]
    ignored: tuple[str, ...] = ()
    includes: tuple[Include, ...] = ()

    def among(self, places: Mapping[str, Place]) -> Mapping[str, Place]:
        """Return the records that match; about as fast for very many as for one where they agree in what is asked."""
        left: list[Predicate] = []
        for test in self.tests:
            verdict = test.of_all(places) if isinstance(test, Holds) else None
            if verdict is False:
                return {}
            if verdict is None:
                left.append(test)
        if not left:
            return places
        if len(left) == 1:
            only = left[0]
            return {name: place for name, place in places.items() if only(place[1])}
        return {name: place for name, place in places.items() if all(test(place[1]) for test in left)}

    def matches(self, row: IndexRow) -> bool:
        """Tell whether a row is a match."""
        return all(test(row) for test in self.tests)


def kind_of(type_name: str, name: str) -> str | None:
    """Return the kind of a search parameter of a type, or None if there is no such parameter."""
    return BUILT_IN.get(name) or parameters_of(type_name).get(name)


def values_of(row: IndexRow, name: str) -> Sequence[object]:
    """Return a row's values of a parameter."""
    if name not in BUILT_IN:
        return row.values_of(name)
    if name == "_id":
        return (("", row.id),)
    return ((row.last_updated_us, row.last_updated_us + _MILLISECOND),)


def read_criteria(
    type_name: str,
    params: Params,
    *,
    view: PermittedView,
    base_url: str,
    now_us: int,
    lenient: bool = False,
    find_set: FindSet = values.no_set,
) -> Criteria:
    """Read all parameters but the controls.

    Args:
        view: Where chains and ``_has`` look for other records.
        find_set: Finds a loaded value set for ``:in``.

    Raises:
        QueryRefused: One issue for each parameter that is unknown or has a bad value.
    """
    reader = _Reader(view, base_url, now_us, find_set)
    tests: list[Predicate] = []
    includes: list[Include] = []
    issues: list[Issue] = []
    ignored: list[str] = []
    for name, text in params:
        if name in CONTROLS:
            continue
        try:
            if name.partition(":")[0] in INCLUDES:
                includes.append(read_include(name, text))
            else:
                tests.append(reader.criterion(type_name, name, text))
        except QueryRefused as refused:
            if lenient and all(issue.code == "not-supported" for issue in refused.issues):
                ignored.append(name)
            else:
                issues.extend(refused.issues)
    if issues:
        raise QueryRefused(issues)
    return Criteria(tuple(tests), tuple(ignored), tuple(includes))


@dataclass(frozen=True, slots=True)
class _Reader:
    """What the values of one search are read with."""

    view: PermittedView
    base_url: str
    now_us: int
    find_set: FindSet
    links: int = 0

    def criterion(self, type_name: str, name: str, text: str) -> Predicate:
        """Read one criterion; linked ones read the rest of their name with one link more."""
        if name.startswith(f"{linking.HAS}:") or "." in name:
            if self.links == MAX_LINKS:
                raise QueryRefused([unsupported(name, f"has more than {MAX_LINKS} links")])
            further = replace(self, links=self.links + 1)
            link = linking.has if name.startswith(linking.HAS) else linking.chain
            return link(self.view, type_name, name, text, further.criterion)
        return _criterion(type_name, name, text, self)


def _criterion(type_name: str, name: str, text: str, reader: _Reader) -> Predicate:
    bare, colon, modifier = name.partition(":")
    kind = kind_of(type_name, bare)
    if kind is None or kind not in MODIFIERS:
        raise QueryRefused([unsupported(bare)])
    target = modifier if kind == "reference" and _is_target(type_name, bare, modifier) else None
    if colon and target is None and not _is_modifier(type_name, kind, name, modifier):
        raise QueryRefused([unsupported(name, "has a modifier that is not supported here")])
    if modifier == "missing":
        return _missing(bare, text)
    asked = _Asked(type_name, bare, modifier, target, reader.base_url, reader.now_us, reader.find_set)
    if kind == COMPOSITE:
        return _any([_composite(asked, each) for each in values.alternatives(text)])
    tests = [_value_test(kind, asked, each) for each in values.alternatives(text)]
    if modifier in _BESIDE:
        return _any_stored(stored_names(type_name, name), tests)
    if modifier in _NEGATED:
        return lambda row: not any(test(values_of(row, bare)) for test in tests)
    return Holds(bare, tests)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One parameter as asked for; ``target`` is the type that a reference's modifier names."""

    type_name: str
    name: str
    modifier: str
    target: str | None
    base_url: str
    now_us: int
    find_set: FindSet


def _is_modifier(type_name: str, kind: str, name: str, modifier: str) -> bool:
    return modifier in MODIFIERS[kind] and (modifier not in _BESIDE or name in names_beside(type_name))


def _any(tests: Sequence[Predicate]) -> Predicate:
    return tests[0] if len(tests) == 1 else lambda row: any(test(row) for test in tests)


def _any_stored(names: Sequence[str], tests: Sequence[ValueTest]) -> Predicate:
    return lambda row: any(test(row.values_of(name)) for name in names for test in tests)


def _composite(asked: _Asked, text: str) -> Predicate:
    """``value$value``: all components match in one part of the resource (search.html#combining)."""
    made = composite_of(asked.type_name, asked.name)
    parts = values.split(text, "$")
    if len(parts) != len(made.kinds):
        raise QueryRefused([invalid(asked.name, f"needs {len(made.kinds)} values with $ between them")])
    tests = [_value_test(kind, asked, part) for kind, part in zip(made.kinds, parts, strict=True)]
    stored = stored_names(asked.type_name, asked.name)
    whole = tuple(zip(tests, made.of_whole, strict=True)) if made.of_whole else ()

    def matches(row: IndexRow) -> bool:
        if whole and all(test(row.values_of(name)) for test, name in whole):
            return True
        parts = (part for name in stored for part in row.values_of(name))
        return any(all(test(each) for test, each in zip(tests, part, strict=True)) for part in parts)

    return matches


def _is_target(type_name: str, name: str, modifier: str) -> bool:
    if not modifier or not modifier[0].isupper():
        return False
    targets = targets_of(type_name, name)
    return not targets or modifier in targets


def _missing(name: str, text: str) -> Predicate:
    if text not in ("true", "false"):
        raise QueryRefused([invalid(f"{name}:missing", "is neither true nor false")])
    wanted = text == "true"
    return lambda row: (not values_of(row, name)) is wanted


def _value_test(kind: str, asked: _Asked, text: str) -> ValueTest:
    name, modifier = asked.name, asked.modifier
    if kind == "token":
        return _token_test(asked, text)
    if kind == "date":
        return values.date_test(name, text, asked.now_us)
    if kind == "reference":
        if modifier == "identifier":
            return values.logical_reference_test(name, text)
        return values.reference_test(name, text, asked.base_url, asked.target)
    if kind == "string":
        return values.string_test(name, text, modifier or None)
    plain: dict[str, Callable[[str, str], ValueTest]] = {
        "uri": values.uri_test,
        "quantity": amounts.quantity_test,
        "number": amounts.number_test,
    }
    return plain[kind](name, text)


def _token_test(asked: _Asked, text: str) -> ValueTest:
    match asked.modifier:
        case "text":
            return values.string_test(asked.name, text, None)
        case "of-type":
            return values.of_type_test(asked.name, text)
        case "in" | "not-in":
            plain = has_plain_codes(asked.type_name, asked.name)
            return values.in_value_set_test(asked.name, text, plain=plain, find_set=asked.find_set)
    return values.token_test(asked.name, text, implied_systems(asked.type_name, asked.name))
