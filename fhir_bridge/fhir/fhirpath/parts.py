"""A compiled part of an expression, and the short ways that some parts have.

For the compiler. Where plain look-ups are all that a part needs, it has a walk or a test over bare JSON beside its
closure, which says the same in a tenth of the time; parts made of such parts have one again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fhir_bridge.fhir.fhirpath import steps
from fhir_bridge.fhir.fhirpath.operators import LOGIC, SETTLED
from fhir_bridge.fhir.fhirpath.steps import Walk
from fhir_bridge.fhir.fhirpath.types import ANY, BOOLEAN, KINDS, Types
from fhir_bridge.fhir.fhirpath.values import Evaluate, Items, Node, PathFailed, Scope
from fhir_bridge.fhir.path_syntax import Literal
from fhir_bridge.fhir.path_syntax import Node as Syntax

Test = Callable[[dict[str, Any]], bool | None]
"""Truth of a part for the JSON of the one object it starts at."""


@dataclass(frozen=True, slots=True)
class Part:
    """A compiled part of an expression.

    Attributes:
        walk: The same from the JSON of the focus, where each step has one form.
        test: Its truth from there.
        nodes: What it gives from there.
        is_ordered: Its items have a place; those of ``children()`` have none.
    """

    evaluate: Evaluate
    types: Types = ANY
    walk: Walk | None = None
    test: Test | None = None
    nodes: Callable[[dict[str, Any]], Items] | None = None
    is_ordered: bool = True


def tested(evaluate: Evaluate, test: Test | None) -> Part:
    """A boolean part, told by its test where it starts at one object."""
    if test is None:
        return Part(evaluate, BOOLEAN)
    quick = test

    def run(items: Items, scope: Scope) -> Items:
        if len(items) == 1 and type(items[0]) is Node and type(items[0].value) is dict:
            told = quick(items[0].value)
            return [] if told is None else [told]
        return evaluate(items, scope)

    return Part(run, BOOLEAN, test=test)


def truth_of(walk: Walk) -> Test:
    """The boolean that a path leads to."""
    find = walk.find

    def test(holder: dict[str, Any]) -> bool | None:
        found = find(holder)
        at_most_one(found, "a condition")
        return (found[0] if type(found[0]) is bool else True) if found else None

    return test


def equals(part: Part, other: Syntax) -> Test | None:
    """``path = 'text'``, which most conditions are made of."""
    walk = part.walk
    if walk is None or not walk.is_primitive or not isinstance(other, Literal) or isinstance(other.value, Decimal):
        return None
    kind = type(other.value)
    if walk.type not in KINDS["text" if kind is str else "boolean"] or kind is int:
        return None
    find, wanted = walk.find, other.value

    def test(holder: dict[str, Any]) -> bool | None:
        found = find(holder)
        if not found:
            return None
        return len(found) == 1 and type(found[0]) is kind and found[0] == wanted

    return test


def joined(op: str, left: Test, right: Test) -> Test:
    """Two tests put together by logic."""
    join, settled, is_lazy = LOGIC[op], SETTLED.get(op), op in SETTLED

    def test(holder: dict[str, Any]) -> bool | None:
        first = left(holder)
        return join(first, None) if is_lazy and first is settled else join(first, right(holder))

    return test


def call_test(name: str, base: Part, parts: list[Part]) -> Test | None:
    """The test of ``not()``, ``exists()`` or ``empty()`` of what has a short way."""
    if name == "not" and base.test is not None:
        inner = base.test
        return lambda holder: None if (told := inner(holder)) is None else not told
    if base.walk is None:
        return None
    find = base.walk.find
    if name == "exists" and not parts:
        return lambda holder: bool(find(holder))
    if name == "empty":
        return lambda holder: not find(holder)
    if name == "exists" and parts[0].test is not None:
        judge = parts[0].test
        return lambda holder: any(judge(each) is True for each in find(holder))
    return None


def call_walk(name: str, base: Part, parts: list[Part]) -> Walk | None:
    """The walk of ``where()`` whose criterion has a test."""
    if name == "where" and base.walk is not None and not base.walk.is_primitive and parts[0].test is not None:
        return steps.kept(base.walk, parts[0].test)
    return None


def at_most_one(items: Items, op: str) -> None:
    """Refuse several items where one is wanted."""
    if len(items) > 1:
        raise PathFailed(f"{op} wants one item and found {len(items)}")
