"""Access tokens of our own issuer: who they establish, and how a false one is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fhir_bridge.adapters.access import IssuerKeys, TokenVerifier
from fhir_bridge.adapters.access.jose import TokenBroken
from fhir_bridge.errors import NotAuthenticated
from fhir_bridge.model.access import Requester
from tests.support.access_world import BASE, ISSUER_SEED, START, World
from tests.support.forge import ed25519_jwk, eddsa, es384, forge, hs256, parts_of, unb64, unsigned

NOW = int(START.timestamp())
OTHER_SEED = bytes(range(32, 64))
issuer_key = eddsa(ISSUER_SEED)


def header_of(world: World, **changes: Any) -> dict[str, Any]:
    header = {"alg": "EdDSA", "kid": world.keys.public[0]["kid"], "typ": "at+jwt", **changes}
    return {name: value for name, value in header.items() if value is not None}


def claims_of(world: World, **changes: Any) -> dict[str, Any]:
    client_id = world.northgate["client_id"]
    claims = {
        "iss": BASE,
        "aud": BASE,
        "sub": client_id,
        "client_id": client_id,
        "iat": NOW,
        "exp": NOW + 300,
        "jti": "t-1",
        "scope": "system/*.rs",
        "institution": "northgate",
        "institution_id": "org-n",
        "purpose_of_use": "TREAT",
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


def minted(world: World, **claims: Any) -> str:
    """A token as our own issuer would sign it: only a stolen key or a bug could make these."""
    return forge(header_of(world), claims_of(world, **claims), issuer_key)


async def reason_for(world: World, bearer: str) -> str:
    with pytest.raises(NotAuthenticated) as refused:
        await world.verifier.verify(bearer)
    assert str(refused.value) == "the access token does not hold up"
    assert isinstance(refused.value.__cause__, TokenBroken)
    return refused.value.__cause__.reason


# --- who it establishes


async def test_a_granted_token_establishes_the_institution_and_its_clinician(world: World) -> None:
    token = await world.token(
        world.northgate, practitioner="dr-a", purpose="ETREAT", role="urn:x|doctor", scope="system/*.rs"
    )
    assert await world.verifier.verify(token) == Requester(
        client_id=world.northgate["client_id"],
        institution="northgate",
        institution_id="org-n",
        practitioner="dr-a",
        roles=("urn:x|doctor",),
        purpose="ETREAT",
        scopes=("system/*.rs",),
    )


async def test_a_granted_token_establishes_the_patient(world: World) -> None:
    who = await world.verifier.verify(await world.token(world.patient))
    assert (who.patient, who.institution, who.institution_id, who.practitioner) == ("p123", None, None, None)
    assert (who.purpose, who.scopes) == ("PATRQT", ("patient/*.rs", "patient/Consent.cu"))


async def test_a_hand_made_token_with_all_claims_in_order_is_taken(world: World) -> None:
    """Guards the table below: its attacks fail for what was changed, not for what they share."""
    assert (await world.verifier.verify(minted(world))).institution == "northgate"


async def test_a_token_lasts_five_minutes(world: World) -> None:
    token = await world.token(world.northgate)
    world.clock.advance(299)
    assert await world.verifier.verify(token)
    world.clock.advance(1)
    assert await reason_for(world, token) == "expired"


# --- how a false one is refused


def changed_payload(world: World) -> str:
    head, _, signature = minted(world).split(".")
    return f"{head}.{minted(world, scope='system/*.cruds').split('.')[1]}.{signature}"


def secret_from_public_key(world: World) -> str:
    public = unb64(str(world.keys.public[0]["x"]))
    return forge(header_of(world, alg="HS256"), claims_of(world), hs256(public))


def id_token(world: World) -> str:
    """What an OpenID Connect provider signs with the same key about the same subject."""
    claims = {"iss": BASE, "aud": world.northgate["client_id"], "sub": "dr-a", "iat": NOW, "exp": NOW + 300}
    return forge(header_of(world, typ="JWT"), claims, issuer_key)


def minting(reason: str, name: str, /, **claims: Any) -> Any:
    return pytest.param(lambda world: minted(world, **claims), reason, id=name)


def heading(reason: str, name: str, /, **header: Any) -> Any:
    return pytest.param(lambda w: forge(header_of(w, **header), claims_of(w), issuer_key), reason, id=name)


ATTACKS = [
    heading("wrong-algorithm", "alg none, signed", alg="none"),
    pytest.param(lambda w: forge(header_of(w, alg="none"), claims_of(w), unsigned), "not-a-jws", id="alg none"),
    pytest.param(secret_from_public_key, "wrong-algorithm", id="HS256 with the public key as secret"),
    heading("wrong-algorithm", "alg ES256", alg="ES256"),
    heading("unknown-key", "kid unknown", kid="other"),
    heading("bad-header", "kid missing", kid=None),
    heading("wrong-type", "typ missing", typ=None),
    heading("wrong-type", "typ JWT", typ="JWT"),
    heading("wrong-type", "typ logout", typ="logout+jwt"),
    heading("refused-header", "crit", crit=["b64"]),
    heading("refused-header", "jku", jku=f"{BASE}/.well-known/jwks.json"),
    pytest.param(
        lambda w: forge(
            header_of(w, jwk=ed25519_jwk(OTHER_SEED, "evil"), kid="evil"), claims_of(w), eddsa(OTHER_SEED)
        ),
        "refused-header",
        id="embedded jwk",
    ),
    pytest.param(lambda w: forge(header_of(w), claims_of(w), eddsa(OTHER_SEED)), "wrong-signature", id="other key"),
    pytest.param(
        lambda w: forge(
            header_of(w, alg="ES384", kid=w.northgate["private_jwk"]["kid"]),
            claims_of(w),
            es384(w.northgate["private_jwk"]),
        ),
        "unknown-key",
        id="minted by a client with its own key",
    ),
    pytest.param(changed_payload, "wrong-signature", id="modified payload"),
    pytest.param(lambda w: minted(w)[:-6], "wrong-signature", id="truncated"),
    pytest.param(lambda w: minted(w, pad="x" * 9000), "too-long", id="huge"),
    pytest.param(lambda _: "", "not-a-jws", id="empty"),
    pytest.param(lambda _: "null", "not-a-jws", id="not a token"),
    pytest.param(lambda w: w.assertion(w.northgate), "unknown-issuer", id="a client assertion as access token"),
    pytest.param(
        lambda w: forge(header_of(w, typ="JWT"), claims_of(w), issuer_key),
        "wrong-type",
        id="an assertion in our name",
    ),
    pytest.param(id_token, "wrong-type", id="an ID token as access token"),
    minting("unknown-issuer", "other issuer", iss="https://other.example"),
    minting("unknown-issuer", "issuer with a slash more", iss=BASE + "/"),
    minting("bad-iss", "no issuer", iss=None),
    minting("wrong-audience", "other audience", aud="https://other.example"),
    minting("wrong-audience", "audience a list", aud=[BASE, "https://other.example"]),
    minting("wrong-audience", "no audience", aud=None),
    minting("expired", "expired", iat=NOW - 400, exp=NOW - 100),
    minting("expired", "no exp", exp=None),
    minting("bad-exp", "exp a string", exp=str(NOW + 300)),
    minting("bad-exp", "exp null in a list", exp=[NOW]),
    minting("lives-too-long", "far-future exp", exp=NOW + 86_400),
    minting("not-yet-valid", "issued in the future", iat=NOW + 120, exp=NOW + 300),
    minting("not-yet-valid", "nbf ahead", nbf=NOW + 120),
    minting("not-yet-valid", "no iat", iat=None),
    minting("unknown-client", "client unknown", client_id="nobody", sub="nobody"),
    minting("unknown-client", "sub is not the client", sub="nobody"),
    minting("bad-client_id", "no client", client_id=None),
    minting("other-registration", "another institution", institution="harbor", institution_id="org-h"),
    minting("other-registration", "another institution's id", institution_id="org-h"),
    minting("other-registration", "institution and patient", patient="p123"),
    minting("other-registration", "neither", institution=None, institution_id=None),
    minting("bad-purpose_of_use", "no purpose", purpose_of_use=None),
    minting("bad-scope", "no scope", scope=None),
    minting("bad-fhirUser", "fhirUser a list", fhirUser=["Practitioner/a"]),
    minting("bad-roles", "roles a string", roles="urn:x|doctor"),
    pytest.param(
        lambda w: forge(header_of(w), b'{"iss":"https://bridge.example","aud":"a","aud":"b"}', issuer_key),
        "bad-json",
        id="duplicate claim",
    ),
]


@pytest.mark.parametrize(("attack", "reason"), ATTACKS)
async def test_an_attack_on_the_access_token_is_refused(
    world: World, attack: Callable[[World], str], reason: str
) -> None:
    assert await reason_for(world, attack(world)) == reason


@pytest.mark.parametrize(
    "claim", [{"institution": "northgate", "institution_id": "org-n"}, {"roles": ["urn:x|doctor"]}]
)
async def test_a_patients_token_cannot_claim_an_institution_or_role(world: World, claim: dict[str, Any]) -> None:
    client_id = world.patient["client_id"]
    stated = {"institution": None, "institution_id": None, "patient": "p123", **claim}
    token = minted(world, client_id=client_id, sub=client_id, **stated)
    assert await reason_for(world, token) == "other-registration"


async def test_a_patients_token_cannot_name_another_patient(world: World) -> None:
    client_id = world.patient["client_id"]
    token = minted(world, client_id=client_id, sub=client_id, institution=None, institution_id=None, patient="p999")
    assert await reason_for(world, token) == "other-registration"


async def test_revocation_stops_a_token_that_was_issued_before(world: World) -> None:
    token = await world.token(world.northgate)
    world.change(world.northgate, is_active=False)
    assert await reason_for(world, token) == "revoked-client"


async def test_replacing_a_leaked_client_key_stops_its_tokens(world: World) -> None:
    token = await world.token(world.northgate)
    world.change(world.northgate, tokens_after_s=NOW)
    assert await reason_for(world, token) == "revoked-client"
    world.clock.advance(1)
    assert await world.verifier.verify(await world.token(world.northgate))


@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        (lambda world: world.clock.advance(301), "expired"),
        (lambda world: world.clock.advance(-60), "not-yet-valid"),
        (lambda world: world.change(world.northgate, is_active=False), "revoked-client"),
        (lambda world: world.change(world.northgate, tokens_after_s=NOW), "revoked-client"),
        (lambda world: world.change(world.northgate, institution="harbor"), "other-registration"),
        (lambda world: world.registry.clients.clear(), "unknown-client"),
    ],
)
async def test_a_token_that_held_before_holds_no_longer_than_time_and_registry_let_it(
    world: World, happens: Callable[[World], None], reason: str
) -> None:
    token = await world.token(world.northgate)
    who = await world.verifier.verify(token)
    assert await world.verifier.verify(token) == who
    happens(world)
    assert await reason_for(world, token) == reason


async def test_what_is_remembered_of_a_token_helps_no_other_one(world: World) -> None:
    token = await world.token(world.northgate)
    assert await world.verifier.verify(token)
    head, claims, signature = token.split(".")
    for other in (f"{head}.{claims}.{signature[:-4]}AAAA", f"{head}.{claims}.", f"{head}.{claims}", claims, ""):
        assert await reason_for(world, other) in ("wrong-signature", "not-a-jws")
    with pytest.raises(NotAuthenticated):
        await world.verifier.verify(f"{token[:-1]}\udc80")


async def test_only_so_many_tokens_are_remembered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fhir_bridge.adapters.access.verifier._MAX_REMEMBERED", 3)
    tokens = [minted(world, jti=f"t-{number}") for number in range(8)]
    for token in tokens * 2:
        assert (await world.verifier.verify(token)).institution == "northgate"
    assert len(world.verifier._signed) == 3
    assert not any(token.encode() in repr(world.verifier._signed).encode() for token in tokens)


async def test_a_deleted_client_is_nobody(world: World) -> None:
    token = await world.token(world.northgate)
    del world.registry.clients[world.northgate["client_id"]]
    assert await reason_for(world, token) == "unknown-client"


async def test_after_the_issuers_key_changed_old_tokens_hold_only_while_the_old_key_is_named(world: World) -> None:
    token = await world.token(world.northgate)
    overlapping = IssuerKeys(OTHER_SEED, previous=[ISSUER_SEED])
    world.verifier = TokenVerifier(world.endpoints, overlapping, world.registry, world.clock)
    assert await world.verifier.verify(token)
    world.verifier = TokenVerifier(world.endpoints, IssuerKeys(OTHER_SEED), world.registry, world.clock)
    assert await reason_for(world, token) == "unknown-key"


def test_no_repr_shows_a_key(world: World) -> None:
    private = world.northgate["private_jwk"]["d"]
    shown = f"{world.keys!r}{world.client(world.northgate)!r}{world.server!r}"
    assert private not in shown
    assert ISSUER_SEED.hex() not in shown


def test_a_token_header_is_what_rfc_9068_asks(world: World) -> None:
    header, _ = parts_of(minted(world))
    assert header["typ"] == "at+jwt"
