"""Check a vault against its journal, its batches, the ledger and, on request, its keys.

For ``fhir-bridge fsck``. Reads one snapshot, writes nothing, and can run beside
a running service.

    row      ↔ journal     edited, deleted, added, rolled back: each located
    journal  ↔ batch       its head is a salted leaf of every batch
    batch    ↔ records     every commitment is a leaf, the leaves give the root
    batch    ↔ ledger      every root marked as anchored is there; every root there is here
    journal  ↔ key store   every head of the key store that the vault has seen is still in its journal
    envelope ↔ commitment  with the keys: what opens is what was committed (``deep``)

What a vault that was rolled back as a whole hides, the ledger tells: it holds
the root of a batch that the vault lacks.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from itertools import groupby

from fhir_bridge.adapters.journal_check import JournalCheck
from fhir_bridge.adapters.vault_database import Connection, VaultDatabase
from fhir_bridge.adapters.vault_fsck_deep import check_charts
from fhir_bridge.adapters.vault_schema import KEY_STORE, TABLES, WHAT
from fhir_bridge.anchor import head_leaf
from fhir_bridge.lines.checking import Finding
from ledger_core import MerkleBatch

ChartKeys = Callable[[str], bytes | None]
Roots = Collection[bytes] | Callable[[], Collection[bytes]]
Heads = Mapping[int, bytes] | Callable[[], Mapping[int, bytes]]
_COMMITMENTS = """
SELECT batch, 'records ' || chart || '/' || id || '/' || version, commitment FROM records
UNION ALL SELECT batch, 'audits ' || chain || '/' || counter, head FROM audits WHERE batch IS NOT NULL
ORDER BY 1
"""


def check(
    database: VaultDatabase,
    mac_key: bytes,
    *,
    anchored_roots: Roots | None = None,
    key_store_heads: Heads | None = None,
    chart_keys: ChartKeys | None = None,
) -> Iterator[Finding]:
    """Yield a finding for everything in a vault that is not as it was committed.

    Args:
        mac_key: The key the vault is opened with.
        anchored_roots: Roots of all batches this node has on the ledger; None leaves the ledger out. Beside a
            running service give a function: it is called before and after the snapshot is taken.
        key_store_heads: Heads of the key store's journal by number; None leaves the key store out. Beside a
            running service give a function: it is called after the snapshot is taken.
        chart_keys: Gives a chart's key, None for an erased chart; if given, every envelope of a record is opened.

    Raises:
        SetupWrong: It is no vault, or of a newer layout.
    """
    connection = database.open_checker()
    with closing(connection):
        before = anchored_roots() if callable(anchored_roots) else anchored_roots
        try:
            with database.snapshot(connection):
                after = anchored_roots() if callable(anchored_roots) else anchored_roots
                heads = key_store_heads() if callable(key_store_heads) else key_store_heads
                yield from database.damage(connection)
                journal = JournalCheck(connection, mac_key, TABLES)
                yield from journal.run()
                yield from _check_batches(connection, journal.heads)
                yield from _check_leaves(connection)
                if before is not None and after is not None:
                    yield from _check_ledger(connection, before, after)
                if heads is not None:
                    yield from _check_key_store(journal, heads)
                if chart_keys is not None:
                    yield from check_charts(connection, chart_keys)
        except sqlite3.DatabaseError:
            yield Finding(WHAT, "SQLite cannot read the file")


def _check_batches(connection: Connection, heads: Mapping[int, bytes]) -> Iterator[Finding]:
    """Check each batch by itself: numbers, root over leaves, salted leaf over the journal's head."""
    expected = 0
    for number, journal, root, leaves, _, salt, index in connection.execute(f"{TABLES['batches'].select} ORDER BY 1"):
        place = f"batches {number}"
        if number != expected:
            yield Finding(f"batches {expected}", f"missing, up to {number - 1}")
        expected = number + 1
        split = _split(leaves)
        if not split or MerkleBatch(split).root != root:
            yield Finding(place, "its leaves do not give its root")
        head = heads.get(journal)
        if head is None:
            yield Finding(f"journal {journal}", f"missing: batch {number} carries its head")
        elif not 0 <= index < len(split) or split[index] != head_leaf(salt, head):
            yield Finding(place, f"does not carry the head of journal {journal}: one of them was replaced")


def _check_leaves(connection: Connection) -> Iterator[Finding]:
    """Check that every commitment is a leaf of the batch its row names."""
    for number, rows in groupby(connection.execute(_COMMITMENTS), key=lambda row: row[0]):
        found = connection.execute("SELECT leaves FROM batches WHERE number = ?", (number,)).fetchone()
        leaves = set(_split(found[0])) if found is not None else set()
        for _, place, commitment in rows:
            if commitment not in leaves:
                yield Finding(place, f"its commitment is not in batch {number}")


def _check_ledger(connection: Connection, before: Collection[bytes], after: Collection[bytes]) -> Iterator[Finding]:
    """Check that what the vault says was anchored is there now, and that it holds what was there before."""
    held: set[bytes] = set()
    rows = connection.execute("SELECT number, root, height FROM batches LEFT JOIN anchors USING (number) ORDER BY 1")
    for number, root, height in rows:
        held.add(root)
        if height is not None and root not in after:
            yield Finding(
                f"batches {number}", f"marked as anchored at height {height}, but the ledger has no such root"
            )
    for root in sorted(set(before) - held):
        yield Finding(WHAT, f"older than the ledger: it lacks the anchored batch {root.hex()}")


def _check_key_store(journal: JournalCheck, heads: Mapping[int, bytes]) -> Iterator[Finding]:
    for (number,), head in journal.foreign(KEY_STORE):
        if not isinstance(number, int) or heads.get(number) != head:
            yield Finding(
                "key store", f"rolled back or replaced: its journal row {number} is not the one the vault saw"
            )


def _split(leaves: bytes) -> list[bytes]:
    return [leaves[at : at + 32] for at in range(0, len(leaves), 32)]
