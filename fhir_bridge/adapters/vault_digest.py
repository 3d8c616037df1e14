"""One digest of everything a vault says, whatever order it came in.

For tests that kill, replay or reorder: two runs that took in the same messages
must give the same digest, although salts, nonces, times of arrival and order
of commits differ.

Covered are, for each record version: chart, index row, exact normalised bytes
with ``meta.lastUpdated`` masked, original, lineage; and each dead letter's id,
institution, reason and status (a letter's id is a keyed digest of its message).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

import msgspec
from msgspec import structs

from fhir_bridge.errors import IntegrityBroken
from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.ports.vault import StoredRecord, Vault
from fhir_bridge.seal import LINEAGE, ORIGINAL, RecordPlace, open_normalised, open_part, open_segment

# The first one in a body is ours: ``stamped`` writes it at the head of ``meta``, before anything a sender wrote.
_LAST_UPDATED = re.compile(rb'"lastUpdated":"[^"]*"')


async def state_digest(vault: Vault, chart_key: Callable[[str], bytes]) -> str:
    """Return a hex digest of the plaintext state.

    Args:
        chart_key: Gives the key of a chart's pseudonym.

    Raises:
        IntegrityBroken: A record without an index row, an index row without a record, or a broken envelope.
    """
    items: list[bytes] = []
    indexes: dict[str, dict[tuple[str, str], IndexRow]] = {}
    async for record in vault.scan():
        if record.chart not in indexes:
            indexes[record.chart] = await _index(vault, record.chart, chart_key(record.chart))
        row = indexes[record.chart].pop((record.id, record.version), None)
        if row is None:
            raise IntegrityBroken("a record is in no index segment of its chart")
        items.append(_record_item(record, row, chart_key(record.chart)))
    if any(indexes.values()):
        raise IntegrityBroken("an index names a record that is not there")
    items += [_digest("letter", (x.id, x.institution, x.reason, x.status)) for x in await vault.letters()]
    return hashlib.sha256(b"".join(sorted(items))).hexdigest()


async def _index(vault: Vault, chart: str, key: bytes) -> dict[tuple[str, str], IndexRow]:
    rows = [row for segment in await vault.segments(chart) for row in open_segment(key, segment)]
    index = {(row.id, row.version): row for row in rows}
    if len(index) != len(rows):
        raise IntegrityBroken("an index names a record version twice")
    return index


def _record_item(record: StoredRecord, row: IndexRow, key: bytes) -> bytes:
    where = RecordPlace.of(record.chart, row)
    opened = open_normalised(key, where, record.normalised)
    if opened.commitment != record.commitment:
        raise IntegrityBroken("a record is not what its commitment binds")
    content = _LAST_UPDATED.sub(b'"lastUpdated":""', opened.content, count=1)
    original = open_part(key, where, ORIGINAL, record.original).content
    lineage = open_part(key, where, LINEAGE, record.lineage).content
    values = msgspec.msgpack.encode(msgspec.msgpack.decode(row.search), order="deterministic")
    masked = structs.replace(row, last_updated_us=0, search=msgspec.Raw(values))
    return _digest("record", (record.chart, masked, content, original, lineage, opened.ruleset))


def _digest(kind: str, values: object) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode((kind, values), order="deterministic")).digest()
