"""The SQLite key store: the contract, and what a file of wrapped keys promises."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fhir_bridge.adapters.keyring_file import FileKeyring
from fhir_bridge.adapters.keystore import SqliteKeyStore
from fhir_bridge.adapters.keystore_fsck import check_keys
from fhir_bridge.errors import IntegrityBroken, KeyMissing, SetupWrong, Unavailable
from fhir_bridge.ports.keys import KeyKind, KeyName
from tests.contract.keystore_contract import CHART, OTHER_HOUSE, SAME_SUBJECT, KeyStoreContract


class FileKeysWorld:
    """A key store file and its keyring."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "keys" / "keys.db"
        self.keyring = FileKeyring(folder / "keyring")
        self._open: SqliteKeyStore | None = None

    def open(self) -> SqliteKeyStore:
        self.close()
        self._open = SqliteKeyStore(self.path, self.keyring)
        return self._open

    def close(self) -> None:
        if self._open is not None:
            self._open.close()

    def sql(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    def findings(self) -> list[str]:
        return [f"{finding.place}: {finding.what}" for finding in check_keys(self.path, self.keyring)]


@pytest.fixture
def keys_world(tmp_path: Path) -> Iterator[FileKeysWorld]:
    world = FileKeysWorld(tmp_path)
    yield world
    world.close()


class TestSqliteKeyStoreKeepsTheContract(KeyStoreContract):
    pass


def test_no_key_lies_in_the_clear_and_none_is_left_after_erasure(keys_world: FileKeysWorld, tmp_path: Path) -> None:
    store = keys_world.open()
    key = store.ensure([CHART])[CHART]
    (wrapped,) = keys_world.sql("SELECT wrapped FROM keys")[0]
    assert isinstance(wrapped, bytes)
    store.erase(CHART)
    folder = tmp_path / "keys"
    for file in folder.iterdir():
        assert key not in file.read_bytes()
        assert wrapped not in file.read_bytes()


def test_an_erasure_under_a_reader_says_that_it_must_be_repeated(keys_world: FileKeysWorld) -> None:
    store = keys_world.open()
    store.ensure([CHART, SAME_SUBJECT])
    store._connection.execute("PRAGMA busy_timeout=50")
    with closing(sqlite3.connect(keys_world.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM keys").fetchone()
        with pytest.raises(Unavailable, match="erase it again"):
            store.erase(CHART)
        store.erase_all([SAME_SUBJECT])
        reader.execute("ROLLBACK")
    assert store.find(CHART) is None
    store.erase(CHART)
    assert keys_world.path.with_name("keys.db-wal").stat().st_size == 0


def test_files_are_for_the_owner_only(keys_world: FileKeysWorld, tmp_path: Path) -> None:
    keys_world.open().ensure([CHART])
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "keys").iterdir()}
    assert set(modes.values()) == {0o600}
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "change",
    [
        "kind = 'message'",
        "institution = 'harbor'",
        "subject = 'd'",
        "epoch = 2",
        "counter = counter + 1",
        "wrapped = zeroblob(length(wrapped))",
        "wrapped = x''",
    ],
)
def test_a_wrapped_key_opens_only_under_its_own_columns(keys_world: FileKeysWorld, change: str) -> None:
    keys_world.open().ensure([CHART])
    keys_world.keyring.make_kek("northgate", 2)
    keys_world.keyring.make_kek("harbor", 1)
    keys_world.sql(f"UPDATE keys SET {change}")
    kind, institution, subject = keys_world.sql("SELECT kind, institution, subject FROM keys")[0]
    with pytest.raises(IntegrityBroken):
        keys_world.open().get(KeyName(KeyKind(str(kind)), str(institution), str(subject)))
    assert any("does not open" in finding for finding in keys_world.findings())


def test_rotation_wraps_the_keys_of_one_institution_anew(keys_world: FileKeysWorld) -> None:
    store = keys_world.open()
    keys = dict(store.ensure([CHART, SAME_SUBJECT, OTHER_HOUSE]))
    assert store.rotate("northgate") == (1, 2)
    keys_world.keyring.destroy_kek("northgate", 1)
    again = keys_world.open()
    assert {name: again.get(name) for name in keys} == keys
    epochs = keys_world.sql("SELECT institution, epoch, counter FROM keys ORDER BY institution")
    assert epochs == [("harbor", 1, 0), ("northgate", 2, 1), ("northgate", 2, 1)]
    assert keys_world.findings() == []


