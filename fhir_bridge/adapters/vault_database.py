"""What a vault needs of the database that holds its rows; SQLite and PostgreSQL give it.

The vault's own SQL is the same for both, with ``?`` for each value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from fhir_bridge.lines.checking import Finding

Values = Sequence[Any]


class Rows(Protocol):
    """The rows of one statement, as of a DB-API cursor."""

    @property
    def rowcount(self) -> int:
        """How many rows were written or deleted."""
        ...

    def fetchone(self) -> Any:
        """Return the next row or None."""
        ...

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """A connection of one thread at a time."""

    def execute(self, sql: str, values: Values = ..., /) -> Rows:
        """Run one statement."""
        ...

    def executemany(self, sql: str, values: Iterable[Values], /) -> object:
        """Run one statement for each of several rows of values."""
        ...

    def close(self) -> None:
        """Release it; a second call does nothing."""
        ...


class InDoubt(Exception):
    """The connection was lost while a transaction was being committed: it may be durable or not be at all."""


class VaultDatabase(Protocol):
    """Where a vault's rows are.

    ``answers_at_once`` says that a look-up by key takes less time than handing it to another thread.
    """

    answers_at_once: bool
    readers: int

    def open_writer(self) -> Connection:
        """Return the one connection that writes; the tables are made if there are none.

        Raises:
            SetupWrong: No vault, a newer layout, or another process writes it.
            Unavailable: It does not answer; safe to retry.
        """
        ...

    def open_reader(self) -> Connection:
        """Return a connection that cannot write."""
        ...

    def open_checker(self) -> Connection:
        """Return a connection that cannot write and reads whatever was stored, for fsck."""
        ...

    def recover(self, writer: Connection) -> Connection:
        """Return a connection that writes after the last transaction failed: this one or another in its place.

        Raises:
            Unavailable: Not yet; safe to retry.
        """
        ...

    def transaction(self, writer: Connection, *, waits: bool = True) -> AbstractContextManager[None]:
        """Commit what the block writes, or nothing of it.

        Args:
            waits: Until it is durable; else a later commit that waits makes it durable too.

        Raises:
            InDoubt: It cannot be told which.
        """
        ...

    def snapshot(self, connection: Connection) -> AbstractContextManager[None]:
        """Read one state throughout the block."""
        ...

    def translated(self) -> AbstractContextManager[None]:
        """Tell the driver's errors in our terms.

        Raises:
            IntegrityBroken: What is stored is damaged, or a row that must be new exists.
            Unavailable: Anything else; nothing was written.
        """
        ...

    def is_outage(self, error: BaseException) -> bool:
        """Tell whether the database could not do what it was asked, rather than that it was asked something wrong."""
        ...

    def is_in_place(self) -> bool:
        """Tell whether what is written is where the next start would look for it."""
        ...

    def damage(self, connection: Connection) -> Iterator[Finding]:
        """Yield what the database itself finds wrong with its files, if it can tell."""
        ...

    def size(self, connection: Connection) -> int:
        """Return the bytes that it takes on disk."""
        ...
