"""Write searchsets and histories by joining the exact bytes of records.

For the answer line. A record's bytes are what was committed, so they are copied
and never decoded and encoded again: a receipt's digest must match what is served.
A Bundle has neither id nor timestamp, both optional here: the same question on the
same view has the same bytes as its answer, so nothing in them can tell worlds apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from fhir_bridge.model.access import Found
from fhir_bridge.model.ingest import instant

_ENTRY, _END = b',"entry":[', b"]}"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def render_searchset(
    found: Sequence[Found],
    bodies: Sequence[bytes],
    *,
    base_url: str,
    self_link: str,
    next_link: str | None,
    total: int | None,
    bundle_type: str = "searchset",
    outcome: bytes | None = None,
) -> bytes:
    """Return a Bundle of what was found.

    Args:
        bodies: Exact bytes of each record, in the order of ``found``.
        outcome: OperationOutcome to add, such as what a lenient search ignored.

    Raises:
        ValueError: ``bodies`` and ``found`` differ in length.
    """
    entries = render_entries(found, bodies, base_url=base_url)
    if outcome is not None:
        entries += _outcome(outcome)
    return _bundle(bundle_type, entries, self_link, next_link, total)


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands before and after the entries of a searchset that has some."""

    head: bytes
    tail: bytes


def frame_searchset(
    *, self_link: str, next_link: str | None, total: int | None, outcome: bytes | None = None
) -> Frame:
    """Return what :func:`render_searchset` would put around entries, the first one's comma left out."""
    tail = b"" if outcome is None else b"".join(_outcome(outcome))
    return Frame(_head("searchset", self_link, next_link, total) + _ENTRY, tail + _END)


def render_entries(found: Sequence[Found], bodies: Sequence[bytes], *, base_url: str) -> list[bytes]:
    """Return the pieces of some entries of a searchset; each entry begins with a comma."""
    base = _text(base_url.rstrip("/"))[:-1]
    entries: list[bytes] = []
    for each, body in zip(found, bodies, strict=True):
        # Type and id are checked names (R4 datatypes.html#id): nothing in them needs escaping.
        place = f'/{each.row.type}/{each.row.id}","resource":'.encode()
        entries += (b',{"fullUrl":', base, place, body, _MODES.get(each.mode) or _mode(each.mode))
    return entries


def _outcome(body: bytes) -> tuple[bytes, ...]:
    return b',{"resource":', body, _mode("outcome")


def render_history(
    found: Sequence[Found],
    bodies: Sequence[bytes],
    *,
    base_url: str,
    self_link: str,
    next_link: str | None = None,
    total: int | None = None,
) -> bytes:
    """Return a history Bundle, newest version first; the body of a tombstone is not used.

    Args:
        total: Number of versions on all pages; by default there is no other page.
    """
    base = base_url.rstrip("/")
    entries = [b"," + _version(each, body, base) for each, body in zip(found, bodies, strict=True)]
    return _bundle("history", entries, self_link, next_link, len(entries) if total is None else total)


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
) -> bytes:
    """Join a bundle once, so that megabytes are copied once.

    Args:
        entries: Pieces of the entries; each entry begins with a comma.
    """
    head = _head(kind, self_link, next_link, total)
    # An empty array is no valid JSON in FHIR, so an empty answer has no "entry" at all.
    if not entries:
        return head + b"}"
    return b"".join((head, _ENTRY, entries[0][1:], *entries[1:], _END))


def _head(kind: str, self_link: str, next_link: str | None, total: int | None) -> bytes:
    links = b'{"relation":"self","url":%b}' % _text(self_link)
    if next_link is not None:
        links += b',{"relation":"next","url":%b}' % _text(next_link)
    head = b'{"resourceType":"Bundle","type":%b' % _text(kind)
    if total is not None:
        head += b',"total":%d' % total
    return head + b',"link":[%b]' % links


def _mode(mode: str) -> bytes:
    return b',"search":{"mode":%b}}' % _text(mode)


def _text(value: str) -> bytes:
    return msgspec.json.encode(value)


_MODES = {mode: _mode(mode) for mode in ("match", "include")}
