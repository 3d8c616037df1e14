"""Find and make the elements that rules edit.

A path is FHIRPath's plain form: element names joined by dots, any step may be followed by ``where(condition)``,
``[x]`` choices are named by their stem (``value``) or one of their keys (``valueQuantity``). It is checked against
the definitions when the pack loads.

Invariants:
    * a misspelt element is an error of the pack, never a rule that silently does nothing;
    * places are reported as they stand in the record (``Observation.component[1].value``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fhir_bridge.fhir.fhirpath import Expression, PathFailed, PathNotUnderstood, compile_expression
from fhir_bridge.fhir.tables import Definitions, Element
from fhir_bridge.model.ingest import Body
from fhir_bridge.normalize.yaml_text import Spot, did_you_mean

Condition = Callable[[Body], bool]
_STEP = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9]*)")


@dataclass(frozen=True, slots=True)
class Found:
    """One present element: ``parent[key]`` and where it stands."""

    parent: dict[str, Any]
    key: str
    place: str

    @property
    def value(self) -> Any:
        """What stands there: an object, a primitive or a list."""
        return self.parent[self.key]

    def each(self) -> Iterator[tuple[Any, str]]:
        """Every value with its place, lists opened."""
        value = self.value
        if type(value) is list:
            for index, item in enumerate(value):
                yield item, f"{self.place}[{index}]"
        else:
            yield value, self.place


@dataclass(frozen=True, slots=True)
class Step:
    """One name of a path: the keys it can stand under, and whether it is a list."""

    name: str
    keys: tuple[str, ...]
    many: bool
    keep: Callable[[Any, Body], bool] | None


@dataclass(frozen=True, slots=True)
class Place:
    """A compiled path; ``types`` are the types its values can have, from the definitions."""

    text: str
    steps: tuple[Step, ...]
    types: frozenset[str]

    def find(self, body: Body) -> list[Found]:
        """Elements of ``body`` that are present, in document order."""
        holders = [(body, str(body.get("resourceType", "")))]
        for step in self.steps[:-1]:
            holders = [under for holder, place in holders for under in _children(holder, place, step, body)]
        last = self.steps[-1]
        return [
            Found(holder, key, f"{place}.{key}")
            for holder, place in holders
            for key in last.keys
            if key in holder and (last.keep is None or _kept(holder[key], last.keep, body))
        ]

    def make(self, body: Body) -> list[tuple[dict[str, Any], str, str]]:
        """Holders of the last step with its key and place; parents are made, unless a filter asks for them."""
        children = _children if any(step.keep is not None for step in self.steps) else _made
        holders = [(body, str(body.get("resourceType", "")))]
        for step in self.steps[:-1]:
            holders = [under for holder, place in holders for under in children(holder, place, step, body)]
        last = self.steps[-1]
        return [(holder, last.keys[0], f"{place}.{last.keys[0]}") for holder, place in holders]

    @property
    def is_list(self) -> bool:
        """True when the last element repeats."""
        return self.steps[-1].many


def compile_place(text: str, type_name: str, releases: tuple[Definitions, ...], spot: Spot) -> Place:
    """Compile an editing path of ``type_name``.

    Args:
        releases: Definitions in which each element may stand, tried in order.

    Raises:
        RulesetBroken: No such element; says where and what was meant.
    """
    steps: list[Step] = []
    types = frozenset({type_name})
    for name, condition in _split(text, spot):
        rows = _rows(types, name, releases)
        if not rows:
            known = _names(types, releases)
            raise spot.broken(f"{'|'.join(sorted(types))} has no {name!r}{did_you_mean(name, known)}")
        keys = tuple(dict.fromkeys(k for element in rows for k in _keys(element, name)))
        types = frozenset(t for element in rows for k, t in element.json_keys().items() if k in keys)
        keep = None if condition is None else _filter(condition, type_name, types, releases, spot)
        # The last release is the one inside: it says whether what is written repeats.
        steps.append(Step(name, keys, rows[-1].many, keep))
    return Place(text, tuple(steps), types)


def compile_condition(text: str, type_name: str, releases: tuple[Definitions, ...], spot: Spot) -> Condition:
    """Compile a ``when`` condition to a closure; it holds when FHIRPath says true, and may raise ``PathFailed``.

    Raises:
        RulesetBroken: It is no FHIRPath, names what does not exist, or could give another result each time.
    """
    return _compiled(text, type_name, [(type_name, definitions) for definitions in releases], spot).holds


def _compiled(text: str, resource: str, among: Iterable[tuple[str, Definitions]], spot: Spot) -> Expression:
    """The expression, for the first type and release that has what it names."""
    problem = "nothing to ask"
    for type_name, definitions in among:
        try:
            return _expression(text, type_name, definitions, resource)
        except PathNotUnderstood as error:
            problem = str(error)
    raise spot.broken(problem)


# A pack's rules ask the same in many places, and lint compiles what the loader has compiled.
@lru_cache(maxsize=4096)
def _expression(text: str, type_name: str, definitions: Definitions, resource: str) -> Expression:
    return compile_expression(text, type_name, definitions, resource=resource)


def _split(text: str, spot: Spot) -> Iterator[tuple[str, str | None]]:
    rest = text.strip()
    while rest:
        match = _STEP.match(rest)
        if match is None:
            raise spot.broken(f"cannot read the path {text!r}")
        rest = rest[match.end() :]
        condition = None
        if rest.startswith(".where("):
            end = _closing(rest, len(".where("))
            if end is None:
                raise spot.broken(f"a bracket of {text!r} is never closed")
            condition, rest = rest[len(".where(") : end], rest[end + 1 :]
        yield match["name"], condition
        if rest and not rest.startswith("."):
            raise spot.broken(f"cannot read the path {text!r}")
        rest = rest[1:]


def _closing(text: str, start: int) -> int | None:
    depth, quoted = 1, False
    for index in range(start, len(text)):
        char = text[index]
        if char == "'":
            quoted = not quoted
        elif not quoted and char in "()":
            depth += 1 if char == "(" else -1
            if depth == 0:
                return index
    return None


def _rows(types: frozenset[str], name: str, releases: tuple[Definitions, ...]) -> list[Element]:
    found: list[Element] = []
    for definitions in releases:
        for type_name in sorted(types):
            row = definitions.types.get(type_name)
            for element in row.elements.values() if row else ():
                if name == element.name or (
                    element.is_choice and (f"{name}[x]" == element.name or name in element.json_keys())
                ):
                    found.append(element)
    return found


def _keys(element: Element, name: str) -> list[str]:
    return [name] if name in element.json_keys() else list(element.json_keys())


def _names(types: frozenset[str], releases: tuple[Definitions, ...]) -> set[str]:
    rows = [d.types[t] for d in releases for t in types if t in d.types]
    return {e.name.removesuffix("[x]") for row in rows for e in row.elements.values()}


def _filter(
    condition: str, resource: str, types: frozenset[str], releases: tuple[Definitions, ...], spot: Spot
) -> Callable[[Any, Body], bool]:
    among = [(name, definitions) for definitions in releases for name in sorted(types)]
    condition_holds = _compiled(condition, resource, among, spot).holds

    def keep(item: Any, body: Body) -> bool:
        try:
            return condition_holds(item, body)
        except PathFailed:
            # What cannot be judged is not among what the rule asks for.
            return False

    return keep


def _children(holder: dict[str, Any], place: str, step: Step, body: Body) -> list[tuple[dict[str, Any], str]]:
    found = []
    for key in step.keys:
        if key in holder:
            for item, here in Found(holder, key, f"{place}.{key}").each():
                if type(item) is dict and (step.keep is None or step.keep(item, body)):
                    found.append((item, here))
    return found


def _made(holder: dict[str, Any], place: str, step: Step, body: Body) -> list[tuple[dict[str, Any], str]]:
    present = _children(holder, place, step, body)
    if present or any(key in holder for key in step.keys):
        return present
    made: dict[str, Any] = {}
    holder[step.keys[0]] = [made] if step.many else made
    return [(made, f"{place}.{step.keys[0]}" + ("[0]" if step.many else ""))]


def _kept(value: Any, keep: Callable[[Any, Body], bool], body: Body) -> bool:
    return any(keep(item, body) for item in (value if type(value) is list else [value]))
