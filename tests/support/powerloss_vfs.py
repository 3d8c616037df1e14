"""A VFS that remembers what was synced, and connections over it that look like ``sqlite3``'s.

``Disk`` passes every call on to the "unix" VFS of a scratch folder and those below it, which plays
the operating system's memory: locks and the shared WAL index work as always, and
the index (``-shm``) is never part of what a disk holds. It records each
operation, and may refuse one first (disk full, I/O error).

SQLite's own "unix" VFS syncs the directory after the first sync of each journal
or WAL it opened, and after a deletion where SQLite asks for it; the record says so.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, cast

import apsw

from tests.support.powerloss import Create, Delete, Event, Mark, Sync, Truncate, Write

_NUMBERS: Final = itertools.count()
_JOURNALS: Final = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL

_NAMES: Final = {**apsw.mapping_result_codes, **apsw.mapping_extended_result_codes}

PLANTED: Final = "(planted)"

Refusal = Callable[[Event], Exception | None]


class Disk(apsw.VFS):
    """The files of one scratch folder, and the history of what was done to them.

    While ``postponed`` names a statement, connections answer it at once and run it
    before their next one: a store that promises too early, made on purpose.

    Args:
        folder: Where the operating system's view of the files lives; may hold files, all of them durable.
        refuse: Asked before each operation; an exception it returns is what SQLite gets.
        sync_s: How long a sync takes; other threads run meanwhile.
        checkpoint_pages: Length of the WAL that makes SQLite fold it into the file, if not its default.
        instead: Statements to run in the place of others, to weaken a store on purpose.
        weak: Name of the only file where they do so, if not all.
    """

    def __init__(
        self,
        folder: Path,
        *,
        refuse: Refusal | None = None,
        sync_s: float = 0.0,
        checkpoint_pages: int | None = None,
        instead: Mapping[str, str] | None = None,
        weak: str | None = None,
    ) -> None:
        self.vfs = f"powerloss-{next(_NUMBERS)}"
        super().__init__(self.vfs, "unix")
        self.history: list[Event] = []
        self._folder = folder
        self._names = {str(item.relative_to(folder)) for item in folder.rglob("*") if item.is_file()}
        self._refuse, self._sync_s = refuse, sync_s
        self._checkpoint_pages = checkpoint_pages
        self._instead, self._weak = dict(instead or {}), weak
        self.postponed = ""
        self._mutex = threading.RLock()

    def mark(self, what: object) -> None:
        """Note in the history that the world outside knows ``what`` from here on."""
        with self._mutex:
            self.history.append(Mark(what))

    def connect(self, path: Path, read_only: bool) -> sqlite3.Connection:
        """Open a connection over this disk, as ``sqlite3.connect`` would."""
        mode = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
        opened = ApswConnection(self, path, mode, self._instead if self._weak in (None, path.name) else {})
        if self._checkpoint_pages is not None:
            opened.execute(f"PRAGMA wal_autocheckpoint={self._checkpoint_pages}")
        return cast(sqlite3.Connection, opened)

    def record(self, event: Event) -> None:
        """Add an operation to the history, unless it is refused."""
        with self._mutex:
            refused = self._refuse(event) if self._refuse is not None else None
            if refused is None:
                self.history.append(event)
                return
            if isinstance(event, Sync):
                self.history.append(Sync(event.name, event.names_too, succeeded=False))
        raise refused

    def wait_for_platter(self) -> None:
        """Take the time that a sync takes."""
        if self._sync_s:
            time.sleep(self._sync_s)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        place = name.filename() if isinstance(name, apsw.URIFilename) else name
        if place is None or not Path(place).is_relative_to(self._folder):
            return super().xOpen(name, flags)
        short = self._short(place)
        opened = DiskFile(self, short, name, flags)
        with self._mutex:
            if short not in self._names:
                self._names.add(short)
                self.record(Create(short))
        return opened

    def xDelete(self, filename: str, syncdir: bool) -> None:
        short = self._short(filename)
        with self._mutex:
            if short in self._names:
                self.record(Delete(short, syncdir))
                self._names.discard(short)
            super().xDelete(filename, False)

    def _short(self, place: str) -> str:
        return str(Path(place).relative_to(self._folder))


class DiskFile(apsw.VFSFile):
    """One open file of a ``Disk``."""

    def __init__(self, disk: Disk, name: str, place: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("unix", place, flags)
        self._disk, self._name = disk, name
        self._names_unsynced = bool(flags[0] & _JOURNALS)

    def xWrite(self, data: Any, offset: int) -> None:
        self._disk.record(Write(self._name, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._disk.record(Truncate(self._name, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        self._disk.wait_for_platter()
        self._disk.record(Sync(self._name, self._names_unsynced))
        self._names_unsynced = False

    def excepthook(
        self, etype: type[BaseException] | None, evalue: BaseException | None, etraceback: TracebackType | None
    ) -> bool:
        """Keep quiet about planted errors that SQLite has no caller to tell, as when it closes a file."""
        return PLANTED in str(evalue)


class ApswCursor:
    """The part of ``sqlite3.Cursor`` that our stores use."""

    def __init__(self, cursor: apsw.Cursor, rowcount: int) -> None:
        self._cursor, self.rowcount = cursor, rowcount

    def fetchone(self) -> Any:
        return next(self, None)

    def fetchall(self) -> list[Any]:
        return list(self)

    def fetchmany(self, size: int = 1) -> list[Any]:
        return list(itertools.islice(self, size))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with _Translated():
            return next(self._cursor)


class ApswConnection:
    """The part of ``sqlite3.Connection`` that our stores use; errors are ``sqlite3``'s too."""

    def __init__(self, disk: Disk, path: Path, mode: int, instead: Mapping[str, str]) -> None:
        self._disk, self._instead, self._owed = disk, instead, ""
        with _Translated():
            self._connection = apsw.Connection(str(path.absolute()), flags=mode, vfs=disk.vfs)
            self._connection.set_busy_timeout(5000)

    @property
    def in_transaction(self) -> bool:
        with _Translated():
            return self._connection.in_transaction

    def execute(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> ApswCursor:
        bound = values if isinstance(values, Mapping) else tuple(values)
        with _Translated():
            self._settle()
            if query == self._disk.postponed:
                self._owed, query = query, ""
            cursor = self._connection.execute(self._instead.get(query, query), bound)
            return ApswCursor(cursor, self._connection.changes())

    def executemany(self, query: str, rows: Iterable[Sequence[Any]]) -> ApswCursor:
        with _Translated():
            cursor = self._connection.executemany(query, [tuple(row) for row in rows])
            return ApswCursor(cursor, self._connection.changes())

    def close(self) -> None:
        """Close, and like ``sqlite3`` say nothing of an error while the log is folded into the file."""
        self._settle()
        with contextlib.suppress(apsw.IOError, apsw.FullError):
            self._connection.close()

    def _settle(self) -> None:
        owed, self._owed = self._owed, ""
        if owed:
            self._connection.execute(owed)


class _Translated:
    """Raises ``sqlite3``'s error in the place of apsw's."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        match error:
            case apsw.ConnectionClosedError() | apsw.CursorClosedError() | apsw.MisuseError():
                raise sqlite3.ProgrammingError(str(error)) from error
            case apsw.ConstraintError():
                raise _coded(sqlite3.IntegrityError, error) from error
            case apsw.CorruptError() | apsw.NotADBError():
                raise _coded(sqlite3.DatabaseError, error) from error
            case apsw.Error():
                raise _coded(sqlite3.OperationalError, error) from error


def _coded(kind: type[sqlite3.Error], error: apsw.Error) -> sqlite3.Error:
    """Return ``sqlite3``'s error with the code that its driver would have put into it."""
    made = kind(str(error))
    # The stub does not know the attribute.
    made.sqlite_errorcode = code = int(getattr(error, "extendedresult"))  # noqa: B009 - the stub does not know it
    made.sqlite_errorname = str(_NAMES.get(code, type(error).__name__))
    return made


def disk_full(_: Event) -> Exception:
    """Return what SQLite is told when there is no room."""
    return _planted(apsw.FullError(f"no room {PLANTED}"), apsw.SQLITE_FULL)


def input_output_error(event: Event) -> Exception:
    """Return what SQLite is told when the disk fails."""
    code = apsw.SQLITE_IOERR_FSYNC if isinstance(event, Sync) else apsw.SQLITE_IOERR_WRITE
    return _planted(apsw.IOError(f"the disk failed {PLANTED}"), code)


def _planted(error: apsw.Error, code: int) -> apsw.Error:
    setattr(error, "extendedresult", code)  # noqa: B010 - set from Python only, so the stub does not know it
    return error
