"""What a stopped service's data say in plain text, item by item, so that two runs can be compared.

A second, simpler reading than the one in ``adapters/vault_digest.py``: rows
are taken from the file, opened, and listed; nothing is folded into one digest,
so that a difference names the record it is in.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from msgspec import structs

from fhir_bridge.adapters.ambient import SystemRandomness
from fhir_bridge.adapters.keyring_file import FileKeyring
from fhir_bridge.adapters.keystore import SqliteKeyStore
from fhir_bridge.adapters.keystore_fsck import read_keys
from fhir_bridge.adapters.vault_digest import state_digest
from fhir_bridge.adapters.vault_sql import SqlVault
from fhir_bridge.adapters.vault_sqlite import SqliteDatabase
from fhir_bridge.lines.evidence import Evidence
from fhir_bridge.lines.notary import Notary
from fhir_bridge.lines.registry import OPERATOR, Registry
from fhir_bridge.lines.versions import place
from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.ports.keys import KeyKind, KeyName
from fhir_bridge.ports.vault import StoredSegment
from fhir_bridge.seal import LINEAGE, ORIGINAL, RecordPlace, open_normalised, open_part, open_segment
from ledger_core import Identity, Policy, open_ledger
from ledger_core.verify import OPERATOR_ATTESTED, verify_receipt

_LAST_UPDATED = re.compile(rb'"lastUpdated":"[^"]*"')
_RECORDS = "SELECT chart, id, version, normalised, original, lineage FROM records"
_SEGMENTS = "SELECT chart, number, batch, ciphertext FROM segments ORDER BY chart, number"
_BUSY_S = 60.0
"""Patience with a service that recovers its files or lets go of them, on a machine that has other things to do."""
_LETTERS = "SELECT id, institution, reason, status FROM letters"


class Incomplete(AssertionError):
    """An index row without a record, or a record without an index row: something was lost or doubled."""


@dataclass(frozen=True, slots=True)
class State:
    """Every record version, history and dead letter, each as often as it is there.

    ``records`` maps ``chart/id/version`` to the digest of plain text and index row, last-updated times masked;
    ``histories`` maps ``chart/id`` to its versions in order.
    """

    records: Counter[tuple[str, str]]
    histories: dict[str, tuple[str, ...]]
    letters: Counter[tuple[str, str, str, str]]

    def lost(self, wanted: State) -> set[str]:
        """Return the record versions of ``wanted`` that are not here, or not like that."""
        return {name for name, _ in wanted.records - self.records}

    def doubled(self, wanted: State) -> set[str]:
        """Return the record versions here that ``wanted`` does not have, or not so often."""
        return {name for name, _ in self.records - wanted.records}


def id_key(data: Path, institution: str) -> bytes:
    """Return the key by which an institution's canonical ids are made."""
    return _keys(data)[KeyName(KeyKind.ID, institution)]


def read_state(data: Path) -> State:
    """Read a data directory whose service is stopped.

    Raises:
        Incomplete: Records and index do not agree.
    """
    charts = _chart_keys(data)
    records: Counter[tuple[str, str]] = Counter()
    with closing(sqlite3.connect(f"file:{data / 'vault.db'}?mode=ro", uri=True)) as vault:
        index, histories = _read_index(vault, charts)
        for chart, record_id, version, *envelopes in vault.execute(_RECORDS):
            row = index.pop(f"{chart}/{record_id}/{version}", None)
            if row is None:
                raise Incomplete(f"no index row for {chart}/{record_id}/{version}")
            digest = _digest(charts[chart], RecordPlace.of(chart, row), row, *envelopes)
            records[f"{chart}/{record_id}/{version}", digest] += 1
        letters = Counter(tuple(letter) for letter in vault.execute(_LETTERS))
    if index:
        raise Incomplete(f"no record for {sorted(index)}")
    return State(records, histories, letters)


def _keys(data: Path) -> dict[KeyName, bytes]:
    return read_keys(data / "keys" / "keys.db", FileKeyring(data / "keys" / "keyring", None))


def _read_index(
    vault: sqlite3.Connection, charts: dict[str, bytes]
) -> tuple[dict[str, IndexRow], dict[str, tuple[str, ...]]]:
    index: dict[str, IndexRow] = {}
    histories: dict[str, list[IndexRow]] = {}
    for stored in vault.execute(_SEGMENTS):
        segment = StoredSegment(*stored)
        for row in open_segment(charts[segment.chart], segment):
            name = f"{segment.chart}/{row.id}/{row.version}"
            if name in index:
                raise Incomplete(f"two index rows for {name}")
            index[name] = row
            place(histories.setdefault(f"{segment.chart}/{row.id}", []), row)
    return index, {name: tuple(row.version for row in rows) for name, rows in histories.items()}


