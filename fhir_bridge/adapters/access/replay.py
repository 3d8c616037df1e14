"""Used client assertions, remembered in the vault until they have expired anyway.

Invariants:
    * a note is durable before its first user is told so, thus a restart forgets nothing;
    * one process writes the vault, so a lock in that process makes look-up and note one step;
    * memory and rows are bounded by the tokens asked for in five minutes.
"""

from __future__ import annotations

import asyncio
from typing import Final

from fhir_bridge.ports.ambient import Clock
from fhir_bridge.ports.vault import Document, Vault, Work

COLLECTION: Final = "jti"
_MAX_SWEEP: Final = 256


class VaultReplayStore:
    """Keeps :class:`fhir_bridge.ports.clients.ReplayStore` on documents of the vault."""

    def __init__(self, vault: Vault, clock: Clock) -> None:
        self._vault = vault
        self._clock = clock
        self._expiry: dict[str, int] | None = None
        self._lock = asyncio.Lock()

    async def seen(self, token: str, expires_at_s: int) -> bool:
        """Note ``token`` and tell whether it had been noted; costs one durable commit when new."""
        async with self._lock:
            known = await self._load()
            if token in known:
                return True
            stale = self._stale(known)
            notes = [Document(COLLECTION, token, str(expires_at_s).encode())]
            notes += [Document(COLLECTION, old, None) for old in stale]
            await self._vault.commit(Work(documents=notes), None)
            known[token] = expires_at_s
            for old in stale:
                del known[old]
            return False

    async def _load(self) -> dict[str, int]:
        if self._expiry is None:
            rows = await self._vault.documents(COLLECTION)
            self._expiry = {key: int(value) for key, value in rows}
        return self._expiry

    def _stale(self, known: dict[str, int]) -> list[str]:
        instant = self._clock.now().timestamp()
        return [token for token, expires_at_s in known.items() if expires_at_s < instant][:_MAX_SWEEP]
