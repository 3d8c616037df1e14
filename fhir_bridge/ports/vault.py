"""The vault: ciphertexts, index segments, source positions and the outbox, committed together.

One :class:`Work` is one atomic, durable commit. That single call is the
exactly-once effect: either the records, their index, the source position and
the batch to anchor are all there after a crash, or none is.

Invariants every adapter keeps:
    * rows are authenticated as a whole by a keyed journal whose head enters
      each anchored batch, so an edited, deleted or rolled-back row is found;
    * nothing here sees plaintext; ids and charts are pseudonyms.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from fhir_bridge.model.ingest import Position, Sealed


@dataclass(frozen=True, slots=True)
class Segment:
    """Encrypted index rows of one chart.

    A commit appends one, or several, under the next ``number``, counted from 0. One that took the place of several
    has the number of the last of them, so numbers may leave gaps; ``number`` orders a chart's segments.
    """

    chart: str
    number: int
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """A segment read back; ``number`` orders a chart's segments, ``batch`` tells when it became visible."""

    chart: str
    number: int
    batch: int
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class Replacement:
    """A segment that takes the place of others, with the same rows in the same order.

    Attributes:
        replaces: Numbers of all segments that it stands for; the last is its own.
        batch: The newest batch of any of its rows.
    """

    segment: Segment
    batch: int
    replaces: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SealedLetter:
    """A dead letter or quarantined entry: original bytes and reason, sealed under a message key.

    ``reason`` is a public code (an IssueType or ``quarantined``); ``envelope``
    holds the original, the outcome and the context needed to replay it.
    """

    id: str
    institution: str
    reason: str
    received_at_us: int
    envelope: bytes
    status: str = "open"


@dataclass(frozen=True, slots=True)
class LettersWanted:
    """Which dead letters: all that agree with everything that is not None; received in ``[since, until)``, µs."""

    institution: str | None = None
    reason: str | None = None
    since_us: int | None = None
    until_us: int | None = None


ALL_LETTERS = LettersWanted()


@dataclass(frozen=True, slots=True)
class Document:
    """One small sealed or public row of a named collection (links, institutions, consent lists, jti …).

    ``value`` is None to delete. Collections that hold anything about a person
    hold ciphertext only.
    """

    collection: str
    key: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One sealed AuditEvent in the chain of its chart (or of an institution's no-chart entries)."""

    chain: str
    counter: int
    previous: bytes
    head: bytes
    envelope: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Commitments to anchor together, already permuted and padded to a power of two.

    ``leaves[head_index]`` is a salted leaf over the journal head (its salt is
    ``head_salt``). ``envelope`` is the signed ledger transaction, so that a
    resubmission after a crash is byte-identical and the ledger recognises it.
    """

    root: bytes
    leaves: tuple[bytes, ...]
    envelope: bytes
    head_salt: bytes
    head_index: int


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A batch read back; ``height`` is None until the ledger has accepted it."""

    number: int
    root: bytes
    leaves: tuple[bytes, ...]
    envelope: bytes
    head_salt: bytes
    head_index: int
    height: int | None
    log_index: int | None


@dataclass(frozen=True, slots=True)
class Work:
    """Everything one commit writes."""

    records: Sequence[Sealed] = ()
    segments: Sequence[Segment] = ()
    positions: Sequence[Position] = ()
    letters: Sequence[SealedLetter] = ()
    documents: Sequence[Document] = ()
    audits: Sequence[AuditEntry] = ()
    replacements: Sequence[Replacement] = ()


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record version read back."""

    chart: str
    id: str
    version: str
    normalised: bytes
    original: bytes
    lineage: bytes
    commitment: bytes
    batch: int


class Anchorer(Protocol):
    """Called inside the commit with the commitments it holds and the journal head; gives the batch to store."""

    def __call__(self, *, number: int, commitments: Sequence[bytes], journal_head: bytes) -> Batch: ...


class Vault(Protocol):
    """Durable store of ciphertexts; one writer process."""

    async def commit(self, work: Work, anchor: Anchorer | None) -> int | None:
        """Write ``work`` atomically; return the number of the batch put into the outbox, or None without one.

        A batch is made when ``anchor`` is given and the work holds records or
        audits. Returns once everything survives loss of power.

        Raises:
            IntegrityBroken: A row that must be new exists, or a segment to be replaced does not; nothing was written.
            Unavailable: Nothing was written; safe to retry.
        """
        ...

    async def mark_anchored(self, anchored: Sequence[tuple[int, int, int]]) -> None:
        """Note ``(batch number, height, log index)``; durable with the next commit at the latest, repeatable."""
        ...

    async def pending_batches(self) -> Sequence[StoredBatch]:
        """Return batches whose height is unknown, oldest first."""
        ...

    async def last_batch(self) -> int:
        """Return the number of the newest batch, -1 when there is none."""
        ...

    async def batch(self, number: int) -> StoredBatch:
        """Return one batch."""
        ...

    async def positions(self, bus: str) -> Sequence[Position]:
        """Return the next offset to read for every stream and partition of a bus."""
        ...

    async def segments(self, chart: str) -> Sequence[StoredSegment]:
        """Return a chart's index segments in order, pending ones included (the caller knows what is visible)."""
        ...

    async def segment_sizes(self, chart: str) -> Sequence[tuple[int, int]]:
        """Return number and bytes of a chart's index segments in order."""
        ...

    async def crowded_charts(self, at_least: int) -> Sequence[str]:
        """Return the charts that have so many index segments or more."""
        ...

    async def charts_of(self, record_ids: Collection[str]) -> dict[str, str]:
        """Return the chart that holds each record id; ids of none are left out."""
        ...

    async def record(self, chart: str, record_id: str, version: str) -> StoredRecord | None:
        """Return one version of a record."""
        ...

    async def normalised(self, chart: str, keys: Sequence[tuple[str, str]]) -> Sequence[bytes]:
        """Return the normalised envelopes of ``(record id, version)`` in the order asked.

        Raises:
            IntegrityBroken: One is missing.
        """
        ...

    async def document(self, collection: str, key: str) -> bytes | None:
        """Return a document's value or None."""
        ...

    async def documents(self, collection: str, prefix: str = "") -> Sequence[tuple[str, bytes]]:
        """Return ``(key, value)`` of a collection, by key."""
        ...

    async def letters(self, wanted: LettersWanted = ALL_LETTERS) -> Sequence[SealedLetter]:
        """Return dead letters, oldest first."""
        ...

    async def letter(self, letter_id: str) -> SealedLetter | None:
        """Return one dead letter."""
        ...

    async def audits(self, chain: str) -> Sequence[AuditEntry]:
        """Return the entries of one audit chain in order."""
        ...

    async def audit_heads(self) -> Sequence[tuple[str, int, bytes]]:
        """Return ``(chain, counter, head)`` of every audit chain."""
        ...

    def scan(self) -> AsyncIterator[StoredRecord]:
        """Yield every record version (fsck, digest of a final state, backfill)."""
        ...

    async def counts(self) -> dict[str, int]:
        """Return row counts and disk bytes for metrics: records, segments, letters, bytes …"""
        ...

    async def close(self) -> None:
        """Finish the commit under way and release the files."""
        ...
