"""Keys: where they live and who may open what (docs/formats/keys.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class KeyKind(StrEnum):
    """What a key opens; part of the wrapped key's associated data."""

    CHART = "chart"
    MESSAGE = "message"
    INSTITUTION = "institution"
    DIRECTORY = "directory"
    ID = "id"
    PATH_OWNER = "path-owner"
    CONSENT_SECRET = "consent-secret"  # noqa: S105 - the name of a kind, not a secret
    VAULT_MAC = "vault-mac"
    RECEIVING = "receiving"


@dataclass(frozen=True, slots=True)
class KeyName:
    """Name of one data key: its kind, the institution whose KEK wraps it, and its subject (chart, message …)."""

    kind: KeyKind
    institution: str
    subject: str = ""


class KeyStore(Protocol):
    """Data keys, wrapped by the institution's key-encryption key, apart from the vault.

    All methods are synchronous and quick; callers on an event loop use a thread
    when a key may have to be made.
    """

    def ensure(self, names: Sequence[KeyName]) -> Mapping[KeyName, bytes]:
        """Return the 32-byte key of each name, made at random where none exists.

        New keys survive loss of power before this returns.

        Raises:
            Unavailable: Nothing was made; safe to retry.
            IntegrityBroken: A stored row does not open under its KEK, name and counter.
        """
        ...

    def get(self, name: KeyName) -> bytes:
        """Return an existing key.

        Raises:
            KeyMissing: Never made, or erased.
            IntegrityBroken: The row does not open.
        """
        ...

    def find(self, name: KeyName) -> bytes | None:
        """Return an existing key or None."""
        ...

    def erase(self, name: KeyName) -> None:
        """Delete a key for good; a no-op when there is none."""
        ...

    def names(self, kind: KeyKind, institution: str, prefix: str) -> Sequence[KeyName]:
        """Return the names of all keys of an institution and a kind whose subject begins so.

        Raises:
            Unavailable: Safe to retry.
        """
        ...

    def rotate(self, institution: str) -> tuple[int, int]:
        """Wrap every key of an institution under a new KEK, all or none; return the old epoch and the new one.

        The keys themselves stay, so nothing is sealed anew and nobody waits for more than the commit. The old KEK is
        kept for backups of the key store made before. The same epoch twice where there is no KEK yet.

        Raises:
            Unavailable: All keys are under the old KEK still; safe to retry.
        """
        ...

    def erase_all(self, names: Iterable[KeyName]) -> None:
        """Delete several keys for good in one durable step."""
        ...


class Keyring(Protocol):
    """Key-encryption keys and ledger identities; kept by a file, OpenBao or PKCS#11."""

    def kek(self, institution: str, epoch: int) -> bytes:
        """Return the 32-byte KEK of an institution's epoch; never makes one.

        Raises:
            KeyMissing: No such epoch.
        """
        ...

    def make_kek(self, institution: str, epoch: int) -> bytes:
        """Return the KEK of an epoch, made when it is the one after the newest (at first: 1) and absent.

        Raises:
            KeyMissing: An epoch would be skipped, or this keyring may only be read.
        """
        ...

    def identity(self, name: str) -> bytes:
        """Return the 32-byte Ed25519 private key of ``name``, made on first use."""
        ...
