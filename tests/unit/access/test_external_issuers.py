"""Pinned issuers: whose word is taken, for which institution, and where keys come from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from fhir_bridge.adapters.access import Affiliation, ExternalIssuer, FileKeys, HttpKeys, TokenVerifier
from fhir_bridge.adapters.access.external import KeySource
from fhir_bridge.adapters.access.jose import TokenBroken
from fhir_bridge.errors import NotAuthenticated, SetupWrong, Unavailable
from fhir_bridge.lines.decided import owner_of
from fhir_bridge.model.access import Requester
from tests.support.access_world import BASE, START, World
from tests.support.forge import b64, ed25519_jwk, eddsa, forge, hs256, unsigned

ISSUER = "https://login.northgate.example/realms/staff"
KEYS_URL = "https://login.northgate.example/keys"
SEED, NEXT_SEED = bytes([7] * 32), bytes([8] * 32)
NOW = int(START.timestamp())
NORTHGATE = Affiliation("northgate", "org-n")


@dataclass
class Provider:
    """An identity provider's key endpoint that counts how often it is asked."""

    keys: list[dict[str, Any]] = field(default_factory=lambda: [ed25519_jwk(SEED, "a")])
    asked: int = 0
    answer: Callable[[], httpx.Response] | None = None

    def handle(self, request: httpx.Request) -> httpx.Response:
        assert str(request.url) == KEYS_URL
        self.asked += 1
        return self.answer() if self.answer else httpx.Response(200, json={"keys": self.keys})

    def source(self, **settings: int) -> HttpKeys:
        return HttpKeys(KEYS_URL, httpx.AsyncClient(transport=httpx.MockTransport(self.handle)), **settings)


def pin(world: World, keys: KeySource, **settings: Any) -> None:
    settings = {"institutions": {"": NORTHGATE}, **settings}
    external = ExternalIssuer(issuer=ISSUER, audience=BASE, keys=keys, **settings)
    world.verifier = TokenVerifier(world.endpoints, world.keys, world.registry, world.clock, [external])


def token(seed: bytes = SEED, header: dict[str, Any] | None = None, **changes: Any) -> str:
    claims = {
        "iss": ISSUER,
        "aud": BASE,
        "sub": "u-1",
        "azp": "ward-app",
        "iat": NOW,
        "exp": NOW + 600,
        "scope": "openid user/*.rs",
        "fhirUser": "https://fhir.northgate.example/Practitioner/dr-a",
        **changes,
    }
    kept = {name: value for name, value in claims.items() if value is not None}
    return forge({"alg": "EdDSA", "kid": "a", "typ": "at+jwt", **(header or {})}, kept, eddsa(seed))


async def reason_for(world: World, bearer: str) -> str:
    with pytest.raises(NotAuthenticated) as refused:
        await world.verifier.verify(bearer)
    assert isinstance(refused.value.__cause__, TokenBroken)
    return refused.value.__cause__.reason


async def test_a_pinned_issuers_token_establishes_its_institutions_clinician(world: World) -> None:
    pin(world, Provider().source(), role_system="urn:northgate:roles")
    who = await world.verifier.verify(token(roles=["doctor", "urn:x|chief"], aud=["account", BASE]))
    assert who == Requester(
        client_id="ward-app",
        institution="northgate",
        institution_id="org-n",
        practitioner="dr-a",
        roles=("urn:northgate:roles|doctor", "urn:x|chief"),
        purpose="TREAT",
        scopes=("user/*.rs",),
        subject="u-1",
    )


async def test_people_of_one_client_are_not_taken_for_each_other(world: World) -> None:
    """One web app signs everybody in: who has no Practitioner is told apart by the issuer's own name for them."""
    pin(world, Provider().source())
    nobody: dict[str, Any] = {"fhirUser": None, "roles": ["urn:x|nurse"]}
    first, other = [await world.verifier.verify(token(sub=name, **nobody)) for name in ("u-1", "u-2")]
    assert first.practitioner is None
    assert first.client_id == other.client_id == "ward-app"
    assert owner_of(first) != owner_of(other)
    assert owner_of(first) == owner_of(await world.verifier.verify(token(sub="u-1", **nobody)))