def test_an_institution_that_has_sent_nothing_yet_has_nothing_to_rotate(keys_world: FileKeysWorld) -> None:
    store = keys_world.open()
    assert store.rotate("northgate") == (1, 1)
    store.ensure([CHART])
    assert store.rotate("northgate") == (1, 2)
    assert keys_world.findings() == []


def test_a_kek_that_wraps_nothing_any_more_is_rotated_away_all_the_same(keys_world: FileKeysWorld) -> None:
    store = keys_world.open()
    store.ensure([CHART])
    store.erase(CHART)
    assert store.rotate("northgate") == (1, 2)


def test_a_copy_from_before_a_rotation_is_useless_once_the_old_kek_is_destroyed(keys_world: FileKeysWorld) -> None:
    store = keys_world.open()
    store.ensure([CHART])
    old = keys_world.sql("SELECT wrapped FROM keys")[0][0]
    store.rotate("northgate")
    keys_world.keyring.destroy_kek("northgate", 1)
    keys_world.sql("UPDATE keys SET wrapped = ?, epoch = 1, counter = 0", old)
    with pytest.raises(KeyMissing):
        keys_world.open().get(CHART)


@pytest.mark.parametrize("lost", ["kek-northgate-1", "kek-_key-store-1"])
def test_a_lost_kek_is_said_to_be_missing_and_never_made_again(keys_world: FileKeysWorld, lost: str) -> None:
    keys_world.open().ensure([CHART, SAME_SUBJECT])
    keys_world.close()
    folder = keys_world.path.parents[1] / "keyring"
    (folder / lost).unlink()
    keys_world.keyring = FileKeyring(folder)
    with pytest.raises(KeyMissing, match=lost):
        keys_world.open().ensure([KeyName(KeyKind.CHART, "northgate", "new")])
    assert [finding.split(": ")[:2] for finding in keys_world.findings()] == [[f"keyring {lost}", "missing"]]
    assert not (folder / lost).exists()


def test_a_rotation_whose_current_kek_is_lost_makes_no_other(keys_world: FileKeysWorld, tmp_path: Path) -> None:
    store = keys_world.open()
    store.ensure([CHART])
    (tmp_path / "keyring" / "kek-northgate-1").unlink()
    keys_world.keyring = FileKeyring(tmp_path / "keyring")
    with pytest.raises(KeyMissing):
        keys_world.open().rotate("northgate")
    assert not list((tmp_path / "keyring").glob("kek-northgate-*"))


def test_an_untouched_key_store_has_no_finding(keys_world: FileKeysWorld) -> None:
    store = keys_world.open()
    store.ensure([CHART, SAME_SUBJECT])
    store.erase(CHART)
    assert keys_world.findings() == []


def test_deleted_added_and_returned_key_rows_are_located(keys_world: FileKeysWorld) -> None:
    store = keys_world.open()
    store.ensure([CHART, SAME_SUBJECT])
    row = keys_world.sql("SELECT * FROM keys WHERE kind = 'chart'")[0]
    store.erase(CHART)
    keys_world.sql("DELETE FROM keys WHERE kind = 'message'")
    keys_world.sql("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?)", *row)
    keys_world.sql("INSERT INTO keys VALUES ('id', 'x', '', 1, 0, x'00')")
    findings = keys_world.findings()
    place = "northgate/" + "c" * 32
    assert f"key store: keys chart/{place}: back, although journal 1 deleted it" in findings
    assert f"key store: keys message/{place}: deleted: journal 0 wrote it" in findings
    assert "key store: keys id/x/: added: no commit wrote it" in findings


def test_another_keyring_does_not_open_the_file(keys_world: FileKeysWorld, tmp_path: Path) -> None:
    keys_world.open().ensure([CHART])
    keys_world.close()
    with pytest.raises(IntegrityBroken):
        SqliteKeyStore(keys_world.path, FileKeyring(tmp_path / "another"))


def test_a_newer_layout_is_refused(keys_world: FileKeysWorld) -> None:
    keys_world.open()
    keys_world.sql("UPDATE stamp SET version = 2")
    with pytest.raises(SetupWrong, match="newer"):
        keys_world.open()


def test_a_file_of_another_kind_is_refused(keys_world: FileKeysWorld, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection, connection:
        connection.execute("CREATE TABLE t (x)")
    keys_world.path.parent.mkdir(mode=0o700)
    shutil.copy(other, keys_world.path)
    with pytest.raises(SetupWrong, match="not a key store"):
        keys_world.open()
