"""Each kind of search parameter matches as FHIR R4 search.html says."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_bridge.query import QueryRefused, search
from tests.unit.query.query_samples import LOINC, NOW, observation, view_of

SYSTEM = "http://example.org/s"
BASE = "http://bridge.example/fhir"


def ids(name: str, value: str, *rows: Any, type_name: str = "Observation") -> set[str]:
    found = search(view_of(*rows), type_name, [(name, value)], now=NOW, base_url=BASE).found
    return {each.row.id for each in found}


TOKENS = (
    observation("plain", code=((LOINC, "a"),)),
    observation("other", code=((SYSTEM, "a"),)),
    observation("bare", code=(("", "a"),)),
    observation("two", code=((LOINC, "b"), (SYSTEM, "c"))),
    observation("comma", code=((SYSTEM, "x,y|z"),)),
    observation("none"),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # search.html#token, table of forms
        ("a", "plain other bare"),
        (f"{LOINC}|a", "plain"),
        ("|a", "bare"),
        (f"{LOINC}|", "plain two"),
        ("c", "two"),
        ("A", ""),
        (f"{LOINC}|a,{SYSTEM}|c", "plain two"),
        ("x\\,y\\|z", "comma"),
        (f"{SYSTEM}|x\\,y\\|z", "comma"),
    ],
)
def test_token_forms(text: str, expected: str) -> None:
    assert ids("code", text, *TOKENS) == set(expected.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # search.html#token: a code's system is "(implicit)": the one that the value set names
        ("final", "final"),
        ("http://hl7.org/fhir/observation-status|final", "final"),
        ("http://hl7.org/fhir/observation-status|", "final amended"),
        ("http://hl7.org/fhir/publication-status|final", ""),
        ("|final", ""),
        ("|final,amended", "amended"),
    ],
)
def test_a_bare_code_has_the_system_of_its_value_set(text: str, expected: str) -> None:
    rows = (observation("final", status=(("", "final"),)), observation("amended", status=(("", "amended"),)))
    assert ids("status", text, *rows) == set(expected.split())


def test_not_also_finds_what_has_no_value() -> None:
    # search.html#modifiers: ":not … includes resources that have no value for the parameter"
    assert ids("code:not", "a", *TOKENS) == {"two", "comma", "none"}
    assert ids("code:not", "a,c", *TOKENS) == {"comma", "none"}


def test_missing() -> None:
    assert ids("code:missing", "true", *TOKENS) == {"none"}
    assert "none" not in ids("code:missing", "false", *TOKENS)
    assert ids("_lastUpdated:missing", "true", *TOKENS) == set()


DATES = (
    observation("jan14", date="2013-01-14"),
    observation("minute", date="2013-01-14T10:00:00Z"),
    observation("jan15", date="2013-01-15"),
    observation("january", date="2013-01"),
    observation("none"),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # search.html#prefix: eq: the parameter's range fully contains the resource's
        ("2013-01-14", "jan14 minute"),
        ("eq2013-01", "jan14 minute jan15 january"),
        ("eq2013-01-14T10:00:00Z", "minute"),
        ("ne2013-01-14", "jan15 january"),
        # gt/lt: the range above/below the parameter's overlaps with the resource's
        ("gt2013-01-14", "jan15 january"),
        ("lt2013-01-15", "jan14 minute january"),
        ("lt2013-01-14T10:00:00Z", "jan14 january"),
        ("ge2013-01-15", "jan15 january"),
        ("le2013-01-14", "jan14 minute january"),
        # sa/eb: no overlap, the resource's range is all after/before
        ("sa2013-01-14", "jan15"),
        ("eb2013-01-15", "jan14 minute"),
        ("ap2013-01-14", "jan14 minute jan15 january"),
        ("ap2050-01-01", ""),
        ("2013-01-14,2013-01-15", "jan14 minute jan15"),
    ],
)
def test_date_prefixes(text: str, expected: str) -> None:
    assert ids("date", text, *DATES) == set(expected.split())


def test_repeated_parameters_must_all_hold() -> None:
    params = [("date", "ge2013-01-14"), ("date", "lt2013-01-15"), ("_id", "jan14,jan15")]
    found = search(view_of(*DATES), "Observation", params, now=NOW).found
    assert [each.row.id for each in found] == ["jan14"]


def test_last_updated_is_the_rows_own() -> None:
    old, new = observation("old", updated="2020-01-01"), observation("new", updated="2026-01-01")
    assert ids("_lastUpdated", "gt2025", old, new) == {"new"}
    assert ids("_lastUpdated", "lt2025", old, new) == {"old"}


REFERENCES = (
    observation("one", subject=("Patient/p1",)),
    observation("two", subject=("Group/p1",)),
    observation("logical", subject=("|http://example.org/mrn|77",)),
    observation("long", subject=("Patient/xp1",)),
    observation("path", subject=("|http://example.org/mrn|ward/p1",)),
)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("subject", "Patient/p1", "one"),
        ("subject", "p1", "one two"),
        ("subject", f"{BASE}/Patient/p1", "one"),
        ("subject", "http://elsewhere.example/fhir/Patient/p1", ""),
        ("subject:Patient", "p1", "one"),
        ("subject:identifier", "http://example.org/mrn|77", "logical"),
        ("subject:identifier", "77", "logical"),
        ("subject:identifier", "http://example.org/mrn|", "logical path"),
        ("subject", "Patient/p1,Patient/xp1", "one long"),
    ],
)
def test_reference_forms(name: str, text: str, expected: str) -> None:
    assert ids(name, text, *REFERENCES) == set(expected.split())


def test_strings_ignore_case_and_accents_and_match_the_start() -> None:
    # search.html#string
    rows = [
        observation(str(n), type_name="Patient", family=(name,)) for n, name in enumerate(["Müller", "Mull", "Smul"])
    ]
    assert ids("family", "mul", *rows, type_name="Patient") == {"0", "1"}
    assert ids("family:contains", "MUL", *rows, type_name="Patient") == {"0", "1", "2"}
    assert ids("family:exact", "Mull", *rows, type_name="Patient") == {"1"}


def test_numbers_compare_within_the_precision_they_are_written_in() -> None:
    # search.html#number: 100 means [99.5, 100.5), 100.00 means [99.995, 100.005)
    rows = [
        observation(text, value_quantity=((text, "http://unitsofmeasure.org", "mg/dL"),))
        for text in ("99.4", "99.5", "100.1", "100.5")
    ]
    assert ids("value-quantity", "100", *rows) == {"99.5", "100.1"}
    assert ids("value-quantity", "100.00", *rows) == set()
    assert ids("value-quantity", "gt100|http://unitsofmeasure.org|mg/dL", *rows) == {"100.1", "100.5"}
    assert ids("value-quantity", "gt100|http://unitsofmeasure.org|mmol/L", *rows) == set()


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("colour", "red", "not-supported"),
        ("code.name", "x", "not-supported"),
        ("_has:Observation:patient:code", "x", "not-supported"),
        ("_filter", "code eq x", "not-supported"),
        ("_elements", "nonsense", "invalid"),
        ("code:above", "x", "not-supported"),
        ("status:text", "x", "not-supported"),
        ("code:of-type", "s|c|v", "not-supported"),
        ("identifier:of-type", "s|c", "invalid"),
        ("identifier:of-type", "s||v", "invalid"),
        ("code:in", "http://x", "not-supported"),
        ("status:in", "http://hl7.org/fhir/ValueSet/observation-status|3.0.2", "not-supported"),
        ("code:text", "", "invalid"),
        ("code-value-quantity", "a", "invalid"),
        ("code-value-quantity", "a$1$b", "invalid"),
        ("code-value-quantity", "a$ten", "invalid"),
        ("code-value-quantity:missing", "true", "not-supported"),
        ("date:not", "2013", "not-supported"),
        ("subject:Practioner", "1", "not-supported"),
        ("_sort", "colour", "not-supported"),
        ("_total", "many", "not-supported"),
        ("_summary", "most", "not-supported"),
        ("code", "", "invalid"),
        ("code", "a|b|c", "invalid"),
        ("code:missing", "maybe", "invalid"),
        ("date", "yesterday", "invalid"),
        ("date", "xx2013", "invalid"),
        ("date", "2013-02-30", "invalid"),
        ("value-quantity", "ten", "invalid"),
        ("value-quantity", "nan", "invalid"),
        ("_count", "-1", "invalid"),
        ("_count", "many", "invalid"),
        ("subject", "", "invalid"),
        ("subject:Patient", "Group/1", "invalid"),
    ],
)
def test_what_is_not_understood_refuses_the_search(name: str, text: str, code: str) -> None:
    with pytest.raises(QueryRefused) as refused:
        ids(name, text, *TOKENS)
    assert [issue.code for issue in refused.value.issues] == [code]


def test_a_refusal_never_repeats_what_was_sent() -> None:
    with pytest.raises(QueryRefused) as refused:
        ids("Jane Doe 1970-01-01", "secret")
    with pytest.raises(QueryRefused) as bad_value:
        ids("date", "secret")
    text = f"{refused.value.issues}{refused.value}{bad_value.value.issues}{bad_value.value}"
    assert "Jane" not in text
    assert "secret" not in text


def test_a_lenient_search_names_what_it_ignored_and_still_refuses_bad_values() -> None:
    view = view_of(*TOKENS)
    result = search(view, "Observation", [("colour", "red"), ("code", "c")], now=NOW, lenient=True)
    assert result.ignored == ("colour",)
    assert [each.row.id for each in result.found] == ["two"]
    with pytest.raises(QueryRefused):
        search(view, "Observation", [("date", "x")], now=NOW, lenient=True)
