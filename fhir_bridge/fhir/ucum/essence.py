"""Prefixes and unit atoms of UCUM, read once from the file that its keepers publish.

The file travels unchanged, because its licence allows copies and no derivatives; reading it costs about 5 ms when the
first unit is met.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.resources import files
from xml.etree import ElementTree


@dataclass(frozen=True, slots=True)
class Atom:
    """One unit as the tables define it.

    Attributes:
        name: For people, such as ``meter of water column``.
        is_metric: Takes a prefix.
        is_arbitrary: Defined by a procedure, so commensurable with nothing but itself.
        value: How many of ``unit`` it is.
        unit: What it is made from; empty for a base unit.
        function: Name of the function between it and ``value`` times ``unit``; empty on a ratio scale.
    """

    code: str
    name: str
    is_metric: bool
    is_arbitrary: bool
    value: Fraction
    unit: str
    function: str


@dataclass(frozen=True, slots=True)
class Prefix:
    """What may stand before a metric atom."""

    code: str
    name: str
    factor: Fraction


@dataclass(frozen=True, slots=True)
class Essence:
    """The tables, by code."""

    version: str
    prefixes: Mapping[str, Prefix]
    atoms: Mapping[str, Atom]


@cache
def essence() -> Essence:
    """Return the tables of the release that ships with us."""
    text = (files("fhir_bridge.fhir") / "definitions" / "ucum-essence.xml").read_bytes()
    root = ElementTree.fromstring(text)  # noqa: S314 - our own file, no one else's text
    prefixes = {code: Prefix(code, _name(node), _number(node)) for node, code in _coded(root, "prefix")}
    atoms = {
        code: Atom(code, _name(node), True, False, Fraction(1), "", "") for node, code in _coded(root, "base-unit")
    }
    atoms |= {code: _atom(node, code) for node, code in _coded(root, "unit")}
    return Essence(root.get("version", ""), prefixes, atoms)


def _coded(root: ElementTree.Element, tag: str) -> list[tuple[ElementTree.Element, str]]:
    return [(node, node.attrib["Code"]) for node in root.iter() if node.tag.rpartition("}")[2] == tag]


# ``degf(5 K/9)``: so many of which unit. The element inside says the same but for ``%[slope]``, whose angle it calls
# a degree against the specification's table: then 100 % would not be 45 degrees.
_SPECIAL = re.compile(r"\S+\((\S+) (\S+)\)")


def _atom(node: ElementTree.Element, code: str) -> Atom:
    value = _child(node, "value")
    special = _SPECIAL.fullmatch(value.attrib["Unit"])
    return Atom(
        code,
        _name(node),
        node.get("isMetric") == "yes",
        node.get("isArbitrary") == "yes",
        Fraction(special[1] if special else value.attrib["value"]),
        special[2] if special else value.attrib["Unit"],
        _child(value, "function").attrib["name"] if special else "",
    )


def _name(node: ElementTree.Element) -> str:
    return (_child(node, "name").text or "").strip()


def _number(node: ElementTree.Element) -> Fraction:
    return Fraction(_child(node, "value").attrib["value"])


def _child(node: ElementTree.Element, tag: str) -> ElementTree.Element:
    return next(each for each in node if each.tag.rpartition("}")[2] == tag)
