"""Data keys, each wrapped under its institution's KEK, in a SQLite file apart from the vault (docs/formats/keys.md).

Apart, because erasing a patient's chart is deleting its key here: the vault's
backups stay useless for it. A row's associated data names every column, so a
wrapped key cannot be moved to another name, epoch or counter.

Invariants:
    * a key that was returned survives loss of power;
    * a KEK is made for an institution that has nothing here yet and by a rotation; one that a row names and the
      keyring lacks is KeyMissing, never replaced;
    * deleted content is overwritten in the file, and the write-ahead log is emptied after an erasure;
    * the file's own journal notes every row, and the vault notes that journal's head, so a key store that was
      edited or rolled back is found.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fhir_bridge.adapters import journal
from fhir_bridge.adapters.ambient import SystemRandomness
from fhir_bridge.adapters.sqlite_support import (
    BUSY_TIMEOUT_MS,
    Connect,
    OpenFile,
    connect_file,
    open_database,
    transaction,
    translated,
)
from fhir_bridge.errors import IntegrityBroken, KeyMissing, Unavailable
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.keys import KeyKind, KeyName, Keyring
from fhir_bridge.seal.envelope import place

WHAT = "key store"
VERSION = 1
JOURNAL_KEK = "_key-store"
"""Reserved name under which the keyring holds the key of this file's journal; no institution is called so."""

SCHEMA = f"""
CREATE TABLE keys (
    kind TEXT NOT NULL, institution TEXT NOT NULL, subject TEXT NOT NULL, epoch INTEGER NOT NULL,
    counter INTEGER NOT NULL, wrapped BLOB NOT NULL, PRIMARY KEY (institution, kind, subject)) STRICT;
CREATE TABLE epochs (institution TEXT PRIMARY KEY, epoch INTEGER NOT NULL) STRICT;
{journal.SCHEMA}
"""
TABLES = {
    table.name: table
    for table in (
        journal.Table("keys", ("kind", "institution", "subject", "epoch", "counter", "wrapped"), 3),
        journal.Table("epochs", ("institution", "epoch"), 1),
    )
}

_KEY_BYTES = 32
_NONCE_BYTES = 12
_MAX_HELD = 65_536
_FIRST_EPOCH = 1
_LAST = chr(0x10FFFF)

Row = tuple[str, str, str, int, int, bytes]


