"""The token endpoint: what it grants, and every way we know to be granted what one should not have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fhir_bridge.adapters.access.jose import TokenBroken
from fhir_bridge.ports.access import OAuthRefused
from tests.support.access_world import BASE, START, World
from tests.support.forge import (
    Signer,
    b64,
    ed25519_jwk,
    eddsa,
    es384,
    forge,
    hs256,
    parts_of,
    rs384,
    rsa_jwk,
    unb64,
    unsigned,
)

NOW = int(START.timestamp())
Attack = Callable[[World], str]


def header_of(world: World, **changes: Any) -> dict[str, Any]:
    header = {"alg": "ES384", "kid": world.northgate["private_jwk"]["kid"], "typ": "JWT", **changes}
    return {name: value for name, value in header.items() if value is not None}


def claims_of(world: World, **changes: Any) -> dict[str, Any]:
    client_id = world.northgate["client_id"]
    claims = {"iss": client_id, "sub": client_id, "aud": f"{BASE}/token", "exp": NOW + 200, "jti": "j-1", **changes}
    return {name: value for name, value in claims.items() if value is not None}


def own_key(world: World) -> Signer:
    return es384(world.northgate["private_jwk"])


def good(world: World, **claims: Any) -> str:
    return forge(header_of(world), claims_of(world, **claims), own_key(world))


def reason_of(error: OAuthRefused) -> str:
    assert isinstance(error.__cause__, TokenBroken)
    return error.__cause__.reason


# --- what it grants


async def test_a_token_verifies_with_nothing_but_the_published_key(world: World) -> None:
    granted = await world.server.token(world.form(good(world)))
    head, body, signature = str(granted["access_token"]).split(".")
    (key,) = world.server.jwks()["keys"]
    assert (key["kty"], key["crv"], key["alg"]) == ("OKP", "Ed25519", "EdDSA")
    Ed25519PublicKey.from_public_bytes(unb64(key["x"])).verify(unb64(signature), f"{head}.{body}".encode())

    header, claims = parts_of(granted["access_token"])
    assert header == {"alg": "EdDSA", "kid": key["kid"], "typ": "at+jwt"}
    assert (claims["iss"], claims["aud"], claims["iat"], claims["exp"]) == (BASE, BASE, NOW, NOW + 300)
    assert claims["sub"] == claims["client_id"] == world.northgate["client_id"]
    assert (claims["institution"], claims["institution_id"]) == ("northgate", "org-n")
    assert (claims["scope"], claims["purpose_of_use"]) == ("system/*.cruds", "TREAT")


def test_published_keys_hold_no_private_part(world: World) -> None:
    assert all("d" not in key for key in world.server.jwks()["keys"])
    assert all("d" not in key for client in world.registry.clients.values() for key in client.keys)


async def test_an_institution_states_its_clinician(world: World) -> None:
    form = world.form(
        good(world), practitioner="Practitioner/dr-a", purpose="ETREAT", role="urn:x|doctor urn:x|chief"
    )
    _, claims = parts_of((await world.server.token(form))["access_token"])
    assert claims["fhirUser"] == "Practitioner/dr-a"
    assert claims["purpose_of_use"] == "ETREAT"
    assert claims["roles"] == ["urn:x|doctor", "urn:x|chief"]


async def test_a_patient_token_names_the_patient_and_no_institution(world: World) -> None:
    _, claims = parts_of(await world.token(world.patient))
    assert (claims["patient"], claims["purpose_of_use"]) == ("p123", "PATRQT")
    assert claims["scope"] == "patient/*.rs patient/Consent.cu"
    assert {"institution", "institution_id", "fhirUser", "roles"}.isdisjoint(claims)


async def test_a_narrower_scope_is_granted_as_asked(world: World) -> None:
    granted = await world.server.token(world.form(good(world), scope="system/Observation.rs  system/Patient.read"))
    assert granted["scope"] == "system/Observation.rs system/Patient.read"


@pytest.mark.parametrize("algorithm", ["RS384", "EdDSA", "Ed25519"])
async def test_the_other_algorithms_of_smart_are_taken(world: World, algorithm: str) -> None:
    seed, private = bytes(range(1, 33)), rsa.generate_private_key(public_exponent=65537, key_size=2048)
    jwk, signer = (
        (rsa_jwk(private, "k"), rs384(private)) if algorithm == "RS384" else (ed25519_jwk(seed, "k"), eddsa(seed))
    )
    world.change(world.northgate, keys=(jwk,))
    assertion = forge(header_of(world, alg=algorithm, kid="k"), claims_of(world), signer)
    assert (await world.server.token(world.form(assertion)))["token_type"] == "Bearer"


async def test_discovery_tells_what_smart_backend_services_need(world: World) -> None:
    told = world.server.smart_configuration(BASE + "/")
    assert told["token_endpoint"] == world.endpoints.token_url == f"{BASE}/token"
    assert told["grant_types_supported"] == ["client_credentials"]
    assert told["token_endpoint_auth_methods_supported"] == ["private_key_jwt"]
    assert {"ES384", "RS384"} <= set(told["token_endpoint_auth_signing_alg_values_supported"])
    assert "client-confidential-asymmetric" in told["capabilities"]


# --- what it refuses: assertions


def with_public_key_as_secret(world: World) -> str:
    key = world.client(world.northgate).keys[0]
    pem = _public_pem(key)
    return forge(header_of(world, alg="HS256"), claims_of(world), hs256(pem))


def _public_pem(jwk: Any) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec

    x, y = (int.from_bytes(unb64(jwk[name]), "big") for name in "xy")
    public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def with_embedded_key(world: World) -> str:
    seed = bytes(32)
    return forge(
        header_of(world, alg="EdDSA", jwk=ed25519_jwk(seed, "evil"), kid="evil"), claims_of(world), eddsa(seed)
    )


def with_changed_payload(world: World) -> str:
    head, _, signature = good(world).split(".")
    forged = forge({}, claims_of(world, jti="other"), unsigned).split(".")[1]
    return f"{head}.{forged}.{signature}"


def with_trailing_bits(world: World) -> str:
    """The last character of a 96-byte signature is full, so hide spare bits in the payload's base64 instead."""
    raw = b'{"iss":"x"}'  # 11 bytes: two spare bits in the last character
    head = b64(b'{"alg":"ES384","kid":"k","typ":"JWT"}')
    body = b64(raw)
    spare = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    body = body[:-1] + spare[spare.index(body[-1]) + 1]
    return f"{head}.{body}.{b64(b'0' * 96)}"


