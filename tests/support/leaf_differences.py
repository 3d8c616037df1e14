"""Compare two forms of one resource leaf by leaf, and find what of a source a result no longer holds.

A second, simpler reading than the code under test: it knows no definitions, only JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from re import Pattern
from typing import Any

from fhir_bridge.model.ingest import Change

Leaf = tuple[str, str]
"""Path without indices, and text."""


@dataclass(frozen=True)
class Difference:
    """One leaf of one form that the other has otherwise or not at all."""

    path: str
    ours: str | None
    theirs: str | None

    @property
    def side(self) -> str:
        """``different``, ``ours`` or ``theirs``."""
        if self.ours is None:
            return "theirs"
        return "ours" if self.theirs is None else "different"


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


def compare(ours: Any, theirs: Any) -> tuple[int, list[Difference]]:
    """Return how many leaves are equal, and the others, paired by path."""
    kind = str(ours["resourceType"])
    mine, other = Counter(leaves(ours, kind)), Counter(leaves(theirs, kind))
    both = mine & other
    left, right = _by_path(mine - both), _by_path(other - both)
    found = [
        Difference(path, one, two)
        for path in dict.fromkeys([*left, *right])
        for one, two in zip_longest(left.get(path, ()), right.get(path, ()))
    ]
    return both.total(), found


def _by_path(found: Counter[Leaf]) -> dict[str, list[str]]:
    paths: dict[str, list[str]] = {}
    for path, text in sorted(found.elements()):
        paths.setdefault(path, []).append(text)
    return paths


def lost(
    source: Any, result: Any, changes: Iterable[Change], allowed: Iterable[tuple[str, Pattern[str]]] = ()
) -> list[Leaf]:
    """Return the leaves of ``source`` that neither stand in ``result`` nor are accounted for.

    Accounted for is a text that a change gives as translated to another text, and one that stands in the ``before``
    of a change by a rule of ``allowed`` while its own path is one that the rule may take away.
    """
    kind = str(source["resourceType"])
    sent = list(leaves(source, kind))
    missing = Counter(text for _path, text in sent) - Counter(text for _path, text in leaves(result, kind))
    if not missing:
        return []
    taken: dict[str, set[str]] = {}
    for change in changes:
        if _is_text(change.before) and _is_text(change.after):
            missing[str(change.before)] -= 1
        taken.setdefault(change.rule, set()).update(text for _path, text in leaves(change.before, ""))
    for rule, paths in allowed:
        for path, text in sent:
            if missing[text] > 0 and paths.fullmatch(path) and text in taken.get(rule, ()):
                missing[text] -= 1
    return [(path, text) for path, text in sent if missing[text] > 0]


def _is_text(value: Any) -> bool:
    return value is not None and not isinstance(value, (dict, list))
