"""A small world for sign-in tests: a fixed clock, a registry in a dict, an authorization server and its verifier."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fhir_bridge.adapters.access import (
    AuthorizationServer,
    Endpoints,
    IssuerKeys,
    TokenVerifier,
    client_assertion,
    make_institution_credentials,
    make_patient_credentials,
)
from fhir_bridge.adapters.access.issuer import ASSERTION_TYPE
from fhir_bridge.model.clients import Client

BASE = "https://bridge.example"
ISSUER_SEED = bytes(range(32))
START = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


@dataclass
class FixedClock:
    """Stands still until told to advance."""

    instant: datetime = START

    def now(self) -> datetime:
        return self.instant

    def advance(self, seconds: float) -> None:
        self.instant += timedelta(seconds=seconds)


class CountingRandomness:
    """Bytes that differ on every call and are the same on every run."""

    def __init__(self) -> None:
        self._count = 0

    def token(self, length: int) -> bytes:
        self._count += 1
        return self._count.to_bytes(length, "big")


class DictRegistry:
    """Clients in a dict."""

    def __init__(self) -> None:
        self.clients: dict[str, Client] = {}

    def add(self, client: Client) -> None:
        self.clients[client.client_id] = client

    async def find(self, client_id: str) -> Client | None:
        return self.clients.get(client_id)


class SetReplays:
    """Used assertions in a set."""

    def __init__(self) -> None:
        self.noted: dict[str, int] = {}

    async def seen(self, token: str, expires_at_s: int) -> bool:
        if token in self.noted:
            return True
        self.noted[token] = expires_at_s
        return False


@dataclass
class World:
    """Everything a sign-in test needs; northgate and harbor are registered, and one patient's agent."""

    clock: FixedClock = field(default_factory=FixedClock)
    registry: DictRegistry = field(default_factory=DictRegistry)
    replays: SetReplays = field(default_factory=SetReplays)
    randomness: CountingRandomness = field(default_factory=CountingRandomness)
    endpoints: Endpoints = field(default_factory=lambda: Endpoints.under(BASE))
    keys: IssuerKeys = field(default_factory=lambda: IssuerKeys(ISSUER_SEED))

    def __post_init__(self) -> None:
        url = self.endpoints.token_url
        make = make_institution_credentials
        northgate, self.northgate = make("northgate", "org-n", token_url=url, randomness=self.randomness)
        harbor, self.harbor = make("harbor", "org-h", token_url=url, randomness=self.randomness)
        patient, self.patient = make_patient_credentials("p123", token_url=url, randomness=self.randomness)
        for client in (northgate, harbor, patient):
            self.registry.add(client)
        self.server = AuthorizationServer(
            self.endpoints, self.keys, self.registry, self.replays, self.clock, self.randomness
        )
        self.verifier = TokenVerifier(self.endpoints, self.keys, self.registry, self.clock)

    def client(self, credentials: dict[str, Any]) -> Client:
        return self.registry.clients[credentials["client_id"]]

    def change(self, credentials: dict[str, Any], **changes: Any) -> None:
        self.registry.add(replace(self.client(credentials), **changes))

    def assertion(self, credentials: dict[str, Any], jti: str | None = None) -> str:
        return client_assertion(credentials, self.clock.now(), jti or self.randomness.token(8).hex())

    def form(self, assertion: str, **extras: str) -> dict[str, str]:
        return {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": assertion,
            **extras,
        }

    async def token(self, credentials: dict[str, Any], **extras: str) -> str:
        granted = await self.server.token(self.form(self.assertion(credentials), **extras))
        return str(granted["access_token"])
