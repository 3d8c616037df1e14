"""The files of an SQLite store: how they are opened, made to last, and kept from a second writer."""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from ledger_core.errors import LedgerLocked, LedgerUnavailable

Connect: TypeAlias = Callable[[Path, bool], sqlite3.Connection]


def connect_file(path: Path, read_only: bool) -> sqlite3.Connection:
    """Open an existing database file, with transactions begun by hand and used from any thread."""
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=5.0)


def connect_unchanging(path: Path, read_only: bool) -> sqlite3.Connection:
    """Open a database that nobody writes, as it stands, where no file can be made beside it."""
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing; each survives loss of power."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in reversed(missing):
        sync(each)


def sync(path: Path) -> None:
    """Return once a file or folder, and its name in the folder above, survive loss of power."""
    for target in (path, path.absolute().parent):
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Give an empty file, for its owner alone, that takes the name ``target`` once it is filled and durable.

    Raises:
        OSError: There is such a file, or none can be made.
    """
    part = target.with_name(f"{target.name}.part")
    if target.exists():
        raise FileExistsError(target)
    make_folder(target.absolute().parent)
    # What an attempt left that was cut short.
    part.unlink(missing_ok=True)
    try:
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        yield part
        sync(part)
        part.rename(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync(target)


def lock(path: Path) -> int:
    """Keep every other opening for writing out; return the descriptor that holds the lock until it is closed.

    Raises:
        LedgerLocked: Somebody has it.
        LedgerUnavailable: The lock file cannot be made.
    """
    try:
        make_folder(path.parent)
        lock_fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as cause:
        raise LedgerUnavailable(f"the ledger's lock file cannot be opened: {cause.strerror}") from cause
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as cause:
        os.close(lock_fd)
        raise LedgerLocked("another process has this ledger open, or this one has opened it twice") from cause
    return lock_fd