def raw_claims(text: str) -> Attack:
    return lambda world: forge(
        header_of(world), text.replace("ID", world.northgate["client_id"]).encode(), own_key(world)
    )


def signed(reason: str, name: str, /, **claims: Any) -> Any:
    return pytest.param(lambda world: good(world, **claims), reason, id=name)


def headed(reason: str, name: str, /, **header: Any) -> Any:
    return pytest.param(lambda w: forge(header_of(w, **header), claims_of(w), own_key(w)), reason, id=name)


ATTACKS = [
    headed("wrong-algorithm", "alg none but signed", alg="none"),
    pytest.param(
        lambda w: forge(header_of(w, alg="none"), claims_of(w), unsigned), "not-a-jws", id="alg none, no signature"
    ),
    pytest.param(
        lambda w: forge(header_of(w, alg="nOnE"), claims_of(w), lambda _: b"x"), "wrong-algorithm", id="alg nOnE"
    ),
    pytest.param(with_public_key_as_secret, "wrong-algorithm", id="HS256 with the public key as secret"),
    pytest.param(
        lambda w: forge(header_of(w, alg="HS256"), claims_of(w), hs256(b"")), "wrong-algorithm", id="HS256 empty"
    ),
    headed("wrong-algorithm", "alg of another curve", alg="ES256"),
    headed("wrong-algorithm", "alg of another key type", alg="RS384"),
    headed("bad-header", "alg missing", alg=None),
    headed("bad-header", "alg a list", alg=["ES384"]),
    headed("bad-header", "kid missing", kid=None),
    headed("bad-header", "kid a number", kid=7),
    headed("unknown-key", "kid unknown", kid="../../dev/null"),
    headed("wrong-type", "access token typ", typ="at+jwt"),
    headed("wrong-type", "typ of something else", typ="dpop+jwt"),
    headed("refused-header", "jku", jku="https://evil.example/jwks"),
    headed("refused-header", "x5u", x5u="https://evil.example/cert"),
    headed("refused-header", "x5c", x5c=["AAAA"]),
    headed("refused-header", "crit", crit=["exp"]),
    headed("refused-header", "crit empty", crit=[]),
    headed("refused-header", "b64 false", b64=False),
    pytest.param(with_embedded_key, "refused-header", id="embedded jwk"),
    pytest.param(
        lambda w: forge(header_of(w), claims_of(w), es384(w.harbor["private_jwk"])), "wrong-signature", id="other key"
    ),
    pytest.param(
        lambda w: forge(
            header_of(w, kid=w.harbor["private_jwk"]["kid"]), claims_of(w), es384(w.harbor["private_jwk"])
        ),
        "unknown-key",
        id="another client's key with my client id",
    ),
    pytest.param(with_changed_payload, "wrong-signature", id="modified payload"),
    pytest.param(lambda w: good(w)[:-4], "wrong-signature", id="truncated signature"),
    pytest.param(lambda w: good(w).rsplit(".", 1)[0], "not-a-jws", id="two parts"),
    pytest.param(lambda w: good(w) + ".e30", "not-a-jws", id="four parts"),
    pytest.param(lambda w: good(w) + "=", "not-a-jws", id="padding"),
    pytest.param(lambda w: good(w) + "\n", "not-a-jws", id="line end"),
    pytest.param(lambda w: "ü" + good(w), "not-a-jws", id="not ASCII"),
    pytest.param(lambda _: "", "not-a-jws", id="empty"),
    pytest.param(with_trailing_bits, "not-a-jws", id="spare bits in base64"),
    pytest.param(lambda w: good(w, pad="x" * 9000), "too-long", id="huge"),
    pytest.param(lambda w: forge(header_of(w), b"[" * 3000, own_key(w)), "bad-json", id="deep nesting"),
    pytest.param(lambda w: forge(header_of(w), b"[]", own_key(w)), "bad-json", id="claims a list"),
    pytest.param(lambda w: forge(header_of(w), b'{"iss":"\xff"}', own_key(w)), "bad-json", id="not UTF-8"),
    pytest.param(raw_claims('{"iss":"ID","iss":"other"}'), "bad-json", id="duplicate claim"),
    pytest.param(raw_claims('{"iss":"ID","a":{"b":1,"b":2}}'), "bad-json", id="duplicate member inside"),
    pytest.param(raw_claims('{"iss":"ID","exp":NaN}'), "bad-json", id="exp NaN"),
    pytest.param(
        raw_claims('{"iss":"ID","sub":"ID","aud":"https://bridge.example/token","exp":1e999}'),
        "bad-exp",
        id="exp infinite",
    ),
    pytest.param(
        lambda w: forge(b'{"alg":"ES384","alg":"none","kid":"k"}', claims_of(w), own_key(w)),
        "bad-json",
        id="duplicate header",
    ),
    signed("expired", "expired", exp=NOW - 1),
    signed("expired", "expires this instant", exp=NOW),
    signed("expired", "exp missing", exp=None),
    signed("bad-exp", "exp a string", exp=str(NOW + 200)),
    signed("bad-exp", "exp true", exp=True),
    signed("bad-exp", "exp in milliseconds", exp=(NOW + 200) * 1000),
    signed("lives-too-long", "lives an hour", exp=NOW + 3600),
    signed("not-yet-valid", "nbf ahead", nbf=NOW + 120),
    signed("not-yet-valid", "iat ahead", iat=NOW + 120),
    signed("bad-iat", "iat a string", iat="now"),
    signed("wrong-audience", "audience of another server", aud="https://other.example/token"),
    signed("wrong-audience", "audience the base URL", aud=BASE),
    signed("wrong-audience", "audience with a slash more", aud=f"{BASE}/token/"),
    signed("wrong-audience", "two audiences", aud=[f"{BASE}/token", "https://other.example/token"]),
    signed("wrong-audience", "no audience", aud=None),
    signed("bad-jti", "no jti", jti=None),
    signed("bad-jti", "jti a number", jti=1),
    signed("bad-iss", "iss missing", iss=None),
    signed("bad-iss", "iss a list", iss=["a"]),
    signed("iss-is-not-sub", "sub another client", sub="someone-else"),
    signed("unknown-client", "unknown client", iss="nobody", sub="nobody"),
]


