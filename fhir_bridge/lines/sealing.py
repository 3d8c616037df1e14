"""Seals what a group of messages changes: envelopes and commitments of its records, segments of its charts' indexes.

A record of a large message is asked for whole, sealed, and put on disk again until the vault takes it, so that of
such a group neither records nor index rows are held together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from fhir_bridge.lines.keeping import KeptSealed
from fhir_bridge.lines.staging import StagedRecord, instant_of
from fhir_bridge.model.ingest import IndexRow, Sealed, stamped
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.overflow import Overflows
from fhir_bridge.ports.vault import Segment
from fhir_bridge.seal import seal_record, seal_segment

_ROWS_AT_ONCE: Final = 2_048
"""Index rows of a group with a large message that are held before they go into segments."""


@dataclass(slots=True)
class SealedGroup:
    """What one commit writes of records and indexes.

    ``rows`` are the index rows by chart; of a group with a large message they are in the segments alone.
    """

    records: Sequence[Sealed]
    segments: list[Segment] = field(default_factory=list)
    rows: dict[str, list[IndexRow]] = field(default_factory=dict)


def seal_group(
    staged: Sequence[StagedRecord],
    keys: Mapping[str, bytes],
    numbers: Mapping[str, int],
    overflows: Overflows,
    randomness: Randomness,
) -> SealedGroup:
    """Seal staged records, in their order.

    Args:
        keys: Chart keys by chart.
        numbers: The number of the next segment of each chart.

    Raises:
        Unavailable: A large message could not be read again or kept; nothing was written to the vault.
    """
    if not any(item.record.kept for item in staged):
        records: list[Sealed] = []
        group = SealedGroup(records)
        for item in staged:
            records.append(_sealed(item, keys, randomness))
            group.rows.setdefault(item.chart.chart, []).append(item.row)
        _seal_rows(group, keys, numbers, randomness)
        return group
    kept = KeptSealed(overflows.open())
    group, held = SealedGroup(kept), 0
    for item in staged:
        whole = _whole(item)
        kept.append(_sealed(whole, keys, randomness))
        group.rows.setdefault(item.chart.chart, []).append(whole.row)
        held += 1
        if held == _ROWS_AT_ONCE:
            _seal_rows(group, keys, numbers, randomness)
            group.rows, held = {}, 0
    _seal_rows(group, keys, numbers, randomness)
    group.rows = {}
    return group


def _whole(item: StagedRecord) -> StagedRecord:
    record = item.record.whole
    if record is item.record:
        return item
    row = replace(
        record.row,
        # A view would keep the whole block that the record was read in.
        search=record.row.search.copy(),
        version=item.row.version,
        last_updated_us=item.row.last_updated_us,
        source_updated_us=item.row.source_updated_us,
    )
    return replace(item, record=record, row=row)


def _sealed(item: StagedRecord, keys: Mapping[str, bytes], randomness: Randomness) -> Sealed:
    when = instant_of(item.row.last_updated_us)
    body = b"" if item.row.deleted else stamped(item.record, version=item.row.version, last_updated=when)
    chart = item.chart.chart
    return seal_record(item.record, chart, body, item.row.version, keys[chart], randomness)


def _seal_rows(
    group: SealedGroup, keys: Mapping[str, bytes], numbers: Mapping[str, int], randomness: Randomness
) -> None:
    before: dict[str, int] = {}
    for segment in group.segments:
        before[segment.chart] = before.get(segment.chart, 0) + 1
    for chart, rows in group.rows.items():
        number = numbers[chart] + before.get(chart, 0)
        group.segments.append(seal_segment(keys[chart], chart, number, rows, randomness))
