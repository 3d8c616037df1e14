"""The one writer of a vault: turns a Work into rows and journal entries of one transaction.

Used by SqlVault on its writer thread and by nobody else.

Invariants:
    * every row written or deleted is noted in the journal by the same transaction;
    * a batch carries the head of the journal row that notes everything it stands for; the batch's own row is
      noted in the journal row after it;
    * what is said to be written is, and what is said not to be is not, even where the connection was lost while it
      was being committed: the journal's end tells.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from fhir_bridge.adapters.journal import Cell, Journal
from fhir_bridge.adapters.vault_database import InDoubt, VaultDatabase
from fhir_bridge.adapters.vault_schema import KEY_STORE, TABLES
from fhir_bridge.errors import IntegrityBroken, Unavailable
from fhir_bridge.model.blocks import in_blocks
from fhir_bridge.model.ingest import Sealed
from fhir_bridge.ports.vault import Anchorer, Batch, Document, Replacement, Work

KeyHead = Callable[[], tuple[int, bytes] | None]
_DOUBT_S = 0.2
_ROWS_AT_ONCE = 1_024


class VaultWriter:
    """Writes one vault; belongs to one thread at a time."""

    def __init__(self, database: VaultDatabase, mac_key: bytes, key_head: KeyHead) -> None:
        self._database = database
        self._connection = database.open_writer()
        self._key_head = key_head
        self._next_batch = 0
        self._closing = threading.Event()
        self.is_failing = False
        with database.translated():
            self._journal = Journal(self._connection, mac_key)
            self._take_up()
        # Where the journal may end if what did not wait is lost: the last commit that waited, and those since.
        self._ends = {self._journal.end}
        self._marks: list[tuple[int, int, int]] = []

    def commit(self, work: Work, anchor: Anchorer | None) -> int | None:
        """Write a Work as one durable transaction; return the number of its batch.

        Raises:
            IntegrityBroken: A row that must be new exists.
            Unavailable: Nothing was written.
        """
        needs_batch = bool(work.records or work.audits) and anchor is not None
        if (work.records or work.segments) and not needs_batch:
            raise ValueError("records and index segments need an anchorer")
        with self._database.translated(), self._one_transaction():
            # Not before: the transaction may first have taken the vault up again.
            number = self._next_batch if needs_batch else None
            leaves = self._write(work, number)
            self._note_key_store()
            head = self._journal.append()
            if number is not None and anchor is not None:
                self._write_batch(number, anchor(number=number, commitments=leaves, journal_head=head))
        if number is not None:
            self._next_batch = number + 1
        return number

    def mark_anchored(self, anchored: Sequence[tuple[int, int, int]]) -> None:
        """Note heights without waiting for the disk: a lost mark only means that the batch is submitted again."""
        with self._database.translated(), self._one_transaction(waits=False):
            self._write_marks(anchored)
        self._marks += anchored

    def end_doubt(self) -> None:
        """Wait no longer for a database that was lost in a commit."""
        self._closing.set()

    def close(self) -> None:
        """Release the connection."""
        self._connection.close()

    @contextmanager
    def _one_transaction(self, *, waits: bool = True) -> Iterator[None]:
        if self.is_failing:
            self._recover()
        try:
            with self._database.transaction(self._connection, waits=waits):
                yield
        except InDoubt as doubt:
            self.is_failing = True
            if not self._was_written():
                raise Unavailable("the vault was lost in a commit, and nothing of it was written") from doubt
        except BaseException as error:
            self.is_failing = self._database.is_outage(error)
            if not self.is_failing:
                self._take_up()
            raise
        self.is_failing = False
        self._ends = {self._journal.end} if waits else self._ends | {self._journal.end}
        if waits:
            self._marks.clear()

    def _recover(self) -> None:
        """Take the vault up again where this writer left it.

        Raises:
            IntegrityBroken: Somebody else has written meanwhile: what this process holds in memory is outdated.
        """
        tried = self._journal.end
        self._connection = self._database.recover(self._connection)
        self._take_up()
        if self._journal.end not in self._ends | {tried}:
            raise _other_writer()
        if self._marks:
            # They did not wait, so the database may have lost them; whoever asks for a batch's height must find it.
            with self._database.transaction(self._connection):
                self._write_marks(self._marks)
            self._marks.clear()
        self.is_failing, self._ends = False, {self._journal.end}

    def _was_written(self) -> bool:
        """Tell what became of the transaction that was being committed, however long that takes."""
        tried = self._journal.end
        while not self._closing.wait(_DOUBT_S):
            try:
                with self._database.translated():
                    self._connection = self._database.recover(self._connection)
                    self._take_up()
            except Unavailable:
                continue
            if self._journal.end not in self._ends | {tried}:
                raise _other_writer()
            return self._journal.end == tried
        raise Unavailable("the vault was lost in a commit; whether it was written shows with the next start")

    def _take_up(self) -> None:
        self._journal.reload(self._connection)
        self._key_head_seen = -1
        newest = self._connection.execute("SELECT max(number) FROM batches").fetchone()[0]
        self._next_batch = 0 if newest is None else newest + 1

    def _write(self, work: Work, batch: int | None) -> list[bytes]:
        """Write all rows; return what the batch stands for."""
        leaves: list[bytes] = []
        if work.records:
            self._insert("records", _record_rows(work.records, batch, leaves))
        if work.segments:
            self._insert("segments", ((s.chart, s.number, batch, s.ciphertext) for s in work.segments))
        for replacement in work.replacements:
            self._replace(replacement)
        if work.audits:
            self._insert("audits", ((a.chain, a.counter, batch, a.previous, a.head, a.envelope) for a in work.audits))
        # A group brings many positions of one partition; only the last one says anything.
        last = {(p.bus, p.stream, p.partition): p.offset + 1 for p in work.positions}
        self._put("positions", ((*place, offset) for place, offset in last.items()))
        self._put(
            "letters",
            ((x.id, x.institution, x.reason, x.received_at_us, x.envelope, x.status) for x in work.letters),
        )
        for document in work.documents:
            self._write_document(document)
        return leaves + [audit.head for audit in work.audits]

    def _replace(self, new: Replacement) -> None:
        """Put one segment in the place of several, all of which must be there."""
        segment = new.segment
        if not new.replaces or new.replaces[-1] != segment.number:
            raise ValueError("a segment takes the number of the last one that it replaces")
        for number in new.replaces:
            key = (segment.chart, number)
            gone = self._connection.execute("DELETE FROM segments WHERE chart = ? AND number = ?", key)
            if gone.rowcount != 1:
                raise IntegrityBroken("an index segment that is to be replaced is missing; run fsck")
            if number != segment.number:
                self._journal.note_gone("segments", key)
        self._insert("segments", [(segment.chart, segment.number, new.batch, segment.ciphertext)])

    def _write_document(self, document: Document) -> None:
        key = (document.collection, document.key)
        if document.value is not None:
            self._put("documents", [(*key, document.value)])
            return
        gone = self._connection.execute("DELETE FROM documents WHERE collection = ? AND key = ?", key)
        if gone.rowcount:
            self._journal.note_gone("documents", key)

    def _write_batch(self, number: int, batch: Batch) -> None:
        leaves = b"".join(batch.leaves)
        row = (number, self._journal.number, batch.root, leaves, batch.envelope, batch.head_salt, batch.head_index)
        self._insert("batches", [row])
        self._journal.append()

    def _note_key_store(self) -> None:
        seen = self._key_head()
        if seen is not None and seen[0] != self._key_head_seen:
            self._journal.note_seen(KEY_STORE, (seen[0],), seen[1])
            self._key_head_seen = seen[0]

    def _insert(self, table: str, rows: Iterable[Sequence[Cell]]) -> None:
        self._run(table, TABLES[table].insert, rows)

    def _put(self, table: str, rows: Iterable[Sequence[Cell]]) -> None:
        self._run(table, TABLES[table].put, rows)

    def _run(self, table: str, sql: str, rows: Iterable[Sequence[Cell]]) -> None:
        layout, note = TABLES[table], self._journal.note
        for written in in_blocks(rows, _ROWS_AT_ONCE, _weight):
            self._connection.executemany(sql, written)
            for row in written:
                note(table, layout.key(row), row)

    def _write_marks(self, anchored: Sequence[tuple[int, int, int]]) -> None:
        known = self._known_anchors([number for number, _, _ in anchored])
        fresh = [row for row in anchored if row[0] not in known]
        if fresh:
            self._put("anchors", fresh)
            self._journal.append()

    def _known_anchors(self, numbers: Sequence[int]) -> set[int]:
        marks = ",".join("?" * len(numbers))
        sql = f"SELECT number FROM anchors WHERE number IN ({marks})"  # noqa: S608 - marks only
        return {number for (number,) in self._connection.execute(sql, numbers)}


def _other_writer() -> IntegrityBroken:
    return IntegrityBroken("another process has written this vault: start again")


def _weight(row: Sequence[Cell]) -> int:
    return sum(len(cell) for cell in row if isinstance(cell, bytes))


def _record_rows(
    records: Iterable[Sealed], batch: int | None, commitments: list[bytes]
) -> Iterator[tuple[Cell, ...]]:
    for record in records:
        if len(record.commitment) != 32:
            raise IntegrityBroken("a commitment has 32 bytes")
        commitments.append(record.commitment)
        yield (
            record.chart,
            record.id,
            record.version,
            batch,
            record.commitment,
            record.normalised,
            record.original,
            record.lineage,
        )
