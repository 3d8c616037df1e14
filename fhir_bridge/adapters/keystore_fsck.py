"""Check a key store: every row as it was committed, every key opening under its name.

Reads only; prints no key. What it cannot see alone, a file put back as a whole,
the vault's fsck sees, which knows the heads this journal has had.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from fhir_bridge.adapters.journal_check import JournalCheck
from fhir_bridge.adapters.keystore import TABLES, VERSION, WHAT, journal_key, unwrap
from fhir_bridge.adapters.sqlite_support import check_stamp, connect_for_checking, snapshot
from fhir_bridge.errors import BridgeError
from fhir_bridge.lines.checking import Finding
from fhir_bridge.ports.keys import KeyKind, KeyName, Keyring


def check_keys(path: Path, keyring: Keyring) -> Iterator[Finding]:
    """Yield a finding for each row of a key store that is not as it was committed.

    Raises:
        SetupWrong: The file is no key store, or of a newer layout.
    """
    connection = connect_for_checking(path, WHAT)
    try:
        check_stamp(connection, path, what=WHAT, version=VERSION)
        with snapshot(connection):
            for finding in JournalCheck(connection, journal_key(keyring), TABLES).run():
                yield Finding(f"{WHAT}: {finding.place}", finding.what)
            yield from _check_opening(connection, keyring)
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


def _check_opening(connection: sqlite3.Connection, keyring: Keyring) -> Iterator[Finding]:
    for row in connection.execute(TABLES["keys"].select):
        try:
            unwrap(keyring, row)
        except BridgeError as error:
            yield Finding(f"{WHAT}: keys {'/'.join(row[:3])}", str(error))