@pytest.mark.parametrize(("attack", "reason"), ATTACKS)
async def test_an_attack_on_the_assertion_is_refused(world: World, attack: Attack, reason: str) -> None:
    with pytest.raises(OAuthRefused) as refused:
        await world.server.token(world.form(attack(world)))
    assert (refused.value.error, refused.value.status) == ("invalid_client", 401)
    assert reason_of(refused.value) == reason
    assert not world.replays.noted


async def test_the_unattacked_assertion_is_granted(world: World) -> None:
    """Guards the table above: its attacks fail for what was changed, not for what they share."""
    assert await world.server.token(world.form(good(world)))


async def test_an_assertion_is_good_once(world: World) -> None:
    form = world.form(good(world))
    await world.server.token(form)
    with pytest.raises(OAuthRefused, match="invalid_client"):
        await world.server.token(form)


async def test_of_many_concurrent_uses_one_is_granted(world: World) -> None:
    form = world.form(good(world))
    answers = await asyncio.gather(*(world.server.token(form) for _ in range(20)), return_exceptions=True)
    assert [type(answer) for answer in answers].count(dict) == 1


async def test_two_clients_may_choose_the_same_jti(world: World) -> None:
    for credentials in (world.northgate, world.harbor):
        assert await world.server.token(world.form(world.assertion(credentials, jti="same")))


