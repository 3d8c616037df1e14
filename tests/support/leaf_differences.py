"""Compare two forms of one resource leaf by leaf, and find what of a source a result no longer holds.

A second, simpler reading than the code under test: it knows no definitions, only JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fhir_bridge.model.ingest import Change

Leaf = tuple[str, str]
"""Path without indices, and text."""


def leaves(value: Any, path: str) -> Iterator[Leaf]:
    """Yield every leaf of a JSON value, but the type that a resource names."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key != "resourceType" or isinstance(item, dict):
                yield from leaves(item, f"{path}.{key}")
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, path)
    elif value is not None:
        yield path, str(value)


@dataclass
class Tally:
    """Leaves of two forms: equal, at the same path with another text, only in ours, only in theirs."""

    equal: int = 0
    different: Counter[str] = field(default_factory=Counter)
    ours: Counter[str] = field(default_factory=Counter)
    theirs: Counter[str] = field(default_factory=Counter)

    def add(self, ours: Any, theirs: Any) -> None:
        """Count one pair of resources."""
        kind = str(ours["resourceType"])
        mine, other = Counter(leaves(ours, kind)), Counter(leaves(theirs, kind))
        both = mine & other
        self.equal += both.total()
        left, right = _by_path(mine - both), _by_path(other - both)
        self.different += left & right
        self.ours += left - right
        self.theirs += right - left


def _by_path(found: Counter[Leaf]) -> Counter[str]:
    paths: Counter[str] = Counter()
    for (path, _text), count in found.items():
        paths[path] += count
    return paths


def lost(source: Any, result: Any, changes: Iterable[Change], allowed: Iterable[tuple[str, str]]) -> list[Leaf]:
    """Return the leaves of ``source`` that neither stand in ``result`` nor are accounted for.

    Accounted for is what a change names as translated, one text for another, and what a change took away by a rule
    and at an element of ``allowed``.
    """
    kind = str(source["resourceType"])
    missing = Counter(text for _p, text in leaves(source, kind)) - Counter(text for _p, text in leaves(result, kind))
    if not missing:
        return []
    may_go = frozenset(allowed)
    for change in changes:
        scalar = not isinstance(change.before, (dict, list)) and not isinstance(change.after, (dict, list))
        translated = scalar and change.before is not None and change.after is not None
        if translated or (change.rule, plain(change.element)) in may_go:
            missing -= Counter(text for _p, text in leaves(change.before, kind))
    return [(path, text) for path, text in leaves(source, kind) if text in missing]


def plain(element: str) -> str:
    """Return a place without its indices."""
    return "".join(part.partition("]")[2] if index else part for index, part in enumerate(element.split("[")))
