"""Composites and the modifiers that look at texts, value sets and typed identifiers; on plain resources."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from fhir_bridge.fhir.search import composite_of, extract, parameters_of
from fhir_bridge.fhir.tables import r4
from fhir_bridge.model.ingest import IndexRow, pack_values
from fhir_bridge.query import search
from tests.unit.query.query_samples import LOINC, NOW, observation, view_of

Json = dict[str, Any]


def row(record_id: str, **elements: Any) -> IndexRow:
    """The index row of a resource as normalisation would make it."""
    resource: Json = {"resourceType": "Observation", "id": record_id, **elements}
    return structs.replace(
        observation(record_id, type_name=resource["resourceType"]), search=pack_values(extract(resource))
    )


def ids(name: str, text: str, *rows: IndexRow, type_name: str = "Observation") -> str:
    found = search(view_of(*rows), type_name, [(name, text)], now=NOW).found
    return " ".join(sorted(each.row.id for each in found))


def concept(code: str, text: str | None = None, display: str | None = None) -> Json:
    coding = {"system": LOINC, "code": code} | ({"display": display} if display else {})
    return {"coding": [coding]} | ({"text": text} if text else {})


def part(code: str, number: str) -> Json:
    quantity = {"value": Decimal(number), "system": "http://unitsofmeasure.org", "code": "mm[Hg]"}
    return {"code": concept(code), "valueQuantity": quantity}


PRESSURES = (
    row("high", code=concept("bp"), component=[part("sys", "150"), part("dia", "70")]),
    row("low", code=concept("bp"), component=[part("sys", "90"), part("dia", "155")]),
    row("plain", **part("sys", "151")),
    row("text", code=concept("sys"), valueString="Much"),
    row("coded", code=concept("sys"), valueCodeableConcept=concept("yes")),
    row("dated", code=concept("sys"), valueDateTime="2026-03"),
    row("other", **part("dia", "152")),
)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        # search.html#combining: both values in the same repetition, not anywhere in the resource
        ("component-code-value-quantity", "sys$gt100", "high"),
        ("component-code-value-quantity", f"{LOINC}|sys$gt100|http://unitsofmeasure.org|mm[Hg]", "high"),
        ("component-code-value-quantity", "dia$gt100", "low"),
        ("component-code-value-quantity", "dia$gt100,sys$gt100", "high low"),
        ("code-value-quantity", "sys$gt100", "plain"),
        ("combo-code-value-quantity", "sys$gt100", "high plain"),
        ("combo-code-value-quantity", "dia$152", "other"),
        ("code-value-string", "sys$much", "text"),
        ("code-value-concept", f"sys${LOINC}|yes", "coded"),
        ("combo-code-value-concept", "sys$yes", "coded"),
        ("code-value-date", "sys$2026", "dated"),
        ("code-value-date", "sys$lt2026", ""),
    ],
)
def test_composites(name: str, text: str, expected: str) -> None:
    assert ids(name, text, *PRESSURES) == expected


def test_a_composite_of_references_and_codes() -> None:
    relation = {"code": "replaces", "target": {"reference": "DocumentReference/a"}}
    made = {"resourceType": "DocumentReference", "relatesTo": [relation]}
    document = structs.replace(
        observation("d", type_name="DocumentReference"), search=pack_values(extract(made | {"id": "d"}))
    )
    assert ids("relationship", "DocumentReference/a$replaces", document, type_name="DocumentReference") == "d"
    assert ids("relationship", "DocumentReference/a$appends", document, type_name="DocumentReference") == ""


NAMED = (
    row("text", code=concept("1", text="Blood Préssure")),
    row("display", code=concept("2", display="blood gas")),
    row("category", code=concept("3"), category=[concept("4", text="blood")]),
    row("number", identifier=[{"type": concept("MR", text="Record of blood"), "system": "urn:s", "value": "blood"}]),
)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        # search.html#modifiers, :text: "CodeableConcept.text, Coding.display, or Identifier.type.text", as a string
        ("code:text", "blood", "display text"),
        ("code:text", "BLOOD PRESSURE", "text"),
        ("code:text", "gas", ""),
        ("category:text", "blood", "category"),
        ("identifier:text", "record", "number"),
        ("identifier:text", "blood", ""),
        ("identifier:of-type", f"{LOINC}|MR|blood", "number"),
        ("identifier:of-type", f"{LOINC}|MR|other", ""),
        ("identifier:of-type", "urn:x|MR|blood", ""),
        ("code:missing", "true", "number"),
    ],
)
def test_texts_and_typed_identifiers(name: str, text: str, expected: str) -> None:
    assert ids(name, text, *NAMED) == expected


STATUS = "http://hl7.org/fhir/ValueSet/observation-status"
STATUS_SYSTEM = "http://hl7.org/fhir/observation-status"
CODED = (
    row("plain", status="final"),
    row("own", status="mine"),
    row("coded", status="mine", code={"coding": [{"system": STATUS_SYSTEM, "code": "final"}]}),
    row("elsewhere", status="mine", code={"coding": [{"system": "urn:x", "code": "final"}]}),
    row("bare", status="mine", code={"coding": [{"code": "final"}]}),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("status:in", "plain"),
        ("status:not-in", "bare coded elsewhere own"),
        # A code whose system is not said is in no value set, but for elements that are bare codes by definition.
        ("code:in", "coded"),
        ("code:not-in", "bare elsewhere own plain"),
    ],
)
def test_value_sets_of_the_definitions(name: str, expected: str) -> None:
    assert ids(name, STATUS, *CODED) == ids(name, f"{STATUS}|4.0.1", *CODED) == expected


def test_numbers_and_quantities_sort_by_value_not_by_text() -> None:
    rows = [row(str(n), **part("sys", number)) for n, number in enumerate(("9", "10.0", "-1", "1e1", "100"))]
    rows.append(row("none"))
    for sort, expected in (("value-quantity", "2 0 1 3 4 none"), ("-value-quantity", "4 1 3 0 2 none")):
        found: list[str] = []
        after = None
        while True:
            page = search(view_of(*rows), "Observation", [("_sort", sort), ("_count", "2")], now=NOW, after=after)
            found += [each.row.id for each in page.found]
            after = page.after
            if after is None:
                break
        assert " ".join(found) == expected


def test_every_parameter_of_every_type_can_be_asked_for() -> None:
    values = {"date": "2026", "quantity": "1", "number": "1", "reference": "Patient/x"}
    empty = view_of()
    for type_name in sorted(r4().resource_types()):
        for name, kind in parameters_of(type_name).items():
            kinds = composite_of(type_name, name).kinds if kind == "composite" else (kind,)
            text = "$".join(values.get(each, "x") for each in kinds)
            assert search(empty, type_name, [(name, text)], now=NOW).total == 0


numbers = st.sampled_from(["1", "2", "2.0", "3"])
codes = st.sampled_from(["a", "b"])
parts = st.tuples(codes, numbers)
observations = st.lists(st.tuples(parts, st.lists(parts, max_size=3)), max_size=6)


@settings(deadline=None)
@given(observations, codes, numbers, st.sampled_from(["gt", "le", "eq", ""]))
def test_composites_agree_with_a_naive_reading(drawn: Any, code: str, number: str, prefix: str) -> None:
    def fits(each: tuple[str, str]) -> bool:
        value, wanted = Decimal(each[1]), Decimal(number)
        # 2 means [1.5, 2.5) and 2.0 means [1.95, 2.05): the same here, where all are whole
        return each[0] == code and {"gt": value > wanted, "le": value <= wanted}.get(prefix, value == wanted)

    rows = [
        row(str(n), **part(*own), component=[part(*each) for each in inner]) for n, (own, inner) in enumerate(drawn)
    ]
    for name, wanted in (
        ("code-value-quantity", [str(n) for n, (own, _) in enumerate(drawn) if fits(own)]),
        ("component-code-value-quantity", [str(n) for n, (_, inner) in enumerate(drawn) if any(map(fits, inner))]),
        (
            "combo-code-value-quantity",
            [str(n) for n, (own, inner) in enumerate(drawn) if any(map(fits, [own, *inner]))],
        ),
    ):
        assert ids(name, f"{code}${prefix}{number}", *rows) == " ".join(sorted(wanted))
