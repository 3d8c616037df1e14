"""JWE and detached JWS made by hand from cryptography's primitives, as RFC 7516, 7518 and 7797 write them down.

A second definition to hold the service's against; knows no JOSE library.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

Json = dict[str, Any]


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def concat_kdf(shared: bytes, algorithm: str, bits: int, apu: bytes = b"", apv: bytes = b"") -> bytes:
    """Return the derived key of RFC 7518 section 4.6.2, one round (up to 256 bits)."""

    def sized(data: bytes) -> bytes:
        return len(data).to_bytes(4) + data

    other = sized(algorithm.encode()) + sized(apu) + sized(apv) + bits.to_bytes(4)
    return hashlib.sha256((1).to_bytes(4) + shared + other).digest()[: bits // 8]


def public_numbers(jwk: Json) -> ec.EllipticCurvePublicKey:
    x, y = (int.from_bytes(unb64(jwk[name])) for name in ("x", "y"))
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()


def encrypted(
    content: bytes, to: Json, *, alg: str = "ECDH-ES+A256KW", enc: str = "A256GCM", header: Json | None = None
) -> bytes:
    """Return a JWE in compact form for a P-256 key; ``header`` says otherwise what its header says."""
    once = ec.generate_private_key(ec.SECP256R1())
    shared = once.exchange(ec.ECDH(), public_numbers(to))
    content_bits = int(enc[1:4])
    if alg == "ECDH-ES":
        key, wrapped = concat_kdf(shared, enc, content_bits), b""
    else:
        key = os.urandom(content_bits // 8)
        wrapped = aes_key_wrap(concat_kdf(shared, alg, int(alg[-5:-2])), key)
    numbers = once.public_key().public_numbers()
    epk = {"kty": "EC", "crv": "P-256", "x": b64(numbers.x.to_bytes(32)), "y": b64(numbers.y.to_bytes(32))}
    said = {"alg": alg, "enc": enc, "kid": to["kid"], "cty": "fhir+json", "epk": epk} | (header or {})
    protected, nonce = b64(json.dumps(said).encode()), os.urandom(12)
    sealed = AESGCM(key).encrypt(nonce, content, protected.encode())
    return ".".join([protected, b64(wrapped), b64(nonce), b64(sealed[:-16]), b64(sealed[-16:])]).encode()


class Signer:
    """A hospital's Ed25519 key."""

    def __init__(self, kid: str = "hospital-2026") -> None:
        self._key = Ed25519PrivateKey.generate()
        self.kid = kid

    @property
    def jwk(self) -> Json:
        public = self._key.public_key().public_bytes_raw()
        return {"kty": "OKP", "crv": "Ed25519", "x": b64(public), "kid": self.kid}

    def sign(self, content: bytes, *, is_plain: bool = False, **more: Any) -> str:
        """Return the detached JWS over ``content``; ``is_plain`` signs it unencoded (RFC 7797)."""
        header = {"alg": "EdDSA", "kid": self.kid} | ({"b64": False, "crit": ["b64"]} if is_plain else {}) | more
        head = b64(json.dumps(header).encode())
        payload = content if is_plain else b64(content).encode()
        return f"{head}..{b64(self._key.sign(head.encode() + b'.' + payload))}"

    def sign_whole(self, content: bytes, **more: Any) -> bytes:
        """Return the JWS in compact form with ``content`` in it."""
        head, _, tail = self.sign(content, **more).partition("..")
        return f"{head}.{b64(content)}.{tail}".encode()
