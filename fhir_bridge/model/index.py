"""The rows of one chart, kept so that a question walks kinds of records and not records.

For the chart book, which holds one for each opened chart, and for the permitted
view, which is made from it. Nothing here depends on who asks: what a requester
may see is decided afresh for every question, once a kind where that is enough.

Invariants:
    * every record is in exactly one group, with all its versions, oldest first;
    * records of a group agree, version by version, in everything that a :class:`Kind` holds;
    * an order that is kept holds the newest version of every living record of its type, and no other.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from fhir_bridge.model.ingest import ChartRef, IndexRow, unpack_values

MAX_ORDERS = 6
"""Orders kept for one chart; each costs 8 bytes a record."""

_MANY_CHANGES = 256
"""More changes than this at once are cheaper sorted anew than put in one by one."""

SortKey: TypeAlias = Callable[[IndexRow], Any]
Place: TypeAlias = tuple[ChartRef, IndexRow]


@dataclass(frozen=True, slots=True)
class Kind:
    """What rows of one kind have in common: all that a rule can look at but for dates, ids, references and authors.

    A predicate that gets a kind where it expects a row either answers for every row of it, or asks for what a kind
    does not have and fails with AttributeError; then it must be asked row by row.
    """

    type: str
    labels: tuple[str, ...]
    codes: tuple[str, ...]
    origin: str
    author: str
    deleted: bool = False


Kinds: TypeAlias = tuple[Kind, ...]
"""The kinds of a record's versions, oldest first."""


class Places(dict[str, Place]):
    """Newest versions by name, which remember what all of them have alike: one look then stands for all of them.

    A part of them that a requester may see is a mapping of its own: what is alike would tell of the rest.
    """

    __slots__ = ("_alike", "_changes")

    def __init__(self) -> None:
        super().__init__()
        self._alike: dict[str, bytes | None] = {}
        self._changes = 0

    def alike(self, name: str) -> Sequence[object] | None:
        """Return the values of a search parameter that all records have; None if they differ or there is no record.

        Each row is looked at once, for the first question about a parameter; none is unpacked.
        """
        if name not in self._alike:
            before = self._changes
            # Copied first, in one step: another thread may be putting rows in.
            held = (row.packed_values_of(name) for _, row in list(self.values()))
            first = next(held, None)
            self._alike[name] = first if first is not None and all(each == first for each in held) else None
            # Looked at after it is kept: what comes in later finds it there and corrects it.
            if self._changes != before:
                self._alike.pop(name, None)
                return None
        found = self._alike.get(name)
        return None if found is None else unpack_values(found)

    def add(self, name: str, place: Place) -> None:
        """Add or replace a record."""
        self._changes += 1
        self[name] = place
        for parameter, packed in list(self._alike.items()):
            if packed is not None and place[1].packed_values_of(parameter) != packed:
                self._alike[parameter] = None
            elif len(self) == 1:
                del self._alike[parameter]

    def drop(self, name: str) -> None:
        """Take a record out, if it is there; what those that are left have alike they had before."""
        self._changes += 1
        self.pop(name, None)


class Group:
    """Records whose versions are of the same kinds, by name (``Type/id``)."""

    __slots__ = ("_rows", "histories", "kinds", "newest")

    def __init__(self, kinds: Kinds) -> None:
        self.kinds = kinds
        self.histories: dict[str, tuple[IndexRow, ...]] = {}
        self.newest = Places()
        """The newest version of each record with its chart; empty if that is a tombstone."""
        self._rows: list[IndexRow] | None = None

    @property
    def rows(self) -> Sequence[IndexRow]:
        """All versions of all records, those of one record together."""
        if self._rows is None:
            # Copied first, in one step: another thread may be putting rows in.
            self._rows = [row for history in list(self.histories.values()) for row in history]
        return self._rows

    def put(self, name: str, chart: ChartRef, history: tuple[IndexRow, ...]) -> None:
        """Add or replace a record."""
        self.histories[name] = history
        if not history[-1].deleted:
            self.newest.add(name, (chart, history[-1]))
        self._rows = None

    def drop(self, name: str) -> None:
        """Take a record out."""
        del self.histories[name]
        self.newest.drop(name)
        self._rows = None


