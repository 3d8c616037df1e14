"""Index rows keep their values packed: what is asked for is there, and an opened chart holds nothing besides."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from fhir_bridge.fhir.search import names_beside, parameters_of
from fhir_bridge.fhir.tables import r4
from fhir_bridge.lines.charts import OpenChart
from fhir_bridge.model.ingest import ChartRef, IndexRow, pack_values
from tests.unit.query.query_samples import observation

VALUES: dict[str, tuple[Any, ...]] = {
    "code": (["http://loinc.org", "8480-6"], ["", "x"]),
    "date": ([1, 2],),
    "patient": ("Patient/p",),
    "value-quantity": (["51.6", "http://unitsofmeasure.org", "cm"],),
}


@cache
def stored() -> bytes:
    """A segment's rows: the form on disk, written without us."""
    rows = [msgspec.structs.asdict(observation(f"o{n}")) | {"search": VALUES, "codes": ("a|b",)} for n in range(3)]
    return msgspec.msgpack.encode(rows)


def rows() -> list[IndexRow]:
    return msgspec.msgpack.decode(stored(), type=list[IndexRow])


def test_what_is_asked_for_is_what_was_stored_under_its_name() -> None:
    for row in rows():
        for _ in range(2):
            assert {name: row.values_of(name) for name in VALUES} == VALUES
            assert row.values_of("subject") == ()


def test_what_was_unpacked_is_neither_written_nor_compared() -> None:
    asked = rows()
    for row in asked:
        assert row.values_of("code")
    assert asked == rows()
    assert msgspec.msgpack.encode(asked) == stored()


def test_an_opened_chart_holds_what_rows_have_in_common_once_and_not_the_segment() -> None:
    chart = OpenChart(ChartRef("northgate", "c", "p"))
    for batch in range(2):
        chart.add(batch, rows())
    held = [row for _, row in chart.rows]
    for of in ("type", "origin", "author", "codes", "labels", "references"):
        assert len({id(getattr(row, of)) for row in held}) == 1, of
    for row in held:
        assert row.search.copy() is row.search, "a view keeps all of the segment"
        assert row.values_of("date") == VALUES["date"]


def test_no_parameter_is_called_like_what_a_row_defines() -> None:
    names = {name for each in r4().resource_types() for name in (*parameters_of(each), *names_beside(each))}
    assert len(names) > 500
    assert not any("_" in name.removeprefix("_") for name in names)


def test_packed_values_are_those_of_one_parameter() -> None:
    row = msgspec.structs.replace(observation("o"), search=pack_values(VALUES))
    assert msgspec.msgpack.decode(row.packed_values_of("patient")) == ["Patient/p"]
    assert msgspec.msgpack.decode(row.packed_values_of("subject")) == []
    assert "patient" not in row.__dict__
