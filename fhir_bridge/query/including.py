"""Add to a page of matches the records they point to and those that point to them (R4 search.html#include).

For searching. Includes come from the permitted view like everything else, have
no part in totals and order of matches, and stand after them, by type and id.

Invariants:
    * a record stands on a page once, as a match if it is one;
    * what an answer includes is bounded: more is refused, never cut off in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.search import parameters_of, targets_of
from fhir_bridge.fhir.tables import r4
from fhir_bridge.model.access import PermittedView, Place
from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.query.refusals import QueryRefused, invalid, unsupported

INCLUDES = frozenset({"_include", "_revinclude"})
MAX_INCLUDED = 5_000
_ALL = "*"


@dataclass(frozen=True, slots=True)
class Include:
    """One ``_include`` or ``_revinclude``.

    Attributes:
        source: Type that holds the reference; None for any.
        name: Reference parameter; None for every one.
        target: Type pointed to; None for any.
        iterates: Applies to what is included as well.
    """

    source: str | None
    name: str | None
    target: str | None
    is_reverse: bool
    iterates: bool

    def references(self, row: IndexRow) -> Iterator[str]:
        """Yield what a row points to as far as this include follows it."""
        if self.source not in (None, row.type):
            return
        for name in _reference_names(row.type) if self.name is None else (self.name,):
            for value in row.values_of(name):
                if self.target is None or value.startswith(f"{self.target}/"):
                    yield value


def read_include(name: str, text: str) -> Include:
    """Read ``Type:parameter[:Target]``, with ``*`` for every parameter or for everything.

    Raises:
        QueryRefused: It is not of that form, or names no reference parameter.
    """
    bare, colon, modifier = name.partition(":")
    if colon and modifier != "iterate":
        raise QueryRefused([unsupported(name, "has a modifier that is not supported here")])
    is_reverse, iterates = bare == "_revinclude", bool(colon)
    if text == _ALL:
        return Include(None, None, None, is_reverse, iterates)
    source, parameter, target = _parts(bare, text)
    if source not in r4().resource_types():
        raise QueryRefused([invalid(bare, "names no resource type of FHIR R4")])
    if parameter != _ALL and parameters_of(source).get(parameter) != "reference":
        raise QueryRefused([invalid(bare, "names no reference parameter of its type")])
    if target is not None and not _is_target(source, parameter, target):
        raise QueryRefused([invalid(bare, "names a type that its parameter cannot point to")])
    return Include(source, None if parameter == _ALL else parameter, target, is_reverse, iterates)


def included(view: PermittedView, matches: Iterable[Place], includes: Sequence[Include]) -> tuple[Place, ...]:
    """Return what the matches of one page bring along, by type and id.

    Raises:
        QueryRefused: More than ``MAX_INCLUDED`` records.
    """
    if not includes:
        return ()
    frontier = {_name(row): (chart, row) for chart, row in matches}
    seen, found = set(frontier), dict[str, Place]()
    backward = {each: _pointing(view, each) for each in includes if each.is_reverse}
    wave = list(includes)
    while frontier and wave:
        reached: dict[str, Place] = {}
        for each in wave:
            step = _back(frontier, backward[each]) if each.is_reverse else _forth(view, frontier, each)
            reached.update((_name(row), (chart, row)) for chart, row in step if _name(row) not in seen)
        found |= reached
        seen |= reached.keys()
        if len(found) > MAX_INCLUDED:
            problem = f"more than {MAX_INCLUDED} records would be included; ask for fewer"
            raise QueryRefused([Issue("error", "too-costly", problem, "_include")])
        frontier, wave = reached, [each for each in includes if each.iterates]
    return tuple(sorted(found.values(), key=lambda place: (place[1].type, place[1].id)))


def _parts(bare: str, text: str) -> tuple[str, str, str | None]:
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise QueryRefused([invalid(bare, "is not of the form Type:parameter or Type:parameter:Target")])
    return parts[0], parts[1], parts[2] if len(parts) == 3 else None


def _is_target(source: str, parameter: str, target: str) -> bool:
    targets = () if parameter == _ALL else targets_of(source, parameter)
    return target in (targets or r4().resource_types())


def _forth(view: PermittedView, frontier: Mapping[str, Place], include: Include) -> Iterator[Place]:
    for _, row in frontier.values():
        for reference in include.references(row):
            place = view.current.get(reference)
            if place is not None:
                yield place


def _back(frontier: Mapping[str, Place], pointing: Mapping[str, Sequence[Place]]) -> Iterator[Place]:
    for name in frontier:
        yield from pointing.get(name, ())


def _pointing(view: PermittedView, include: Include) -> dict[str, list[Place]]:
    """Return, for what is pointed to, who points there."""
    found: dict[str, list[Place]] = {}
    for chart, row in view.current.values():
        for reference in include.references(row):
            found.setdefault(reference, []).append((chart, row))
    return found


def _reference_names(type_name: str) -> Iterator[str]:
    return (name for name, kind in parameters_of(type_name).items() if kind == "reference")


def _name(row: IndexRow) -> str:
    return f"{row.type}/{row.id}"
