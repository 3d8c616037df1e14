"""The vault in an SQL database: one writer thread, readers beside it.

Writes run one after the other on a thread of their own; reads run on other
threads with connections of their own, but for a few look-ups by key where the
database takes less time for them than a thread's hand-over.

Invariants:
    * a read that starts after a commit returned sees all of it;
    * whatever the port says about atomicity and durability.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fhir_bridge import tracing
from fhir_bridge.adapters.vault_database import Connection, VaultDatabase
from fhir_bridge.adapters.vault_writer import KeyHead, VaultWriter
from fhir_bridge.errors import IntegrityBroken, Unavailable
from fhir_bridge.model.ingest import Position
from fhir_bridge.ports.vault import (
    ALL_LETTERS,
    Anchorer,
    AuditEntry,
    LettersWanted,
    SealedLetter,
    StoredBatch,
    StoredRecord,
    StoredSegment,
    Work,
)
from fhir_bridge.tracing import Kind

_IDS_AT_ONCE = 500
_SCAN_PAGE = 256
_LAST_CODE_POINT = "\U0010ffff"
_BATCH = (
    "SELECT number, root, leaves, envelope, head_salt, head_index, height, log_index"
    " FROM batches LEFT JOIN anchors USING (number)"
)
_LARGEST = 2**63 - 1
_LETTER = "SELECT id, institution, reason, received_at_us, envelope, status FROM letters"
_NEAREST = "SELECT id, chart FROM records WHERE id >= ? ORDER BY id, chart LIMIT 1"
_RECORD = "SELECT chart, id, version, normalised, original, lineage, commitment, batch, seq FROM records"
_NORMALISED = "SELECT normalised FROM records WHERE chart = ? AND id = ? AND version = ?"
_WORTH_A_SCAN = 100
"""So many keys are worth a walk through their whole chart if they are much of it (2.6 µs a record; 2026-11)."""
_WORTH_A_LIST = 5
"""Fewer keys than this are looked up one by one (7 µs each, against 3 µs in a list; 2026-11)."""
_FEW = 50
"""So many keys are looked up where they are asked for: up to 7 µs each, against 100 µs for a hand-over (2026-11)."""
_COUNTED = ("records", "segments", "letters", "documents", "audits", "batches")

T = TypeVar("T")


def _no_key_store() -> None:
    return None


class SqlVault:
    """Keeps the Vault port's promises in one database."""

    def __init__(self, database: VaultDatabase, mac_key: bytes, key_head: KeyHead = _no_key_store) -> None:
        """Open the vault, made if there is none.

        Args:
            mac_key: 32 bytes; authenticates every row.
            key_head: Gives number and head of the key store's journal; each commit enters it in the vault's own
                journal, so that a key store rolled back beneath the vault is found.

        Raises:
            SetupWrong: Not a vault, written by a newer version, or in use.
            IntegrityBroken: The journal does not end under ``mac_key``.
        """
        self._database = database
        self._writer = VaultWriter(database, mac_key, key_head)
        self._writing = ThreadPoolExecutor(1, "vault-writer")
        self._reading = ThreadPoolExecutor(database.readers, "vault-reader")
        self._local = threading.local()
        self._connections: list[Connection] = []
        self._closed = False

    async def commit(self, work: Work, anchor: Anchorer | None) -> int | None:
        """Write ``work`` atomically; the anchorer is called on the writer thread."""
        with tracing.spanned("vault commit", Kind.CLIENT):
            return await self._run(self._writing, self._writer.commit, work, anchor)

    async def mark_anchored(self, anchored: Sequence[tuple[int, int, int]]) -> None:
        """Note ``(batch number, height, log index)``."""
        await self._run(self._writing, self._writer.mark_anchored, anchored)

    async def pending_batches(self) -> Sequence[StoredBatch]:
        """Return batches whose height is unknown, oldest first."""
        rows = await self._select(f"{_BATCH} WHERE height IS NULL ORDER BY number")
        return [_batch(row) for row in rows]

    async def batch(self, number: int) -> StoredBatch:
        """Return one batch.

        Raises:
            IntegrityBroken: There is none of that number.
        """
        rows = await self._select(f"{_BATCH} WHERE number = ?", number)
        if not rows:
            raise IntegrityBroken(f"the vault holds no batch {number}")
        return _batch(rows[0])

    async def last_batch(self) -> int:
        """Return the highest batch number, or -1."""
        return int((await self._select("SELECT coalesce(max(number), -1) FROM batches"))[0][0])

    async def positions(self, bus: str) -> Sequence[Position]:
        """Return the next offset to read for every stream and partition of a bus."""
        rows = await self._select("SELECT * FROM positions WHERE bus = ? ORDER BY stream, part", bus)
        return [Position(*row) for row in rows]

    async def segments(self, chart: str) -> Sequence[StoredSegment]:
        """Return a chart's index segments in order."""
        sql = "SELECT chart, number, batch, ciphertext FROM segments WHERE chart = ? ORDER BY number"
        return [StoredSegment(*row) for row in await self._select(sql, chart)]

    async def segment_sizes(self, chart: str) -> Sequence[tuple[int, int]]:
        """Return number and bytes of a chart's index segments in order."""
        return await self._select(
            "SELECT number, length(ciphertext) FROM segments WHERE chart = ? ORDER BY number", chart
        )

    async def crowded_charts(self, at_least: int) -> Sequence[str]:
        """Return the charts that have so many index segments or more."""
        sql = "SELECT chart FROM segments GROUP BY chart HAVING count(*) >= ? ORDER BY chart"
        return [row[0] for row in await self._select(sql, at_least)]

    async def charts_of(self, record_ids: Collection[str]) -> dict[str, str]:
        """Return the chart that holds each record id; ids of none are left out.

        Of few ids one row each is read, of an id of none its neighbour's: so both take the same time.
        """
        found: dict[str, str] = {}
        wanted = list(record_ids)
        if len(wanted) <= _FEW:
            nearest = await self._read(lambda held: [held.execute(_NEAREST, (i,)).fetchone() for i in wanted], True)
            return {row[0]: row[1] for i, row in zip(wanted, nearest, strict=True) if row is not None and row[0] == i}
        for start in range(0, len(wanted), _IDS_AT_ONCE):
            some = wanted[start : start + _IDS_AT_ONCE]
            sql = f"SELECT DISTINCT id, chart FROM records WHERE id IN ({_marks(some)})"  # noqa: S608 - question marks only
            found.update(await self._select(sql, *some))
        return found

    async def record(self, chart: str, record_id: str, version: str) -> StoredRecord | None:
        """Return one version of a record."""
        sql = f"{_RECORD} WHERE chart = ? AND id = ? AND version = ?"
        rows = await self._select(sql, chart, record_id, version)
        return StoredRecord(*rows[0][:-1]) if rows else None

    async def normalised(self, chart: str, keys: Sequence[tuple[str, str]]) -> Sequence[bytes]:
        """Return the normalised envelopes of ``(record id, version)`` in the order asked."""
        return await self._read(lambda connection: _normalised(connection, chart, keys), len(keys) <= _FEW)

    async def document(self, collection: str, key: str) -> bytes | None:
        """Return a document's value or None."""
        rows = await self._select("SELECT value FROM documents WHERE collection = ? AND key = ?", collection, key)
        return rows[0][0] if rows else None

    async def documents(self, collection: str, prefix: str = "") -> Sequence[tuple[str, bytes]]:
        """Return ``(key, value)`` of a collection, by key."""
        sql = "SELECT key, value FROM documents WHERE collection = ? AND key >= ? AND key <= ? ORDER BY key"
        return await self._select(sql, collection, prefix, prefix + _LAST_CODE_POINT)

    async def letters(self, wanted: LettersWanted = ALL_LETTERS) -> Sequence[SealedLetter]:
        """Return dead letters, oldest first."""
        sql = (
            f"{_LETTER} WHERE institution = coalesce(?, institution) AND reason = coalesce(?, reason)"
            " AND received_at_us >= ? AND received_at_us < ?"
            " ORDER BY received_at_us, id"
        )
        since = -_LARGEST if wanted.since_us is None else wanted.since_us
        until = _LARGEST if wanted.until_us is None else wanted.until_us
        values = (wanted.institution, wanted.reason, since, until)
        return [SealedLetter(*row) for row in await self._select(sql, *values)]

    async def letter(self, letter_id: str) -> SealedLetter | None:
        """Return one dead letter."""
        rows = await self._select(f"{_LETTER} WHERE id = ?", letter_id)
        return SealedLetter(*rows[0]) if rows else None

    async def audits(self, chain: str) -> Sequence[AuditEntry]:
        """Return the entries of one audit chain in order."""
        sql = "SELECT chain, counter, previous, head, envelope FROM audits WHERE chain = ? ORDER BY counter"
        return [AuditEntry(*row) for row in await self._select(sql, chain)]

    async def audit_heads(self) -> Sequence[tuple[str, int, bytes]]:
        """Return ``(chain, counter, head)`` of every audit chain."""
        newest = "(SELECT chain, max(counter) AS counter FROM audits GROUP BY chain) AS newest"
        sql = f"SELECT chain, counter, head FROM {newest} JOIN audits USING (chain, counter) ORDER BY chain"  # noqa: S608
        return await self._select(sql)

    async def scan(self) -> AsyncIterator[StoredRecord]:
        """Yield every record version, in order of arrival."""
        after = 0
        while rows := await self._select(f"{_RECORD} WHERE seq > ? ORDER BY seq LIMIT {_SCAN_PAGE}", after):
            for row in rows:
                yield StoredRecord(*row[:-1])
            after = rows[-1][-1]

    async def is_begun(self) -> bool:
        """Tell whether anything was ever committed."""
        return bool(await self._select("SELECT 1 FROM journal LIMIT 1"))

    async def counts(self) -> dict[str, int]:
        """Return row counts by table, and the bytes that the database takes."""
        parts = " UNION ALL ".join(f"SELECT '{table}', count(*) FROM {table}" for table in _COUNTED)  # noqa: S608
        opened = "SELECT 'letters_open', count(*) FROM letters WHERE status = 'open'"
        counts: dict[str, int] = dict(await self._select(f"{parts} UNION ALL {opened}"))
        return counts | {"bytes": await self._read(self._database.size)}

    async def can_write(self) -> bool:
        """Tell whether the last write went through; if it did not, try one of nothing."""
        if self._writer.is_failing or not self._database.is_in_place():
            try:
                await self.commit(Work(), None)
            except Unavailable:
                return False
        return True

    async def close(self) -> None:
        """Finish the commit under way and release the files; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._writer.end_doubt()
            await asyncio.to_thread(self._shut)

    def _shut(self) -> None:
        self._reading.shutdown()
        self._writing.shutdown()
        for connection in self._connections:
            connection.close()
        self._writer.close()

    async def _select(self, sql: str, *values: str | int | None, is_short: bool = False) -> list[tuple[Any, ...]]:
        return await self._read(lambda connection: connection.execute(sql, values).fetchall(), is_short)

    async def _read(self, work: Callable[[Connection], T], is_short: bool = False) -> T:
        if is_short and self._database.answers_at_once and not self._closed:
            return self._with_reader(work)
        return await self._run(self._reading, self._with_reader, work)

    def _with_reader(self, work: Callable[[Connection], T]) -> T:
        with self._database.translated():
            connection: Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = self._database.open_reader()
                self._connections.append(connection)
            try:
                return work(connection)
            except BaseException as error:
                if self._database.is_outage(error):
                    # The next read opens another.
                    self._local.connection = None
                    self._connections.remove(connection)
                    connection.close()
                raise

    async def _run(self, threads: ThreadPoolExecutor, work: Callable[..., T], *arguments: object) -> T:
        if self._closed:
            raise Unavailable("the vault is closed")
        return await asyncio.get_running_loop().run_in_executor(threads, work, *arguments)


def _normalised(connection: Connection, chart: str, keys: Sequence[tuple[str, str]]) -> list[bytes]:
    if len(keys) >= _WORTH_A_SCAN:
        held = connection.execute("SELECT count(*) FROM records WHERE chart = ?", (chart,)).fetchone()[0]
        if len(keys) * 4 >= held:
            return _normalised_of_chart(connection, chart, keys)
    if len(keys) >= _WORTH_A_LIST:
        return _normalised_of_many(connection, chart, keys)
    found: list[bytes] = []
    for record_id, version in keys:
        row = connection.execute(_NORMALISED, (chart, record_id, version)).fetchone()
        if row is None:
            raise _missing()
        found.append(row[0])
    return found


def _normalised_of_many(connection: Connection, chart: str, keys: Sequence[tuple[str, str]]) -> list[bytes]:
    held: dict[tuple[str, str], bytes] = {}
    for start in range(0, len(keys), _IDS_AT_ONCE):
        ids = [record_id for record_id, _ in keys[start : start + _IDS_AT_ONCE]]
        # No list of versions: SQLite would look up each id with each of them.
        sql = f"SELECT id, version, normalised FROM records WHERE chart = ? AND id IN ({_marks(ids)})"  # noqa: S608 - question marks only
        rows = connection.execute(sql, (chart, *ids))
        held |= {(record_id, version): each for record_id, version, each in rows}
    try:
        return [held[record_id, version] for record_id, version in keys]
    except KeyError:
        raise _missing() from None


def _normalised_of_chart(connection: Connection, chart: str, keys: Sequence[tuple[str, str]]) -> list[bytes]:
    rows = connection.execute("SELECT id, version, normalised FROM records WHERE chart = ?", (chart,))
    held = {(record_id, version): envelope for record_id, version, envelope in rows}
    try:
        return [held[record_id, version] for record_id, version in keys]
    except KeyError:
        raise _missing() from None


def _marks(values: Collection[object]) -> str:
    return ",".join("?" * len(values))


def _missing() -> IntegrityBroken:
    return IntegrityBroken("the index names a record that the vault does not hold; run fsck")


def _batch(row: tuple[Any, ...]) -> StoredBatch:
    number, root, leaves, envelope, head_salt, head_index, height, log_index = row
    split = tuple(leaves[at : at + 32] for at in range(0, len(leaves), 32))
    return StoredBatch(number, root, split, envelope, head_salt, head_index, height, log_index)
