"""Check everything a data directory holds against everything else; say what is wrong and where.

Works on the files alone, whether a server runs or not and whether or not the
service could still open them.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from fhir_bridge.adapters.keystore_fsck import check_keys, journal_heads, read_keys
from fhir_bridge.adapters.vault_fsck import check as check_vault
from fhir_bridge.errors import BridgeError
from fhir_bridge.lines.checking import Finding, Progress
from fhir_bridge.lines.notary import ANCHOR_SIGNER, AUDIT_SIGNER
from fhir_bridge.ports.keys import KeyKind, Keyring
from ledger_core import AccessHead, Anchor, Identity, Join, LedgerError, Rotate, read_transactions, run_fsck

Found = Iterator[Finding | Progress]


def check_everything(data: Path, keyring: Keyring, deep: bool, checkpoint: str | None = None) -> Found:
    """Yield progress, and a finding for everything that is not as it was committed.

    Args:
        deep: Open every envelope too.
        checkpoint: A signed checkpoint kept elsewhere; finds a ledger that was rolled back with its vault.
    """
    for title, part in (
        ("ledger", lambda: _ledger(data, checkpoint)),
        ("keys", lambda: _keys(data, keyring)),
        ("keyring", lambda: _identities(data, keyring)),
        ("vault", lambda: _vault(data, keyring, deep)),
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
    except sqlite3.DatabaseError:
        yield Finding(title, "cannot be read: SQLite finds the file malformed")


def _ledger(data: Path, checkpoint: str | None) -> Iterator[Finding]:
    for found in run_fsck(data / "ledger" / "ledger.db", checkpoint=checkpoint):
        yield Finding(f"ledger {found.where}", found.what)


def _keys(data: Path, keyring: Keyring) -> Iterator[Finding]:
    for found in check_keys(data / "keys" / "keys.db", keyring):
        yield Finding(found.place, found.what)


def _identities(data: Path, keyring: Keyring) -> Iterator[Finding]:
    """Check that the keys with which this node's members joined the ledger are still in its keyring."""
    members: dict[bytes, str] = {}
    for transaction in read_transactions(data / "ledger" / "ledger.db"):
        payload = transaction.payload
        if isinstance(payload, Join):
            members[payload.key] = payload.name
        elif isinstance(payload, Rotate) and transaction.signer in members:
            members[payload.key] = members.pop(transaction.signer)
    for public, name in members.items():
        file = f"identity-{quote(name, safe='')}"
        if not (data / "keys" / "keyring" / file).exists():
            yield Finding(f"keyring {file}", "missing: a member joined the ledger with it")
        elif Identity.from_private_bytes(keyring.identity(name)).public != public:
            yield Finding(f"keyring {file}", "another key than the one the member joined the ledger with")


def _vault(data: Path, keyring: Keyring, deep: bool) -> Iterator[Finding]:
    keys = read_keys(data / "keys" / "keys.db", keyring)
    mac = next((key for name, key in keys.items() if name.kind is KeyKind.VAULT_MAC), None)
    if mac is None:
        yield Finding("key store", "the key that authenticates the vault is missing")
        return
    charts = {name.subject: key for name, key in keys.items() if name.kind in (KeyKind.CHART, KeyKind.DIRECTORY)}
    _, epochs = _on_ledger(data, keyring)
    vault = data / "vault.db"
    for found in check_vault(
        vault,
        mac,
        anchored_roots=lambda: _on_ledger(data, keyring)[0],
        key_store_heads=lambda: journal_heads(data / "keys" / "keys.db"),
        chart_keys=charts.get if deep else None,
    ):
        yield Finding(found.place, found.what)
    held = _audit_epochs(vault)
    for epoch in sorted(epochs - held):
        yield Finding("vault", f"older than the ledger: it lacks audit epoch {epoch}")


def _on_ledger(data: Path, keyring: Keyring) -> tuple[set[bytes], set[int]]:
    """Return the batch roots and audit epochs that this node's signers have on the ledger."""
    anchor = Identity.from_private_bytes(keyring.identity(ANCHOR_SIGNER)).public
    audit = Identity.from_private_bytes(keyring.identity(AUDIT_SIGNER)).public
    roots: set[bytes] = set()
    epochs: set[int] = set()
    for transaction in read_transactions(data / "ledger" / "ledger.db"):
        payload = transaction.payload
        if isinstance(payload, Anchor) and transaction.signer == anchor:
            roots.add(payload.root)
        elif isinstance(payload, AccessHead) and transaction.signer == audit:
            epochs.add(payload.epoch)
    return roots, epochs


def _audit_epochs(vault: Path) -> set[int]:
    with closing(sqlite3.connect(f"file:{vault}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT key FROM documents WHERE collection = 'audit-epochs'")
        return {int(key) for (key,) in rows}
