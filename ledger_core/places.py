"""Where a ledger's rows are: the only place that picks a store.

An address is a path, ``sqlite:PATH``, or ``postgresql://USER:PASSWORD@HOST/DATABASE``
for a ledger in a PostgreSQL database (needs psycopg 3). No message repeats an
address of the last kind, for there may be a password in it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ledger_core.errors import OpeningRefused
from ledger_core.ports import Store
from ledger_core.stores.files import Connect, connect_file
from ledger_core.stores.rows import SqlRows
from ledger_core.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from ledger_core.stores.postgres import PostgresStore

_SERVERS: Final = ("postgresql://", "postgres://")


@contextmanager
def open_to_read(address: str | Path) -> Iterator[SqlRows]:
    """Give the rows of the ledger at ``address``, which may be open elsewhere, as they are at one moment.

    Raises:
        OpeningRefused: There is no ledger at the address.
        LedgerAway: Its server does not answer.
    """
    if is_url(address):
        store: SqlRows = _postgres().open_to_read(str(address))
    else:
        store = SqliteStore.open_to_read(path_of(address))
    try:
        yield store
    finally:
        store.close()


def holds_ledger(address: str | Path) -> bool:
    """Tell whether something is at an address: a file, or a ledger that was begun in a database.

    Raises:
        OpeningRefused: The database holds something else.
        LedgerAway: Its server does not answer.
    """
    if not is_url(address):
        return path_of(address).exists()
    return _postgres().is_begun(str(address))


def is_url(address: str | Path) -> bool:
    """Tell whether an address is of a server's database, rather than of a file."""
    return isinstance(address, str) and address.startswith(_SERVERS)


def open_store(address: str | Path, connect: Connect = connect_file) -> Store:
    """Open the store at an address for writing, made if there is none.

    Raises:
        LedgerLocked: It is open elsewhere.
        OpeningRefused: Something else is at the address.
        LedgerUnavailable: It cannot be opened.
    """
    return _postgres().open(str(address)) if is_url(address) else SqliteStore.open(path_of(address), connect=connect)


@contextmanager
def empty_server(url: str) -> "Iterator[PostgresStore]":
    """Give the store in a database, held against others, if no ledger was begun there."""
    store = _postgres().open(url)
    try:
        if store.last_block() is not None:
            raise OpeningRefused("there is a ledger in the database already: name an empty one")
        yield store
    finally:
        store.close()


def _postgres() -> "type[PostgresStore]":
    """Return the store on PostgreSQL; whoever keeps a ledger in a file needs no driver for it."""
    try:
        from ledger_core.stores.postgres import PostgresStore
    except ImportError as missing:
        raise OpeningRefused("a ledger on PostgreSQL needs psycopg 3: pip install 'psycopg[binary]'") from missing
    return PostgresStore


def path_of(address: str | Path) -> Path:
    """Return the file that an address means.

    Raises:
        OpeningRefused: It means none.
    """
    if isinstance(address, str):
        scheme, separator, rest = address.partition(":")
        if separator and scheme == "sqlite":
            return Path(rest.removeprefix("//") if rest.startswith("//") else rest)
        if separator and "/" not in scheme:
            raise OpeningRefused(f"no store for addresses that begin with {scheme!r}")
    return Path(address)
