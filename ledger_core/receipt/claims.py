"""What a receipt can claim, as frozen values; nothing in them is verified yet.

Every claim rests on one log entry, its *primary* entry, whose ordinary inclusion
path stands beside the claim in the receipt. Two claims rest on further entries
and carry those paths themselves: ``RecordsClaim`` on its other anchors, and
``RevocationClaim`` on the earlier state root.
"""

from dataclasses import dataclass
from typing import TypeAlias

from ledger_core.commitment import Opening
from ledger_core.errors import ReceiptInvalid
from ledger_core.proofs import StateProof


@dataclass(frozen=True, slots=True)
class LogPath:
    """Where an entry stands in the log, and its inclusion path under the receipt's checkpoint."""

    index: int
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class RecordClaim:
    """A record's opening, its place in a batch, and the transaction that anchors the batch."""

    opening: Opening
    batch_index: int
    batch_path: tuple[bytes, ...]
    transaction: bytes


@dataclass(frozen=True, slots=True)
class AnchoredRecords:
    """Records of one batch: its anchor transaction, where that stands, and one multiproof.

    ``openings`` pairs each record's place in the batch with its opening, places
    rising. ``path`` is the batch's multiproof of exactly those places.
    """

    index: int
    transaction: bytes
    path: tuple[bytes, ...]
    openings: tuple[tuple[int, Opening], ...]


@dataclass(frozen=True, slots=True)
class RecordsClaim:
    """Many records of one or more batches.

    Batches stand in rising order of log index. The first one's transaction is the
    primary entry; ``path`` is the log's multiproof of all the others, empty when
    there are none.
    """

    batches: tuple[AnchoredRecords, ...]
    path: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        places = [batch.index for batch in self.batches]
        if not places or places != sorted(set(places)):
            raise ReceiptInvalid("batches must be in rising order of log index, at least one")
        for batch in self.batches:
            inside = [place for place, _ in batch.openings]
            if not inside or inside != sorted(set(inside)):
                raise ReceiptInvalid("records must be in rising order of place, at least one a batch")
        if len(places) == 1 and self.path:
            raise ReceiptInvalid("one batch needs no further log path")


@dataclass(frozen=True, slots=True)
class TransactionClaim:
    """A transaction is in the log."""

    transaction: bytes


@dataclass(frozen=True, slots=True)
class StateClaim:
    """State holds ``value`` (None: nothing) for ``kind`` and ``key``: current, under the last ``entry``."""

    kind: str
    key: bytes
    value: bytes | None
    proof: StateProof
    entry: bytes


@dataclass(frozen=True, slots=True)
class PastStateClaim:
    """State held ``value`` (None: nothing) after the block of the state-root ``entry``, whichever that is."""

    kind: str
    key: bytes
    value: bytes | None
    proof: StateProof
    entry: bytes


@dataclass(frozen=True, slots=True)
class RevocationClaim:
    """A value once held has been superseded: ``past`` under an earlier state root, ``current`` under the last.

    The current state root is the primary entry; ``past_log`` is the path of the other one.
    """

    past: PastStateClaim
    past_log: LogPath
    current: StateClaim

    def __post_init__(self) -> None:
        if (self.past.kind, self.past.key) != (self.current.kind, self.current.key):
            raise ReceiptInvalid("a revocation speaks of one kind and key")
        for side in (self.past, self.current):
            if side.value is None or side.proof.neighbour is not None:
                raise ReceiptInvalid("both values of a revocation must be present")


Claim: TypeAlias = RecordClaim | RecordsClaim | TransactionClaim | StateClaim | PastStateClaim | RevocationClaim
