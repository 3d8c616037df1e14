"""Tell which records of a permitted view tell of the same thing twice, and how that is known.

For clinicians who read what several hospitals, or one that sends twice, say of one event. Three grounds, surest
first:

    * ``identical``: the same content, but for id and ``meta``;
    * ``identifier``: a business identifier in common, and nothing that says they are two things;
    * ``clinical``: code, clinical time, value and performer are known in both and are the same.

What is not known equals nothing, so a measurement without a performer has no clinical twin; and nothing is ever
judged by its wording. Nothing is stored and no record is changed or left out.

Invariants:
    * an answer is a function of the records it is given, all of which the requester may see;
    * any two records of a group are alike by its ground.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fhir_bridge.fhir.json import parse, render
from fhir_bridge.model.access import Found, PermittedView, Place
from fhir_bridge.model.ids import DIRECTORY_TYPES
from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.query.events import Event, event_of
from fhir_bridge.query.search import NOT_RECORDS

IDENTICAL, IDENTIFIER, CLINICAL = "identical", "identifier", "clinical"
GROUNDS = (IDENTICAL, IDENTIFIER, CLINICAL)
"""How two records are known to be one, surest first."""

_NOT_COMPARED = NOT_RECORDS | DIRECTORY_TYPES | {"Patient"}

Identities = Callable[[str], Iterable[str]]
"""``Practitioner/x`` → its business identifiers as ``system|value``, and whatever else it is known by."""


@dataclass(frozen=True, slots=True)
class Alike:
    """Records that tell of the same, in a stable order."""

    ground: str
    found: tuple[Found, ...]


def suspects(view: PermittedView, types: Collection[str] = ()) -> list[tuple[Found, ...]]:
    """Return groups of records that may be alike as far as the index tells; only these need to be opened.

    Args:
        types: Look at these types only; at all without.
    """
    groups: dict[tuple[Any, ...], dict[str, Found]] = defaultdict(dict)
    for type_name, places in view.current.by_type():
        if type_name not in _NOT_COMPARED and (not types or type_name in types):
            for name, place in places.items():
                for key in _keys(place[1]):
                    groups[key][name] = _found(place)
    several = {tuple(sorted(group)): group for group in groups.values() if len(group) > 1}
    return [tuple(group[name] for name in names) for names, group in sorted(several.items())]


def alike(
    groups: Sequence[Sequence[Found]], bodies: Mapping[str, bytes], identities: Identities
) -> tuple[Alike, ...]:
    """Return who of the suspects are alike; of two groups of which one holds the other, the larger only.

    Args:
        bodies: ``Type/id`` → content, of every suspect.
        identities: What a performer is known by, whichever institution names it.
    """
    facts = {name: _Facts.of(body, identities) for name, body in bodies.items()}
    made: dict[frozenset[str], Alike] = {}
    for group in groups:
        held = [(each, facts[_name(each)]) for each in group]
        for ground in GROUNDS:
            for found in _cliques(held, ground):
                made.setdefault(frozenset(map(_name, found)), Alike(ground, found))
    kept = [each for names, each in made.items() if not any(names < other for other in made)]
    return tuple(sorted(kept, key=lambda each: [_name(found) for found in each.found]))


def _keys(row: IndexRow) -> Iterable[tuple[Any, ...]]:
    for system, value in (token[:2] for token in row.values_of("identifier")):
        if system and value:
            yield IDENTIFIER, row.type, system, value
    if row.data_period_us is not None:
        for code in row.codes:
            yield CLINICAL, row.type, row.data_period_us, code


def _found(place: Place) -> Found:
    chart, row = place
    return Found(chart.chart, row)


def _name(found: Found) -> str:
    return f"{found.row.type}/{found.row.id}"


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is compared of one record: content without id and ``meta``, identifiers, the event it tells of."""

    plain: bytes
    identifiers: frozenset[tuple[str, str]]
    event: Event | None

    @classmethod
    def of(cls, body: bytes, identities: Identities) -> _Facts:
        resource = parse(body)
        plain = render({key: value for key, value in resource.items() if key not in ("id", "meta")})
        held = resource.get("identifier", ())
        named = [(i["system"], i["value"]) for i in held if "system" in i and "value" in i] if _is_list(held) else []
        return cls(plain, frozenset(named), event_of(resource, identities))


def _is_list(value: object) -> bool:
    return type(value) is list


def _are_alike(one: _Facts, two: _Facts, ground: str) -> bool:
    if ground == IDENTIFIER:
        # An accession number stands in every result of an order: a common number does not make two things one.
        shared = not one.identifiers.isdisjoint(two.identifiers)
        return shared and (one.event is None or two.event is None or one.event.may_be(two.event))
    return one.event is not None and two.event is not None and one.event.equals(two.event)


def _cliques(group: Sequence[tuple[Found, _Facts]], ground: str) -> list[tuple[Found, ...]]:
    """Return groups in which every two are alike: each record joins the first group all of which it is like."""
    if ground == IDENTICAL:
        return _identical(group)
    cliques: list[list[tuple[Found, _Facts]]] = []
    for each in group:
        home = next((c for c in cliques if all(_are_alike(held[1], each[1], ground) for held in c)), None)
        if home is None:
            cliques.append([each])
        else:
            home.append(each)
    return [tuple(found for found, _ in clique) for clique in cliques if len(clique) > 1]


def _identical(group: Sequence[tuple[Found, _Facts]]) -> list[tuple[Found, ...]]:
    by_content: dict[bytes, list[Found]] = defaultdict(list)
    for found, facts in group:
        by_content[facts.plain].append(found)
    return [tuple(found) for found in by_content.values() if len(found) > 1]
