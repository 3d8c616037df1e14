"""A question on its way through: AccessRequest → Decision → Answer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import merge
from typing import Any, Protocol

from fhir_bridge.model.index import Place, Records, SortKey
from fhir_bridge.model.ingest import IndexRow

__all__ = [
    "ChartView",
    "Current",
    "Decision",
    "Found",
    "Page",
    "Part",
    "PermittedView",
    "Place",
    "PlainPart",
    "Predicate",
    "Question",
    "Requester",
    "Rows",
]


@dataclass(frozen=True, slots=True)
class Question:
    """One request as it came: the id that its answer carries, and the exact bytes of method, target and body.

    Attributes:
        id: 32 hex digits, random; names the decision of which a receipt can be had.
        request: ``GET /fhir/Observation?patient=x``; for a search by POST a newline and the form follow.
    """

    id: str
    request: bytes


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks, as established from a verified token and nothing else.

    Exactly one of ``institution`` (a clinician or system of it) and
    ``patient`` (person acting through the own agent) is set.

    Attributes:
        institution: Name of the institution.
        institution_id: Its public id, as consents name it (``Organization/<id>``).
        practitioner: ``Practitioner`` id as the token states, if any.
        roles: Role codes ``system|code`` that the token states.
        purpose: Purpose of use, code of http://terminology.hl7.org/CodeSystem/v3-ActReason.
        patient: Canonical Patient id whose agent asks.
        delegate: Who acts for the patient in an own name; None for the patient's own agent.
        attested_by: Institution on whose word ``delegate`` is the patient's guardian; None for any other.
        scopes: Granted SMART scopes.
        client_id: Who authenticated.
        groups: ``Group/…``, ``CareTeam/…`` and the like that the token states membership of;
            None if it states nothing about membership.
        subject: Who signed in at an issuer that is not ours, as it names them; no part of what decisions look at.
        question: The request that is being answered; no part of who asks.
    """

    client_id: str
    institution: str | None = None
    institution_id: str | None = None
    practitioner: str | None = None
    roles: tuple[str, ...] = ()
    purpose: str = "TREAT"
    patient: str | None = None
    scopes: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None
    delegate: str | None = None
    attested_by: str | None = None
    subject: str | None = None
    question: Question | None = field(default=None, compare=False)


Predicate = Callable[[IndexRow], bool]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a requester may see of one chart, and why.

    Attributes:
        permits: Tells for an index row whether it is in the permitted view.
        height: Ledger height whose state was used.
        evaluator: Version of the evaluator.
        policies: ``(consent id, version)`` that had a say; never shown to the requester.
        basis: ``own``, ``consent``, ``patient``, ``guardian``, ``directory``, ``law``, ``emergency``,
            ``fail-closed`` or ``default-deny``.
        network_policy: Version of the policies beside consents, the hex digest that the ledger names.
        attested: ``(consent id, institution)`` of those among ``policies`` that rest on an institution's word.
    """

    chart: str
    permits: Predicate
    height: int
    evaluator: str
    instant: datetime
    policies: tuple[tuple[str, str], ...] = ()
    basis: str = "default-deny"
    network_policy: str = ""
    attested: tuple[tuple[str, str], ...] = ()


class Part(Protocol):
    """Current records of one chart that may be seen."""

    @property
    def chart(self) -> str: ...

    def find(self, name: str) -> Place | None: ...

    def by_type(self) -> Iterable[tuple[str, Mapping[str, Place]]]: ...


class Current(Mapping[str, Place]):
    """``Type/id`` → the newest version of a record that is not deleted, of several charts.

    Args:
        is_wanted: Leaves out the types for which it is False.
    """

    def __init__(self, parts: Sequence[Part], is_wanted: Callable[[str], bool] | None = None) -> None:
        self._parts = tuple(parts)
        self._is_wanted = is_wanted

    def by_type(self) -> Iterator[tuple[str, Mapping[str, Place]]]:
        """Yield the records in parts of one type each."""
        for part in self._parts:
            for type_name, places in part.by_type():
                if self._is_wanted is None or self._is_wanted(type_name):
                    yield type_name, places

    def only(self, is_wanted: Callable[[str], bool]) -> Current:
        """Return these records without the types for which ``is_wanted`` is False."""
        return Current(self._parts, is_wanted)

    def beside(self, other: Current) -> Current:
        """Return these records and those of charts that only ``other`` has."""
        known = {part.chart for part in self._parts}
        return Current((*self._parts, *(part for part in other._parts if part.chart not in known)))

    def __getitem__(self, name: str) -> Place:
        if self._is_wanted is None or self._is_wanted(name.partition("/")[0]):
            for part in self._parts:
                found = part.find(name)
                if found is not None:
                    return found
        raise KeyError(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As of any mapping, without the cost of an exception for what is not there."""
        for part in self._parts:
            found = part.find(name)
            if found is not None:
                return found if self._is_wanted is None or self._is_wanted(found[1].type) else default
        return default

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        for _, places in self.by_type():
            yield from places

    def __len__(self) -> int:
        return sum(len(places) for _, places in self.by_type())


