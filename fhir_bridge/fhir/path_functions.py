"""The functions of FHIRPath that HL7's definitions call; ``paths.py`` binds them to their arguments.

Each entry of ``FUNCTIONS`` takes compiled arguments and gives a closure. Criteria and projections see each item as
``$this``; other arguments see the focus outside the call. Results follow
FHIRPath N1 section 5 (https://hl7.org/fhirpath/N1/#functions); truth is three-valued, with empty as unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fhir_bridge.fhir.json import render
from fhir_bridge.fhir.text_patterns import longest

Items = list[Any]
Arg = Callable[[Items, Any], Items]
"""A compiled argument: focus and scope → collection."""
Run = Callable[[Items, Any, Items], Items]
"""A bound function: the collection it is called on, scope, and the focus outside the call → collection."""
Make = Callable[[list[Arg]], Run]


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
    return lambda _args: lambda items, _scope, _focus: run(items)


def _where(args: list[Arg]) -> Run:
    criterion = args[0]
    return lambda items, scope, _focus: [i for i in items if boolean(criterion([i], scope))]


def _exists(args: list[Arg]) -> Run:
    if not args:
        return lambda items, _scope, _focus: [bool(items)]
    where = _where(args)
    return lambda items, scope, _focus: [bool(where(items, scope, items))]


def _all(args: list[Arg]) -> Run:
    criterion = args[0]
    return lambda items, scope, _focus: [all(boolean(criterion([i], scope)) for i in items)]


def _select(args: list[Arg]) -> Run:
    projection = args[0]
    return lambda items, scope, _focus: [v for i in items for v in projection([i], scope)]


def _iif(args: list[Arg]) -> Run:
    condition, then = args[0], args[1]
    otherwise: Arg = args[2] if len(args) > 2 else lambda _items, _scope: []
    return lambda items, scope, _focus: (then if boolean(condition(items, scope)) else otherwise)(items, scope)


def _not(items: Items) -> Items:
    value = boolean(items)
    return [] if value is None else [not value]


def _on_text(test: Callable[[str, str], bool | None]) -> Make:
    """A test of one string against another; None where it cannot tell."""

    def make(args: list[Arg]) -> Run:
        argument = args[0]

        def run(items: Items, scope: Any, focus: Items) -> Items:
            other = argument(focus, scope)
            if len(items) != 1 or len(other) != 1 or type(items[0]) is not str or type(other[0]) is not str:
                return []
            told = test(items[0], other[0])
            return [] if told is None else [told]

        return run

    return make


def _substring(args: list[Arg]) -> Run:
    start = args[0]

    def run(items: Items, scope: Any, focus: Items) -> Items:
        at = start(focus, scope)
        return [items[0][at[0] :]] if len(items) == 1 and type(items[0]) is str and at and type(at[0]) is int else []

    return run


def _combine(args: list[Arg]) -> Run:
    other = args[0]
    return lambda items, scope, focus: [*items, *other(focus, scope)]


def _intersect(args: list[Arg]) -> Run:
    other = args[0]

    def run(items: Items, scope: Any, focus: Items) -> Items:
        if not items:
            return []
        held = {distinct_key(v) for v in other(focus, scope)}
        return [v for v in items if distinct_key(v) in held]

    return run


def _extension(args: list[Arg]) -> Run:
    url = args[0]

    def run(items: Items, scope: Any, focus: Items) -> Items:
        wanted = url(focus, scope)[:1]
        held = [e for i in items if type(i) is dict for e in i.get("extension") or () if type(e) is dict]
        return [e for e in held if [e.get("url")] == wanted]

    return run


def _has_extension(args: list[Arg]) -> Run:
    find = _extension(args)
    return lambda items, scope, focus: [bool(find(items, scope, focus))]


def _to_integer(items: Items) -> Items:
    if len(items) != 1:
        return []
    value = items[0]
    if type(value) is str:
        return [int(value)] if re.fullmatch(r"[+-]?[0-9]{1,18}", value) else []
    return [value] if type(value) is int else []


def _matches(text: str, pattern: str) -> bool | None:
    # Patterns come from definitions, never from a sender; but how long one would take is for the text to decide.
    limit = longest(pattern)
    if limit is not None and len(text) > limit:
        return None
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
    "hasExtension": _has_extension,
    "substring": _substring,
    "startsWith": _on_text(lambda text, other: text.startswith(other)),
    "contains": _on_text(lambda text, other: other in text),
    "matches": _on_text(_matches),
    "trace": lambda _args: lambda items, _scope, _focus: items,
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
    "length": _plain(lambda items: [len(items[0])] if len(items) == 1 and type(items[0]) is str else []),
    "children": _plain(_children),
    "descendants": _plain(_descendants),
}
