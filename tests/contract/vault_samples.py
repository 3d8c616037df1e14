"""Records, works and batches for vault tests: made-up content, real envelopes, real batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from fhir_bridge.adapters.ambient import SystemRandomness
from fhir_bridge.anchor import make_batch
from fhir_bridge.model.ingest import ChartRef, IndexRow, Interaction, Normalized, Sealed, pack_values
from fhir_bridge.ports.vault import AuditEntry, Batch, Segment, Work
from fhir_bridge.seal import seal_record, seal_segment

RANDOM = SystemRandomness()
MAC_KEY = bytes(range(32))
CHART = "a" * 32
OTHER_CHART = "b" * 32


def chart_key(chart: str) -> bytes:
    """Return a key for a chart that every test can make again."""
    return hashlib.sha256(chart.encode()).digest()


def anchor(*, number: int, commitments: Sequence[bytes], journal_head: bytes) -> Batch:
    """Make a real batch with a stand-in for the ledger's envelope."""
    return make_batch(commitments, journal_head, sign=lambda root, size: b"tx" + root, randomness=RANDOM)


def row(record_id: str, version: str = "v1", *, type_name: str = "Observation", deleted: bool = False) -> IndexRow:
    """Return an index row with one value of every kind."""
    return IndexRow(
        type=type_name,
        id=record_id,
        version=version,
        deleted=deleted,
        origin="northgate",
        author="institution",
        last_updated_us=1_700_000_000_000_000,
        source_updated_us=None,
        dated_us=1_600_000_000_000_000,
        labels=("http://terminology.hl7.org/CodeSystem/v3-Confidentiality|N",),
        codes=("http://loinc.org|8480-6",),
        data_period_us=(1_600_000_000_000_000, 1_600_000_000_000_001),
        search=pack_values({"code": (["http://loinc.org", "8480-6"],), "date": ([1, 2],), "patient": ("Patient/p",)}),
        references=("Patient/p",),
        content=hashlib.sha256(record_id.encode()).digest()[:16],
    )


def body_of(index_row: IndexRow, text: str = "") -> bytes:
    """Return bytes such as ``stamped`` makes."""
    return (
        f'{{"resourceType":"{index_row.type}","id":"{index_row.id}","meta":{{"versionId":"{index_row.version}",'
        f'"lastUpdated":"2026-11-23T10:00:00.000Z"}},"note":"{text}"}}'
    ).encode()


def normalized(index_row: IndexRow, body: bytes, *, original: bytes = b'{"id":"1"}') -> Normalized:
    """Return a normalised record around a body."""
    return Normalized(
        index=0,
        interaction=Interaction("PUT", index_row.type, "1"),
        chart=ChartRef("northgate", CHART, "p"),
        type=index_row.type,
        id=index_row.id,
        local_id="1",
        original=original,
        content=body,
        stamp_at=0,
        row=index_row,
        identifiers=(),
        lineage=b"[]",
        ruleset="c" * 64,
    )


def sealed(chart: str, index_row: IndexRow, text: str = "") -> Sealed:
    """Seal a record with the key of its chart."""
    body = b"" if index_row.deleted else body_of(index_row, text)
    return seal_record(normalized(index_row, body), chart, body, index_row.version, chart_key(chart), RANDOM)


def segment(chart: str, number: int, rows: Sequence[IndexRow]) -> Segment:
    """Seal a segment with the key of its chart."""
    return seal_segment(chart_key(chart), chart, number, rows, RANDOM)


def work(chart: str, number: int, *record_ids: str, version: str = "v1") -> Work:
    """Return records of one chart with their index segment."""
    rows = [row(record_id, version) for record_id in record_ids]
    return Work(records=[sealed(chart, r) for r in rows], segments=[segment(chart, number, rows)])


def audit(chain: str, counter: int) -> AuditEntry:
    """Return an audit entry with heads of its own."""
    head = hashlib.sha256(f"{chain}/{counter}".encode()).digest()
    return AuditEntry(chain, counter, hashlib.sha256(f"{chain}/{counter - 1}".encode()).digest(), head, b"sealed")
