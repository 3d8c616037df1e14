"""Canonical ids and pseudonyms: keyed digests that only the institution's id key can make.

Because an id depends on nothing but the key, the type and the sender's local
id, a reference can be rewritten before its target has arrived. A canonical id
carries a keyed check of itself, so its institution recognises it when a client
sends back what it has read, and normalising twice changes nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re

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

ATTESTED_BY = "urn:fhir-bridge:attested-by"
ATTESTED_UNTIL = "urn:fhir-bridge:attested-until"
"""Systems of the ``meta.tag`` that name on which institution's word a Consent rests, and how long."""

OWN_TAG_SYSTEMS = frozenset({INSTITUTION_SYSTEM, ATTESTED_BY, ATTESTED_UNTIL})
"""Tags that only we set; a sender's never stand."""

NETWORK_PREFIX = "network-"
_NETWORK_ID = re.compile(NETWORK_PREFIX + "[a-z2-7]{26}")


def canonical_id(id_key: bytes, type_name: str, local_id: str) -> str:
    """Return the FHIR id under which everybody but the sender addresses a record (32 characters of base32).

    An id that this key already made is returned as it is. The first 15 bytes
    are the keyed digest, the last 5 its check.
    """
    if is_canonical(id_key, local_id):
        return local_id
    digest = _keyed(id_key, b"record", type_name, local_id)[:15]
    return _base32(digest + _keyed(id_key, b"check", digest)[:5])


def is_canonical(id_key: bytes, candidate: str) -> bool:
    """Tell whether this institution's key made ``candidate`` (wrong with probability 2^-40 for other text)."""
    if len(candidate) != 32:
        return False
    try:
        raw = base64.b32decode(candidate.upper())
    except binascii.Error:
        return False
    return _base32(raw) == candidate and hmac.compare_digest(_keyed(id_key, b"check", raw[:15])[:5], raw[15:])


def network_id(public_key: bytes) -> str:
    """Return the id under which consents name an institution (``Organization/network-…``), from its ledger key."""
    return NETWORK_PREFIX + base64.b32encode(public_key[:16]).decode().rstrip("=").lower()


def is_of_network(type_name: str, candidate: str) -> bool:
    """Tell whether an id names a member of the network rather than a sender's own Organization."""
    return type_name == "Organization" and _NETWORK_ID.fullmatch(candidate) is not None


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
    return _base32(_keyed(id_key, b"version", record_id, digest, str(occurrence))[:15])[:20]


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw).decode().lower()


def _keyed(id_key: bytes, *parts: bytes | str) -> bytes:
    joined = b"fhir-bridge/id/1"
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        joined += len(raw).to_bytes(4, "big") + raw
    return blake3(joined, key=id_key).digest()
