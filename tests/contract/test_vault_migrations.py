"""A vault that an older build wrote is checked as it stands, brought up when it is opened, and down when asked."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.adapters.migrations import Migration, bring
from fhir_bridge.adapters.sqlite_support import connect_file
from fhir_bridge.adapters.vault_fsck import check
from fhir_bridge.adapters.vault_schema import MIGRATIONS, VERSION, migrate_vault
from fhir_bridge.adapters.vault_sql import SqlVault
from fhir_bridge.adapters.vault_sqlite import SqliteDatabase
from fhir_bridge.cli.main import main
from fhir_bridge.errors import SetupWrong, Unavailable
from fhir_bridge.ports.vault import LettersWanted
from tests.contract.vault_samples import CHART, MAC_KEY, anchor, chart_key, work
from tests.support.bridge_world import fresh

OLD = Path(__file__).parents[1] / "vectors" / "vault" / "sqlite-1.sql"
SECOND = 1_000_000
BEGAN = 1_700_000_000 * SECOND


@pytest.fixture
def old(tmp_path: Path) -> Path:
    file = tmp_path / "vault.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(OLD.read_text("utf-8"))
    return file


def content(file: Path) -> list[str]:
    """Return tables, indexes and rows as SQLite spells them; the space between words apart."""
    with closing(sqlite3.connect(file)) as connection:
        return sorted(" ".join(line.split()) for line in connection.iterdump())


def layout(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        return int(connection.execute("SELECT version FROM stamp").fetchone()[0])


def findings(file: Path) -> list[Any]:
    return list(check(SqliteDatabase(file), MAC_KEY, chart_keys=chart_key))


def test_an_old_vault_is_checked_as_it_stands(old: Path) -> None:
    before = content(old)
    assert findings(old) == []
    assert content(old) == before


async def test_opening_brings_an_old_vault_up_and_it_goes_on(old: Path) -> None:
    before = content(old)
    vault = SqlVault(SqliteDatabase(old), MAC_KEY)
    assert [each.id for each in await vault.letters()] == ["l0", "l1", "l2", "l3"]
    wanted = LettersWanted(institution="northgate", since_us=BEGAN + SECOND, until_us=BEGAN + 3 * SECOND)
    assert [each.id for each in await vault.letters(wanted)] == ["l1"]
    await vault.close()
    assert layout(old) == VERSION == 2
    added = set(content(old)) - set(before)
    assert added == {
        "CREATE INDEX letters_by_time ON letters (received_at_us, id);",
        "INSERT INTO \"stamp\" VALUES('vault',2);",
    }
    vault = SqlVault(SqliteDatabase(old), MAC_KEY)
    await vault.commit(work(CHART, 2, "r9"), anchor)
    await vault.close()
    assert findings(old) == []


def test_letters_of_a_period_are_found_by_the_index(old: Path) -> None:
    migrate_vault(SqliteDatabase(old), 2)
    query = "SELECT * FROM letters WHERE received_at_us >= ? AND received_at_us < ? ORDER BY received_at_us, id"
    with closing(sqlite3.connect(old)) as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", (0, 1))]
    assert plan == ["SEARCH letters USING INDEX letters_by_time (received_at_us>? AND received_at_us<?)"]


async def test_a_vault_goes_down_to_what_the_old_build_wrote_and_up_again(old: Path) -> None:
    before = content(old)
    done = migrate_vault(SqliteDatabase(old), 2)
    assert (done.before, done.after, done.steps) == (1, 2, ("dead letters by time",))
    newer = content(old)
    done = migrate_vault(SqliteDatabase(old), 1)
    assert (done.before, done.after, done.steps) == (2, 1, ("dead letters by time",))
    assert content(old) == before
    assert findings(old) == []
    migrate_vault(SqliteDatabase(old), 2)
    assert content(old) == newer
    assert migrate_vault(SqliteDatabase(old), 2).steps == ()


def test_a_migration_that_fails_anywhere_leaves_the_old_vault(old: Path) -> None:
    before = content(old)
    for statement in ("CREATE INDEX", "UPDATE stamp", "COMMIT"):
        with pytest.raises(Unavailable):
            SqliteDatabase(old, _failing_at(statement)).open_writer()
        assert content(old) == before


def _failing_at(beginning: str) -> Any:
    is_prepared = [False]

    class Connection(sqlite3.Connection):
        def execute(self, query: str, values: Any = ()) -> sqlite3.Cursor:
            # The COMMIT of opening, before the migration, is not meant.
            if query.startswith(beginning) and (beginning != "COMMIT" or is_prepared[0]):
                failure = sqlite3.OperationalError("disk I/O error")
                failure.sqlite_errorcode = sqlite3.SQLITE_IOERR
                raise failure
            is_prepared[0] = is_prepared[0] or query.startswith("UPDATE stamp")
            return super().execute(query, values)

    def connect(path: Path, read_only: bool) -> sqlite3.Connection:
        if read_only:
            return connect_file(path, read_only)
        options: dict[str, Any] = {"isolation_level": None, "check_same_thread": False}
        return sqlite3.connect(path, factory=Connection, **options)

    return connect


@pytest.mark.parametrize("to", [-1, 0, 3, 99])
def test_a_layout_that_there_is_not_is_refused(old: Path, to: int) -> None:
    with pytest.raises(SetupWrong, match=f"has no layout {to}: this fhir-bridge knows 1 to 2"):
        migrate_vault(SqliteDatabase(old), to)
    assert findings(old) == []


def test_a_newer_vault_is_refused_and_a_missing_one_is_not_made(old: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("UPDATE stamp SET version = 3")
    for way in (lambda: SqliteDatabase(old).open_writer(), lambda: migrate_vault(SqliteDatabase(old), 1)):
        with pytest.raises(SetupWrong, match=r"newer version of fhir-bridge \(layout 3\)"):
            way()
    with pytest.raises(SetupWrong, match="there is no vault"):
        migrate_vault(SqliteDatabase(tmp_path / "none.db"), 1)
    assert not (tmp_path / "none.db").exists()


def test_steps_go_in_order_and_stop_where_data_has_no_way_back() -> None:
    steps = [
        Migration(2, "two", ("CREATE TABLE two (x)",), ("DROP TABLE two",)),
        Migration(3, "three", ("ALTER TABLE two RENAME TO three",), ("ALTER TABLE three RENAME TO two",)),
        Migration(4, "four", ("DROP TABLE three",), None),
    ]
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE stamp (version)")
        connection.execute("INSERT INTO stamp VALUES (1)")

        def tables() -> set[str]:
            return {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")} - {"stamp"}

        for to, expected in ((3, {"three"}), (2, {"two"}), (1, set()), (3, {"three"}), (1, set()), (4, set())):
            bring(connection, steps, to, what="store")
            assert (tables(), connection.execute("SELECT version FROM stamp").fetchone()) == (expected, (to,))
        with pytest.raises(SetupWrong, match=r"cannot go below layout 4 \(four\)"):
            bring(connection, steps, 2, what="store")
        assert connection.execute("SELECT version FROM stamp").fetchone() == (4,)


def test_the_list_of_migrations_leads_to_the_layout_of_this_build() -> None:
    assert [step.to for step in MIGRATIONS] == list(range(2, VERSION + 1))


def test_the_command_takes_a_data_directory_down_and_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = fresh(tmp_path)
    where = ["--data", str(data)]
    assert main(["migrate", "vault", "--to", "1", *where]) == 0
    assert capsys.readouterr().out == "undone: dead letters by time\nvault: layout 2 became 1\n"
    assert layout(data / "vault.db") == 1
    assert main(["migrate", "ledger", "--to", "2", *where]) == 0
    assert "ledger: layout 3 became 2" in capsys.readouterr().out
    assert main(["fsck", *where]) == 0
    assert main(["migrate", "vault", "--to", "7", *where]) == 2
    assert main(["migrate", "ledger", "--to", "1", *where]) == 2
    said = capsys.readouterr().err
    assert "knows 1 to 2" in said
    assert "the ledger has no layout 1" in said
    assert main(["migrate", "ledger", "--to", "3", *where]) == 0
    assert main(["migrate", "vault", "--to", "1", "--data", str(tmp_path / "none")]) == 2
    assert main(["fsck", *where]) == 0
