"""A file of the format before is read as it stands, and brought up to this one when it is opened to write."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ledger_core import Anchor, LedgerUnavailable, OpeningRefused, run_fsck
from ledger_core.cli.main import main
from ledger_core.opening import run_export, run_import, run_migrate, run_restore, run_snapshot
from ledger_core.stores.files import Connect, connect_file
from ledger_core.stores.schema import STEP_3
from ledger_core.stores.sqlite import SqliteStore
from tests.contract.ledger_store.ledger_store_samples import dump
from tests.support.ledger_v2 import APP_HASH, format_of, put_back, write_kept
from tests.unit.ledger_core.ledger_samples import OPERATOR, filler, open_test_ledger

OLD, NEW = "ledger-core/sqlite/v2", "ledger-core/sqlite/v3"
HEIGHT = 7


@pytest.fixture(params=[None, 4], ids=["whole", "pruned"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "old").mkdir()
    return write_kept(tmp_path / "old" / "ledger.db", pruned=request.param)


def replayed(old: Path, target: Path) -> Path:
    """Write what today's code makes of the same transactions, pruned like ``old``."""
    run_import(run_export(old), target)
    before = SqliteStore.open_to_read(old)
    pruned = before.meta("pruned_below")
    before.close()
    if pruned is not None:
        store = SqliteStore.open(target)
        store.prune(int(pruned))
        store.close()
    return target


def rows(file: Path) -> list[object]:
    """Return everything in a file, and every way back from its newest state."""
    store = SqliteStore.open_to_read(file)
    try:
        return [dump(store), *[sorted(store.changed_after(height)) for height in range(-1, HEIGHT + 2)]]
    finally:
        store.close()


def test_an_old_file_is_read_as_it_stands(old: Path, tmp_path: Path) -> None:
    expected = rows(replayed(old, tmp_path / "replayed.db"))
    assert list(run_fsck(old)) == []
    assert rows(old) == expected
    assert format_of(old) == OLD


def test_opening_brings_an_old_file_up_to_date_and_it_goes_on(old: Path, tmp_path: Path) -> None:
    expected = rows(replayed(old, tmp_path / "replayed.db"))
    with open_test_ledger(old.parent, genesis=None) as ledger:
        assert (ledger.height, ledger.app_hash.hex()) == (HEIGHT, APP_HASH)
    assert (format_of(old), rows(old)) == (NEW, expected)
    assert list(run_fsck(old)) == []
    with open_test_ledger(old.parent, genesis=None) as ledger:
        ledger.send(Anchor(filler(3), 1), OPERATOR).result(10)
        assert ledger.prune(HEIGHT + 1) > 0
    assert list(run_fsck(old)) == []


def test_an_old_file_whose_making_was_cut_off_is_begun(old: Path) -> None:
    """v2 made its tables in one transaction and wrote what they begin with in the next."""
    with sqlite3.connect(old) as connection:
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        for (table,) in tables:
            connection.execute(f"DELETE FROM {table}")
    connection.close()
    with open_test_ledger(old.parent) as ledger:
        ledger.send(Anchor(filler(3), 1), OPERATOR).result(10)
    assert format_of(old) == NEW
    assert list(run_fsck(old)) == []


def test_an_old_snapshot_is_made_and_restored(old: Path, tmp_path: Path) -> None:
    run_snapshot(old, tmp_path / "copy.db")
    assert format_of(tmp_path / "copy.db") == OLD
    (tmp_path / "restored").mkdir()
    assert list(run_restore(tmp_path / "copy.db", tmp_path / "restored" / "ledger.db")) == []
    with open_test_ledger(tmp_path / "restored", genesis=None) as ledger:
        assert ledger.app_hash.hex() == APP_HASH


def test_fsck_finds_what_is_wrong_in_an_old_file(old: Path) -> None:
    with sqlite3.connect(old) as connection:
        (path,) = connection.execute("SELECT path FROM state WHERE height = 5 ORDER BY length(value) DESC").fetchone()
        connection.execute("UPDATE state SET value = x'00' WHERE height = 5 AND path = ?", (path,))
    connection.close()
    assert {finding.where for finding in run_fsck(old)} == {f"state/{path.hex()}/5"}


def test_a_file_goes_down_to_what_the_old_build_wrote(old: Path) -> None:
    before = content(old)
    assert run_migrate(old, 3) == (2, (STEP_3,))
    assert (format_of(old), list(run_fsck(old))) == (NEW, [])
    assert run_migrate(old, 2) == (3, (STEP_3,))
    assert content(old) == before
    assert list(run_fsck(old)) == []


