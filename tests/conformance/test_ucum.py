"""UCUM's own functional tests, a larger suite by others, and the definitions as their keepers publish them.

Needs ``make ucum`` (by PyPI and Maven); what is missing is a failure. An expected value is compared to as many
significant digits as it is told with: those of ours beyond are left to whoever measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Context, Decimal
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from fhir_bridge.fhir.ucum import UCUM, canonical, commensurable, convert, display, is_ucum
from fhir_bridge.query.amounts import quantity_test

ROOT = Path(__file__).resolve().parents[2]


@cache
def fetched(name: str) -> bytes:
    path = ROOT / ".build/ucum" / name
    assert path.is_file(), "UCUM's tests are missing: make ucum"
    return path.read_bytes()


def official(part: str) -> list[dict[str, str]]:
    found = ElementTree.fromstring(fetched("UcumFunctionalTests.xml")).find(part)
    assert found is not None
    return [case.attrib for case in found.iter("case")]


def agrees(ours: Decimal | None, told: str, *, cut: bool = False) -> bool:
    """Tell whether ours rounds to what was told; with ``cut``, also if it was cut off there instead of rounded."""
    wanted = Decimal(told)
    digits = len(wanted.as_tuple().digits)
    modes = ("ROUND_HALF_EVEN", "ROUND_DOWN") if cut else ("ROUND_HALF_EVEN",)
    return ours is not None and any(Context(digits, rounding=mode).plus(ours) == wanted for mode in modes)


def test_the_definitions_are_those_that_were_published() -> None:
    ours = ROOT / "fhir_bridge/fhir/definitions/ucum-essence.xml"
    assert ours.read_bytes() == fetched("ucum-essence.xml")


def test_validation() -> None:
    cases = official("validation")
    wrong = [c["id"] for c in cases if is_ucum(c["unit"]) != (c["valid"] == "true")]
    assert (len(cases), wrong) == (529, [])


def test_every_valid_unit_has_a_canonical_form() -> None:
    assert [c["unit"] for c in official("validation") if c["valid"] == "true" and canonical(c["unit"]) is None] == []


def test_display_names() -> None:
    cases = official("displayNameGeneration")
    wrong = {c["unit"]: display(c["unit"]) for c in cases if display(c["unit"]) != c["display"]}
    assert (len(cases), wrong) == (9, {})


def test_conversion() -> None:
    cases = official("conversion")
    wrong = {
        c["id"]: found
        for c in cases
        if not agrees(found := convert(Decimal(c["value"]), c["srcUnit"], c["dstUnit"]), c["outcome"])
    }
    assert (len(cases), wrong) == (30, {})


def test_a_search_finds_what_each_conversion_says_is_the_same() -> None:
    """The outcome as it is told, with its digits, asked of a record in the source unit."""
    for case in official("conversion"):
        test = quantity_test("value-quantity", f"{case['outcome']}|{UCUM}|{case['dstUnit']}")
        assert test([(case["value"], UCUM, case["srcUnit"])]), case
        for other in (Decimal(2), Decimal("0.4"), Decimal(-1)):
            assert not test([(str(Decimal(case["value"]) * other), UCUM, case["srcUnit"])]), case


def test_multiplication_and_division() -> None:
    cases = [(c, "({}).({})") for c in official("multiplication")] + [(c, "({})/({})") for c in official("division")]
    assert len(cases) == 5
    for case, form in cases:
        one, other = Decimal(case["v1"]), Decimal(case["v2"])
        value = one * other if "." in form else Context(40).divide(one, other)
        found = convert(value, form.format(case["u1"], case["u2"]), case["uRes"] or "1")
        assert agrees(found, case["vRes"]), (case, found)


def more(part: str) -> Iterator[dict[str, Any]]:
    cases = json.loads(fetched("ucum-tests.json"))[part]
    assert len(cases) > 90
    yield from cases


# Where ours and the larger suite differ, and why. The suite was written beside one implementation.
SPECIAL = "a special unit in arithmetic is spelled right and has no canonical form"
SPELLING = {
    "da": "the year takes no prefix in release 2.2",
    "Torr": "no unit of release 2.2",
    "m{ }": "a blank in an annotation: HL7's own list of units has some",
    **dict.fromkeys(("2+5", "12+5", "10+5", "10-5"), "powers stand behind units, not behind numbers (section 2.1)"),
    **dict.fromkeys(("/Cel", "Cel/3", "Cel/m", "Cel/Cel", "Cel+2", "Cel2", "Cel-2"), SPECIAL),
    **dict.fromkeys(("m.5.Cel2.s.2", "m.5.Cel2.s/2"), SPECIAL),
}


def test_spelling_beside_the_larger_suite() -> None:
    differing = {c["inputExpression"] for c in more("validate") if is_ucum(c["inputExpression"]) != c["valid"]}
    assert differing == set(SPELLING)
    # Divided by a number it is the same scale with larger steps.
    special = {unit for unit, reason in SPELLING.items() if reason == SPECIAL} - {"Cel/3"}
    assert {unit for unit in special if canonical(unit) is not None} == set()


def test_commensurability_beside_the_larger_suite() -> None:
    differing = {
        (c["expr1"], c["expr2"])
        for c in more("commensurable")
        if commensurable(c["expr1"], c["expr2"]) != c["commensurable"]
    }
    # Not metric since release 2.2, and a power of a number, as above.
    assert differing == {("c[in_i]", "dam"), ("c[in_i]", "[ft_i]"), ("5+3", "2")}


def test_conversions_beside_the_larger_suite() -> None:
    differing = set()
    for case in more("convert"):
        if "substanceMolarMassCoeff" in case:
            continue  # a rule's business: tests/unit/normalize/test_unit_targets.py
        found = convert(Decimal(case["conversionFactor"]), case["from"], case["to"])
        right = agrees(found, case["resultingConversionFactor"], cut=True) if case["valid"] else found is None
        if not right:
            differing.add((case["conversionFactor"], case["from"], case["to"]))
    # There is no logarithm of nothing; and a slope of 100 % is 45 degrees, which the suite takes for radian.
    no_logarithm = {("0", "1", unit) for unit in ("[hp'_X]", "[hp'_C]", "[hp'_M]", "[hp'_Q]")}
    assert differing - no_logarithm == {case for case in differing if "%[slope]" in case}
    assert no_logarithm <= differing
    assert agrees(convert(Decimal(100), "%[slope]", "deg"), "45.000000000000")


def test_molar_masses_of_the_larger_suite() -> None:
    """Amount and mass by a molar mass: the arithmetic that the verb ``unit`` does."""
    from fhir_bridge.normalize.unit_targets import Analyte, counted

    judged = 0
    for case in more("convert"):
        mass = case.get("substanceMolarMassCoeff")
        units = (case["from"], case["to"])
        if not mass or not case["valid"] or "osm" in units or not all(map(is_ucum, units)):
            continue
        found = counted(
            Decimal(case["conversionFactor"]), case["from"], case["to"], Analyte(molar_mass=Decimal(mass))
        )
        assert found is not None, case
        told = Context(40).divide(Decimal(found.numerator), Decimal(found.denominator))
        assert agrees(told, case["resultingConversionFactor"], cut=True), case
        judged += 1
    assert judged > 5
