"""Signed heads of the log: C2SP signed notes, checkpoints and cosignatures.

A checkpoint is a note whose text is origin, size and base64 root (C2SP
tlog-checkpoint). The log signs it with Ed25519 (signature type 0x01). Time is
not part of a checkpoint, so the log adds an Ed25519 cosignature (type 0x04, C2SP
tlog-cosignature) by the same key, which signs a time in seconds: "at that time
this was the largest tree I knew". Witnesses add their own. Signed-note allows one
key for two types; the message of a cosignature starts with ``cosignature/v1``,
which no origin may be, so neither signature can pass for the other.

Signature type 0x06 (ML-DSA-44 cosignature) may stand beside or instead of type
0x04 wherever a cosigner signs, the log itself included. Its message holds the
cosigner's name, the time, and origin, size and root, but no extension lines.

Invariants:
    * a signature by a known key that does not verify refuses the whole note;
    * signatures by unknown keys count for nothing.
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ledger_core.codec import decode_base64
from ledger_core.errors import NoteInvalid
from ledger_core.hashing import HASH_BYTES
from ledger_core.keys import SIGNATURE_SUITES, SUITE_ED25519, SUITE_ML_DSA_44, Identity, is_signed

NOTE_ED25519: Final = 0x01
COSIGNATURE_ED25519: Final = 0x04
COSIGNATURE_ML_DSA_44: Final = 0x06
MAX_NOTE_BYTES: Final = 262_144

_SUITES: Final = {
    NOTE_ED25519: SUITE_ED25519,
    COSIGNATURE_ED25519: SUITE_ED25519,
    COSIGNATURE_ML_DSA_44: SUITE_ML_DSA_44,
}
_COSIGNATURES: Final = {SUITE_ED25519: COSIGNATURE_ED25519, SUITE_ML_DSA_44: COSIGNATURE_ML_DSA_44}
_NAME = re.compile(r"[^\s+\ud800-\udfff]+")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
# Lone surrogates too: they cannot be written as UTF-8, which a note must be.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\ud800-\udfff]")
_COSIGNATURE_HEADER: Final = "cosignature/v1"
_MAX_COUNTED_BYTES: Final = 255
_SIZES: Final = 2**63


@dataclass(frozen=True, slots=True)
class NoteKey:
    """A public key for notes: what a vkey string says."""

    name: str
    type: int
    public: bytes

    @property
    def id(self) -> bytes:
        """Four bytes that, with the name, say which key made a signature line."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes((self.type,)) + self.public).digest()[:4]

    def vkey(self) -> str:
        """Return ``name+hex id+base64(type ‖ key)``."""
        material = base64.b64encode(bytes((self.type,)) + self.public).decode()
        return f"{self.name}+{self.id.hex()}+{material}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint's text says: this log had ``size`` entries under ``root``."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True, slots=True)
class SignatureLine:
    """One signature of a note: key name, four-byte key id, and what follows it."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Vouching:
    """A known key that signed a note; ``time_s`` is the time it signed, if its type has one."""

    key: NoteKey
    time_s: int | None


def parse_vkey(text: str) -> NoteKey:
    """Return the key in a vkey string.

    Raises:
        NoteInvalid: Malformed, an unknown type, or an id that does not fit the key.
    """
    name, _, rest = text.partition("+")
    key_id, _, encoded = rest.partition("+")
    material = decode_base64(encoded)
    suite = SIGNATURE_SUITES.get(len(material) - 1)
    if not _NAME.fullmatch(name) or suite is None or suite != _SUITES.get(material[0]):
        raise NoteInvalid("a verifier key is malformed or of an unknown type")
    key = NoteKey(name, material[0], material[1:])
    if key.id.hex() != key_id:
        raise NoteInvalid("a verifier key's id does not fit its name and key")
    return key


def log_key(origin: str, public: bytes) -> NoteKey:
    """Return the key under which a log signs its checkpoints."""
    return NoteKey(origin, NOTE_ED25519, public)


def cosigner_key(name: str, public: bytes) -> NoteKey:
    """Return the key under which a cosigner signs a checkpoint and a time; its length tells the type.

    Raises:
        NoteInvalid: The key is of no known suite.
    """
    if len(public) not in SIGNATURE_SUITES:
        raise NoteInvalid("a cosigner's key is of an unknown suite")
    return NoteKey(name, _COSIGNATURES[SIGNATURE_SUITES[len(public)]], public)


def check_origin(origin: str) -> None:
    """Refuse an origin that cannot be a key name, or could be taken for a cosignature.

    Raises:
        NoteInvalid: It is empty, has spaces or a plus, or is a reserved word.
    """
    if not _NAME.fullmatch(origin) or _CONTROL.search(origin) or origin == _COSIGNATURE_HEADER:
        raise NoteInvalid(
            "an origin is not empty, without white space or plus signs, and not the word that cosignatures begin with"
        )


def sign_checkpoint(checkpoint: Checkpoint, identity: Identity, *, time_s: int) -> str:
    """Return the note of ``checkpoint`` with the log's signature and its timed cosignature."""
    text = checkpoint.text()
    key = log_key(checkpoint.origin, identity.public)
    note = f"{text}\n{_line(key, identity.sign(text.encode()))}"
    return cosign(note, cosigner_key(checkpoint.origin, identity.public), identity, time_s=time_s)


def cosign(note: str, key: NoteKey, identity: Identity, *, time_s: int) -> str:
    """Return ``note`` with a cosignature under ``key`` (type 0x04 or 0x06) added.

    The caller has checked that the checkpoint continues the one it signed before.

    Raises:
        NoteInvalid: The note is malformed, a name in it is too long for ML-DSA-44,
            or the key makes no cosignatures.
    """
    if key.type == NOTE_ED25519:
        raise NoteInvalid("a cosignature needs a key of type 4 or 6")
    text, _ = split_note(note)
    signature = identity.sign(_cosigned_message(key, text, time_s))
    return note + _line(key, time_s.to_bytes(8, "big") + signature)


