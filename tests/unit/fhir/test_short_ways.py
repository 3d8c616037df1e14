"""Each short way says what the long one says: shortcuts of invariants, plans of searches, the walk for labels."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_bridge.fhir import references
from fhir_bridge.fhir.compile import _Compiler
from fhir_bridge.fhir.paths import compile_path, scope_of
from fhir_bridge.fhir.run import Run
from fhir_bridge.fhir.search import extract, extractors, stored_names
from fhir_bridge.fhir.search_values import converter
from fhir_bridge.fhir.shortcuts import SHORTCUTS
from fhir_bridge.fhir.tables import SearchParameter, r4, search_parameters
from fhir_bridge.fhir.validate import validate_r4
from fhir_bridge.fhir.value_sets import every_coding
from fhir_bridge.normalize.reference_places import walk
from tests.unit.fhir.fhir_samples import Json, examples, observation

DATES = st.sampled_from(
    ["2020", "2020-01", "2020-01-31", "2020-01-31T23:59:60Z", "2020-02-01T00:30:00+02:00", "2019-12-31", "2021"]
)
BESIDE: st.SearchStrategy[Json] = st.just({"id": "x"})
KINDS = ("transaction", "batch", "collection", "history", "batch-response", "transaction-response", "searchset")
PART: st.SearchStrategy[Json] = st.just({"status": "200"})
CODED = st.lists(st.sampled_from([{"code": "a"}, {"code": "b"}]), max_size=2).map(lambda found: {"coding": found})
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "fullUrl": st.sampled_from(["urn:a", "urn:ab", "http://x/Patient/1/_history/2"]),
        "_fullUrl": BESIDE,
        "resource": st.fixed_dictionaries(
            {}, optional={"meta": st.fixed_dictionaries({}, optional={"versionId": st.sampled_from(["b", "c"])})}
        ),
        "request": PART,
        "response": PART,
    },
)
NONE = SearchParameter("", "", "", ())
OBJECTS: dict[str, st.SearchStrategy[Json]] = {
    "Period": st.fixed_dictionaries({}, optional={"start": DATES, "end": DATES, "_start": BESIDE, "_end": BESIDE}),
    "Observation": st.fixed_dictionaries(
        {"resourceType": st.just("Observation"), "code": CODED},
        optional={
            "valueString": st.just("x"),
            "_valueBoolean": BESIDE,
            "dataAbsentReason": CODED,
            "component": st.lists(st.fixed_dictionaries({"code": CODED}), max_size=2),
        },
    ),
    "Quantity": st.fixed_dictionaries(
        {}, optional={"code": st.just("kg"), "_code": BESIDE, "system": st.just("urn:x"), "_system": BESIDE}
    ),
    "Bundle.entry": ENTRY,
    "Bundle": st.fixed_dictionaries(
        {"resourceType": st.just("Bundle"), "entry": st.lists(ENTRY, max_size=3)},
        optional={"type": st.sampled_from(KINDS), "_type": BESIDE},
    ),
}
INVARIANTS = [
    (name, rule.key, rule.expression)
    for name, row in r4().types.items()
    for rule in row.invariants
    if rule.expression in SHORTCUTS
]


def test_every_shortcut_belongs_to_an_invariant_of_r4() -> None:
    assert {expression for _, _, expression in INVARIANTS} == SHORTCUTS.keys()


@pytest.mark.parametrize(("type_name", "key", "expression"), INVARIANTS, ids=[f"{n}-{k}" for n, k, _ in INVARIANTS])
@settings(max_examples=60)
@given(data=st.data())
def test_what_a_shortcut_is_sure_of_holds(type_name: str, key: str, expression: str, data: st.DataObject) -> None:
    value = data.draw(OBJECTS.get(type_name, OBJECTS["Quantity"]))
    path = compile_path(expression, type_name, r4())
    if SHORTCUTS[expression](value):
        assert path.holds(value, value, value), key


def test_shortcuts_are_sure_of_what_hospitals_send() -> None:
    assert SHORTCUTS["code.empty() or system.exists()"]({"value": 1, "code": "kg", "system": "urn:x"})
    entry = {"fullUrl": "urn:a", "resource": {}, "request": {"method": "PUT"}}
    bundle = {"resourceType": "Bundle", "type": "batch", "entry": [entry, {**entry, "fullUrl": "urn:b"}]}
    whole = [SHORTCUTS[e](bundle) for n, _, e in INVARIANTS if n == "Bundle"]
    parts = [SHORTCUTS[e](entry) for n, _, e in INVARIANTS if n == "Bundle.entry"]
    assert whole == [True] * 3
    assert parts == [True] * 2


def test_a_url_and_version_that_spell_another_url_are_left_to_the_expression() -> None:
    entries = [{"fullUrl": "urn:a", "resource": {"meta": {"versionId": "b"}}}, {"fullUrl": "urn:ab", "resource": {}}]
    bundle = {"resourceType": "Bundle", "type": "batch", "entry": entries}
    (expression,) = (text for name, key, text in INVARIANTS if key == "bdl-7")
    assert not compile_path(expression, "Bundle", r4()).holds(bundle, bundle, bundle)
    assert not SHORTCUTS[expression](bundle)


def test_keys_that_were_sound_once_do_not_vouch_for_what_stands_under_them() -> None:
    assert validate_r4(observation()) == []
    wrong = observation(status="finished", effectiveDateTime="2026-02-30", code={"coding": "x"})
    found = [(i.code, i.expression) for i in validate_r4(wrong)]
    assert found == [
        ("code-invalid", "Observation.status"),
        ("structure", "Observation.code.coding"),
        ("value", "Observation.effectiveDateTime"),
    ]
    lacking = {key: value for key, value in observation().items() if key != "status"}
    # Twice: a set of keys with a fault is judged anew each time.
    for _ in range(2):
        assert [i.expression for i in validate_r4(lacking)] == ["Observation.status"]
        assert [i.expression for i in validate_r4(observation(statuss="x"))] == ["Observation"]


VALUES: tuple[Any, ...] = (
    *("", " ", "a", "a b", "a  b", " a", "a\n", "é", "x" * 65, "x" * 200, "#", "#p1", "final", "male", "text/plain"),
    *("http://example.org/x", "http://example.org/x y", "urn:oid:1.2.3", "urn:oid:1.2.x", "urn:uuid:1"),
    *("urn:uuid:53fefa32-fcbb-4ff8-8a92-55ee120877b7", "YQ==", "YQ=", "12:00:00", "24:00:00", "12:00"),
    *(
        "2020",
        "0000",
        "2020-02",
        "2020-13",
        "2020-02-29",
        "2021-02-29",
        "2020-02-29T12:00:00Z",
        "2020-02-29T12:00:00",
    ),
    *("2020-02-30T12:00:00+01:00", "2020-02-29T24:00:00Z", 0, 1, -1, 2**31, Decimal("1.50"), True, False, None),
    *([], ["final"], {}, {"id": "x"}),
)


@pytest.mark.parametrize("type_name", sorted(r4().types))
def test_what_is_passed_at_a_glance_has_nothing_wrong_with_it(type_name: str) -> None:
    row = r4().types[type_name]
    if row.kind == "primitive-type":
        return
    checks, sure = _Compiler(r4())._key_checks(row)
    coded = [each.codes for each in row.elements.values() if each.codes is not None]
    listed = {code for url in coded for found in r4().codes[url].values() for code in found}
    for key, is_sure in sure.items():
        # Twice: what fitted once is remembered.
        for value in (*VALUES, *listed, *VALUES):
            if is_sure(value):
                run = Run({"resourceType": type_name, key: value}, frozenset())
                checks[key](value, (None, key), run, {key: value})
                assert (run.issues, run.fragments) == ([], []), (key, value)


def test_most_of_what_hospitals_send_is_passed_at_a_glance() -> None:
    _, sure = _Compiler(r4())._key_checks(r4().types["Observation"])
    assert sure["status"]("final")
    assert not sure["status"]("finished")
    assert sure["effectiveDateTime"]("2020-02-29T12:00:00Z")
    assert not sure["effectiveDateTime"]("2021-02-29T12:00:00Z")
    assert sure["valueString"]("well")
    assert "implicitRules" not in sure
    assert "code" not in sure


def test_plans_find_what_every_path_finds() -> None:
    for resource in examples("r4"):
        type_name = resource["resourceType"]
        found = extract(resource)
        for name, values in _by_every_path(resource).items():
            held = [v for stored in stored_names(type_name, name) for v in found.get(stored, ())]
            assert list(dict.fromkeys(held)) == list(dict.fromkeys(values)), (type_name, name)
        assert found.keys() <= _by_every_path(resource).keys()


PARTS = st.fixed_dictionaries(
    {},
    optional={
        "code": CODED,
        "_code": BESIDE,
        "valueQuantity": st.just({"value": 7, "code": "kg"}),
        "_valueQuantity": BESIDE,
        "valueCodeableConcept": CODED,
        "valueString": st.sampled_from(["well", "ill"]),
        "_valueString": BESIDE,
        "valueBoolean": st.booleans(),
        "valueReference": st.just({"reference": "Patient/a"}),
    },
)
COMPOSITES = [
    (type_name, each.name, each.branch)
    for type_name in ("Observation", "Group", "DocumentReference", "DiagnosticReport", "Patient")
    for each in extractors(type_name)
    if search_parameters().get(type_name, {}).get(each.name, NONE).kind == "composite"
]


@settings(max_examples=100)
@given(part=PARTS)
def test_a_composite_of_parts_finds_what_its_components_find(part: Json) -> None:
    assert {name for _, name, _ in COMPOSITES} >= {"combo-code-value-quantity", "code-value-string"}
    for type_name, name, branch in COMPOSITES:
        components = search_parameters()[type_name][name].components
        if any("%" in path for _, _, path in components):
            continue
        (made,) = (e for e in extractors(type_name) if (e.name, e.branch) == (name, branch))
        (part_type,) = made.types
        found = []
        for _, kind, path in components:
            long = compile_path(path, part_type, r4())
            convert = converter(kind, long.types)
            found.append(tuple(v for item in long.evaluate([part], scope_of(part)) for v in convert(item)))
        assert made.converts[0][1](part) == ((tuple(found),) if all(found) else ()), (name, branch)


def _by_every_path(resource: Json) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {}
    for each in extractors(resource["resourceType"]):
        for item in each.evaluate([resource], scope_of(resource)):
            for name, convert in each.converts:
                if converted := convert(item):
                    values.setdefault(name, []).extend(converted)
    return values


def test_one_walk_finds_every_reference_and_every_code() -> None:
    for resource in examples("r4"):
        found = walk(resource)
        # A Reference within a Reference's text, such as an extension of its display, is seen by this walk alone.
        assert {id(each) for each in references.walk(resource)} <= {id(each) for each, _, _ in found.references}
        codes = {(each.get("system") or "", each["code"]) for each in found.coded if type(each["code"]) is str}
        assert set(every_coding(resource)) <= codes
