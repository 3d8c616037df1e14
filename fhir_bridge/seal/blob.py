"""Seal small things that are not records: dead letters, links, consent lists, audit events, spooled messages."""

from __future__ import annotations

from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.seal.envelope import RANDOM_BYTES, open_bytes, pack, place, seal_bytes, unpack

_PART = "blob/"


def seal_blob(key: bytes, domain: str, where: str, content: bytes, randomness: Randomness) -> bytes:
    """Seal ``content`` so that it opens only under the same key, domain and place.

    Args:
        domain: Kind of thing, such as ``letter``; separates keys.
        where: Which one, such as its id; bound as associated data.
    """
    return seal_bytes(
        key, _PART + domain, place("blob", domain, where), pack([], content), randomness.token(RANDOM_BYTES)
    )


def open_blob(key: bytes, domain: str, where: str, envelope: bytes) -> bytes:
    """Open what :func:`seal_blob` sealed.

    Raises:
        EnvelopeBroken: Other key, domain or place, or changed bytes.
    """
    return unpack(open_bytes(key, _PART + domain, place("blob", domain, where), envelope), 0)
