"""Hold one search value against the values of an index row, by kind of parameter.

For parsing criteria. Each function returns a test over the row's values of one
parameter, as ``fhir_bridge.fhir.search`` extracts them; a value that does not
parse raises :class:`QueryRefused`. Semantics are those of FHIR R4 search.html.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fhir_bridge.fhir.dates import interval
from fhir_bridge.fhir.search import fold
from fhir_bridge.fhir.tables import r4
from fhir_bridge.fhir.value_sets import ValueSet
from fhir_bridge.query.refusals import QueryRefused, invalid, unsupported

ValueTest = Callable[[Sequence[Any]], bool]
FindSet = Callable[[str], ValueSet | None]
"""From ``url`` or ``url|version`` to a loaded value set."""

PREFIXED = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb|ap)?(.*)", re.DOTALL)
_R4_VERSION = "4.0.1"
_NO_CODES: frozenset[str] = frozenset()
_NOTHING_IMPLIED: Mapping[str, str] = {}
_APPROXIMATELY = 10
"""``ap`` allows a tenth of the distance to now, as search.html#prefix recommends."""


def split(text: str, separator: str) -> list[str]:
    r"""Split at separators that are not escaped with ``\`` (search.html#escaping); escapes stay in."""
    parts, start, index = [], 0, 0
    while index < len(text):
        if text[index] == "\\":
            index += 1
        elif text[index] == separator:
            parts.append(text[start:index])
            start = index + 1
        index += 1
    return [*parts, text[start:]]


def unescape(text: str) -> str:
    r"""Undo ``\,`` ``\|`` ``\$`` and ``\\``."""
    return re.sub(r"\\([,|$\\])", r"\1", text)


def token_test(name: str, text: str, implied: Mapping[str, str] = _NOTHING_IMPLIED) -> ValueTest:
    """``code``, ``|code`` (no system), ``system|`` (any code) or ``system|code``; case matters.

    Args:
        implied: Systems by code where elements are of type ``code``, which have one without saying so.
    """
    parts = [unescape(part) for part in split(text, "|")]
    if len(parts) > 2 or not any(parts):
        raise QueryRefused([invalid(name, "is no token: code, |code, system| or system|code")])
    if len(parts) == 1:
        code = parts[0]
        return lambda values: any(value[1] == code for value in values)
    system, code = parts
    if implied:
        return lambda values: any(code in ("", value[1]) and implied.get(value[1], "") == system for value in values)
    if not code:
        return lambda values: any(value[0] == system for value in values)
    return lambda values: any(value[1] == code and value[0] == system for value in values)


def of_type_test(name: str, text: str) -> ValueTest:
    """``:of-type`` with ``system|code|value`` of a typed identifier; all three must be given."""
    parts = tuple(unescape(part) for part in split(text, "|"))
    if len(parts) != 3 or not all(parts):
        raise QueryRefused([invalid(f"{name}:of-type", "is not of the form system|code|value")])
    return lambda values: any(tuple(value) == parts for value in values)


def no_set(_: str) -> None:
    """Find no value set: where none is loaded."""


def in_value_set_test(name: str, url: str, *, plain: bool, find_set: FindSet) -> ValueTest:
    """``:in`` with the URL of a value set of R4 that is listed in the definitions, or of one that is loaded.

    Args:
        plain: The parameter finds elements of type ``code``, which have no system beside them.
        find_set: Finds a loaded set by ``url`` or ``url|version``.
    """
    bare, _, version = url.partition("|")
    systems = r4().codes.get(bare)
    if systems is None:
        return _in_loaded_set_test(name, url, find_set, plain=plain)
    if version not in ("", _R4_VERSION):
        raise QueryRefused([unsupported(f"{name}:in", "names a value set that is not loaded here")])
    every = frozenset(code for codes in systems.values() for code in codes) if plain else _NO_CODES
    return lambda values: any(
        value[1] in (systems.get(value[0], _NO_CODES) if value[0] else every) for value in values
    )


