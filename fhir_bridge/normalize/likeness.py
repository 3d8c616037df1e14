"""How likely two Patients are one human: compared field by field, in bits of evidence.

After I. P. Fellegi and A. B. Sunter, A Theory for Record Linkage (1969): each field adds log2(m/u), where *m* is how
often a pair of records of one human shows what is seen, and *u* how often a pair of two humans does. The fields are
taken as independent, which they are not: members of a household share names and address. Therefore a differing given
name rules a pair out, whatever else agrees, unless a trusted identifier is shared; twins stay two.

Pure functions on values. Nobody is linked here: lines/matching.py asks a human.

Invariants:
    * likeness is symmetric, and what one of the two leaves out counts neither way;
    * a result names fields and how they compare, and holds no value of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from rapidfuzz.distance import JaroWinkler

from fhir_bridge.fhir.search import fold

Key = tuple[str, ...]

MAX_BLOCK = 500
"""Records with a key in common, such as a birth date, of which every pair is compared."""

_MIN_DIGITS = 6

_CLOSE = 0.9
"""Jaro-Winkler likeness from which two names count as one spelled twice (W. E. Winkler, 1990)."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What is compared of one Patient, folded to one spelling."""

    families: frozenset[str]
    given: tuple[str, ...]
    born: str
    sex: str
    streets: frozenset[str]
    towns: frozenset[str]
    contacts: frozenset[str]
    identifiers: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Likeness:
    """How two Patients compare.

    Attributes:
        bits: Evidence for one human; below 0 for two.
        fields: Field → how the two compare in it: ``same``, ``similar``, ``different`` and the like.
        shares_identifier: Both carry the same identifier of a trusted system, and of none a different one.
        is_ruled_out: Two humans, however much else agrees.
    """

    bits: float
    fields: Mapping[str, str]
    shares_identifier: bool
    is_ruled_out: bool


def traits_of(patient: Mapping[str, Any]) -> Traits:
    """Return what is compared of a valid R4 Patient; old and maiden names and addresses count like the present."""
    names, places = patient.get("name", ()), patient.get("address", ())
    return Traits(
        _held(_letters(n["family"]) for n in names if "family" in n),
        tuple(dict.fromkeys(filter(None, (_letters(given) for n in names for given in n.get("given", ()) if given)))),
        patient.get("birthDate", ""),
        patient.get("gender", "").replace("unknown", ""),
        _held(fold(line) for place in places for line in place.get("line", ()) if line and _letters(line)),
        _held(fold(place["city"]) for place in places if "city" in place and _letters(place["city"])),
        _held(_contact(t["value"]) for t in patient.get("telecom", ()) if "value" in t),
        frozenset((i["system"], i["value"]) for i in patient.get("identifier", ()) if "system" in i and "value" in i),
    )


def pairs(everyone: Sequence[Traits], trusted: Collection[str]) -> tuple[list[tuple[int, int]], int]:
    """Return the pairs of positions worth comparing, and how many blocks were too large to be looked through."""
    blocks: dict[Key, list[int]] = defaultdict(list)
    for at, traits in enumerate(everyone):
        for key in _block_keys(traits, trusted):
            blocks[key].append(at)
    found = {pair for block in blocks.values() if len(block) <= MAX_BLOCK for pair in combinations(block, 2)}
    return sorted(found), sum(len(block) > MAX_BLOCK for block in blocks.values())


def likeness(one: Traits, two: Traits, trusted: Collection[str]) -> Likeness:
    """Compare two Patients.

    Args:
        trusted: Systems of identifiers that are given once to each human, such as a national number.
    """
    fields = {
        "family name": _names(one.families, two.families),
        "given name": _given(one.given, two.given),
        "birth date": _born(one.born, two.born),
        "sex": _sets({one.sex} - {""}, {two.sex} - {""}),
        "address": _address(one, two),
        "telephone or mail": _sets(one.contacts, two.contacts),
        "identifier": _identifiers(one.identifiers, two.identifiers, trusted),
    }
    known = {name: how for name, how in fields.items() if how}
    shares = known.get("identifier") == "same"
    bits = math.fsum(_BITS[name][how] for name, how in known.items())
    return Likeness(bits, known, shares, known.get("given name") == "different" and not shares)


def _bits(**seen: tuple[float, float]) -> dict[str, float]:
    return {how.replace("_", " "): math.log2(m / u) for how, (m, u) in seen.items()}


