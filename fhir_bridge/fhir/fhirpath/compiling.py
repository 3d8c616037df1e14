"""Compile the tree of an expression to closures; static types are decided on the way.

For the front door. Each node of the tree becomes a ``Part`` (``parts.py``); types come from the tables
(``types.py``), functions and operators from the modules of these names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from fhir_bridge.fhir.fhirpath import on_collections, on_conversion, on_numbers, on_resources, on_text, steps
from fhir_bridge.fhir.fhirpath.calls import Argument, Function
from fhir_bridge.fhir.fhirpath.operators import LOGIC, OPERATORS, logic, result_types, signed
from fhir_bridge.fhir.fhirpath.parts import (
    Part,
    Test,
    at_most_one,
    call_test,
    call_walk,
    equals,
    joined,
    tested,
    truth_of,
)
from fhir_bridge.fhir.fhirpath.steps import Walk
from fhir_bridge.fhir.fhirpath.temporal import read_literal
from fhir_bridge.fhir.fhirpath.types import (
    ANY,
    BOOLEAN,
    DECIMAL,
    INTEGER,
    KINDS,
    QUANTITY,
    STRING,
    SYSTEM,
    TYPE_INFO,
    Model,
    TypeName,
    Types,
    could_be,
    did_you_mean,
    shown,
)
from fhir_bridge.fhir.fhirpath.units import calendar_unit
from fhir_bridge.fhir.fhirpath.values import Evaluate, Items, Node, PathFailed, Quantity, Scope, TypeInfo, single
from fhir_bridge.fhir.path_syntax import (
    Binary,
    Call,
    Dated,
    Index,
    Literal,
    Measured,
    Nothing,
    PathNotUnderstood,
    Sign,
    Step,
    TypeOp,
    Variable,
)
from fhir_bridge.fhir.path_syntax import Node as Syntax

FUNCTIONS: Mapping[str, Function] = {
    **on_collections.TABLE,
    **on_text.TABLE,
    **on_numbers.TABLE,
    **on_conversion.TABLE,
    **on_resources.TABLE,
}
_CONSTANTS = {"ucum": "http://unitsofmeasure.org", "sct": "http://snomed.info/sct", "loinc": "http://loinc.org"}
_URLS = {"vs-": "http://hl7.org/fhir/ValueSet/", "ext-": "http://hl7.org/fhir/StructureDefinition/"}
_INFO = {"namespace": "namespace", "name": "name", "baseType": "base"}
_MOST_ROUNDS = 8


class Compiler:
    """One walk over one tree.

    Args:
        context: Type the expression starts at; ``resource`` the type of ``%resource``.
        with_clock: Whether it may ask for the time.
    """

    def __init__(self, model: Model, context: str, resource: str, *, with_clock: bool) -> None:
        self._model = model
        self._context = context
        self._resource = resource
        self._with_clock = with_clock
        self._made: dict[tuple[int, Types], tuple[Syntax, Part]] = {}

    def part(self, node: Syntax, focus: Types) -> Part:
        """Compile a part whose ``$this`` has one of the types ``focus``; only once, as ``repeat()`` asks often."""
        made = self._made.get((id(node), focus))
        if made is None:
            # The node is held, so that its number stays its own.
            made = self._made[id(node), focus] = (node, self._part(node, focus))
        return made[1]

    def _part(self, node: Syntax, focus: Types) -> Part:
        match node:
            case Literal() | Dated() | Measured() | Nothing():
                return _constant(node)
            case Variable(name):
                return self._variable(name, focus)
            case Step():
                return self._step(node, focus)
            case Call():
                return self._call(node, focus)
            case TypeOp():
                return self._type_op(node, focus)
            case Index():
                return self._index(node, focus)
            case Sign(op, operand):
                return self._sign(op, self.part(operand, focus))
            case Binary(op, left, right):
                return self._binary(op, left, right, focus)

    def _variable(self, name: str, focus: Types) -> Part:
        match name:
            case "this":
                return self._this(focus)
            case "$index":
                return Part(lambda _items, scope: [] if scope.index is None else [scope.index], INTEGER)
            case "$total":
                return Part(lambda _items, scope: scope.total or [])
            case "resource":
                return Part(lambda _items, scope: [scope.resource], frozenset({self._resource}))
            case "rootResource":
                return Part(lambda _items, scope: [scope.root])
            case "context":
                return Part(lambda _items, scope: [scope.context], frozenset({self._context}))
        url = _CONSTANTS.get(name) or next(
            (base + name.removeprefix(prefix) for prefix, base in _URLS.items() if name.startswith(prefix)), None
        )
        if url is None:
            known = ("resource", "rootResource", "context", *_CONSTANTS)
            raise PathNotUnderstood(f"no variable %{name}{did_you_mean(name, known)}")
        made = [url]
        return Part(lambda _items, _scope: made, STRING)

    def _this(self, focus: Types) -> Part:
        walk = steps.starting_walk(focus)
        if walk is not None and (walk.type not in self._model.definitions.types or self._model.is_open(focus)):
            walk = None
        if walk is not None and self._model.is_primitive(walk.type):
            walk = None
        return Part(lambda items, _scope: items, focus, walk)

    def _step(self, node: Step, focus: Types) -> Part:
        if node.base is None and self._names_focus(node.name, focus):
            return self._this(focus)
        base = self._this(focus) if node.base is None else self.part(node.base, focus)
        if base.types == TYPE_INFO:
            return _of_info(base.evaluate, node.name)
        types = steps.types_below(base.types, node.name, self._model)
        if not types and not self._model.is_open(base.types):
            raise PathNotUnderstood(self._no_element(base.types, node.name))
        below = steps.step(node.name, self._model)
        inner = base.evaluate
        if base.walk is None:
            evaluate: Evaluate = lambda items, scope: below(inner(items, scope))  # noqa: E731 - one of two forms
            return Part(evaluate, types if not self._model.is_open(base.types) else ANY, is_ordered=base.is_ordered)
        return self._walked(base, base.walk, node, types, below)

    def _walked(self, base: Part, walk: Walk, node: Step, types: Types, below: Callable[[Items], Items]) -> Part:
        is_start = node.base is None or _is_start(node.base)
        inner, quick = base.evaluate, steps.nodes(walk, node.name, self._model, is_start=is_start)

        def evaluate(items: Items, scope: Scope) -> Items:
            if len(items) == 1 and type(items[0]) is Node and type(items[0].value) is dict:
                return quick(items[0].value)
            return below(inner(items, scope))

        longer = steps.longer(walk, node.name, self._model, is_start=is_start)
        test = truth_of(longer) if longer is not None and longer.type == "boolean" else None
        return Part(evaluate, types, longer, test, nodes=quick)

    def _names_focus(self, name: str, focus: Types) -> bool:
        """Whether a first step names the type of what it starts at (N1 section 3)."""
        if not name[:1].isupper():
            return False
        return any(name in self._model.bases(each) for each in focus) or (not focus and name == self._context)

    def _no_element(self, types: Types, name: str) -> str:
        known = {each for one in types for each in self._model.children(one)}
        keys = {key for one in types for found in self._model.children(one).values() for key, _, _ in found}
        if name in keys:
            stem = next(each for each in known if name.startswith(each))
            return f"{shown(types)} has no {name}; a choice is asked for by {stem}, or {stem}.ofType(…) for one type"
        return f"{shown(types)} has no {name!r}{did_you_mean(name, known)}"

    def _type_op(self, node: TypeOp, focus: Types) -> Part:
        wanted = self._model.type_named(node.type)
        if isinstance(node.base, Call) and node.base.name == "resolve":
            return self._resolved(node, node.base, wanted, focus)
        base = self.part(node.base, focus)
        inner, model = base.evaluate, self._model
        if node.op == "is":

            def is_type(items: Items, scope: Scope) -> Items:
                found = inner(items, scope)
                at_most_one(found, "is")
                return [model.is_a(item, wanted) for item in found]

            return Part(is_type, BOOLEAN)

        is_filter = node.how == "ofType"

        def as_type(items: Items, scope: Scope) -> Items:
            found = inner(items, scope)
            if not is_filter:
                at_most_one(found, "as")
            return [item for item in found if model.counts_as(item, wanted)]

        return Part(as_type, _named(wanted, base.types), is_ordered=base.is_ordered)

    def _resolved(self, node: TypeOp, call: Call, wanted: TypeName, focus: Types) -> Part:
        """``resolve() is Type``: judged by what the reference shows, since nothing is fetched."""
        if node.op == "is":
            inner = (self._this(focus) if call.base is None else self.part(call.base, focus)).evaluate
            bases = self._model.bases

            def points_to(items: Items, scope: Scope) -> Items:
                found = inner(items, scope)
                at_most_one(found, "is")
                return [t is not None and wanted.name in bases(t) for t in on_resources.type_shown(found, scope)]

            return Part(points_to, BOOLEAN)
        resolved, model = self._call(call, focus).evaluate, self._model
        return Part(
            lambda items, scope: [i for i in resolved(items, scope) if model.counts_as(i, wanted)],
            frozenset({wanted.name}),
        )

    def _index(self, node: Index, focus: Types) -> Part:
        base, at = self.part(node.base, focus), self.part(node.at, focus).evaluate
        if not base.is_ordered:
            raise PathNotUnderstood("what has no order has no first or next item: an index after children()")
        inner = base.evaluate

        def item_at(items: Items, scope: Scope) -> Items:
            place = single(at(items, scope), "[]")
            if type(place) is not int:
                raise PathFailed("[] wants a whole number")
            found = inner(items, scope)
            return found[place : place + 1] if place >= 0 else []

        return Part(item_at, base.types)

    def _sign(self, op: str, operand: Part) -> Part:
        if not could_be(operand.types, ("number", "quantity")):
            raise PathNotUnderstood(f"{op} is not for {shown(operand.types)}")
        return Part(signed(op, operand.evaluate), operand.types)

    def _binary(self, op: str, left: Syntax, right: Syntax, focus: Types) -> Part:
        a, b = self.part(left, focus), self.part(right, focus)
        if op in LOGIC:
            both = joined(op, a.test, b.test) if a.test is not None and b.test is not None else None
            return tested(logic(op, a.evaluate, b.evaluate), both)
        types = result_types(op, a.types, b.types)
        apply, first, second = OPERATORS[op], a.evaluate, b.evaluate
        test = equals(a, right) or equals(b, left) if op == "=" else None
        made = tested(lambda items, scope: apply(first(items, scope), second(items, scope)), test)
        return replace(made, types=types, is_ordered=op != "|" or (a.is_ordered and b.is_ordered))

    def _call(self, node: Call, focus: Types) -> Part:
        function = self._function(node)
        base = self._this(focus) if node.base is None else self.part(node.base, focus)
        if not could_be(base.types, function.wants) and function.wants:
            raise PathNotUnderstood(f"{node.name}() is not for {shown(base.types)}")
        if function.needs_order and not base.is_ordered:
            raise PathNotUnderstood(f"what has no order has no first or next item: {node.name}() after children()")
        seen = self._repeated(node, base.types) if function.gives == "repeated" else base.types
        parts = [self.part(each, seen if at in function.over_items else focus) for at, each in enumerate(node.args)]
        if node.name == "iif" and parts[0].types and not parts[0].types & KINDS["boolean"]:
            raise PathNotUnderstood(f"iif() wants a boolean, not {shown(parts[0].types)}")
        arguments = tuple(
            Argument(syntax, part.evaluate, part.types, part.test, _asks_for_index(syntax))
            for syntax, part in zip(node.args, parts, strict=True)
        )
        run, inner = function.make(arguments, self._model), base.evaluate
        if node.base is None:
            evaluate: Evaluate = lambda items, scope: run(items, scope, items)  # noqa: E731 - one of two forms
        else:
            evaluate = lambda items, scope: run(inner(items, scope), scope, items)  # noqa: E731 - one of two forms
        made = tested(evaluate, call_test(node.name, base, parts))
        return replace(
            made,
            types=_given(function, base.types, [part.types for part in parts]),
            walk=call_walk(node.name, base, parts),
            is_ordered=function.gives != "unordered" and (function.gives != "input" or base.is_ordered),
        )

    def _function(self, node: Call) -> Function:
        function = FUNCTIONS.get(node.name)
        if function is None:
            why = on_resources.REFUSED.get(node.name)
            raise PathNotUnderstood(why or f"no function {node.name}(){did_you_mean(node.name, FUNCTIONS)}")
        if not function.least <= len(node.args) <= function.most:
            wanted = (
                str(function.least) if function.least == function.most else f"{function.least} to {function.most}"
            )
            raise PathNotUnderstood(f"{node.name}() takes {wanted} arguments, not {len(node.args)}")
        if function.needs_clock and not self._with_clock:
            raise PathNotUnderstood(f"{node.name}() would give another result each time, and so cannot be used here")
        return function

    def _repeated(self, node: Call, types: Types) -> Types:
        """Types of the items that ``repeat()`` goes through: those it starts with, and whatever it finds."""
        for _ in range(_MOST_ROUNDS):
            found = self.part(node.args[0], types).types
            if not found or not types:
                return ANY
            if found <= types:
                return types
            types |= found
        return ANY


def _constant(node: Literal | Dated | Measured | Nothing) -> Part:
    match node:
        case Nothing():
            return Part(lambda _items, _scope: [])
        case Measured(number, unit, is_word):
            value: Any = Quantity(number, unit, is_word or calendar_unit(unit) is not None)
            types = QUANTITY
        case Dated(text):
            value = read_literal(text)
            if value is None:
                raise PathNotUnderstood(f"@{text} is no date or time")
            types = frozenset({SYSTEM + value.kind})
        case Literal(value):
            types = {str: STRING, bool: BOOLEAN, int: INTEGER}.get(type(value), DECIMAL)
    made = [value]
    test: Test | None = (lambda _holder: bool(value)) if type(value) is bool else None
    return Part(lambda _items, _scope: made, types, test=test)


def _of_info(inner: Evaluate, name: str) -> Part:
    field = _INFO.get(name)
    if field is None:
        raise PathNotUnderstood(f"what type() gives has no {name!r}{did_you_mean(name, _INFO)}")
    attribute = field

    def run(items: Items, scope: Scope) -> Items:
        return [getattr(item, attribute) for item in inner(items, scope) if type(item) is TypeInfo]

    return Part(run, STRING)


def _named(wanted: TypeName, types: Types) -> Types:
    """Types of what ``as`` leaves; a name in both namespaces means the one that is there."""
    if wanted.in_fhir and (not wanted.in_system or any(not each.startswith(SYSTEM) for each in types)):
        return frozenset({wanted.name})
    return frozenset({SYSTEM + wanted.name})


def _given(function: Function, base: Types, arguments: list[Types]) -> Types:
    match function.gives:
        case "input":
            return base
        case "argument":
            return arguments[0]
        case "both":
            return base | arguments[0] if base and arguments[0] else ANY
        case "branches":
            return frozenset().union(*arguments[1:]) if all(arguments[1:]) else ANY
        case "repeated" | "unordered":
            return ANY
        case types:
            return types if isinstance(types, frozenset) else ANY


def _is_start(base: Syntax | None) -> bool:
    """Whether a step's base is the focus itself, so that its walk has nothing before it."""
    return isinstance(base, Variable) or (isinstance(base, Step) and base.base is None and base.name[:1].isupper())


def _asks_for_index(node: Any) -> bool:
    if isinstance(node, Variable):
        return node.name == "$index"
    if isinstance(node, tuple):
        return any(map(_asks_for_index, node))
    return is_dataclass(node) and any(_asks_for_index(getattr(node, each.name)) for each in fields(node))
