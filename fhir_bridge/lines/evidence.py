"""Evidence about one record version: its receipt, and its Provenance from the sealed lineage."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from fhir_bridge.errors import IntegrityBroken
from fhir_bridge.fhir.json import render
from fhir_bridge.lines.notary import Notary
from fhir_bridge.lines.registry import Registry
from fhir_bridge.model.ingest import Change, IndexRow
from fhir_bridge.ports.vault import StoredRecord, Vault
from fhir_bridge.proof import provenance, record_receipt
from fhir_bridge.seal import LINEAGE, ORIGINAL, Opened, RecordPlace, open_normalised, open_part


@dataclass(frozen=True, slots=True)
class Disclosed:
    """A version's receipt with all of its parts opened, and each of them as it was committed."""

    receipt: str
    original: bytes
    lineage: bytes
    record: bytes
    ruleset: str
    height: int | None


class Evidence:
    """Opens what evidence needs and nothing more."""

    def __init__(self, *, vault: Vault, registry: Registry, notary: Notary) -> None:
        self._vault = vault
        self._registry = registry
        self._notary = notary

    async def receipt(self, chart: str, row: IndexRow) -> str:
        """Return the receipt of a version, with its normalised form opened and all else closed.

        Raises:
            Unavailable: Not anchored yet.
            IntegrityBroken: What is stored is not what was committed.
        """
        stored, opened = await self._open(chart, row)
        batch = await self._vault.batch(stored.batch)
        return record_receipt(opened, batch, self._notary)

    async def provenance(self, chart: str, row: IndexRow) -> bytes:
        """Return the Provenance of a version; removed values stay sealed."""
        stored, opened = await self._open(chart, row)
        place = RecordPlace.of(chart, row)
        lineage = open_part(self._key(chart), place, LINEAGE, stored.lineage)
        changes = msgspec.json.decode(lineage.content or b"[]", type=list[Change])
        institution = self._registry.institution(row.origin)
        return render(provenance(row, changes, ruleset=opened.ruleset, institution_id=institution.id))

    async def disclosed(self, place: RecordPlace) -> Disclosed | None:
        """Return everything about a version, for whoever the operator may show all of it; None if there is none.

        Raises:
            Unavailable: Not anchored yet.
            IntegrityBroken: What is stored is not what was committed.
        """
        stored = await self._vault.record(place.chart, place.id, place.version)
        if stored is None:
            return None
        key = self._key(place.chart)
        original = open_part(key, place, ORIGINAL, stored.original).content
        lineage = open_part(key, place, LINEAGE, stored.lineage).content
        opened = open_normalised(key, place, stored.normalised)
        batch, parts = await self._vault.batch(stored.batch), {ORIGINAL: original, LINEAGE: lineage}
        receipt = record_receipt(opened, batch, self._notary, disclosed=parts)
        return Disclosed(receipt, original, lineage, opened.content, opened.ruleset, batch.height)

    async def _open(self, chart: str, row: IndexRow) -> tuple[StoredRecord, Opened]:
        stored = await self._vault.record(chart, row.id, row.version)
        if stored is None:
            raise IntegrityBroken("the index names a record that the vault does not hold")
        return stored, open_normalised(self._key(chart), RecordPlace.of(chart, row), stored.normalised)

    def _key(self, chart: str) -> bytes:
        known = self._registry.chart(chart)
        if known is None:
            raise IntegrityBroken("the index names a chart that is not known")
        return self._registry.chart_key(known)
