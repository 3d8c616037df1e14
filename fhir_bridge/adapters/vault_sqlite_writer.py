"""The one writer of a SQLite vault: turns a Work into rows and journal entries of one transaction.

Used by SqliteVault on its writer thread and by nobody else.

Invariants:
    * every row written or deleted is noted in the journal by the same transaction;
    * a batch carries the head of the journal row that notes everything it stands for; the batch's own row is
      noted in the journal row after it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fhir_bridge.adapters.journal import Cell, Journal
from fhir_bridge.adapters.sqlite_support import Connect, connect_file, open_database, transaction, translated
from fhir_bridge.adapters.vault_sqlite_schema import KEY_STORE, SCHEMA, TABLES, VERSION, WHAT
from fhir_bridge.errors import IntegrityBroken, Unavailable
from fhir_bridge.model.ingest import Sealed
from fhir_bridge.ports.vault import Anchorer, Batch, Document, Replacement, Work

KeyHead = Callable[[], tuple[int, bytes] | None]
_CHECKPOINT_PAGES = 4_000


class VaultWriter:
    """Writes one vault file; belongs to one thread at a time."""

    def __init__(self, path: Path, mac_key: bytes, key_head: KeyHead, connect: Connect = connect_file) -> None:
        self._connection = open_database(path, what=WHAT, version=VERSION, schema=SCHEMA, connect=connect)
        self._key_head = key_head
        self._next_batch = 0
        self.is_failing = False
        with translated(WHAT):
            # The default of 1,000 pages checkpoints after almost every group of 500 records.
            self._connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            self._journal = Journal(self._connection, mac_key)
            self._take_up()

    def commit(self, work: Work, anchor: Anchorer | None) -> int | None:
        """Write a Work as one durable transaction; return the number of its batch.

        Raises:
            IntegrityBroken: A row that must be new exists.
            Unavailable: Nothing was written.
        """
        needs_batch = bool(work.records or work.audits) and anchor is not None
        if (work.records or work.segments) and not needs_batch:
            raise ValueError("records and index segments need an anchorer")
        number = self._next_batch if needs_batch else None
        with translated(WHAT), self._one_transaction():
            self._write(work, number)
            self._note_key_store()
            head = self._journal.append()
            if number is not None and anchor is not None:
                leaves = [r.commitment for r in work.records] + [a.head for a in work.audits]
                self._write_batch(number, anchor(number=number, commitments=leaves, journal_head=head))
        if number is not None:
            self._next_batch = number + 1
        return number

    def mark_anchored(self, anchored: Sequence[tuple[int, int, int]]) -> None:
        """Note heights without waiting for the disk: a lost mark only means that the batch is submitted again."""
        known = {row[0] for row in self._select_anchors(anchored)}
        fresh = [row for row in anchored if row[0] not in known]
        if not fresh:
            return
        with translated(WHAT):
            self._connection.execute("PRAGMA synchronous=NORMAL")
            try:
                with self._one_transaction():
                    self._put("anchors", fresh)
                    self._journal.append()
            finally:
                self._connection.execute("PRAGMA synchronous=FULL")

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    @contextmanager
    def _one_transaction(self) -> Iterator[None]:
        if self.is_failing:
            self._save_log()
        try:
            with transaction(self._connection):
                yield
        except BaseException as error:
            self.is_failing = isinstance(error, sqlite3.OperationalError)
            self._take_up()
            raise
        self.is_failing = False

    def _save_log(self) -> None:
        """Bring everything in the write-ahead log into the file and sync that.

        A sync that failed forgets what it should have kept: marks of :meth:`mark_anchored` may be in the log
        that no later sync of it writes, and every commit behind them would be lost with the power.
        """
        busy, *_ = self._connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
        if busy:
            raise Unavailable(f"the {WHAT} is being read while it recovers from a failed write")

    def _take_up(self) -> None:
        self._journal.reload()
        self._key_head_seen = -1
        newest = self._connection.execute("SELECT max(number) FROM batches").fetchone()[0]
        self._next_batch = 0 if newest is None else newest + 1

    def _write(self, work: Work, batch: int | None) -> None:
        if work.records:
            self._insert("records", (_record_row(record, batch) for record in work.records))
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
        layout, execute, note = TABLES[table], self._connection.execute, self._journal.note
        for row in rows:
            execute(sql, row)
            note(table, layout.key(row), row)

    def _select_anchors(self, anchored: Sequence[tuple[int, int, int]]) -> list[tuple[int]]:
        marks = ",".join("?" * len(anchored))
        numbers = [number for number, _, _ in anchored]
        with translated(WHAT):
            return self._connection.execute(
                f"SELECT number FROM anchors WHERE number IN ({marks})",  # noqa: S608 - marks only
                numbers,
            ).fetchall()


def _record_row(record: Sealed, batch: int | None) -> tuple[Cell, ...]:
    if len(record.commitment) != 32:
        raise IntegrityBroken("a commitment has 32 bytes")
    return (
        record.chart,
        record.id,
        record.version,
        batch,
        record.commitment,
        record.normalised,
        record.original,
        record.lineage,
    )
