"""Back up and restore: the vault with the ledger in one folder, the keys in another, never together.

A running server goes on meanwhile. All databases are pinned at one instant, each
by a read transaction, and copied from there at leisure: the copy is what a loss
of power at that instant would have left, and starts as a directory after one
does. Copied one after the other, a spool could lack what the vault has yet to
read, and a ledger could know batches that the vault does not.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from fhir_bridge.adapters.datadir import VERSION
from fhir_bridge.adapters.ledger_place import note_place, refusal
from fhir_bridge.adapters.sqlite_support import is_damage, reason
from fhir_bridge.adapters.vault_copy import copy_vault
from fhir_bridge.adapters.vault_database import Connection, VaultDatabase
from fhir_bridge.adapters.vault_sqlite import SqliteDatabase
from fhir_bridge.errors import IntegrityBroken, SetupWrong, Unavailable
from ledger_core import LedgerError, Moment, is_url, open_to_read, run_copy

_DATA = (("vault.db", "vault.db"), ("spool.db", "spool.db"), ("ledger/ledger.db", "ledger.db"))
_KEYS = "keys/keys.db"
_ATTEMPTS = 400
_PAUSE_S = 0.01


async def make_backup(
    data: Path, target: Path, elsewhere: VaultDatabase | None = None, ledger: Path | str = ""
) -> dict[str, str]:
    """Copy a data directory to ``target/vault`` and ``target/keys``; return both paths.

    Args:
        elsewhere: The vault, if it is no file of the data directory. Its copy is one all the same.
        ledger: Where the ledger is; likewise.

    Raises:
        SetupWrong: The target holds something already, lies in the data directory, or cannot be written.
        IntegrityBroken: A database is damaged.
        Unavailable: The server was never quiet for the millisecond that it takes; nothing was made.
    """
    try:
        with _told(target):
            return await asyncio.to_thread(_make, data, target, elsewhere, ledger)
    except LedgerError as cause:
        raise refusal(cause) from cause


def restore(
    source: Path, keys: Path, data: Path, elsewhere: VaultDatabase | None = None, ledger: Path | str = ""
) -> None:
    """Make a data directory from a backup's two folders; check it with fsck before serving.

    Until all is there it is no data directory, whatever ends meanwhile.

    Args:
        source: The backup's ``vault`` folder.
        keys: The backup's ``keys`` folder.
        data: Must not exist, or be empty.
        elsewhere: Where the vault is to be, if not in the data directory; holds none yet.
        ledger: Where the ledger is to be; likewise.

    Raises:
        SetupWrong: A folder lacks a file, ``data`` is in use or cannot be written, or a database is not empty.
        IntegrityBroken: A database of the backup is damaged.
        Unavailable: A database does not answer.
    """
    with _told(data):
        _restore(source, keys, data, elsewhere, ledger)


def _restore(source: Path, keys: Path, data: Path, elsewhere: VaultDatabase | None, ledger: Path | str) -> None:
    if data.exists() and any(data.iterdir()):
        raise SetupWrong(f"{data} is not empty: restore into a new directory")
    for file in (source / "vault.db", source / "ledger.db", source / "VERSION", keys / "keys.db"):
        if not file.exists():
            raise SetupWrong(f"{file} is missing: --from takes the backup's vault folder, --keys its keys folder")
    if is_url(ledger):
        _restore_ledger(source / "ledger.db", str(ledger))
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    data.chmod(0o700)
    note_place(data, ledger)
    if elsewhere is not None:
        with _intact(source / "vault.db"), closing(_reader(source / "vault.db")) as vault:
            copy_vault(vault, elsewhere)
    for place, name in _DATA:
        is_elsewhere = (elsewhere and name == "vault.db") or (is_url(ledger) and name == "ledger.db")
        if (source / name).exists() and not is_elsewhere:
            _copy_database(source / name, data / place)
    _copy_database(keys / "keys.db", data / "keys" / "keys.db")
    for folder in ("keyring", "credentials"):
        if (keys / folder).exists():
            shutil.copytree(keys / folder, data / ("keys/keyring" if folder == "keyring" else folder))
    # Last: without it this is no data directory, and no service would make keys of its own in half of one.
    shutil.copyfile(source / "VERSION", data / "VERSION")
    _settle(data)


def _restore_ledger(copy: Path, url: str) -> None:
    try:
        run_copy(copy, url)
    except LedgerError as cause:
        raise refusal(cause) from cause


def _make(data: Path, target: Path, elsewhere: VaultDatabase | None, ledger: Path | str) -> dict[str, str]:
    if target.exists() and any(target.iterdir()):
        raise SetupWrong(f"{target} is not empty: name a new folder")
    if target.resolve().is_relative_to(data.resolve()):
        raise SetupWrong(f"{target} is in the data directory, which it is to outlive: name a folder elsewhere")
    vault, keys = target / "vault", target / "keys"
    copies = {data / place: vault / name for place, name in _DATA if (data / place).exists()}
    copies[data / _KEYS] = keys / "keys.db"
    url = str(ledger) if is_url(ledger) else None
    with _at_one_instant(list(copies), elsewhere, url) as (pinned, pinned_vault, pinned_ledger):
        for source, copy in copies.items():
            _copy(source, pinned[source], copy)
        if pinned_vault is not None:
            copy_vault(pinned_vault, SqliteDatabase(vault / "vault.db"))
        if pinned_ledger is not None:
            pinned_ledger.snapshot(vault / "ledger.db")
    shutil.copytree(data / "keys" / "keyring", keys / "keyring")
    shutil.copytree(data / "credentials", keys / "credentials")
    # Last: a backup without it is refused when it is to be restored.
    (vault / "VERSION").write_text(VERSION + "\n")
    _settle(target)
    return {"vault": str(vault), "keys": str(keys)}


@contextmanager
def _at_one_instant(
    files: Sequence[Path], vault: VaultDatabase | None, ledger: str | None
) -> Iterator[tuple[Mapping[Path, sqlite3.Connection], Connection | None, Moment | None]]:
    """Give a connection to each database that sees it as it was at one and the same instant."""
    with ExitStack() as stack:
        probes = [stack.enter_context(closing(_reader(file))) for file in files]
        if vault is not None:
            stack.enter_context(vault.translated())
            probe_vault = stack.enter_context(closing(vault.open_reader()))
        probe_ledger, pinned_ledger = (
            None if ledger is None else stack.enter_context(open_to_read(ledger)) for _ in range(2)
        )

        def changes() -> list[int]:
            counters = [_change_counter(probe) for probe in probes]
            if vault is not None:
                counters.append(_journal_end(probe_vault))
            if probe_ledger is not None:
                counters.append(_ledger_end(probe_ledger))
            return counters

        pinned_vault: Connection | None = None
        for _ in range(_ATTEMPTS):
            before = changes()
            with ExitStack() as attempt:
                pinned = {file: attempt.enter_context(closing(_reader(file))) for file in files}
                for connection in pinned.values():
                    connection.execute("BEGIN")
                    connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                if pinned_ledger is not None:
                    pinned_ledger.renew()
                if vault is not None:
                    pinned_vault = attempt.enter_context(closing(vault.open_checker()))
                    attempt.enter_context(vault.snapshot(pinned_vault))
                if changes() == before:
                    stack.push(attempt.pop_all())
                    break
            time.sleep(_PAUSE_S)
        else:
            raise Unavailable("too much is being written: try again when there is less to do")
        yield pinned, pinned_vault, pinned_ledger


def _reader(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{file}?mode=ro", uri=True, isolation_level=None)


def _change_counter(connection: sqlite3.Connection) -> int:
    """Return a number that changes whenever another connection commits (SQLite, pragma data_version)."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def _journal_end(vault: Connection) -> int:
    """Return a number that changes with whatever is written into a vault."""
    return int(vault.execute("SELECT coalesce(max(number), -1) FROM journal").fetchone()[0])


