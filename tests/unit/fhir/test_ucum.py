"""What units mean: dimensions, exact factors, special and arbitrary units."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.fhir.ucum import canonical, commensurable, convert, display, is_ucum

# From the definitions of the SI, the international yard and pound, and everyday laboratories.
EXACT = [
    ("5.4", "mmol/L", "umol/L", "5400"),
    ("180", "mg/dL", "g/L", "1.8"),
    ("7.2", "10*3/uL", "10*9/L", "7.2"),
    ("1", "[lb_av]", "g", "453.59237"),
    ("1", "[ft_i]", "cm", "30.48"),
    ("98.6", "[degF]", "Cel", "37"),
    ("0", "Cel", "K", "273.15"),
    ("-40", "[degF]", "Cel", "-40"),
    ("80", "[degRe]", "Cel", "100"),
    ("1", "h", "s", "3600"),
    ("1", "atm", "Pa", "101325"),
    ("60", "/min", "Hz", "1"),
    ("100", "U/L", "ukat/L", None),
    ("3", "[pH]", "mmol/L", "1"),
    ("20", "dB", "1", "100"),
    ("20", "dB[V]", "V", "10"),
    ("3", "bit_s", "1", "8"),
    ("10", "m[Hg]", "[in_i'Hg]", None),
    ("2", "[IU]/L", "[iU]/L", "2"),
    ("3", "[m/s2/Hz^(1/2)]", "m2/s4/Hz", "9"),
]


@pytest.mark.parametrize(("value", "unit", "to", "told"), EXACT)
def test_values_are_exact(value: str, unit: str, to: str, told: str | None) -> None:
    found = convert(Decimal(value), unit, to)
    assert found is not None
    if told is not None:
        assert found == Decimal(told)
    back = convert(found, to, unit)
    assert back is not None
    assert abs(back - Decimal(value)) < Decimal("1e-30")


def test_what_stays_in_its_unit_keeps_its_digits() -> None:
    for unit, to in (("mg/dL", "mg/dL"), ("s.m-1", "s/m"), ("mL", "cm3"), ("{beats}/min", "/min")):
        assert str(convert(Decimal("6.300"), unit, to)) == "6.300"


APART = [
    ("mg/dL", "mmol/L"),
    ("[iU]/L", "U/L"),
    ("[iU]", "1"),
    ("[iU]", "[arb'U]"),
    ("pH", "[pH]"),
    ("Cel", "m"),
    ("Cel2", "K2"),
    ("W/[pH]", "W"),
    ("mmHg", "mm[Hg]"),
    ("m/0", "m"),
    ("m100", "m100"),
]


@pytest.mark.parametrize(("one", "other"), APART)
def test_what_cannot_be_compared_has_no_conversion(one: str, other: str) -> None:
    assert not commensurable(one, other)
    assert convert(Decimal(1), one, other) is None
    assert convert(Decimal(1), other, one) is None


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1E999999999", "1E-999999999", "0E999999999"])
def test_a_number_that_measures_nothing_is_refused_at_once(value: str) -> None:
    assert convert(Decimal(value), "m", "km") is None


def test_logarithms_end_where_numbers_do() -> None:
    assert convert(Decimal(0), "mol/L", "[pH]") is None
    assert convert(Decimal(-1), "1", "B") is None
    assert convert(Decimal("1E300"), "B", "1") is None


def test_amounts_can_be_kept_apart_from_numbers() -> None:
    """By the tables a mole is a number: 1 mmol/mol were 0.1 %, though of haemoglobin A1c 48 mmol/mol are 6.5 %."""
    assert commensurable("mmol/mol", "%")
    apart = frozenset({"mol", "eq"})
    forms = {unit: canonical(unit, apart) for unit in ("mmol/mol", "%", "umol/mmol", "meq/L", "mmol/L", "/(L/mmol)")}
    shapes = {unit: form.dimension for unit, form in forms.items() if form is not None}
    assert shapes["mmol/mol"] == shapes["umol/mmol"] == (("+mol", 1), ("-mol", 1))
    assert shapes["%"] == ()
    assert shapes["meq/L"] != shapes["mmol/L"] == shapes["/(L/mmol)"]


SIMPLE = st.sampled_from(["m", "kg", "s", "mol", "L", "[iU]", "10*", "%", "Hz", "[lb_av]", "mm[Hg]", "kat"])
POWERS = st.lists(st.tuples(SIMPLE, st.integers(-3, 3).filter(bool)), min_size=1, max_size=5)


@given(POWERS, POWERS)
def test_a_product_has_the_product_of_the_factors(one: list[tuple[str, int]], other: list[tuple[str, int]]) -> None:
    def spelled(parts: list[tuple[str, int]]) -> str:
        return ".".join(f"{atom}{power}" for atom, power in parts)

    a, b = canonical(spelled(one)), canonical(spelled(other))
    product, ratio = (
        canonical(f"({spelled(one)}).({spelled(other)})"),
        canonical(f"({spelled(one)})/({spelled(other)})"),
    )
    assert a is not None
    assert b is not None
    assert product is not None
    assert ratio is not None
    assert product.factor == a.factor * b.factor
    assert ratio.factor == a.factor / b.factor
    powers = dict(a.dimension)
    for name, power in b.dimension:
        powers[name] = powers.get(name, 0) + power
    assert dict(product.dimension) == {name: power for name, power in powers.items() if power}


@given(st.text(alphabet="mgdLk10*/.(){}[]Hiu%+-^'C el2", max_size=40))
def test_whatever_is_written_is_answered(code: str) -> None:
    form = canonical(code)
    assert form is None or (is_ucum(code) and form.factor >= 0)
    assert display(code) or not code


def test_the_factor_of_the_calorie_is_a_fraction() -> None:
    form = canonical("cal_th")
    assert form is not None
    assert form.factor == Fraction("4.184") * 1000
