"""Check everything a data directory holds against everything else; say what is wrong and where.

Works on the files and databases alone, whether a service runs or not and whether or not the
service could still open them.

Invariant: nothing is written; a key that is absent is told, never made.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from fhir_bridge.adapters import datadir, spool
from fhir_bridge.adapters.keyring_file import FileKeyring, identity_file
from fhir_bridge.adapters.keystore_fsck import check_keys, journal_heads, read_keys
from fhir_bridge.adapters.sqlite_support import check_stamp, connect_for_checking, is_damage, reason
from fhir_bridge.adapters.vault_database import VaultDatabase
from fhir_bridge.adapters.vault_fsck import check as check_vault
from fhir_bridge.errors import BridgeError, KeyMissing
from fhir_bridge.lines.checking import Finding, Progress
from fhir_bridge.lines.notary import ANCHOR_SIGNER, AUDIT_SIGNER, OPERATOR_SIGNER
from fhir_bridge.ports.keys import KeyKind, Keyring
from ledger_core import (
    AccessHead,
    Anchor,
    Identity,
    Join,
    LedgerError,
    Rotate,
    open_to_read,
    read_transactions,
    run_fsck,
)

Found = Iterator[Finding | Progress]
LOG_SIGNER = "log"


def check_everything(
    data: Path,
    vault: VaultDatabase,
    keyring: FileKeyring,
    ledger: Path | str,
    deep: bool,
    checkpoint: str | None = None,
) -> Found:
    """Yield progress, and a finding for everything that is not as it was committed.

    Args:
        keyring: Only read, from its files as they are now, even if it is a running server's.
        ledger: Where the ledger is.
        deep: Open every envelope too.
        checkpoint: A signed checkpoint kept elsewhere; finds a ledger that was rolled back with its vault.
    """
    reading = keyring.to_read()
    for title, part in (
        ("version", lambda: _stamp(data)),
        ("ledger", lambda: _ledger(ledger, checkpoint)),
        ("keys", lambda: _keys(data, reading)),
        ("keyring", lambda: _identities(ledger, reading)),
        ("vault", lambda: _vault(data, vault, ledger, reading, deep)),
        ("spool", lambda: _spool(data, vault)),
    ):
        yield Progress(f"checking {title}")
        began = time.monotonic()
        yield from _guarded(title, part)
        yield Progress(f"checked {title} in {time.monotonic() - began:.1f} s")


def _guarded(title: str, part: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A file too broken to be read is a finding, not an end of the check."""
    try:
        yield from part()
    except (BridgeError, LedgerError) as error:
        yield Finding(title, f"cannot be read: {error}")
    except sqlite3.DatabaseError as error:
        what = "SQLite finds the file malformed" if is_damage(error) else reason(error)
        yield Finding(title, f"cannot be read: {what}")


def _stamp(data: Path) -> Iterator[Finding]:
    stamp = data / "VERSION"
    found = stamp.read_text(errors="replace").strip() if stamp.exists() else ""
    if found != datadir.VERSION:
        yield Finding(
            "VERSION", f"the stamp is {found[:20]!r}: this fhir-bridge writes and opens {datadir.VERSION!r}"
        )


def _ledger(ledger: Path | str, checkpoint: str | None) -> Iterator[Finding]:
    for found in run_fsck(ledger, checkpoint=checkpoint):
        yield Finding(f"ledger {found.where}", found.what)


def _keys(data: Path, keyring: Keyring) -> Iterator[Finding]:
    for found in check_keys(data / "keys" / "keys.db", keyring):
        yield Finding(found.place, found.what)


def _identities(ledger: Path | str, keyring: FileKeyring) -> Iterator[Finding]:
    """Check that the keys that the ledger knows this node by are still in its keyring."""
    if not keyring.has_header():
        yield Finding("keyring keyring.json", "missing: it says how the keys are encrypted")
    log_key, operator, members = _known_to_ledger(ledger)
    yield from _check_identity(keyring, LOG_SIGNER, log_key, "the ledger's checkpoints are signed with it")
    yield from _check_identity(keyring, OPERATOR_SIGNER, operator, "the ledger began with it")
    for public, name in members.items():
        yield from _check_identity(keyring, name, public, "a member joined the ledger with it")


