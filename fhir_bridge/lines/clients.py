"""Registered clients, kept as sealed documents of the vault and looked up in memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from fhir_bridge.lines.registry import OPERATOR
from fhir_bridge.model.clients import Client, decode_client, encode_client
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.keys import KeyKind, KeyName, KeyStore
from fhir_bridge.ports.vault import Document, Vault, Work
from fhir_bridge.seal import open_blob, seal_blob

_COLLECTION = "clients"


class Clients:
    """Keeps :class:`fhir_bridge.ports.clients.ClientRegistry`; a change counts at once."""

    def __init__(self, vault: Vault, keys: KeyStore, randomness: Randomness) -> None:
        self._vault = vault
        self._keys = keys
        self._randomness = randomness
        self._known: dict[str, Client] = {}

    async def load(self) -> None:
        """Read all clients; called once at start."""
        for client_id, value in await self._vault.documents(_COLLECTION):
            self._known[client_id] = decode_client(open_blob(self._key(), _COLLECTION, client_id, value))

    async def find(self, client_id: str) -> Client | None:
        """Return a client, active or not, or None."""
        return self._known.get(client_id)

    def still_acts(self, client_id: str, since: datetime, now: datetime) -> bool:
        """Tell that nothing has ended a client since it was let in; one that is registered elsewhere is not known."""
        client = self._known.get(client_id)
        if client is None:
            return True
        return client.may_act(now.timestamp()) and client.tokens_after_s < int(since.timestamp())

    async def add(self, client: Client) -> None:
        """Store a client, or replace the one of the same id; durable on return."""
        sealed = seal_blob(self._key(), _COLLECTION, client.client_id, encode_client(client), self._randomness)
        await self._vault.commit(Work(documents=[Document(_COLLECTION, client.client_id, sealed)]), None)
        self._known[client.client_id] = client

    def delegates(self, patient: str) -> list[Client]:
        """Return whom a patient named to act in an own name, past ones included."""
        found = [each for each in self._known.values() if each.patient == patient and each.delegate is not None]
        return [each for each in found if each.attested_by is None]

    def guardians(self, patient: str) -> list[Client]:
        """Return whom an institution attested as a patient's guardians, past ones included."""
        return [each for each in self._known.values() if each.patient == patient and each.attested_by is not None]

    def guardian(self, guardian: str) -> Client | None:
        """Return the client of an attested guardian, acting or not, or None."""
        found = (each for each in self._known.values() if each.attested_by is not None and each.delegate == guardian)
        return next(found, None)

    async def retire_agents(self, patient: str, *, keeping: str) -> None:
        """Refuse every other client of a patient from now on, tokens they hold included."""
        for client in list(self._known.values()):
            if client.patient == patient and client.client_id != keeping and client.is_active:
                await self.add(replace(client, is_active=False))

    def _key(self) -> bytes:
        name = KeyName(KeyKind.INSTITUTION, OPERATOR)
        return self._keys.ensure([name])[name]
