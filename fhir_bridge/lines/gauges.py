"""What an operator's monitoring sees of the lines at the moment it looks: queues, lags, sizes, what is sound."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections.abc import Awaitable, Callable

from fhir_bridge.errors import BridgeError
from fhir_bridge.lines.audit import AuditLine
from fhir_bridge.lines.bus_reader import BusReader
from fhir_bridge.lines.importing import ImportLine
from fhir_bridge.lines.ingest import IngestLine
from fhir_bridge.lines.notary import Notary
from fhir_bridge.metrics import Gauge, exposition, gauge
from fhir_bridge.ports.vault import Vault

_ROWS = ("records", "segments", "letters", "documents", "audits", "batches")


class Gauges:
    """Reads the state of one bridge; a part that does not answer is left out, and ``ready`` says which."""

    def __init__(
        self,
        *,
        ingest: IngestLine,
        imports: ImportLine,
        audit: AuditLine,
        reader: BusReader,
        vault: Vault,
        notary: Notary,
        readiness: Callable[[], Awaitable[dict[str, bool]]],
    ) -> None:
        self._ingest = ingest
        self._imports = imports
        self._audit = audit
        self._reader = reader
        self._vault = vault
        self._notary = notary
        self._readiness = readiness
        self._reading = asyncio.Lock()

    async def page(self) -> bytes:
        """Return all metrics as a Prometheus text page; one reading at a time, for rows are counted for it."""
        async with self._reading:
            return exposition(await self._read())

    async def _read(self) -> list[Gauge]:
        load, ready = self._ingest.load, await self._readiness()
        found = [
            Gauge("ready", "1 for each part that can serve.", {k: float(v) for k, v in ready.items()}, "part"),
            gauge("queue_bytes", "Bytes of messages on the ingest line.", load.bytes),
            gauge("queue_messages", "Messages on the ingest line.", load.messages),
            gauge("unanchored_batches", "Batches in the vault that are not on the ledger yet.", load.batches),
            gauge("anchor_lag_seconds", "Age of the oldest batch that is not on the ledger yet.", load.anchor_lag_s),
            gauge("audit_queue", "Accesses that wait to be recorded, their answers with them.", self._audit.waiting),
            gauge("bus_reading", "1 while the bus is being read.", self._reader.is_reading),
            gauge("bus_halted_partitions", "Partitions whose next message is gone.", len(self._reader.halted())),
            gauge("bus_unread_streams", "Streams of which something cannot be read.", len(self._reader.unread())),
            Gauge(
                "imports_kept", "Imports there are.", {k: float(v) for k, v in self._imports.load.items()}, "state"
            ),
            gauge("ledger_height", "Height of the ledger.", self._notary.height),
            gauge("worker_processes", "Worker processes alive.", len(multiprocessing.active_children())),
        ]
        with contextlib.suppress(BridgeError):
            lag = {name: float(count) for name, count in (await self._reader.lag()).items()}
            found.append(Gauge("bus_lag_messages", "Messages that wait on the bus, by sender.", lag, "institution"))
        with contextlib.suppress(BridgeError):
            counts = await self._vault.counts()
            rows = {name: float(counts[name]) for name in _ROWS if name in counts}
            found.append(Gauge("vault_rows", "Rows of the vault, by table.", rows, "table"))
            found.append(gauge("vault_bytes", "Bytes of the vault on disk.", counts.get("bytes", 0)))
            found.append(gauge("dead_letters_open", "Dead letters to look at.", counts.get("letters_open", 0)))
        return found
