"""The functions of FHIRPath that HL7's definitions call; ``paths.py`` binds them to their arguments.

Each entry of ``FUNCTIONS`` takes compiled arguments and gives a closure over focus and scope. Results follow
FHIRPath N1 section 5 (https://hl7.org/fhirpath/N1/#functions); truth is three-valued, with empty as unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fhir_bridge.fhir.json import render

Items = list[Any]
Run = Callable[[Items, Any], Items]
Make = Callable[[list[Run]], Run]


def boolean(items: Items) -> bool | None:
    """Value of a collection where truth is asked for: a single item that is no boolean counts as true."""
    if not items:
        return None
    first = items[0]
    return first if type(first) is bool and len(items) == 1 else True


def distinct_key(value: Any) -> Any:
    """A hashable stand-in that is equal for equal JSON values; ``1.0`` equals ``1`` and ``true`` only itself."""
    kind = type(value)
    if kind is str:
        return value
    if kind is bool:
        return (bool, value)
    if kind is dict or kind is list:
        return (dict, render(_sorted(value)))
    return (int, value)


def _sorted(value: Any) -> Any:
    if type(value) is dict:
        return {k: _sorted(value[k]) for k in sorted(value)}
    return [_sorted(v) for v in value] if type(value) is list else value


def _descendants(items: Items, _scope: Any = None) -> Items:
    found: Items = []
    level = _children(items)
    while level:
        found.extend(level)
        level = _children(level)
    return found


def _children(items: Items, _scope: Any = None) -> Items:
    found: Items = []
    for item in items:
        for key, value in item.items() if type(item) is dict else ():
            if key == "resourceType":
                continue
            if type(value) is list:
                found.extend([v for v in value if v is not None])
            elif value is not None:
                found.append(value)
    return found


def _plain(run: Callable[[Items], Items]) -> Make:
    """A function without arguments."""
    return lambda _args: lambda items, _scope: run(items)


def _where(args: list[Run]) -> Run:
    criterion = args[0]
    return lambda items, scope: [i for i in items if boolean(criterion([i], scope))]


def _exists(args: list[Run]) -> Run:
    if not args:
        return lambda items, _scope: [bool(items)]
    where = _where(args)
    return lambda items, scope: [bool(where(items, scope))]


def _all(args: list[Run]) -> Run:
    criterion = args[0]
    return lambda items, scope: [all(boolean(criterion([i], scope)) for i in items)]


def _select(args: list[Run]) -> Run:
    projection = args[0]
    return lambda items, scope: [v for i in items for v in projection([i], scope)]


def _iif(args: list[Run]) -> Run:
    condition, then = args[0], args[1]
    otherwise = args[2] if len(args) > 2 else lambda _items, _scope: []
    return lambda items, scope: (then if boolean(condition(items, scope)) else otherwise)(items, scope)


def _not(items: Items) -> Items:
    value = boolean(items)
    return [] if value is None else [not value]


def _on_text(test: Callable[[str, str], bool]) -> Make:
    """A test of one string against another."""

    def make(args: list[Run]) -> Run:
        argument = args[0]

        def run(items: Items, scope: Any) -> Items:
            other = argument(items, scope)
            if len(items) != 1 or len(other) != 1 or type(items[0]) is not str or type(other[0]) is not str:
                return []
            return [test(items[0], other[0])]

        return run

    return make


def _substring(args: list[Run]) -> Run:
    start = args[0]

    def run(items: Items, scope: Any) -> Items:
        at = start(items, scope)
        return [items[0][at[0] :]] if len(items) == 1 and type(items[0]) is str and at else []

    return run


def _combine(args: list[Run]) -> Run:
    other = args[0]
    return lambda items, scope: [*items, *other(items, scope)]


def _intersect(args: list[Run]) -> Run:
    other = args[0]

    def run(items: Items, scope: Any) -> Items:
        if not items:
            return []
        held = {distinct_key(v) for v in other(items, scope)}
        return [v for v in items if distinct_key(v) in held]

    return run


def _extension(args: list[Run]) -> Run:
    url = args[0]

    def run(items: Items, scope: Any) -> Items:
        wanted = url(items, scope)[0]
        held = [e for i in items if type(i) is dict for e in i.get("extension") or () if type(e) is dict]
        return [e for e in held if e.get("url") == wanted]

    return run


def _to_integer(items: Items) -> Items:
    if len(items) != 1:
        return []
    value = items[0]
    if type(value) is str:
        return [int(value)] if re.fullmatch(r"[+-]?[0-9]{1,18}", value) else []
    return [value] if type(value) is int else []


def _matches(text: str, pattern: str) -> bool:
    # Patterns come from the definitions, never from a sender.
    return re.search(pattern, text) is not None


FUNCTIONS: dict[str, Make] = {
    "where": _where,
    "exists": _exists,
    "all": _all,
    "select": _select,
    "iif": _iif,
    "combine": _combine,
    "intersect": _intersect,
    "extension": _extension,
    "substring": _substring,
    "startsWith": _on_text(lambda text, other: text.startswith(other)),
    "contains": _on_text(lambda text, other: other in text),
    "matches": _on_text(_matches),
    "trace": lambda _args: lambda items, _scope: items,
    "empty": _plain(lambda items: [not items]),
    "not": _plain(_not),
    "count": _plain(lambda items: [len(items)]),
    "first": _plain(lambda items: items[:1]),
    "tail": _plain(lambda items: items[1:]),
    "distinct": _plain(lambda items: list({distinct_key(v): v for v in items}.values())),
    "isDistinct": _plain(lambda items: [len({distinct_key(v) for v in items}) == len(items)]),
    "hasValue": _plain(lambda items: [len(items) == 1 and type(items[0]) not in (dict, list)]),
    "toInteger": _plain(_to_integer),
    "toString": _plain(lambda items: [render(items[0]).decode().strip('"')] if len(items) == 1 else []),
    "children": _plain(_children),
    "descendants": _plain(_descendants),
}
