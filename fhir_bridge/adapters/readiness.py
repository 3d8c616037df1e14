"""What readiness says: of each part whether it could serve the next request, and after the next start as well."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from fhir_bridge.adapters.datadir import DataDirectory
from fhir_bridge.adapters.keyring_file import FileKeyring
from fhir_bridge.adapters.keystore import SqliteKeyStore
from fhir_bridge.adapters.spool import Spool
from fhir_bridge.adapters.sqlite_support import OpenFile
from fhir_bridge.adapters.vault_sql import SqlVault
from fhir_bridge.lines.bus_reader import BusReader
from fhir_bridge.lines.ingest import IngestLine
from fhir_bridge.lines.notary import OPERATOR_SIGNER, Notary
from fhir_bridge.lines.registry import OPERATOR
from fhir_bridge.lines.standing import Standing
from fhir_bridge.ports.bus import Bus
from fhir_bridge.ports.keys import KeyKind, KeyName


@dataclass(frozen=True, slots=True)
class Readiness:
    """Looks at every part of one bridge; one that failed to write is tried again by asking."""

    directory: DataDirectory
    ledger_file: OpenFile | None
    keyring: FileKeyring
    keys: SqliteKeyStore
    vault: SqlVault
    notary: Notary
    bus: Bus
    reader: BusReader
    ingest: IngestLine
    standing: Standing

    async def parts(self) -> dict[str, bool]:
        """Return by name of the part whether it can serve."""
        parts = dict.fromkeys(("ledger", "vault", "keys", "disk", "bus"), False) | {"lines": self.standing.is_ready}
        with contextlib.suppress(Exception):
            does_answer = bool(self.notary.checkpoint()) and await asyncio.to_thread(self.notary.answers)
            is_kept = self.ledger_file is None or self.ledger_file.is_in_place()
            parts["ledger"] = does_answer and is_kept and self.ingest.is_anchoring
        with contextlib.suppress(Exception):
            parts["vault"] = await self.vault.last_batch() >= -1 and await self.vault.can_write()
        with contextlib.suppress(Exception):
            # From the files: what is held in memory would serve until the next start, and not after it.
            await asyncio.to_thread(self.keyring.to_read().identity, OPERATOR_SIGNER)
            mac = KeyName(KeyKind.VAULT_MAC, OPERATOR)
            parts["keys"] = await asyncio.to_thread(self.keys.can_open, mac) and self.keys.can_write()
        with contextlib.suppress(Exception):
            parts["disk"] = await asyncio.to_thread(self.directory.is_writable)
        with contextlib.suppress(Exception):
            can_take = not isinstance(self.bus, Spool) or await self.bus.can_write()
            parts["bus"] = self.reader.is_reading and can_take
        return parts
