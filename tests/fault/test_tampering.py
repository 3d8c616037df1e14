"""Whatever is edited, deleted, added or rolled back in the files of a stopped service, fsck finds and says where.

Every column of every table of the vault, the key store and the ledger; whole
rows; whole files; and every field of a receipt.
"""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.adapters.keyring_file import FileKeyring
from fhir_bridge.adapters.keystore import SqliteKeyStore
from fhir_bridge.errors import SetupWrong
from fhir_bridge.lines.checking import Finding
from fhir_bridge.wiring import check
from ledger_core import LedgerError, Policy
from ledger_core.verify import OPERATOR_ATTESTED, verify_receipt
from tests.support.hospitals import BROKEN, VERSIONS, directory, lanes, links
from tests.support.service import Feeder, consent, patient_at, running

PERSON = "P0009"
Cell = str | int | bytes | None

# Table: its key columns, and all its columns in the order of docs/formats.
VAULT = {
    "records": (3, ("chart", "id", "version", "batch", "commitment", "normalised", "original", "lineage")),
    "segments": (2, ("chart", "number", "batch", "ciphertext")),
    "positions": (3, ("bus", "stream", "part", "next_offset")),
    "letters": (1, ("id", "institution", "reason", "received_at_us", "envelope", "status")),
    "documents": (2, ("collection", "key", "value")),
    "audits": (2, ("chain", "counter", "batch", "previous", "head", "envelope")),
    "batches": (1, ("number", "journal", "root", "leaves", "envelope", "head_salt", "head_index")),
    "anchors": (1, ("number", "height", "log_index")),
    "journal": (1, ("number", "entries", "head")),
}
KEYS = {
    "keys": (3, ("kind", "institution", "subject", "epoch", "counter", "wrapped")),
    "epochs": (1, ("institution", "epoch")),
    "journal": (1, ("number", "entries", "head")),
}
LEDGER = {
    "meta": (1, ("name", "value")),
    "entries": (1, ("idx", "height", "entry")),
    "submissions": (2, ("signer", "nonce", "idx")),
    "tiles": (1, ("id", "hashes")),
    "blocks": (1, ("height", "time_ms", "size", "log_root", "state_root", "app_hash")),
    "state": (2, ("path", "height", "value")),
    "checkpoints": (1, ("size", "note")),
}
FILES = {"vault.db": VAULT, "keys/keys.db": KEYS, "ledger/ledger.db": LEDGER}
UNLOCATED = {("vault.db", "journal"), ("keys/keys.db", "journal"), ("ledger/ledger.db", "meta")}
"""Tables that vouch for others: a change shows at whatever they vouch for."""
UNCHECKED = {"kek-northgate-1", "keyring.json", "identity-issuer"}
"""Nothing is wrapped under a KEK that was rotated away; without a passphrase there are no parameters to lose; and a
new issuer only ends sessions."""
MUTABLE = (
    ("vault.db", "positions"),
    ("vault.db", "segments"),
    ("vault.db", "documents"),
    ("keys/keys.db", "keys"),
    ("ledger/ledger.db", "tiles"),
)


@dataclass(frozen=True, slots=True)
class Spoiled:
    """A stopped service's files at two moments, and a copy to spoil."""

    early: Path
    late: Path
    copy: Path

    def fresh(self) -> Path:
        """Return an unspoiled copy of the later moment."""
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.late, self.copy)
        return self.copy


