"""Where a data directory's ledger is: its own file, or a PostgreSQL database that a setting names.

A ledger that is begun twice is two histories under one key. So a directory whose
ledger is in a database says so in a file, and neither a forgotten setting nor an
empty database makes it begin another.
"""

from __future__ import annotations

import os
from pathlib import Path

from fhir_bridge.errors import BridgeError, DataDirectoryInUse, SetupWrong, Unavailable
from ledger_core import LedgerAway, LedgerError, LedgerLocked, holds_ledger, is_url

SETTING = "FHIR_BRIDGE_LEDGER_URL"
_FILE = Path("ledger") / "ledger.db"
_ELSEWHERE = Path("ledger") / "elsewhere"


def ledger_address(data: Path, url: str) -> Path | str:
    """Return the address of a directory's ledger, for ``ledger_core``.

    Args:
        url: ``postgresql://…``; empty for the directory's file.

    Raises:
        SetupWrong: The URL is of no such database, or the directory's ledger is of the other kind.
    """
    if not url:
        if (data / _ELSEWHERE).exists():
            raise SetupWrong(f"the ledger of {data} is in a database: set {SETTING}")
        return data / _FILE
    if not is_url(url):
        raise SetupWrong(f"{SETTING} is no URL of PostgreSQL")
    if (data / _FILE).exists():
        raise SetupWrong(f"{data} holds a ledger itself: move it by backup and restore, or unset {SETTING}")
    return url


def is_begun(data: Path, address: Path | str) -> bool:
    """Tell whether the directory's ledger was begun.

    Raises:
        SetupWrong: It was, in another database.
        Unavailable: The database does not answer.
    """
    try:
        found = holds_ledger(address)
    except LedgerError as refused:
        raise refusal(refused) from refused
    if not found and (data / _ELSEWHERE).exists():
        raise SetupWrong(f"the database at {SETTING} holds no ledger, and that of {data} was begun in one")
    return found


def refuse_second(data: Path, address: Path | str, *, is_in_use: bool) -> None:
    """Refuse to begin a ledger for a directory whose vault is in use already.

    Raises:
        SetupWrong: The ledger is not where it was.
        Unavailable: The database does not answer.
    """
    if is_in_use and not is_begun(data, address):
        raise SetupWrong(
            f"the ledger of {data} is gone, and its vault is in use: put it back, or restore a backup elsewhere"
        )


def note_place(data: Path, address: Path | str) -> None:
    """Say durably in the directory that its ledger is in a database; nothing if it is a file."""
    marker = data / _ELSEWHERE
    if not is_url(address) or marker.exists():
        return
    marker.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with marker.open("w") as file:
        file.write(f"in the database that {SETTING} names\n")
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(marker.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def refusal(error: LedgerError) -> BridgeError:
    """Return what an error of opening a ledger is to the service."""
    if isinstance(error, LedgerLocked):
        return DataDirectoryInUse(f"the ledger does not open: {error}")
    if isinstance(error, LedgerAway):
        return Unavailable(f"the ledger does not open: {error}")
    return SetupWrong(f"the ledger does not open: {error}")