class Records(Sequence[IndexRow]):
    """All visible rows of a chart, each record's versions oldest first; grows with :meth:`put`."""

    def __init__(self, chart: ChartRef) -> None:
        self.chart = chart
        self.groups: dict[Kinds, Group] = {}
        self._group_of: dict[str, Group] = {}
        self._kinds: dict[Kind, Kind] = {}
        self._orders: OrderedDict[tuple[str | None, Hashable], tuple[SortKey, list[IndexRow]]] = OrderedDict()
        self._count = 0

    @classmethod
    def of(cls, chart: ChartRef, rows: Iterable[IndexRow]) -> Records:
        """Return rows as records; each record's versions must come oldest first."""
        histories: dict[str, list[IndexRow]] = {}
        for row in rows:
            histories.setdefault(f"{row.type}/{row.id}", []).append(row)
        made = cls(chart)
        made.put(histories)
        return made

    def put(self, histories: Mapping[str, Sequence[IndexRow]]) -> None:
        """Add records, or replace them with all their versions, by name."""
        if len(histories) > _MANY_CHANGES:
            self._orders.clear()
        for name, versions in histories.items():
            history = tuple(versions)
            kinds = tuple(map(self._kind, history))
            before = self._group_of.get(name)
            if before is not None:
                self._retire(name, before)
            group = self.groups.get(kinds)
            if group is None:
                group = self.groups[kinds] = Group(kinds)
            group.put(name, self.chart, history)
            self._group_of[name] = group
            self._count += len(history)
            if not history[-1].deleted:
                for (type_name, _), (key, order) in self._orders.items():
                    if type_name in (None, history[-1].type):
                        insort(order, history[-1], key=key)

    def versions(self, name: str) -> Sequence[IndexRow]:
        """Return the versions of a record, oldest first; empty if there is none of that name."""
        group = self._group_of.get(name)
        return () if group is None else group.histories[name]

    def group_of(self, name: str) -> Group | None:
        """Return the group that a record is in, or None if there is no such record."""
        return self._group_of.get(name)

    def in_order(self, type_name: str | None, rules: Hashable, key: SortKey) -> Sequence[IndexRow]:
        """Return the newest versions of a type's living records (None: of all), sorted by ``key``.

        The order is kept for the next question and follows what is put in.

        Args:
            rules: Names the order; the same rules must always come with the same key.
        """
        kept = self._orders.get((type_name, rules))
        if kept is not None:
            self._orders.move_to_end((type_name, rules))
            return kept[1]
        rows = (row for group in self.groups.values() for _, row in group.newest.values())
        order = sorted((row for row in rows if type_name in (None, row.type)), key=key)
        self._orders[type_name, rules] = (key, order)
        if len(self._orders) > MAX_ORDERS:
            self._orders.popitem(last=False)
        return order

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[IndexRow]:
        for group in list(self.groups.values()):
            yield from group.rows

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]

    def _retire(self, name: str, group: Group) -> None:
        history = group.histories[name]
        group.drop(name)
        if not group.histories:
            del self.groups[group.kinds]
        self._count -= len(history)
        newest = history[-1]
        if newest.deleted:
            return
        for (type_name, _), (key, order) in self._orders.items():
            if type_name in (None, newest.type):
                at = bisect_left(order, key(newest), key=key)
                del order[at]

    def _kind(self, row: IndexRow) -> Kind:
        made = Kind(row.type, row.labels, row.codes, row.origin, row.author, row.deleted)
        return self._kinds.setdefault(made, made)


class EveryRow(Sequence[IndexRow]):
    """The rows of several charts one after the other, walked only when somebody asks."""

    def __init__(self, charts: Sequence[Sequence[IndexRow]]) -> None:
        self._charts = charts

    def __len__(self) -> int:
        return sum(map(len, self._charts))

    def __iter__(self) -> Iterator[IndexRow]:
        for rows in self._charts:
            yield from rows

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]
