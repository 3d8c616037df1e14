"""Back up and restore: the vault with the ledger in one folder, the keys in another, never together.

Files are copied through SQLite's own backup, so a running server goes on. The
order makes the copy consistent: the vault first, then the ledger (which then
knows at least every batch the vault holds), then the keys (which then hold at
least every key the vault needs).
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from fhir_bridge.adapters.datadir import VERSION
from fhir_bridge.errors import SetupWrong

_DATA = (("vault.db", "vault.db"), ("spool.db", "spool.db"), ("ledger/ledger.db", "ledger.db"))


async def make_backup(data: Path, target: Path) -> dict[str, str]:
    """Copy a data directory to ``target/vault`` and ``target/keys``; return both paths.

    Raises:
        SetupWrong: The target holds something already.
    """
    return await asyncio.to_thread(_make, data, target)


def restore(source: Path, keys: Path, data: Path) -> None:
    """Make a data directory from a backup's two folders; check it with fsck before serving.

    Args:
        source: The backup's ``vault`` folder.
        keys: The backup's ``keys`` folder.
        data: Must not exist, or be empty.

    Raises:
        SetupWrong: A folder lacks a file, or ``data`` is in use.
    """
    if data.exists() and any(data.iterdir()):
        raise SetupWrong(f"{data} is not empty: restore into a new directory")
    for file in (source / "vault.db", source / "ledger.db", source / "VERSION", keys / "keys.db"):
        if not file.exists():
            raise SetupWrong(f"{file} is missing: --from takes the backup's vault folder, --keys its keys folder")
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    data.chmod(0o700)
    for place, name in _DATA:
        if (source / name).exists():
            _copy_database(source / name, data / place)
    shutil.copyfile(source / "VERSION", data / "VERSION")
    _copy_database(keys / "keys.db", data / "keys" / "keys.db")
    for folder in ("keyring", "credentials"):
        if (keys / folder).exists():
            shutil.copytree(keys / folder, data / ("keys/keyring" if folder == "keyring" else folder))
    _make_private(data)


def _make(data: Path, target: Path) -> dict[str, str]:
    if target.exists() and any(target.iterdir()):
        raise SetupWrong(f"{target} is not empty: name a new folder")
    vault, keys = target / "vault", target / "keys"
    for place, name in _DATA:
        if (data / place).exists():
            _copy_database(data / place, vault / name)
    (vault / "VERSION").write_text(VERSION + "\n")
    _copy_database(data / "keys" / "keys.db", keys / "keys.db")
    shutil.copytree(data / "keys" / "keyring", keys / "keyring")
    shutil.copytree(data / "credentials", keys / "credentials")
    _make_private(target)
    return {"vault": str(vault), "keys": str(keys)}


def _copy_database(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as here,
        closing(sqlite3.connect(target)) as there,
    ):
        here.backup(there)
        there.execute("PRAGMA journal_mode=DELETE")


def _make_private(folder: Path) -> None:
    folder.chmod(0o700)
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
