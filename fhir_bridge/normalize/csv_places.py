"""Where a column of a CSV file goes: a path checked against the definitions of R4.

A path is element names joined by dots, with ``[n]`` for the n-th of a list, counted from 0; without it the first is
meant, at the end of a path the next that is free. A choice of types is named by its key: ``valueQuantity``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fhir_bridge.fhir.primitives import TESTS
from fhir_bridge.fhir.tables import Element, r4
from fhir_bridge.formats import Step
from fhir_bridge.normalize.yaml_text import Spot, did_you_mean

_NAME = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9]*)(?:\[(?P<index>[0-9]{1,3})\])?")
_MAX_INDEX = 20
"""Whoever needs a longer list has not one record a row."""


@dataclass(frozen=True, slots=True)
class Place:
    """A compiled path.

    Attributes:
        type_name: Type of the value that goes there.
        expression: The same place as findings of the validator name it.
    """

    text: str
    steps: tuple[Step, ...]
    type_name: str
    expression: str
    element: Element

    @property
    def is_primitive(self) -> bool:
        """True for a value that is one text, number or boolean."""
        return self.type_name in TESTS


def compile_place(text: str, type_name: str, spot: Spot) -> Place:
    """Compile the path of a column or constant of ``type_name``.

    Raises:
        RulesetBroken: No such element; says where and what was meant.
    """
    steps: list[Step] = []
    holder, expression = type_name, type_name
    element: Element | None = None
    for part in text.strip().split("."):
        match = _NAME.fullmatch(part)
        if match is None:
            raise spot.broken(f"cannot read the path {text!r}: write names joined by dots, such as name[0].family")
        if element is not None and holder in TESTS:
            raise spot.broken(f"{expression} is a {holder} and has no parts")
        element = _element(holder, match["name"], spot)
        index = _index(element, match, spot)
        steps.append(Step(match["name"], index))
        expression += f".{match['name']}" + ("" if index is None else f"[{index}]")
        holder = element.json_keys()[match["name"]]
    assert element is not None, "a path has a name at least"
    if holder in ("Resource", "xhtml") or steps[0].key in ("id", "meta", "contained"):
        raise spot.broken(f"{expression} is not filled from columns")
    return Place(text, tuple(steps), holder, expression, element)


def _element(holder: str, name: str, spot: Spot) -> Element:
    elements = r4().types[holder].elements
    for element in elements.values():
        if name in element.json_keys():
            return element
        if element.is_choice and name == element.name[:-3]:
            raise spot.broken(f"{holder}.{element.name} is a choice: name one of {', '.join(element.json_keys())}")
    known = [key for element in elements.values() for key in element.json_keys()]
    raise spot.broken(f"{holder} has no {name!r}{did_you_mean(name, known)}")


def _index(element: Element, match: re.Match[str], spot: Spot) -> int | None:
    if not element.many:
        if match["index"] is not None:
            raise spot.broken(f"{match['name']!r} does not repeat: leave out [{match['index']}]")
        return None
    index = int(match["index"] or 0)
    if index > _MAX_INDEX:
        raise spot.broken(f"at most {_MAX_INDEX + 1} of a list fit into one row")
    return index
