"""Find the bytes of an element in JSON as it came.

For whoever explains or checks where a value comes from: a span is a function of the bytes and the path alone, so
nobody has to store it, and whoever holds the original can find it again.

A path is written as lineage writes it, ``Observation.code.coding[1].code``: the type, then keys, each with the
number of the item where it holds a list. The type only names the resource and is passed over.

Invariants:
    * the bytes of a span decode to the value that the path means in the decoded document;
    * an object on the way that holds the key twice has no span: two readers would read it differently;
    * the document must have been taken by :func:`fhir_bridge.fhir.json.parse`; other bytes give any answer or none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Step = str | int
"""A key of an object or the number of an item."""

_SPACE = re.compile(rb"[ \t\r\n]*")
_SCALAR = re.compile(rb'"(?:[^"\\]|\\.)*"|[^\s,:\[\]{}"]+', re.DOTALL)
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_SEGMENT = re.compile(r"(?P<key>[^.\[\]]+)(?P<items>(?:\[\d+\])*)")


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes ``start`` up to ``end``, counted from 0, of one JSON value without the white space around it."""

    start: int
    end: int

    def of(self, data: bytes) -> bytes:
        """Return the bytes."""
        return data[self.start : self.end]


def steps_of(path: str) -> tuple[Step, ...]:
    """Return the keys and numbers of a path below its type.

    Raises:
        ValueError: It is not written like one.
    """
    found: list[Step] = []
    at = 0
    while at < len(path):
        match = _SEGMENT.match(path, at)
        if match is None or (match.end() < len(path) and path[match.end()] != "."):
            raise ValueError(f"not a path: {path!r}")
        found.append(match["key"])
        found += [int(number) for number in re.findall(r"\d+", match["items"])]
        at = match.end() + 1
    return tuple(found[1:])


def find_span(data: bytes, steps: Sequence[Step]) -> Span | None:
    """Return where the value that ``steps`` lead to stands, None if they lead nowhere or to two places.

    Cost is one pass over what stands before the value, about 100 MB a second.
    """
    at = _skip(data, 0)
    for step in steps:
        following = _item(data, at, step) if isinstance(step, int) else _member(data, at, step)
        if following is None:
            return None
        at = following
    return Span(at, _end(data, at))


def all_spans(data: bytes, steps: Sequence[Step] = ()) -> dict[tuple[Step, ...], Span]:
    """Return the span of every value at or below ``steps`` by its own steps; quicker than to ask for many apart."""
    top = find_span(data, steps)
    found: dict[tuple[Step, ...], Span] = {}
    waiting = [] if top is None else [(tuple(steps), top.start)]
    while waiting:
        here, at = waiting.pop()
        found[here] = Span(at, _end(data, at))
        names = [name for name, _ in _members(data, at)] if data[at : at + 1] == b"{" else []
        inside: Iterator[tuple[Step, int]] = iter(())
        if names:
            inside = ((name, value) for name, value in _members(data, at) if names.count(name) == 1)
        elif data[at : at + 1] == b"[":
            inside = enumerate(_items(data, at))
        waiting += [((*here, step), value) for step, value in inside]
    return found


def resource_steps(data: bytes) -> tuple[Step, ...]:
    """Return where the resource stands in an original: in the entry of a Bundle that was kept, or at its root."""
    return ("resource",) if find_span(data, ("resourceType",)) is None else ()


def _member(data: bytes, at: int, key: str) -> int | None:
    if data[at : at + 1] != b"{":
        return None
    found = [value for name, value in _members(data, at) if name == key]
    return found[0] if len(found) == 1 else None


def _item(data: bytes, at: int, number: int) -> int | None:
    if data[at : at + 1] != b"[":
        return None
    return next((value for index, value in enumerate(_items(data, at)) if index == number), None)


def _members(data: bytes, at: int) -> Iterator[tuple[str, int]]:
    at = _skip(data, at + 1)
    while data[at : at + 1] == b'"':
        name = _end(data, at)
        value = _skip(data, _skip(data, name) + 1)
        yield json.loads(data[at:name]), value
        at = _skip(data, _end(data, value))
        at = _skip(data, at + 1) if data[at : at + 1] == b"," else at


def _items(data: bytes, at: int) -> Iterator[int]:
    at = _skip(data, at + 1)
    while at < len(data) and data[at : at + 1] != b"]":
        yield at
        at = _skip(data, _end(data, at))
        at = _skip(data, at + 1) if data[at : at + 1] == b"," else at


def _skip(data: bytes, at: int) -> int:
    match = _SPACE.match(data, at)
    return match.end() if match else at


def _end(data: bytes, at: int) -> int:
    """Return the offset behind the value that begins at ``at``."""
    if data[at : at + 1] not in (b"{", b"["):
        match = _SCALAR.match(data, at)
        return match.end() if match else len(data)
    depth = 0
    for token in _TOKEN.finditer(data, at):
        first = token.group()[:1]
        if first in (b"{", b"["):
            depth += 1
        elif first != b'"':
            depth -= 1
            if depth == 0:
                return token.end()
    return len(data)
