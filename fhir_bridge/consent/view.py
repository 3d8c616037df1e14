"""Turn decisions and chart indexes into the permitted view, the only door to records.

For the answer line. A record is judged by its current version first: if that
one may not be seen, nothing of the record is shown, older versions included,
because a store that never held what is hidden could not show a past that ends
nowhere. Of a record that is shown, each older version is judged on its own.

A decision is asked once for all records of a kind (:mod:`fhir_bridge.model.index`) where it looks at nothing
but what makes the kind, and else row by row: so a large chart costs about as much as it has kinds of records.

Invariants:
    * a row is in the view only if its own decision permits it;
    * what was decided is kept no longer than the view: every question is decided afresh;
    * a tombstone is shown exactly if the version it buries is;
    * making a view of a view's rows with everything permitted gives the same view.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from fhir_bridge.model.access import ChartView, Current, Decision, PermittedView, Place, Predicate
from fhir_bridge.model.index import Group, Records
from fhir_bridge.model.ingest import ChartRef, IndexRow

ChartRows = tuple[Decision, ChartRef, Sequence[IndexRow]]
"""A chart's decision and all its visible rows, each record's versions oldest first."""


def permitted_view(chart_rows: Iterable[ChartRows]) -> PermittedView:
    """Return the view over several charts; nothing is judged before it is asked for."""
    charts: list[ChartView] = []
    current: list[JudgedChart] = []
    for decision, chart, rows in chart_rows:
        if decision.chart != chart.chart:
            raise ValueError("a decision holds for its own chart only")
        judged = JudgedChart(rows if isinstance(rows, Records) else Records.of(chart, rows), decision.permits)
        charts.append(ChartView(chart.chart, chart.institution, judged, judged.records))
        current.append(judged)
    return PermittedView(tuple(charts), Current(current))


def as_of(present: PermittedView, past: PermittedView, changed: Collection[str]) -> PermittedView:
    """Return an earlier state, as far as it may be seen now.

    Args:
        past: The view of the records that have changed since, in the versions they had then; of the same charts.
        changed: Names of those records. One that may not be seen as it is now is not seen in an older version either.
    """
    if not changed:
        return present
    names = frozenset(changed)
    parts = [
        _EarlierChart(now.chart, cast(JudgedChart, now.rows), cast(JudgedChart, then.rows), names)
        for now, then in zip(present.charts, past.charts, strict=True)
    ]
    charts = (replace(chart, rows=part) for chart, part in zip(present.charts, parts, strict=True))
    return PermittedView(tuple(charts), Current(parts), names)


class JudgedChart(Sequence[IndexRow]):
    """The rows of one chart under one decision: a sequence of those that may be seen, and a part of a view's current.

    About 1 µs for each kind of records, and for each record that must be judged by itself.
    """

    def __init__(self, records: Records, permits: Predicate) -> None:
        self.records = records
        self._permits = permits
        self._of_group: dict[Group, tuple[int, ...] | None] = {}
        self._seen: dict[Group, Mapping[str, Place]] = {}

    @property
    def chart(self) -> str:
        """Pseudonym of the chart."""
        return self.records.chart.chart

    def find(self, name: str) -> Place | None:
        """Return the newest version of a record, if it is not deleted and may be seen."""
        group = self.records.group_of(name)
        if group is None:
            return None
        wanted = self._wanted(group)
        if wanted is None and group not in self._seen:
            place = group.newest.get(name)
            return place if place is not None and _shown(group.histories[name], self._permits) else None
        return self._places(group).get(name)

    def by_type(self) -> Iterator[tuple[str, Mapping[str, Place]]]:
        """Yield the newest versions that may be seen, in parts of one type each."""
        for group in self.records.groups.values():
            yield group.kinds[-1].type, self._places(group)

    def versions(self, name: str) -> Sequence[IndexRow]:
        """Return the versions of one record that may be seen, oldest first."""
        history = self.records.versions(name)
        return [history[at] for at in _shown(history, self._permits)]

    def __iter__(self) -> Iterator[IndexRow]:
        for group in self.records.groups.values():
            wanted = self._wanted(group)
            if wanted is not None and len(wanted) == len(group.kinds):
                yield from group.rows
                continue
            for history in group.histories.values():
                for at in _shown(history, self._permits) if wanted is None else wanted:
                    yield history[at]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]

    def _wanted(self, group: Group) -> tuple[int, ...] | None:
        """Return which versions of each record of a group may be seen; None if that differs from record to record."""
        if group not in self._of_group:
            try:
                # A kind has no attribute but those that all its rows share: an answer about it is one about them.
                found = tuple(_shown(cast(Sequence[IndexRow], group.kinds), self._permits))
            except AttributeError:
                self._of_group[group] = None
            else:
                self._of_group[group] = found
        return self._of_group[group]

    def _places(self, group: Group) -> Mapping[str, Place]:
        wanted = self._wanted(group)
        if wanted is not None:
            return group.newest if wanted else _NONE
        if group not in self._seen:
            permits, histories, newest = self._permits, group.histories, group.newest
            if len(group.kinds) == 1:
                self._seen[group] = {name: place for name, place in newest.items() if permits(place[1])}
            else:
                self._seen[group] = {n: place for n, place in newest.items() if _shown(histories[n], permits)}
        return self._seen[group]


class _EarlierChart:
    """A chart with some records as they were before."""

    def __init__(self, chart: str, now: JudgedChart, then: JudgedChart, changed: frozenset[str]) -> None:
        self.chart = chart
        self._now = now
        self._then = then
        self._changed = changed

    def find(self, name: str) -> Place | None:
        if name not in self._changed:
            return self._now.find(name)
        return self._then.find(name) if self._now.versions(name) else None

    def by_type(self) -> Iterator[tuple[str, Mapping[str, Place]]]:
        for type_name, places in self._now.by_type():
            if places.keys().isdisjoint(self._changed):
                yield type_name, places
            else:
                yield type_name, {name: each for name, each in places.items() if name not in self._changed}
        for type_name, places in self._then.by_type():
            yield type_name, {name: each for name, each in places.items() if self._now.versions(name)}

    def versions(self, name: str) -> Sequence[IndexRow]:
        if name not in self._changed:
            return self._now.versions(name)
        return self._then.versions(name) if self._now.versions(name) else ()

    def __iter__(self) -> Iterator[IndexRow]:
        yield from (row for row in self._now if f"{row.type}/{row.id}" not in self._changed)
        yield from (row for row in self._then if self._now.versions(f"{row.type}/{row.id}"))


_NONE: Mapping[str, Place] = {}


def _shown(versions: Sequence[IndexRow], permits: Predicate) -> list[int]:
    """Return which versions of one record may be seen; none if the last living one may not."""
    shown: list[int] = []
    is_seen = False
    for at, row in enumerate(versions):
        if not row.deleted:
            is_seen = permits(row)
        if is_seen:
            shown.append(at)
    return shown if is_seen else []
