"""FHIRPath, the whole language as FHIR R4 uses it: compiled once, then run over decoded JSON.

For conditions of rules, and for whoever asks a record a question that is not HL7's own. The language is FHIRPath N1
(2.0.0, https://hl7.org/fhirpath/N1/) with the functions of R4 (fhirpath.html#functions), by its letter: misspelt
elements and operators between types that never fit are refused when compiling, and an item too many is an error when
running. The official test suite is the judge (``tests/conformance/test_fhirpath_suite.py``).

Invariants:
    * evaluation does no I/O, follows no reference out of the record, and changes nothing;
    * without ``with_clock`` the same record gives the same result, whenever and wherever it is asked;
    * no error holds a value of a record;
    * a step, an operator or a function is linear in what it works on; a criterion that looks at the whole record is
      so for each item, and one within such a one is refused; nothing that a text could make costly runs, and what
      grows without end is stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import DecimalException
from typing import Any

from fhir_bridge.fhir.fhirpath.compiling import FUNCTIONS, Compiler
from fhir_bridge.fhir.fhirpath.parts import Test
from fhir_bridge.fhir.fhirpath.steps import node_of
from fhir_bridge.fhir.fhirpath.types import Model, Types, model_of, type_of
from fhir_bridge.fhir.fhirpath.values import (
    Evaluate,
    Items,
    Node,
    PathFailed,
    Quantity,
    Scope,
    TypeInfo,
    plain,
    truth,
)
from fhir_bridge.fhir.path_costs import refuse_powers
from fhir_bridge.fhir.path_syntax import PathNotUnderstood, read
from fhir_bridge.fhir.reference_text import contained_types
from fhir_bridge.fhir.tables import Definitions

__all__ = [
    "FUNCTIONS",
    "Expression",
    "Items",
    "Node",
    "PathFailed",
    "PathNotUnderstood",
    "Quantity",
    "TypeInfo",
    "compile_expression",
    "plain",
    "type_of",
]


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression.

    Attributes:
        types: Types that its results can have; empty for any.
    """

    text: str
    types: Types
    _type_name: str
    _evaluate: Evaluate
    _test: Test | None
    _nodes: Callable[[dict[str, Any]], Items] | None
    _model: Model

    def select(self, focus: Any, *, now: datetime | None = None) -> Items:
        """Return what the expression selects, elements as ``Node`` and what it made itself as plain values.

        Args:
            focus: JSON of a resource, or of a value of the type it was compiled for.
            now: Moment of evaluation, for one that was compiled with a clock.

        Raises:
            PathFailed: The data does not fit; see there.
        """
        if self._nodes is not None and type(focus) is dict:
            return self._nodes(focus)
        return self._run(focus, focus, now)

    def holds(self, focus: Any, resource: dict[str, Any] | None = None) -> bool:
        """Tell whether it gives true; false, nothing and another item are not.

        Args:
            focus: Where it starts: a resource, or an object within ``resource``.

        Raises:
            PathFailed: The data does not fit.
        """
        if self._test is not None and type(focus) is dict:
            return self._test(focus) is True
        return truth(self._run(focus, focus if resource is None else resource, None), "a condition") is True

    def _run(self, focus: Any, resource: dict[str, Any], now: datetime | None) -> Items:
        whole = node_of(resource, self._model)
        start = whole if focus is resource else Node(focus, self._type_name)
        held = contained_types(resource) if "contained" in resource else {}
        try:
            return self._evaluate([start], Scope(whole, start, whole, held, now))
        except DecimalException:
            raise PathFailed("a number becomes too large to go on with") from None
        except RecursionError:
            raise PathFailed("the expression is nested too deeply to be run") from None


def compile_expression(
    text: str, type_name: str, definitions: Definitions, *, resource: str = "", with_clock: bool = False
) -> Expression:
    """Compile an expression for a focus of type ``type_name``.

    Args:
        resource: Type of ``%resource``; by default the one that ``type_name`` is, or is a part of.
        with_clock: Allow ``now()``, ``today()`` and ``timeOfDay()``.

    Raises:
        PathNotUnderstood: It is no FHIRPath, names what the type does not have, or uses what is not evaluated here.
    """
    model = model_of(definitions)
    compiler = Compiler(model, type_name, resource or type_name.split(".")[0], with_clock=with_clock)
    tree = read(text)
    refuse_powers(tree)
    try:
        part = compiler.part(tree, frozenset({type_name}))
    except RecursionError:
        raise PathNotUnderstood("the expression is nested too deeply to be compiled") from None
    return Expression(text, part.types, type_name, part.evaluate, part.test, part.nodes, model)