async def test_a_revoked_client_gets_no_token(world: World) -> None:
    world.change(world.northgate, is_active=False)
    with pytest.raises(OAuthRefused) as refused:
        await world.token(world.northgate)
    assert reason_of(refused.value) == "revoked-client"


async def test_a_replaced_client_key_gets_no_token(world: World) -> None:
    world.change(world.northgate, keys=(ed25519_jwk(bytes(32), "new"),))
    with pytest.raises(OAuthRefused) as refused:
        await world.token(world.northgate)
    assert reason_of(refused.value) == "unknown-key"


@pytest.mark.parametrize("bits", [1024, 2047])
async def test_a_short_rsa_key_is_no_key(world: World, bits: int) -> None:
    private = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    world.change(world.northgate, keys=(rsa_jwk(private, "k"),))
    with pytest.raises(OAuthRefused) as refused:
        await world.server.token(
            world.form(forge(header_of(world, alg="RS384", kid="k"), claims_of(world), rs384(private)))
        )
    assert reason_of(refused.value) == "unknown-key"


async def test_a_symmetric_key_in_the_registry_is_no_key(world: World) -> None:
    world.change(world.northgate, keys=({"kty": "oct", "kid": "k", "k": b64(b"secret" * 8)},))
    forged = forge(header_of(world, alg="HS256", kid="k"), claims_of(world), hs256(b"secret" * 8))
    with pytest.raises(OAuthRefused) as refused:
        await world.server.token(world.form(forged))
    assert reason_of(refused.value) == "unknown-key"


async def test_an_encryption_key_does_not_sign(world: World) -> None:
    world.change(world.northgate, keys=({**ed25519_jwk(bytes(32), "k"), "use": "enc"},))
    forged = forge(header_of(world, alg="EdDSA", kid="k"), claims_of(world), eddsa(bytes(32)))
    with pytest.raises(OAuthRefused) as refused:
        await world.server.token(world.form(forged))
    assert reason_of(refused.value) == "unknown-key"


async def test_a_key_bound_to_one_algorithm_is_good_for_no_other(world: World) -> None:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    world.change(world.northgate, keys=({**rsa_jwk(private, "k"), "alg": "PS384"},))
    forged = forge(header_of(world, alg="RS384", kid="k"), claims_of(world), rs384(private))
    with pytest.raises(OAuthRefused) as refused:
        await world.server.token(world.form(forged))
    assert reason_of(refused.value) == "wrong-algorithm"


async def test_two_keys_under_one_kid_are_neither(world: World) -> None:
    keys = (ed25519_jwk(bytes(32), "k"), ed25519_jwk(bytes(range(32)), "k"))
    world.change(world.northgate, keys=keys)
    forged = forge(header_of(world, alg="EdDSA", kid="k"), claims_of(world), eddsa(bytes(32)))
    with pytest.raises(OAuthRefused) as refused:
        await world.server.token(world.form(forged))
    assert reason_of(refused.value) == "unknown-key"


