"""Canonical ids and pseudonyms: keyed digests that only the institution's id key can make.

Because an id depends on nothing but the key, the type and the sender's local
id, a reference can be rewritten before its target has arrived.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from blake3 import blake3

DIRECTORY_TYPES = frozenset(
    {
        "Organization",
        "Practitioner",
        "PractitionerRole",
        "Location",
        "HealthcareService",
        "Endpoint",
        "MedicationKnowledge",
    }
)
"""Administrative types that go to the institution's directory chart; never Medication."""

INSTITUTION_SYSTEM = "urn:fhir-bridge:institution"
"""System of the ``meta.tag`` that names the institution a record came from."""


def canonical_id(id_key: bytes, type_name: str, local_id: str) -> str:
    """Return the FHIR id under which everybody but the sender addresses a record (32 characters of base32)."""
    return _keyed_name(id_key, b"record", type_name, local_id)


def chart_id(id_key: bytes, patient_id: str) -> str:
    """Return the pseudonym of the chart of a canonical Patient id (32 hex digits)."""
    return _keyed(id_key, b"chart", patient_id)[:16].hex()


def directory_id(id_key: bytes) -> str:
    """Return the pseudonym of the institution's directory chart (32 hex digits)."""
    return _keyed(id_key, b"directory")[:16].hex()


def identifier_token(id_key: bytes, identifier: str) -> str:
    """Return the blind look-up token of a patient identifier ``system|value``: HMAC-SHA256, hex.

    The one deterministic token there is; it serves an institution's search for
    its own patients by exact identifier and nothing else.
    """
    return hmac.new(id_key, b"fhir-bridge/identifier/1\0" + identifier.encode(), hashlib.sha256).hexdigest()


def content_digest(id_key: bytes, content: bytes) -> bytes:
    """Return the keyed digest (16 bytes) by which an unchanged resend is recognised."""
    return blake3(b"fhir-bridge/content/1\0" + content, key=id_key).digest()[:16]


def version_id(id_key: bytes, record_id: str, digest: bytes, occurrence: int) -> str:
    """Return the opaque ``meta.versionId`` of a content: 20 characters of base32.

    Args:
        digest: :func:`content_digest` of the content without its stamps.
        occurrence: How many earlier versions of the record had the same content.
    """
    return _keyed_name(id_key, b"version", record_id, digest.hex(), str(occurrence))[:20]


def _keyed_name(id_key: bytes, *parts: bytes | str) -> str:
    return base64.b32encode(_keyed(id_key, *parts)[:20]).decode().lower()


def _keyed(id_key: bytes, *parts: bytes | str) -> bytes:
    hasher = blake3(b"fhir-bridge/id/1", key=id_key)
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        hasher.update(len(raw).to_bytes(4, "big") + raw)
    return hasher.digest()
