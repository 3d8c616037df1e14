"""Tables of the vault, as the vault writes them and fsck reads them (docs/formats/vault.md).

Every table but the journal is covered by the journal: the digest of a row is
over all columns listed here, in this order.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

from fhir_bridge.adapters import journal
from fhir_bridge.adapters.journal import Table
from fhir_bridge.adapters.migrations import Migrated, Migration, bring
from fhir_bridge.adapters.vault_database import VaultDatabase

WHAT = "vault"
VERSION = 2

KEY_STORE = "key-store"
"""Journal name of what is not a table here: heads of the key store's own journal, by their number."""

_LETTERS_BY_TIME = "CREATE INDEX letters_by_time ON letters (received_at_us, id)"
SCHEMA = f"""
CREATE TABLE records (
    seq INTEGER PRIMARY KEY, chart TEXT NOT NULL, id TEXT NOT NULL, version TEXT NOT NULL, batch INTEGER NOT NULL,
    commitment BLOB NOT NULL, normalised BLOB NOT NULL, original BLOB NOT NULL, lineage BLOB NOT NULL,
    UNIQUE (chart, id, version)) STRICT;
CREATE INDEX records_by_id ON records (id, chart);
CREATE TABLE segments (
    chart TEXT NOT NULL, number INTEGER NOT NULL, batch INTEGER NOT NULL, ciphertext BLOB NOT NULL,
    PRIMARY KEY (chart, number)) STRICT;
CREATE TABLE positions (
    bus TEXT NOT NULL, stream TEXT NOT NULL, part INTEGER NOT NULL, next_offset INTEGER NOT NULL,
    PRIMARY KEY (bus, stream, part)) STRICT;
CREATE TABLE letters (
    id TEXT PRIMARY KEY, institution TEXT NOT NULL, reason TEXT NOT NULL, received_at_us INTEGER NOT NULL,
    envelope BLOB NOT NULL, status TEXT NOT NULL) STRICT;
{_LETTERS_BY_TIME};
CREATE TABLE documents (
    collection TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (collection, key)) STRICT;
CREATE TABLE audits (
    chain TEXT NOT NULL, counter INTEGER NOT NULL, batch INTEGER, previous BLOB NOT NULL, head BLOB NOT NULL,
    envelope BLOB NOT NULL, PRIMARY KEY (chain, counter)) STRICT;
CREATE TABLE batches (
    number INTEGER PRIMARY KEY, journal INTEGER NOT NULL, root BLOB NOT NULL, leaves BLOB NOT NULL,
    envelope BLOB NOT NULL, head_salt BLOB NOT NULL, head_index INTEGER NOT NULL) STRICT;
CREATE TABLE anchors (number INTEGER PRIMARY KEY, height INTEGER NOT NULL, log_index INTEGER NOT NULL) STRICT;
{journal.SCHEMA}
"""


MIGRATIONS = (Migration(2, "dead letters by time", (_LETTERS_BY_TIME,), ("DROP INDEX letters_by_time",)),)


def for_postgres(schema: str) -> str:
    """Return the same tables in PostgreSQL's words: types, an identity, text ordered by its bytes as in SQLite."""
    for ours, theirs in _POSTGRES:
        schema = schema.replace(ours, theirs)
    return schema


_POSTGRES = (
    (" STRICT", ""),
    ("seq INTEGER PRIMARY KEY", "seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"),
    (" INTEGER", " BIGINT"),
    (" BLOB", " BYTEA"),
    (" TEXT", ' TEXT COLLATE "C"'),
)

TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        Table(
            "records",
            ("chart", "id", "version", "batch", "commitment", "normalised", "original", "lineage"),
            3,
        ),
        Table("segments", ("chart", "number", "batch", "ciphertext"), 2),
        Table("positions", ("bus", "stream", "part", "next_offset"), 3),
        Table("letters", ("id", "institution", "reason", "received_at_us", "envelope", "status"), 1),
        Table("documents", ("collection", "key", "value"), 2),
        Table("audits", ("chain", "counter", "batch", "previous", "head", "envelope"), 2),
        Table("batches", ("number", "journal", "root", "leaves", "envelope", "head_salt", "head_index"), 1),
        Table("anchors", ("number", "height", "log_index"), 1),
    )
}


def migrate_vault(vault: VaultDatabase, to: int) -> Migrated:
    """Bring a vault that nobody has open to another layout.

    Raises:
        SetupWrong: There is no vault, no such layout, no way to it, or another process writes the vault.
        Unavailable: It does not answer; nothing was changed.
    """
    with vault.translated(), closing(vault.open_checker()) as reading, vault.snapshot(reading):
        found = int(reading.execute("SELECT version FROM stamp").fetchone()[0])
    with vault.translated(), closing(vault.open_writer()) as writer, vault.transaction(writer):
        bring(writer, MIGRATIONS, to, what=WHAT)
    return Migrated(found, to, tuple(step.name for step in MIGRATIONS if min(found, to) < step.to <= max(found, to)))
