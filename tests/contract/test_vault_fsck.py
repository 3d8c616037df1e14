"""Whatever is done to a vault beneath the service is found, and said where."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from fhir_bridge.adapters.keyring_file import FileKeyring
from fhir_bridge.adapters.keystore import SqliteKeyStore
from fhir_bridge.adapters.keystore_fsck import journal_heads
from fhir_bridge.adapters.vault_fsck import check
from fhir_bridge.adapters.vault_sql import SqlVault
from fhir_bridge.adapters.vault_sqlite import SqliteDatabase
from fhir_bridge.errors import SetupWrong
from fhir_bridge.model.ingest import Position
from fhir_bridge.ports.keys import KeyKind, KeyName
from fhir_bridge.ports.vault import Batch, Document, SealedLetter
from ledger_core import MerkleBatch
from tests.contract.vault_samples import CHART, MAC_KEY, OTHER_CHART, anchor, audit, chart_key, work

LETTER = SealedLetter("l1", "northgate", "invalid", 5, b"envelope")

PLACES = {
    "records": f"records {CHART}/r1/v1",
    "segments": f"segments {CHART}/0",
    "positions": "positions spool/s/0",
    "letters": "letters l1",
    "documents": "documents links/k",
    "audits": "audits chain/0",
    "batches": "batches 0",
    "anchors": "anchors 0",
}
"""One row of every table that the story below writes, and where fsck must point."""

CHOSEN = {
    "records": "id = 'r1'",
    "segments": f"chart = '{CHART}' AND number = 0",
    "positions": "bus = 'spool'",
    "letters": "id = 'l1'",
    "documents": "key = 'k'",
    "audits": "counter = 0",
    "batches": "number = 0",
    "anchors": "number = 0",
}

EDITS = {
    ("records", "version"): "'v9'",
    ("records", "chart"): f"'{OTHER_CHART}'",
    ("records", "batch"): "1",
    ("records", "commitment"): "zeroblob(32)",
    ("records", "normalised"): "original",
    ("records", "original"): "lineage",
    ("records", "lineage"): "zeroblob(400)",
    ("segments", "batch"): "1",
    ("segments", "ciphertext"): "zeroblob(400)",
    ("positions", "next_offset"): "next_offset - 1",
    ("letters", "institution"): "'harbor'",
    ("letters", "reason"): "'structure'",
    ("letters", "received_at_us"): "6",
    ("letters", "envelope"): "x'00'",
    ("letters", "status"): "'open '",
    ("documents", "value"): "x'00'",
    ("audits", "batch"): "1",
    ("audits", "previous"): "zeroblob(32)",
    ("audits", "head"): "zeroblob(32)",
    ("audits", "envelope"): "x'00'",
    ("batches", "journal"): "journal + 1",
    ("batches", "root"): "zeroblob(32)",
    ("batches", "leaves"): "zeroblob(32)",
    ("batches", "envelope"): "x'00'",
    ("batches", "head_salt"): "zeroblob(32)",
    ("batches", "head_index"): "head_index + 1",
    ("anchors", "height"): "height + 1",
    ("anchors", "log_index"): "log_index + 1",
}


class Story:
    """A vault with something in every table, closed, and copies of its file along the way."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "vault.db"
        self.earlier = folder / "earlier.db"
        self.roots: list[bytes] = []

    async def tell(self) -> None:
        vault = SqlVault(SqliteDatabase(self.path), MAC_KEY)
        first = replace(
            work(CHART, 0, "r1", "r2"),
            positions=[Position("spool", "s", 0, 0)],
            letters=[LETTER],
            documents=[Document("links", "k", b"1"), Document("links", "passing", b"x")],
            audits=[audit("chain", 0)],
        )
        await vault.commit(first, anchor)
        await vault.mark_anchored([(0, 1, 10)])
        await vault.close()
        shutil.copy(self.path, self.earlier)
        vault = SqlVault(SqliteDatabase(self.path), MAC_KEY)
        later = replace(
            work(CHART, 1, "r3"),
            positions=[Position("spool", "s", 0, 1)],
            letters=[replace(LETTER, status="replayed")],
            documents=[Document("links", "k", b"2"), Document("links", "passing", None)],
            audits=[audit("chain", 1)],
        )
        await vault.commit(later, anchor)
        await vault.mark_anchored([(1, 2, 20)])
        self.roots = [(await vault.batch(number)).root for number in (0, 1)]
        await vault.close()

    def sql(self, statement: str, path: Path | None = None) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(path or self.path)) as connection, connection:
            return connection.execute(statement).fetchall()

    def put_back(self, table: str) -> None:
        """Replace the chosen row by what it was earlier."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("ATTACH ? AS earlier", (str(self.earlier),))
            connection.execute(f"INSERT OR REPLACE INTO {table} SELECT * FROM earlier.{table} WHERE {CHOSEN[table]}")
            connection.commit()
            connection.execute("DETACH earlier")

    def findings(self, *, deep: bool = False, ledger: bool = True) -> dict[str, str]:
        """Return what fsck says by place."""
        chart_keys: Callable[[str], bytes | None] | None = chart_key if deep else None
        roots = set(self.roots) if ledger else None
        found = check(SqliteDatabase(self.path), MAC_KEY, anchored_roots=roots, chart_keys=chart_keys)
        said: dict[str, str] = {}
        for finding in found:
            said[finding.place] = f"{said.get(finding.place, '')}{finding.what}\n"
        return said


@pytest.fixture
async def story(tmp_path: Path) -> Story:
    told = Story(tmp_path)
    await told.tell()
    return told


async def test_an_honest_vault_has_no_finding(story: Story) -> None:
    assert story.findings(deep=True) == {}


@pytest.mark.parametrize(("table", "column"), EDITS)
async def test_an_edited_column_is_located(story: Story, table: str, column: str) -> None:
    story.sql(f"UPDATE {table} SET {column} = {EDITS[table, column]} WHERE {CHOSEN[table]}")
    place = PLACES[table]
    said = story.findings()
    assert place in said
    assert all(other == place or place.split()[0] in other or "batches" in place for other in said)


def test_every_column_that_is_not_a_key_is_edited_above() -> None:
    from fhir_bridge.adapters.vault_schema import TABLES

    wanted = {(t.name, column) for t in TABLES.values() for column in t.columns[t.key_size :]}
    assert wanted <= set(EDITS)
    assert set(TABLES) == set(PLACES)


@pytest.mark.parametrize("table", PLACES)
async def test_a_deleted_row_is_located(story: Story, table: str) -> None:
    story.sql(f"DELETE FROM {table} WHERE {CHOSEN[table]}")
    assert "deleted" in story.findings()[PLACES[table]]


@pytest.mark.parametrize("table", ["positions", "letters", "documents"])
async def test_a_row_put_back_as_it_once_was_is_located_with_its_time(story: Story, table: str) -> None:
    story.put_back(table)
    assert story.findings() == {PLACES[table]: "rolled back to what journal 0 wrote\n"}


async def test_a_deleted_document_put_back_is_located(story: Story) -> None:
    story.sql("INSERT INTO documents VALUES ('links', 'passing', x'78')")
    assert "back, although journal" in story.findings()["documents links/passing"]


@pytest.mark.parametrize(
    ("statement", "place"),
    [
        ("INSERT INTO documents VALUES ('links', 'new', x'00')", "documents links/new"),
        ("INSERT INTO letters VALUES ('l9', 'northgate', 'invalid', 1, x'00', 'open')", "letters l9"),
        ("INSERT INTO positions VALUES ('kafka', 's', 0, 1)", "positions kafka/s/0"),
        (f"INSERT INTO segments VALUES ('{CHART}', 2, 1, x'00')", f"segments {CHART}/2"),
        ("INSERT INTO audits VALUES ('chain', 2, NULL, x'00', x'00', x'00')", "audits chain/2"),
        ("INSERT INTO anchors VALUES (2, 1, 1)", "anchors 2"),
        ("INSERT INTO batches SELECT 2, journal, root, leaves, envelope, head_salt, head_index FROM batches"
         " WHERE number = 1", "batches 2"),
        (f"INSERT INTO records SELECT NULL, '{OTHER_CHART}', id, version, batch, commitment, normalised, original,"
         " lineage FROM records WHERE id = 'r1'", f"records {OTHER_CHART}/r1/v1"),
    ],
)  # fmt: skip
async def test_an_added_row_is_located(story: Story, statement: str, place: str) -> None:
    story.sql(statement)
    assert "added: no commit wrote it" in story.findings()[place]


async def test_a_journal_row_edited_with_its_table_row_is_located(story: Story) -> None:
    story.put_back("documents")
    old = story.sql("SELECT entries FROM journal WHERE number = 0")[0][0]
    assert isinstance(old, bytes)
    with closing(sqlite3.connect(story.path)) as connection, connection:
        connection.execute("UPDATE journal SET entries = ? WHERE number = 3", (old,))
    assert "edited" in story.findings()["journal 3"]


async def test_a_journal_row_removed_from_the_middle_is_located(story: Story) -> None:
    story.sql("DELETE FROM journal WHERE number = 2")
    assert "missing" in story.findings()["journal 2"]


async def test_a_journal_row_under_another_key_is_located(story: Story) -> None:
    story.sql("UPDATE journal SET head = zeroblob(32) WHERE number = 0")
    said = story.findings()
    assert "edited" in said["journal 0"]
    assert "head of journal 0" in said["batches 0"]


async def test_a_vault_put_back_as_a_whole_is_found_by_the_ledger(story: Story) -> None:
    shutil.copy(story.earlier, story.path)
    assert story.findings(ledger=False) == {}
    assert story.findings() == {
        "vault": f"older than the ledger: it lacks the anchored batch {story.roots[1].hex()}\n"
    }


async def test_a_root_that_the_ledger_does_not_know_is_found(story: Story) -> None:
    story.roots.pop()
    assert "no such root" in story.findings()["batches 1"]


async def test_a_pending_batch_that_the_ledger_lacks_is_no_finding(story: Story) -> None:
    vault = SqlVault(SqliteDatabase(story.path), MAC_KEY)
    await vault.commit(work(CHART, 2, "r4"), anchor)
    await vault.close()
    assert story.findings(deep=True) == {}


@pytest.mark.parametrize(
    ("statement", "place", "what"),
    [
        ("UPDATE records SET normalised = (SELECT normalised FROM records WHERE id = 'r2') WHERE id = 'r1'",
         f"records {CHART}/r1/v1", "normalised: the envelope was changed, or belongs to another place"),
        ("UPDATE records SET original = (SELECT original FROM records WHERE id = 'r2') WHERE id = 'r1'",
         f"records {CHART}/r1/v1", "original: the envelope was changed"),
        ("UPDATE records SET lineage = original WHERE id = 'r1'",
         f"records {CHART}/r1/v1", "lineage: the envelope commits to another key"),
        (f"UPDATE segments SET number = 1 - number + 10 WHERE chart = '{CHART}'",
         f"segments {CHART}/10", "belongs to another place"),
        ("DELETE FROM records WHERE id = 'r1'", f"records {CHART}/r1/v1", "missing, although the index names it"),
    ],
)  # fmt: skip
async def test_with_the_keys_each_envelope_is_held_to_its_commitment(
    story: Story, statement: str, place: str, what: str
) -> None:
    story.sql(statement)
    assert what in story.findings(deep=True)[place]


def _without(commitment: bytes, batch: Batch) -> Batch:
    """Replace one leaf, and give the root of what is left."""
    leaves = tuple(bytes(32) if leaf == commitment else leaf for leaf in batch.leaves)
    return replace(batch, leaves=leaves, root=MerkleBatch(leaves).root)


@pytest.mark.parametrize(
    ("twist", "place", "what"),
    [
        (lambda batch, _: replace(batch, root=bytes(32)), "batches 0", "its leaves do not give its root\n"),
        (lambda batch, _: replace(batch, head_salt=bytes(32)), "batches 0", "does not carry the head"),
        (lambda batch, c: _without(c, batch), f"records {CHART}/r1/v1", "its commitment is not in batch 0\n"),
    ],
)
async def test_a_batch_that_was_wrong_from_the_beginning_is_found(
    tmp_path: Path, twist: Callable[[Batch, bytes], Batch], place: str, what: str
) -> None:
    """The journal is honest here: whoever anchors, not whoever holds the disk, is at fault."""
    written = work(CHART, 0, "r1")

    def wrong(*, number: int, commitments: Sequence[bytes], journal_head: bytes) -> Batch:
        batch = anchor(number=number, commitments=commitments, journal_head=journal_head)
        return twist(batch, written.records[0].commitment)

    vault = SqlVault(SqliteDatabase(tmp_path / "vault.db"), MAC_KEY)
    await vault.commit(written, wrong)
    await vault.close()
    (finding,) = check(SqliteDatabase(tmp_path / "vault.db"), MAC_KEY)
    assert finding.place == place
    assert what in f"{finding.what}\n"


async def test_a_commitment_that_is_not_of_its_envelopes_is_found_with_the_keys(tmp_path: Path) -> None:
    honest = work(CHART, 0, "r1")
    written = replace(honest, records=[structs.replace(honest.records[0], commitment=bytes(range(32)))])
    vault = SqlVault(SqliteDatabase(tmp_path / "vault.db"), MAC_KEY)
    await vault.commit(written, anchor)
    await vault.close()
    assert list(check(SqliteDatabase(tmp_path / "vault.db"), MAC_KEY)) == []
    (finding,) = check(SqliteDatabase(tmp_path / "vault.db"), MAC_KEY, chart_keys=chart_key)
    assert (finding.place, finding.what) == (
        f"records {CHART}/r1/v1",
        "what opens is not what the commitment binds",
    )


async def test_a_hole_between_index_segments_is_found_with_the_keys(story: Story) -> None:
    story.sql(f"DELETE FROM segments WHERE chart = '{CHART}' AND number = 0")
    assert "missing" in story.findings(deep=True)[f"segments {CHART}/0"].splitlines()


async def test_a_journal_cut_off_beneath_a_batch_is_found(story: Story) -> None:
    newest = story.sql("SELECT max(journal) FROM batches")[0][0]
    story.sql(f"DELETE FROM journal WHERE number >= {newest}")
    assert story.findings()[f"journal {newest}"] == "missing: batch 1 carries its head\n"


async def test_a_missing_batch_is_told_as_a_gap_too(story: Story) -> None:
    story.sql("DELETE FROM batches WHERE number = 0")
    assert "missing, up to 0" in story.findings()["batches 0"].splitlines()


async def test_an_erased_chart_is_not_opened_and_is_no_finding(story: Story) -> None:
    assert list(check(SqliteDatabase(story.path), MAC_KEY, chart_keys=lambda chart: None)) == []


async def test_a_damaged_file_is_a_finding_not_a_crash(story: Story) -> None:
    content = bytearray(story.path.read_bytes())
    content[4096 : 4096 * 6] = bytes(4096 * 5)
    story.path.write_bytes(bytes(content))
    assert story.findings()


def test_what_is_no_vault_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupWrong):
        list(check(SqliteDatabase(tmp_path / "none.db"), MAC_KEY))
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection, connection:
        connection.execute("CREATE TABLE t (x)")
    with pytest.raises(SetupWrong):
        list(check(SqliteDatabase(tmp_path / "x.db"), MAC_KEY))


async def test_a_key_store_put_back_as_a_whole_is_found_by_the_vault(tmp_path: Path) -> None:
    keys_path = tmp_path / "keys.db"
    keys = SqliteKeyStore(keys_path, FileKeyring(tmp_path / "keyring"))
    keys.ensure([KeyName(KeyKind.CHART, "northgate", CHART)])
    vault = SqlVault(SqliteDatabase(tmp_path / "vault.db"), MAC_KEY, key_head=keys.head)
    await vault.commit(work(CHART, 0, "r1"), anchor)
    keys.close()
    shutil.copy(keys_path, tmp_path / "earlier.db")

    keys = SqliteKeyStore(keys_path, FileKeyring(tmp_path / "keyring"))
    keys.ensure([KeyName(KeyKind.CHART, "northgate", OTHER_CHART)])
    vault._writer._key_head = keys.head
    await vault.commit(work(OTHER_CHART, 0, "r2"), anchor)
    await vault.close()
    keys.close()
    assert list(check(SqliteDatabase(tmp_path / "vault.db"), MAC_KEY, key_store_heads=journal_heads(keys_path))) == []

    shutil.copy(tmp_path / "earlier.db", keys_path)
    (finding,) = check(SqliteDatabase(tmp_path / "vault.db"), MAC_KEY, key_store_heads=journal_heads(keys_path))
    assert finding.place == "key store"
    assert "rolled back" in finding.what
