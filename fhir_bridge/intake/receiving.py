"""Turn received bytes into validated entries, or into reasons for the sender.

For ``lines/ingest``, often in a worker process: plain functions on values, no I/O, no clock. Whether the sender may
send at all was settled before; whether a record is new is settled later.

Invariants:
    * a transaction is taken whole or not at all; entries of a batch or collection stand for themselves;
    * ``original`` is the exact slice of the received bytes;
    * nothing in a finding repeats what the sender wrote, but for element names.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from fhir_bridge.errors import Issue, RecordRefused
from fhir_bridge.fhir.bundles import cut, cut_in_turn
from fhir_bridge.fhir.json import NotStrictJson, parse
from fhir_bridge.fhir.validate import is_refused
from fhir_bridge.intake.bundles import receive_bundle
from fhir_bridge.intake.foreign import format_of, judged, receive_foreign
from fhir_bridge.intake.limits import Limits
from fhir_bridge.intake.releases import Validator, validator_of
from fhir_bridge.model.ingest import FhirVersion, Interaction, Received, Reception, Refusal, Validated
from fhir_bridge.ports.formats import SourceFormat

if TYPE_CHECKING:
    from fhir_bridge.fhir.profiles import Profiles

_START_BYTES = 256


def receive(
    received: Received,
    limits: Limits = Limits(),  # noqa: B008 - Limits is frozen
    profiles: Profiles | None = None,
    formats: Sequence[SourceFormat] = (),
    zone: ZoneInfo | None = None,
) -> Reception:
    """Decode and validate one message: a resource, a Bundle of type transaction, batch or collection, or a format's.

    Args:
        received: From a sender who is known; its bytes are not trusted.
        limits: Budgets.
        profiles: What the institution's records are judged by beside the standard.
        formats: What the institution sends beside FHIR, as its rule pack describes it.
        zone: Whose clocks its times without an offset tell; None refuses them.

    Returns:
        Entries in order. A message that cannot be taken at all has ``refused`` and no entries.
    """
    if received.interaction is not None and received.interaction.method == "DELETE":
        deletion = Validated(0, received.interaction, None, received.content, None)
        return Reception("single", (deletion,))
    try:
        source = format_of(received.content_type, formats)
    except RecordRefused as refusal:
        return Reception("single", refused=refusal.issues)
    if source is not None:
        return receive_foreign(received, source, limits, profiles)
    refused = _refuse_format(received, limits)
    if refused is not None:
        return Reception("single", refused=(refused,))
    try:
        value = parse(received.content, max_depth=limits.max_depth, max_bytes=limits.max_bytes)
    except NotStrictJson as error:
        return Reception("single", refused=error.issues)
    if value.get("resourceType") == "Bundle" and received.interaction is None:
        return receive_bundle(cut(received.content, value), received.fhir_version, limits, profiles, zone)
    return _receive_single(received, value, validator_of(received.fhir_version, profiles, zone))


def receive_in_turn(
    received: Received,
    limits: Limits,
    profiles: Profiles | None = None,
    formats: Sequence[SourceFormat] = (),
    zone: ZoneInfo | None = None,
) -> Reception | None:
    """Decode and validate a Bundle as :func:`receive` does, but hold no more of it decoded than some entries.

    None for what has to be taken whole: what is not a Bundle, and what cannot be cut or is not strict JSON.
    """
    if received.interaction is not None or len(received.body) > limits.max_bytes:
        return None
    start = replace(received, body=bytes(received.body[:_START_BYTES]))
    try:
        if format_of(received.content_type, formats) is not None or _refuse_format(start, limits) is not None:
            return None
    except RecordRefused:
        return None
    parts = cut_in_turn(received.body, max_depth=limits.max_depth)
    if parts is None or parts.value.get("resourceType") != "Bundle":
        return None
    return receive_bundle(parts, received.fhir_version, limits, profiles, zone)


def examine(
    body: bytes, version: FhirVersion, profiles: Profiles | None = None, zone: ZoneInfo | None = None
) -> list[Issue]:
    """Return what the standard and an institution's profiles find in a document, whether it would be taken or not.

    For those who try a profile on documents, search results and single resources alike.
    """
    try:
        resource = parse(body)
    except NotStrictJson as error:
        return list(error.issues)
    return validator_of(version, profiles, zone)(resource)


def examine_rows(
    message: bytes, content_type: str, formats: Sequence[SourceFormat], profiles: Profiles | None = None
) -> list[Issue]:
    """Return what would be found in a message of a source format; see :func:`examine`."""
    try:
        source = format_of(content_type, formats)
        assert source is not None
        entries = [judged(part, profiles) for part in source.read(message, content_type, sys.maxsize)]
    except RecordRefused as refusal:
        return list(refusal.issues)
    return [i for e in entries for i in (e.issues if isinstance(e, Refusal) else e.flags)]


def split_ndjson(data: bytes) -> list[bytes]:
    """Split newline-delimited JSON into messages; blank lines are none."""
    return [line for line in data.split(b"\n") if line.strip()]


def _refuse_format(received: Received, limits: Limits) -> Issue | None:
    """What can be refused without decoding: too long, empty, not JSON at all."""
    if len(received.body) > limits.max_bytes:
        return Issue("error", "too-long", f"a message may hold at most {limits.max_bytes} bytes")
    start = bytes(received.body[:_START_BYTES]).lstrip()
    if not start:
        return Issue(
            "error",
            "structure",
            "the message is empty; a Kafka record without a value deletes what its key Type/id names",
        )
    # NULs out, so that UTF-16 hides nothing.
    plain = start.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    if plain.startswith(b"<") or "xml" in received.content_type.lower():
        return _refuse_xml(received.content.replace(b"\0", b""))
    if "ndjson" in received.content_type.lower():
        return Issue("error", "not-supported", "send the lines of an NDJSON file as single messages")
    return None


def _refuse_xml(body: bytes) -> Issue:
    if b"<!DOCTYPE" in body.upper() or b"<!ENTITY" in body.upper():
        return Issue("error", "security", "XML with a DOCTYPE or entities is never read")
    return Issue("error", "not-supported", "FHIR is taken as JSON (application/fhir+json), not as XML")


def _receive_single(received: Received, resource: dict[str, Any], validate: Validator) -> Reception:
    issues = validate(resource)
    if resource.get("resourceType") == "Bundle":
        issues.append(Issue("error", "not-supported", "send a Bundle to the base of the service", "Bundle"))
    if not is_refused(issues):
        issues += _check_interaction(received.interaction, resource)
    if is_refused(issues):
        return Reception("single", (Refusal(0, tuple(issues)),), refused=tuple(issues))
    interaction = received.interaction or implied_interaction(resource)
    return Reception("single", (Validated(0, interaction, None, received.content, resource, tuple(issues)),))


def _check_interaction(interaction: Interaction | None, resource: dict[str, Any]) -> list[Issue]:
    """The URL and the body must speak of the same resource (FHIR R4 http.html#update)."""
    if interaction is None:
        return []
    name, issues = resource["resourceType"], []
    if interaction.type != name:
        issues.append(Issue("error", "invalid", "the URL names another resource type", f"{name}.resourceType"))
    if interaction.method == "PUT" and resource.get("id") != interaction.id:
        issues.append(Issue("error", "invalid", "id must be present and equal to the id of the URL", f"{name}.id"))
    return issues


def implied_interaction(resource: dict[str, Any]) -> Interaction:
    """What a sender means by a bare resource: an update under its id, or a creation without one."""
    local_id = resource.get("id")
    return Interaction("POST" if local_id is None else "PUT", resource["resourceType"], local_id)
