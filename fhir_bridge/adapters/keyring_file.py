"""Key-encryption keys and identities in a folder of files, for a machine of one's own (docs/formats/keys.md).

Each key is a file of its own, so that destroying one leaves the others alone.
With a passphrase every file is encrypted under a key that scrypt derives from
it; without one the folder's permissions are all there is, and backups of it
must be guarded as the keys themselves.

Invariants:
    * the folder is readable by its owner only, or it is refused;
    * a key is on disk, with its folder entry, before it is first returned;
    * an existing file is never overwritten;
    * a key is made only where :meth:`FileKeyring.make_kek` or a first identity asks for it, and a keyring opened
      to read writes nothing at all.
"""

from __future__ import annotations

import copy
import os
import threading
from pathlib import Path
from urllib.parse import quote

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from fhir_bridge.adapters.ambient import SystemRandomness
from fhir_bridge.errors import IntegrityBroken, KeyMissing, SetupWrong, Unavailable
from fhir_bridge.ports.ambient import Randomness

KEY_BYTES = 32
_HEADER = "keyring.json"
_PLAIN, _SEALED = b"fhir-bridge key 1\n", b"fhir-bridge sealed key 1\n"
_CHECK = b"fhir-bridge/keyring/1"
# OWASP's password storage page names N = 2^17, r = 8, p = 1 for scrypt: 128 MiB and about 0.4 s, once per start.
SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 17, 8, 1


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the files are encrypted; ``check`` opens under the right passphrase only."""

    version: int
    salt: bytes | None = None
    n: int = SCRYPT_N
    r: int = SCRYPT_R
    p: int = SCRYPT_P
    check: bytes | None = None


class FileKeyring:
    """Keeps the Keyring port's promises in a folder."""

    def __init__(
        self,
        directory: Path,
        passphrase: str | None = None,
        *,
        randomness: Randomness | None = None,
        scrypt_n: int = SCRYPT_N,
        may_make: bool = True,
    ) -> None:
        """Open the folder, made if there is none.

        Args:
            scrypt_n: Cost of guessing the passphrase of a folder that is made now; kept in the folder.
            may_make: False to read what there is and write nothing, be it the folder.

        Raises:
            SetupWrong: Others may read the folder, or the passphrase is wrong, missing or not needed.
            KeyMissing: The folder holds keys, but not the header that says how they are encrypted.
        """
        self._directory = directory
        self._randomness = randomness or SystemRandomness()
        self._lock = threading.Lock()
        self._held: dict[str, bytes] = {}
        self._may_make = may_make
        if may_make:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(directory)
        self._cipher = self._unlock(passphrase, scrypt_n)

    @classmethod
    def open_to_read(cls, directory: Path, passphrase: str | None = None) -> FileKeyring:
        """Open what there is, for a check: nothing is ever written, and a key that is absent is KeyMissing.

        Raises:
            SetupWrong: Others may read the folder, or the passphrase is wrong, missing or not needed.
        """
        return cls(directory, passphrase, may_make=False)

    def to_read(self) -> FileKeyring:
        """Return a keyring onto the same folder that writes nothing and sees the files as they are now."""
        reading = copy.copy(self)
        reading._lock, reading._held, reading._may_make = threading.Lock(), {}, False
        return reading

    def has_header(self) -> bool:
        """Tell whether the file that says how the keys are encrypted is there."""
        return (self._directory / _HEADER).exists()

    def kek(self, institution: str, epoch: int) -> bytes:
        """Return the KEK of an institution's epoch; never makes one."""
        with self._lock:
            name = kek_file(institution, epoch)
            found = self._find(name)
            if found is None:
                raise _lacks(name)
            return found

    def make_kek(self, institution: str, epoch: int) -> bytes:
        """Return the KEK of an epoch, made when it is the one after the newest (at first: 1) and absent."""
        with self._lock:
            name = kek_file(institution, epoch)
            found = self._find(name)
            if found is not None:
                return found
            if epoch != self._newest_epoch(institution) + 1:
                raise _lacks(name)
            return self._make(name)

    def identity(self, name: str) -> bytes:
        """Return the Ed25519 private key of ``name``, made on first use unless the keyring may only be read."""
        with self._lock:
            file = identity_file(name)
            return self._find(file) or self._make(file)

    def destroy_kek(self, institution: str, epoch: int) -> None:
        """Delete the KEK of an epoch that was rotated away, once no backup of the key store needs it.

        Raises:
            SetupWrong: It is the newest, which still wraps keys, or the keyring may only be read.
        """
        with self._lock:
            if not self._may_make:
                raise SetupWrong("the keyring was opened to be read")
            if epoch >= self._newest_epoch(institution):
                raise SetupWrong("the newest key of an institution is in use; rotate first")
            name = kek_file(institution, epoch)
            self._held.pop(name, None)
            (self._directory / name).unlink(missing_ok=True)
            _sync(self._directory)

    def _find(self, name: str) -> bytes | None:
        held = self._held.get(name)
        if held is None and (self._directory / name).exists():
            held = self._held[name] = self._decode(name, (self._directory / name).read_bytes())
        return held

    def _make(self, name: str) -> bytes:
        if not self._may_make:
            raise _lacks(name)
        key = self._randomness.token(KEY_BYTES)
        _write_new(self._directory / name, self._encode(name, key))
        self._held[name] = key
        return key

    def _newest_epoch(self, institution: str) -> int:
        prefix = kek_file(institution, 0)[:-1]
        names = (file.name for file in self._directory.glob("kek-*") if file.name.startswith(prefix))
        return max((int(name[len(prefix) :]) for name in names if name[len(prefix) :].isdecimal()), default=0)

    def _encode(self, name: str, key: bytes) -> bytes:
        if self._cipher is None:
            return _PLAIN + key
        nonce = self._randomness.token(12)
        return _SEALED + nonce + self._cipher.encrypt(nonce, key, name.encode())

    def _decode(self, name: str, content: bytes) -> bytes:
        key = b""
        if self._cipher is None and content.startswith(_PLAIN):
            key = content[len(_PLAIN) :]
        elif self._cipher is not None and content.startswith(_SEALED):
            sealed = content[len(_SEALED) :]
            try:
                key = self._cipher.decrypt(sealed[:12], sealed[12:], name.encode())
            except (InvalidTag, ValueError):
                key = b""
        if len(key) != KEY_BYTES:
            raise IntegrityBroken(f"the keyring file {name} is damaged or was written under other settings")
        return key

    def _unlock(self, passphrase: str | None, scrypt_n: int) -> AESGCM | None:
        path = self._directory / _HEADER
        if not path.exists():
            return self._found(path, passphrase, scrypt_n) if self._may_make else None
        try:
            header = msgspec.json.decode(path.read_bytes(), type=_Header)
        except msgspec.MsgspecError as error:
            raise IntegrityBroken(f"the keyring file {_HEADER} is damaged") from error
        if header.version != 1:
            raise SetupWrong("the keyring was written by a newer version of fhir-bridge")
        if header.salt is None or header.check is None:
            if passphrase:
                raise SetupWrong("the keyring has no passphrase, yet one is given")
            return None
        if not passphrase:
            raise SetupWrong("the keyring needs its passphrase")
        cipher = _derive(passphrase, header)
        try:
            cipher.decrypt(header.check[:12], header.check[12:], _CHECK)
        except InvalidTag:
            raise SetupWrong("the passphrase does not open the keyring") from None
        return cipher

    def _found(self, path: Path, passphrase: str | None, scrypt_n: int) -> AESGCM | None:
        if any(file.name.startswith(("kek-", "identity-")) for file in self._directory.iterdir()):
            raise _lacks(_HEADER)
        if not passphrase:
            _write_new(path, msgspec.json.encode(_Header(1)))
            return None
        header = _Header(1, salt=self._randomness.token(32), n=scrypt_n)
        cipher = _derive(passphrase, header)
        nonce = self._randomness.token(12)
        check = nonce + cipher.encrypt(nonce, b"", _CHECK)
        _write_new(path, msgspec.json.encode(msgspec.structs.replace(header, check=check)))
        return cipher


def kek_file(institution: str, epoch: int) -> str:
    """Return the name of the file that holds the KEK of an institution's epoch."""
    return f"kek-{quote(institution, safe='')}-{epoch}"


def identity_file(name: str) -> str:
    """Return the name of the file that holds an identity."""
    return f"identity-{quote(name, safe='')}"


def _lacks(file: str) -> KeyMissing:
    return KeyMissing(f"the keyring lacks {file}: lost, or destroyed; put the file back from the keys' backup")


def _derive(passphrase: str, header: _Header) -> AESGCM:
    salt = header.salt or b""
    return AESGCM(Scrypt(salt, KEY_BYTES, header.n, header.r, header.p).derive(passphrase.encode()))


def _check_private(directory: Path) -> None:
    if directory.exists() and directory.stat().st_mode & 0o077:
        raise SetupWrong(f"others may read {directory}; run: chmod 700 {directory}")


def _write_new(path: Path, content: bytes) -> None:
    """Put a whole file in place, or nothing; survives loss of power."""
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.unlink(missing_ok=True)
        handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
        draft.unlink()
        _sync(path.parent)
    except OSError as error:
        raise Unavailable(f"the keyring could not write {path.name}: {error.strerror}") from error


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
