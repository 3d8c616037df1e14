"""The keys of charts as they lie on disk while no service runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fhir_bridge.adapters.keyring_file import FileKeyring
from fhir_bridge.adapters.keystore import SqliteKeyStore
from fhir_bridge.ports.keys import KeyKind, KeyName


def chart_keys(data: Path, institution: str = "northgate") -> list[KeyName]:
    """Return the names of the keys of an institution's charts."""
    keys = _opened(data)
    try:
        return list(keys.names(KeyKind.CHART, institution, ""))
    finally:
        keys.close()


def erase(data: Path, names: Sequence[KeyName]) -> None:
    """Erase keys behind the service's back."""
    keys = _opened(data)
    try:
        for name in names:
            keys.erase(name)
    finally:
        keys.close()


def _opened(data: Path) -> SqliteKeyStore:
    return SqliteKeyStore(data / "keys" / "keys.db", FileKeyring(data / "keys" / "keyring", None))
