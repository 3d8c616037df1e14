"""Give a finished draft its final bytes and its index row.

The bytes start ``{"resourceType":…,"id":…,"meta":{`` so that version and time can be put in without parsing.

Invariants:
    * what the sender says about itself in ``meta`` (source, institution tag, version, time) never stands;
    * stamping a stamped record changes nothing but the sender's time.
"""

from __future__ import annotations

from typing import Any

from fhir_bridge.fhir.dates import interval
from fhir_bridge.fhir.json import render
from fhir_bridge.fhir.search import extract
from fhir_bridge.fhir.subjects import codes
from fhir_bridge.fhir.timeline import dated
from fhir_bridge.model.ids import INSTITUTION_SYSTEM, OWN_TAG_SYSTEMS, content_digest
from fhir_bridge.model.ingest import (
    Body,
    Change,
    ChartRef,
    IndexRow,
    Normalized,
    SourceContext,
    Validated,
    pack_values,
)
from fhir_bridge.normalize.draft import OWN, By, Draft

ID = By("core/ids", "records go by canonical id")
STAMP = By("core/stamp", "meta says who sent the record; version and time are ours")

_SENDERS_OWN = ("versionId", "_versionId", "lastUpdated", "_lastUpdated", "source", "_source")


def stamp_body(draft: Draft, record_id: str, source: SourceContext) -> int | None:
    """Put id and meta in front; return the sender's ``meta.lastUpdated`` in µs, if it gave one."""
    body = draft.body
    type_name = body["resourceType"]
    draft.changed(ID, f"{type_name}.id", body.get("id"), record_id, is_safe=True)
    sent = body.get("meta", {})
    updated = sent.get("lastUpdated")
    meta = _meta(draft, sent, source)
    rest = {key: value for key, value in body.items() if key not in ("resourceType", "id", "meta")}
    draft.body = {"resourceType": type_name, "id": record_id, "meta": meta, **rest}
    found = interval(updated) if type(updated) is str else None
    return found[0] if found else None


def _meta(draft: Draft, sent: dict[str, Any], source: SourceContext) -> dict[str, Any]:
    where = f"{draft.body['resourceType']}.meta"
    ours = f"urn:fhir-bridge:institution:{source.institution}"
    draft.changed(
        STAMP, f"{where}.source", sent.get("source"), ours, is_safe=True, sources=OWN if "source" in sent else None
    )
    for key in _SENDERS_OWN:
        if key != "source" and key in sent:
            draft.changed(STAMP, f"{where}.{key}", sent[key], None, is_safe=True)
    meta = {"source": ours, **{key: value for key, value in sent.items() if key not in _SENDERS_OWN}}
    tag = {"system": INSTITUTION_SYSTEM, "code": source.institution}
    held = meta.pop("tag", None)
    others = [t for t in held or () if t.get("system") not in OWN_TAG_SYSTEMS]
    meta["tag"] = [*others, tag]
    draft.changed(STAMP, f"{where}.tag", held, meta["tag"], is_safe=True)
    return meta


def finish(
    draft: Draft,
    entry: Validated,
    *,
    local_id: str,
    chart: ChartRef,
    references: tuple[str, ...],
    source_updated_us: int | None,
    source: SourceContext,
    ruleset_hash: str,
) -> Normalized:
    """Render a stamped draft and describe it for the index."""
    body = draft.body
    content = render(body)
    row = index_row(
        body,
        origin=source.institution,
        digest=content_digest(source.id_key, content),
        references=references,
        source_updated_us=source_updated_us,
    )
    return Normalized(
        index=entry.index,
        interaction=entry.interaction,
        chart=chart,
        type=row.type,
        id=row.id,
        local_id=local_id,
        original=entry.original,
        content=content,
        stamp_at=meta_start(row.type, row.id),
        row=row,
        identifiers=_record_numbers(body),
        lineage=lineage(draft.changes),
        ruleset=ruleset_hash,
        flags=(*entry.flags, *draft.flags),
    )


def lineage(changes: list[Change]) -> bytes:
    """Write changes as JSON, in the order in which they were made."""
    return render(changes)


def meta_start(type_name: str, record_id: str) -> int:
    """Return the offset in a rendered draft at which version and time are put in."""
    return len(f'{{"resourceType":"{type_name}","id":"{record_id}","meta":{{')


def index_row(
    body: Body, *, origin: str, digest: bytes, references: tuple[str, ...], source_updated_us: int | None
) -> IndexRow:
    """Describe a stamped body for the index; version and time are not known yet."""
    dated_us, period = dated(body)
    return IndexRow(
        type=body["resourceType"],
        id=body["id"],
        version="",
        deleted=False,
        origin=origin,
        author="institution",
        last_updated_us=0,
        source_updated_us=source_updated_us,
        dated_us=dated_us,
        labels=tuple(f"{label.get('system', '')}|{label.get('code', '')}" for label in _labels(body)),
        codes=codes(body),
        data_period_us=period,
        search=pack_values(extract(body)),
        references=references,
        content=digest,
    )


def _labels(body: Body) -> list[dict[str, Any]]:
    """Security labels of a record and of what it contains."""
    found = list(body["meta"].get("security", ()))
    for contained in body.get("contained", ()):
        found += contained.get("meta", {}).get("security", ())
    return found


def _record_numbers(body: Body) -> tuple[str, ...]:
    if body["resourceType"] != "Patient":
        return ()
    found = body.get("identifier", ())
    return tuple(dict.fromkeys(f"{i.get('system', '')}|{i['value']}" for i in found if type(i.get("value")) is str))


def deletion(
    entry: Validated,
    *,
    type_name: str,
    record_id: str,
    local_id: str,
    chart: ChartRef,
    source: SourceContext,
    ruleset_hash: str,
) -> Normalized:
    """Describe the tombstone of a DELETE."""
    row = IndexRow(
        type=type_name,
        id=record_id,
        version="",
        deleted=True,
        origin=source.institution,
        author="institution",
        last_updated_us=0,
        source_updated_us=None,
        dated_us=None,
        labels=(),
        codes=(),
        data_period_us=None,
        search=pack_values({}),
        references=(),
        content=content_digest(source.id_key, b""),
    )
    return Normalized(
        index=entry.index,
        interaction=entry.interaction,
        chart=chart,
        type=type_name,
        id=record_id,
        local_id=local_id,
        original=entry.original,
        content=b"",
        stamp_at=0,
        row=row,
        identifiers=(),
        lineage=lineage([]),
        ruleset=ruleset_hash,
        flags=entry.flags,
    )