@dataclass(frozen=True, slots=True)
class Evidence:
    """A record, its receipt and the policy of a verifier, as the service gave them."""

    record: bytes
    receipt: str
    policy: str


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[Spoiled, Evidence]:
    base = tmp_path_factory.mktemp("tampering")
    data = base / "data"
    with running(data) as service:
        service.add_institutions()
        for name in VERSIONS:
            service.ingest(name, directory(name))
        Feeder(service, lanes("northgate", (PERSON,))).run()
        service.ingest("northgate", (BROKEN / "bad-gender.json").read_bytes())
        patient, agent = service.enrol(patient_at(PERSON, "northgate"))
        who = service.token("northgate")
        assert service.get(f"Patient/{patient}", who).status_code == 200
    shutil.copytree(data, base / "early")
    _rotate(data)
    with running(data, FHIR_BRIDGE_INDEX_MERGE_AT="2") as service:
        Feeder(service, [lane for name in ("harbor", "cedar") for lane in lanes(name, (PERSON,))]).run()
        service.order("/links", {"rows": links((PERSON,))})
        service.order("/letters/replay", {})
        patient, agent = service.enrol(patient_at(PERSON, "northgate"))
        northgate = next(each["id"] for each in service.ask("/institutions") if each["name"] == "northgate")
        assert service.http.post("/fhir/Consent", headers=agent, json=consent(patient, northgate)).status_code == 201
        who = service.token("northgate")
        records = list(service.entries(f"Patient/{patient}/$everything", who, _count="1000"))
        record = next(r for r in records if b'"Observation"' in r[:40])
        receipt = service.get(f"Observation/{json.loads(record)['id']}/$receipt", who).text
        policy = service.control.get("/ledger/policy").good().decode()
        while not service.ask("/status")["index"]["merged"]:
            time.sleep(0.05)
    shutil.copytree(data, base / "late")
    return Spoiled(base / "early", base / "late", base / "copy"), Evidence(record, receipt, policy)


def _rotate(data: Path) -> None:
    """Wrap northgate's keys anew, so that rows of the key store change as well."""
    keys = SqliteKeyStore(data / "keys" / "keys.db", FileKeyring(data / "keys" / "keyring", None))
    keys.rotate("northgate")
    keys.close()


@pytest.fixture
def files(history: tuple[Spoiled, Evidence]) -> Spoiled:
    return history[0]


@pytest.fixture
def evidence(history: tuple[Spoiled, Evidence]) -> Evidence:
    return history[1]


def findings(data: Path, *, deep: bool = False, checkpoint: str | None = None) -> list[Finding]:
    return [each for each in check(data, deep=deep, checkpoint=checkpoint) if isinstance(each, Finding)]


