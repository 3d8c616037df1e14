"""The directory of a witness: its keys, the logs it follows, its records and its evidence.

    witness.json    name and role
    keys/           private keys: ed25519, and ml-dsa-44 (hexadecimal seeds, readable by the owner only)
    logs            one vkey per line: the keys of the logs that are followed
    records.db      what was seen and signed; never put back from a backup
    evidence/       a folder for each contradiction

A role is fixed when the directory is made, because a key must always mean the same
statement (C2SP tlog-cosignature): ``witness`` vouches that a log only grows,
``replaying`` besides that its state follows from its transactions.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ledger_core.checkpoint import COSIGNATURE_ED25519, COSIGNATURE_ML_DSA_44, NoteKey, check_origin, parse_vkey
from ledger_core.errors import LedgerLocked, NoteInvalid, OpeningRefused
from ledger_core.keys import SUITE_ED25519, SUITE_ML_DSA_44, Identity
from ledger_core.witness.files import sync_folder, write_durably
from ledger_core.witness.records import Records

FORMAT: Final = "ledger-core/witness/v1"
WITNESS: Final = "witness"
REPLAYING: Final = "replaying"

_KEY_FILES: Final = {
    "ed25519": (SUITE_ED25519, COSIGNATURE_ED25519),
    "ml-dsa-44": (SUITE_ML_DSA_44, COSIGNATURE_ML_DSA_44),
}


class Home:
    """An existing witness directory."""

    def __init__(self, folder: Path, name: str, role: str, cosigners: tuple[tuple[NoteKey, Identity], ...]) -> None:
        self.folder, self.name, self.role, self.cosigners = folder, name, role, cosigners

    @classmethod
    def create(cls, folder: Path, name: str, *, role: str = WITNESS, with_ml_dsa: bool = True) -> "Home":
        """Make keys and the directory around them.

        Raises:
            OpeningRefused: There is a witness already, or the name or role cannot be one.
        """
        try:
            check_origin(name)
        except NoteInvalid as cause:
            raise OpeningRefused("a witness's name has no spaces or plus signs") from cause
        if role not in (WITNESS, REPLAYING) or len(name.encode()) > 255:
            raise OpeningRefused("a witness has a name of at most 255 bytes, and one of the known roles")
        if (folder / "witness.json").exists():
            raise OpeningRefused("there is a witness in this directory already")
        (folder / "keys").mkdir(mode=0o700, parents=True, exist_ok=True)
        for file, (suite, _) in _KEY_FILES.items():
            if suite == SUITE_ED25519 or with_ml_dsa:
                seed = Identity.generate(suite).private_bytes().hex()
                write_durably(folder / "keys" / file, f"{seed}\n".encode(), mode=0o600)
        Records(folder / "records.db").close()
        about = json.dumps({"format": FORMAT, "name": name, "role": role}, indent=2)
        # Last: a directory without it is not a witness yet and can be made again.
        write_durably(folder / "witness.json", f"{about}\n".encode())
        sync_folder(folder.absolute().parent)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "Home":
        """Read name, role and keys.

        Raises:
            OpeningRefused: There is no witness here, or a file of it is malformed.
        """
        try:
            about = json.loads((folder / "witness.json").read_text("utf-8"))
            name, role, is_known = str(about["name"]), str(about["role"]), about["format"] == FORMAT
            if not is_known or role not in (WITNESS, REPLAYING) or not (folder / "records.db").exists():
                raise OpeningRefused("this directory is of another format, or its records are missing")
            return cls(folder, name, role, tuple(_read_keys(folder / "keys", name)))
        except (OSError, KeyError, TypeError, ValueError) as cause:
            raise OpeningRefused(f"there is no readable witness in {folder}") from cause

    @property
    def evidence(self) -> Path:
        return self.folder / "evidence"

    def vkeys(self) -> list[str]:
        """Return what a log's operator and the readers of receipts must be told, a line for each key."""
        return [key.vkey() for key, _ in self.cosigners]

    def records(self) -> Records:
        """Open the records; the caller closes them."""
        return Records(self.folder / "records.db")

    def trusted(self) -> Mapping[str, tuple[NoteKey, ...]]:
        """Return for each origin the log keys that are trusted.

        Raises:
            OpeningRefused: The file of logs is malformed.
        """
        found: dict[str, tuple[NoteKey, ...]] = {}
        path = self.folder / "logs"
        try:
            for line in path.read_text("utf-8").split("\n") if path.exists() else ():
                if line:
                    key = parse_vkey(line)
                    found[key.name] = (*found.get(key.name, ()), key)
        except (NoteInvalid, UnicodeDecodeError) as cause:
            raise OpeningRefused("a line in the file of logs is not a verifier key") from cause
        return found

    def trust(self, vkey: str) -> NoteKey:
        """Follow the log whose key this is, from now on; a running witness takes it up at once.

        Raises:
            NoteInvalid: It is not a verifier key.
            OpeningRefused: It is this witness's own key, or a replaying witness would follow two logs.
        """
        key, logs = parse_vkey(vkey.strip()), self.trusted()
        if any(key.public == own.public for own, _ in self.cosigners):
            raise OpeningRefused("this is the witness's own key, not a log's")
        if self.role == REPLAYING and logs and key.name not in logs:
            raise OpeningRefused("a replaying witness follows one log; make another one in a directory of its own")
        if key not in logs.get(key.name, ()):
            lines = [item.vkey() for keys in logs.values() for item in keys] + [key.vkey()]
            write_durably(self.folder / "logs", ("\n".join(lines) + "\n").encode())
        return key

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from signing with this directory.

        Raises:
            LedgerLocked: Another process does.
        """
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as cause:
                raise LedgerLocked("another process runs this witness") from cause
            yield
        finally:
            os.close(handle)


def _read_keys(folder: Path, name: str) -> Iterator[tuple[NoteKey, Identity]]:
    for file, (suite, note_type) in _KEY_FILES.items():
        path = folder / file
        if suite == SUITE_ED25519 or path.exists():
            identity = Identity.from_private_bytes(bytes.fromhex(path.read_text("ascii").strip()), suite)
            yield NoteKey(name, note_type, identity.public), identity
