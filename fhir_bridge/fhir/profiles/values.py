"""What profiles say about single values: fixed values, patterns, bindings, targets, and how values are found.

For the compiler of profiles; every function here is built once and then called for each record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fhir_bridge.fhir.bindings import Codes, binding_check
from fhir_bridge.fhir.json import render
from fhir_bridge.fhir.paths import compare
from fhir_bridge.fhir.primitives import TESTS
from fhir_bridge.fhir.reference_text import type_of
from fhir_bridge.fhir.run import Place, Run
from fhir_bridge.fhir.tables import Definitions, Element

_SHOWN_CHARS = 160


class Item(NamedTuple):
    """One value of an element.

    Attributes:
        value: JSON value; None for a primitive that has only extensions.
        beside: The object beside a primitive (``_birthDate``), or None.
        type: Name of its type in the tables.
    """

    value: Any
    beside: Any
    place: Place
    type: str

    @property
    def focus(self) -> Any:
        """What FHIRPath sees."""
        return self.beside if self.value is None else self.value

    @property
    def parent(self) -> Mapping[str, Any]:
        """The object that holds child elements."""
        found = self.value if type(self.value) is dict else self.beside
        return found if type(found) is dict else {}


ItemCheck = Callable[[Item, Run], None]
GroupCheck = Callable[[list[Item], Place, Run], None]
"""Checks all values of one element, which stands at the place."""
Collect = Callable[[Mapping[str, Any], Place], list[Item]]


def collector(keys: Mapping[str, str]) -> Collect:
    """Return what finds the values of one element in an object, given its JSON keys and their types."""
    specs = tuple((key, "_" + key if name in TESTS else None, name) for key, name in keys.items())

    def collect(owner: Mapping[str, Any], place: Place) -> list[Item]:
        items: list[Item] = []
        for key, beside_key, name in specs:
            value = owner.get(key)
            beside = None if beside_key is None else owner.get(beside_key)
            if value is None and beside is None:
                continue
            here: Place = (place, key)
            if type(value) is list or type(beside) is list:
                values, besides = value or (), beside or ()
                for at in range(max(len(values), len(besides))):
                    one = values[at] if at < len(values) else None
                    other = besides[at] if at < len(besides) else None
                    items.append(Item(one, other, (here, at), name))
            else:
                items.append(Item(value, beside, here, name))
        return items

    return collect


def is_equal(wanted: Any, value: Any) -> bool:
    """Tell whether two JSON values are the same; the order of keys and ``1.0`` for ``1`` do not matter."""
    if type(wanted) is dict:
        same_keys = type(value) is dict and wanted.keys() == value.keys()
        return same_keys and all(is_equal(part, value[key]) for key, part in wanted.items())
    if type(wanted) is list:
        same_length = type(value) is list and len(wanted) == len(value)
        return same_length and all(map(is_equal, wanted, value))
    return bool(wanted == value) and (type(wanted) is bool) is (type(value) is bool)


def fits(pattern: Any, value: Any) -> bool:
    """Tell whether a value holds all that ``pattern`` holds (FHIR R4 elementdefinition.html#pattern[x])."""
    if type(pattern) is dict:
        return type(value) is dict and all(key in value and fits(part, value[key]) for key, part in pattern.items())
    if type(pattern) is list:
        return type(value) is list and all(any(fits(part, each) for each in value) for part in pattern)
    return is_equal(pattern, value)


def fixed_check(wanted: Any) -> ItemCheck:
    """The value is exactly ``wanted``."""
    text = f"must be exactly {shown(wanted)}"

    def check(item: Item, run: Run) -> None:
        if not is_equal(wanted, item.value):
            run.error("value", text, item.place)

    return check


def pattern_check(pattern: Any) -> ItemCheck:
    """The value holds at least ``pattern``."""
    text = f"must hold {shown(pattern)}"

    def check(item: Item, run: Run) -> None:
        if not fits(pattern, item.value):
            run.error("value", text, item.place)

    return check


def length_check(most: int) -> ItemCheck:
    """A text of at most ``most`` characters."""
    text = f"must not be longer than {most} characters"

    def check(item: Item, run: Run) -> None:
        if type(item.value) is str and len(item.value) > most:
            run.error("too-long", text, item.place)

    return check


def limit_check(limit: Any, *, is_least: bool) -> ItemCheck:
    """The value is not below (``is_least``) or not above ``limit``; quantities of other units are not compared."""
    text = f"must not be {'less' if is_least else 'more'} than {shown(limit)}"
    wrong = -1 if is_least else 1

    def check(item: Item, run: Run) -> None:
        plain, bare = (_without_unit_text(value) for value in (item.value, limit))
        if plain is not None and compare(plain, bare) == wrong:
            run.error("value", text, item.place)

    return check


def _without_unit_text(value: Any) -> Any:
    """A quantity without what is only for people to read."""
    return {k: v for k, v in value.items() if k != "unit"} if type(value) is dict else value


def bound_check(url: str, codes: Codes, type_name: str) -> ItemCheck | None:
    """The value is in a value set whose binding is required; None for types that cannot be bound."""
    if type_name == "Quantity":
        return _unit_check(url, codes)
    element = Element("", 0, False, (type_name,), codes=url)
    bound = binding_check(element, type_name, Definitions("R4", {}, {url: codes}))
    if bound is None:
        return None
    check_value = bound

    def check(item: Item, run: Run) -> None:
        if item.value is not None:
            check_value(item.value, item.place, run)

    return check


def _unit_check(url: str, codes: Codes) -> ItemCheck:
    text = f"the unit's code must be one of {url}"

    def check(item: Item, run: Run) -> None:
        if not is_coded(item.value, codes):
            run.error("code-invalid", text, item.place)

    return check


def is_coded(value: Any, codes: Codes) -> bool:
    """Tell whether a code, Coding, Quantity or CodeableConcept is in a value set."""
    if type(value) is str:
        return any(value in listed for listed in codes.values())
    if type(value) is not dict:
        return False
    if "coding" in value:
        return any(is_coded(coding, codes) for coding in value["coding"])
    return value.get("code") in codes.get(value.get("system", ""), ())


def target_check(allowed: frozenset[str]) -> ItemCheck:
    """A reference points to one of these types, so far as it shows its target's type."""
    text = f"must point to {', '.join(sorted(allowed))}"

    def check(item: Item, run: Run) -> None:
        target = target_type(item.value, run)
        if target is not None and target not in allowed:
            run.error("invalid", text, item.place)

    return check


def target_type(reference: Any, run: Run) -> str | None:
    """Return the type of what a reference points to, where text, contained resources or the message show it."""
    found = type_of(reference, run.contained)
    if found is None and type(reference) is dict:
        found = run.types_by_url.get(reference.get("reference") or "")
    return found


def shown(value: Any) -> str:
    """Write a value of a profile, never of a record, for an error."""
    text = render(value).decode()
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


def trial(run: Run, resource: Any = None) -> Run:
    """A run beside ``run``, to see whether something would be found; of another resource where one is given."""
    if resource is not None:
        return Run(resource, run.known_keys, run.entries, run.types_by_url)
    beside = Run({}, run.known_keys, run.entries, run.types_by_url)
    beside.container, beside.contained, beside.resource = run.container, run.contained, run.resource
    return beside