async def test_a_client_id_field_must_be_the_assertions(world: World) -> None:
    with pytest.raises(OAuthRefused) as refused:
        await world.server.token(world.form(good(world), client_id=world.harbor["client_id"]))
    assert reason_of(refused.value) == "iss-is-not-sub"


# --- what it refuses: everything else in the form


@pytest.mark.parametrize("grant", ["", "password", "authorization_code", "refresh_token"])
async def test_other_grants_are_unsupported(world: World, grant: str) -> None:
    with pytest.raises(OAuthRefused) as refused:
        await world.server.token({**world.form(good(world)), "grant_type": grant})
    assert refused.value.error == "unsupported_grant_type"


async def test_a_client_secret_is_no_assertion(world: World) -> None:
    form = {"grant_type": "client_credentials", "client_id": world.northgate["client_id"], "client_secret": "x"}
    with pytest.raises(OAuthRefused) as refused:
        await world.server.token(form)
    assert refused.value.error == "invalid_request"


@pytest.mark.parametrize(
    ("allowed", "asked"),
    [
        ("system/*.rs", "system/*.cruds"),
        ("system/*.rs", "system/*.*"),
        ("system/*.rs", "system/Observation.c"),
        ("system/Patient.rs", "system/*.rs"),
        ("system/Patient.rs", "system/Observation.r"),
        ("system/*.cruds", "user/*.rs"),
        ("system/*.cruds", "patient/*.rs"),
        ("system/*.cruds", "system/*.rs openid"),
        ("system/*.cruds", "system/*.rs?category=x"),
        ("system/*.cruds", "system/*."),
        ("system/*.cruds", "system/*.sr"),
        ("system/*.cruds", "SYSTEM/*.rs"),
        ("system/*.cruds", " ".join(["system/*.rs"] * 65)),
    ],
)
async def test_a_scope_is_never_widened(world: World, allowed: str, asked: str) -> None:
    world.change(world.northgate, scopes=(allowed,))
    with pytest.raises(OAuthRefused) as refused:
        await world.server.token(world.form(good(world), scope=asked))
    assert (refused.value.error, refused.value.status) == ("invalid_scope", 400)


async def test_a_patient_asks_for_nothing_beyond_reading_and_consent(world: World) -> None:
    for scope in ("patient/Observation.c", "patient/Consent.d", "system/*.rs", "user/*.rs"):
        with pytest.raises(OAuthRefused, match="invalid_scope"):
            await world.token(world.patient, scope=scope)


@pytest.mark.parametrize("field", ["practitioner", "purpose", "role"])
async def test_a_patients_agent_makes_no_statement_about_staff(world: World, field: str) -> None:
    with pytest.raises(OAuthRefused, match="invalid_request"):
        await world.token(world.patient, **{field: "TREAT"})


@pytest.mark.parametrize(
    "extras",
    [
        {"practitioner": "Patient/1"},
        {"practitioner": "a b"},
        {"practitioner": "x" * 65},
        {"purpose": "treat"},
        {"purpose": "TREAT BTG"},
        {"role": "no-system"},
        {"role": " ".join(["s|c"] * 17)},
    ],
)
async def test_a_malformed_statement_is_refused(world: World, extras: dict[str, str]) -> None:
    with pytest.raises(OAuthRefused, match="invalid_request"):
        await world.server.token(world.form(good(world), **extras))


async def test_the_form_cannot_choose_an_institution(world: World) -> None:
    granted = await world.server.token(world.form(good(world), institution="harbor", patient="p9"))
    _, claims = parts_of(granted["access_token"])
    assert claims["institution"] == "northgate"
    assert "patient" not in claims


async def test_no_refusal_repeats_what_was_sent(world: World) -> None:
    canary = "Zzyzx-canary"
    forms = [
        world.form(good(world, iss=canary, sub=canary)),
        world.form(canary),
        world.form(good(world), scope=canary),
        world.form(good(world, jti="j-2"), practitioner=f"{canary} {canary}"),
        {"grant_type": canary},
    ]
    for form in forms:
        with pytest.raises(OAuthRefused) as refused:
            await world.server.token(form)
        assert canary not in f"{refused.value}{refused.value.description}"
