"""Check a key store: every row as it was committed, every KEK there, every key opening under its name.

Reads only, and asks the keyring for nothing that would be made; prints no key.
What it cannot see alone, a file put back as a whole, the vault's fsck sees,
which knows the heads this journal has had.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path

from fhir_bridge.adapters.journal_check import JournalCheck
from fhir_bridge.adapters.keyring_file import kek_file
from fhir_bridge.adapters.keystore import JOURNAL_KEK, TABLES, VERSION, WHAT, journal_key, unwrap
from fhir_bridge.adapters.sqlite_support import check_stamp, connect_for_checking, snapshot
from fhir_bridge.errors import BridgeError, KeyMissing
from fhir_bridge.lines.checking import Finding
from fhir_bridge.ports.keys import KeyKind, KeyName, Keyring

Kek = tuple[str, int]
"""Institution and epoch of a key-encryption key."""


def check_keys(path: Path, keyring: Keyring) -> Iterator[Finding]:
    """Yield a finding for each row of a key store that is not as it was committed.

    Raises:
        SetupWrong: The file is no key store, or of a newer layout.
    """
    connection = connect_for_checking(path, WHAT)
    try:
        check_stamp(connection, path, what=WHAT, version=VERSION)
        with snapshot(connection):
            lost = _lost_keks(connection, keyring)
            for (institution, epoch), count in lost.items():
                yield Finding(f"keyring {kek_file(institution, epoch)}", f"missing: {_loss(institution, count)}")
            if (JOURNAL_KEK, 1) not in lost:
                for finding in JournalCheck(connection, journal_key(keyring), TABLES).run():
                    yield Finding(f"{WHAT}: {finding.place}", finding.what)
            yield from _check_opening(connection, keyring, lost)
    except sqlite3.DatabaseError:
        yield Finding(WHAT, "SQLite cannot read the file")
    finally:
        connection.close()


def journal_heads(path: Path) -> dict[int, bytes]:
    """Return the heads of a key store's journal by number, as stored."""
    connection = connect_for_checking(path, WHAT)
    try:
        return dict(connection.execute("SELECT number, head FROM journal"))
    finally:
        connection.close()


def read_keys(path: Path, keyring: Keyring) -> dict[KeyName, bytes]:
    """Return every key that opens under the keyring, for a check of what is sealed with it."""
    keys: dict[KeyName, bytes] = {}
    connection = connect_for_checking(path, WHAT)
    try:
        for row in connection.execute(TABLES["keys"].select):
            kind, institution, subject, *_ = row
            with suppress(BridgeError, ValueError):
                keys[KeyName(KeyKind(kind), institution, subject)] = unwrap(keyring, row)
    finally:
        connection.close()
    return keys


def _lost_keks(connection: sqlite3.Connection, keyring: Keyring) -> dict[Kek, int]:
    """Return the KEKs that the file needs and the keyring lacks, each with the number of keys under it."""
    needed: dict[Kek, int] = {}
    for institution, epoch in connection.execute("SELECT institution, epoch FROM epochs"):
        needed[institution, epoch] = 0
    for institution, epoch, count in connection.execute(
        "SELECT institution, epoch, count(*) FROM keys GROUP BY institution, epoch"
    ):
        needed[institution, epoch] = count
    if connection.execute("SELECT 1 FROM journal LIMIT 1").fetchone() is not None:
        needed[JOURNAL_KEK, 1] = 0
    return {kek: count for kek, count in needed.items() if _is_lost(kek, keyring)}


def _is_lost(kek: Kek, keyring: Keyring) -> bool:
    try:
        keyring.kek(*kek)
    except KeyMissing:
        return True
    except BridgeError:
        return False
    return False


def _loss(institution: str, count: int) -> str:
    return "it authenticates the key store" if institution == JOURNAL_KEK else f"{count} keys are wrapped under it"


def _check_opening(connection: sqlite3.Connection, keyring: Keyring, lost: Container[Kek]) -> Iterator[Finding]:
    for row in connection.execute(TABLES["keys"].select):
        if (row[1], row[3]) in lost:
            continue
        try:
            unwrap(keyring, row)
        except BridgeError as error:
            yield Finding(f"{WHAT}: keys {'/'.join(row[:3])}", str(error))
