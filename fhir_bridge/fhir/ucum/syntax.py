"""Read a UCUM expression into a tree, or find that it is none.

The grammar is that of https://ucum.org/ucum version 2.2, sections 2 to 7. Two liberties are taken because HL7's own
list of units takes them: a blank may stand in an annotation, and an annotation may follow a number or a closing
parenthesis.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from fhir_bridge.fhir.ucum.essence import Atom, Prefix, essence


@dataclass(frozen=True, slots=True)
class Simple:
    """An atom with prefix and power."""

    prefix: Prefix | None
    atom: Atom
    power: int


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number, or the unity that an annotation alone stands for."""

    value: int


@dataclass(frozen=True, slots=True)
class Term:
    """Factors from left to right; True stands before one that divides."""

    parts: tuple[tuple[bool, Component], ...]


Component = Simple | Number | Term

_NOTE = r"\{[\x20-\x7a\x7c\x7e]*\}"
_COMPONENT = re.compile(
    rf"(?P<note>{_NOTE})"
    r"|(?P<atom>10[*^]|(?:[A-Za-z_%'\"]|\[[^\[\]\s{}]+\])+)(?P<power>[+-]?[0-9]+)?" + rf"(?:{_NOTE})?"
    rf"|(?P<number>[0-9]+)(?:{_NOTE})?"
)
_LAST_NOTE = re.compile(_NOTE)
# Longer than any unit that has a meaning; keeps a hostile code cheap.
_MAX_CHARS = 128


@lru_cache(maxsize=4096)
def is_ucum(code: str) -> bool:
    """Tell whether ``code`` is a valid UCUM expression, such as ``mm[Hg]``, ``10*3/uL`` or ``{score}``."""
    return parse(code) is not None


@lru_cache(maxsize=4096)
def is_in_capitals(code: str) -> bool:
    """Tell whether ``code`` means another thing in UCUM's case insensitive form, where ``M`` is milli and ``P`` pico.

    True of what has no small letter and one of these prefixes, such as ``ML``: whoever writes in capitals means the
    millilitre.
    """
    tree = None if any(sign.islower() for sign in code) else parse(code)
    return tree is not None and _has_prefix(tree, ("M", "P"))


def _has_prefix(term: Term, prefixes: tuple[str, ...]) -> bool:
    for _, part in term.parts:
        if isinstance(part, Term):
            if _has_prefix(part, prefixes):
                return True
        elif isinstance(part, Simple) and part.prefix is not None and part.prefix.code in prefixes:
            return True
    return False


def parse(code: str) -> Term | None:
    """Return the tree of a UCUM expression, or None."""
    if not code or len(code) > _MAX_CHARS:
        return None
    start = 1 if code[0] == "/" else 0
    found = _term(code, start, divides=start == 1)
    return found[0] if found is not None and found[1] == len(code) else None


def _term(code: str, at: int, *, divides: bool = False) -> tuple[Term, int] | None:
    """Read ``component ((. | /) component)*`` from ``at``; return it and where it ends."""
    parts: list[tuple[bool, Component]] = []
    while True:
        found = _component(code, at)
        if found is None:
            return None
        parts.append((divides, found[0]))
        at = found[1]
        if at >= len(code) or code[at] not in "./":
            return Term(tuple(parts)), at
        divides = code[at] == "/"
        at += 1


def _component(code: str, at: int) -> tuple[Component, int] | None:
    if code[at : at + 1] == "(":
        inner = _term(code, at + 1)
        if inner is None or code[inner[1] : inner[1] + 1] != ")":
            return None
        note = _LAST_NOTE.match(code, inner[1] + 1)
        return inner[0], note.end() if note else inner[1] + 1
    match = _COMPONENT.match(code, at)
    if match is None:
        return None
    if match["atom"] is None:
        return Number(int(match["number"] or 1)), match.end()
    simple = _simple(match["atom"], int(match["power"] or 1))
    return None if simple is None else (simple, match.end())


def _simple(symbol: str, power: int) -> Simple | None:
    tables = essence()
    atom = tables.atoms.get(symbol)
    if atom is not None:
        return Simple(None, atom, power)
    for length in (1, 2):
        prefix, atom = tables.prefixes.get(symbol[:length]), tables.atoms.get(symbol[length:])
        if prefix is not None and atom is not None and atom.is_metric:
            return Simple(prefix, atom, power)
    return None
