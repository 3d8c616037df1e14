"""Copies a vault row by row, journal and all, from one database into another of either kind.

For backups, which keep a vault as one SQLite file wherever it came from, for
restoring them, and for moving a vault to PostgreSQL. The copy's journal is the
original's, so that everything that could be checked of the one can be of the
other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice

from fhir_bridge.adapters.vault_database import Connection, VaultDatabase
from fhir_bridge.adapters.vault_schema import TABLES
from fhir_bridge.errors import SetupWrong

_AT_ONCE = 500
_JOURNAL = ("number", "entries", "head")
_ORDERED = {"records": " ORDER BY seq"}
"""A record's place in the order of arrival is no column of the journal's, and is kept by copying in that order."""


def copy_vault(source: Connection, target: VaultDatabase) -> None:
    """Copy every row in one transaction.

    Args:
        source: Inside a snapshot.
        target: Holds no row yet.

    Raises:
        SetupWrong: The target holds a vault already.
        Unavailable: It does not answer; nothing was written.
    """
    with target.translated(), closing(target.open_writer()) as writer:
        if writer.execute("SELECT count(*) FROM journal").fetchone()[0]:
            raise SetupWrong("the database to copy into holds a vault already: name an empty one")
        with target.transaction(writer):
            for table in TABLES.values():
                rows = iter(source.execute(table.select + _ORDERED.get(table.name, "")))
                for some in _pieces(rows):
                    writer.executemany(table.insert, some)
            columns = ", ".join(_JOURNAL)
            rows = iter(source.execute(f"SELECT {columns} FROM journal ORDER BY number"))  # noqa: S608 - constants
            for some in _pieces(rows):
                writer.executemany(f"INSERT INTO journal ({columns}) VALUES (?, ?, ?)", some)  # noqa: S608


def _pieces(rows: Iterator[tuple[object, ...]]) -> Iterator[list[tuple[object, ...]]]:
    while some := list(islice(rows, _AT_ONCE)):
        yield some
