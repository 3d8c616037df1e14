"""The contract notices: a SQLite store with one promise broken fails the test of that promise."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ledger_core.errors import LedgerError
from ledger_core.log import Tile
from ledger_core.machine import BlockRow
from ledger_core.ports import Commit, EntryRow, StateRow, Submission
from ledger_core.stores.sqlite import SqliteStore
from tests.contract.ledger_store.ledger_store_contract import LedgerStoreContract
from tests.contract.ledger_store.ledger_store_worlds import SqliteWorld

CONTRACT = LedgerStoreContract()


class WritesRowByRow(SqliteStore):
    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with super()._transaction() as connection:
            connection.execute("COMMIT")
            yield connection
            connection.execute("BEGIN IMMEDIATE")


class ReadsWhatIsBeingWritten(SqliteStore):
    def _read(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        assert self._writing is not None
        return self._writing.execute(query, list(values)).fetchall()

    @contextmanager
    def _scanner(self) -> Iterator[sqlite3.Connection]:
        assert self._writing is not None
        yield self._writing


class ScansOverTheSharedConnection(SqliteStore):
    @contextmanager
    def _scanner(self) -> Iterator[sqlite3.Connection]:
        yield self._reading


class RemembersTheLastBlock(SqliteStore):
    seen: BlockRow | None = None

    def last_block(self) -> BlockRow | None:
        type(self).seen = self.seen or super().last_block()
        return self.seen


class FindsAnyNonce(SqliteStore):
    def find(self, signer: bytes, nonce: int) -> tuple[EntryRow, ...]:
        rows = self._read("SELECT idx FROM submissions WHERE signer = ? ORDER BY idx", (signer,))
        return tuple(EntryRow(row[0], 0, b"") for row in rows)


class FindsOnlyTheFirst(SqliteStore):
    def find(self, signer: bytes, nonce: int) -> tuple[EntryRow, ...]:
        return super().find(signer, nonce)[:1]


class CutsNonces(SqliteStore):
    def commit(self, commit: Commit) -> None:
        cut = tuple(Submission(each.signer, each.nonce % 2**63, each.index) for each in commit.submissions)
        super().commit(replace(commit, submissions=cut))


class KeepsTheFirstTile(SqliteStore):
    def commit(self, commit: Commit) -> None:
        super().commit(replace(commit, tiles=tuple(each for each in commit.tiles if not self._has(each))))

    def _has(self, tile: Tile) -> bool:
        return self.tile(tile.level, tile.index) is not None


class ReadsTilesModulo(SqliteStore):
    def tile(self, level: int, index: int) -> bytes | None:
        return super().tile(level + (index >> 56), index % 2**56)


class LooksForTheExactHeight(SqliteStore):
    def block_at(self, height: int) -> BlockRow | None:
        return next((row for row in self.blocks() if row.height == height), None)


class FindsTheNextSize(SqliteStore):
    def block_of_size(self, size: int) -> BlockRow | None:
        return next((row for row in self.blocks() if row.size >= size), None)


class CountsTheStopIn(SqliteStore):
    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[EntryRow]:
        return super().entries(start, None if stop is None else stop + 1)


class TakesABlockTwice(SqliteStore):
    def commit(self, commit: Commit) -> None:
        last = self.last_block()
        if last is None or last.height < commit.row.height:
            super().commit(commit)


class KeepsTheNewestValueOnly(SqliteStore):
    def commit(self, commit: Commit) -> None:
        super().commit(commit)
        super().prune(commit.row.height)


class GivesTheOldestValue(SqliteStore):
    def state(self) -> Iterator[tuple[bytes, bytes]]:
        first: dict[bytes, bytes] = {}
        for row in self.state_rows():
            first.setdefault(row.path, row.value)
        return iter(first.items())


class HidesPathsBornLater(SqliteStore):
    def changed_after(self, height: int) -> Iterator[tuple[bytes, bytes | None]]:
        return ((path, value) for path, value in super().changed_after(height) if value is not None)


class GivesTheValueAfterwards(SqliteStore):
    def changed_after(self, height: int) -> Iterator[tuple[bytes, bytes | None]]:
        newest = dict(self.state())
        return ((path, newest[path]) for path, _ in super().changed_after(height))


class PrunesOneTooMany(SqliteStore):
    def prune(self, height: int) -> int:
        return super().prune(height + 1)


class PrunesNothing(SqliteStore):
    def prune(self, height: int) -> int:
        return super().prune(0)


class ForgetsWhatWasPruned(SqliteStore):
    def meta(self, name: str) -> str | None:
        return None if name == "pruned_below" else super().meta(name)


class UnprunesByANumber(SqliteStore):
    def prune(self, height: int) -> int:
        dropped = super().prune(height)
        with self._transaction() as connection:
            connection.execute("UPDATE meta SET value = ? WHERE name = 'pruned_below'", (str(height),))
        return dropped


class SetsTheLastCosigned(SqliteStore):
    def replace_checkpoint(self, size: int, note: str) -> None:
        super().replace_checkpoint(size, note)
        with self._transaction() as connection:
            connection.execute("UPDATE meta SET value = ? WHERE name = 'cosigned'", (str(size),))


class KeepsTheFirstNote(SqliteStore):
    def replace_checkpoint(self, size: int, note: str) -> None:
        super().replace_checkpoint(size, self.checkpoint(size) or note)


class CopiesTheFileAlone(SqliteStore):
    def _copy(self, target: Path) -> None:
        target.write_bytes(self.path.read_bytes())


class CopiesRowsOneTableAtATime(SqliteStore):
    def _copy(self, target: Path) -> None:
        copy = sqlite3.connect(target)
        for (statement,) in self._read("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL"):
            copy.execute(statement)
        for table in ("checkpoints", "blocks", "state", "tiles", "submissions", "entries", "meta"):
            time.sleep(0.03)
            for row in self._scan(f"SELECT * FROM {table}"):
                copy.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)
        copy.commit()
        copy.close()


class OverwritesACopy(SqliteStore):
    def snapshot(self, target: Path) -> None:
        target.unlink(missing_ok=True)
        super().snapshot(target)


class LocksNothing(SqliteStore):
    @classmethod
    def open(cls, path: Path, **options: Any) -> "SqliteStore":
        alias = path.parent / "." / f"{threading.get_ident()}{len(list(path.parent.iterdir()))}"
        return super().open(path if not path.exists() else _linked(path, alias), **options)


class ForgetsItsLock(SqliteStore):
    def close(self) -> None:
        self._reading.close()
        assert self._writing is not None
        self._writing.close()


class LetsReadersWrite(SqliteStore):
    @classmethod
    def open_to_read(cls, path: Path, **options: Any) -> "SqliteStore":
        opened = super().open_to_read(path, **options)
        opened._writing = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        return opened


class ReadsNothingWhenClosed(SqliteStore):
    def _read(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        try:
            return super()._read(query, values)
        except LedgerError:
            return []


class OrdersStateByPath(SqliteStore):
    def state_rows(self) -> Iterator[StateRow]:
        return iter(sorted(super().state_rows(), key=lambda row: row.path))


class LosesSettings(SqliteStore):
    def begin(self, meta: Mapping[str, str], commit: Commit) -> None:
        super().begin({}, commit)


def _linked(path: Path, alias: Path) -> Path:
    alias.hardlink_to(path)
    return alias


BROKEN: list[tuple[type[SqliteStore], Callable[..., None]]] = [
    (WritesRowByRow, CONTRACT.test_a_write_that_fails_anywhere_leaves_nothing),
    (WritesRowByRow, CONTRACT.test_a_ledger_that_could_not_begin_can_begin_later),
    (WritesRowByRow, CONTRACT.test_a_block_that_is_there_already_is_refused_whole),
    (TakesABlockTwice, CONTRACT.test_a_block_that_is_there_already_is_refused_whole),
    (LosesSettings, CONTRACT.test_everything_is_there_at_once_and_after_reopening),
    (KeepsTheNewestValueOnly, CONTRACT.test_everything_is_there_at_once_and_after_reopening),
    (LooksForTheExactHeight, CONTRACT.test_blocks_are_found_by_height_and_size),
    (FindsTheNextSize, CONTRACT.test_blocks_are_found_by_height_and_size),
    (CountsTheStopIn, CONTRACT.test_entries_are_given_by_number),
    (ReadsTilesModulo, CONTRACT.test_what_does_not_exist_is_none_however_large_its_number),
    (FindsAnyNonce, CONTRACT.test_submissions_are_found_by_signer_and_nonce),
    (FindsOnlyTheFirst, CONTRACT.test_submissions_are_found_by_signer_and_nonce),
    (CutsNonces, CONTRACT.test_submissions_are_found_by_signer_and_nonce),
    (KeepsTheFirstTile, CONTRACT.test_tiles_grow_and_are_replaced),
    (GivesTheOldestValue, CONTRACT.test_state_is_kept_by_height_until_pruned),
    (OrdersStateByPath, CONTRACT.test_state_is_kept_by_height_until_pruned),
    (HidesPathsBornLater, CONTRACT.test_state_is_kept_by_height_until_pruned),
    (GivesTheValueAfterwards, CONTRACT.test_state_is_kept_by_height_until_pruned),
    (PrunesOneTooMany, CONTRACT.test_state_is_kept_by_height_until_pruned),
    (PrunesNothing, CONTRACT.test_state_is_kept_by_height_until_pruned),
    (ForgetsWhatWasPruned, CONTRACT.test_state_is_kept_by_height_until_pruned),
    (UnprunesByANumber, CONTRACT.test_state_is_kept_by_height_until_pruned),
    (SetsTheLastCosigned, CONTRACT.test_a_cosigned_checkpoint_takes_the_place_of_the_first),
    (KeepsTheFirstNote, CONTRACT.test_a_cosigned_checkpoint_takes_the_place_of_the_first),
    (ReadsWhatIsBeingWritten, CONTRACT.test_a_block_half_written_is_not_seen_and_holds_up_no_reader),
    (RemembersTheLastBlock, CONTRACT.test_readers_see_whole_blocks_and_never_an_old_moment),
    (ScansOverTheSharedConnection, CONTRACT.test_a_scan_that_pauses_holds_up_no_other_read),
    (LocksNothing, CONTRACT.test_one_writer_at_a_time),
    (ForgetsItsLock, CONTRACT.test_one_writer_at_a_time),
    (LetsReadersWrite, CONTRACT.test_a_reader_beside_a_writer_reads_and_cannot_write),
]
BROKEN_COPIES: list[tuple[type[SqliteStore], Callable[..., None]]] = [
    (ReadsNothingWhenClosed, CONTRACT.test_a_closed_store_says_so),
    (CopiesTheFileAlone, CONTRACT.test_a_snapshot_is_a_copy_as_of_its_block),
    (OverwritesACopy, CONTRACT.test_a_snapshot_is_a_copy_as_of_its_block),
    (CopiesRowsOneTableAtATime, CONTRACT.test_snapshots_while_a_writer_goes_on_are_each_of_one_block),
]


def _names(pair: object) -> str:
    return getattr(pair, "__name__", "")


@pytest.mark.parametrize(("store", "promise"), BROKEN, ids=_names)
def test_a_broken_promise_is_noticed(store: type[SqliteStore], promise: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises((AssertionError, LedgerError, sqlite3.Error, pytest.fail.Exception)):
        promise(SqliteWorld(tmp_path, store))


@pytest.mark.parametrize(("store", "promise"), BROKEN_COPIES, ids=_names)
def test_a_broken_copy_or_end_is_noticed(
    store: type[SqliteStore], promise: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "copies").mkdir()
    with pytest.raises((AssertionError, LedgerError, sqlite3.Error, pytest.fail.Exception)):
        promise(SqliteWorld(tmp_path, store), tmp_path / "copies")


def test_the_store_itself_keeps_these_promises(tmp_path: Path) -> None:
    for number, promise in enumerate(dict.fromkeys(promise for _, promise in BROKEN)):
        promise(SqliteWorld(tmp_path / str(number)))
