"""The timeline's own order is computed by a shorter way, which must be the same order."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.query.ordering import TIMELINE, comparable, key_of, place_of
from tests.unit.query.query_samples import observation

dates = st.one_of(st.none(), st.integers(-(2**60), 2**60))
names = st.from_regex(r"[A-Za-z0-9\-.]{1,64}", fullmatch=True)


@given(dates, names)
def test_the_short_way_gives_the_key_of_the_rules(dated: int | None, name: str) -> None:
    found = replace(observation("o1"), id=name, dated_us=dated)
    assert place_of(found, TIMELINE) == comparable(key_of(found, TIMELINE), TIMELINE)