async def test_an_issuer_of_several_institutions_speaks_for_those_alone(world: World) -> None:
    pin(world, Provider().source(), institution_claim="org", institutions={"ng": NORTHGATE})
    assert (await world.verifier.verify(token(org="ng"))).institution == "northgate"
    assert await reason_for(world, token(org="harbor")) == "unknown-institution"
    assert await reason_for(world, token()) == "bad-org"


@pytest.mark.parametrize(
    ("bearer", "reason"),
    [
        pytest.param(token(NEXT_SEED), "wrong-signature", id="other key"),
        pytest.param(token(header={"kid": "b"}), "unknown-key", id="unknown kid"),
        pytest.param(token(header={"typ": "JWT"}), "wrong-type", id="ID token"),
        pytest.param(token(header={"jku": KEYS_URL}), "refused-header", id="jku, even the pinned one"),
        pytest.param(token(header={"alg": "HS256"}), "wrong-algorithm", id="HS256"),
        pytest.param(token(iss="https://evil.example"), "unknown-issuer", id="issuer not pinned"),
        pytest.param(token(iss=ISSUER + "/"), "unknown-issuer", id="issuer almost"),
        pytest.param(token(iss=BASE, client_id="x"), "unknown-key", id="in our own name"),
        pytest.param(token(aud="https://other.example"), "wrong-audience", id="other audience"),
        pytest.param(token(aud=None), "wrong-audience", id="no audience"),
        pytest.param(token(aud={BASE: 1}), "wrong-audience", id="audience an object"),
        pytest.param(token(exp=NOW), "expired", id="expired"),
        pytest.param(token(exp=None), "expired", id="no exp"),
        pytest.param(token(exp=NOW + 3601), "lives-too-long", id="lives too long"),
        pytest.param(token(iat=None), "not-yet-valid", id="no iat"),
        pytest.param(token(iat=NOW + 60), "not-yet-valid", id="issued ahead"),
        pytest.param(token(nbf=NOW + 60), "not-yet-valid", id="nbf ahead"),
        pytest.param(token(scope=None), "bad-scope", id="no scope"),
        pytest.param(token(patient="p123"), "patient-by-external-issuer", id="claims a patient"),
        pytest.param(token(purpose_of_use="anything at all"), "bad-purpose", id="purpose no code"),
        pytest.param(token(roles="doctor"), "bad-roles", id="roles a string"),
        pytest.param(token(fhirUser=7), "bad-fhirUser", id="fhirUser a number"),
    ],
)
async def test_a_false_external_token_is_refused(world: World, bearer: str, reason: str) -> None:
    pin(world, Provider().source())
    assert await reason_for(world, bearer) == reason


async def test_unsigned_and_symmetric_tokens_are_refused_whatever_the_key_set_holds(world: World) -> None:
    secret = b"s" * 32
    pin(world, Provider(keys=[{"kty": "oct", "kid": "a", "k": b64(secret)}, ed25519_jwk(SEED, "b")]).source())
    header = {"alg": "HS256", "kid": "a", "typ": "at+jwt"}
    claims = {"iss": ISSUER, "aud": BASE, "sub": "u", "iat": NOW, "exp": NOW + 60, "scope": "user/*.rs"}
    assert await reason_for(world, forge(header, claims, hs256(secret))) == "unknown-key"
    assert await reason_for(world, forge({**header, "alg": "none"}, claims, unsigned)) == "not-a-jws"


async def test_foreign_scopes_grant_nothing(world: World) -> None:
    pin(world, Provider().source())
    who = await world.verifier.verify(token(scope="openid fhirUser launch/patient offline_access admin"))
    assert who.scopes == ()


async def test_where_access_tokens_are_typed_jwt_an_id_token_fails_the_required_claim(world: World) -> None:
    pin(world, Provider().source(), token_types=frozenset({"jwt"}), required_claims={"typ": "Bearer"})
    assert await world.verifier.verify(token(header={"typ": "JWT"}, typ="Bearer"))
    assert await reason_for(world, token(header={"typ": "JWT"}, typ="ID")) == "not-an-access-token"
    assert await reason_for(world, token(header={"typ": "JWT"})) == "not-an-access-token"


