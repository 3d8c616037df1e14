"""Say of every value that a hospital sent what became of it.

From the account of changes and the result alone, so that what a rule does without putting it on record shows as
``lost`` instead of passing for mapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fhir_bridge.fhir.tables import Definitions, r4
from fhir_bridge.mapping_tools.walking import Leaf, leaves
from fhir_bridge.model.ingest import Body, Change

CARRIED, CONSUMED, EXTENSION, DROPPED, LOST = "carried", "consumed", "extension", "dropped", "lost"
FATES = {
    CARRIED: "stands unchanged in the result",
    CONSUMED: "a rule changed, moved or translated it",
    EXTENSION: "has no home in R4 and stands in an extension",
    DROPPED: "a rule removed it; the lineage says which and why",
    LOST: "is gone without a word: please report",
}


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one value; ``rule`` is empty for what no rule touched."""

    leaf: Leaf
    fate: str
    rule: str = ""


def fates(sent: Body, made: Body, changes: Sequence[Change], definitions: Definitions) -> Iterator[Fate]:
    """Yield the fate of every value of ``sent``.

    Args:
        definitions: Of the sender's release.
    """
    result = {leaf.place: leaf.value for leaf in leaves(made, r4())}
    touched: dict[str, int] = {}
    for index, change in enumerate(changes):
        if change.before is not None:
            touched.setdefault(change.element, index)
    kept = _Kept(changes)
    for leaf in leaves(sent, definitions):
        # A type may change its name (ProcedureRequest to ServiceRequest); places start with it.
        place = f"{made['resourceType']}.{leaf.place.partition('.')[2]}"
        touch = _first_touch(leaf.place, touched)
        if place != leaf.place:
            touch = min((t for t in (touch, _first_touch(place, touched)) if t is not None), default=None)
        if touch is None:
            yield Fate(leaf, CARRIED if _same(result.get(place), leaf.value) else LOST)
        else:
            change = changes[touch]
            yield Fate(leaf, _after(leaf.value, change, kept), change.rule)


def _first_touch(place: str, touched: Mapping[str, int]) -> int | None:
    """The first change of the value itself or of what holds it."""
    if not touched:
        return None
    found = [touched[place]] if place in touched else []
    for at, char in enumerate(place):
        if char in ".[" and place[:at] in touched:
            found.append(touched[place[:at]])
    return min(found, default=None)


def _after(value: Any, change: Change, kept: _Kept) -> str:
    if change.after is not None:
        return CONSUMED
    return kept.of_rule(change.rule).get(_key(value), DROPPED)


class _Kept:
    """What each rule put somewhere, read once for a rule: a record can have thousands of changes."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._changes = changes
        self._by_rule: dict[str, dict[_Key, str]] = {}

    def of_rule(self, rule: str) -> dict[_Key, str]:
        """Value → ``CONSUMED`` where it stands in an element, ``EXTENSION`` where in extensions alone."""
        found = self._by_rule.get(rule)
        if found is None:
            found = self._by_rule[rule] = {}
            for change in self._changes:
                if change.rule == rule:
                    _note(change.after, "extension" in change.element, found)
        return found


def _note(after: Any, inside: bool, found: dict[_Key, str]) -> None:
    if type(after) is dict:
        for key, each in after.items():
            _note(each, inside or key == "extension", found)
    elif type(after) is list:
        for each in after:
            _note(each, inside, found)
    elif not inside:
        found[_key(after)] = CONSUMED
    else:
        found.setdefault(_key(after), EXTENSION)


_Key = tuple[type, str]


def _key(value: Any) -> _Key:
    return type(value), str(value)


def _same(one: Any, other: Any) -> bool:
    return one is not None and _key(one) == _key(other)
