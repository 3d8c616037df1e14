"""The ledger's store on PostgreSQL keeps the contract, and the contract notices one that does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger_core.errors import LedgerError
from ledger_core.machine import BlockRow
from ledger_core.ports import Commit, Reader
from ledger_core.stores.postgres import PostgresStore
from ledger_core.stores.rows import Answer, Row
from ledger_core.stores.server import PostgresConnection, connect_server
from ledger_core.stores.sqlite import SqliteStore
from tests.contract.ledger_store.ledger_store_contract import LedgerStoreContract

CONTRACT = LedgerStoreContract()

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class FailingConnection(PostgresConnection):
    """Writes row by row, and fails when it has written as many as it may."""

    left: int | None = None

    def execute(self, query: str, values: Sequence[object] = (), /) -> Answer:
        if query.lstrip().startswith(("INSERT", "DELETE", "UPDATE", "COMMIT")) and self.left is not None:
            if self.left == 0:
                raise psycopg.OperationalError("no space left on device")
            self.left -= 1
        return super().execute(query, values)

    def executemany(self, query: str, rows: Iterable[Sequence[object]], /) -> object:
        for row in rows:
            self.execute(query, row)
        return None


class PostgresWorld:
    """A database."""

    def __init__(self, url: str, store: type[PostgresStore] = PostgresStore) -> None:
        self.url, self._store = url, store
        self._fail_after: int | None = None
        self._made: list[FailingConnection] = []

    def connect(self, url: str) -> PostgresConnection:
        self._made.append(FailingConnection(connect_server(url).raw))
        return self._made[-1]

    def open(self) -> PostgresStore:
        before = len(self._made)
        opened = self._store.open(self.url, connect=self.connect)
        self._made[before].left = self._fail_after
        return opened

    def open_to_read(self) -> PostgresStore:
        return self._store.open_to_read(self.url, connect=self.connect)

    def open_copy(self, file: Path) -> Reader:
        return SqliteStore.open_to_read(file)

    def fail_after(self, rows: int | None) -> None:
        self._fail_after = rows

    def close(self) -> None:
        for each in self._made:
            each.close()


@pytest.fixture
def world(url: str) -> Iterator[PostgresWorld]:
    made = PostgresWorld(url)
    yield made
    made.close()


class TestThePostgresStoreKeepsTheContract(LedgerStoreContract):
    pass


class WritesRowByRow(PostgresStore):
    @contextmanager
    def _transaction(self, row: BlockRow | None = None) -> Iterator[PostgresConnection]:
        with super()._transaction(row) as connection:
            connection.raw.execute("COMMIT")
            yield connection
            connection.raw.execute("BEGIN")


class ScansOverTheSharedConnection(PostgresStore):
    @contextmanager
    def _scanner(self) -> Iterator[PostgresConnection]:
        self._read("SELECT 1")
        assert self._reading is not None
        if self._reading.raw.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            self._reading.raw.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        yield self._reading


class LocksNothing(PostgresStore):
    def _open_writer(self) -> PostgresConnection:
        return self._connect(self._url)


class ForgetsItsLock(PostgresStore):
    def close(self) -> None:
        self._writing = None
        super().close()


class LetsReadersWrite(PostgresStore):
    def _writer(self) -> PostgresConnection:
        return self._connect(self._url)


class ReadsNothingWhenClosed(PostgresStore):
    def _read(self, query: str, values: Sequence[object] = ()) -> list[Row]:
        try:
            return super()._read(query, values)
        except LedgerError:
            return []


class CopiesNoOneMoment(PostgresStore):
    def _open_moment(self) -> PostgresConnection:
        connection = self._connect(self._url)
        connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY")
        return connection

    def _scan(self, query: str, values: Sequence[object] = ()) -> Iterator[Row]:
        # A block comes between two tables, however slowly blocks are written.
        before, deadline = self.last_block(), time.monotonic() + 5
        while not self._is_writer and self.last_block() == before and time.monotonic() < deadline:
            time.sleep(0.001)
        yield from super()._scan(query, values)


class CutsNonces(PostgresStore):
    def commit(self, commit: Commit) -> None:
        super().commit(
            replace(commit, submissions=tuple(replace(x, nonce=x.nonce % 2**63) for x in commit.submissions))
        )


class GivesTheNewestOfWhatChanged(PostgresStore):
    _changed = "SELECT DISTINCT ON (path) path, before FROM state WHERE height > ? ORDER BY path, height DESC"


class OrdersNothing(PostgresStore):
    def _scan(self, query: str, values: Sequence[object] = ()) -> Iterator[Row]:
        return super()._scan(f"SELECT * FROM ({query}) AS rows ORDER BY random()", values)


class LosesSettings(PostgresStore):
    def begin(self, meta: Mapping[str, str], commit: Commit) -> None:
        super().begin({}, commit)


BROKEN: list[tuple[type[PostgresStore], Callable[..., None]]] = [
    (WritesRowByRow, CONTRACT.test_a_write_that_fails_anywhere_leaves_nothing),
    (WritesRowByRow, CONTRACT.test_a_ledger_that_could_not_begin_can_begin_later),
    (LosesSettings, CONTRACT.test_everything_is_there_at_once_and_after_reopening),
    (CutsNonces, CONTRACT.test_submissions_are_found_by_signer_and_nonce),
    (OrdersNothing, CONTRACT.test_entries_are_given_by_number),
    (GivesTheNewestOfWhatChanged, CONTRACT.test_state_is_kept_by_height_until_pruned),
    (ScansOverTheSharedConnection, CONTRACT.test_a_scan_that_pauses_holds_up_no_other_read),
    (LocksNothing, CONTRACT.test_one_writer_at_a_time),
    (ForgetsItsLock, CONTRACT.test_one_writer_at_a_time),
    (LetsReadersWrite, CONTRACT.test_a_reader_beside_a_writer_reads_and_cannot_write),
    (ReadsNothingWhenClosed, CONTRACT.test_a_closed_store_says_so),
    (CopiesNoOneMoment, CONTRACT.test_snapshots_while_a_writer_goes_on_are_each_of_one_block),
]


def _names(pair: object) -> str:
    return getattr(pair, "__name__", "")


@pytest.mark.parametrize(("store", "promise"), BROKEN, ids=_names)
def test_a_broken_promise_is_noticed(
    store: type[PostgresStore], promise: Callable[..., None], url: str, tmp_path: Path
) -> None:
    world = PostgresWorld(url, store)
    needs_folder = "tmp_path" in promise.__code__.co_varnames[: promise.__code__.co_argcount]
    arguments: list[Any] = [world, tmp_path] if needs_folder else [world]
    try:
        with pytest.raises((AssertionError, LedgerError, psycopg.Error, pytest.fail.Exception)):
            promise(*arguments)
    finally:
        world.close()