def _ledger_end(ledger: Moment) -> int:
    """Return a number that changes with every block."""
    ledger.renew()
    last = ledger.last_block()
    return -1 if last is None else last.height


def _copy_database(source: Path, target: Path) -> None:
    with _intact(source), closing(_reader(source)) as here:
        _copy(source, here, target)


def _copy(file: Path, source: sqlite3.Connection, target: Path) -> None:
    """Copy ``file``, which ``source`` reads."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _intact(file), closing(sqlite3.connect(target)) as there:
        source.backup(there)
        there.execute("PRAGMA journal_mode=DELETE")


@contextmanager
def _intact(file: Path) -> Iterator[None]:
    """Say of a file that SQLite cannot make sense of which one it is."""
    try:
        yield
    except sqlite3.Error as error:
        if is_damage(error):
            raise IntegrityBroken(f"{file} is damaged or cut short") from error
        raise


@contextmanager
def _told(target: Path) -> Iterator[None]:
    """Tell in one line what keeps ``target`` from being written."""
    try:
        yield
    except sqlite3.Error as error:
        raise SetupWrong(f"{target} cannot be written: {reason(error)}") from error
    except OSError as wrong:
        raise SetupWrong(f"{target} cannot be written: {wrong.strerror or 'choose another folder'}") from wrong


def _settle(folder: Path) -> None:
    """Close a new folder to others, and return when all of it would survive a loss of power, its names too."""
    inside = sorted(folder.rglob("*"), reverse=True)
    for path in (*inside, folder, folder.parent):
        if path != folder.parent:
            path.chmod(0o700 if path.is_dir() else 0o600)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
