"""Compile FHIRPath to closures over decoded FHIR JSON.

For the validator's invariants and for search parameters: the tables of HL7 hold the expressions, this module runs
them. It takes the part of the language that they use, and reads it as they mean it: ``as`` filters, and many items
count as true. The whole language, by its letter, is ``fhirpath``. Types are resolved while compiling, so that
``value`` of an Observation means the eleven keys that ``value[x]`` can have and nothing else, and evaluation only
looks up keys.

A collection is a list of JSON values. A primitive that has only extensions stands for itself as the object beside
it (``_birthDate``), so that it exists but has no value.

Invariants:
    * evaluation does no I/O, follows no reference and changes nothing;
    * the cost of a step or a function is linear in what it is called on; an expression of ours or HL7's looks through
      a resource so many times at most, one of a package as often as it says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fhir_bridge.fhir.dates import interval
from fhir_bridge.fhir.json import render
from fhir_bridge.fhir.path_functions import FUNCTIONS, boolean, distinct_key
from fhir_bridge.fhir.path_syntax import (
    Binary,
    Call,
    Literal,
    Node,
    PathNotUnderstood,
    Sign,
    Step,
    TypeOp,
    Variable,
    read,
)
from fhir_bridge.fhir.primitives import TESTS
from fhir_bridge.fhir.reference_text import contained_types, type_of
from fhir_bridge.fhir.tables import Definitions, Element

Items = list[Any]
Types = frozenset[str]

_UCUM = "http://unitsofmeasure.org"
_ANY: Types = frozenset()
_OF_EXTENSIONS = frozenset({"extension", "hasExtension"})
# Types of which a value can be another.
_OPEN: Types = frozenset({"Resource", "DomainResource", "Element", "BackboneElement"})


@dataclass(frozen=True, slots=True)
class Scope:
    """What an expression can see beside its focus: ``%resource``, ``%context`` and the container."""

    resource: dict[str, Any]
    context: Any
    root: dict[str, Any]
    contained: Mapping[str, str] = field(default_factory=dict)


Evaluate = Callable[[Items, Scope], Items]
"""Focus and scope → collection."""


@dataclass(frozen=True, slots=True)
class Path:
    """A compiled expression and the types its results can have (empty: unknown)."""

    evaluate: Evaluate
    types: Types

    def holds(self, focus: Any, resource: dict[str, Any], root: dict[str, Any]) -> bool:
        """Tell whether an invariant holds; empty counts as true, as no violation is shown."""
        return boolean(self.evaluate([focus], Scope(resource, focus, root))) is not False

    def select(self, resource: dict[str, Any]) -> Items:
        """Return what the expression selects from a resource."""
        return self.evaluate([resource], scope_of(resource))


def scope_of(resource: dict[str, Any]) -> Scope:
    """The scope of an expression that starts at a resource."""
    held = contained_types(resource) if "contained" in resource else {}
    return Scope(resource, resource, resource, held)


def compile_path(expression: str, type_name: str, definitions: Definitions, *, resource: str = "") -> Path:
    """Compile ``expression`` for a focus of type ``type_name``.

    Args:
        resource: Type of ``%resource``; by default the one that ``type_name`` is, or is a part of.

    Raises:
        PathNotUnderstood: The expression lies outside the subset.
    """
    compiler = _Compiler(definitions, type_name, resource or type_name.split(".")[0])
    evaluate, types = compiler.node(read(expression), frozenset({type_name}))
    return Path(evaluate, types)


def _collector(keys: tuple[str, ...]) -> Callable[[Items], Items]:
    """Collects the elements that stand under ``keys``, lists flattened."""
    pairs = tuple((key, "_" + key) for key in keys)

    def collect(items: Items) -> Items:
        found: Items = []
        for item in items:
            if type(item) is not dict:
                continue
            for key, beside in pairs:
                value = item.get(key)
                if value is None:
                    value = item.get(beside)
                    if value is None:
                        continue
                if type(value) is list:
                    found.extend([v for v in value if v is not None])
                else:
                    found.append(value)
        return found

    return collect


def leading_keys(expression: str, type_name: str, definitions: Definitions) -> frozenset[str]:
    """Return the JSON keys of which a resource must have one for ``expression`` to find anything in it.

    Among them is ``resourceType``, which every resource has, if it can find something in one without any element.
    """
    elements = definitions.types[type_name].elements
    keys: set[str] = set()
    for name, only in _leading(read(expression), None):
        element = elements.get(name) or elements.get(f"{name}[x]")
        if element is not None:
            keys.update(key for key, _ in _keys_of(element, only))
        elif name == _ALWAYS:
            keys.add(name)
    return frozenset(keys | {"_" + key for key in keys})


_ALWAYS = "resourceType"
_EMPTY_OF_EMPTY = frozenset({"where", "select", "first", "tail", "distinct", "extension", "trace"})


def _leading(node: Node, only: str | None) -> Iterable[tuple[str, str | None]]:
    """Name, and type it is narrowed to, of each step that starts at the resource."""
    match node:
        case Step(Step(None, _), name):
            yield name, only
        case Step(base) if base is not None:
            yield from _leading(base, None)
        case TypeOp(_, Step(Step(None, _), name), wanted):
            yield name, wanted
        case TypeOp(_, base, _):
            yield from _leading(base, None)
        case Call(Step(None, _), "extension", _):
            yield "extension", None
        case Call(base, name, _) if base is not None and name in _EMPTY_OF_EMPTY:
            yield from _leading(base, None)
        case Binary("|", left, right):
            yield from _leading(left, None)
            yield from _leading(right, None)
        case _:
            # Such as exists(): no elements, and yet it says false.
            yield _ALWAYS, None


class _Compiler:
    """One walk over one tree; ``focus`` is the static type of ``$this``."""

    def __init__(self, definitions: Definitions, root: str, resource: str) -> None:
        self._definitions = definitions
        self._root = root
        self._resource = resource

    def node(self, node: Node, focus: Types) -> tuple[Evaluate, Types]:
        """Compile any node."""
        match node:
            case Literal(value) if not isinstance(value, Decimal):
                constant = [value]
                return (lambda _items, _scope: constant), _ANY
            case Variable(name):
                return self._variable(name, focus)
            case Step():
                return self._step(node, focus, None)
            case TypeOp():
                return self._type_op(node, focus)
            case Call():
                return self._call(node, focus)
            case Binary(op, left, right) if op in _OPERATORS:
                return _operator(op, self.node(left, focus)[0], self.node(right, focus)[0])
        raise PathNotUnderstood(f"{_called(node)} is not among what HL7's definitions use")

    def _variable(self, name: str, focus: Types) -> tuple[Evaluate, Types]:
        match name:
            case "$this" | "this" | "his":
                return (lambda items, _scope: items), focus
            case "resource":
                return (lambda _items, scope: [scope.resource]), frozenset({self._resource})
            case "rootResource":
                return (lambda _items, scope: [scope.root]), _ANY
            case "context":
                return (lambda _items, scope: [scope.context]), frozenset({self._root})
            case "ucum":
                return (lambda _items, _scope: [_UCUM]), _ANY
        raise PathNotUnderstood(f"variable {name}")

    def _step(self, step: Step, focus: Types, only: str | None, *, beside: bool = False) -> tuple[Evaluate, Types]:
        """``beside`` takes, of primitives, the objects that hold their extensions."""
        if step.base is None:
            if step.name in focus or (step.name in ("Resource", "DomainResource") and step.name[0].isupper()):
                return (lambda items, _scope: items), focus
            base, types = None, focus
        else:
            base, types = self.node(step.base, focus)
        keys = self._keys(types, step.name, only)
        collect = _collector(tuple("_" + key if beside and _is_primitive(keys[key]) else key for key in keys))
        found = frozenset(t for types_of_key in keys.values() for t in types_of_key)
        if base is None:
            return (lambda items, _scope: collect(items)), found
        inner = base
        return (lambda items, scope: collect(inner(items, scope))), found

    def _keys(self, types: Types, name: str, only: str | None) -> dict[str, Types]:
        """JSON keys of element ``name`` of any of ``types``, with the types of what stands there."""
        keys: dict[str, Types] = {}
        for type_name in types:
            for key, found in self._element_keys(type_name, name, only):
                keys[key] = keys.get(key, _ANY) | {found}
        if keys:
            return keys
        open_ended = not types or types & {"Resource", "DomainResource"}
        if open_ended and only is None:
            return {name: _ANY}
        raise PathNotUnderstood(f"{'|'.join(sorted(types))} has no {name}")

    def _element_keys(self, type_name: str, name: str, only: str | None) -> list[tuple[str, str]]:
        row = self._definitions.types.get(type_name)
        if row is None:
            return []
        element = row.elements.get(name) or row.elements.get(f"{name}[x]")
        if element is None:
            return []
        return _keys_of(element, only)

    def _type_op(self, node: TypeOp, focus: Types) -> tuple[Evaluate, Types]:
        if isinstance(node.base, Call) and node.base.name == "resolve":
            return self._resolved(node, node.base, focus)
        kept, types = self._as(node, focus)
        if node.op == "as":
            return kept, types
        base, _ = self.node(node.base, focus)

        def is_type(items: Items, scope: Scope) -> Items:
            return [bool(kept(items, scope))] if base(items, scope) else []

        return is_type, frozenset({"boolean"})

    def _resolved(self, node: TypeOp, call: Call, focus: Types) -> tuple[Evaluate, Types]:
        """``resolve() is Type``: judged by what the reference shows, since nothing is fetched."""
        if node.op != "is":
            raise PathNotUnderstood("only the type of a resolved reference is known")
        base, _ = self.node(call.base or Variable("this"), focus)

        def points_to(items: Items, scope: Scope) -> Items:
            references = base(items, scope)
            return [type_of(references[0], scope.contained) == node.type] if references else []

        return points_to, frozenset({"boolean"})

    def _as(self, node: TypeOp, focus: Types) -> tuple[Evaluate, Types]:
        wanted = node.type
        if isinstance(node.base, Step):
            try:
                return self._step(node.base, focus, wanted)
            except PathNotUnderstood:
                pass
        base, types = self.node(node.base, focus)
        if types == {wanted}:
            return base, types
        if wanted not in self._definitions.resource_types():
            if wanted in self._definitions.types and types and not types & _OPEN and wanted not in _bases(types):
                return (lambda _items, _scope: []), frozenset({wanted})
            raise PathNotUnderstood(f"a value cannot be told to be {wanted}")

        def of_type(items: Items, scope: Scope) -> Items:
            found = base(items, scope)
            return [i for i in found if type(i) is dict and i.get("resourceType") == wanted]

        return of_type, frozenset({wanted})

    def _call(self, call: Call, focus: Types) -> tuple[Evaluate, Types]:
        if call.base is None:
            base, types = self._variable("this", focus)
        elif call.name in _OF_EXTENSIONS and isinstance(call.base, Step):
            base, types = self._step(call.base, focus, None, beside=True)
        else:
            base, types = self.node(call.base, focus)
        if call.name in _OF_EXTENSIONS and not isinstance(call.base, Step) and _is_primitive(types):
            raise PathNotUnderstood("extensions of a value that is not named by its element")
        make = FUNCTIONS.get(call.name)
        if make is None:
            raise PathNotUnderstood(f"function {call.name}")
        per_item = call.name in ("where", "all", "exists", "select", "iif")
        compiled = [self.node(a, types if per_item else focus) for a in call.args]
        try:
            run = make([c[0] for c in compiled])
        except IndexError:
            raise PathNotUnderstood(f"{call.name} lacks an argument") from None
        if call.name == "select":
            types = compiled[0][1]
        elif call.name == "extension":
            types = frozenset({"Extension"})
        elif call.name not in ("where", "first", "tail", "trace", "distinct"):
            types = _ANY
        if call.base is None:
            return (lambda items, scope: run(items, scope, items)), types
        return (lambda items, scope: run(base(items, scope), scope, items)), types


def _called(node: Node) -> str:
    return f"the operator {node.op}" if isinstance(node, (Binary, Sign)) else f"a {type(node).__name__.lower()}"


# R4 datatypes.html: a value of the type on the left is also one of the type on the right.
_BASES = {
    **dict.fromkeys(("canonical", "oid", "url", "uuid"), "uri"),
    **dict.fromkeys(("code", "id", "markdown"), "string"),
    **dict.fromkeys(("positiveInt", "unsignedInt"), "integer"),
    **dict.fromkeys(("Age", "Count", "Distance", "Duration"), "Quantity"),
}


def _is_primitive(types: Types) -> bool:
    return bool(types) and types <= TESTS.keys()


def _bases(types: Types) -> Types:
    """The types and what they are besides."""
    return types | {_BASES[name] for name in types if name in _BASES}


def _keys_of(element: Element, only: str | None) -> list[tuple[str, str]]:
    if only is None:
        # contentReference and single types alike; a choice gives one key per type.
        return list(element.json_keys().items())
    if not element.is_choice:
        return []
    names = {only, only[0].lower() + only[1:]}
    return [(k, found) for k, found in element.json_keys().items() if {found, _BASES.get(found)} & names]


def _operator(op: str, left: Evaluate, right: Evaluate) -> tuple[Evaluate, Types]:
    make = _OPERATORS[op]

    def run(items: Items, scope: Scope) -> Items:
        return make(left(items, scope), right(items, scope))

    if op not in ("and", "or", "implies"):
        return run, (_ANY if op in ("|", "&", "+") else frozenset({"boolean"}))
    # The value of the left side that settles the matter without the right one.
    settled, result = {"and": (False, False), "or": (True, True), "implies": (False, True)}[op]

    def run_lazily(items: Items, scope: Scope) -> Items:
        first = left(items, scope)
        if boolean(first) is settled:
            return [result]
        return make(first, right(items, scope))

    return run_lazily, frozenset({"boolean"})


def _and(a: Items, b: Items) -> Items:
    x, y = boolean(a), boolean(b)
    if x is False or y is False:
        return [False]
    return [] if x is None or y is None else [True]


def _or(a: Items, b: Items) -> Items:
    x, y = boolean(a), boolean(b)
    if x or y:
        return [True]
    return [] if x is None or y is None else [False]


def _xor(a: Items, b: Items) -> Items:
    x, y = boolean(a), boolean(b)
    return [] if x is None or y is None else [x is not y]


def _implies(a: Items, b: Items) -> Items:
    x, y = boolean(a), boolean(b)
    if x is False or y:
        return [True]
    return [] if x is None or y is None else [False]


def _equal(a: Items, b: Items) -> Items:
    if not a or not b:
        return []
    return [len(a) == len(b) and all(distinct_key(x) == distinct_key(y) for x, y in zip(a, b, strict=True))]


def _unequal(a: Items, b: Items) -> Items:
    same = _equal(a, b)
    return [not same[0]] if same else []


def _union(a: Items, b: Items) -> Items:
    return list({distinct_key(v): v for v in (*a, *b)}.values())


def _in(a: Items, b: Items) -> Items:
    if not a:
        return []
    held = {distinct_key(v) for v in b}
    return [all(distinct_key(v) in held for v in a)]


def _plus(a: Items, b: Items) -> Items:
    kinds = {"text" if type(v) is str else "number" if type(v) in (int, Decimal) else "" for v in (*a[:1], *b[:1])}
    return [a[0] + b[0]] if a and b and kinds in ({"text"}, {"number"}) else []


def _concatenate(a: Items, b: Items) -> Items:
    return ["".join(v if type(v) is str else render(v).decode() for v in (*a[:1], *b[:1]))]


def _ordered(test: Callable[[int], bool]) -> Callable[[Items, Items], Items]:
    def run(a: Items, b: Items) -> Items:
        if len(a) != 1 or len(b) != 1:
            return []
        order = compare(a[0], b[0])
        return [] if order is None else [test(order)]

    return run


_DATE = re.compile(r"\d{4}(-\d\d(-\d\d(T.*)?)?)?")


def compare(a: Any, b: Any) -> int | None:
    """Return -1, 0 or 1; None where the standard gives no order (other kinds, overlapping dates, other units)."""
    if type(a) is dict and type(b) is dict:
        if (a.get("system"), a.get("code"), a.get("unit")) != (b.get("system"), b.get("code"), b.get("unit")):
            return None
        return compare(a.get("value"), b.get("value"))
    if type(a) is str and type(b) is str:
        if _DATE.fullmatch(a) and _DATE.fullmatch(b):
            return _compare_dates(a, b)
        return (a > b) - (a < b)
    if isinstance(a, (str, dict, bool, type(None))) or isinstance(b, (str, dict, bool, type(None))):
        return None
    return int(a > b) - int(a < b)


def _compare_dates(a: str, b: str) -> int | None:
    first, second = interval(a), interval(b)
    if first is None or second is None:
        return None
    if first == second:
        return 0
    if first[1] <= second[0]:
        return -1
    return 1 if second[1] <= first[0] else None


_OPERATORS: dict[str, Callable[[Items, Items], Items]] = {
    "and": _and,
    "or": _or,
    "xor": _xor,
    "implies": _implies,
    "=": _equal,
    "!=": _unequal,
    "|": _union,
    "in": _in,
    "contains": lambda a, b: _in(b, a),
    "+": _plus,
    "&": _concatenate,
    "<": _ordered(lambda order: order < 0),
    ">": _ordered(lambda order: order > 0),
    "<=": _ordered(lambda order: order <= 0),
    ">=": _ordered(lambda order: order >= 0),
}