class SqliteKeyStore:
    """Keeps the KeyStore port's promises in one file; safe to call from any thread."""

    def __init__(
        self,
        path: Path,
        keyring: Keyring,
        *,
        randomness: Randomness | None = None,
        connect: Connect = connect_file,
    ) -> None:
        """Open the file, made if there is none.

        Raises:
            SetupWrong: Another kind of file, or a newer layout.
            IntegrityBroken: Its journal does not end under this keyring's key.
        """
        self._keyring = keyring
        self._randomness = randomness or SystemRandomness()
        self._lock = threading.Lock()
        self._held: dict[KeyName, bytes] = {}
        self._is_failing = False
        self._connection = open_database(
            path, what=WHAT, version=VERSION, schema=SCHEMA, secure_delete=True, connect=connect
        )
        self._file = OpenFile(path, WHAT)
        with translated(WHAT):
            is_new = self._connection.execute("SELECT 1 FROM journal LIMIT 1").fetchone() is None
            key = keyring.make_kek(JOURNAL_KEK, _FIRST_EPOCH) if is_new else journal_key(keyring)
            self._journal = journal.Journal(self._connection, key)

    def ensure(self, names: Sequence[KeyName]) -> Mapping[KeyName, bytes]:
        """Return the key of each name; those that exist nowhere are made in one commit."""
        held = self._held
        try:
            return {name: held[name] for name in names}
        except KeyError:
            pass
        with self._lock, translated(WHAT):
            loaded = {name: self._load(name) for name in names}
            missing = [name for name, key in loaded.items() if key is None]
            found = {name: key for name, key in loaded.items() if key is not None}
            return found | self._make(missing)

    def get(self, name: KeyName) -> bytes:
        """Return an existing key."""
        key = self.find(name)
        if key is None:
            raise KeyMissing(f"there is no {name.kind} key of that name: erased, or never made")
        return key

    def find(self, name: KeyName) -> bytes | None:
        """Return an existing key or None."""
        held = self._held.get(name)
        if held is not None:
            return held
        with self._lock, translated(WHAT):
            return self._load(name)

    def can_open(self, name: KeyName) -> bool:
        """Tell whether the file still gives a key and the keyring still opens it, whatever is held in memory.

        Raises:
            KeyMissing: The keyring has lost the KEK.
            IntegrityBroken: The row does not open.
            Unavailable: The file cannot be read.
        """
        with self._lock, translated(WHAT):
            return self._read(name) is not None

    def erase(self, name: KeyName) -> None:
        """Delete a key for good, from the write-ahead log too.

        Raises:
            Unavailable: The key is deleted, but somebody reads the file and holds its log; erase again.
        """
        with self._lock, translated(WHAT):
            self._delete_all([name])
            if not self._empty_log():
                raise Unavailable("the key is deleted, but its old place is still being read; erase it again")

    def erase_all(self, names: Iterable[KeyName]) -> None:
        """Delete several keys for good in one commit; the log is emptied now, or with the next erasure."""
        with self._lock, translated(WHAT):
            self._delete_all(names)
            # Without waiting: fsck may read for long, and new keys must not wait for it behind this lock.
            self._connection.execute("PRAGMA busy_timeout=0")
            self._empty_log()
            self._connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")

    def names(self, kind: KeyKind, institution: str, prefix: str) -> Sequence[KeyName]:
        """Return the names whose subject begins so; costs a look at each of them and no other."""
        sql = "SELECT subject FROM keys WHERE institution = ? AND kind = ? AND subject >= ? AND subject < ?"
        with self._lock, translated(WHAT):
            found = self._connection.execute(sql, (institution, kind.value, prefix, prefix + _LAST)).fetchall()
        return [KeyName(kind, institution, subject) for (subject,) in found]

    def rotate(self, institution: str) -> tuple[int, int]:
        """Wrap every key of an institution under a new KEK; return the old epoch and the new one.

        The old KEK stays in the keyring until its last backup of this file expires: destroy it then.
        An institution that never had a key has no KEK either; its first is told as both.
        """
        with self._lock, translated(WHAT):
            old = self._epoch(institution)
            if self._is_new(institution) and not self._has_kek(institution, old):
                return old, old
            self._keyring.make_kek(institution, old + 1)
            with self._one_transaction():
                for row in self._rows_of(institution):
                    kind, _, subject, _, counter, _ = row
                    self._write(kind, institution, subject, old + 1, counter + 1, self._unwrap(row))
                self._put_epoch(institution, old + 1)
            return old, old + 1

    def head(self) -> tuple[int, bytes] | None:
        """Return number and head of this file's journal, for the vault to enter in its own."""
        with self._lock:
            return None if self._journal.number < 0 else (self._journal.number, self._journal.head)

    def can_write(self) -> bool:
        """Tell whether the last write went through; if it did not, try one of nothing."""
        with self._lock:
            if self._is_failing or not self._file.is_in_place():
                try:
                    with translated(WHAT), self._one_transaction():
                        pass
                except Unavailable:
                    return False
            return True

    def close(self) -> None:
        """Release the file and forget the keys."""
        with self._lock:
            self._held.clear()
            self._connection.close()

    @contextmanager
    def _one_transaction(self) -> Iterator[None]:
        try:
            with transaction(self._connection, self._file):
                yield
                self._journal.append()
        except BaseException as error:
            self._is_failing = isinstance(error, sqlite3.OperationalError | Unavailable)
            self._journal.reload()
            raise
        self._is_failing = False

    def _load(self, name: KeyName) -> bytes | None:
        key = self._read(name)
        return None if key is None else self._hold(name, key)

    def _read(self, name: KeyName) -> bytes | None:
        row = self._connection.execute(
            f"{TABLES['keys'].select} WHERE institution = ? AND kind = ? AND subject = ?",
            (name.institution, name.kind.value, name.subject),
        ).fetchone()
        return None if row is None else self._unwrap(row)

    def _make(self, names: Sequence[KeyName]) -> dict[KeyName, bytes]:
        if not names:
            return {}
        for institution in {name.institution for name in names}:
            if self._is_new(institution):
                self._keyring.make_kek(institution, _FIRST_EPOCH)
        made = {name: self._randomness.token(_KEY_BYTES) for name in names}
        with self._one_transaction():
            for name, key in made.items():
                epoch = self._epoch(name.institution)
                self._write(name.kind.value, name.institution, name.subject, epoch, 0, key)
        return {name: self._hold(name, key) for name, key in made.items()}

    def _write(self, kind: str, institution: str, subject: str, epoch: int, counter: int, key: bytes) -> None:
        nonce = self._randomness.token(_NONCE_BYTES)
        kek = AESGCM(self._keyring.kek(institution, epoch))
        sealed = kek.encrypt(nonce, key, wrap_place(kind, institution, subject, epoch, counter))
        row: Row = (kind, institution, subject, epoch, counter, nonce + sealed)
        self._put("keys", row)

    def _unwrap(self, row: Row) -> bytes:
        return unwrap(self._keyring, row)

    def _delete_all(self, names: Iterable[KeyName]) -> None:
        with self._one_transaction():
            for name in names:
                self._delete(name)

    def _empty_log(self) -> bool:
        (busy, *_) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def _delete(self, name: KeyName) -> None:
        self._held.pop(name, None)
        key = (name.kind.value, name.institution, name.subject)
        gone = self._connection.execute(
            "DELETE FROM keys WHERE kind = ? AND institution = ? AND subject = ?", key
        ).rowcount
        if gone:
            self._journal.note_gone("keys", key)

    def _is_new(self, institution: str) -> bool:
        found = self._connection.execute(
            "SELECT 1 FROM keys WHERE institution = ?1 UNION SELECT 1 FROM epochs WHERE institution = ?1",
            (institution,),
        ).fetchone()
        return found is None

    def _has_kek(self, institution: str, epoch: int) -> bool:
        try:
            return bool(self._keyring.kek(institution, epoch))
        except KeyMissing:
            return False

    def _epoch(self, institution: str) -> int:
        row = self._connection.execute("SELECT epoch FROM epochs WHERE institution = ?", (institution,)).fetchone()
        return _FIRST_EPOCH if row is None else int(row[0])

    def _put_epoch(self, institution: str, epoch: int) -> None:
        self._put("epochs", (institution, epoch))

    def _put(self, table: str, row: Sequence[journal.Cell]) -> None:
        self._connection.execute(TABLES[table].put, row)
        self._journal.note(table, TABLES[table].key(row), row)

    def _rows_of(self, institution: str) -> list[Row]:
        return self._connection.execute(f"{TABLES['keys'].select} WHERE institution = ?", (institution,)).fetchall()

    def _hold(self, name: KeyName, key: bytes) -> bytes:
        if len(self._held) >= _MAX_HELD:
            self._held.pop(next(iter(self._held)))
        self._held[name] = key
        return key


def journal_key(keyring: Keyring) -> bytes:
    """Return the key that authenticates a key store's journal."""
    return keyring.kek(JOURNAL_KEK, _FIRST_EPOCH)


def wrap_place(kind: str, institution: str, subject: str, epoch: int, counter: int) -> bytes:
    """Return the associated data of a wrapped key."""
    return place("wrapped-key", kind, institution, subject, str(epoch), str(counter))


def unwrap(keyring: Keyring, row: Row) -> bytes:
    """Return the key in a stored row.

    Raises:
        IntegrityBroken: It does not open under its KEK, name, epoch and counter.
    """
    kind, institution, _, epoch, _, wrapped = row
    try:
        kek = AESGCM(keyring.kek(institution, epoch))
        return kek.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], wrap_place(*row[:-1]))
    except (InvalidTag, ValueError):
        raise IntegrityBroken(f"a wrapped {kind} key does not open under its name, epoch and counter") from None
