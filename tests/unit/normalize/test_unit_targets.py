"""``unit`` with ``to``: by UCUM, exactly, nothing guessed, digits as they were sent."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.errors import RulesetBroken
from fhir_bridge.fhir.json import parse, render
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize import Preview, Ruleset, load_ruleset, preview
from fhir_bridge.normalize.unit_targets import Analyte, kept_digits
from fhir_bridge.normalize.verbs_units import ORIGINAL_QUANTITY
from tests.unit.normalize.bench import pack, rules

CORE = "institution: x\nextends: core\n"


@pytest.fixture(scope="module")
def by_loinc(tmp_path_factory: pytest.TempPathFactory) -> Ruleset:
    steps = "  - unit: {path: value, to: by-loinc}\n  - unit: {path: component.value, to: by-loinc}"
    return rules(tmp_path_factory.mktemp("packs") / "x", steps, source=CORE)


def ucum(value: str, code: str, unit: str | None = None) -> str:
    return f'{{"value":{value},"unit":"{unit or code}","system":"http://unitsofmeasure.org","code":"{code}"}}'


def measured(loinc: str, quantity: str, **more: Any) -> dict[str, Any]:
    text = (
        '{"resourceType":"Observation","id":"o","status":"final","subject":{"reference":"Patient/p"},'
        f'"code":{{"coding":[{{"system":"http://loinc.org","code":"{loinc}"}}]}},"valueQuantity":{quantity}}}'
    )
    return parse(text.encode()) | more


def through(ruleset: Ruleset, body: dict[str, Any]) -> Preview:
    found = preview(body, FhirVersion.R4, ruleset)
    assert preview(found.body, FhirVersion.R4, ruleset).changes == ()
    return found


def told(quantity: dict[str, Any]) -> tuple[str, str]:
    return render(quantity["value"]).decode(), quantity["code"]


# Factors of the yard and pound agreement, of ITS-90's scales, of the SI; molar masses as any chemistry book has them.
CONVERTED = [
    ("8310-5", "98.6", "[degF]", "37.0000", "Cel"),
    ("8302-2", "68", "[in_i]", "172.72", "cm"),
    ("8302-2", "1.755", "m", "175.5", "cm"),
    ("29463-7", "150", "[lb_av]", "68.039", "kg"),
    ("29463-7", "70500", "g", "70.500", "kg"),
    ("6690-2", "7.20", "10*9/L", "7.20", "10*3/uL"),
    ("718-7", "140", "g/L", "14.0", "g/dL"),
    ("2345-7", "5.6", "mmol/L", "100.89", "mg/dL"),
    ("14749-6", "101", "mg/dL", "5.6063", "mmol/L"),
    ("2160-0", "88", "umol/L", "0.9955", "mg/dL"),
    ("2823-3", "4.1", "meq/L", "4.1", "mmol/L"),
    ("2000-8", "4.8", "meq/L", "2.4000", "mmol/L"),
    ("4544-3", "0.45", "L/L", "45", "%"),
]


@pytest.mark.parametrize(("loinc", "value", "unit", "expected", "preferred"), CONVERTED)
def test_values_come_in_the_preferred_unit(
    by_loinc: Ruleset, loinc: str, value: str, unit: str, expected: str, preferred: str
) -> None:
    sent = measured(loinc, ucum(value, unit))
    found = through(by_loinc, sent)
    quantity = found.body["valueQuantity"]
    assert told(quantity) == (expected, preferred)
    (original,) = quantity["extension"]
    assert original == {"url": ORIGINAL_QUANTITY, "valueQuantity": parse(ucum(value, unit).encode())}
    assert [f.code for f in found.flags] == []


UNTOUCHED = [("2345-7", "100.90", "mg/dL"), ("8310-5", "37.20", "Cel"), ("99999-9", "5.60", "mmol/L")]


@pytest.mark.parametrize(("loinc", "value", "unit"), UNTOUCHED)
def test_what_needs_no_conversion_keeps_its_text(by_loinc: Ruleset, loinc: str, value: str, unit: str) -> None:
    found = through(by_loinc, measured(loinc, ucum(value, unit)))
    assert render(found.body["valueQuantity"]).decode() == ucum(value, unit)
    assert found.changes == ()


KEPT = [
    ("4548-4", ucum("48", "mmol/mol"), "business-rule"),  # IFCC against NGSP: another scale, not another unit
    ("2571-8", ucum("1.7", "mmol/L"), "business-rule"),  # what a mole of triglyceride weighs is a convention
    ("2345-7", ucum("5.6", "spoons"), "code-invalid"),
    ("2345-7", '{"value":5.6,"unit":"spoons"}', "code-invalid"),
    ("2345-7", '{"value":5.6}', "code-invalid"),
    ("2345-7", '{"value":5.6,"unit":"mmol/L","system":"http://h.example","code":"mmol/L"}', "code-invalid"),
    ("8310-5", ucum("37", "m"), "business-rule"),
    ("1988-5", ucum("3", "[iU]/L"), "business-rule"),
]


@pytest.mark.parametrize(("loinc", "quantity", "code"), KEPT)
def test_what_only_a_guess_could_convert_is_kept_and_reported(
    by_loinc: Ruleset, loinc: str, quantity: str, code: str
) -> None:
    sent = measured(loinc, quantity, referenceRange=[{"high": parse(ucum("6", "mmol/L").encode())}])
    found = through(by_loinc, sent)
    assert render(found.body["valueQuantity"]).decode() == quantity
    assert found.body["referenceRange"] == sent["referenceRange"]
    assert [f.code for f in found.flags if "UCUM" in f.diagnostics and "convert" in f.diagnostics] == [code]
    assert all("spoons" not in f.diagnostics for f in found.flags)


def test_reference_ranges_and_components_come_with_their_values(by_loinc: Ruleset) -> None:
    part = measured("8480-6", ucum("16", "kPa"))
    sent = measured("2345-7", ucum("5.6", "mmol/L"))
    sent["referenceRange"] = [
        {"low": parse(ucum("3.9", "mmol/L").encode()), "high": parse(b'{"value":5.5}')},
        {"low": parse(ucum("70", "mg/dL").encode()), "text": "others"},
    ]
    sent["component"] = [{"code": part["code"], "valueQuantity": part["valueQuantity"]}]
    found = through(by_loinc, sent).body
    first, second = found["referenceRange"]
    # 3.9 and 5.5 mmol/L of 180.156 g/mol; the second end says no unit, so it is in its value's.
    assert (told(first["low"]), told(first["high"])) == (("70.26", "mg/dL"), ("99.09", "mg/dL"))
    assert first["high"]["extension"][0]["valueQuantity"]["code"] == "mmol/L"
    assert told(second["low"]) == ("70", "mg/dL")
    pressure = found["component"][0]["valueQuantity"]
    assert pressure["code"] == "mm[Hg]"
    # 1 mm[Hg] is 133.322 Pa.
    assert abs(pressure["value"] - Decimal(16000) / Decimal("133.322")) < Decimal("0.05")


@pytest.mark.parametrize("quantity", ['{"value":7.41,"unit":"pH"}', ucum("7.41", "pH"), ucum("7.41", "{pH}")])
def test_ph_is_not_picohenry(by_loinc: Ruleset, quantity: str) -> None:
    found = through(by_loinc, measured("2744-1", quantity))
    assert told(found.body["valueQuantity"]) == ("7.41", "[pH]")


def test_more_that_becomes_less_is_not_converted_beside_a_limit(by_loinc: Ruleset) -> None:
    alone = through(by_loinc, measured("2744-1", ucum("40", "nmol/L"))).body["valueQuantity"]
    assert told(alone)[1] == "[pH]"
    assert abs(alone["value"] - Decimal("7.39794")) < Decimal("0.001")
    below = ucum("40", "nmol/L").replace("{", '{"comparator":"<",', 1)
    found = through(by_loinc, measured("2744-1", below))
    assert render(found.body["valueQuantity"]).decode() == below
    assert [f.code for f in found.flags] == ["business-rule"]


def test_a_limit_in_a_unit_that_turns_around_stays_though_its_value_does_not_move(by_loinc: Ruleset) -> None:
    """35 to 45 nmol/L of hydrogen are no pH of at least 7.46 and at most 7.35."""
    limits = {end: parse(ucum(value, "nmol/L").encode()) for end, value in (("low", "35"), ("high", "45"))}
    found = through(by_loinc, measured("2744-1", ucum("7.41", "[pH]"), referenceRange=[limits]))
    assert found.body["referenceRange"] == [limits]
    assert [(f.code, f.expression) for f in found.flags] == [
        ("business-rule", f"Observation.referenceRange[0].{end}") for end in ("low", "high")
    ]


def test_a_spelling_is_coded_and_the_senders_text_stays(by_loinc: Ruleset) -> None:
    found = through(by_loinc, measured("8480-6", '{"value":120,"unit":"mmHg"}'))
    assert render(found.body["valueQuantity"]).decode() == ucum("120", "mm[Hg]", "mmHg")
    wrong = through(by_loinc, measured("8480-6", ucum("120", "mmHg")))
    assert told(wrong.body["valueQuantity"]) == ("120", "mm[Hg]")
    assert wrong.body["valueQuantity"]["extension"][0]["valueQuantity"]["code"] == "mmHg"


@pytest.mark.parametrize("text", ["U/ML", "[IU]/ML", "(U)/ML"])
def test_capitals_are_read_by_the_table_of_spellings_alone(tmp_path: Path, text: str) -> None:
    """By the letter ``U/ML`` is a unit in a megalitre, a thousand millionth of what the laboratory means."""
    to = "[IU]/mL" if "I" in text else "U/mL"
    quantity = f'{{"value":5,"unit":"{text}"}}'
    plain = rules(tmp_path / "x", f"  - unit: {{path: value, to: '{to}'}}", source=CORE)
    found = through(plain, measured("99999-9", quantity))
    assert render(found.body["valueQuantity"]).decode() == quantity
    assert [f.code for f in found.flags] == ["business-rule"]
    source = CORE + (
        "units:\n  laboratory:\n    file: codes/units.csv\n    constants: {system: 'http://h.example'}\n"
        "    spellings: codes/spellings.csv\n"
    )
    steps = f"rule: r\non: Observation\nwhy: test\ndo:\n  - unit: {{path: value, table: laboratory, to: '{to}'}}\n"
    files = {
        "codes__units_csv": "code,local_unit,canonical,factor\nx,,g,\n",
        "codes__spellings_csv": f"unit,ucum\n{text},{to}\n",
    }
    spelled = load_ruleset(pack(tmp_path / "y", steps, source, **files))
    assert told(through(spelled, measured("99999-9", quantity)).body["valueQuantity"]) == ("5", to)
    # A code is the sender's own statement in the case sensitive form.
    coded = through(plain, measured("99999-9", ucum("5", text)))
    assert told(coded.body["valueQuantity"]) == ("5E-9", to)


@pytest.mark.parametrize(("text", "to"), [("MBq", "kBq"), ("mL", "L"), ("L", "mL"), ("g/L", "g/dL")])
def test_a_text_that_says_which_case_it_means_is_read(tmp_path: Path, text: str, to: str) -> None:
    plain = rules(tmp_path / "x", f"  - unit: {{path: value, to: {to}}}", source=CORE)
    found = through(plain, measured("99999-9", f'{{"value":5,"unit":"{text}"}}'))
    assert found.body["valueQuantity"]["code"] == to


def test_a_spelling_of_a_text_goes_before_what_ucum_reads_in_it(tmp_path: Path) -> None:
    source = CORE + (
        "preferred_units:\n  house:\n    file: codes/house.csv\n    constants: {system: 'http://loinc.org'}\n"
        "    spellings: codes/spellings.csv\n"
    )
    steps = "rule: r\non: Observation\nwhy: test\ndo:\n  - unit: {path: value, to: house}\n"
    files = {"codes__house_csv": "code,unit\n99999-9,mL\n", "codes__spellings_csv": "unit,ucum\nCL,mL\ncL,mL\n"}
    ruleset = load_ruleset(pack(tmp_path / "x", steps, source, **files))
    found = through(ruleset, measured("99999-9", '{"value":5,"unit":"cL"}'))
    assert told(found.body["valueQuantity"]) == ("5", "mL")


HUGE = ["1e70", "1" * 100, "-1e300", "1e9999", "1e-9999", "0." + "1" * 100]


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize(("unit", "to"), [("kg", "mg"), ("[lb_av]", "kg"), ("[degF]", "Cel"), ("[pH]", "nmol/L")])
def test_a_number_beyond_measure_is_converted_in_full_or_kept_and_reported(
    tmp_path: Path, value: str, unit: str, to: str
) -> None:
    ruleset = rules(tmp_path / "x", f"  - unit: {{path: value, to: {to}}}", source=CORE)
    sent = ucum(value, unit)
    found = through(ruleset, measured("99999-9", sent))
    quantity = found.body["valueQuantity"]
    if [f.code for f in found.flags]:
        assert render(quantity).decode() == sent
    else:
        assert quantity["code"] == to
        assert to != "mg" or quantity["value"] == Fraction(value) * 10**6


def test_digits_beyond_those_of_pythons_own_context_are_not_cut() -> None:
    found = kept_digits(Decimal("1." + "0" * 36), "[in_i]", "cm", Analyte())
    # Two guard digits beyond 2.54 units of the last place.
    assert str(found) == "2.54" + "0" * 36


def test_the_end_of_a_range_without_counterpart_says_the_unit_it_stays_in(tmp_path: Path) -> None:
    """A neper has no zero: the value moves to another scale, and the bare end must not seem to have moved with it."""
    ruleset = rules(tmp_path / "x", "  - unit: {path: value, to: B}", source=CORE)
    sent = measured("99999-9", ucum("100", "1"), referenceRange=[{"low": {"value": 0}, "high": {"value": 1000}}])
    found = through(ruleset, sent)
    assert told(found.body["valueQuantity"]) == ("2.00000", "B")
    (limits,) = found.body["referenceRange"]
    assert (told(limits["low"]), limits["high"]["code"]) == (("0", "1"), "B")
    assert [(f.code, f.expression) for f in found.flags] == [
        ("business-rule", "Observation.referenceRange[0].low"),
    ]


def test_what_stood_beside_the_old_unit_goes_with_it(tmp_path: Path) -> None:
    ruleset = rules(tmp_path / "x", "  - unit: {path: value, to: g}", source=CORE)
    sent = measured("99999-9", ucum("2", "kg"))
    beside = {"extension": [{"url": "http://x.example/words", "valueString": "kilograms"}]}
    sent["valueQuantity"] |= {"_unit": beside, "id": "q"}
    quantity = through(ruleset, sent).body["valueQuantity"]
    original = quantity["extension"][0]["valueQuantity"]
    assert ("_unit" in quantity, original["_unit"]) == (False, beside)
    # An id stands once in a resource.
    assert (quantity["id"], "id" in original) == ("q", False)


def test_a_quantity_keeps_its_own_extensions(by_loinc: Ruleset) -> None:
    sent = measured("8302-2", ucum("68", "[in_i]"))
    own = {"url": "http://x.example/own", "valueString": "y"}
    sent["valueQuantity"]["extension"] = [own]
    extensions = through(by_loinc, sent).body["valueQuantity"]["extension"]
    assert [e["url"] for e in extensions] == [ORIGINAL_QUANTITY, own["url"]]


def test_a_rule_can_name_the_unit(tmp_path: Path) -> None:
    ruleset = rules(tmp_path / "x", "  - unit: {path: value, to: mmol/L}", source=CORE)
    assert told(through(ruleset, measured("2345-7", ucum("101", "mg/dL"))).body["valueQuantity"]) == (
        "5.6063",
        "mmol/L",
    )
    # Nothing says what a mole of this weighs.
    found = through(ruleset, measured("99999-9", ucum("101", "mg/dL")))
    assert (told(found.body["valueQuantity"]), [f.code for f in found.flags]) == (("101", "mg/dL"), ["business-rule"])


def test_a_quantity_that_is_no_choice_is_converted_too(tmp_path: Path) -> None:
    ruleset = rules(
        tmp_path / "x", "  - unit: {path: suppliedItem.quantity, to: g}", on="SupplyDelivery", source=CORE
    )
    body: dict[str, Any] = {"resourceType": "SupplyDelivery", "id": "s", "suppliedItem": {}}
    body["suppliedItem"]["quantity"] = parse(ucum("2", "kg").encode())
    assert told(through(ruleset, body).body["suppliedItem"]["quantity"]) == ("2000", "g")


def test_a_pack_names_its_own_table(tmp_path: Path) -> None:
    source = CORE + (
        "preferred_units:\n  house:\n    file: codes/house.csv\n    constants: {system: 'http://h.example'}\n"
    )
    steps = "rule: r\non: Observation\nwhy: test\ndo:\n  - unit: {path: value, to: house}\n"
    table = "code,unit,molar_mass\nGLU,mmol/L,180.16\n"
    ruleset = load_ruleset(pack(tmp_path / "x", steps, source, codes__house_csv=table))
    sent = measured("x", ucum("101", "mg/dL"))
    sent["code"]["coding"][0] = {"system": "http://h.example", "code": "GLU"}
    assert told(through(ruleset, sent).body["valueQuantity"]) == ("5.6061", "mmol/L")


def test_a_table_and_ucum_take_turns_and_what_was_sent_first_is_kept(tmp_path: Path) -> None:
    """The hospital's spelling and factor first, then the unit of the rule by the molar mass in the same table."""
    source = CORE + (
        "units:\n  laboratory:\n    file: codes/units.csv\n    constants: {system: 'http://h.example'}\n"
        "    spellings: codes/spellings.csv\n"
    )
    steps = "rule: r\non: Observation\nwhy: test\ndo:\n  - unit: {path: value, table: laboratory, to: mmol/L}\n"
    table = "code,local_unit,local_ucum,canonical,factor,offset,molar_mass\nGLU,g/l,g/L,mg/dL,0.01,0,180.16\n"
    files = {"codes__units_csv": table, "codes__spellings_csv": "unit,ucum\nmilligrams,mg/dL\n"}
    ruleset = load_ruleset(pack(tmp_path / "x", steps, source, **files))
    for sent, expected in (
        ('{"value":1.01,"unit":"g/l"}', "5.6061"),
        ('{"value":101,"unit":"milligrams"}', "5.6061"),
    ):
        body = measured("x", sent, referenceRange=[{"high": {"value": Decimal("1.10")}}] if "g/l" in sent else [])
        body["code"]["coding"][0] = {"system": "http://h.example", "code": "GLU"}
        if not body["referenceRange"]:
            del body["referenceRange"]
        found = through(ruleset, body).body
        assert told(found["valueQuantity"]) == (expected, "mmol/L")
        original = found["valueQuantity"]["extension"][0]["valueQuantity"]
        assert (len(found["valueQuantity"]["extension"]), original["unit"]) == (1, parse(sent.encode())["unit"])
        for each in found.get("referenceRange", []):
            # 1.10 g/l of 180.16 g/mol, although it said no unit.
            assert abs(each["high"]["value"] - Decimal("6.10568")) < Decimal("0.0001")
            assert each["high"]["code"] == "mmol/L"


