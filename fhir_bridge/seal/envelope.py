"""Envelopes: authenticated encryption under a key that is used once (docs/formats/envelopes.md).

For the sealing room and whatever else must be unreadable on a stolen disk.

    envelope = suite (1) ‖ salt (32) ‖ key-commitment (32) ‖ nonce (12) ‖ AES-256-GCM(padded) with tag (16)
    AES key ‖ key-commitment = HKDF-SHA256(key, salt, info = domain ‖ part), 64 bytes

GCM alone does not commit to its key: one ciphertext can be made that opens
under two. So the commitment is compared, in constant time, before anything is
decrypted. The associated data names the place an envelope belongs to, so that
two envelopes of one key cannot be swapped.

Invariants:
    * every envelope has a fresh salt, so no AES key encrypts twice;
    * the padded length is one of four classes to a doubling, from 256 bytes up;
    * whatever does not open raises EnvelopeBroken and yields no byte.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fhir_bridge.errors import EnvelopeBroken
from fhir_bridge.seal.frames import compress, decompress

SUITE = 1
RANDOM_BYTES = 44
"""What one envelope draws: salt and nonce."""

_SUITE = bytes((SUITE,))
_SALT = slice(1, 33)
_COMMITMENT = slice(33, 65)
_NONCE = slice(65, 77)
_BODY = slice(77, None)
_TAG_BYTES = 16
_SMALLEST_CLASS = 256
_KEY_DOMAIN = b"fhir-bridge/envelope/1\0"
_PLACE_DOMAIN = b"fhir-bridge/place/1"
_SHA256 = SHA256()


def place(*fields: str) -> bytes:
    """Encode where an envelope belongs, as associated data: domain, then u32 length ‖ UTF-8 of each field.

    The lengths make the encoding injective: no two lists of fields give the same bytes.
    """
    return _PLACE_DOMAIN + place_fields(*fields)


def place_fields(*fields: str) -> bytes:
    """Encode some fields of a place, for whoever encodes many places that differ in few fields."""
    encoded = b""
    for field in fields:
        raw = field.encode()
        encoded += len(raw).to_bytes(4, "big") + raw
    return encoded


def seal_bytes(key: bytes, part: str, associated: bytes, content: bytes, random: bytes) -> bytes:
    """Encrypt ``content``, padded to a size class.

    Args:
        key: 32 bytes; the AES key is derived from it.
        part: What kind of content this is; separates keys.
        associated: :func:`place` of the envelope.
        random: 44 fresh unpredictable bytes.
    """
    salt, nonce = random[:32], random[32:44]
    aes, commitment = _derive(key, salt, part)
    padded = content.ljust(size_class(len(content)), b"\0")
    return b"".join((_SUITE, salt, commitment, nonce, AESGCM(aes).encrypt(nonce, padded, associated)))


def open_bytes(key: bytes, part: str, associated: bytes, envelope: bytes) -> bytes:
    """Decrypt an envelope; the padding is still there, so the content must know its own length.

    Raises:
        EnvelopeBroken: Other suite, key, part or place, or a changed byte.
    """
    if len(envelope) < _BODY.start + _TAG_BYTES or envelope[0] != SUITE:
        raise EnvelopeBroken("not an envelope of a known suite")
    aes, commitment = _derive(key, envelope[_SALT], part)
    if not hmac.compare_digest(commitment, envelope[_COMMITMENT]):
        raise EnvelopeBroken("the envelope commits to another key")
    try:
        return AESGCM(aes).decrypt(envelope[_NONCE], envelope[_BODY], associated)
    except InvalidTag:
        raise EnvelopeBroken("the envelope was changed, or belongs to another place") from None


def size_class(length: int) -> int:
    """Return the padded length: 256, then 1, 1¼, 1½, 1¾ times each power of two.

    Above 256 less than a fifth of it is padding, which is less than a quarter of ``length``.
    """
    if length <= _SMALLEST_CLASS:
        return _SMALLEST_CLASS
    step = 1 << ((length - 1).bit_length() - 3)
    return -(-length // step) * step


def pack(head: Sequence[bytes], content: bytes) -> bytes:
    """Join fixed-size head fields and compressed content: fields ‖ u16 dictionary ‖ u32 length ‖ zstd frame."""
    dictionary, frame = compress(content)
    return b"".join((*head, dictionary.to_bytes(2, "big"), len(frame).to_bytes(4, "big"), frame))


def unpack(padded: bytes, at: int) -> bytes:
    """Return the content that :func:`pack` put behind a head of ``at`` bytes; ignores the padding after it.

    Raises:
        EnvelopeBroken: A dictionary or a layout this version does not know.
    """
    length = int.from_bytes(padded[at + 2 : at + 6], "big")
    return decompress(int.from_bytes(padded[at : at + 2], "big"), padded[at + 6 : at + 6 + length])


def _derive(key: bytes, salt: bytes, part: str) -> tuple[bytes, bytes]:
    material = HKDF(_SHA256, 64, salt, _info(part)).derive(key)
    return material[:32], material[32:]


@lru_cache(maxsize=256)
def _info(part: str) -> bytes:
    return _KEY_DOMAIN + part.encode()
