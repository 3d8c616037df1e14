"""The history of a record turns pages in the record's own order, whatever has become hidden in between."""

from __future__ import annotations

from msgspec import structs

from fhir_bridge.model.access import Found
from fhir_bridge.query import history_of_record, read_history
from tests.unit.query.query_samples import observation

ASKED = read_history([("_count", "2")], "Observation")


def _versions(*names: str) -> list[Found]:
    return [Found("c1", structs.replace(observation("o1"), version=name)) for name in names]


def _shown(versions: list[Found], after: tuple[int | str, ...] | None) -> list[str]:
    return [each.row.version for each in history_of_record(versions, ASKED, after=after).found]


def test_pages_together_are_the_whole() -> None:
    # Names without any order, for a late arrival from the past stands before what came earlier.
    versions, after, shown = _versions("m", "z", "a", "q", "b"), None, list[str]()
    while True:
        page = history_of_record(versions, ASKED, after=after)
        shown += [each.row.version for each in page.found]
        assert page.total == 5
        after = page.after
        if after is None:
            break
    assert shown == ["m", "z", "a", "q", "b"]


def test_a_page_goes_on_where_the_last_one_ended_though_versions_became_hidden() -> None:
    after = history_of_record(_versions("e", "d", "c", "b", "a"), ASKED).after
    assert _shown(_versions("d", "c", "b", "a"), after) == ["c", "b"]
    assert _shown(_versions("e", "d", "b", "a"), after) == ["b", "a"]
    # The version that ended the page is hidden by now: three were left after it.
    assert _shown(_versions("e", "c", "b", "a"), after) == ["c", "b"]
    assert _shown([], after) == []