BROKEN = [
    ("{path: value, to: mg/dl/}", "x/rules.yaml:4:29 'mg/dl/' is neither a UCUM unit nor a table of preferred units"),
    ("{path: value, to: by-lonc}", "did you mean 'by-loinc'?"),
    ("{path: value, to: Cel2}", "x/rules.yaml:4:29 'Cel2' is neither"),
    ("{path: value}", "unit needs a 'table' or what to convert 'to'"),
]


@pytest.mark.parametrize(("step", "message"), BROKEN)
def test_a_wrong_unit_is_an_error_of_the_pack(tmp_path: Path, step: str, message: str) -> None:
    with pytest.raises(RulesetBroken) as caught:
        rules(tmp_path / "x", f"  - unit: {step}", source=CORE)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("GLU,mg/dl/,", "house.csv:2:1 'mg/dl/' is no UCUM unit"),
        ("GLU,mg/dL,-3", "above zero"),
        ("GLU,mg/dL,x", "not a number"),
        ("GLU,mg/dL,\nGLU,g/L,", "house.csv:3:1 the code stands twice"),
    ],
)
def test_a_wrong_table_of_preferred_units_is_an_error_of_the_pack(tmp_path: Path, row: str, message: str) -> None:
    source = CORE + "preferred_units:\n  house: {file: codes/house.csv, constants: {system: 'http://h.example'}}\n"
    with pytest.raises(RulesetBroken) as caught:
        load_ruleset(pack(tmp_path / "x", "", source, codes__house_csv=f"code,unit,molar_mass\n{row}\n"))
    assert message in str(caught.value)


