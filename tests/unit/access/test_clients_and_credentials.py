"""Clients at rest, credentials in use, and used assertions that survive a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import parse_qsl

import httpx
import pytest

from fhir_bridge.adapters.access import VaultReplayStore, client_assertion, request_token, request_token_async
from fhir_bridge.errors import IntegrityBroken, NotAuthenticated, SetupWrong, Unavailable
from fhir_bridge.model.clients import Client, ClientKind, decode_client, encode_client
from fhir_bridge.ports.access import OAuthRefused
from fhir_bridge.ports.vault import Vault, Work
from tests.support.access_world import START, FixedClock, World
from tests.support.forge import parts_of

NOW = int(START.timestamp())


def test_a_client_survives_storage(world: World) -> None:
    for client in world.registry.clients.values():
        assert decode_client(encode_client(client)) == client


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"kind":"king"}', b"\xff"])
def test_a_damaged_client_is_no_client(value: bytes) -> None:
    with pytest.raises(IntegrityBroken):
        decode_client(value)


@pytest.mark.parametrize(
    ("kind", "who"),
    [
        (ClientKind.INSTITUTION, {}),
        (ClientKind.INSTITUTION, {"institution": "n", "institution_id": "o", "patient": "p"}),
        (ClientKind.INSTITUTION, {"institution": "n"}),
        (ClientKind.PATIENT, {}),
        (ClientKind.PATIENT, {"patient": "p", "institution": "n", "institution_id": "o"}),
        (ClientKind.PATIENT, {"patient": "p", "institution_id": "o"}),
    ],
)
def test_a_client_acts_for_exactly_one(kind: ClientKind, who: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="client"):
        Client(client_id="c", kind=kind, keys=(), scopes=(), **who)  # type: ignore[arg-type]


def test_a_patients_client_id_does_not_name_the_patient(world: World) -> None:
    assert "p123" not in world.patient["client_id"]


def test_an_assertion_says_what_smart_asks(world: World) -> None:
    header, claims = parts_of(client_assertion(world.northgate, START, "j-1"))
    assert header == {"alg": "ES384", "kid": world.northgate["private_jwk"]["kid"], "typ": "JWT"}
    client_id = world.northgate["client_id"]
    assert claims["iss"] == claims["sub"] == client_id
    assert claims["aud"] == world.endpoints.token_url
    assert NOW < claims["exp"] <= NOW + 300
    assert claims["jti"] == "j-1"


@pytest.mark.parametrize("missing", ["client_id", "private_jwk", "token_url"])
def test_incomplete_credentials_are_a_setup_error(world: World, missing: str) -> None:
    incomplete = {name: value for name, value in world.northgate.items() if name != missing}
    with pytest.raises(SetupWrong):
        client_assertion(incomplete, START, "j")


# --- asking for a token over HTTP


def endpoint(world: World) -> httpx.MockTransport:
    async def answer(request: httpx.Request) -> httpx.Response:
        assert str(request.url) == world.endpoints.token_url
        assert request.headers["content-type"] == "application/x-www-form-urlencoded"
        try:
            return httpx.Response(200, json=await world.server.token(dict(parse_qsl(request.content.decode()))))
        except OAuthRefused as no:
            return httpx.Response(no.status, json={"error": no.error, "error_description": no.description})

    return httpx.MockTransport(answer)


async def test_a_client_gets_a_token_that_verifies(world: World) -> None:
    async with httpx.AsyncClient(transport=endpoint(world)) as http:
        token = await request_token_async(http, world.northgate, START, world.randomness, practitioner="dr-a")
    assert (await world.verifier.verify(token)).practitioner == "dr-a"


async def test_a_refusal_tells_its_code(world: World) -> None:
    async with httpx.AsyncClient(transport=endpoint(world)) as http:
        with pytest.raises(NotAuthenticated, match="invalid_scope"):
            await request_token_async(http, world.northgate, START, world.randomness, scope="patient/*.rs")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(503), Unavailable),
        (httpx.Response(429), Unavailable),
        (httpx.Response(200, json={}), NotAuthenticated),
        (httpx.Response(200, content=b"<html>"), NotAuthenticated),
        (httpx.Response(401, json=[]), NotAuthenticated),
    ],
)
def test_other_answers_are_told_apart(world: World, answer: httpx.Response, error: type[Exception]) -> None:
    with httpx.Client(transport=httpx.MockTransport(lambda _: answer)) as http, pytest.raises(error):
        request_token(http, world.northgate, START, world.randomness)


def test_a_dead_endpoint_is_worth_another_try(world: World) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with httpx.Client(transport=httpx.MockTransport(refuse)) as http, pytest.raises(Unavailable):
        request_token(http, world.northgate, START, world.randomness)


# --- used assertions


class DocumentVault:
    """The vault's documents in a dict; a commit takes a moment, as the real one does."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}
        self.is_failing = False

    async def commit(self, work: Work, anchor: Any) -> None:
        assert anchor is None
        await asyncio.sleep(0)
        if self.is_failing:
            raise Unavailable("disk full")
        for document in work.documents:
            if document.value is None:
                del self.rows[document.key]
            else:
                self.rows[document.key] = document.value

    async def documents(self, collection: str, prefix: str = "") -> Sequence[tuple[str, bytes]]:
        return sorted(self.rows.items())


def replays(rows: DocumentVault, clock: FixedClock) -> VaultReplayStore:
    return VaultReplayStore(cast(Vault, rows), clock)


async def test_of_many_concurrent_notes_one_is_the_first() -> None:
    store = replays(DocumentVault(), FixedClock())
    answers = await asyncio.gather(*(store.seen("t", NOW + 300) for _ in range(30)))
    assert sorted(answers) == [False] + [True] * 29


async def test_a_note_survives_a_restart() -> None:
    rows = DocumentVault()
    assert not await replays(rows, FixedClock()).seen("t", NOW + 300)
    assert await replays(rows, FixedClock()).seen("t", NOW + 300)


async def test_a_note_that_could_not_be_stored_was_not_made() -> None:
    rows = DocumentVault()
    store = replays(rows, FixedClock())
    rows.is_failing = True
    with pytest.raises(Unavailable):
        await store.seen("t", NOW + 300)
    rows.is_failing = False
    assert not await store.seen("t", NOW + 300)


async def test_expired_notes_are_swept_and_live_ones_kept() -> None:
    rows, clock = DocumentVault(), FixedClock()
    store = replays(rows, clock)
    await store.seen("old", NOW + 10)
    await store.seen("young", NOW + 300)
    clock.advance(60)
    await store.seen("new", NOW + 360)
    assert set(rows.rows) == {"young", "new"}
    assert await store.seen("young", NOW + 300)
