"""Hand-made tokens, signed with ``cryptography`` and ``hmac`` alone: the code under test is not its own judge."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

Signer = Callable[[bytes], bytes]


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def forge(header: Mapping[str, Any] | bytes, claims: Mapping[str, Any] | bytes, signer: Signer) -> str:
    """Join and sign a compact JWS (RFC 7515 section 7.1); bytes are taken as they are."""
    parts = [b64(part if isinstance(part, bytes) else json.dumps(dict(part)).encode()) for part in (header, claims)]
    signing_input = ".".join(parts)
    return f"{signing_input}.{b64(signer(signing_input.encode()))}"


def parts_of(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, claims, _ = token.split(".")
    return json.loads(unb64(header)), json.loads(unb64(claims))


def es384(private_jwk: Mapping[str, Any]) -> Signer:
    """RFC 7518 section 3.4: r and s of 48 bytes each, big-endian."""
    number = int.from_bytes(unb64(private_jwk["d"]), "big")
    private = ec.derive_private_key(number, ec.SECP384R1())

    def sign(message: bytes) -> bytes:
        r, s = decode_dss_signature(private.sign(message, ec.ECDSA(hashes.SHA384())))
        return r.to_bytes(48, "big") + s.to_bytes(48, "big")

    return sign


def eddsa(seed: bytes) -> Signer:
    return Ed25519PrivateKey.from_private_bytes(seed).sign


def rs384(private: rsa.RSAPrivateKey) -> Signer:
    return lambda message: private.sign(message, padding.PKCS1v15(), hashes.SHA384())


def hs256(secret: bytes) -> Signer:
    return lambda message: hmac.new(secret, message, hashlib.sha256).digest()


def unsigned(_: bytes) -> bytes:
    return b""


def rsa_jwk(private: rsa.RSAPrivateKey, kid: str) -> dict[str, Any]:
    numbers = private.public_key().public_numbers()
    return {
        "kty": "RSA",
        "kid": kid,
        "n": b64(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")),
        "e": b64(numbers.e.to_bytes(3, "big")),
    }


def ed25519_jwk(seed: bytes, kid: str) -> dict[str, Any]:
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return {"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": b64(public)}
