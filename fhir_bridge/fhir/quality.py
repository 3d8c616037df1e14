"""Flag what is valid FHIR but cannot be right: impossible values, units that are no units.

For the validator: flags are stored beside a record and shown to its reader, they never refuse it, because a
hospital's odd value may be all there is. The ranges say what no living person has had, not what is healthy; they are
general medical knowledge, listed with the few LOINC codes they need.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, TypeGuard

from fhir_bridge.fhir.dates import interval
from fhir_bridge.fhir.run import Place, Run
from fhir_bridge.fhir.ucum import UCUM, is_ucum

LOINC = "http://loinc.org"

Range = tuple[float, float]

_TEMPERATURE = {"Cel": (10.0, 47.0), "[degF]": (50.0, 117.0), "K": (283.0, 321.0)}
_PER_MINUTE = ("/min", "{beats}/min", "{breaths}/min", "1/min", "{Beats}/min", "min-1")
_PRESSURE = ("mm[Hg]",)
_LENGTH = {"cm": (10.0, 280.0), "m": (0.1, 2.8), "mm": (100.0, 2_800.0), "[in_i]": (4.0, 111.0), "[ft_i]": (0.3, 9.2)}
_WEIGHT = {"kg": (0.2, 700.0), "g": (200.0, 700_000.0), "[lb_av]": (0.4, 1_545.0), "[oz_av]": (7.0, 24_700.0)}
_GLUCOSE = {"mg/dL": (1.0, 3_000.0), "mmol/L": (0.05, 170.0), "g/L": (0.01, 30.0)}
_LIPID = {"mg/dL": (0.0, 20_000.0), "mmol/L": (0.0, 230.0)}
_CREATININE = {"mg/dL": (0.0, 60.0), "umol/L": (0.0, 5_300.0), "mmol/L": (0.0, 5.3)}
_PERCENT = {"%": (0.0, 100.0)}
_CELLS = ("10*3/uL", "10*9/L", "K/uL")


def _same(units: tuple[str, ...], low: float, high: float) -> dict[str, Range]:
    return dict.fromkeys(units, (low, high))


_RANGES: Mapping[str, tuple[tuple[str, ...], Mapping[str, Range]]] = {
    "body temperature": (("8310-5", "8331-1", "8332-9", "8333-7", "8328-7", "8329-5", "8330-3"), _TEMPERATURE),
    "heart rate": (("8867-4", "8893-0", "8889-8", "68999-2"), _same(_PER_MINUTE, 0, 480)),
    "respiratory rate": (("9279-1",), _same(_PER_MINUTE, 0, 200)),
    "oxygen saturation": (("2708-6", "59408-5", "2713-6", "20564-1"), _PERCENT),
    "systolic pressure": (("8480-6", "8459-0", "8460-8", "8461-6", "8450-9"), _same(_PRESSURE, 0, 380)),
    "diastolic pressure": (("8462-4", "8453-3", "8454-1", "8455-8"), _same(_PRESSURE, 0, 370)),
    "mean pressure": (("8478-0",), _same(_PRESSURE, 0, 370)),
    "body height": (("8302-2", "8306-3", "8308-9", "3137-7", "8301-4"), _LENGTH),
    "body weight": (("29463-7", "3141-9", "3142-7", "8335-2", "8341-0"), _WEIGHT),
    "birth weight": (("8339-4",), {"kg": (0.2, 12.0), "g": (200.0, 12_000.0)}),
    "body mass index": (("39156-5",), {"kg/m2": (4.0, 260.0)}),
    "head circumference": (("9843-4", "8287-5"), {"cm": (10.0, 90.0), "[in_i]": (4.0, 36.0)}),
    "glucose": (
        ("2339-0", "2345-7", "2340-8", "15074-8", "14749-6", "41653-7", "1558-6", "14771-0", "32016-8"),
        _GLUCOSE,
    ),
    "hemoglobin A1c": (("4548-4", "17856-6", "59261-8"), {"%": (1.0, 35.0), "mmol/mol": (0.0, 360.0)}),
    "potassium": (("2823-3", "6298-4", "77142-8"), _same(("mmol/L", "meq/L"), 0.5, 20)),
    "sodium": (("2951-2", "2947-0", "77139-4"), _same(("mmol/L", "meq/L"), 70, 260)),
    "chloride": (("2075-0", "2069-3", "77138-6"), _same(("mmol/L", "meq/L"), 30, 200)),
    "carbon dioxide": (("2028-9", "20565-8"), _same(("mmol/L", "meq/L"), 0, 100)),
    "calcium": (("17861-6", "2000-8", "49765-1"), {"mg/dL": (1.0, 35.0), "mmol/L": (0.2, 9.0)}),
    "creatinine": (("2160-0", "38483-4", "14682-9"), _CREATININE),
    "urea nitrogen": (("3094-0", "6299-2"), {"mg/dL": (0.0, 600.0), "mmol/L": (0.0, 220.0)}),
    "cholesterol": (("2093-3", "14647-2", "2085-9", "14646-4", "18262-6", "13457-7", "2089-1"), _LIPID),
    "triglycerides": (("2571-8", "14927-8"), _LIPID),
    "hemoglobin": (("718-7", "20509-6", "30313-1"), {"g/dL": (0.5, 30.0), "g/L": (5.0, 300.0)}),
    "hematocrit": (("4544-3", "20570-8"), _PERCENT),
    "leukocytes": (("6690-2", "26464-8"), _same(_CELLS, 0, 3_000)),
    "platelets": (("777-3", "26515-7"), _same(_CELLS, 0, 10_000)),
    "erythrocytes": (("789-8", "26453-1"), _same(("10*6/uL", "10*12/L"), 0, 20)),
    "blood pH": (("2744-1", "2746-6", "11558-4"), _same(("[pH]", "1", "{pH}"), 6, 8.5)),
    "pain score": (("72514-3", "38208-5"), _same(("{score}", "1"), 0, 10)),
    "Glasgow coma score": (("9269-2",), _same(("{score}", "1"), 3, 15)),
    "Apgar score": (("9272-6", "9274-2", "9271-8"), _same(("{score}", "1"), 0, 10)),
}
"""Subject → LOINC codes, and by UCUM unit the lowest and highest value that can be."""

_BY_CODE = {code: (subject, units) for subject, (codes, units) in _RANGES.items() for code in codes}

# Units of scales that have a zero in their middle, and tests whose result is a difference.
_SIGNED_UNITS = frozenset(
    {"Cel", "[degF]", "[diop]", "[p'diop]", "deg", "mV", "uV", "V", "dB", "B", "mm", "ms", "[pH]"}
)
_SIGNED_UNITS |= {"[pH]", "{SD}", "{STDV}", "{zscore}", "{z-score}", "{Tscore}", "{T-score}", "{log}", "{Log}"}
_SIGNED_CODES = frozenset(
    {"1925-7", "1922-4", "1923-2", "11555-0", "30318-0", "19232-9", "24355-0", "38263-0", "80948-3"}
    | {"85352-3", "38265-5", "46278-8", "1863-0", "33037-3", "10466-1", "59574-4", "59575-1", "59576-9"}
)
_AMOUNTS = frozenset({"doseQuantity", "rateQuantity", "quantity", "dose", "daysSupply", "strength", "amount"})


def check_quantity(value: dict[str, Any], place: Place, run: Run) -> None:
    """Flag a Quantity whose unit claims to be UCUM and is not, and an amount below zero."""
    code = value.get("code")
    if type(code) is str and value.get("system") == UCUM and not is_ucum(code):
        run.flag("code-invalid", "the system is UCUM, but the code is no UCUM unit", (place, "code"))
    number = value.get("value")
    if place[1] in _AMOUNTS and _is_number(number) and number < 0:
        run.flag("business-rule", "an amount below zero cannot be", (place, "value"))


def quality_flags(resource: dict[str, Any], name: str, place: Place, run: Run) -> None:
    """Flag what only the whole resource shows; called for resources whose structure has been checked."""
    if name == "Observation":
        for holder, where in _measurements(resource, place):
            _check_measurement(holder, where, run)
    elif name == "Patient":
        _check_life(resource, place, run)


def _measurements(resource: dict[str, Any], place: Place) -> Iterator[tuple[dict[str, Any], Place]]:
    yield resource, place
    components = resource.get("component")
    for index, component in enumerate(components if type(components) is list else ()):
        if type(component) is dict:
            yield component, ((place, "component"), index)


def _check_measurement(holder: dict[str, Any], place: Place, run: Run) -> None:
    quantity = holder.get("valueQuantity")
    number = quantity.get("value") if type(quantity) is dict else None
    if not _is_number(number) or type(quantity) is not dict:
        return
    where: Place = ((place, "valueQuantity"), "value")
    codes = _loinc_codes(holder.get("code"))
    # The structure may be refused already, so anything may stand here.
    units_given = (each for each in (quantity.get("code"), quantity.get("unit")) if type(each) is str and each)
    unit = next(units_given, None)
    for code in codes:
        subject, units = _BY_CODE.get(code, ("", {}))
        allowed = None if unit is None else units.get(unit)
        if allowed and not allowed[0] <= number <= allowed[1]:
            low, high = allowed
            text = f"no {subject} lies outside {low:g} to {high:g} {unit}"
            run.flag("business-rule", text, where)
            return
    if number < 0 and unit not in _SIGNED_UNITS and not _SIGNED_CODES.intersection(codes):
        run.flag("business-rule", "a measurement of this kind cannot be below zero", where)


def _loinc_codes(concept: Any) -> list[str]:
    codings = concept.get("coding") if type(concept) is dict else None
    found = []
    for coding in codings if type(codings) is list else ():
        if type(coding) is dict and coding.get("system") == LOINC and type(coding.get("code")) is str:
            found.append(coding["code"])
    return found


def _check_life(patient: dict[str, Any], place: Place, run: Run) -> None:
    born, died = patient.get("birthDate"), patient.get("deceasedDateTime")
    if type(born) is not str or type(died) is not str:
        return
    first, last = interval(born), interval(died)
    # A day of slack, because a birth date has no zone.
    if first and last and last[1] + 86_400_000_000 <= first[0]:
        run.flag("business-rule", "death cannot come before birth", (place, "deceasedDateTime"))


def _is_number(value: Any) -> TypeGuard[int | Decimal]:
    return type(value) is int or isinstance(value, Decimal)
