"""Find out where the parts of a value come from that was put together from others, and put it on record.

For conversions that take objects apart and make others of their pieces. They move the very values that were there, so
each piece is found again by its identity: an object or a list as a whole, a text or a number by itself. What is not
found again was made by the rule.

Invariants:
    * a source stands where it is said to stand at the moment of its change: what is read is overwritten afterwards;
    * of several places that hold the very same value, one of the same name is named, then one not named yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from fhir_bridge.normalize.draft import By, Draft

Elements = Mapping[str, Any]
"""Values by key; None for one that is absent."""
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Pieces:
    """The values that stand below some places."""

    def __init__(self, before: Elements) -> None:
        """Take what stood at each place; it must stay alive and unchanged as long as it is asked for."""
        self._before = before
        self._places: dict[int, list[str]] = {}
        self._named: set[str] = set()
        for place, value in before.items():
            self._add(value, place)

    def sources(self, after: Any, place: str, read: Mapping[str, str] = _NOTHING) -> dict[str, str]:
        """Return where the parts of ``after``, which is put at ``place``, come from; nothing for what stays.

        Args:
            read: For parts that are no piece, the place that they were read out of.
        """
        return dict(self._found(after, "", place, self._before.get(place), read))

    def _add(self, value: Any, place: str) -> None:
        if value is None:
            return
        self._places.setdefault(id(value), []).append(place)
        for name, part in _parts(value):
            self._add(part, place + name)

    def _found(self, value: Any, to: str, place: str, old: Any, read: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        if value is old and not isinstance(value, dict | list):
            return
        source = self._choose(value, to)
        key = to.removeprefix(".")
        if source is not None:
            self._named.add(source)
            if source != place + to:
                yield key, source
        elif isinstance(value, dict | list) and value:
            for name, part in _parts(value):
                yield from self._found(part, to + name, place, _part(old, name), read)
        elif key in read:
            yield key, read[key]
        elif "[" in to and old is not None:
            # What stood at this number is another item.
            yield key, ""

    def _choose(self, value: Any, to: str) -> str | None:
        places = self._places.get(id(value), ())
        if len(places) < 2:
            return places[0] if places else None
        name = to.rpartition(".")[2]
        return min(places, key=lambda each: (each.rpartition(".")[2] != name, each in self._named))


def regroup(
    draft: Draft,
    by: By,
    place: str,
    before: Elements,
    after: Elements,
    read: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> None:
    """Put on record what elements of one object were, and what they are now that their pieces have other places.

    Args:
        place: Of the object.
        read: Of an element, where parts that are no pieces were read (:meth:`Pieces.sources`).
    """
    wanted = {key: after.get(key) for key in [*after, *(k for k in before if k not in after)]}
    changed = [key for key, value in wanted.items() if value is not before.get(key) and value != before.get(key)]
    pieces = Pieces({f"{place}.{key}": value for key, value in before.items()})
    sources = {
        key: pieces.sources(wanted[key], f"{place}.{key}", read.get(key, _NOTHING))
        for key in changed
        if wanted[key] is not None
    }
    for key in _in_turn(changed, sources, place):
        draft.changed(by, f"{place}.{key}", before.get(key), wanted[key], sources=sources.get(key))


def _in_turn(changed: list[str], sources: dict[str, dict[str, str]], place: str) -> Iterator[str]:
    """Yield keys so that each is overwritten after all that read it; where two read each other, one says less."""
    left = list(changed)
    while left:
        free = [k for k in left if not any(o != k and _reads(sources.get(o), f"{place}.{k}") for o in left)]
        chosen = free or left[:1]
        for key in chosen:
            left.remove(key)
            yield key
        if not free:
            for other in left:
                held = sources.get(other, {})
                sources[other] = {t: s for t, s in held.items() if not _is_below(s, f"{place}.{chosen[0]}")}


def _reads(sources: Mapping[str, str] | None, place: str) -> bool:
    return any(_is_below(source, place) for source in (sources or {}).values())


def _is_below(source: str, place: str) -> bool:
    return source.startswith(place) and source[len(place) : len(place) + 1] in ("", ".", "[")


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if type(value) is dict:
        for key, part in value.items():
            yield f".{key}", part
    elif type(value) is list:
        for index, part in enumerate(value):
            yield f"[{index}]", part


def _part(value: Any, name: str) -> Any:
    if type(value) is dict and name[0] == ".":
        return value.get(name[1:])
    if type(value) is list and name[0] == "[":
        index = int(name[1:-1])
        return value[index] if index < len(value) else None
    return None
