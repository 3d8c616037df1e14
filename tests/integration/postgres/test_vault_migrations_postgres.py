"""A vault on PostgreSQL that an older build wrote goes up, goes on, and goes down again."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from fhir_bridge.adapters.vault_fsck import check
from fhir_bridge.adapters.vault_postgres import PostgresDatabase
from fhir_bridge.adapters.vault_schema import migrate_vault
from fhir_bridge.adapters.vault_sql import SqlVault
from fhir_bridge.errors import DataDirectoryInUse, SetupWrong
from ledger_core import OpeningRefused, run_copy, run_export, run_fsck
from ledger_core.opening import run_migrate
from tests.contract.vault_samples import CHART, MAC_KEY, anchor, chart_key, work
from tests.support.ledger_v2 import write_kept

OLD = Path(__file__).parents[2] / "vectors" / "vault" / "postgres-1.sql"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def old(url: str) -> str:
    with psycopg.connect(url) as connection:
        connection.execute(OLD.read_bytes())
    return url


def indexes(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT indexname FROM pg_indexes WHERE schemaname = 'public'").fetchall()
    return {str(name) for (name,) in found}


def layout(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT version FROM stamp").fetchone()
    assert row is not None
    return int(row[0])


def findings(url: str) -> list[str]:
    return [each.place for each in check(PostgresDatabase(url), MAC_KEY, chart_keys=chart_key)]


async def test_an_old_vault_is_checked_goes_up_goes_on_and_goes_down(old: str) -> None:
    before = indexes(old)
    assert findings(old) == []
    assert layout(old) == 1
    vault = SqlVault(PostgresDatabase(old), MAC_KEY)
    assert (layout(old), indexes(old) - before) == (2, {"letters_by_time"})
    assert [each.id for each in await vault.letters()] == ["l0", "l1", "l2", "l3"]
    await vault.commit(work(CHART, 2, "r9"), anchor)
    with pytest.raises(DataDirectoryInUse):
        migrate_vault(PostgresDatabase(old), 1)
    await vault.close()
    assert findings(old) == []
    done = migrate_vault(PostgresDatabase(old), 1)
    assert (done.before, done.after, done.steps) == (2, 1, ("dead letters by time",))
    assert (layout(old), indexes(old), findings(old)) == (1, before, [])


def test_a_migration_that_fails_leaves_the_old_vault(old: str) -> None:
    with psycopg.connect(old) as connection:
        connection.execute("ALTER TABLE stamp ADD CONSTRAINT stays CHECK (version < 2)")
    before = indexes(old)
    with pytest.raises(Exception, match="vault"):
        PostgresDatabase(old).open_writer()
    assert (layout(old), indexes(old)) == (1, before)


def test_layouts_that_there_are_not_are_refused(old: str) -> None:
    with pytest.raises(SetupWrong, match="knows 1 to 2"):
        migrate_vault(PostgresDatabase(old), 3)
    with psycopg.connect(old) as connection:
        connection.execute("UPDATE stamp SET version = 3")
    for way in (lambda: PostgresDatabase(old).open_writer(), lambda: migrate_vault(PostgresDatabase(old), 1)):
        with pytest.raises(SetupWrong, match="newer version"):
            way()


def test_a_ledger_of_an_older_file_goes_into_a_database(url: str, tmp_path: Path) -> None:
    old = write_kept(tmp_path / "old.db", pruned=4)
    run_copy(old, url)
    assert list(run_fsck(url)) == []
    assert list(run_export(url)) == list(run_export(old))
    assert run_migrate(url, 1) == (1, ())
    with pytest.raises(OpeningRefused, match="knows 1 here"):
        run_migrate(url, 2)
