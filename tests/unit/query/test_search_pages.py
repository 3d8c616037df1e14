"""Order, totals and pages; and the property that hidden rows change nothing at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.query import QueryRefused, everything, history, read, search, vread
from fhir_bridge.query.ordering import Key
from tests.unit.query.query_samples import LOINC, NOW, observation, span, view_of

ROWS = (
    observation("b", date="2020-01-01", code=((LOINC, "2"),)),
    observation("c", date="2020-01-01", code=((LOINC, "1"),)),
    observation("a", date="2021", updated="2026-02-02"),
    observation("d", updated="2026-02-03"),
    observation("p", type_name="Patient"),
    observation("o", type_name="Organization"),
    observation("s", type_name="Consent"),
)


def ordered(*params: tuple[str, str], type_name: str = "Observation", **more: Any) -> list[str]:
    return [each.row.id for each in search(view_of(*ROWS), type_name, params, now=NOW, **more).found]


def test_the_order_is_that_of_the_timeline_undated_last_ids_break_ties() -> None:
    assert ordered() == ["b", "c", "a", "d"]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("-date", "a b c d"),
        ("date", "b c a d"),
        ("code", "c b a d"),
        ("-code", "b c a d"),
        ("-_id", "d c b a"),
        ("_lastUpdated,-_id", "c b a d"),
        ("-_lastUpdated", "d a b c"),
    ],
)
def test_sort_puts_what_has_no_value_last(sort: str, expected: str) -> None:
    assert ordered(("_sort", sort)) == expected.split()


def test_of_several_values_the_lowest_counts_ascending_and_the_highest_descending() -> None:
    rows = (
        observation("ac", code=((LOINC, "a"), (LOINC, "c"))),
        observation("b", code=((LOINC, "b"),)),
    )
    up = search(view_of(*rows), "Observation", [("_sort", "code")], now=NOW).found
    down = search(view_of(*rows), "Observation", [("_sort", "-code")], now=NOW).found
    assert [each.row.id for each in up] == ["ac", "b"]
    assert [each.row.id for each in down] == ["ac", "b"]


def test_totals_and_counts() -> None:
    view = view_of(*ROWS)
    one = search(view, "Observation", [("_count", "1")], now=NOW)
    assert (len(one.found), one.total) == (1, 4)
    assert one.after is not None
    assert search(view, "Observation", [("_total", "none")], now=NOW).total is None
    for params in ([("_summary", "count")], [("_count", "0")], [("_summary", "count"), ("_total", "none")]):
        counted = search(view, "Observation", params, now=NOW)
        assert (counted.found, counted.total, counted.after) == ((), 4, None)
    assert search(view, "Observation", [("_count", "4")], now=NOW).after is None
    with pytest.raises(QueryRefused):
        search(view, "Observation", [("_count", "1"), ("_count", "2")], now=NOW)


def test_a_page_holds_at_most_a_thousand() -> None:
    many = view_of(*(observation(f"x{n}") for n in range(1_001)))
    assert len(search(many, "Observation", [("_count", "5000")], now=NOW).found) == 1_000
    assert len(search(many, "Observation", [], now=NOW).found) == 20


def test_everything_is_one_page_without_directory_and_records_about_records() -> None:
    result = everything(view_of(*ROWS))
    assert [each.row.id for each in result.found] == ["b", "c", "a", "d", "p"]
    assert (result.total, result.after) == (5, None)
    assert "o" in [each.row.id for each in everything(view_of(*ROWS), with_directory=True).found]


def test_everything_by_type_time_and_update() -> None:
    def found(*params: tuple[str, str]) -> str:
        return " ".join(each.row.id for each in everything(view_of(*ROWS), params).found)

    assert found(("_type", "Patient,Consent")) == "p s"
    assert found(("_type", "Patient"), ("_type", "Consent")) == "p s"
    assert found(("_since", "2026-02-02")) == "a d"
    assert found(("start", "2021-06-01")) == "a d p"
    assert found(("end", "2020-06-01")) == "b c d p"
    assert found(("_count", "2")) == "b c"
    with pytest.raises(QueryRefused):
        found(("code", "1"))
    with pytest.raises(QueryRefused):
        found(("start", "soon"))


def test_reads_see_the_view_only() -> None:
    first = observation("x")
    second, third = structs.replace(first, version="v2"), structs.replace(first, version="v3", deleted=True)
    view = view_of(first, second, third)
    newest = read(view, "Observation", "x")
    assert newest is not None
    assert newest.row.deleted
    assert [each.row.version for each in history(view, "Observation", "x")] == ["v3", "v2", "v-x"]
    old = vread(view, "Observation", "x", "v2")
    assert old is not None
    assert old.row is second
    hidden = view_of(first, second, third, hidden=frozenset({"x"}))
    assert read(hidden, "Observation", "x") is None
    assert vread(hidden, "Observation", "x", "v2") is None
    assert history(hidden, "Observation", "x") == ()
    assert read(view, "Patient", "x") is None
    assert vread(view, "Observation", "x", "v9") is None


dates = st.sampled_from([None, "2020", "2020-03", "2020-03-01", "2021-01-01T10:00:00Z"])
codes = st.lists(st.tuples(st.sampled_from([LOINC, ""]), st.sampled_from("abc")), max_size=2).map(tuple)
samples = st.lists(st.tuples(dates, codes, st.sampled_from(["2026-01-01", "2026-01-02"]), st.booleans()), max_size=12)
queries = st.lists(
    st.one_of(
        st.tuples(st.just("code"), st.sampled_from(["a", "b,c", f"{LOINC}|", "|a", f"{LOINC}|c,|b"])),
        st.tuples(st.just("code:not"), st.sampled_from(["a", "b,c"])),
        st.tuples(st.just("code:missing"), st.sampled_from(["true", "false"])),
        st.tuples(st.just("date"), st.sampled_from(["2020", "gt2020-03-01", "le2020-03", "ne2021", "sa2020-03"])),
        st.tuples(st.just("_lastUpdated"), st.sampled_from(["2026-01-01", "ge2026-01-02"])),
    ),
    max_size=3,
)
sorts = st.sampled_from(["date", "-date", "code", "-code", "-_lastUpdated,code", "_id", "-_id"])


def made(drawn: list[tuple[str | None, Any, str, bool]]) -> tuple[list[IndexRow], frozenset[str]]:
    rows = [observation(f"r{n}", date=d, code=c, updated=u) for n, (d, c, u, _) in enumerate(drawn)]
    return rows, frozenset(f"r{n}" for n, each in enumerate(drawn) if each[3])


@settings(deadline=None)
@given(samples, queries, sorts, st.integers(1, 4))
def test_hidden_rows_change_nothing(
    drawn: list[tuple[str | None, Any, str, bool]], query: list[tuple[str, str]], sort: str, size: int
) -> None:
    rows, hidden = made(drawn)
    poorer = view_of(*(each for each in rows if each.id not in hidden))
    richer = view_of(*rows, hidden=hidden)
    for params in ([*query, ("_sort", sort), ("_count", str(size))], [*query, ("_summary", "count")]):
        assert search(richer, "Observation", params, now=NOW) == search(poorer, "Observation", params, now=NOW)
    assert everything(richer) == everything(poorer)


@settings(deadline=None)
@given(samples, queries, sorts, st.integers(1, 4))
def test_pages_join_up_to_the_whole(
    drawn: list[tuple[str | None, Any, str, bool]], query: list[tuple[str, str]], sort: str, size: int
) -> None:
    view = view_of(*made(drawn)[0])
    params = [*query, ("_sort", sort)]
    whole = search(view, "Observation", params, now=NOW, page_size=1_000).found
    joined: list[Any] = []
    after: Key | None = None
    while True:
        page = search(view, "Observation", params, now=NOW, page_size=size, after=after)
        assert len(page.found) == size or page.after is None
        joined += page.found
        after = page.after
        if after is None:
            break
    assert tuple(joined) == whole


def naive(row: IndexRow, name: str, text: str) -> bool:
    """A second definition of the few forms drawn above, over plain comparisons."""
    if name == "code:missing":
        return (not row.values_of("code")) == (text == "true")
    if name.startswith("code"):
        hit = any(
            code == wanted.split("|")[-1] or wanted.endswith("|")
            if "|" not in wanted
            else system == wanted.split("|")[0] and wanted.split("|")[1] in ("", code)
            for system, code in row.values_of("code")
            for wanted in text.split(",")
        )
        return not hit if name.endswith("not") else hit
    value = (row.last_updated_us, row.last_updated_us + 1_000) if name == "_lastUpdated" else row.data_period_us
    return value is not None and naive_date(value, text)


def naive_date(value: tuple[int, int], text: str) -> bool:
    prefix, rest = (text[:2], text[2:]) if text[:2].isalpha() else ("eq", text)
    low, high = span(rest)
    within = value[0] >= low and value[1] <= high
    match prefix:
        case "eq":
            return within
        case "ne":
            return not within
        case "gt":
            return value[1] > high
        case "sa":
            return value[0] >= high
        case "ge":
            return within or value[1] > high
    return within or value[0] < low


@settings(deadline=None)
@given(samples, queries)
def test_search_agrees_with_a_naive_filter(
    drawn: list[tuple[str | None, Any, str, bool]], query: list[tuple[str, str]]
) -> None:
    rows, _ = made(drawn)
    found = search(view_of(*rows), "Observation", query, now=NOW, page_size=1_000).found
    expected = {row.id for row in rows if all(naive(row, name, text) for name, text in query)}
    assert {each.row.id for each in found} == expected
