"""What our SQLite files have in common: how they are opened, stamped, written and how their errors are told.

For the vault, the key store and the spool; the only place here that knows
sqlite3's exceptions.

Invariants:
    * a file is readable by its owner only, from the moment it exists;
    * nothing is written to a file that the next start would not find;
    * a commit that returned survives loss of power (WAL with synchronous=FULL);
    * a file written by a newer version is refused, never guessed at.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from fhir_bridge.adapters.migrations import Migration, bring
from fhir_bridge.errors import IntegrityBroken, SetupWrong, Unavailable

BUSY_TIMEOUT_MS = 5_000
_BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_CONSTRAINT = sqlite3.SQLITE_CONSTRAINT
# The second one: the shared-memory file beside a database, which even a reader needs, cannot grow.
_NO_ROOM = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")

Connect: TypeAlias = Callable[[Path, bool], sqlite3.Connection]
"""Opens an existing file, for reading only or not; transactions are begun by hand, any thread may use it."""


def connect_file(path: Path, read_only: bool) -> sqlite3.Connection:
    """Open a database file with the everyday driver."""
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


def open_database(
    path: Path,
    *,
    what: str,
    version: int,
    schema: str,
    secure_delete: bool = False,
    connect: Connect = connect_file,
    migrations: Sequence[Migration] = (),
) -> sqlite3.Connection:
    """Open a file for writing, made with ``schema`` if it is new, brought up if it is of an older layout.

    Args:
        what: Kind of file, stamped into it and named in errors.
        version: The newest layout this code knows.
        secure_delete: Overwrite deleted content with zeros.
        migrations: The steps from layout 1 to ``version``.

    Raises:
        SetupWrong: Another kind of file, or a newer layout.
        Unavailable: The file cannot be opened; safe to retry.
    """
    prepare_file(path)
    with translated(what):
        connection = _prepared(connect(path, False))
        # FULL, not the usual NORMAL: a WAL database under NORMAL loses acknowledged commits on loss of power.
        connection.execute("PRAGMA synchronous=FULL")
        if secure_delete:
            connection.execute("PRAGMA secure_delete=ON")
        connection.execute("BEGIN IMMEDIATE")
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if not tables:
            for statement in schema.split(";"):
                connection.execute(statement)
            connection.execute("CREATE TABLE stamp (what TEXT NOT NULL, version INTEGER NOT NULL)")
            connection.execute("INSERT INTO stamp VALUES (?, ?)", (what, version))
        connection.execute("COMMIT")
        layout = check_stamp(connection, path, what=what, version=version)
    if layout < version:
        try:
            with translated(what), transaction(connection):
                bring(connection, migrations, version, what=what)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepared(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Put a connection into WAL mode and let it wait for others."""
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode=WAL")
    return connection


def connect_for_reading(path: Path, what: str, connect: Connect = connect_file) -> sqlite3.Connection:
    """Return a connection that cannot write; the file must exist.

    Raises:
        SetupWrong: There is no such file.
    """
    if not path.exists():
        raise SetupWrong(f"there is no {what} at {path}")
    connection = _prepared(connect(path, False))
    connection.execute("PRAGMA query_only=ON")
    # 16 MB instead of 2: reading the 3,000 records of a chart took 4.4 instead of 6.1 µs a row (2026-11).
    connection.execute("PRAGMA cache_size=-16384")
    return connection


def connect_for_checking(path: Path, what: str) -> sqlite3.Connection:
    """Return a connection that cannot write and that reads even text which is not UTF-8, for fsck.

    Raises:
        SetupWrong: There is no such file.
    """
    connection = connect_for_reading(path, what)
    connection.text_factory = lambda raw: raw.decode(errors="replace")
    return connection


def check_stamp(connection: sqlite3.Connection, path: Path, *, what: str, version: int) -> int:
    """Return the layout of a file; refuse one of another kind or of a newer layout.

    Raises:
        SetupWrong: The stamp does not fit.
        sqlite3.Error: It cannot be read now.
    """
    try:
        found = connection.execute("SELECT what, version FROM stamp").fetchall()
    except sqlite3.DatabaseError as error:
        if _primary(error) not in (sqlite3.SQLITE_ERROR, *_BROKEN):
            connection.close()
            raise
        found = []
    if len(found) != 1 or found[0][0] != what:
        connection.close()
        raise SetupWrong(f"{path} is not a {what} of fhir-bridge")
    if found[0][1] > version:
        connection.close()
        raise SetupWrong(f"{path} was written by a newer version of fhir-bridge (layout {found[0][1]})")
    return int(found[0][1])


def prepare_file(path: Path) -> None:
    """Make an empty file with mode 0600 in a folder with mode 0700, unless they exist.

    SQLite gives its side files (-wal, -shm) the mode of the main file.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))


class OpenFile:
    """A file as it was when it was opened: by now its name may be gone or lead to another one.

    SQLite goes on with a file that was removed or replaced, and what it commits is lost with the process.
    """

    def __init__(self, path: Path, what: str) -> None:
        """Note which file a path leads to; there must be one."""
        self._path, self._what = path, what
        self._place = _place(path)

    def is_in_place(self) -> bool:
        """Tell whether the next start would open the same file; costs one look into the folder."""
        return _place(self._path) == self._place

    def require_in_place(self) -> None:
        """Let nothing be written that would be lost.

        Raises:
            Unavailable: The file was removed or replaced; put back, it is written again.
        """
        if not self.is_in_place():
            raise Unavailable(f"the {self._what} file was removed or replaced")


def _place(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Tell sqlite3's errors in our terms.

    Raises:
        IntegrityBroken: The file is damaged, or a row that must be new exists.
        Unavailable: Anything else; nothing was written.
    """
    try:
        yield
    except sqlite3.Error as error:
        if is_damage(error):
            raise IntegrityBroken(f"the {what} file is damaged; run fsck") from error
        if _primary(error) == _CONSTRAINT:
            raise IntegrityBroken(f"the {what} holds a row that should be new") from error
        raise Unavailable(f"the {what} did not answer ({reason(error)})") from error


def is_damage(error: sqlite3.Error) -> bool:
    """Tell whether what is in the file is wrong, rather than that SQLite could not get at it."""
    is_undecodable = isinstance(error, sqlite3.OperationalError) and not _primary(error)
    return _primary(error) in _BROKEN or is_undecodable


def reason(error: sqlite3.Error) -> str:
    """Return SQLite's name of an error, and what an operator knows it by if it is about room on the disk."""
    name: str = getattr(error, "sqlite_errorname", "closed")
    return f"{name}: is the disk full?" if name in _NO_ROOM else name


def _primary(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


@contextmanager
def transaction(connection: sqlite3.Connection, file: OpenFile | None = None) -> Iterator[None]:
    """Commit what the block writes, or nothing of it.

    Raises:
        Unavailable: ``file``, which the connection writes, was removed or replaced.
    """
    if file is not None:
        file.require_in_place()
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Read one state of the file throughout the block."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        _roll_back(connection)


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")
