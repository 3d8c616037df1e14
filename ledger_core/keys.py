"""Identities and signatures; the length of a key tells its suite, so that a better one can follow.

For members of a ledger, owners of consent paths, and logs that sign
checkpoints. The only place that speaks to the libraries for signatures.

Suite 1 is Ed25519 (RFC 8032), suite 2 ML-DSA-44 (FIPS 204, pure, empty
context). A private key never leaves an ``Identity`` except through
``private_bytes``, and never shows in ``repr``.

Invariants:
    * every suite has keys of a length of its own;
    * the verdict on an Ed25519 signature is always that of ``cryptography``
      (without cofactor, S below the group's order), whether or not PyNaCl is
      there: replicas that differ here would part ways.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from ledger_core.errors import SignatureInvalid

SUITE_ED25519: Final = 1
SUITE_ML_DSA_44: Final = 2
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
SEED_BYTES: Final = 32

SIGNATURE_SUITES: Final[Mapping[int, int]] = {KEY_BYTES: SUITE_ED25519, 1312: SUITE_ML_DSA_44}
"""Suite by length of a public key."""

SIGNATURE_LENGTHS: Final[Mapping[int, int]] = {KEY_BYTES: SIGNATURE_BYTES, 1312: 2420}
"""Length of a signature by length of the public key it belongs to."""

_Private: TypeAlias = Ed25519PrivateKey | MLDSA44PrivateKey
_Public: TypeAlias = Ed25519PublicKey | MLDSA44PublicKey
_Check: TypeAlias = Callable[[bytes, bytes, bytes], bool]

# Key, message and signature of which only a verifier with the cofactor (RFC 8032 section 5.1.7 allows
# it) says yes: a key, then an R, with a component of order 8.
_ONLY_WITH_COFACTOR: Final = (
    (
        "6a84d583f06569edb3f5ed77df65544b27d6948b4f0b2cb76f33dd8413b20719",
        "00",
        "6b12d4d055bd943206034b402ebe601bf715a3bbe772cdac6ab65b94d9a07bf6"
        "4a90b0821cd0e4b65ba3fc4b4b290121ba8480023b621d22c94a91c3534c470a",
    ),
    (
        "7767a3242dc9b58bbc68488c1265cc6cc5f26c6f3c88a5d55e901b0734dca572",
        "00",
        "e9c6aa47f2c1dc30d08679feb45162ca38dfa1e557af575b803e03f30110eff5"
        "20d0067f5f5755517fb1eee52ac562c62f7c7b16306dfb3528cecb2bfd6edb06",
    ),
)


# The y coordinates of the eight points of small order on edwards25519, both spellings where two fit 255 bits.
_SMALL_ORDER_Y: Final = (
    0,
    1,
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
    2**255 - 20,
    2**255 - 19,
    2**255 - 18,
)
_WEAK_KEYS: Final = frozenset(
    (y | sign << 255).to_bytes(KEY_BYTES, "little") for y in _SMALL_ORDER_Y for sign in (0, 1)
)


def is_weak(public: bytes) -> bool:
    """Tell whether anybody can sign under ``public``: an Ed25519 point of small order.

    Such a key would be a public seat at the table. RFC 8032 leaves refusing them to
    the protocol; here whoever registers a key is asked.
    """
    return public in _WEAK_KEYS


class Identity:
    """A key pair that signs; equal when the public keys are equal."""

    __slots__ = ("_private", "public", "suite")

    def __init__(self, private: _Private) -> None:
        self._private = private
        self.public: Final = private.public_key().public_bytes_raw()
        self.suite: Final = SIGNATURE_SUITES[len(self.public)]

    @classmethod
    def generate(cls, suite: int = SUITE_ED25519) -> "Identity":
        """Make a new key pair from the system's randomness.

        Raises:
            ValueError: The suite is unknown.
        """
        if suite == SUITE_ED25519:
            return cls(Ed25519PrivateKey.generate())
        if suite == SUITE_ML_DSA_44:
            return cls(MLDSA44PrivateKey.generate())
        raise ValueError(f"unknown signature suite {suite}")

    @classmethod
    def from_private_bytes(cls, seed: bytes, suite: int = SUITE_ED25519) -> "Identity":
        """Restore a key pair from its 32-byte seed.

        Raises:
            ValueError: The seed is not 32 bytes long, or the suite is unknown.
        """
        if suite == SUITE_ED25519:
            return cls(Ed25519PrivateKey.from_private_bytes(seed))
        if suite == SUITE_ML_DSA_44:
            return cls(MLDSA44PrivateKey.from_seed_bytes(seed))
        raise ValueError(f"unknown signature suite {suite}")

    def private_bytes(self) -> bytes:
        """Return the 32-byte seed; the caller keeps it secret."""
        return self._private.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return the signature of ``message``; only suite 1 signs the same way each time."""
        return self._private.sign(message)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and other.public == self.public

    def __hash__(self) -> int:
        return hash(self.public)

    def __repr__(self) -> str:
        return f"Identity({self.public[:KEY_BYTES].hex()})"


def is_signed(public: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether ``signature`` over ``message`` belongs to ``public``.

    The machine asks here, because a refusal is an outcome and not an error there.
    May be called from any thread; the libraries release the interpreter's lock.
    """
    if SIGNATURE_LENGTHS.get(len(public)) != len(signature):
        return False
    if len(public) == KEY_BYTES:
        quick = _libsodium()
        # Libsodium refuses more (small-order points, a key's second spelling), so its no is not the last word.
        if quick is not None and quick(public, message, signature):
            return True
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
        raise SignatureInvalid(f"no valid signature by {public[:KEY_BYTES].hex()}")


@lru_cache(maxsize=4096)
def _load(public: bytes) -> _Public:
    if len(public) == KEY_BYTES:
        return Ed25519PublicKey.from_public_bytes(public)
    return MLDSA44PublicKey.from_public_bytes(public)


@lru_cache(maxsize=1)
def _libsodium() -> _Check | None:
    """Return libsodium's check of Ed25519 if it is there and refuses what a cofactor would let pass.

    Some releases and builds of libsodium verify with the cofactor and accept
    more than ``cryptography`` does; they are not used.
    """
    try:
        from nacl.bindings import crypto_sign_open
        from nacl.exceptions import BadSignatureError
    except ImportError:
        return None

    def check(public: bytes, message: bytes, signature: bytes) -> bool:
        try:
            crypto_sign_open(signature + message, public)
        except BadSignatureError:
            return False
        return True

    return None if accepts_cofactor(check) else check


def accepts_cofactor(check: _Check) -> bool:
    """Tell whether an Ed25519 ``check(public, message, signature)`` accepts what only a cofactor allows."""
    vectors = [tuple(bytes.fromhex(part) for part in vector) for vector in _ONLY_WITH_COFACTOR]
    return any(check(public, message, signature) for public, message, signature in vectors)
