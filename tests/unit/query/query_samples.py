"""Rows and views for search tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fhir_bridge.consent import permitted_view
from fhir_bridge.fhir.dates import interval
from fhir_bridge.model.access import Decision, PermittedView
from fhir_bridge.model.ingest import ChartRef, IndexRow, pack_values

LOINC = "http://loinc.org"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000
CHART = ChartRef("northgate", "c1", "pat1")


def span(text: str) -> tuple[int, int]:
    """The interval that a FHIR date covers."""
    found = interval(text)
    assert found is not None
    return found


def observation(
    record_id: str,
    *,
    type_name: str = "Observation",
    date: str | None = None,
    updated: str = "2026-02-01",
    **search: Any,
) -> IndexRow:
    """A row; ``code`` and the like are given as tuples of values."""
    values: dict[str, tuple[Any, ...]] = {name.replace("_", "-"): found for name, found in search.items()}
    period = span(date) if date else None
    if period:
        values["date"] = (period,)
    return IndexRow(
        type=type_name,
        id=record_id,
        version=f"v-{record_id}",
        deleted=False,
        origin="northgate",
        author="institution",
        last_updated_us=span(updated)[0],
        source_updated_us=None,
        dated_us=period[0] if period else None,
        labels=(),
        codes=(),
        data_period_us=period,
        search=pack_values(values),
        references=(),
        content=b"",
    )


def view_of(*rows: IndexRow, hidden: frozenset[str] = frozenset()) -> PermittedView:
    """A view over one chart without the records named in ``hidden``."""
    decision = Decision("c1", lambda row: row.id not in hidden, 1, "e", NOW)
    return permitted_view([(decision, CHART, rows)])
