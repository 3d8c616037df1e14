"""JWE and detached JWS of single messages, by the JOSE library; what it is asked to do is narrowed here first.

Invariants:
    * keys come from the caller, never from a header; the key decides the algorithm;
    * no ``zip``: a small message must not become a large one; no ``crit`` but RFC 7797's ``b64``;
    * no finding repeats anything of a message or its header.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwe import JWERegistry
from joserfc.jwk import ECKey, JWKRegistry
from joserfc.util import urlsafe_b64decode, urlsafe_b64encode

from fhir_bridge.adapters.access import jose
from fhir_bridge.errors import Issue, RecordRefused, SetupWrong
from fhir_bridge.ports.messages import Inside, Jwk

KEY_MANAGEMENT: Final = ("ECDH-ES", "ECDH-ES+A128KW", "ECDH-ES+A256KW")
CONTENT_ENCRYPTION: Final = ("A128GCM", "A256GCM")
_KEPT: Final = ("kty", "crv", "x", "y", "n", "e", "alg", "kid")
_MAX_KID_CHARS: Final = 256
_MAX_HEADER_BYTES: Final = 4096
_MAX_MESSAGE_BYTES: Final = 256 << 20
# RFC 7518 section 3: the order of P-256 less one; a secret of 256 random bits modulo it is off by 2^-32 at most.
_P256_SCALARS: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551 - 1


class JoseMessages:
    """Keeps the promises of :class:`fhir_bridge.ports.messages.MessageCrypto`."""

    def public_key(self, secret: bytes) -> dict[str, Any]:
        """Return a P-256 key for ECDH-ES, the curve that every JOSE library and HSM has."""
        key = _private(secret)
        return {**key.as_dict(private=False), "kid": key.thumbprint(), "use": "enc", "alg": "ECDH-ES+A256KW"}

    def decrypt(self, compact: bytes, secrets: Mapping[str, bytes]) -> Inside:
        """See :class:`fhir_bridge.ports.messages.MessageCrypto`."""
        header = _header(compact.partition(b".")[0], "the message is no JWE in compact form")
        if header.keys() & {"zip", "crit", "jku", "x5u"}:
            raise _refused("the JWE's header has a member that is not taken: leave out zip, crit, jku and x5u")
        if header.get("alg") not in KEY_MANAGEMENT or header.get("enc") not in CONTENT_ENCRYPTION:
            fitting = f"{', '.join(KEY_MANAGEMENT)} with {', '.join(CONTENT_ENCRYPTION)}"
            raise _refused(f"the JWE's algorithms must be {fitting}")
        secret = secrets.get(str(header.get("kid")))
        if secret is None:
            raise _refused("the JWE's kid names no key of ours: 'fhir-bridge institution encryption-key' prints it")
        try:
            opened = jwe.decrypt_compact(compact, _private(secret), registry=_Large([header["alg"], header["enc"]]))
        except (JoseError, ValueError, TypeError, KeyError, AssertionError):
            raise _refused("the JWE does not open") from None
        return Inside(opened.plaintext or b"", _media_type(header))

    def detach(self, compact: bytes) -> tuple[str, Inside]:
        """See :class:`fhir_bridge.ports.messages.MessageCrypto`."""
        shape = "inside the JWE, whose cty is jose, there must be a JWS in compact form: header.payload.signature"
        try:
            head, payload, tail = compact.split(b".", 2)
            signature, content = f"{head.decode('ascii')}..{tail.decode('ascii')}", urlsafe_b64decode(payload)
        except ValueError:
            raise _refused(shape) from None
        if not content:
            raise _refused(shape)
        return signature, Inside(content, _media_type(_header(head, shape)))

    def signing_key(self, jwk: Jwk) -> dict[str, Any]:
        """See :class:`fhir_bridge.ports.messages.MessageCrypto`."""
        wrong = SetupWrong(
            "this is no public JWK that verifies signatures (P-256, P-384, P-521, Ed25519, RSA of 2048)"
        )
        if jwk.get("kty") not in ("EC", "OKP", "RSA"):
            raise wrong
        try:
            key = JWKRegistry.import_key(dict(jwk))
            kept = {"kid": key.thumbprint()} | {name: jwk[name] for name in _KEPT if name in jwk}
        except (JoseError, ValueError, TypeError, KeyError):
            raise wrong from None
        if key.is_private:
            raise SetupWrong("this is a private key: keep it, and hand over the public one")
        if "verify" not in jwk.get("key_ops", ("verify",)):
            raise SetupWrong("this key's key_ops do not say verify")
        if jwk.get("use", "sig") != "sig" or not jose.load_keys([kept]):
            raise wrong
        # A kid has to fit into a signature's header, and to be text that can be stored.
        if len(kept["kid"]) > _MAX_KID_CHARS or not kept["kid"].isprintable():
            raise SetupWrong(f"a kid is at most {_MAX_KID_CHARS} printable characters")
        return kept

    def thumbprint(self, jwk: Jwk) -> str:
        """See :class:`fhir_bridge.ports.messages.MessageCrypto`."""
        return JWKRegistry.import_key(dict(jwk)).thumbprint()

    def verify(self, signature: str, content: bytes, keys: Sequence[Jwk]) -> Jwk:
        """See :class:`fhir_bridge.ports.messages.MessageCrypto`."""
        head, between, tail = signature.encode().partition(b"..")
        shape = "the signature must be a detached JWS in compact form: header..signature"
        if not between or b"." in tail:
            raise _refused(shape)
        header = _header(head, shape)
        # RFC 7797 section 6: b64 is only understood where crit says so.
        is_plain = header.get("b64") is False and header.get("crit") == ["b64"]
        taken = {"b64", "crit"} if is_plain else set()
        if (header.keys() & {"b64", "crit", "jku", "x5u"}) - taken:
            raise _refused("the signature's header has a member that is not taken (crit other than b64, jku, x5u)")
        known = {each.kid: each for each in jose.load_keys(keys)}
        key = known.get(str(header.get("kid")))
        if key is None:
            raise _refused("the signature's kid names no signing key that this institution has registered")
        try:
            payload = content if is_plain else urlsafe_b64encode(content)
            jose.verify_bytes(head + b"." + payload, urlsafe_b64decode(tail), str(header.get("alg")), key)
        except (jose.TokenBroken, ValueError):
            raise _refused("the signature does not hold over the message's bytes as they were sent") from None
        return next(each for each in keys if each.get("kid") == key.kid)


class _Large(JWERegistry):
    """Only the algorithms named, and messages as long as the bus takes them."""

    max_ciphertext_length = _MAX_MESSAGE_BYTES
    max_protected_header_length = _MAX_HEADER_BYTES

    def __init__(self, algorithms: list[str]) -> None:
        super().__init__(algorithms=algorithms, strict_check_header=False)


def _private(secret: bytes) -> ECKey:
    scalar = int.from_bytes(secret) % _P256_SCALARS + 1
    return ECKey.import_key(ec.derive_private_key(scalar, ec.SECP256R1()))


def _header(encoded: bytes, problem: str) -> Mapping[str, Any]:
    if len(encoded) <= _MAX_HEADER_BYTES:
        try:
            return jose.strict_object(urlsafe_b64decode(encoded))
        except (ValueError, jose.TokenBroken):
            pass
    raise _refused(problem)


def _media_type(header: Mapping[str, Any]) -> str:
    """Return the media type that a header's ``cty`` stands for (RFC 7515 section 4.1.10), empty without one."""
    cty = header.get("cty")
    if not isinstance(cty, str):
        return ""
    return f"application/{cty}" if cty and "/" not in cty else cty


def _refused(problem: str) -> RecordRefused:
    return RecordRefused([Issue("error", "security", problem)])
