"""Refuse a FHIRPath expression that goes through the whole record again and again.

For the invariants of profiles and for the conditions of rules, whose authors are not who writes the records: a
criterion within a criterion, each over everything that a record holds, costs a power of the record's size.
"""

from __future__ import annotations

from fhir_bridge.fhir.path_syntax import (
    Binary,
    Call,
    Index,
    Node,
    PathNotUnderstood,
    Sign,
    Step,
    TypeOp,
    Variable,
)

_FOR_EACH = frozenset({"where", "exists", "all", "select", "repeat", "aggregate"})
_FAR = frozenset({"descendants", "repeat", "resolve", "combine", "union"})
_OUTSIDE = frozenset({"resource", "rootResource", "context", "$total"})
_MOST_ROUNDS = 2


def refuse_powers(node: Node) -> None:
    """Accept what takes at most the square of a record's size.

    Raises:
        PathNotUnderstood: It may take the cube, or more.
    """
    _walk(node, 0)


def _walk(node: Node | None, rounds: int) -> None:
    """``rounds``: how many collections, each perhaps as long as the record, are gone through around this node."""
    match node:
        case Call(base, name, args):
            _walk(base, rounds)
            inner = rounds
            if name in _FOR_EACH and (rounds == 0 or not _stays(base)):
                inner += 1
                if inner > _MOST_ROUNDS:
                    raise PathNotUnderstood("goes through the whole record within itself more than once")
            for each in args:
                _walk(each, inner)
        case Step(base) | TypeOp(_, base):
            _walk(base, rounds)
        case Index(base, at):
            _walk(base, rounds)
            _walk(at, rounds)
        case Sign(_, operand):
            _walk(operand, rounds)
        case Binary(_, left, right):
            _walk(left, rounds)
            _walk(right, rounds)


def _stays(base: Node | None) -> bool:
    """Whether a path stays at the item that it starts at, and below it: all items together hold no more than one."""
    while base is not None:
        match base:
            case Call(below, name, args):
                if name in _FAR or any(map(_looks_outside, args)):
                    return False
                base = below
            case Step(below) | TypeOp(_, below) | Index(below):
                base = below
            case Variable(name):
                return name not in _OUTSIDE
            case _:
                return False
    return True


def _looks_outside(node: Node | None) -> bool:
    match node:
        case Variable(name):
            return name in _OUTSIDE
        case Call(base, name, args):
            return name in _FAR or _looks_outside(base) or any(map(_looks_outside, args))
        case Step(base) | TypeOp(_, base):
            return _looks_outside(base)
        case Index(base, at):
            return _looks_outside(base) or _looks_outside(at)
        case Sign(_, operand):
            return _looks_outside(operand)
        case Binary(_, left, right):
            return _looks_outside(left) or _looks_outside(right)
    return False