@pytest.mark.parametrize(
    "settings",
    [
        {"token_types": frozenset({"jwt"})},
        {"algorithms": frozenset({"HS256"})},
        {"algorithms": frozenset({"none"})},
        {"institutions": {"a": NORTHGATE}},
        {"institutions": {}},
    ],
)
def test_a_loose_pin_is_refused_at_start(settings: dict[str, Any]) -> None:
    with pytest.raises(SetupWrong):
        ExternalIssuer(**{"issuer": ISSUER, "audience": BASE, "keys": Provider().source(),
                          "institutions": {"": NORTHGATE}, **settings})  # fmt: skip


def test_nobody_is_pinned_in_our_own_name(world: World) -> None:
    external = ExternalIssuer(issuer=BASE, audience=BASE, keys=Provider().source(), institutions={"": NORTHGATE})
    with pytest.raises(ValueError, match="pinned once"):
        TokenVerifier(world.endpoints, world.keys, world.registry, world.clock, [external])


# --- where keys come from


def test_keys_are_not_fetched_in_the_clear() -> None:
    with pytest.raises(SetupWrong):
        HttpKeys("http://login.example/keys", httpx.AsyncClient())


async def test_a_flood_of_unknown_kids_makes_one_fetch(world: World) -> None:
    provider = Provider()
    pin(world, provider.source(min_refresh_s=60))
    bearers = [token(header={"kid": f"k{n}"}) for n in range(50)]
    await asyncio.gather(*(world.verifier.verify(bearer) for bearer in bearers), return_exceptions=True)
    assert provider.asked == 1
    world.clock.advance(61)
    await asyncio.gather(*(world.verifier.verify(bearer) for bearer in bearers), return_exceptions=True)
    assert provider.asked == 2


async def test_a_rotated_key_is_found_and_the_old_one_forgotten(world: World) -> None:
    provider = Provider()
    pin(world, provider.source(min_refresh_s=60))
    assert await world.verifier.verify(token())
    provider.keys = [ed25519_jwk(NEXT_SEED, "b")]
    world.clock.advance(61)
    assert await world.verifier.verify(token(NEXT_SEED, header={"kid": "b"}))
    assert await reason_for(world, token()) == "unknown-key"


async def test_known_keys_serve_on_while_the_issuer_is_away_but_not_forever(world: World) -> None:
    provider = Provider()
    pin(world, provider.source(max_age_s=3600))
    assert await world.verifier.verify(token())
    provider.answer = lambda: httpx.Response(503)
    world.clock.advance(5400)
    assert await world.verifier.verify(token(iat=NOW + 5400, exp=NOW + 5700))
    world.clock.advance(3600)
    with pytest.raises(Unavailable):
        await world.verifier.verify(token(iat=NOW + 9000, exp=NOW + 9300))


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(302, headers={"location": "https://evil.example/keys"}),
        httpx.Response(500, json={"keys": [ed25519_jwk(SEED, "a")]}),
        httpx.Response(200, content=b"not json"),
        httpx.Response(200, content=b"[]"),
        httpx.Response(200, json={"keys": [1]}),
        httpx.Response(200, content=b'{"keys":[' + b" " * 300_000 + b"]}"),
    ],
    ids=["redirect", "an error with keys", "no json", "a list", "keys of numbers", "too long"],
)
async def test_a_bad_key_set_is_no_key_set(answer: httpx.Response) -> None:
    with pytest.raises(Unavailable):
        await Provider(answer=lambda: answer).source().keys("a", START)


async def test_a_key_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [ed25519_jwk(SEED, "a")]}))
    source = FileKeys(path)
    assert [key.kid for key in await source.keys("a", START)] == ["a"]
    path.write_text(json.dumps({"keys": [ed25519_jwk(SEED, "a"), ed25519_jwk(NEXT_SEED, "b")]}))
    assert [key.kid for key in await source.keys("b", START + timedelta(seconds=1))] == ["a", "b"]
    path.unlink()
    with pytest.raises(Unavailable):
        await source.keys("a", START)
