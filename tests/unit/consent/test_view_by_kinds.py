"""A view that judges kinds of records shows what judging row by row would, in the order that sorting would give."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from fhir_bridge.consent import as_of, permitted_view
from fhir_bridge.model.access import Decision, PermittedView
from fhir_bridge.model.index import Records
from fhir_bridge.model.ingest import IndexRow
from tests.unit.consent.consent_samples import CHART, NOW, row

PREDICATES: dict[str, Callable[[IndexRow], bool]] = {
    "everything": lambda _: True,
    "nothing": lambda _: False,
    "by type": lambda each: each.type == "Observation",
    "by label": lambda each: not each.labels,
    "by date": lambda each: each.dated_us is not None and each.dated_us < 3,
    "by date behind a label": lambda each: not each.labels or (each.dated_us or 0) < 3,
    "by id": lambda each: each.id in ("r1", "r3"),
}
histories = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.one_of(st.none(), st.integers(0, 5))), min_size=1, max_size=4
)
charts = st.dictionaries(st.sampled_from([f"r{n}" for n in range(6)]), histories, max_size=6)
Chart = dict[str, list[tuple[bool, bool, int | None]]]


def made(record: str, versions: Sequence[tuple[bool, bool, int | None]]) -> list[IndexRow]:
    """A record's versions from ``(is labelled, is deleted, date)``; its type hangs on its id."""
    return [
        structs.replace(
            row(
                record_id=record,
                version=f"v{at}",
                labelled=("R",) if labelled and not deleted else (),
                deleted=deleted,
            ),
            type="Observation" if record < "r3" else "Condition",
            dated_us=dated,
        )
        for at, (labelled, deleted, dated) in enumerate(versions)
    ]


def shown(versions: Sequence[IndexRow], permits: Callable[[IndexRow], bool]) -> list[IndexRow]:
    """What the rules of docs/consent.md leave of one record, written down once more and plainly."""
    living = [each for each in versions if not each.deleted]
    if not living or not permits(living[-1]):
        return []
    kept = []
    for at, each in enumerate(versions):
        alive = [one for one in versions[: at + 1] if not one.deleted]
        if alive and permits(alive[-1]):
            kept.append(each)
    return kept


def view_of(records: Records, permits: Callable[[IndexRow], bool]) -> PermittedView:
    return permitted_view([(Decision("c1", permits, 1, "e", NOW), CHART, records)])


def key(each: IndexRow) -> tuple[int, str]:
    return each.dated_us or 0, each.id


@settings(deadline=None)
@given(charts, st.sampled_from(sorted(PREDICATES)))
def test_a_view_by_kinds_is_the_view_row_by_row(chart: Chart, name: str) -> None:
    permits = PREDICATES[name]
    rows = {record: made(record, versions) for record, versions in chart.items()}
    view = view_of(Records.of(CHART, [each for versions in rows.values() for each in versions]), permits)
    wanted = {f"{versions[0].type}/{record}": shown(versions, permits) for record, versions in rows.items()}
    for place, versions in wanted.items():
        assert list(view.charts[0].rows.versions(place)) == versions
    assert sorted(view.charts[0].rows, key=repr) == sorted((e for each in wanted.values() for e in each), key=repr)
    current = {place: each[-1] for place, each in wanted.items() if each and not each[-1].deleted}
    assert {place: found for place, (_, found) in view.current.items()} == current
    assert all(view.current.get(place) == view.current[place] for place in current)
    assert len(view.current) == len(current)


@settings(deadline=None)
@given(st.lists(charts, min_size=1, max_size=4), st.sampled_from(sorted(PREDICATES)))
def test_an_order_that_is_kept_follows_what_comes_in(states: list[Chart], name: str) -> None:
    records = Records(CHART)
    held: dict[str, list[IndexRow]] = {}
    for state in states:
        changed = {record: made(record, versions) for record, versions in state.items()}
        records.put({f"{each[0].type}/{each[0].id}": each for each in changed.values()})
        held |= changed
        view = view_of(records, PREDICATES[name])
        living = [
            found for each in held.values() if (found := shown(each, PREDICATES[name])) and not found[-1].deleted
        ]
        for type_name in (None, "Observation"):
            wanted = sorted((each[-1] for each in living if type_name in (None, each[-1].type)), key=key)
            assert [found for _, found in view.in_order(type_name, "by date", key)] == wanted
            after = (2, "r1")
            rest = [found for _, found in view.in_order(type_name, "by date", key, after=after)]
            assert rest == [each for each in wanted if key(each) > after]


@settings(deadline=None)
@given(charts, charts, st.sampled_from(sorted(PREDICATES)))
def test_an_earlier_state_shows_what_was_there_and_may_be_seen_now(before: Chart, since: Chart, name: str) -> None:
    permits = PREDICATES[name]
    old = {record: made(record, versions) for record, versions in before.items()}
    new = {record: made(record, versions) for record, versions in since.items()}
    both = {record: [*old.get(record, []), *new.get(record, [])] for record in old | new}
    present = view_of(Records.of(CHART, [each for versions in both.values() for each in versions]), permits)
    then = [each for record in new for each in old.get(record, [])]
    changed = [f"{versions[0].type}/{record}" for record, versions in new.items()]
    pinned = as_of(present, view_of(Records.of(CHART, then), permits), changed)
    wanted = {}
    for record, versions in old.items():
        seen = shown(versions, permits) if shown(both[record], permits) else []
        assert list(pinned.charts[0].rows.versions(f"{versions[0].type}/{record}")) == seen
        if seen and not seen[-1].deleted:
            wanted[f"{versions[0].type}/{record}"] = seen[-1]
    assert {place: found for place, (_, found) in pinned.current.items()} == wanted
    in_order = [found for _, found in pinned.in_order(None, "by date", key)]
    assert in_order == sorted(wanted.values(), key=key)
