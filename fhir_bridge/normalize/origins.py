"""Follow every value of a record back to the element it was sent in, by doing again what its lineage says.

For explaining and for checking: nothing here knows a rule. It takes the resource as it was sent, applies the changes
in order, and keeps for each value where it comes from and which changes it went through.

Invariants:
    * applying the lineage of a record to what was sent gives the record, but for version and time;
    * a value is called exact only if it has the very text of the element that it is traced to;
    * lineage that names no sources (:class:`~fhir_bridge.model.ingest.Change`) is followed by equality alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from fhir_bridge.fhir.json import render
from fhir_bridge.fhir.spans import Step, steps_of
from fhir_bridge.model.ingest import Body, Change


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from.

    Attributes:
        source: Its place in the resource that was sent; None for what no element of it gave.
        is_exact: It has the very text that was sent.
        changes: Numbers of the changes that it went through, in order.
    """

    source: str | None
    is_exact: bool
    changes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value without parts."""

    value: Any
    origin: Origin


Tree = dict[str, Any] | list[Any] | Leaf
"""A document whose values without parts are :class:`Leaf`."""


@dataclass(frozen=True, slots=True)
class Traced:
    """What became of a resource: the record, and what was taken out on the way with the number of the change."""

    tree: Tree
    removed: tuple[tuple[int, Tree], ...]


def trace(sent: Body, changes: Sequence[Change]) -> Traced:
    """Return what the changes make of a resource, each value with its origin.

    A change of no element (``element`` is empty) is about the whole message and changes nothing.

    Raises:
        ValueError: The changes do not fit the resource.
    """
    tree = planted(sent)
    removed: list[tuple[int, Tree]] = []
    for number, change in enumerate(changes):
        if not change.element:
            continue
        steps = steps_of(change.element)
        old = find(tree, steps)
        if old is not None:
            removed.append((number, old))
        if change.after is None:
            _remove(tree, steps)
            continue
        gone = None
        if old is None and removed and removed[-1][0] == number - 1 and changes[number - 1].rule == change.rule:
            gone = removed[-1][1]
        _put(tree, steps, _Graft(tree, change, number, old, gone).grown())
    return Traced(tree, tuple(removed))


def planted(resource: Body) -> Tree:
    """Return a resource with every value untouched."""
    return _planted(resource, str(resource.get("resourceType", "")))


def _planted(value: Any, place: str) -> Tree:
    if type(value) is dict:
        return {key: _planted(item, joined(place, key)) for key, item in value.items()}
    if type(value) is list:
        return [_planted(item, joined(place, index)) for index, item in enumerate(value)]
    return Leaf(value, Origin(place, True, ()))


def plain(tree: Tree) -> Any:
    """Return a document without its origins."""
    if isinstance(tree, dict):
        return {key: plain(item) for key, item in tree.items()}
    if isinstance(tree, list):
        return [plain(item) for item in tree]
    return tree.value


def find(tree: Tree, steps: Sequence[Step]) -> Tree | None:
    """Return what stands at a place, or None."""
    found: Tree | None = tree
    for step in steps:
        if isinstance(found, dict) and isinstance(step, str):
            found = found.get(step)
        elif isinstance(found, list) and isinstance(step, int) and step < len(found):
            found = found[step]
        else:
            return None
    return found


def leaves(tree: Tree, place: str) -> Iterator[tuple[str, Leaf]]:
    """Return every value below ``place`` with its own place, in document order."""
    if isinstance(tree, Leaf):
        yield place, tree
    else:
        for name, item in _parts(tree):
            yield from leaves(item, joined(place, name))


def joined(place: str, name: Step) -> str:
    """Return the place of a part."""
    if isinstance(name, int):
        return f"{place}[{name}]"
    return f"{place}.{name}" if place else name


class _Graft:
    """What one change puts in, grown out of what stood there before it."""

    def __init__(self, tree: Tree, change: Change, number: int, old: Tree | None, gone: Tree | None) -> None:
        self._tree = tree
        self._change = change
        self._number = number
        self._old = old
        self._sources = change.sources or {}
        # Older lineage tells a move as a removal and then a new value, both by one rule.
        self._gone = gone if not change.sources and _same(gone, change.after) else None

    def grown(self) -> Tree:
        if self._gone is not None:
            return self._through(self._gone)
        return self._grow(self._change.after, "", self._old)

    def _grow(self, value: Any, to: str, old: Tree | None) -> Tree:
        if type(value) is dict:
            beside = old if isinstance(old, dict) else {}
            return {key: self._grow(item, joined(to, key), beside.get(key)) for key, item in value.items()}
        if type(value) is list:
            return self._list(value, to, old if isinstance(old, list) else [])
        return self._leaf(value, to, old)

    def _list(self, value: list[Any], to: str, old: list[Any]) -> list[Any]:
        aligned = old if any(each.startswith(f"{to}[") for each in self._sources) else _aligned(value, old)
        grown: list[Any] = []
        for index, item in enumerate(value):
            before = aligned[index] if index < len(aligned) else None
            here = index < len(old) and before is old[index]
            made = self._grow(item, joined(to, index), before)
            grown.append(made if here or before is None else self._through(made))
        return grown

    def _leaf(self, value: Any, to: str, old: Tree | None) -> Leaf:
        named = max((each for each in self._sources if _covers(each, to)), key=len, default=None)
        if named is None:
            return self._from(value, old, is_moved=False)
        place = self._sources[named]
        if not place:
            return self._own(value)
        there = find(self._tree, steps_of(place))
        if isinstance(there, Leaf):
            return self._from(value, there, is_moved=True)
        return self._from(value, find(there, steps_of("x" + _rest(to, named))) if there else None, is_moved=True)

    def _from(self, value: Any, old: Tree | None, *, is_moved: bool) -> Leaf:
        """The value that came of ``old``: as it was, or turned into another."""
        if not isinstance(old, Leaf):
            return self._own(value)
        is_same = _same(old, value)
        if is_same and not is_moved:
            return old
        origin = old.origin
        exact = origin.is_exact and is_same
        return Leaf(value, Origin(origin.source, exact, self._after(origin)))

    def _own(self, value: Any) -> Leaf:
        return Leaf(value, Origin(None, False, (self._number,)))

    def _through(self, tree: Tree) -> Tree:
        """What has moved as a whole, this change added to everything in it."""
        if isinstance(tree, Leaf):
            return Leaf(tree.value, replace(tree.origin, changes=self._after(tree.origin)))
        if isinstance(tree, dict):
            return {key: self._through(item) for key, item in tree.items()}
        return [self._through(item) for item in tree]

    def _after(self, origin: Origin) -> tuple[int, ...]:
        return origin.changes if self._number in origin.changes else (*origin.changes, self._number)


def _parts(tree: dict[str, Any] | list[Any]) -> Iterator[tuple[Step, Any]]:
    yield from tree.items() if isinstance(tree, dict) else enumerate(tree)


def _same(tree: Tree | None, value: Any) -> bool:
    """Numbers are the same if their texts are."""
    return tree is not None and render(plain(tree)) == render(value)


def _aligned(value: list[Any], old: list[Any]) -> list[Any]:
    """Return for each item what it was in the list before: the equal one that is nearest, else what stood here."""
    texts = [render(plain(item)) for item in old]
    wanted = [render(item) for item in value]
    found = {index: index for index, text in enumerate(wanted) if index < len(texts) and texts[index] == text}
    free = [index for index in range(len(texts)) if index not in found]
    for index, text in enumerate(wanted):
        if index not in found:
            match = next((each for each in free if texts[each] == text), None)
            if match is not None:
                found[index] = match
                free.remove(match)
    left = set(free)
    return [old[found[i]] if i in found else old[i] if i in left else None for i in range(len(value))]


def _covers(part: str, to: str) -> bool:
    return to.startswith(part) and (not part or len(to) == len(part) or to[len(part)] in ".[")


def _rest(to: str, named: str) -> str:
    rest = to[len(named) :]
    return rest if rest.startswith(("[", ".")) or not rest else f".{rest}"


def _put(tree: Tree, steps: Sequence[Step], value: Tree) -> None:
    holder: Any = tree
    if not steps:
        raise ValueError("a change names no element")
    for step, following in pairwise(steps):
        below = find(holder, (step,))
        if below is None:
            below = [] if isinstance(following, int) else {}
            _set(holder, step, below)
        holder = below
    _set(holder, steps[-1], value)


def _set(holder: Any, step: Step, value: Tree) -> None:
    if isinstance(holder, list) and step == len(holder):
        holder.append(value)
    elif find(holder, (step,)) is not None or (isinstance(holder, dict) and isinstance(step, str)):
        holder[step] = value
    else:
        raise ValueError("a change is of an element that is not there")


def _remove(tree: Tree, steps: Sequence[Step]) -> None:
    holder = find(tree, steps[:-1])
    if not steps or not isinstance(holder, dict):
        raise ValueError("a change takes out what is not there")
    holder.pop(str(steps[-1]), None)
