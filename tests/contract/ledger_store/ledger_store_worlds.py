"""The worlds of the stores there are; a new store adds its own to ``WORLDS``."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from ledger_core.ports import Reader, Store
from ledger_core.stores.sqlite import SqliteStore
from tests.contract.ledger_store.ledger_store_samples import StoreWorld
from tests.support.memory_store import MemoryPlace


class MemoryWorld:
    """Rows in dicts."""

    def __init__(self, folder: Path) -> None:
        del folder
        self._place = MemoryPlace()

    def open(self) -> Store:
        return self._place.open()

    def open_to_read(self) -> Reader:
        return self._place.open_to_read()

    def open_copy(self, file: Path) -> Reader:
        return MemoryPlace.of_snapshot(file).open_to_read()

    def fail_after(self, rows: int | None) -> None:
        self._place.fail_after = rows


class FailingConnection(sqlite3.Connection):
    """Writes row by row, and fails when it has written as many as it may."""

    left: int | None = None

    def execute(self, query: str, values: Any = ()) -> sqlite3.Cursor:
        if query.lstrip().startswith(("INSERT", "DELETE", "UPDATE", "COMMIT")) and self.left is not None:
            if self.left == 0:
                raise sqlite3.OperationalError("disk I/O error")
            self.left -= 1
        return super().execute(query, values)

    def executemany(self, query: str, rows: Iterable[Any]) -> sqlite3.Cursor:
        for row in rows:
            self.execute(query, row)
        return super().execute("SELECT 1")


class SqliteWorld:
    """A file."""

    def __init__(self, folder: Path, store: type[SqliteStore] = SqliteStore) -> None:
        self.path, self._store = folder / "ledger.db", store
        self._fail_after: int | None = None

    def open(self) -> SqliteStore:
        made: list[FailingConnection] = []

        def connect(path: Path, read_only: bool) -> sqlite3.Connection:
            uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
            opened = sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False, factory=FailingConnection
            )
            if not read_only:
                made.append(opened)
            return opened

        store = self._store.open(self.path, connect=connect)
        for connection in made:
            connection.left = self._fail_after
        return store

    def open_to_read(self) -> SqliteStore:
        return self._store.open_to_read(self.path)

    def open_copy(self, file: Path) -> SqliteStore:
        return self._store.open_to_read(file)

    def fail_after(self, rows: int | None) -> None:
        self._fail_after = rows


WORLDS: Final[Sequence[Callable[[Path], StoreWorld]]] = (MemoryWorld, SqliteWorld)