LINEAR = st.sampled_from([("[lb_av]", "kg", "0.45359237"), ("[in_i]", "cm", "2.54"), ("mg/dL", "g/L", "0.01")])


@given(st.decimals(min_value=-(10**6), max_value=10**6, places=3) | st.integers(-(10**6), 10**6), LINEAR)
def test_a_converted_value_means_what_was_sent(value: Decimal | int, units: tuple[str, str, str]) -> None:
    """Half a unit of the last digit sent would be rounding; two guard digits leave a hundredth of one."""
    unit, to, factor = units
    found = kept_digits(value, unit, to, Analyte())
    assert found is not None
    exponent = Decimal(value).as_tuple().exponent
    assert isinstance(exponent, int)
    error = abs(Fraction(found) / Fraction(factor) - Fraction(value))
    assert error <= Fraction(10) ** min(0, exponent) / 100
    sent, made = len(Decimal(value).as_tuple().digits), len(Decimal(found).as_tuple().digits)
    assert made <= sent + 3


MASSES = st.sampled_from(["180.156", "113.120", "40.078"])


@given(st.decimals(min_value="0.1", max_value=10**5, places=2), MASSES)
def test_amount_and_mass_go_back_and_forth(value: Decimal, mass: str) -> None:
    analyte = Analyte(molar_mass=Decimal(mass))
    there = kept_digits(value, "mmol/L", "mg/dL", analyte)
    assert there is not None
    assert abs(Fraction(there) - Fraction(value) * Fraction(mass) / 10) <= Fraction(mass) / 10 / 10**4
    assert kept_digits(value, "mmol/L", "mg/dL", Analyte()) is None
    # The mole that is divided by is another substance's.
    assert kept_digits(value, "mg/mmol", "mg/g", analyte) is None
    assert kept_digits(value, "mmol/mol", "%", analyte) is None