class PlainPart:
    """Current records as they are given, as a part."""

    def __init__(self, places: Mapping[str, Place], chart: str = "") -> None:
        self.chart = chart
        self._places = places

    def find(self, name: str) -> Place | None:
        """Return a record."""
        return self._places.get(name)

    def by_type(self) -> Iterator[tuple[str, Mapping[str, Place]]]:
        """Yield the records in parts of one type each."""
        for type_name in dict.fromkeys(row.type for _, row in self._places.values()):
            yield type_name, {name: place for name, place in self._places.items() if place[1].type == type_name}


class Rows(Protocol):
    """Rows of one chart that may be seen."""

    def __iter__(self) -> Iterator[IndexRow]: ...

    def versions(self, name: str) -> Sequence[IndexRow]: ...


@dataclass(frozen=True, slots=True)
class ChartView:
    """The permitted rows of one chart: all versions that the requester may see, each record's oldest first.

    Attributes:
        records: What the rows are taken from, hidden ones included; for the order in which they stand there, and for
            :meth:`PermittedView.in_order` alone. None where nothing is sorted.
    """

    chart: str
    institution: str
    rows: Rows
    records: Records | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class PermittedView:
    """The records of a person that a requester may see now; the only door to records.

    ``current`` maps ``Type/id`` to the newest permitted row that is not deleted. ``loose`` names those of them that
    stand there in an earlier version than the newest, as a page pinned to an earlier state shows them.
    """

    charts: tuple[ChartView, ...]
    current: Current = field(default_factory=lambda: Current(()))
    loose: frozenset[str] = frozenset()

    def of_type(self, type_name: str) -> list[Mapping[str, Place]]:
        """Return the current records of a type, in parts."""
        return [places for name, places in self.current.by_type() if name == type_name]

    def in_order(self, type_name: str | None, rules: Hashable, key: SortKey, *, after: Any = None) -> Iterator[Place]:
        """Yield the current records of a type (None: of all), sorted by ``key``.

        Where the charts keep their rows in this order, nothing is sorted and nothing is walked but what is taken.
        Take all that is needed before anything is waited for.

        Args:
            rules: Names the order; the same rules must always come with the same key.
            after: Leave out what does not come after this key.
        """
        kept = [chart.records for chart in self.charts if chart.records is not None]
        if len(kept) < len(self.charts):
            return self._sorted(self.current.values(), type_name, key, after)
        streams = [self._permitted(records.in_order(type_name, rules, key), key, after) for records in kept]
        loose = [self.current[name] for name in self.loose if name in self.current]
        streams += [self._sorted(loose, type_name, key, after)] if loose else []
        return streams[0] if len(streams) == 1 else merge(*streams, key=lambda place: key(place[1]))

    def _permitted(self, order: Sequence[IndexRow], key: SortKey, after: Any) -> Iterator[Place]:
        for at in range(0 if after is None else bisect_right(order, after, key=key), len(order)):
            row = order[at]
            place = self.current.get(f"{row.type}/{row.id}")
            if place is not None and place[1] is row:
                yield place

    @staticmethod
    def _sorted(places: Iterable[Place], type_name: str | None, key: SortKey, after: Any) -> Iterator[Place]:
        keyed = ((key(row), (chart, row)) for chart, row in places if type_name in (None, row.type))
        later = [each for each in keyed if after is None or after < each[0]]
        later.sort(key=lambda each: each[0])
        return (place for _, place in later)


@dataclass(frozen=True, slots=True)
class Found:
    """One row of an answer, with the chart that holds its ciphertext."""

    chart: str
    row: IndexRow
    mode: str = "match"


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a searchset, in order; ``next_cursor`` is None on the last page."""

    found: tuple[Found, ...]
    total: int | None
    next_cursor: str | None = None
