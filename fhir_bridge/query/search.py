"""Search a permitted view: match, order, page; and the reads that need no search.

For the answer line, which opens the ciphertexts of what is found and nothing
else. No function here can reach a row outside the view it is given.

Invariants:
    * only current versions are searched; history and vread see older ones;
    * an answer is a function of the view, the parameters and the instant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from operator import itemgetter

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.dates import ALWAYS, interval
from fhir_bridge.model.access import Found, PermittedView, Place
from fhir_bridge.model.ids import DIRECTORY_TYPES
from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.query.criteria import Params, read_criteria
from fhir_bridge.query.including import included
from fhir_bridge.query.ordering import TIMELINE, Key, Rule, comparable, key_of, read_sort, sort_key
from fhir_bridge.query.refusals import QueryRefused, invalid, unsupported
from fhir_bridge.query.shaping import COUNT, WHOLE, Shape, read_shape
from fhir_bridge.query.values import FindSet, no_set

DEFAULT_PAGE = 20
MAX_PAGE = 1_000

NOT_RECORDS = frozenset({"AuditEvent", "Consent", "Provenance"})
"""Types about records; they have endpoints of their own and stay out of ``$everything``."""

_MANY = 1_000
"""So many matches cost more to sort for one page than to meet in the order that their charts keep."""

_EVERYTHING_PARAMS = frozenset(
    {"_since", "_count", "_type", "start", "end", "_summary", "_elements", "_cursor", "_format", "_pretty"}
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One page of an answer: matches in order, then what they bring along.

    Attributes:
        total: Number of all matches; None if the client did not want it.
        after: Sort key of the last entry if there is a next page, else None.
        ignored: Names that a lenient search left out.
        shape: How much of each record is shown.
    """

    found: tuple[Found, ...]
    total: int | None
    after: Key | None = None
    ignored: tuple[str, ...] = ()
    shape: Shape = WHOLE


def search(
    view: PermittedView,
    type_name: str,
    params: Params,
    *,
    now: datetime,
    base_url: str = "",
    after: Key | None = None,
    page_size: int = DEFAULT_PAGE,
    lenient: bool = False,
    find_set: FindSet = no_set,
) -> SearchResult:
    """Answer ``GET [base]/Type?params`` over a view; 1 µs for each kind of rows, and for each row that must be asked.

    Args:
        after: From an opened cursor; entries up to and including it are left out.
        page_size: Used without ``_count``.
        find_set: Finds a loaded value set for ``:in``.

    Raises:
        QueryRefused: A parameter is unknown, unsupported or has a bad value.
    """
    controls = _controls(params, {"_sort", "_count", "_total"})
    shape = read_shape(params, type_name, may_count=True)
    now_us = (now - _EPOCH) // _MICROSECOND
    criteria = read_criteria(
        type_name, params, view=view, base_url=base_url, now_us=now_us, lenient=lenient, find_set=find_set
    )
    rules = read_sort(type_name, controls.get("_sort"))
    size = _count(controls.get("_count"), page_size)
    total = _choice(controls, "_total", ("none", "estimate", "accurate"))
    only_count = shape.summary == COUNT or size == 0
    matches = _Matches([criteria.among(places) for places in view.of_type(type_name)])
    shown_total = len(matches) if total != "none" or only_count else None
    if only_count:
        return SearchResult((), shown_total, ignored=criteria.ignored)
    page, last = _page(matches, rules, after, size, _Walk(view, type_name, criteria.matches))
    beside = included(view, page, criteria.includes)
    return SearchResult(_found(page) + _found(beside, "include"), shown_total, last, criteria.ignored, shape)


def everything(
    view: PermittedView, params: Params = (), *, after: Key | None = None, with_directory: bool = False
) -> SearchResult:
    """Answer ``$everything``: all current records in timeline order, on one page unless ``_count`` is given.

    ``start`` and ``end`` select by clinical time; a record that has none is never
    outside of a range. ``_since`` selects by ``meta.lastUpdated``.

    Raises:
        QueryRefused: A parameter is unknown or has a bad value.
    """
    for name, _ in params:
        if name not in _EVERYTHING_PARAMS:
            raise QueryRefused([unsupported(name)])
    controls = _controls(params, _EVERYTHING_PARAMS - {"_type"})
    shape = read_shape(params, None)
    types = {name for key, text in params if key == "_type" for name in text.split(",")}
    since = _bound(controls, "_since")[0]
    low, high = _bound(controls, "start")[0], _bound(controls, "end")[1]
    left_out = NOT_RECORDS if with_directory else NOT_RECORDS | DIRECTORY_TYPES

    def is_wanted(row: IndexRow) -> bool:
        return row.last_updated_us >= since and _is_between(row, low, high)

    parts = [places for name, places in view.current.by_type() if _is_wanted(name, types, left_out)]
    is_bounded = since > ALWAYS[0] or (low, high) != ALWAYS
    if is_bounded:
        parts = [{name: place for name, place in places.items() if is_wanted(place[1])} for places in parts]
    matches = _Matches(parts)
    size = _count(controls.get("_count"), len(matches), limit=False)
    if size == 0 and "_count" in controls:
        return SearchResult((), len(matches))
    page, last = _page(
        matches,
        TIMELINE,
        after,
        max(size, 1),
        _Walk(view, None, lambda row: _is_wanted(row.type, types, left_out) and is_wanted(row)),
    )
    return SearchResult(_found(page), len(matches), last, shape=shape)