def rows(path: Path, table: str, columns: Sequence[str]) -> list[tuple[Cell, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        names = ", ".join(f'"{name}"' for name in columns)
        return connection.execute(f'SELECT {names} FROM "{table}" ORDER BY 1, 2').fetchall()


def change(path: Path, sql: str, values: Sequence[Cell]) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(sql, values).rowcount == 1


def other(cell: Cell, distance: int = 1_000_003) -> Cell:
    """Return another value of the same type: one bit of the middle, so much more, or one letter."""
    if isinstance(cell, bytes):
        middle = len(cell) // 2
        return cell[:middle] + bytes([cell[middle] ^ 1]) + cell[middle + 1 :] if cell else b"\x01"
    if isinstance(cell, int) or cell is None:
        return (cell or 0) + distance
    return f"{cell[:-1]}{'x' if cell[-1:] != 'x' else 'y'}" if cell else "x"


def where(columns: Sequence[str], row: Sequence[Cell]) -> tuple[str, list[Cell]]:
    return " AND ".join(f'"{name}" IS ?' for name in columns), list(row[: len(columns)])


def names_place(found: Sequence[Finding], file: str, table: str, key: Sequence[Cell]) -> bool:
    """Tell whether a finding names the table and the key (bytes in hex) of a row."""
    parts = [cell.hex() if isinstance(cell, bytes) else str(cell) for cell in key]
    if table == "tiles" and isinstance(key[0], int):
        # docs/formats/ledger.md: the number of a tile stands below its level.
        parts = [str(key[0] >> 56), str(key[0] & (1 << 56) - 1)]
    wanted = f"{table} {'/'.join(parts)}" if file != "ledger/ledger.db" else f"ledger {table}/{'/'.join(parts)}"
    return bool(found) if (file, table) in UNLOCATED else any(wanted in each.place for each in found)


def columns_of_all() -> Iterator[tuple[str, str, str]]:
    for file, tables in FILES.items():
        for table, (_, columns) in tables.items():
            for column in columns:
                yield file, table, column


def tables_of_all() -> Iterator[tuple[str, str]]:
    for file, tables in FILES.items():
        for table in tables:
            yield file, table


def picks(count: int) -> list[int]:
    """Return the first, a middle and the last row."""
    return sorted({0, count // 2, count - 1})


def test_untouched_files_are_sound(files: Spoiled) -> None:
    """And every table has rows, so that each case below changes something."""
    data = files.fresh()
    assert findings(data, deep=True) == []
    for file, tables in FILES.items():
        for table, (_, columns) in tables.items():
            assert rows(data / file, table, columns), f"{file} {table} is empty"


@pytest.mark.parametrize(("file", "table", "column"), list(columns_of_all()))
def test_an_edited_cell_is_found_and_located(files: Spoiled, file: str, table: str, column: str) -> None:
    size, columns = FILES[file][table]
    data = files.fresh()
    held = rows(data / file, table, columns)
    for pick in picks(len(held))[-2:][:1]:
        row = held[pick]
        place, values = where(columns[:size], row)
        cell = other(row[columns.index(column)])
        change(data / file, f'UPDATE "{table}" SET "{column}" = ? WHERE {place}', [cell, *values])
        found = findings(data)
        assert names_place(found, file, table, row[:size]), [(f.place, f.what) for f in found][:5]


@pytest.mark.parametrize(("file", "table"), list(tables_of_all()))
def test_a_deleted_row_is_found_and_located(files: Spoiled, file: str, table: str) -> None:
    size, columns = FILES[file][table]
    count = len(rows(files.late / file, table, columns))
    for pick in picks(count):
        data = files.fresh()
        row = rows(data / file, table, columns)[pick]
        place, values = where(columns[:size], row)
        change(data / file, f'DELETE FROM "{table}" WHERE {place}', values)
        found = findings(data)
        assert names_place(found, file, table, row[:size]), (pick, [(f.place, f.what) for f in found][:5])


@pytest.mark.parametrize(("file", "table"), [(f, t) for f, t in tables_of_all() if t not in ("meta", "journal")])
def test_an_added_row_is_found(files: Spoiled, file: str, table: str) -> None:
    """A copy of a row under a key of its own: the double of a record, a key or a leaf."""
    size, columns = FILES[file][table]
    data = files.fresh()
    row = list(rows(data / file, table, columns)[-1])
    row[size - 1] = other(row[size - 1], 1)
    marks, names = ", ".join("?" * len(columns)), ", ".join(f'"{name}"' for name in columns)
    change(data / file, f'INSERT INTO "{table}" ({names}) VALUES ({marks})', row)
    found = findings(data)
    assert names_place(found, file, table, row[:size]), [(f.place, f.what) for f in found][:5]


@pytest.mark.parametrize(("file", "table"), MUTABLE)
def test_a_row_put_back_as_it_once_was_is_found_and_located(files: Spoiled, file: str, table: str) -> None:
    size, columns = FILES[file][table]
    data = files.fresh()
    now = {row[:size]: row for row in rows(data / file, table, columns)}
    changed = [row for row in rows(files.early / file, table, columns) if now.get(row[:size], row) != row]
    assert changed, "nothing changed between the two moments"
    old = changed[0]
    place, values = where(columns[:size], old)
    setters = ", ".join(f'"{name}" = ?' for name in columns[size:])
    change(data / file, f'UPDATE "{table}" SET {setters} WHERE {place}', [*old[size:], *values])
    assert names_place(findings(data), file, table, old[:size])


@pytest.mark.parametrize("file", FILES)
def test_a_file_put_back_as_it_once_was_is_found(files: Spoiled, file: str) -> None:
    data = files.fresh()
    shutil.copyfile(files.early / file, data / file)
    assert findings(data)


def test_vault_keys_and_ledger_put_back_together_are_found_by_a_checkpoint_kept_elsewhere(files: Spoiled) -> None:
    with closing(sqlite3.connect(files.late / "ledger/ledger.db")) as ledger:
        (kept,) = ledger.execute("SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
    data = files.fresh()
    for file in FILES:
        shutil.copyfile(files.early / file, data / file)
    assert findings(data) == [], "alone, the three files agree with each other"
    assert findings(data, checkpoint=kept)
    assert findings(files.fresh(), checkpoint=kept) == []


def test_a_missing_or_changed_file_is_found(files: Spoiled) -> None:
    """Databases and keyring files alike; what cannot be opened at all is said, not passed over."""
    data = files.fresh()
    folder = data / "keys" / "keyring"
    keyring = [str(f.relative_to(data)) for f in folder.iterdir() if f.is_file() and f.name not in UNCHECKED]
    assert len(keyring) > 3
    for name in [*FILES, *keyring]:
        # A byte in the unused part of a database is nobody's data; their cells are edited one by one above.
        for spoil in ("delete", "cut") if name in FILES else ("delete", "cut", "edit"):
            path = files.fresh() / name
            content = path.read_bytes()
            if spoil == "delete":
                path.unlink()
            else:
                path.write_bytes(content[: len(content) // 2] if spoil == "cut" else _flipped(content))
            assert _is_found(files.copy), f"{name}: {spoil}"


def _is_found(data: Path) -> bool:
    try:
        return bool(findings(data))
    except SetupWrong:
        return True


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


# --- receipts


def test_the_receipt_at_hand_is_good(evidence: Evidence) -> None:
    outcome = verify_receipt(evidence.receipt, record=evidence.record, policy=Policy.decode(evidence.policy))
    assert (outcome.vouched, outcome.matched) == (OPERATOR_ATTESTED, "normalised")


def test_every_changed_field_of_a_receipt_is_refused(evidence: Evidence) -> None:
    """Every leaf of the JSON in turn: text, number, item of a list; changed, dropped and doubled."""
    policy = Policy.decode(evidence.policy)
    content = json.loads(evidence.receipt)
    tried = 0
    for path in list(_leaves(content)):
        leaf = _at(content, path)
        for changed in (variant for variant in _variants(leaf) if variant != leaf):
            spoiled = json.loads(evidence.receipt)
            _put(spoiled, path, changed)
            text = json.dumps(spoiled, indent=2, ensure_ascii=False) + "\n"
            with pytest.raises(LedgerError):
                verify_receipt(text, record=evidence.record, policy=policy)
            tried += 1
    assert tried > 60


def test_every_changed_character_of_a_receipt_is_refused(evidence: Evidence) -> None:
    policy = Policy.decode(evidence.policy)
    for at, character in enumerate(evidence.receipt):
        spoiled = evidence.receipt[:at] + ("A" if character != "A" else "B") + evidence.receipt[at + 1 :]
        with pytest.raises(LedgerError):
            verify_receipt(spoiled, record=evidence.record, policy=policy)


def test_a_receipt_is_good_for_its_record_alone(evidence: Evidence) -> None:
    policy = Policy.decode(evidence.policy)
    for record in (evidence.record + b"\n", evidence.record[:-1], evidence.record.replace(b'"final"', b'"amended"')):
        with pytest.raises(LedgerError):
            verify_receipt(evidence.receipt, record=record, policy=policy)


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, (*path, name))
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from _leaves(item, (*path, number))
    else:
        yield path


def _at(value: Any, path: Sequence[str | int]) -> Any:
    for step in path:
        value = value[step]
    return value


def _put(value: Any, path: Sequence[str | int], leaf: Any) -> None:
    _at(value, path[:-1])[path[-1]] = leaf


def _variants(leaf: Any) -> list[Any]:
    if isinstance(leaf, bool) or leaf is None or isinstance(leaf, list):
        return [1, "x"]
    if isinstance(leaf, int):
        return [leaf + 1, str(leaf), None]
    variants: list[Any] = [leaf + "x", leaf[1:], None, 7]
    try:
        raw = base64.b64decode(leaf, validate=True)
    except ValueError:
        return variants
    return [*variants, base64.b64encode(_flipped(raw)).decode()] if raw else variants
