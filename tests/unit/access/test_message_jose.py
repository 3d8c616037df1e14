"""JWE and detached JWS of messages: opened where the RFCs say so, refused in every other way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fhir_bridge.adapters.access.message_jose import JoseMessages
from fhir_bridge.errors import RecordRefused, SetupWrong
from tests.support.jose import Signer, b64, concat_kdf, encrypted, unb64

CRYPTO = JoseMessages()
SECRET, OTHER = bytes(range(32)), bytes(range(1, 33))
PUBLIC = CRYPTO.public_key(SECRET)
SECRETS = {PUBLIC["kid"]: SECRET}
CONTENT = b'{"resourceType":"Patient"}'

# RFC 8037 appendix A: key, thumbprint and signature of an Ed25519 JWS.
RFC_8037_KEY = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
RFC_8037_THUMBPRINT = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"

# RFC 7515 appendix A.3: an ES256 JWS; its header has no kid, so it stands for a key that one gives it.
RFC_7515_KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}


def test_the_key_derivation_that_tests_encrypt_with_is_the_standards() -> None:
    """RFC 7518 appendix C."""
    d = "0_NxaRPUMQoAJt50Gz8YiTr8gRTwyEaCumd-MToTmIo"
    bob = {"x": "weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ", "y": "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck"}
    x, y = (int.from_bytes(unb64(bob[name])) for name in ("x", "y"))
    alice = ec.derive_private_key(int.from_bytes(unb64(d)), ec.SECP256R1())
    shared = alice.exchange(ec.ECDH(), ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key())
    assert b64(concat_kdf(shared, "A128GCM", 128, b"Alice", b"Bob")) == "VqqN6vgjbSBcIijNcacQGg"


@pytest.mark.parametrize("enc", ["A128GCM", "A256GCM"])
@pytest.mark.parametrize("alg", ["ECDH-ES", "ECDH-ES+A128KW", "ECDH-ES+A256KW"])
def test_what_is_encrypted_to_our_key_opens(alg: str, enc: str) -> None:
    opened = CRYPTO.decrypt(encrypted(CONTENT, PUBLIC, alg=alg, enc=enc), SECRETS)
    assert (opened.content, opened.content_type) == (CONTENT, "application/fhir+json")


def test_a_full_media_type_in_cty_stays_as_it_is() -> None:
    sent = encrypted(CONTENT, PUBLIC, header={"cty": "application/fhir+json; fhirVersion=4.0"})
    assert CRYPTO.decrypt(sent, SECRETS).content_type == "application/fhir+json; fhirVersion=4.0"


def test_a_message_of_a_megabyte_opens() -> None:
    content = CONTENT * 40_000
    assert CRYPTO.decrypt(encrypted(content, PUBLIC), SECRETS).content == content


@pytest.mark.parametrize(
    "header",
    [{"zip": "DEF"}, {"crit": ["exp"], "exp": 1}, {"alg": "dir"}, {"alg": "RSA-OAEP"}, {"enc": "A128CBC-HS256"}],
)
def test_headers_that_are_not_taken_are_told(header: dict[str, Any]) -> None:
    with pytest.raises(RecordRefused, match="security"):
        CRYPTO.decrypt(encrypted(CONTENT, PUBLIC, header=header), SECRETS)


def test_another_key_opens_nothing() -> None:
    with pytest.raises(RecordRefused) as refused:
        CRYPTO.decrypt(encrypted(CONTENT, CRYPTO.public_key(OTHER)), SECRETS)
    assert "no key of ours" in refused.value.issues[0].diagnostics
    stolen = CRYPTO.public_key(OTHER) | {"kid": PUBLIC["kid"]}
    with pytest.raises(RecordRefused) as refused:
        CRYPTO.decrypt(encrypted(CONTENT, stolen), SECRETS)
    assert "does not open" in refused.value.issues[0].diagnostics


def test_no_changed_part_of_a_jwe_opens() -> None:
    parts = encrypted(CONTENT, PUBLIC).decode().split(".")
    for number, part in enumerate(parts):
        for place in {0, len(part) // 2}:
            changed = part[:place] + ("A" if part[place] != "A" else "B") + part[place + 1 :]
            whole = ".".join([*parts[:number], changed, *parts[number + 1 :]])
            with pytest.raises(RecordRefused):
                CRYPTO.decrypt(whole.encode(), SECRETS)


@pytest.mark.parametrize(
    "epk", [{}, "x", None, {"kty": "EC", "crv": "P-256", "x": b64(bytes(32)), "y": b64(bytes(32))}]
)
def test_an_ephemeral_key_that_is_none_is_refused(epk: object) -> None:
    with pytest.raises(RecordRefused):
        CRYPTO.decrypt(encrypted(CONTENT, PUBLIC, header={"epk": epk}), SECRETS)


@pytest.mark.parametrize("sent", [b"", b"....", b"{}", b"a.b.c.d.e", b"\xff" * 50, b"e30....", CONTENT])
def test_what_is_no_jwe_is_refused(sent: bytes) -> None:
    with pytest.raises(RecordRefused):
        CRYPTO.decrypt(sent, SECRETS)


def test_the_thumbprint_is_the_standards() -> None:
    """RFC 8037 appendix A.3 (RFC 7638); what a key is called is no part of it."""
    assert CRYPTO.signing_key(RFC_8037_KEY)["kid"] == RFC_8037_THUMBPRINT
    assert CRYPTO.thumbprint(RFC_8037_KEY | {"kid": "any"}) == RFC_8037_THUMBPRINT


def test_a_signature_of_rfc_7515_holds_when_detached() -> None:
    """Appendix A.3 signs without a kid, which we ask for; so the bytes below the check are tried directly."""
    from fhir_bridge.adapters.access import jose

    payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    (key,) = jose.load_keys([RFC_7515_KEY | {"kid": "a3"}])
    signed = f"eyJhbGciOiJFUzI1NiJ9.{payload}".encode()
    jose.verify_bytes(signed, unb64(signature), "ES256", key)
    with pytest.raises(jose.TokenBroken):
        jose.verify_bytes(signed + b"A", unb64(signature), "ES256", key)
    with pytest.raises(jose.TokenBroken):
        jose.verify_bytes(signed, unb64(signature), "ES384", key)


@pytest.mark.parametrize("is_plain", [False, True])
def test_a_detached_signature_holds_over_its_content_and_no_other(is_plain: bool) -> None:
    signer = Signer()
    keys = [Signer("another").jwk, signer.jwk]
    signature = signer.sign(CONTENT, is_plain=is_plain)
    assert CRYPTO.verify(signature, CONTENT, keys) == signer.jwk
    with pytest.raises(RecordRefused, match="security"):
        CRYPTO.verify(signature, CONTENT + b" ", keys)
    with pytest.raises(RecordRefused, match="security"):
        CRYPTO.verify(signature, CONTENT, [Signer().jwk])
    with pytest.raises(RecordRefused, match="security"):
        CRYPTO.verify(signature, CONTENT, keys[:1])


def test_a_signature_over_encoded_content_is_none_over_it_unencoded() -> None:
    signer = Signer()
    head, _, tail = signer.sign(CONTENT).partition("..")
    plain = b64(json.dumps({"alg": "EdDSA", "kid": signer.kid, "b64": False, "crit": ["b64"]}).encode())
    for changed in (f"{plain}..{tail}", f"{head}.{b64(CONTENT)}.{tail}", f"{head}..", f"..{tail}", head, "", ".."):
        with pytest.raises(RecordRefused):
            CRYPTO.verify(changed, CONTENT, [signer.jwk])


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "HS256"},
        {"alg": "ES256"},
        {"b64": False},
        {"crit": ["b64"]},
        {"crit": ["exp"], "exp": 1},
        {"jku": "https://x.example"},
        {"kid": 5},
    ],
)
def test_signatures_with_headers_that_are_not_taken_are_refused(header: dict[str, Any]) -> None:
    signer = Signer()
    with pytest.raises(RecordRefused):
        CRYPTO.verify(signer.sign(CONTENT, **header), CONTENT, [signer.jwk])


@pytest.mark.parametrize(
    ("jwk", "says"),
    [
        ({"kty": "oct", "k": "c2VjcmV0"}, "no public JWK"),
        ({}, "no public JWK"),
        ({"kty": "OKP", "crv": "X25519", "x": RFC_8037_KEY["x"]}, "no public JWK"),
        (RFC_8037_KEY | {"d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}, "private"),
        (RFC_8037_KEY | {"use": "enc"}, "no public JWK"),
        (RFC_8037_KEY | {"key_ops": ["sign"]}, "key_ops"),
        (RFC_8037_KEY | {"kid": "k" * 257}, "kid"),
        (RFC_8037_KEY | {"kid": "\ud800"}, "kid"),
    ],
)
def test_keys_that_can_verify_nothing_are_refused(jwk: dict[str, Any], says: str) -> None:
    with pytest.raises(SetupWrong, match=says):
        CRYPTO.signing_key(jwk)


def test_of_a_registered_key_nothing_is_kept_that_verifies_nothing() -> None:
    """Certificates and whatever else a key file holds could not be answered for, nor always be stored."""
    more = {"x5c": ["AAAA"], "note": "\ud800", "key_ops": ["verify"], "use": "sig", "alg": "EdDSA"}
    kept = CRYPTO.signing_key(RFC_8037_KEY | more)
    assert kept == RFC_8037_KEY | {"kid": RFC_8037_THUMBPRINT, "alg": "EdDSA"}
    signer = Signer()
    kept = CRYPTO.signing_key(signer.jwk | {"key_ops": ["verify"]})
    assert CRYPTO.verify(signer.sign(CONTENT), CONTENT, [kept]) == signer.jwk


def test_a_signed_message_inside_the_encryption_is_taken_apart_into_message_and_detached_signature() -> None:
    signer = Signer()
    signature, inside = CRYPTO.detach(signer.sign_whole(CONTENT, cty="fhir+json"))
    assert (inside.content, inside.content_type) == (CONTENT, "application/fhir+json")
    assert CRYPTO.verify(signature, inside.content, [signer.jwk]) == signer.jwk
    for changed in (b"", CONTENT, b"a.b", b"a.b.c", b"a..c", b"..", signer.sign(CONTENT).encode(), b"\xff.\xff.\xff"):
        with pytest.raises(RecordRefused):
            CRYPTO.detach(changed)
    head, payload, tail = signer.sign_whole(CONTENT).split(b".")
    for changed in (b".".join([head, payload + b"A", tail]), b".".join([head, payload, tail[:-4] + b"AAAA"])):
        signature, inside = CRYPTO.detach(changed)
        with pytest.raises(RecordRefused):
            CRYPTO.verify(signature, inside.content, [signer.jwk])