def _digest(key: bytes, where: RecordPlace, row: IndexRow, normalised: bytes, original: bytes, lineage: bytes) -> str:
    plain = [
        _LAST_UPDATED.sub(b"", open_normalised(key, where, normalised).content, count=1),
        open_part(key, where, ORIGINAL, original).content,
        open_part(key, where, LINEAGE, lineage).content,
        msgspec.msgpack.encode(structs.replace(row, last_updated_us=0), order="deterministic"),
    ]
    return hashlib.sha256(msgspec.msgpack.encode(plain)).hexdigest()


@contextmanager
def _opened(data: Path) -> Iterator[tuple[SqlVault, SqliteKeyStore, FileKeyring]]:
    keyring = FileKeyring(data / "keys" / "keyring", None)
    keys = SqliteKeyStore(data / "keys" / "keys.db", keyring)
    mac = KeyName(KeyKind.VAULT_MAC, OPERATOR)
    try:
        yield SqlVault(SqliteDatabase(data / "vault.db"), keys.get(mac), key_head=keys.head), keys, keyring
    finally:
        keys.close()


async def digest_of(data: Path) -> str:
    """Return the project's own digest of a stopped service's state."""
    with _opened(data) as (vault, _, _):
        try:
            return await state_digest(vault, _chart_keys(data).__getitem__)
        finally:
            await vault.close()


async def verify_every_receipt(data: Path) -> int:
    """Make the receipt of every record version and check it with the offline verifier; return how many there are."""
    with _opened(data) as (vault, keys, keyring):
        log = Identity.from_private_bytes(keyring.identity("log"))
        ledger = open_ledger(data / "ledger" / "ledger.db", log_identity=log)
        registry = Registry(vault, keys, SystemRandomness())
        await registry.load()
        evidence = Evidence(vault=vault, registry=registry, notary=Notary(ledger, keyring))
        try:
            return await _verify_charts(vault, _chart_keys(data), evidence, ledger.policy())
        finally:
            ledger.close()
            await vault.close()


async def _verify_charts(vault: SqlVault, chart_keys: Mapping[str, bytes], evidence: Evidence, policy: Policy) -> int:
    rows: dict[tuple[str, str, str], IndexRow] = {}
    verified = 0
    async for record in vault.scan():
        key = chart_keys[record.chart]
        if (record.chart, record.id, record.version) not in rows:
            for segment in await vault.segments(record.chart):
                rows |= {(record.chart, row.id, row.version): row for row in open_segment(key, segment)}
        row = rows[record.chart, record.id, record.version]
        body = open_normalised(key, RecordPlace.of(record.chart, row), record.normalised).content
        outcome = verify_receipt(await evidence.receipt(record.chart, row), record=body, policy=policy)
        assert (outcome.vouched, outcome.matched) == (OPERATOR_ATTESTED, "normalised")
        verified += 1
    return verified


def _chart_keys(data: Path) -> dict[str, bytes]:
    return {n.subject: key for n, key in _keys(data).items() if n.kind in (KeyKind.CHART, KeyKind.DIRECTORY)}


def committed(data: Path, bus: str) -> int:
    """Return how many messages of a bus the vault has taken in; of a service that runs or was stopped in order."""
    return _number(data / "vault.db", "SELECT coalesce(sum(next_offset), 0) FROM positions WHERE bus = ?", bus)


def unanchored(data: Path) -> int:
    """Return how many batches of the vault wait for the ledger, or for its answer to be noted."""
    return _number(data / "vault.db", "SELECT (SELECT count(*) FROM batches) - (SELECT count(*) FROM anchors)")


def recorded(data: Path) -> int:
    """Return how many versions of records the vault holds; of a killed service see :func:`autopsy`."""
    return _number(data / "vault.db", "SELECT count(*) FROM records")


def spooled(data: Path) -> int:
    """Return how many messages the embedded bus has ever been given; see :func:`committed`."""
    return _number(data / "spool.db", "SELECT coalesce(sum(next_number), 0) FROM streams")


@contextmanager
def autopsy(data: Path) -> Iterator[Path]:
    """Give a copy of a killed service's vault and spool: looking at them would mend them (SQLite's recovery)."""
    with TemporaryDirectory() as scratch:
        for file in (*data.glob("vault.db*"), *data.glob("spool.db*")):
            if not file.name.endswith("-shm"):
                shutil.copyfile(file, Path(scratch) / file.name)
        for name in ("vault.db", "spool.db"):
            if (Path(scratch) / name).exists():
                with closing(sqlite3.connect(Path(scratch) / name)) as connection:
                    connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        yield Path(scratch)


def _number(path: Path, query: str, *values: str) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=_BUSY_S)) as connection:
        return int(connection.execute(query, values).fetchone()[0])
