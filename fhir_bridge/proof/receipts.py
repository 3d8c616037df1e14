"""Make the receipt of one record: everything from its salts to the signed checkpoint.

For the answer line. The normalised form is opened in a receipt, because its
holder has just been shown it; the original and the lineage stay digests unless
the holder may read them whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from fhir_bridge.errors import IntegrityBroken, Unavailable
from fhir_bridge.ports.vault import StoredBatch
from ledger_core import MerkleBatch, Opening, OpenPart, SealedPart

NORMALISED = "normalised"


class OpenedRecord(Protocol):
    """What opening the normalised envelope gives; ``seal`` has the type that fits."""

    @property
    def facts(self) -> dict[str, str | int | bytes]: ...
    @property
    def content(self) -> bytes: ...
    @property
    def commitment_salt(self) -> bytes: ...
    @property
    def part_salts(self) -> Mapping[str, bytes]: ...
    @property
    def part_digests(self) -> Mapping[str, bytes]: ...


class ReceiptLedger(Protocol):
    """The part of the ledger that a receipt needs."""

    def record_receipt(
        self, opening: Opening, *, batch_index: int, batch_path: Sequence[bytes], index: int
    ) -> str: ...


def record_receipt(
    opened: OpenedRecord,
    batch: StoredBatch,
    ledger: ReceiptLedger,
    *,
    disclosed: Mapping[str, bytes] | None = None,
) -> str:
    """Return the text of a receipt for a record.

    Args:
        opened: From the record's normalised envelope.
        batch: The batch that anchors it.
        disclosed: Content of further parts (``original``, ``lineage``) whose holder may read them whole.

    Raises:
        Unavailable: The batch is not anchored yet.
        IntegrityBroken: The batch does not hold the record's commitment.
    """
    if batch.log_index is None:
        raise Unavailable("the record's batch is not anchored yet, try again")
    contents = {NORMALISED: opened.content, **(disclosed or {})}
    parts: dict[str, OpenPart | SealedPart] = {
        name: OpenPart.of(opened.part_salts[name], contents[name]) if name in contents else SealedPart(digest)
        for name, digest in opened.part_digests.items()
    }
    opening = Opening(opened.commitment_salt, opened.facts, parts)
    commitment = opening.commitment()
    if commitment not in batch.leaves:
        raise IntegrityBroken("the batch does not hold the record's commitment")
    place = batch.leaves.index(commitment)
    path = MerkleBatch(batch.leaves).path(place)
    return ledger.record_receipt(opening, batch_index=place, batch_path=path, index=batch.log_index)
