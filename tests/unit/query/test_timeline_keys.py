"""Orders by the timeline and by a date are computed by a shorter way, which must be the same order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from fhir_bridge.model.ingest import pack_values
from fhir_bridge.query.ordering import TIMELINE, comparable, key_of, read_sort, sort_key
from tests.unit.query.query_samples import observation

dates = st.one_of(st.none(), st.integers(-(2**60), 2**60))
names = st.from_regex(r"[A-Za-z0-9\-.]{1,64}", fullmatch=True)


@settings(deadline=None)
@given(dates, names)
def test_the_short_way_gives_the_key_of_the_rules(dated: int | None, name: str) -> None:
    found = structs.replace(observation("o1"), id=name, dated_us=dated)
    assert sort_key(TIMELINE)(found) == comparable(key_of(found, TIMELINE), TIMELINE)


@settings(deadline=None)
@given(
    dates,
    names,
    st.sampled_from(["date", "-date", "_lastUpdated", "-_lastUpdated"]),
    st.lists(st.tuples(dates, dates)),
)
def test_the_short_way_by_a_date_gives_the_key_of_the_rules(
    dated: int | None, name: str, sort: str, values: list[tuple[int | None, int | None]]
) -> None:
    spans = tuple([low, high] for low, high in values if low is not None and high is not None)
    found = structs.replace(
        observation("o1"), id=name, dated_us=dated, search=pack_values({"date": spans} if spans else {})
    )
    rules = read_sort("Observation", sort)
    assert sort_key(rules)(found) == comparable(key_of(found, rules), rules)