# (m, u) by field. For u, how often two people agree by chance: one birth date in 25,000 of three generations, one
# family name in 500 as they are spread. For m, how often records of one human do: a tenth have another family name
# (marriage), a few per cent of dates and names are mistyped. Rounded on purpose: a factor of two is one bit.
_BITS: Mapping[str, Mapping[str, float]] = {
    "family name": _bits(same=(0.82, 0.002), similar=(0.08, 0.004), different=(0.10, 0.994)),
    "given name": _bits(same=(0.90, 0.005), similar=(0.08, 0.015), different=(0.02, 0.98)),
    "birth date": _bits(
        same=(0.92, 0.00004), day_and_month_swapped=(0.02, 0.00004), similar=(0.04, 0.0015), different=(0.02, 0.9984)
    ),
    "sex": _bits(same=(0.98, 0.5), different=(0.02, 0.5)),
    "address": _bits(same=(0.50, 0.0005), same_town=(0.25, 0.05), different=(0.25, 0.95)),
    "telephone or mail": _bits(same=(0.50, 0.0005), different=(0.50, 0.9995)),
    # One number in common and another one that differs: one of the two is mistyped, or somebody else's.
    "identifier": _bits(same=(0.96, 0.000001), same_and_different=(0.01, 0.0001), different=(0.03, 0.9999)),
}


def _held(values: Iterable[str]) -> frozenset[str]:
    """Return what says something: a dash that stands for no name must not be a name that two have in common."""
    return frozenset(filter(None, values))


def _letters(name: str) -> str:
    return "".join(c for c in fold(name) if c.isalnum())


def _contact(text: str) -> str:
    """Return a mail address, or the last digits of a telephone number; nothing for "none" and 000-0000."""
    digits = "".join(c for c in text if c.isdigit())
    is_number = len(digits) >= _MIN_DIGITS and len(set(digits)) > 1
    return text.strip().casefold() if "@" in text else digits[-9:] if is_number else ""


def _block_keys(traits: Traits, trusted: Collection[str]) -> Iterable[Key]:
    first = traits.given[0] if traits.given else ""
    if traits.born:
        yield "born", traits.born
        year, _, rest = traits.born.partition("-")
        yield ("turned", year, *sorted(rest.split("-")))
        if first:
            yield "given-day", first, rest
            yield "given-year", first, year
    for family in traits.families:
        yield "name", family[:4], first[:3]
    for contact in traits.contacts:
        yield "contact", contact
    for system, value in traits.identifiers:
        if system in trusted:
            yield "identifier", system, value


def _names(one: Collection[str], two: Collection[str]) -> str:
    if not one or not two:
        return ""
    best = max(JaroWinkler.similarity(a, b) for a in one for b in two)
    return "same" if best == 1 else "similar" if best >= _CLOSE else "different"


def _given(one: Sequence[str], two: Sequence[str]) -> str:
    if not one or not two:
        return ""
    if one[0] == two[0]:
        return "same"
    initial = min(len(one[0]), len(two[0])) == 1 and one[0][0] == two[0][0]
    is_close = initial or not set(one).isdisjoint(two) or JaroWinkler.similarity(one[0], two[0]) >= _CLOSE
    return "similar" if is_close else "different"


def _born(one: str, two: str) -> str:
    if len(one) != 10 or len(two) != 10:
        return ""
    if one == two:
        return "same"
    if one[:4] == two[:4] and one[5:7] == two[8:] and one[8:] == two[5:7]:
        return "day and month swapped"
    is_slip = sum(a != b for a, b in zip(one, two, strict=True)) == 1
    return "similar" if is_slip or (one[4:] == two[4:] and abs(int(one[:4]) - int(two[:4])) == 1) else "different"


def _address(one: Traits, two: Traits) -> str:
    if not (one.streets or one.towns) or not (two.streets or two.towns):
        return ""
    same_town = not one.towns.isdisjoint(two.towns)
    if same_town and not one.streets.isdisjoint(two.streets):
        return "same"
    return "same town" if same_town else "different"


def _sets(one: Collection[str], two: Collection[str]) -> str:
    return "" if not one or not two else "same" if set(one) & set(two) else "different"


def _identifiers(one: Collection[tuple[str, str]], two: Collection[tuple[str, str]], trusted: Collection[str]) -> str:
    mine, theirs = ({each for each in held if each[0] in trusted} for held in (one, two))
    shared = {system for system, _ in mine} & {system for system, _ in theirs}
    if not shared:
        return ""
    same = {system for system, _ in mine & theirs}
    return "different" if not same else "same" if same == shared else "same and different"
