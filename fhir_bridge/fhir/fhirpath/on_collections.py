"""Functions over collections (FHIRPath N1 sections 5.1 to 5.4, 5.8 and 7), and boolean ones.

Those with a criterion or projection go through their items; ``$this`` is the item and ``$index`` its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fhir_bridge.fhir.fhirpath.calls import MAX_ITEMS, Argument, Function, Run, held, plain_call
from fhir_bridge.fhir.fhirpath.comparing import distinct_key
from fhir_bridge.fhir.fhirpath.types import BOOLEAN, INTEGER, Model
from fhir_bridge.fhir.fhirpath.values import Items, Node, PathFailed, Scope, single, truth

Judge = Callable[[Any, Scope], bool | None]
"""Truth of a criterion for one item."""


def _judge(argument: Argument, name: str) -> Judge:
    test, evaluate = argument.test, argument.evaluate
    if test is None:
        return lambda item, scope: truth(evaluate([item], scope), name)
    quick = test

    def judge(item: Any, scope: Scope) -> bool | None:
        if type(item) is Node and type(item.value) is dict:
            return quick(item.value)
        return truth(evaluate([item], scope), name)

    return judge


def _each(argument: Argument, run: Callable[[Items, Scope], Items]) -> Run:
    """Keep ``$index`` of whoever is outside, and count only for an argument that asks."""
    if not argument.is_indexed:
        return lambda items, scope, _focus: run(items, scope)

    def counted(items: Items, scope: Scope, _focus: Items) -> Items:
        outer = scope.index
        try:
            return run(items, scope)
        finally:
            scope.index = outer

    return counted


def _numbered(items: Items, scope: Scope, argument: Argument) -> Any:
    """The items; ``$index`` follows if the argument asks for it."""
    return _counting(items, scope) if argument.is_indexed else items


def _counting(items: Items, scope: Scope) -> Any:
    for index, item in enumerate(items):
        scope.index = index
        yield item


def _where(args: tuple[Argument, ...], _model: Model) -> Run:
    criterion = args[0]
    judge = _judge(criterion, "where()")
    return _each(
        criterion, lambda items, scope: [i for i in _numbered(items, scope, criterion) if judge(i, scope) is True]
    )


def _exists(args: tuple[Argument, ...], _model: Model) -> Run:
    if not args:
        return lambda items, _scope, _focus: [bool(items)]
    criterion = args[0]
    judge = _judge(criterion, "exists()")
    return _each(
        criterion,
        lambda items, scope: [any(judge(i, scope) is True for i in _numbered(items, scope, criterion))],
    )


def _all(args: tuple[Argument, ...], _model: Model) -> Run:
    criterion = args[0]
    judge = _judge(criterion, "all()")
    return _each(
        criterion,
        lambda items, scope: [all(judge(i, scope) is True for i in _numbered(items, scope, criterion))],
    )


def _select(args: tuple[Argument, ...], _model: Model) -> Run:
    projection = args[0]
    evaluate = projection.evaluate

    def run(items: Items, scope: Scope) -> Items:
        found: Items = []
        for item in _numbered(items, scope, projection):
            found += evaluate([item], scope)
            if len(found) > MAX_ITEMS:
                return held(found, "select()")
        return found

    return _each(projection, run)


def _repeat(args: tuple[Argument, ...], _model: Model) -> Run:
    """Each item once, so that it ends on everything a resource holds; what makes ever new items is stopped."""
    projection = args[0]
    evaluate = projection.evaluate

    def run(items: Items, scope: Scope) -> Items:
        found: dict[Any, Any] = {}
        level = list(items)
        while level:
            fresh: Items = []
            for item in _numbered(level, scope, projection):
                for made in evaluate([item], scope):
                    key = distinct_key(made)
                    if key not in found:
                        found[key] = made
                        fresh.append(made)
                        if len(found) > _MOST_REPEATED:
                            raise PathFailed(f"repeat() makes more than {_MOST_REPEATED} items")
            level = fresh
        return list(found.values())

    return _each(projection, run)


_MOST_REPEATED = 100_000


def _aggregate(args: tuple[Argument, ...], _model: Model) -> Run:
    step = args[0]
    evaluate = step.evaluate
    start = args[1].evaluate if len(args) > 1 else None

    def run(items: Items, scope: Scope, focus: Items) -> Items:
        outer, outer_index = scope.total, scope.index
        try:
            total = start(focus, scope) if start is not None else []
            for item in _numbered(items, scope, step):
                scope.total = total
                total = held(evaluate([item], scope), "aggregate()")
            return total
        finally:
            scope.total, scope.index = outer, outer_index

    return run


def _iif(args: tuple[Argument, ...], _model: Model) -> Run:
    condition, then = args[0].evaluate, args[1].evaluate
    otherwise = args[2].evaluate if len(args) > 2 else None

    def run(items: Items, scope: Scope, _focus: Items) -> Items:
        if len(items) > 1:
            raise PathFailed(f"iif() wants one item and found {len(items)}")
        if truth(condition(items, scope), "iif()"):
            return then(items, scope)
        return [] if otherwise is None else otherwise(items, scope)

    return run


def _trace(args: tuple[Argument, ...], _model: Model) -> Run:
    """Passes its input on; what a record holds is not written to any log."""
    return lambda items, _scope, _focus: items


def _part(cut: Callable[[Items, int], Items], name: str) -> Function:
    def make(args: tuple[Argument, ...], _model: Model) -> Run:
        evaluate = args[0].evaluate

        def run(items: Items, scope: Scope, focus: Items) -> Items:
            number = single(evaluate(focus, scope), f"{name}()")
            if type(number) is not int:
                raise PathFailed(f"{name}() wants a whole number")
            return cut(items, max(0, number))

        return run

    return Function(make, 1, 1, gives="input", needs_order=True)


def _single(items: Items) -> Items:
    if len(items) > 1:
        raise PathFailed(f"single() found {len(items)} items")
    return items


def _both(run: Callable[[Items, Items], Items], gives: str | frozenset[str]) -> Function:
    """A function of two collections."""

    def make(args: tuple[Argument, ...], _model: Model) -> Run:
        other = args[0].evaluate
        return lambda items, scope, focus: run(items, other(focus, scope))

    return Function(make, 1, 1, gives=gives)


def union(a: Items, b: Items) -> Items:
    """Both, each item once."""
    return _once(held([*a, *b], "a union"))


def _once(items: Items) -> Items:
    if len(items) < 2:
        return items
    found: dict[Any, Any] = {}
    for item in items:
        found.setdefault(distinct_key(item), item)
    return list(found.values())


def _intersect(a: Items, b: Items) -> Items:
    keys = {distinct_key(item) for item in b}
    return _once([item for item in a if distinct_key(item) in keys])


def _exclude(a: Items, b: Items) -> Items:
    keys = {distinct_key(item) for item in b}
    return [item for item in a if distinct_key(item) not in keys]


def _subset(a: Items, b: Items) -> bool:
    return {distinct_key(item) for item in a} <= {distinct_key(item) for item in b}


def _booleans(items: Items, name: str) -> list[bool]:
    found = [item.value if type(item) is Node else item for item in items]
    if any(type(value) is not bool for value in found):
        raise PathFailed(f"{name}() wants booleans")
    return found


def _of_booleans(name: str, tell: Callable[[list[bool]], bool]) -> Function:
    return plain_call(lambda items: [tell(_booleans(items, name))], BOOLEAN)


def _not(items: Items) -> Items:
    value = truth(items, "not()")
    return [] if value is None else [not value]


def _combine(a: Items, b: Items) -> Items:
    return held([*a, *b], "combine()")


TABLE: dict[str, Function] = {
    "empty": plain_call(lambda items: [not items], BOOLEAN),
    "exists": Function(_exists, 0, 1, gives=BOOLEAN, over_items=(0,)),
    "all": Function(_all, 1, 1, gives=BOOLEAN, over_items=(0,)),
    "allTrue": _of_booleans("allTrue", all),
    "anyTrue": _of_booleans("anyTrue", any),
    "allFalse": _of_booleans("allFalse", lambda values: not any(values)),
    "anyFalse": _of_booleans("anyFalse", lambda values: not all(values)),
    "subsetOf": _both(lambda a, b: [_subset(a, b)], BOOLEAN),
    "supersetOf": _both(lambda a, b: [_subset(b, a)], BOOLEAN),
    "count": plain_call(lambda items: [len(items)], INTEGER),
    "distinct": plain_call(_once, "input"),
    "isDistinct": plain_call(lambda items: [len(_once(items)) == len(items)], BOOLEAN),
    "where": Function(_where, 1, 1, gives="input", over_items=(0,)),
    "select": Function(_select, 1, 1, gives="argument", over_items=(0,)),
    "repeat": Function(_repeat, 1, 1, gives="repeated", over_items=(0,)),
    "aggregate": Function(_aggregate, 1, 2, over_items=(0,)),
    "single": plain_call(_single, "input"),
    "first": plain_call(lambda items: items[:1], "input", needs_order=True),
    "last": plain_call(lambda items: items[-1:], "input", needs_order=True),
    "tail": plain_call(lambda items: items[1:], "input", needs_order=True),
    "skip": _part(lambda items, number: items[number:], "skip"),
    "take": _part(lambda items, number: items[:number], "take"),
    "union": _both(union, "both"),
    "combine": _both(_combine, "both"),
    "intersect": _both(_intersect, "input"),
    "exclude": _both(_exclude, "input"),
    "iif": Function(_iif, 2, 3, gives="branches", over_items=(0, 1, 2)),
    "trace": Function(_trace, 1, 2, gives="input", over_items=(1,)),
    "not": plain_call(_not, BOOLEAN),
}
