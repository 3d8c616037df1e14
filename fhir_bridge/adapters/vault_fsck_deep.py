"""Open every envelope of every chart and compare with what was committed.

The part of fsck that needs keys. Nothing it opens is kept or shown: a finding
names pseudonyms only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fhir_bridge.adapters.vault_database import Connection
from fhir_bridge.errors import EnvelopeBroken
from fhir_bridge.lines.checking import Finding
from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.ports.vault import StoredSegment
from fhir_bridge.seal import LINEAGE, NORMALISED, ORIGINAL, RecordPlace, open_normalised, open_part, open_parts


def check_charts(connection: Connection, chart_keys: Callable[[str], bytes | None]) -> Iterator[Finding]:
    """Yield a finding for each envelope that does not open to what its record's commitment binds."""
    charts = connection.execute("SELECT chart FROM segments UNION SELECT chart FROM records ORDER BY 1").fetchall()
    for (chart,) in charts:
        key = chart_keys(chart)
        if key is not None:
            yield from _check_chart(connection, chart, key)


def _check_chart(connection: Connection, chart: str, key: bytes) -> Iterator[Finding]:
    rows: dict[tuple[str, str], IndexRow] = {}
    segments = connection.execute(
        "SELECT chart, number, batch, ciphertext FROM segments WHERE chart = ? ORDER BY number", (chart,)
    )
    expected: int | None = 0
    for stored in segments:
        segment = StoredSegment(*stored)
        place = f"segments {chart}/{segment.number}"
        try:
            opened = open_parts(key, segment)
            rows |= {(row.id, row.version): row for part in opened.parts for row in part.rows()}
        except EnvelopeBroken as error:
            yield Finding(place, str(error))
            expected = None
            continue
        if expected is not None and opened.first > expected:
            yield Finding(f"segments {chart}/{expected}", "missing")
        elif expected is not None and opened.first < expected:
            yield Finding(place, "stands for rows that another segment holds too")
        expected = segment.number + 1
    yield from _check_records(connection, chart, key, rows)


def _check_records(
    connection: Connection, chart: str, key: bytes, rows: dict[tuple[str, str], IndexRow]
) -> Iterator[Finding]:
    stored = connection.execute(
        "SELECT id, version, commitment, normalised, original, lineage FROM records WHERE chart = ?", (chart,)
    )
    for record_id, version, commitment, *envelopes in stored:
        place = f"records {chart}/{record_id}/{version}"
        row = rows.pop((record_id, version), None)
        if row is None:
            yield Finding(place, "no index segment of its chart names it")
            continue
        what = _record_fault(key, RecordPlace.of(chart, row), commitment, *envelopes)
        if what is not None:
            yield Finding(place, what)
    for record_id, version in rows:
        yield Finding(f"records {chart}/{record_id}/{version}", "missing, although the index names it")


def _record_fault(
    key: bytes, where: RecordPlace, commitment: bytes, normalised: bytes, original: bytes, lineage: bytes
) -> str | None:
    part = NORMALISED
    try:
        opened = open_normalised(key, where, normalised)
        for part, envelope in ((ORIGINAL, original), (LINEAGE, lineage)):
            if open_part(key, where, part, envelope).digest != opened.part_digests[part]:
                return f"the {part} is not what the commitment binds"
    except EnvelopeBroken as error:
        return f"{part}: {error}"
    return None if opened.commitment == commitment else "what opens is not what the commitment binds"
