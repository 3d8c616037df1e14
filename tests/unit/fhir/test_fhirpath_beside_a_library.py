"""Made-up expressions select over the official examples what an independent FHIRPath library selects.

The library is fhirpathpy, which only tests use. Hypothesis puts the expressions together from elements of the type,
functions and operators. Left out is what the library does not follow the standard in:

* a primitive with extensions (``_birthDate``) is two items to it, or none: FHIR R4 fhirpath.html#types has one, whose
  children are its extensions;
* ``intersect``, ``exclude`` and ``subsetOf`` take no two objects for equal (N1 sections 5.1.8, 5.3.8 and 6.1.1);
* ``combine`` with an empty input gives nothing, where N1 section 5.4.2 has the other collection;
* an index or a criterion within an argument finds nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from typing import Any

import pytest
from fhirpathpy import compile as compile_with_library
from fhirpathpy.engine.nodes import ResourceNode
from fhirpathpy.models import models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fhir_bridge.fhir.fhirpath import Node, PathFailed, compile_expression, plain
from fhir_bridge.fhir.fhirpath.types import KINDS
from fhir_bridge.fhir.fhirpath.values import text_of
from fhir_bridge.fhir.tables import r4
from tests.unit.fhir.fhir_samples import Json, examples

TYPES = ("Patient", "Observation", "Encounter", "MedicationRequest", "Questionnaire", "Claim")
DEPTH = 3


@cache
def samples(type_name: str) -> tuple[Json, ...]:
    """The first official examples of a type in which no primitive has extensions."""
    found = (each for each in examples("r4") if each["resourceType"] == type_name)
    return tuple(each for each in found if '"_' not in json.dumps(each, default=str))[:6]


def elements(type_name: str) -> list[tuple[str, str]]:
    """Name and type of each element that is no choice and holds no resource."""
    row = r4().types.get(type_name)
    if row is None or row.kind == "primitive-type":
        return []
    return [
        (e.name, e.types[0])
        for e in row.elements.values()
        if not e.is_choice and e.types[0] not in ("Resource", "xhtml") and e.name not in ("contained", "extension")
    ]


@st.composite
def paths(draw: st.DrawFn, type_name: str, *, with_criteria: bool = True) -> tuple[str, str]:
    """A path below a type, with functions between its steps, and the type it leads to."""
    names: list[str] = []
    for _ in range(draw(st.integers(1, DEPTH))):
        below = elements(type_name)
        if not below:
            break
        name, type_name = draw(st.sampled_from(below))
        names.append(name + draw(st.sampled_from(("", "", "", ".first()", ".last()", ".tail()", ".take(2)"))))
        inner = elements(type_name)
        is_filtered: bool = with_criteria and draw(st.booleans())
        if inner and is_filtered:
            child, _ = draw(st.sampled_from(inner))
            test = draw(st.sampled_from(("exists", "empty")))
            names.append(f"where({child}.{test}())")
    return ".".join(names), type_name


@st.composite
def expressions(draw: st.DrawFn, type_name: str) -> str:
    """A path, a question about one, or two put together."""
    path, _ = draw(paths(type_name))
    other, _ = draw(paths(type_name))
    bare, kind = draw(paths(type_name, with_criteria=False))
    argument, _ = draw(paths(type_name, with_criteria=False))
    of_values = (
        f"{bare}.intersect({argument}).count()",
        f"{bare}.exclude({argument}).count()",
        f"{bare}.subsetOf({argument} | {bare})",
        f"{bare}.combine({bare}).count()",
    )
    made: str = draw(
        st.sampled_from(
            (
                path,
                f"{path}.count()",
                f"{path}.exists() and {other}.exists()",
                f"{path}.empty() or {other}.exists()",
                f"{path}.exists() xor {other}.exists()",
                f"{path}.exists() implies {other}.exists()",
                f"{path}.exists().not()",
                f"({path}).count() + ({other}).count() * 2 - 1",
                f"({path} | {other}).count()",
                f"{path}.distinct().count()",
                f"{path}.isDistinct()",
                f"{path}.skip(1).count() >= {other}.count() div 2",
                f"({path})[0]",
                f"{path} = {path}",
                f"{path}.select($this).count()",
                f"{path}.all($this.exists())",
                f"{path}.children().count()",
                f"{path}.descendants().count()",
                f"iif({path}.exists(), {path}, {other})",
                f"{path}.repeat(children()).count()",
                *(of_values if not elements(kind) else ()),
            )
        )
    )
    return made


class _Refused:
    """What comes of an error, in ours or in theirs."""


def ours(text: str, resource: Json) -> Any:
    try:
        found = compile_expression(text, resource["resourceType"], r4()).select(resource)
    except PathFailed:
        return _Refused
    return [shown(item) for item in found]


def theirs(text: str, resource: Json) -> Any:
    compiled = compile_with_library(text, models["r4"])
    try:
        found = compiled(plain_json(resource), {"resource": plain_json(resource)})
    except (ValueError, TypeError) as error:
        if "singleton" not in str(error).lower():
            raise
        return _Refused
    return [shown(item.data if isinstance(item, ResourceNode) else item) for item in found]


def shown(item: Any) -> Any:
    """Items in one form: numbers by their value, objects as sorted JSON, anything else as its text."""
    value = item.value if isinstance(item, Node) else item
    if type(value) is bool:
        return value
    if isinstance(value, int | float | Decimal):
        return float(value)
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True, default=float)
    return value if type(value) is str else text_of(plain(item)) or str(value)


def plain_json(value: Json) -> Any:
    return json.loads(json.dumps(value, default=float))


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_both_select_the_same(data: st.DataObject) -> None:
    type_name = data.draw(st.sampled_from(TYPES))
    text = data.draw(expressions(type_name))
    for resource in samples(type_name):
        assert ours(text, resource) == theirs(text, resource), (text, resource["id"])


def _walkable() -> Iterator[tuple[str, str, str]]:
    """Types, paths of one or two steps, and the type each leads to."""
    for type_name in TYPES[:3]:
        for name, kind in elements(type_name):
            yield type_name, name, kind
            for child, below in elements(kind):
                yield type_name, f"{name}.{child}", below


def test_a_path_over_bare_json_finds_what_one_over_elements_finds() -> None:
    """Plain paths take a short way; from %context they take the long one."""
    seen = 0
    for type_name, path, kind in _walkable():
        of_text = ("{} = 'final'", "{} != 'final' or {}.empty().not()") if kind in KINDS["text"] else ()
        for template in ("{}", "{}.exists()", "{}.where($this.exists()).count()", *of_text):
            short = compile_expression(template.replace("{}", path), type_name, r4())
            long = compile_expression(template.replace("{}", f"%context.{path}"), type_name, r4())
            for resource in samples(type_name):
                assert short.select(resource) == long.select(resource), (template, path)
                seen += bool(short.select(resource))
    assert seen > 1_000
