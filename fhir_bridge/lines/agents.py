"""Consents that a person signs: validated like any other record, but no institution's rules touch them.

Written by a patient's agent or delegate, by a guardian, or by a clerk who has the signed paper.
"""

from __future__ import annotations

import base64
from typing import Any

from msgspec import structs

from fhir_bridge.consent import consent_in_r4
from fhir_bridge.errors import IntegrityBroken, Issue, RecordRefused
from fhir_bridge.fhir.json import NotStrictJson, parse, render
from fhir_bridge.fhir.references import walk
from fhir_bridge.fhir.search import codes, extract
from fhir_bridge.fhir.timeline import dated
from fhir_bridge.intake import Limits, receive
from fhir_bridge.lines.registry import Registry
from fhir_bridge.lines.signatories import Signatory
from fhir_bridge.model.ids import INSTITUTION_SYSTEM, canonical_id, content_digest
from fhir_bridge.model.ingest import (
    Body,
    ChartRef,
    IndexRow,
    Interaction,
    Normalized,
    Received,
    Refusal,
    pack_values,
)
from fhir_bridge.ports.ambient import Randomness


def agent_record(
    received: Received, home: ChartRef, registry: Registry, randomness: Randomness, by: Signatory
) -> Normalized:
    """Return a signed record, ready to be sealed in the chart ``home`` of its patient.

    Args:
        by: In whose name; stands in ``meta.source``.

    Raises:
        RecordRefused: The body is not a valid resource of the interaction's type.
    """
    if received.interaction is not None and received.interaction.if_none_exist is not None:
        problem = "If-None-Exist is not taken with a signed record: name the id with PUT"
        raise RecordRefused([Issue("error", "not-supported", problem)])
    reception = receive(received, Limits())
    entry = reception.entries[0] if reception.entries else None
    if entry is None or isinstance(entry, Refusal):
        raise RecordRefused(reception.refused or (entry.issues if entry is not None else ()))
    if entry.resource is None:
        raise RecordRefused(reception.refused)
    local_id = entry.interaction.id or _fresh_id(randomness)
    record_id = canonical_id(by.key, entry.interaction.type, local_id)
    asked = structs.replace(entry.interaction, id=record_id)
    made = _normalized(asked, local_id, entry.resource, entry.original, home, registry, by)
    return structs.replace(made, flags=entry.flags)


def restated_record(
    received: Received,
    record_id: str,
    stored: bytes,
    status: str,
    home: ChartRef,
    registry: Registry,
    by: Signatory,
) -> Normalized:
    """Return a stored consent with another status, which is all that ``received`` has to say.

    Args:
        stored: The exact bytes of the version that is restated.
        home: The chart that holds it.
        by: In whose name the new version stands.
    """
    if received.interaction is None or received.interaction.id is None:
        raise IntegrityBroken("a withdrawal without an address")
    asked = structs.replace(received.interaction, method="PUT", id=record_id)
    resource = parse(stored) | {"status": status}
    return _normalized(asked, received.interaction.id, resource, received.content, home, registry, by)


def told_in_r4(body: bytes) -> bytes:
    """Return an R5 Consent in R4's words; what is no JSON object stays as it is, to be refused like any other."""
    try:
        return render(consent_in_r4(parse(body)))
    except NotStrictJson:
        return body


def patient_of(record: Normalized) -> str | None:
    """Return the literal reference in ``patient`` of a signed record."""
    reference = parse(record.content).get("patient", {}).get("reference")
    return reference if isinstance(reference, str) else None


def _normalized(
    asked: Interaction,
    local_id: str,
    resource: Body,
    original: bytes,
    home: ChartRef,
    registry: Registry,
    by: Signatory,
) -> Normalized:
    record_id = str(asked.id)
    content = _content(resource, record_id, home, registry.id_key(home.institution), by)
    rendered = render(content)
    return Normalized(
        index=0,
        interaction=asked,
        chart=home,
        type=asked.type,
        id=record_id,
        local_id=local_id,
        original=original,
        content=rendered,
        stamp_at=rendered.index(b'"meta":{') + len(b'"meta":{'),
        row=_row(content, record_id, home, by),
        identifiers=(),
        lineage=b"[]",
        ruleset="",
    )


def _content(resource: Body, record_id: str, home: ChartRef, key: bytes, by: Signatory) -> Body:
    given = resource.get("meta", {})
    meta: dict[str, Any] = {name: given[name] for name in ("profile", "security") if name in given}
    meta["source"] = by.source
    meta["tag"] = [{"system": INSTITUTION_SYSTEM, "code": home.institution}, *by.tags]
    content: Body = {"resourceType": resource["resourceType"], "id": record_id, "meta": meta}
    content |= {name: value for name, value in resource.items() if name not in content}
    for reference in walk(content):
        target = reference.get("reference")
        if isinstance(target, str) and target.startswith("Patient/"):
            reference["reference"] = _patient(target, home, key)
    return content


def _patient(reference: str, home: ChartRef, key: bytes) -> str:
    """Return a canonical reference for one that uses the local id of the home institution."""
    canonical = canonical_id(key, "Patient", reference.removeprefix("Patient/"))
    return f"Patient/{canonical}" if canonical == home.patient_id else reference


def _row(content: Body, record_id: str, home: ChartRef, by: Signatory) -> IndexRow:
    start, period = dated(content)
    labels = content["meta"].get("security", [])
    return IndexRow(
        type=content["resourceType"],
        id=record_id,
        version="",
        deleted=False,
        origin=home.institution,
        author=by.author,
        last_updated_us=0,
        source_updated_us=None,
        dated_us=start,
        labels=tuple(f"{label.get('system', '')}|{label.get('code', '')}" for label in labels),
        codes=codes(content),
        data_period_us=period,
        search=pack_values(extract(content)),
        references=tuple(r["reference"] for r in walk(content) if isinstance(r.get("reference"), str)),
        content=content_digest(by.key, render(content)),
    )


def _fresh_id(randomness: Randomness) -> str:
    return base64.b32encode(randomness.token(15)).decode().lower()
