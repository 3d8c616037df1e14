"""Compile the ``constants`` of a CSV file: what is the same in every row.

A constant that is an object is taken apart into its leaves, as if each had been named by its own path, so that a row
gets no part of an element that its own cells do not fill.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fhir_bridge.fhir.primitives import TESTS
from fhir_bridge.formats import Constant, Step
from fhir_bridge.normalize.csv_columns import Setting
from fhir_bridge.normalize.csv_places import Place, compile_place
from fhir_bridge.normalize.verb_args import replaced
from fhir_bridge.normalize.yaml_text import Items, Keys, Mapping, Node

Steps = tuple[Step, ...]


def compile_constants(
    entry: Mapping, setting: Setting, filled: Sequence[tuple[str, Sequence[Steps]]]
) -> tuple[Constant, ...]:
    """Return the constants of one file.

    Args:
        filled: Each column with the elements that it fills.

    Raises:
        RulesetBroken: No such element, or none that takes this value; says where.
    """
    node = entry.get("constants")
    if node is None:
        return ()
    given = node.mapping("'constants'")
    found: dict[Steps, Constant] = {}
    for path in given.names():
        compile_place(path, setting.type_name, given.key_spot(path))
        for steps, expression, leaf, value, whole in _leaves(path, given.require(path), setting, ()):
            if steps in found:
                raise leaf.spot.broken(f"{expression} has two constants")
            found[steps] = Constant(steps, value, _beside(steps, whole, filled))
    return tuple(found.values())


def _leaves(path: str, node: Node, setting: Setting, whole: Steps) -> Iterator[tuple[Steps, str, Node, Any, Steps]]:
    """Yield each leaf: its element, how findings call it, where it stands, its value, the object it is part of."""
    if isinstance(node.value, Items) and node.value:
        for number, item in enumerate(node.items(path)):
            yield from _leaves(f"{path}[{number}]", item, setting, whole)
        return
    place = compile_place(path, setting.type_name, node.spot)
    if place.is_primitive or not isinstance(node.value, Keys | Items):
        yield place.steps, place.expression, node, _value(place, node, setting), whole
        return
    if not node.value:
        raise node.spot.broken(f"{place.expression} holds nothing")
    inside = node.mapping(path)
    for key in inside.names():
        value = inside.require(key)
        if key.startswith("_"):
            compile_place(f"{path}.{key[1:]}", setting.type_name, inside.key_spot(key))
            steps = (*place.steps, Step(key))
            yield steps, f"{place.expression}.{key}", value, value.plain(), whole or place.steps
        else:
            yield from _leaves(f"{path}.{key}", value, setting, whole or place.steps)


def _value(place: Place, node: Node, setting: Setting) -> Any:
    made = node.plain()
    if type(made) is str:
        made = replaced(made, setting.constants, node)
    if not place.is_primitive:
        raise node.spot.broken(f"{place.expression} is a {place.type_name}: name an element inside it")
    problem = TESTS[place.type_name](made)
    if problem is not None:
        raise node.spot.broken(f"{place.expression} {problem.text}")
    return made


def _beside(steps: Steps, whole: Steps, filled: Sequence[tuple[str, Sequence[Steps]]]) -> frozenset[str]:
    """A constant inside an element that columns fill, however deep, waits for one of them to have a value.

    A column that fills the very place in a list where ``whole`` stands gives a member of its own behind it.
    """
    own_member = whole if whole and whole[-1].index is not None else None
    for length in range(len(steps) - 1, 0, -1):
        holder = steps[:length]
        beside = frozenset(
            name
            for name, places in filled
            if any(place[:length] == holder and place != own_member for place in places)
        )
        if beside:
            return beside
    return frozenset()
