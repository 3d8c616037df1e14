"""Reduce a unit to its canonical form: an exact factor, powers of base units, and the scale it counts on.

Most units are ratios: so many base units. Special ones (section 21) stand on another scale, such as degrees Celsius
or the pH; these take a prefix or a number before them and no part in any other arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from fhir_bridge.fhir.ucum.syntax import Component, Number, Simple, Term, parse

AMOUNTS = frozenset({"mol", "eq", "osm"})
"""Amounts of something. By the tables a mole is a number and an equivalent a mole; what was measured is neither."""

# Ten to a higher power measures nothing; keeps the factor of a hostile code small.
_MAX_POWER = 99


@dataclass(frozen=True, slots=True)
class Canonical:
    """What a unit is.

    Attributes:
        factor: How many canonical units one of it is; for a special unit, how many one unit of the function's is.
        dimension: Base or arbitrary unit → power, without zeros, in the order of their codes. An atom that stands
            apart is ``+mol`` above the line and ``-mol`` below.
        function: Name of the function of a special unit; empty on a ratio scale.
        step: How far one of the unit moves on the scale of the function: 1, or a tenth for ``dB``.
    """

    factor: Fraction
    dimension: tuple[tuple[str, int], ...]
    function: str = ""
    step: Fraction = Fraction(1)


class _NoRatio(Exception):
    """A special unit takes part in arithmetic, or a number leads beyond all measure."""


@lru_cache(maxsize=4096)
def canonical(code: str, apart: frozenset[str] = frozenset()) -> Canonical | None:
    """Return the canonical form of ``code``, or None if it is no UCUM unit or has none (``Cel2``, ``W/[pH]``).

    Args:
        apart: Atoms that shall count as dimensions of their own, above the line and below it: with ``mol`` apart, an
            amount is no mere number and ``mmol/mol`` no percentage.
    """
    tree = parse(code)
    try:
        return None if tree is None else _term(tree, apart)
    except (_NoRatio, ZeroDivisionError):
        return None


def _term(term: Term, apart: frozenset[str]) -> Canonical:
    made = _ONE
    for divides, part in term.parts:
        made = _times(made, _component(part, apart, divides=divides))
    return made


_ONE = Canonical(Fraction(1), ())


def _component(part: Component, apart: frozenset[str], *, divides: bool) -> Canonical:
    if isinstance(part, Simple):
        return _simple(part, apart, -part.power if divides else part.power)
    found = Canonical(Fraction(part.value), ()) if isinstance(part, Number) else _term(part, apart)
    return _power(found, -1) if divides else found


def _simple(part: Simple, apart: frozenset[str], power: int) -> Canonical:
    if abs(power) > _MAX_POWER:
        raise _NoRatio
    atom, prefix = part.atom, Fraction(1) if part.prefix is None else part.prefix.factor
    if atom.code in apart:
        return _power(Canonical(prefix, (("+" + atom.code, 1),)), power)
    if not atom.unit or (atom.is_arbitrary and atom.unit == "1"):
        return _power(Canonical(prefix, ((atom.code, 1),)), power)
    below = canonical(atom.unit, apart)
    assert below is not None, "the tables define every atom by units that they define"
    if not atom.function:
        return _power(Canonical(prefix * atom.value * below.factor, below.dimension), power)
    return _power(Canonical(atom.value * below.factor, below.dimension, atom.function, prefix), power)


def _power(unit: Canonical, power: int) -> Canonical:
    if power == 1:
        return unit
    if unit.function:
        raise _NoRatio
    powers = dict(_raised(name, n, power) for name, n in unit.dimension)
    return Canonical(unit.factor**power, _sorted(powers))


def _raised(name: str, n: int, power: int) -> tuple[str, int]:
    """A dimension to a power; one that stands apart changes sides instead of sign, so that it never cancels."""
    if name[0] not in "+-":
        return name, n * power
    return (name if power > 0 else ("-" if name[0] == "+" else "+") + name[1:]), n * abs(power)


def _times(one: Canonical, other: Canonical) -> Canonical:
    if one.function and other.function:
        raise _NoRatio
    if one.function or other.function:
        special, number = (one, other) if one.function else (other, one)
        if number.dimension:
            raise _NoRatio
        return Canonical(special.factor, special.dimension, special.function, special.step * number.factor)
    powers = dict(one.dimension)
    for name, power in other.dimension:
        powers[name] = powers.get(name, 0) + power
    return Canonical(one.factor * other.factor, _sorted(powers))


def _sorted(powers: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((name, power) for name, power in powers.items() if power))