def test_what_came_after_the_upgrade_goes_down_too(large: Path, tmp_path: Path) -> None:
    """The rows are those that the test's own way back leads to, which the old build's reading was tried with."""
    run_snapshot(large, tmp_path / "other.db")
    with closing(sqlite3.connect(tmp_path / "other.db", isolation_level=None)) as connection:
        put_back(connection)
    assert main(["migrate", str(large), "--to", "2"]) == 0
    assert content(large) == content(tmp_path / "other.db")
    assert list(run_fsck(large)) == []
    assert main(["migrate", str(large), "--to", "3"]) == 0
    assert list(run_fsck(large)) == []


@pytest.mark.parametrize("to", [0, 1, 4])
def test_a_layout_that_there_is_not_is_refused(old: Path, to: int) -> None:
    before = content(old)
    with pytest.raises(OpeningRefused, match=f"no layout {to}: this build knows 2 and 3"):
        run_migrate(old, to)
    assert content(old) == before


def test_a_way_down_that_fails_anywhere_leaves_the_file(large: Path) -> None:
    before, failures = content(large), 0
    while format_of(large) == NEW:
        store = SqliteStore.open(large, connect=_failing_after(failures))
        try:
            store.bring_down()
        except LedgerUnavailable:
            failures += 1
        finally:
            store.close()
        assert (content(large) == before) == (format_of(large) == NEW)
    assert failures >= 7


def content(file: Path) -> list[str]:
    """Return tables and rows as SQLite spells them; the space between words and quotes of names apart."""
    with closing(sqlite3.connect(file)) as connection:
        return sorted(" ".join(line.replace('"', "").split()).replace("( ", "(") for line in connection.iterdump())


def test_an_upgrade_that_fails_anywhere_leaves_the_old_file(old: Path) -> None:
    expected, failures = rows(old), 0
    while format_of(old) == OLD:
        try:
            SqliteStore.open(old, connect=_failing_after(failures)).close()
        except LedgerUnavailable:
            failures += 1
            assert (format_of(old), rows(old)) == (OLD, expected)
    assert failures == 8
    assert (format_of(old), rows(old)) == (NEW, expected)


def test_a_file_of_no_known_format_is_left_alone(old: Path) -> None:
    with sqlite3.connect(old) as connection:
        connection.execute("UPDATE meta SET value = 'ledger-core/sqlite/v9' WHERE name = 'format'")
    connection.close()
    for opening in (SqliteStore.open, SqliteStore.open_to_read):
        with pytest.raises(OpeningRefused, match=r"newer version \(ledger-core/sqlite/v9\)"):
            opening(old)
    assert format_of(old) == "ledger-core/sqlite/v9"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A ledger of today's format with a full tile and a little more."""
    with open_test_ledger(tmp_path) as ledger:
        envelopes = [ledger.sign(Anchor(filler(1), number), OPERATOR) for number in range(1, 300)]
        assert len(ledger.submit_many(envelopes).result(60)) == 299
    return tmp_path / "ledger.db"


def test_a_file_put_back_into_the_old_format_is_made_what_it_was(large: Path) -> None:
    expected = rows(large)
    assert len(dict(_middles(large))) == 1
    connection = sqlite3.connect(large, isolation_level=None)
    put_back(connection)
    connection.close()
    assert (format_of(large), _middles(large)) == (OLD, [])
    open_test_ledger(large.parent, genesis=None).close()
    assert (format_of(large), rows(large)) == (NEW, expected)


@pytest.mark.parametrize(
    "change", ["UPDATE middles SET hashes = zeroblob(512)", "INSERT INTO middles SELECT 1, hashes FROM middles"]
)
def test_a_middle_that_does_not_follow_from_the_entries_is_located(large: Path, change: str) -> None:
    with sqlite3.connect(large) as connection:
        assert connection.execute(change).rowcount == 1
    connection.close()
    assert [finding.where for finding in run_fsck(large)] == [f"middles/{int('INSERT' in change)}"]
    with sqlite3.connect(large) as connection:
        connection.execute("DELETE FROM middles")
    connection.close()
    assert list(run_fsck(large)) == []
    with open_test_ledger(large.parent, genesis=None) as ledger:
        assert len(ledger.prove_transaction(7)) == 9


def _middles(file: Path) -> list[tuple[int, bytes]]:
    store = SqliteStore.open_to_read(file)
    try:
        return list(store.middles())
    finally:
        store.close()


class _Failing(sqlite3.Connection):
    """Fails at a statement of its transaction, and forgets it as a closed connection does."""

    left = 0

    def execute(self, query: str, values: Any = ()) -> sqlite3.Cursor:
        if self.in_transaction and query != "ROLLBACK":
            if self.left == 0:
                raise sqlite3.OperationalError("disk I/O error")
            self.left -= 1
        return super().execute(query, values)


def _failing_after(statements: int) -> Connect:
    def connect(path: Path, read_only: bool) -> sqlite3.Connection:
        if read_only:
            return connect_file(path, read_only)
        opened = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=_Failing)
        opened.left = statements
        return opened

    return connect