def signed_by(note: str, keys: Iterable[NoteKey]) -> dict[tuple[str, bytes], str]:
    """Return the signature lines of ``note`` by these keys, each verified, by key name and id.

    Raises:
        NoteInvalid: Malformed, or a signature by one of the keys is false.
    """
    text, _ = split_note(note)
    lines = _raw_lines(note)
    found = {(key.name, key.id): key for key in keys if (key.name, key.id) in lines}
    for place, key in found.items():
        verify_note(f"{text}\n{lines[place]}", [key])
    return {place: lines[place] for place in found}


def cosignatures(note: str, origin: str) -> dict[tuple[str, bytes], str]:
    """Return the signature lines of ``note`` under other names than its log's, unverified, by name and key id.

    Raises:
        NoteInvalid: Malformed.
    """
    return {place: line for place, line in _raw_lines(note).items() if place[0] != origin}


def _raw_lines(note: str) -> dict[tuple[str, bytes], str]:
    text, lines = split_note(note)
    raw = note[len(text) + 1 :].splitlines(keepends=True)
    return {(line.name, line.key_id): each for line, each in zip(lines, raw, strict=True)}


def split_note(note: str) -> tuple[str, tuple[SignatureLine, ...]]:
    """Return the text of a note and its signature lines, unverified.

    Raises:
        NoteInvalid: The note does not have the form of C2SP signed-note.
    """
    if len(note) > MAX_NOTE_BYTES or _CONTROL.search(note) or not note.endswith("\n"):
        raise NoteInvalid("a note must be bounded text without control characters, ending in a newline")
    text, separator, tail = note.rpartition("\n\n")
    if not separator or not tail:
        raise NoteInvalid("a note needs a blank line before its signatures")
    return text + "\n", tuple(_parse_line(line) for line in tail[:-1].split("\n"))


def parse_checkpoint(text: str) -> Checkpoint:
    """Return what the text of a note says as a checkpoint.

    Raises:
        NoteInvalid: It is not one, its origin is none, or it has extension lines (they are not used here).
    """
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or not _SIZE.fullmatch(lines[1]):
        raise NoteInvalid("a checkpoint has exactly three lines: origin, size, root")
    check_origin(lines[0])
    size, root = int(lines[1]), decode_base64(lines[2])
    if len(root) != HASH_BYTES or size >= _SIZES:
        raise NoteInvalid("a checkpoint's root must be 32 bytes, and its size below 2^63")
    return Checkpoint(lines[0], size, root)


def verify_note(note: str, known: Iterable[NoteKey]) -> tuple[str, tuple[Vouching, ...]]:
    """Return a note's text and which of the ``known`` keys signed it.

    Raises:
        NoteInvalid: Malformed, a known key's signature is false, or none signed.
    """
    text, lines = split_note(note)
    keys = {(key.name, key.id): key for key in known}
    found: dict[tuple[str, bytes], Vouching] = {}
    for line in lines:
        key = keys.get((line.name, line.key_id))
        if key is not None:
            if (line.name, line.key_id) in found:
                raise NoteInvalid(f"{line.name} signed twice with one key")
            found[line.name, line.key_id] = Vouching(key, _check_line(key, line.signature, text))
    if not found:
        raise NoteInvalid("no known key signed this note")
    return text, tuple(found.values())


def _check_line(key: NoteKey, signature: bytes, text: str) -> int | None:
    if key.type == NOTE_ED25519:
        if not is_signed(key.public, text.encode(), signature):
            raise NoteInvalid(f"a signature by {key.name} is false")
        return None
    time_s = int.from_bytes(signature[:8], "big")
    if len(signature) < 8 or time_s >= 2**63:
        raise NoteInvalid(f"a cosignature by {key.name} has no possible time")
    if not is_signed(key.public, _cosigned_message(key, text, time_s), signature[8:]):
        raise NoteInvalid(f"a cosignature by {key.name} is false")
    # Zero in an ML-DSA cosignature means that no time is claimed.
    return time_s or None


def _cosigned_message(key: NoteKey, text: str, time_s: int) -> bytes:
    """What a cosigner signs for the whole tree under ``text`` (C2SP tlog-cosignature)."""
    if key.type == COSIGNATURE_ED25519:
        return f"{_COSIGNATURE_HEADER}\ntime {time_s}\n{text}".encode()
    checkpoint = parse_checkpoint(text)
    cosigner, origin = _counted(key.name), _counted(checkpoint.origin)
    numbers = (0).to_bytes(8, "big") + checkpoint.size.to_bytes(8, "big")
    return b"subtree/v1\n\0" + cosigner + time_s.to_bytes(8, "big") + origin + numbers + checkpoint.root


def _counted(name: str) -> bytes:
    data = name.encode()
    if len(data) > _MAX_COUNTED_BYTES:
        raise NoteInvalid("a name is too long for an ML-DSA-44 cosignature")
    return bytes((len(data),)) + data


def _line(key: NoteKey, signature: bytes) -> str:
    return _format_line(key.name, key.id + signature)


def _format_line(name: str, material: bytes) -> str:
    return f"— {name} {base64.b64encode(material).decode()}\n"


def _parse_line(line: str) -> SignatureLine:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    material = decode_base64(encoded)
    if dash != "—" or not _NAME.fullmatch(name) or len(material) < 5:
        raise NoteInvalid("a signature line is malformed")
    return SignatureLine(name, material[:4], material[4:])
