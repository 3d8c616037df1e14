"""Reading ValueSet files: what is taken, what is refused with file, line and concept, and what the digest binds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.errors import IntegrityBroken, ValueSetBroken
from fhir_bridge.fhir.value_set_files import line_of, packaged_sets, read_label_sets
from fhir_bridge.fhir.value_sets import LabelSets, ValueSet

ICD = "http://hl7.org/fhir/sid/icd-10-cm"
SNOMED = "http://snomed.info/sct"
SIX_TOPICS_OF_PCF = {"ETH", "ETHUD", "HIV", "OPIOIDUD", "PSY", "SDV"}


def text(include: Any = None, *, url: str = "urn:t", version: str = "1", **more: Any) -> bytes:
    body: dict[str, Any] = {"resourceType": "ValueSet", "url": url, "version": version, "status": "active"}
    if include is not None:
        body["compose"] = {"include": include}
    return json.dumps(body | more, indent=1).encode()


def concepts(*codes: str, system: str = SNOMED) -> dict[str, Any]:
    return {"system": system, "concept": [{"code": code} for code in codes]}


def read(content: bytes, **others: bytes) -> ValueSet:
    ((_, found),) = read_label_sets({"HIV": "t.json"}, {}, {"t.json": content, **others}).sets
    return found


def is_a(value: str, system: str = ICD, **more: str) -> dict[str, Any]:
    return {"system": system, "filter": [{"property": "concept", "op": "is-a", "value": value, **more}]}


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.text(max_size=4), inner, max_size=3)


def test_listed_concepts_are_held_by_system_and_code() -> None:
    found = read(text([concepts("1", "2"), concepts("3", system="urn:s")]))
    assert (found.url, found.version, found.name, found.size) == ("urn:t", "1", "urn:t|1", 3)
    assert found.holds(SNOMED, "1")
    assert found.holds("urn:s", "3")
    assert not found.holds(SNOMED, "3")
    assert not found.holds("", "1")
    assert found.holds_code("3")
    assert not found.holds_code("4")


@pytest.mark.parametrize("code", ["F10", "F10.2", "F1020", "F10.20", "f10.1"])
def test_a_category_of_icd_10_holds_what_begins_with_it(code: str) -> None:
    assert read(text([is_a("F10")])).holds(ICD, code)


@pytest.mark.parametrize("code", ["F1", "F11", "F", "", "XF10"])
def test_a_category_holds_nothing_else(code: str) -> None:
    assert not read(text([is_a("F10")])).holds(ICD, code)


def test_sets_that_include_each_other_are_read_among_the_files_given() -> None:
    other = text([concepts("2")], url="urn:o", version="7")
    for wanted in ("urn:o", "urn:o|7"):
        found = read(text([concepts("1"), {"valueSet": [wanted]}]), other=other)
        assert found.codes == {SNOMED: frozenset("12")}


def test_a_whole_expansion_counts_instead_of_what_needs_a_server() -> None:
    contains = [{"system": SNOMED, "code": "1", "contains": [{"system": SNOMED, "code": "2"}]}]
    content = text([is_a("1", SNOMED)], expansion={"total": 2, "contains": contains})
    assert read(content).codes == {SNOMED: frozenset("12")}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[]", "t.json: not strict JSON"),
        (b'{"resourceType": "Patient"}', "t.json:1: is no FHIR ValueSet"),
        (text([concepts("1")], version=""), "needs a version"),
        (text([concepts("1")], url="urn:a|b"), "needs a url"),
        (text(), "has neither compose.include nor expansion"),
        (text([]), "lists no concept"),
        (text([{"system": SNOMED}]), "means the whole of http://snomed.info/sct"),
        (text([{"concept": [{"code": "1"}]}]), "names no system"),
        (text([{**concepts("1"), "concepts": []}]), "is no include of FHIR R4"),
        (text([is_a("1", SNOMED)]), "filter concept is-a 1 over http://snomed.info/sct needs a terminology server"),
        (text([is_a("F10", op="descendent-of")]), "needs a terminology server"),
        (text([is_a("F1")]), "F1 is no category"),
        (text([{**is_a("F10"), **concepts("1", system=ICD)}]), "R4 allows one of the two"),
        (text([{"valueSet": ["urn:x"]}]), "includes urn:x, which is not among the files given"),
        (text([{"valueSet": ["urn:x", "urn:y"]}]), "intersection"),
        (text([{**concepts("1"), "valueSet": ["urn:x"]}]), "intersection"),
        (text([{"valueSet": ["urn:t"]}]), "includes itself"),
        (text(compose={"include": [concepts("1")], "exclude": [concepts("2")]}), "'exclude' is not worked out"),
        (text(expansion={"total": 9, "contains": [{"system": SNOMED, "code": "1"}]}), "holds 1 of 9 concepts"),
        (text(expansion={"offset": 5, "contains": [{"system": SNOMED, "code": "1"}]}), "is a part"),
        (text(expansion={"contains": [{"code": "1"}]}), "expansion.contains[0] names no system"),
    ],
)
def test_what_cannot_be_listed_is_refused(content: bytes, told: str) -> None:
    with pytest.raises(ValueSetBroken) as refused:
        read(content)
    assert told in str(refused.value)


def test_the_line_of_the_concept_is_named() -> None:
    lines = [
        '{"resourceType": "ValueSet", "url": "urn:t", "version": "1",',
        ' "compose": {"include": [',
        '  {"system": "urn:s", "concept": [',
        '   {"code": "1", "display": "a , ] } \\" trap"},',
        '   {"display": "no code"}',
        "  ]}]}}",
    ]
    with pytest.raises(ValueSetBroken, match=r"^t\.json:5: compose\.include\[0\]\.concept\[1\] has no code$"):
        read("\n".join(lines).encode())


@given(
    st.recursive(st.integers() | st.text(max_size=5), lambda x: st.lists(x, max_size=3) | _objects(x), max_leaves=12)
)
def test_every_value_is_found_on_the_line_it_is_written_on(value: Any) -> None:
    """Against a writer that puts each value on a line of its own and counts."""
    lines: list[str] = []
    places: dict[tuple[str | int, ...], int] = {}
    _write(value, (), lines, places, "")
    content = "\n".join(lines)
    assert json.loads(content) == value
    assert {place: line_of(content, place) for place in places if place} == {p: n for p, n in places.items() if p}


def _write(value: Any, place: tuple[str | int, ...], lines: list[str], places: dict[Any, int], head: str) -> None:
    places[place] = len(lines) + 1
    if isinstance(value, list | dict):
        pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
        lines.append(head + ("{" if isinstance(value, dict) else "["))
        for number, (key, each) in enumerate(pairs):
            _write(each, (*place, key), lines, places, f"{json.dumps(key)}:" if isinstance(value, dict) else "")
            lines[-1] += "," if number + 1 < len(pairs) else ""
        lines.append("}" if isinstance(value, dict) else "]")
    else:
        lines.append(head + json.dumps(value))


def test_two_sets_for_one_label_or_one_url_are_refused() -> None:
    one, other = ValueSet("urn:a", "1", {SNOMED: frozenset("1")}), ValueSet("urn:a", "2", {SNOMED: frozenset("1")})
    with pytest.raises(ValueSetBroken, match="two value sets are given for the label HIV"):
        LabelSets([("HIV", one), ("HIV", ValueSet("urn:b", "1", one.codes))])
    with pytest.raises(ValueSetBroken, match="two value sets of the URL urn:a differ"):
        LabelSets([("HIV", one), ("ETH", other)])
    assert len(LabelSets([("HIV", one), ("ETH", one)]).sets) == 2


def test_the_digest_binds_every_part_and_no_order() -> None:
    base = ("HIV", ValueSet("urn:a", "1", {SNOMED: frozenset("12")}, {ICD: frozenset({"B20"})}))
    more = ("ETH", ValueSet("urn:b", "1", {SNOMED: frozenset("3")}))
    digest = LabelSets([base, more]).digest
    assert LabelSets([more, base]).digest == digest
    assert LabelSets.decode(LabelSets([base, more]).encoded).digest == digest
    for label, changed in (
        ("PSY", base[1]),
        ("HIV", ValueSet("urn:c", "1", base[1].codes, base[1].stems)),
        ("HIV", ValueSet("urn:a", "2", base[1].codes, base[1].stems)),
        ("HIV", ValueSet("urn:a", "1", {SNOMED: frozenset("1")}, base[1].stems)),
        ("HIV", ValueSet("urn:a", "1", base[1].codes)),
    ):
        assert LabelSets([(label, changed), more]).digest != digest


@pytest.mark.parametrize("stored", [b"", b"{}", b'{"format":1,"sets":[{}]}', b'{"format": 1,"sets":[]}'])
def test_stored_sets_that_are_not_in_their_one_encoding_are_refused(stored: bytes) -> None:
    with pytest.raises(IntegrityBroken):
        LabelSets.decode(stored)


def test_our_sets_name_the_six_topics_and_alcohol_and_opioids_are_substances() -> None:
    sets = dict(packaged_sets().sets)
    assert set(sets) >= SIX_TOPICS_OF_PCF
    for narrow in ("ETHUD", "OPIOIDUD"):
        for system, codes in sets[narrow].codes.items():
            assert codes <= sets["ETH"].codes.get(system, frozenset()), narrow
        for system, stems in sets[narrow].stems.items():
            assert stems <= sets["ETH"].stems.get(system, frozenset()), narrow


@given(
    st.lists(st.tuples(st.sampled_from(["urn:s", ICD]), st.sampled_from(["F10", "F10.1", "F101", "B20", "F1"]))),
    st.lists(st.sets(st.sampled_from(["F10", "F101", "B20"]), min_size=1), min_size=1, max_size=3),
)
def test_labels_are_those_whose_set_holds_a_concept_of_the_record(
    found: list[tuple[str, str]], stems: list[set[str]]
) -> None:
    sets = [
        (f"L{n}", ValueSet(f"urn:{n}", "1", {"urn:s": frozenset(each)}, {ICD: frozenset(each)}))
        for n, each in enumerate(stems)
    ]
    given_labels = {each.label: set(each.concepts) for each in LabelSets(sets).given(found)}
    plain = {label: {c for c in found if each.holds(*c)} for label, each in sets}
    assert given_labels == {label: held for label, held in plain.items() if held}
