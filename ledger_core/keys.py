"""Identities and signatures; each names its suite, so that a better one can follow.

For members of a ledger, owners of consent paths, and logs that sign
checkpoints. The only place that speaks to the library for Ed25519.

Suite 1 is Ed25519 (RFC 8032). A private key never leaves an ``Identity`` except
through ``private_bytes``, and never shows in ``repr``.
"""

from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ledger_core.errors import SignatureInvalid

SUITE_ED25519: Final = 1
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64


class Identity:
    """An Ed25519 key pair that signs; equal when the public keys are equal."""

    suite: Final = SUITE_ED25519
    __slots__ = ("_private", "public")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public: Final = private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> "Identity":
        """Make a new key pair from the system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_private_bytes(cls, seed: bytes) -> "Identity":
        """Restore a key pair from its 32-byte seed.

        Raises:
            ValueError: The seed is not 32 bytes long.
        """
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    def private_bytes(self) -> bytes:
        """Return the 32-byte seed; the caller keeps it secret."""
        return self._private.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of ``message`` (deterministic)."""
        return self._private.sign(message)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and other.public == self.public

    def __hash__(self) -> int:
        return hash(self.public)

    def __repr__(self) -> str:
        return f"Identity({self.public.hex()})"


def is_signed(public: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether ``signature`` over ``message`` belongs to ``public`` (32 bytes).

    The machine asks here, because a refusal is an outcome and not an error there.
    """
    if len(signature) != SIGNATURE_BYTES or len(public) != KEY_BYTES:
        return False
    try:
        _load(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def verify_signature(public: bytes, message: bytes, signature: bytes) -> None:
    """Check a signature; ``public`` must come from someone the caller trusts.

    Raises:
        SignatureInvalid: Wrong length, wrong key or wrong message.
    """
    if not is_signed(public, message, signature):
        raise SignatureInvalid(f"no valid signature by {public.hex()}")


@lru_cache(maxsize=4096)
def _load(public: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public)