def read(view: PermittedView, type_name: str, record_id: str) -> Found | None:
    """Return the newest version of a record, which may be a tombstone; None if absent or hidden."""
    versions = history(view, type_name, record_id)
    return versions[0] if versions else None


def vread(view: PermittedView, type_name: str, record_id: str, version: str) -> Found | None:
    """Return one version of a record, or None."""
    return next((each for each in history(view, type_name, record_id) if each.row.version == version), None)


def history(view: PermittedView, type_name: str, record_id: str) -> tuple[Found, ...]:
    """Return the versions of a record that may be seen, newest first; empty if absent or hidden."""
    found = [
        Found(chart.chart, row) for chart in view.charts for row in chart.rows.versions(f"{type_name}/{record_id}")
    ]
    return tuple(reversed(found))


def _is_wanted(type_name: str, types: set[str], left_out: frozenset[str]) -> bool:
    return type_name in types if types else type_name not in left_out


def _is_between(row: IndexRow, low: int, high: int) -> bool:
    if (low, high) == ALWAYS:
        return True
    period = row.data_period_us or (None if row.dated_us is None else (row.dated_us, row.dated_us + 1))
    return period is None or (period[0] < high and low < period[1])


class _Matches:
    """What matches, in no order; counted without being walked where there is nothing to test."""

    def __init__(self, parts: Sequence[Mapping[str, Place]]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[Place]:
        return (place for places in self._parts for place in places.values())


@dataclass(frozen=True, slots=True)
class _Walk:
    """How to come by matches in order without sorting them: by the view's own order, and a test."""

    view: PermittedView
    type_name: str | None
    is_match: Callable[[IndexRow], bool]


def _page(
    matches: _Matches, rules: Sequence[Rule], after: Key | None, size: int, walk: _Walk
) -> tuple[list[Place], Key | None]:
    """Return one page of the matches after the cursor, in order, and the key of its last entry if more follow."""
    if after is not None and len(after) != 2 * len(rules):
        raise QueryRefused([invalid("_cursor", "does not belong to this search; start again without it")])
    bound = None if after is None else comparable(after, rules)
    key = sort_key(rules)
    if len(matches) > _MANY:
        ordered = walk.view.in_order(walk.type_name, tuple(rules), key, after=bound)
        page = list(islice((place for place in ordered if walk.is_match(place[1])), size + 1))
    else:
        keyed = [(key(place[1]), place) for place in matches]
        keyed = [each for each in keyed if bound is None or bound < each[0]]
        keyed.sort(key=itemgetter(0))
        page = [place for _, place in keyed[: size + 1]]
    more = len(page) > size
    del page[size:]
    return page, key_of(page[-1][1], rules) if more and page else None


def _found(places: Iterable[Place], mode: str = "match") -> tuple[Found, ...]:
    return tuple(Found(chart.chart, row, mode) for chart, row in places)


def _controls(params: Params, names: Iterable[str]) -> dict[str, str]:
    """Return the parameters that may be given once."""
    found: dict[str, str] = {}
    wanted = set(names)
    for name, text in params:
        if name in wanted:
            if name in found:
                raise QueryRefused([invalid(name, "is given twice")])
            found[name] = text
    return found


def _choice(controls: dict[str, str], name: str, allowed: tuple[str, ...]) -> str | None:
    value = controls.get(name)
    if value is not None and value not in allowed:
        raise QueryRefused([Issue("error", "not-supported", f"{name} takes {', '.join(allowed)} here", name)])
    return value


def _count(text: str | None, default: int, *, limit: bool = True) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise QueryRefused([invalid("_count", "is no whole number")])
    return min(int(text), MAX_PAGE) if limit else int(text)


def _bound(controls: dict[str, str], name: str) -> tuple[int, int]:
    if name not in controls:
        return ALWAYS
    bounds = interval(controls[name].replace(" ", "+"))
    if bounds is None:
        raise QueryRefused([invalid(name, "is no date")])
    return bounds
