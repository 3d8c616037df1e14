"""The data directory: for its owner alone, stamped with a version, held by one process at a time."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from pathlib import Path
from typing import Any

from fhir_bridge.errors import DataDirectoryInUse, SetupWrong

VERSION = "1"
_DRAFT = ".VERSION"
_PROBE_S = 1.0
_PROBE_BYTES = 64 << 10


class DataDirectory:
    """An opened data directory; :meth:`close` lets another process have it."""

    def __init__(self, path: Path) -> None:
        """Make the directory if there is none, check its stamp, take its lock.

        Raises:
            SetupWrong: Written by a newer version, or not a data directory of ours.
            DataDirectoryInUse: Another process holds it.
        """
        self.path = path
        self._probed_at, self._took_probe = -_PROBE_S, False
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not any(not file.name.startswith(_DRAFT) for file in path.iterdir()):
            path.chmod(0o700)
            self._write_stamp()
        self._check_stamp()
        self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as held:
            os.close(self._lock)
            raise DataDirectoryInUse(f"{path} is in use by another process: stop it, or use its port") from held
        for part in ("keys", "credentials", "credentials/patients", "ledger"):
            (path / part).mkdir(mode=0o700, exist_ok=True)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)

    def is_writable(self) -> bool:
        """Tell whether the disk still takes a durable write here and this is still the directory that was locked.

        Costs a write and a sync, so an answer is kept for a second: anybody may ask for readiness.
        """
        now = time.monotonic()
        if now - self._probed_at >= _PROBE_S:
            self._took_probe, self._probed_at = self._probe(), now
        return self._took_probe

    def _probe(self) -> bool:
        probe = self.path / ".probe"
        try:
            mine, there = os.fstat(self._lock), os.stat(self.path / "lock")
            descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                is_taken = os.write(descriptor, bytes(_PROBE_BYTES)) == _PROBE_BYTES
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
                probe.unlink(missing_ok=True)
        except OSError:
            return False
        return is_taken and (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)

    def save_credentials(self, name: str, credentials: dict[str, Any]) -> Path:
        """Write a credentials file that only the owner can read, whole or not at all."""
        target = self.path / "credentials" / f"{name}.json"
        draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(credentials, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(target)
        return target

    def point_credentials(self, token_url: str) -> None:
        """Make every credentials file name the token endpoint of the server that now serves this directory."""
        for file in sorted((self.path / "credentials").rglob("*.json")):
            credentials = json.loads(file.read_text())
            if credentials.get("token_url") != token_url:
                name = str(file.relative_to(self.path / "credentials").with_suffix(""))
                self.save_credentials(name, credentials | {"token_url": token_url})

    def _write_stamp(self) -> None:
        """Write the stamp whole or not at all; an empty directory is one that was never begun."""
        # A name of its own: two that start at once on an empty directory must not rename each other's.
        draft = self.path / f"{_DRAFT}.{secrets.token_hex(4)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(VERSION + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self.path / "VERSION")

    def _check_stamp(self) -> None:
        stamp = self.path / "VERSION"
        if not stamp.exists():
            raise SetupWrong(f"{self.path} is not empty and holds no fhir-bridge data: choose another --data")
        found = stamp.read_text().strip()
        if found != VERSION:
            raise SetupWrong(f"{self.path} was written by a newer fhir-bridge (stamp {found[:20]!r}): upgrade first")