def _in_loaded_set_test(name: str, url: str, find_set: FindSet, *, plain: bool) -> ValueTest:
    loaded = find_set(url)
    if loaded is None:
        raise QueryRefused([unsupported(f"{name}:in", "names a value set that is not loaded here")])
    if plain:
        return lambda values: any(
            loaded.holds(value[0], value[1]) if value[0] else loaded.holds_code(value[1]) for value in values
        )
    return lambda values: any(loaded.holds(value[0], value[1]) for value in values)


def date_test(name: str, text: str, now_us: int) -> ValueTest:
    """A date of any precision with one of the prefixes ``eq ne gt lt ge le sa eb ap``.

    Both sides are ranges. ``eq`` holds if the searched range contains the row's;
    ``gt`` if the row's range reaches beyond it, ``sa`` if it starts after its end.
    """
    prefix, bounds = _prefixed_date(name, text)
    low, high = bounds

    def equal(value: Sequence[int]) -> bool:
        return low <= value[0] and value[1] <= high

    compare: dict[str, Callable[[Sequence[int]], bool]] = {
        "eq": equal,
        "ne": lambda value: not equal(value),
        "gt": lambda value: value[1] > high,
        "lt": lambda value: value[0] < low,
        "ge": lambda value: value[1] > high or equal(value),
        "le": lambda value: value[0] < low or equal(value),
        "sa": lambda value: value[0] >= high,
        "eb": lambda value: value[1] <= low,
        "ap": _approximately(low, high, now_us),
    }
    test = compare[prefix]
    return lambda values: any(test(value) for value in values)


def _prefixed_date(name: str, text: str) -> tuple[str, tuple[int, int]]:
    match = PREFIXED.fullmatch(text)
    bounds = interval(match[2].replace(" ", "+")) if match and match[2][:4].isdigit() else None
    if match is None or bounds is None:
        raise QueryRefused(
            [invalid(name, "is no date: YYYY, YYYY-MM, YYYY-MM-DD or a time with zone, after a prefix")]
        )
    return match[1] or "eq", bounds


def _approximately(low: int, high: int, now_us: int) -> Callable[[Sequence[int]], bool]:
    slack = abs(now_us - low) // _APPROXIMATELY
    return lambda value: value[0] < high + slack and low - slack < value[1]


def reference_test(name: str, text: str, base_url: str, type_name: str | None) -> ValueTest:
    """``Type/id``, ``id`` (of any type, or of the type in the modifier) or an absolute URL below our base."""
    wanted = unescape(text).removeprefix(base_url.rstrip("/") + "/")
    if type_name is not None and "/" not in wanted:
        wanted = f"{type_name}/{wanted}"
    if not wanted or wanted.startswith("|"):
        raise QueryRefused([invalid(name, "is no reference: Type/id, id or a URL")])
    if "/" in wanted:
        if type_name is not None and not wanted.startswith(f"{type_name}/"):
            raise QueryRefused([invalid(name, "names another type than its modifier")])
        return lambda values: wanted in values
    ending = f"/{wanted}"
    return lambda values: any(value.endswith(ending) and not value.startswith("|") for value in values)


def logical_reference_test(name: str, text: str) -> ValueTest:
    """``:identifier`` with a token: ``system|value``, ``|value`` or ``value``."""
    test = token_test(name, text)
    return lambda values: test([tuple(value[1:].rsplit("|", 1)) for value in values if value.startswith("|")])


def string_test(name: str, text: str, modifier: str | None) -> ValueTest:
    """Starts with, ignoring case and accents; ``:exact`` is exact and ``:contains`` looks anywhere."""
    wanted = unescape(text)
    if not wanted:
        raise QueryRefused([invalid(name, "is empty")])
    if modifier == "exact":
        return lambda values: wanted in values
    folded = fold(wanted)
    if modifier == "contains":
        return lambda values: any(folded in fold(value) for value in values)
    return lambda values: any(fold(value).startswith(folded) for value in values)


def uri_test(name: str, text: str) -> ValueTest:
    """The same URI, character for character."""
    wanted = unescape(text)
    if not wanted:
        raise QueryRefused([invalid(name, "is empty")])
    return lambda values: wanted in values


def alternatives(text: str) -> Iterator[str]:
    """Yield the comma-separated alternatives of a value."""
    yield from split(text, ",")