def _known_to_ledger(ledger: Path | str) -> tuple[bytes | None, bytes | None, dict[bytes, str]]:
    """Return the log's key, the operator's and the members' with their names.

    The operator of the genesis is the only member at first, so it is who signed the first admission.
    """
    members: dict[bytes, str] = {}
    operator: bytes | None = None
    for transaction in read_transactions(ledger):
        payload = transaction.payload
        if isinstance(payload, Join):
            operator = operator or transaction.signer
            members[payload.key] = payload.name
        elif isinstance(payload, Rotate) and transaction.signer == operator:
            operator = payload.key
        elif isinstance(payload, Rotate) and transaction.signer in members:
            members[payload.key] = members.pop(transaction.signer)
    with open_to_read(ledger) as rows:
        log_key = rows.meta("log_key")
    return (None if log_key is None else _from_hex(log_key)), operator, members


def _from_hex(text: str) -> bytes:
    """Return the bytes; none for what is no hex, so that no key equals it."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _check_identity(keyring: Keyring, name: str, public: bytes | None, use: str) -> Iterator[Finding]:
    """Compare a private key with the public one; when that is unknown, see only that the file is there and opens."""
    place = f"keyring {identity_file(name)}"
    try:
        held = Identity.from_private_bytes(keyring.identity(name)).public
    except KeyMissing:
        yield Finding(place, f"missing: {use}")
    except BridgeError as error:
        yield Finding(place, str(error))
    else:
        if public is not None and held != public:
            yield Finding(place, f"another key than it was: {use}")


def _vault(data: Path, vault: VaultDatabase, ledger: Path | str, keyring: Keyring, deep: bool) -> Iterator[Finding]:
    keys = read_keys(data / "keys" / "keys.db", keyring)
    mac = next((key for name, key in keys.items() if name.kind is KeyKind.VAULT_MAC), None)
    if mac is None:
        yield Finding("key store", "the key that authenticates the vault is missing")
        return
    charts = {name.subject: key for name, key in keys.items() if name.kind in (KeyKind.CHART, KeyKind.DIRECTORY)}
    _, epochs = _on_ledger(ledger, keyring)
    for found in check_vault(
        vault,
        mac,
        anchored_roots=lambda: _on_ledger(ledger, keyring)[0],
        key_store_heads=lambda: journal_heads(data / "keys" / "keys.db"),
        chart_keys=charts.get if deep else None,
    ):
        yield Finding(found.place, found.what)
    held = _audit_epochs(vault)
    for epoch in sorted(epochs - held):
        yield Finding("vault", f"older than the ledger: it lacks audit epoch {epoch}")


def _on_ledger(ledger: Path | str, keyring: Keyring) -> tuple[set[bytes], set[int]]:
    """Return the batch roots and audit epochs that this node's signers have on the ledger."""
    anchor = Identity.from_private_bytes(keyring.identity(ANCHOR_SIGNER)).public
    audit = Identity.from_private_bytes(keyring.identity(AUDIT_SIGNER)).public
    roots: set[bytes] = set()
    epochs: set[int] = set()
    for transaction in read_transactions(ledger):
        payload = transaction.payload
        if isinstance(payload, Anchor) and transaction.signer == anchor:
            roots.add(payload.root)
        elif isinstance(payload, AccessHead) and transaction.signer == audit:
            epochs.add(payload.epoch)
    return roots, epochs


def _audit_epochs(vault: VaultDatabase) -> set[int]:
    rows = _read(vault, "SELECT key FROM documents WHERE collection = 'audit-epochs'")
    return {int(key) for (key,) in rows}


def _read(vault: VaultDatabase, sql: str) -> list[tuple[Any, ...]]:
    with vault.translated(), closing(vault.open_checker()) as connection, vault.snapshot(connection):
        return connection.execute(sql).fetchall()


def _spool(data: Path, vault: VaultDatabase) -> Iterator[Finding]:
    """Check that no stream ends before what the vault has read of it.

    The vault is read first: a server that runs meanwhile only moves the spool further ahead.
    """
    read = "SELECT stream, max(next_offset) FROM positions WHERE bus = 'spool' GROUP BY stream"
    positions = dict(_read(vault, read))
    ends = _spool_ends(data / "spool.db")
    for stream, position in sorted(positions.items()):
        end = ends.get(stream, 0)
        if end < position:
            yield Finding("spool", f"older than the vault: {stream} ends at {end}, the vault has read to {position}")


def _spool_ends(path: Path) -> dict[str, int]:
    if not path.exists():
        return {}
    with closing(connect_for_checking(path, spool.WHAT)) as connection:
        check_stamp(connection, path, what=spool.WHAT, version=spool.VERSION)
        return dict(connection.execute("SELECT stream, next_number FROM streams"))
