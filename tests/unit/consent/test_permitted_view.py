"""The view over all rows is the view that a store holding only the visible ones would give."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.consent import permitted_view
from fhir_bridge.model.access import Decision, PermittedView
from fhir_bridge.model.ingest import IndexRow
from tests.unit.consent.consent_samples import CHART, NOW, label, row


def everything(chart: str = "c1") -> Decision:
    return Decision(chart, lambda _row: True, 1, "e", NOW)


def unlabelled() -> Decision:
    return replace(everything(), permits=lambda each: label("R") not in each.labels)


def view(decision: Decision, *rows: IndexRow) -> PermittedView:
    return permitted_view([(decision, CHART, rows)])


def version(number: int, *, hidden: bool = False, deleted: bool = False, record: str = "r1") -> IndexRow:
    labelled = ("R",) if hidden and not deleted else ()
    return row(record_id=record, version=f"v{number}", labelled=labelled, deleted=deleted)


def versions(made: PermittedView) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in made.charts[0].rows:
        found.setdefault(each.id, []).append(each.version)
    return found


def test_a_record_whose_current_version_is_hidden_shows_nothing() -> None:
    made = view(unlabelled(), version(1), version(2, hidden=True))
    assert list(made.charts[0].rows) == []
    assert made.current == {}


def test_a_hidden_older_version_leaves_no_gap() -> None:
    made = view(unlabelled(), version(1), version(2, hidden=True), version(3))
    assert [each.version for each in made.charts[0].rows] == ["v1", "v3"]
    assert made.current["Observation/r1"][1].version == "v3"


def test_a_deleted_record_is_in_the_history_and_not_current() -> None:
    made = view(everything(), version(1), version(2, deleted=True))
    assert [each.version for each in made.charts[0].rows] == ["v1", "v2"]
    assert made.current == {}


def test_the_tombstone_of_a_hidden_version_is_hidden() -> None:
    assert not list(view(unlabelled(), version(1, hidden=True), version(2, deleted=True)).charts[0].rows)


def test_a_tombstone_alone_tells_nothing() -> None:
    assert not list(view(everything(), version(1, deleted=True)).charts[0].rows)


def test_a_decision_for_another_chart_is_refused() -> None:
    with pytest.raises(ValueError, match="own chart"):
        view(everything("c2"), version(1))


steps = st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from(["r1", "r2"])), max_size=12)


@given(steps)
def test_a_view_of_the_visible_rows_is_the_same_view(taken: list[tuple[bool, bool, str]]) -> None:
    rows = [
        version(n, hidden=hidden, deleted=deleted, record=record) for n, (hidden, deleted, record) in enumerate(taken)
    ]
    rows.sort(key=lambda each: each.id)
    seen = view(unlabelled(), *rows)
    again = view(everything(), *seen.charts[0].rows)
    assert (versions(again), again.current) == (versions(seen), seen.current)
    assert all(label("R") not in each.labels for each in seen.charts[0].rows)
