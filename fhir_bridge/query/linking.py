"""Criteria about other records: chained parameters and ``_has`` (R4 search.html#chaining and #has).

For reading criteria. A record at the other end of a reference counts only if
the permitted view holds it, so that no question can be put to what is hidden.

Invariants:
    * other records are looked up in the view and nowhere else;
    * each link of a chain costs at most one pass over the view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fhir_bridge.fhir.search import parameters_of, targets_of
from fhir_bridge.fhir.tables import r4
from fhir_bridge.model.access import PermittedView, Predicate
from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.query.refusals import QueryRefused, invalid, unsupported

Read = Callable[[str, str, str], Predicate]
"""Reads one criterion: type, parameter with its modifier or chain, value."""

HAS = "_has"
_BUILT_IN = frozenset({"_id", "_lastUpdated", HAS})


def chain(view: PermittedView, type_name: str, name: str, text: str, read: Read) -> Predicate:
    """Read ``reference[:Type].rest=text``: one of the records pointed to matches ``rest=text``.

    Without a type, every type that the reference can point to and that has the
    parameter is asked.

    Raises:
        QueryRefused: The first part is no reference, or no type at its end has the rest.
    """
    head, _, rest = name.partition(".")
    bare, colon, wanted = head.partition(":")
    if parameters_of(type_name).get(bare) != "reference":
        raise QueryRefused([unsupported(bare, "is no reference that can be chained")])
    types = _ends(type_name, bare, wanted if colon else None)
    tests = {each: read(each, rest, text) for each in types if _has_parameter(each, rest)}
    if not tests:
        raise QueryRefused([unsupported(bare, "leads to no type that has the chained parameter")])
    known: dict[str, bool] = {}

    def matches(reference: object) -> bool:
        if not isinstance(reference, str):
            return False
        if reference not in known:
            place = view.current.get(reference)
            test = None if place is None else tests.get(place[1].type)
            known[reference] = place is not None and test is not None and test(place[1])
        return known[reference]

    return lambda row: any(map(matches, row.values_of(bare)))


def has(view: PermittedView, type_name: str, name: str, text: str, read: Read) -> Predicate:
    """Read ``_has:Type:reference:rest=text``: some record of ``Type`` points here and matches ``rest=text``.

    Raises:
        QueryRefused: It is not of that form, or the reference cannot point to the type searched.
    """
    parts = name.split(":", 3)
    if len(parts) != 4 or not parts[3]:
        raise QueryRefused([invalid(HAS, "is not of the form _has:Type:reference:parameter")])
    _, source, bare, rest = parts
    if parameters_of(source).get(bare) != "reference" or not _can_point(source, bare, type_name):
        raise QueryRefused([unsupported(HAS, "names no reference that can point to this type")])
    test = read(source, rest, text)
    pointed: list[frozenset[str]] = []

    def is_pointed_to(row: IndexRow) -> bool:
        if not pointed:
            pointed.append(_targets(view, source, bare, test))
        return f"{row.type}/{row.id}" in pointed[0]

    return is_pointed_to


def _ends(type_name: str, bare: str, wanted: str | None) -> Sequence[str]:
    if wanted is None:
        return targets_of(type_name, bare) or sorted(r4().resource_types())
    if wanted not in r4().resource_types() or not _can_point(type_name, bare, wanted):
        raise QueryRefused([unsupported(bare, "cannot point to the type in its modifier")])
    return (wanted,)


def _can_point(source: str, bare: str, target: str) -> bool:
    targets = targets_of(source, bare)
    return not targets or target in targets


def _has_parameter(type_name: str, rest: str) -> bool:
    bare = rest.partition(".")[0].partition(":")[0]
    return bare in _BUILT_IN or bare in parameters_of(type_name)


def _targets(view: PermittedView, source: str, bare: str, test: Predicate) -> frozenset[str]:
    """Return what the matching records of a type point to."""
    rows = (row for places in view.of_type(source) for _, row in places.values())
    return frozenset(target for row in rows if row.values_of(bare) and test(row) for target in row.values_of(bare))
