"""The consent lists of a chart, and past ones by their hash, for when a decision must be told again.

For the grant line, which stores each list here beside the one in force, and for
the opening of a decision. Sealed under the chart's key, so they end with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fhir_bridge.consent import ConsentList
from fhir_bridge.errors import IntegrityBroken
from fhir_bridge.lines.registry import Registry
from fhir_bridge.model.ingest import ChartRef
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.vault import Document, Vault, Work
from fhir_bridge.seal import open_blob, seal_blob

_PAST = "consents-past"


@dataclass(frozen=True, slots=True)
class ListHashes:
    """Hashes of the owner's list, the institution's, and the one it kept before the path was open; None for none.

    ``path`` is the chart's blinded path on the ledger; None if it was never opened.
    """

    owner: bytes | None = None
    institution: bytes | None = None
    kept: bytes | None = None
    path: bytes | None = None


@dataclass(frozen=True, slots=True)
class ConsentLists:
    """The lists of one chart that the ledger vouches for at ``height``.

    ``is_sound`` is False when a stored list does not have the hash that the
    ledger holds: then nobody but the patient may see anything of the chart.
    ``is_attested`` is True when the institution's list was last changed by an
    attestation, so that the ledger says whose word its papers rest on.
    ``hashes`` names the stored lists that these were read from.
    """

    owner: ConsentList | None
    institution: ConsentList | None
    height: int
    is_sound: bool = True
    is_attested: bool = False
    hashes: ListHashes = ListHashes()


class PastLists:
    """All lists that a chart ever had since this was kept."""

    def __init__(self, *, vault: Vault, registry: Registry, randomness: Randomness) -> None:
        self._vault = vault
        self._registry = registry
        self._randomness = randomness

    def document(self, chart: ChartRef, list_hash: bytes, content: bytes) -> Document:
        """Return the document that keeps a list."""
        place = f"{chart.chart}/{list_hash.hex()}"
        key = self._registry.chart_key(chart)
        return Document(_PAST, place, seal_blob(key, _PAST, place, content, self._randomness))

    async def keep(self, lists: Sequence[tuple[str, bytes, bytes]]) -> None:
        """Keep ``(chart, hash, content)`` that an earlier version stored by their counter only."""
        known = {key for key, _ in await self._vault.documents(_PAST)}
        missing: dict[str, Document] = {}
        for chart_id, list_hash, content in lists:
            chart = self._registry.chart(chart_id)
            if chart is not None and f"{chart_id}/{list_hash.hex()}" not in known:
                missing[f"{chart_id}/{list_hash.hex()}"] = self.document(chart, list_hash, content)
        if missing:
            await self._vault.commit(Work(documents=list(missing.values())), None)

    async def find(self, chart: ChartRef, list_hash: bytes) -> bytes:
        """Return the encoded list of a chart by its hash.

        Raises:
            IntegrityBroken: It is not there, or is another one.
        """
        place = f"{chart.chart}/{list_hash.hex()}"
        sealed = await self._vault.document(_PAST, place)
        if sealed is None:
            raise IntegrityBroken("a consent list that a decision rested on is not in the vault")
        content = open_blob(self._registry.chart_key(chart), _PAST, place, sealed)
        if ConsentList.decode(content).list_hash() != list_hash:
            raise IntegrityBroken("a stored consent list does not have the hash it is stored under")
        return content
