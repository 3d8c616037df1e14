"""From an element to the elements below it: as Nodes, or, where no more is asked, as bare JSON.

A *walk* takes the JSON of one object and gives what stands under a path in it. It makes no Nodes, and so conditions
over plain paths cost little more than the look-ups.

Cost: a step is linear in what it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fhir_bridge.fhir.fhirpath.types import Child, Model, Types
from fhir_bridge.fhir.fhirpath.values import Items, Node

Find = Callable[[dict[str, Any]], list[Any]]
# A Node costs half as much without the detour through its keyword arguments.
_new: Callable[..., Node] = tuple.__new__


@dataclass(frozen=True, slots=True)
class Walk:
    """A path whose every step leads to one type; ``find`` gives JSON values, None for a value that is missing."""

    find: Find
    type: str
    is_primitive: bool


def node_of(resource: dict[str, Any], model: Model) -> Node:
    """The Node of a resource."""
    name = resource.get("resourceType")
    return Node(resource, name if type(name) is str and name in model.definitions.types else "Resource")


def step(name: str, model: Model) -> Callable[[Items], Items]:
    """The elements ``name`` of each item, whatever its type."""
    known: dict[str, tuple[Child, ...]] = {}

    def run(items: Items) -> Items:
        found: Items = []
        for item in items:
            if type(item) is not Node:
                continue
            value, kind, beside = item
            specs = known.get(kind)
            if specs is None:
                specs = known[kind] = model.children(kind).get(name, ())
            holder = value if type(value) is dict else beside
            if type(holder) is dict:
                for spec in specs:
                    _add(found, holder, spec, model)
        return found

    return run


def _add(found: Items, holder: dict[str, Any], spec: Child, model: Model) -> None:
    key, beside_key, kind = spec
    value = holder.get(key)
    if beside_key is None:
        if value is None:
            return
        for each in value if type(value) is list else (value,):
            if type(each) is dict:
                found.append(node_of(each, model) if kind == "Resource" else _new(Node, (each, kind, None)))
    elif beside_key in holder:
        beside = holder[beside_key]
        if type(value) is list or type(beside) is list:
            found += [Node(one, kind, other) for one, other in paired(value, beside) if _is_there(one, other)]
        elif _is_there(value, beside):
            found.append(Node(value, kind, beside))
    elif type(value) is list:
        found += [_new(Node, (each, kind, None)) for each in value if each is not None]
    elif value is not None:
        found.append(_new(Node, (value, kind, None)))


def _is_there(value: Any, beside: Any) -> bool:
    return value is not None or beside is not None


def paired(value: Any, beside: Any) -> Iterator[tuple[Any, Any]]:
    """Values of a list of primitives with the objects beside them."""
    values = value if type(value) is list else [] if value is None else [value]
    besides = beside if type(beside) is list else [] if beside is None else [beside]
    for at in range(max(len(values), len(besides))):
        yield (values[at] if at < len(values) else None, besides[at] if at < len(besides) else None)


def children_of(item: Any, model: Model) -> Items:
    """Every element below an item, in the order of its type's definition."""
    if type(item) is not Node:
        return []
    holder = item.value if type(item.value) is dict else item.beside
    if type(holder) is not dict:
        return []
    found: Items = []
    for specs in model.children(item.type).values():
        for spec in specs:
            _add(found, holder, spec, model)
    return found


def types_below(types: Types, name: str, model: Model) -> Types:
    """Types of the elements ``name`` of any of ``types``; empty if there are none."""
    return frozenset(kind for each in types for _, _, kind in model.children(each).get(name, ()))


def starting_walk(types: Types) -> Walk | None:
    """The walk that stays at an object of one known type."""
    if len(types) != 1:
        return None
    (only,) = types
    return Walk(lambda holder: [holder], only, is_primitive=False)


def longer(walk: Walk, name: str, model: Model, *, is_start: bool) -> Walk | None:
    """The walk that goes one step on, or None where that step has more than one form."""
    specs = model.children(walk.type).get(name, ())
    if walk.is_primitive or len(specs) != 1 or specs[0][2] in ("Resource", "DomainResource"):
        return None
    key, beside_key, kind = specs[0]
    below = _objects(key) if beside_key is None else _primitives(key, beside_key)
    if is_start:
        return Walk(below, kind, beside_key is not None)
    find = walk.find
    return Walk(lambda holder: [v for each in find(holder) for v in below(each)], kind, beside_key is not None)


def _objects(key: str) -> Find:
    def find(holder: dict[str, Any]) -> list[Any]:
        value = holder.get(key)
        if type(value) is dict:
            return [value]
        return [each for each in value if type(each) is dict] if type(value) is list else []

    return find


def _primitives(key: str, beside_key: str) -> Find:
    def find(holder: dict[str, Any]) -> list[Any]:
        value = holder.get(key)
        if beside_key in holder:
            beside = holder[beside_key]
            return [one for one, other in paired(value, beside) if _is_there(one, other)]
        if value is None:
            return []
        return [each for each in value if each is not None] if type(value) is list else [value]

    return find


def kept(walk: Walk, test: Callable[[Any], bool | None]) -> Walk:
    """The walk that keeps the objects for which a test holds."""
    find = walk.find
    return Walk(lambda holder: [each for each in find(holder) if test(each) is True], walk.type, walk.is_primitive)


def nodes(walk: Walk, name: str, model: Model, *, is_start: bool) -> Callable[[dict[str, Any]], Items]:
    """The Nodes of element ``name`` of what a walk finds."""
    find = walk.find
    specs: tuple[Child, ...] = model.children(walk.type).get(name, ())
    if is_start:

        def run_at(holder: dict[str, Any]) -> Items:
            found: Items = []
            for spec in specs:
                _add(found, holder, spec, model)
            return found

        return run_at

    def run(holder: dict[str, Any]) -> Items:
        found: Items = []
        for each in find(holder):
            if type(each) is dict:
                for spec in specs:
                    _add(found, each, spec, model)
        return found

    return run
