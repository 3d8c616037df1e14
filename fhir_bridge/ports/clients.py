"""What the authorization server needs remembered: registered clients, and assertions used once."""

from __future__ import annotations

from typing import Protocol

from fhir_bridge.model.clients import Client


class ClientRegistry(Protocol):
    """Clients by their id, always as the latest change left them: a revocation counts at once."""

    async def find(self, client_id: str) -> Client | None:
        """Return a client, active or not, or None.

        Raises:
            Unavailable: The registry did not answer; safe to retry.
        """
        ...


class ReplayStore(Protocol):
    """Remembers what was used once, until it would be refused for its age anyway."""

    async def seen(self, token: str, expires_at_s: int) -> bool:
        """Note ``token`` and tell whether it had been noted before.

        Atomic: of any number of concurrent calls with one token exactly one
        gets False. The note survives loss of power before False is returned.

        Raises:
            Unavailable: Nothing was noted; safe to retry.
        """
        ...
