"""Put rows in order, so that pages join up without gaps whatever was hidden in between.

For searching and for cursors. Without ``_sort`` the order is that of the
timeline: by start of the dating element, oldest first, undated records last
(docs/search.md). Ids break every tie, so an order is total.

Invariants:
    * a key holds integers and strings only, and travels in a cursor;
    * a row without the value sorted by comes last, ascending or descending.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.search import fold
from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.query.criteria import BUILT_IN, kind_of, values_of
from fhir_bridge.query.refusals import QueryRefused, invalid, unsupported

Key = tuple[int | str, ...]
"""One ``(is missing, value)`` pair of elements for each sort rule, flat."""

_SORTABLE = frozenset({"token", "date", "string", "reference", "uri", "quantity", "number"})
_NUMERIC = frozenset({"quantity", "number"})


@dataclass(frozen=True, slots=True)
class Rule:
    """Sort by one parameter; ``kind`` says how its values compare."""

    name: str
    kind: str
    is_descending: bool = False


TIMELINE = (Rule("", "timeline"), Rule("_id", "id"))


class _Down:
    """A string that sorts backwards."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __lt__(self, other: _Down) -> bool:
        return other.text < self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Down) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


def read_sort(type_name: str, text: str | None) -> tuple[Rule, ...]:
    """Read ``_sort``: parameter names, ``-`` in front for descending.

    Raises:
        QueryRefused: A name is no parameter that can be sorted by.
    """
    if text is None:
        return TIMELINE
    rules: list[Rule] = []
    issues: list[Issue] = []
    for item in text.split(","):
        name = item.removeprefix("-")
        kind = kind_of(type_name, name)
        if not name:
            issues.append(invalid("_sort", "has an empty name"))
        elif kind not in _SORTABLE:
            issues.append(unsupported("_sort", "names a parameter that cannot be sorted by"))
        else:
            rules.append(Rule(name, kind, item.startswith("-")))
    if issues:
        raise QueryRefused(issues)
    return (*rules, *TIMELINE)


def key_of(row: IndexRow, rules: Sequence[Rule]) -> Key:
    """Return a row's key, as it travels in a cursor."""
    key: list[int | str] = []
    for rule in rules:
        value = _value(row, rule)
        key += (1, "") if value is None else (0, value)
    return tuple(key)


def comparable(key: Key, rules: Sequence[Rule]) -> tuple[Any, ...]:
    """Return a key in the form in which Python's order is the rules' order."""
    out: list[Any] = []
    for rule, is_missing, value in zip(rules, key[::2], key[1::2], strict=True):
        if is_missing:
            out += (1, 0)
        elif rule.kind in _NUMERIC:
            # A key travels as text, and numbers keep theirs; an order goes by the number, whatever its unit.
            number = Decimal(value)
            out += (0, -number if rule.is_descending else number)
        elif not rule.is_descending:
            out += (0, value)
        else:
            out += (0, -value if isinstance(value, int) else _Down(value))
    return tuple(out)


def sort_key(rules: Sequence[Rule]) -> Callable[[IndexRow], tuple[Any, ...]]:
    """Return what gives ``comparable(key_of(row, rules), rules)``; faster for the timeline and dates."""
    if rules == TIMELINE:
        return _in_timeline
    if len(rules) == 3 and rules[0].kind == "date" and rules[0].name not in BUILT_IN:
        return partial(_by_date, rules[0].name, rules[0].is_descending)
    return lambda row: comparable(key_of(row, rules), rules)


def _in_timeline(row: IndexRow) -> tuple[Any, ...]:
    dated = row.dated_us
    return (0, dated, 0, f"{row.id}/{row.type}") if dated is not None else (1, 0, 0, f"{row.id}/{row.type}")


def _by_date(name: str, is_descending: bool, row: IndexRow) -> tuple[Any, ...]:
    values = row.values_of(name)
    if not values:
        return (1, 0, *_in_timeline(row))
    if is_descending:
        return (0, -int(max(high for _, high in values)), *_in_timeline(row))
    return (0, int(min(low for low, _ in values)), *_in_timeline(row))


def _value(row: IndexRow, rule: Rule) -> int | str | None:
    if rule.kind == "timeline":
        return row.dated_us
    if rule.kind == "id":
        return f"{row.id}/{row.type}"
    found = values_of(row, rule.name)
    if not found:
        return None
    pick = max if rule.is_descending else min
    if rule.kind in _NUMERIC:
        return str(pick(Decimal(_plain(value, rule)) for value in found))
    return pick(_plain(value, rule) for value in found)


def _plain(value: Any, rule: Rule) -> int | str:
    if rule.kind == "date":
        return int(value[1] if rule.is_descending else value[0])
    if rule.kind == "quantity":
        return str(value[0])
    if rule.kind == "token":
        return f"{value[1]}|{value[0]}"
    return fold(value) if rule.kind == "string" else str(value)
