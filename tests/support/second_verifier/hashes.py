"""Hashes, frames and signatures as the section "Building blocks" numbers them."""

import hashlib

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

from tests.support.second_verifier.refusal import Refused

SIGNATURE_LENGTHS = {32: 64, 1312: 2420}
"""Length of a key → length of its signatures; the length of a key tells its suite."""

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
