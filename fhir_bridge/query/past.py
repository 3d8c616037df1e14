"""The versions of a permitted view: of a record, a type or all, newest first, page by page (R4 http.html#history).

For the answer line. Those of a record are in the record's own order. Else order is by ``meta.lastUpdated``, then by
type, id and version, none of which tells how many versions there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fhir_bridge.fhir.dates import ALWAYS, interval
from fhir_bridge.model.access import Found, PermittedView
from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.query.ordering import Key
from fhir_bridge.query.refusals import QueryRefused, invalid, unsupported
from fhir_bridge.query.search import DEFAULT_PAGE, MAX_PAGE, SearchResult
from fhir_bridge.query.shaping import WHOLE, Shape, read_shape

_CONTROLS = frozenset({"_cursor", "_format", "_pretty", "_summary", "_elements"})


@dataclass(frozen=True, slots=True)
class HistoryAsked:
    """Parameters of a history; ``since_us`` is far in the past without ``_since``."""

    since_us: int = ALWAYS[0]
    page_size: int = DEFAULT_PAGE
    shape: Shape = WHOLE


def read_history(params: Sequence[tuple[str, str]], type_name: str | None) -> HistoryAsked:
    """Read ``_since``, ``_count``, ``_summary`` and ``_elements``.

    Raises:
        QueryRefused: A parameter is unknown, is given twice or has a bad value.
    """
    given: dict[str, str] = {}
    for name, text in params:
        if name in ("_since", "_count"):
            if name in given:
                raise QueryRefused([invalid(name, "is given twice")])
            given[name] = text
        elif name not in _CONTROLS:
            raise QueryRefused([unsupported(name)])
    return HistoryAsked(_since(given.get("_since")), _count(given.get("_count")), read_shape(params, type_name))


def history_of_record(versions: Sequence[Found], asked: HistoryAsked, *, after: Key | None = None) -> SearchResult:
    """Return one page of the versions of a record.

    Their order is the record's own and no order of keys, so a page ends with a version and how many were left then;
    the number counts if that version may not be seen any more.

    Args:
        versions: All that may be seen, newest first.
        after: From an opened cursor; versions up to and including it are left out.
    """
    found = [each for each in versions if each.row.last_updated_us >= asked.since_us]
    start = 0
    if after is not None:
        version, left = str(after[0]), int(after[1])
        ends = (number for number, each in enumerate(found, 1) if each.row.version == version)
        start = next(ends, max(len(found) - left, 0))
    page = found[start : start + asked.page_size]
    left = len(found) - start - len(page)
    last = (page[-1].row.version, left) if page and left else None
    return SearchResult(tuple(page), len(found), last, shape=asked.shape)


def history_of_view(
    view: PermittedView,
    type_name: str | None,
    asked: HistoryAsked,
    *,
    may_read: Callable[[str], bool],
    after: Key | None = None,
) -> SearchResult:
    """Return one page of the versions of a view.

    Args:
        type_name: None for every type.
        may_read: Types that the requester's token covers.
        after: From an opened cursor; versions up to and including it are left out.
    """
    found = [
        Found(chart.chart, row)
        for chart in view.charts
        for row in chart.rows
        if (row.type == type_name if type_name else may_read(row.type)) and row.last_updated_us >= asked.since_us
    ]
    keyed = sorted(((_key(each.row), each) for each in found), key=lambda pair: pair[0])
    if after is not None:
        keyed = [pair for pair in keyed if pair[0] > after]
    page = keyed[: asked.page_size]
    last = page[-1][0] if page and len(keyed) > len(page) else None
    return SearchResult(tuple(each for _, each in page), len(found), last, shape=asked.shape)


def _key(row: IndexRow) -> tuple[int, str, str]:
    return -row.last_updated_us, f"{row.type}/{row.id}", row.version


def _since(text: str | None) -> int:
    bounds = ALWAYS if text is None else interval(text.replace(" ", "+"))
    if bounds is None:
        raise QueryRefused([invalid("_since", "is no instant")])
    return bounds[0]


def _count(text: str | None) -> int:
    if text is None:
        return DEFAULT_PAGE
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text)):
        raise QueryRefused([invalid("_count", "is no whole number above zero")])
    return min(int(text), MAX_PAGE)
