"""Units in words, for people: ``mm[Hg]`` is ``(millimeter of mercury column)``."""

from __future__ import annotations

from fhir_bridge.fhir.ucum.syntax import Component, Number, Term, parse


def display(code: str) -> str:
    """Return the unit in words, in the form of UCUM's functional tests; a code that is no unit stays as it is."""
    if not code:
        return "(unity)"
    tree = parse(code)
    return code if tree is None else _term(tree)


def _term(term: Term) -> str:
    words = ""
    for divides, part in term.parts:
        sign = (" / " if words else "/ ") if divides else (" * " if words else "")
        words += sign + _component(part)
    return words


def _component(part: Component) -> str:
    if isinstance(part, Term):
        return f"({_term(part)})"
    if isinstance(part, Number):
        return str(part.value)
    name = ("" if part.prefix is None else part.prefix.name) + part.atom.name
    return f"({name})" if part.power == 1 else f"({name} ^ {part.power})"
