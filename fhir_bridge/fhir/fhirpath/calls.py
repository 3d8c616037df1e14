"""What a function is to the compiler, and how one over single values is made.

The modules ``on_*`` hold the functions by subject, each as a table from name to ``Function``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fhir_bridge.fhir.fhirpath.comparing import kind_of
from fhir_bridge.fhir.fhirpath.temporal import Temporal
from fhir_bridge.fhir.fhirpath.types import Model, Types
from fhir_bridge.fhir.fhirpath.values import (
    MAX_TEXT_CHARS,
    Evaluate,
    Items,
    Node,
    PathFailed,
    Quantity,
    Scope,
    is_number,
    single,
)
from fhir_bridge.fhir.path_syntax import Node as Syntax

MAX_ITEMS = 1_000_000
"""Most items that a function makes out of others; far beyond any resource."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A compiled argument, as it was written, and what it can give.

    Attributes:
        test: Its truth for an object's JSON, where no more is needed to tell it.
        is_indexed: It asks for ``$index``.
    """

    syntax: Syntax
    evaluate: Evaluate
    types: Types
    test: Callable[[Any], bool | None] | None
    is_indexed: bool


Run = Callable[[Items, Scope, Items], Items]
"""The collection a function is called on, scope, and the focus outside the call → collection."""
Make = Callable[[tuple[Argument, ...], Model], Run]


@dataclass(frozen=True, slots=True)
class Function:
    """One function.

    Attributes:
        make: Binds it to its arguments.
        least, most: How many arguments it takes.
        wants: Kinds of ``types.KINDS`` it can be called on; empty for any.
        gives: Types of its result, or where the compiler takes them from: ``input``, ``argument``, ``both`` of these,
            ``branches`` (the second and third argument), ``repeated``, and ``unordered`` for any in no order.
        over_items: Numbers of the arguments that see each item as ``$this``, not the focus outside the call.
        needs_order: It asks for a place in a collection that must have an order.
        needs_clock: It tells the time, and so cannot be part of what must give the same result again.
    """

    make: Make
    least: int = 0
    most: int = 0
    wants: tuple[str, ...] = ()
    gives: Types | str = frozenset()
    over_items: tuple[int, ...] = ()
    needs_order: bool = False
    needs_clock: bool = False


def plain_call(run: Callable[[Items], Items], gives: Types | str, *, needs_order: bool = False) -> Function:
    """A function of the whole collection, without arguments."""
    return Function(
        lambda _args, _model: lambda items, _scope, _focus: run(items), gives=gives, needs_order=needs_order
    )


_ACCEPTS: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: type(value) is str,
    "number": is_number,
    "whole": lambda value: type(value) is int,
    "boolean": lambda value: type(value) is bool,
    "moment": lambda value: isinstance(value, Temporal),
    "quantity": lambda value: isinstance(value, Quantity),
}


def scalar(
    name: str,
    wants: tuple[str, ...],
    run: Callable[..., Any],
    gives: Types | str,
    takes: tuple[str, ...] = (),
    least: int | None = None,
) -> Function:
    """A function of one value: empty if it or an argument is, an error if it or one is several or of another kind.

    Args:
        run: Value and arguments → result; None for an empty one, a list for several.
        takes: Kinds of the arguments.
        least: How many must be given, by default all.
    """

    def make(args: tuple[Argument, ...], _model: Model) -> Run:
        arguments = tuple((argument.evaluate, kind) for argument, kind in zip(args, takes, strict=False))

        def call(items: Items, scope: Scope, focus: Items) -> Items:
            given = []
            for evaluate, kind in arguments:
                other = _wanted(evaluate(focus, scope), (kind,), name)
                if other is None:
                    return []
                given.append(other)
            value = _wanted(items, wants, name)
            return [] if value is None else _result(run(value, *given), name)

        return call

    return Function(make, len(takes) if least is None else least, len(takes), wants, gives)


def _wanted(items: Items, kinds: tuple[str, ...], name: str) -> Any:
    value = single(items, f"{name}()")
    if value is None or not kinds or any(_ACCEPTS[kind](value) for kind in kinds):
        return value
    if type(value) is Node and value.value is None:
        # A primitive with extensions instead of a value has nothing to work on.
        return None
    raise PathFailed(f"{name}() is not for {kind_of(value)}")


def _result(value: Any, name: str) -> Items:
    if value is None:
        return []
    if type(value) is str and len(value) > MAX_TEXT_CHARS:
        raise PathFailed(f"{name}() makes a text longer than {MAX_TEXT_CHARS} characters")
    return value if type(value) is list else [value]


def held(items: Items, name: str) -> Items:
    """Return a collection that a function made; refuse one that no resource could give.

    Raises:
        PathFailed: It is longer than ``MAX_ITEMS``.
    """
    if len(items) > MAX_ITEMS:
        raise PathFailed(f"{name} makes more than {MAX_ITEMS} items")
    return items


def within_integers(value: int) -> int | None:
    """An integer, or None where it leaves the range that integers have here (64 bits)."""
    return value if -(2**63) <= value < 2**63 else None


def as_decimal(value: int | Decimal) -> Decimal:
    """A number as a decimal."""
    return Decimal(value)
