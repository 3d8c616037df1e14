"""Write searchsets and histories by joining the exact bytes of records.

For the answer line. A record's bytes are what was committed, so they are copied
and never decoded and encoded again: a receipt's digest must match what is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from fhir_bridge.model.access import Found
from fhir_bridge.model.ingest import instant

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def render_searchset(
    found: Sequence[Found],
    bodies: Sequence[bytes],
    *,
    base_url: str,
    self_link: str,
    next_link: str | None,
    total: int | None,
    bundle_id: str,
    timestamp: datetime,
    bundle_type: str = "searchset",
    outcome: bytes | None = None,
) -> bytes:
    """Return a Bundle of what was found.

    Args:
        bodies: Exact bytes of each record, in the order of ``found``.
        bundle_id: Random; an id that counted would tell how much is asked.
        outcome: OperationOutcome to add, such as what a lenient search ignored.

    Raises:
        ValueError: ``bodies`` and ``found`` differ in length.
    """
    base = base_url.rstrip("/")
    entries = [
        b'{"fullUrl":%b,"resource":%b,"search":{"mode":%b}}'
        % (_text(f"{base}/{each.row.type}/{each.row.id}"), body, _text(each.mode))
        for each, body in zip(found, bodies, strict=True)
    ]
    if outcome is not None:
        entries.append(b'{"resource":%b,"search":{"mode":"outcome"}}' % outcome)
    return _bundle(bundle_type, entries, self_link, next_link, total, bundle_id, timestamp)


def render_history(
    found: Sequence[Found],
    bodies: Sequence[bytes],
    *,
    base_url: str,
    self_link: str,
    bundle_id: str,
    timestamp: datetime,
    next_link: str | None = None,
) -> bytes:
    """Return a history Bundle, newest version first; the body of a tombstone is not used."""
    base = base_url.rstrip("/")
    entries = [_version(each, body, base) for each, body in zip(found, bodies, strict=True)]
    return _bundle("history", entries, self_link, next_link, len(entries), bundle_id, timestamp)


def _version(found: Found, body: bytes, base: str) -> bytes:
    row = found.row
    place = f"{row.type}/{row.id}"
    updated = instant(_EPOCH + timedelta(microseconds=row.last_updated_us))
    head = b'{"fullUrl":%b,' % _text(f"{base}/{place}")
    resource = b"" if row.deleted else b'"resource":%b,' % body
    method, status = (b"DELETE", b"204") if row.deleted else (b"PUT", b"200")
    return (
        head
        + resource
        + (
            b'"request":{"method":"%b","url":%b},"response":{"status":"%b","etag":%b,"lastModified":%b}}'
            % (method, _text(place), status, _text(f'W/"{row.version}"'), _text(updated))
        )
    )


def _bundle(
    kind: str,
    entries: Sequence[bytes],
    self_link: str,
    next_link: str | None,
    total: int | None,
    bundle_id: str,
    timestamp: datetime,
) -> bytes:
    links = [b'{"relation":"self","url":%b}' % _text(self_link)]
    if next_link is not None:
        links.append(b'{"relation":"next","url":%b}' % _text(next_link))
    parts = [
        b'"resourceType":"Bundle","id":%b,"meta":{"lastUpdated":%b},"type":%b'
        % (_text(bundle_id), _text(instant(timestamp)), _text(kind)),
        b'"timestamp":%b' % _text(instant(timestamp)),
    ]
    if total is not None:
        parts.append(b'"total":%d' % total)
    parts.append(b'"link":[' + b",".join(links) + b"]")
    # An empty array is no valid JSON in FHIR, so an empty answer has no "entry" at all.
    if entries:
        parts.append(b'"entry":[' + b",".join(entries) + b"]")
    return b"{" + b",".join(parts) + b"}"


def _text(value: str) -> bytes:
    return msgspec.json.encode(value)
