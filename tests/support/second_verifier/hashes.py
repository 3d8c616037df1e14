"""Hashes, frames and signatures as the section "Building blocks" numbers them."""

import hashlib
from functools import lru_cache

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

from tests.support.second_verifier.refusal import Refused

SIGNATURE_LENGTHS = {32: 64, 1312: 2420}
"""Length of a key → length of its signatures; the length of a key tells its suite."""

PRIME = 2**255 - 19
CURVE_D = -121665 * pow(121666, -1, PRIME) % PRIME

DIGEST_SUITES = (1, 2)
STATE_TREE_SUITES = (1, 2)
BATCH_TREE_SUITES = (1,)
SUITES_OF_USE = {
    "signature": (1, 2),
    "state-tree": STATE_TREE_SUITES,
    "digest": DIGEST_SUITES,
    "batch-tree": BATCH_TREE_SUITES,
}


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def frame(domain: str, *parts: bytes) -> bytes:
    """``u8(len domain) ‖ domain ‖ (u64(len part) ‖ part)…``."""
    name = domain.encode()
    return bytes([len(name)]) + name + b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def tagged(domain: str, *parts: bytes) -> bytes:
    return sha256(frame(domain, *parts))


def content_digest(suite: int, content: bytes) -> bytes:
    """Digest of content: 1 BLAKE3, 2 SHA-256."""
    return blake3(content).digest() if suite == 1 else sha256(content)


def state_hash(suite: int, data: bytes) -> bytes:
    """Hash of the state tree: 1 SHA-256, 2 BLAKE3."""
    return sha256(data) if suite == 1 else blake3(data).digest()


@lru_cache(maxsize=4096)
def is_small(key: bytes) -> bool:
    """Whether an Ed25519 key is a point whose order divides 8, in any of its encodings."""
    if len(key) != 32:
        return False
    y = (int.from_bytes(key, "little") & (1 << 255) - 1) % PRIME
    # On -x² + y² = 1 + d·x²·y² doubling gives (y² + x²) / (1 - d·x²·y²) for y; order 8 or less ends at y = 1.
    for _ in range(3):
        square = (y * y - 1) * pow(CURVE_D * y * y + 1, -1, PRIME) % PRIME
        if pow(square, (PRIME - 1) // 2, PRIME) not in (0, 1):
            return False
        y = (y * y + square) * pow(1 - CURVE_D * square * y * y, -1, PRIME) % PRIME
    return y == 1


def check_signature(key: bytes, message: bytes, signature: bytes) -> None:
    """Raise Refused unless ``key``, whose length tells its suite, signed ``message``."""
    if SIGNATURE_LENGTHS.get(len(key)) != len(signature):
        raise Refused("a key or signature of the wrong length")
    try:
        public = (
            Ed25519PublicKey.from_public_bytes(key) if len(key) == 32 else MLDSA44PublicKey.from_public_bytes(key)
        )
        public.verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise Refused("a false signature") from error
