"""Signed notes, verifier keys and checkpoints (C2SP signed-note, tlog-checkpoint, tlog-cosignature)."""

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass

from tests.support.second_verifier.hashes import check_signature, sha256
from tests.support.second_verifier.refusal import Refused, require

MAX_NOTE = 262_144
KEY_LENGTHS = {1: 32, 4: 32, 6: 1312}
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
NOT_IN_NAMES = re.compile(r"[\s+\ud800-\udfff]")
DECIMAL = re.compile(r"0|[1-9][0-9]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class NoteKey:
    """A verifier key: who signs, with what, and in which form."""

    name: str
    type: int
    public: bytes

    @property
    def id(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + bytes([self.type]) + self.public)[:4]


@dataclass(frozen=True, slots=True)
class Note:
    """A checkpoint and its signature lines as (name, key id, signature), none of them verified."""

    text: str
    origin: str
    size: int
    root: bytes
    lines: tuple[tuple[str, bytes, bytes], ...]


def from_base64(text: str) -> bytes:
    """Standard base64, padded, with zero spare bits; raise Refused for any other spelling."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error) as error:
        raise Refused("not base64") from error
    require(base64.b64encode(data).decode() == text, "base64 spelled otherwise")
    return data


def from_decimal(text: str) -> int:
    """An unsigned decimal of 64 bits without leading zeros."""
    require(len(text) <= 20 and DECIMAL.fullmatch(text) is not None, "not a plain decimal number")
    number = int(text)
    require(number < 1 << 64, "a number beyond 64 bits")
    return number


def check_name(name: str) -> None:
    require(bool(name) and NOT_IN_NAMES.search(name) is None, "not a key name")


def check_origin(origin: str) -> None:
    check_name(origin)
    require(CONTROL.search(origin) is None, "a control character in an origin")
    require(origin != "cosignature/v1", "an origin that cosignatures begin with")


def parse_vkey(text: str) -> NoteKey:
    pieces = text.split("+", 2)
    require(len(pieces) == 3, "not a verifier key")
    check_name(pieces[0])
    material = from_base64(pieces[2])
    require(bool(material) and KEY_LENGTHS.get(material[0]) == len(material) - 1, "a key of unknown type or length")
    key = NoteKey(pieces[0], material[0], material[1:])
    require(pieces[1] == key.id.hex(), "a key id that does not belong to its key")
    return key


def parse_note(note: str) -> Note:
    """Read a checkpoint's note by its form alone."""
    require(len(note) <= MAX_NOTE, "the note is too long")
    require(CONTROL.search(note) is None, "a control character in the note")
    require(note.endswith("\n"), "the note does not end with a newline")
    at = note.rfind("\n\n")
    require(at >= 0, "the note has no empty line")
    text, signatures = note[: at + 1], note[at + 2 :]
    require(bool(signatures), "the note has no signature line")
    lines = text.split("\n")
    require(len(lines) == 4, "not three lines of a checkpoint")
    origin, size, root = lines[0], from_decimal(lines[1]), from_base64(lines[2])
    check_origin(origin)
    require(len(root) == 32, "a root of another length")
    require(size < 1 << 63, "a size beyond 2^63")
    return Note(text, origin, size, root, tuple(map(_parse_line, signatures[:-1].split("\n"))))


def _parse_line(line: str) -> tuple[str, bytes, bytes]:
    pieces = line.split(" ")
    require(len(pieces) == 3 and pieces[0] == "\u2014", "not a signature line")
    check_name(pieces[1])
    data = from_base64(pieces[2])
    require(len(data) > 4, "a signature line without signature")
    return pieces[1], data[:4], data[4:]


def signed_times(note: Note, keys: Iterable[NoteKey]) -> dict[NoteKey, int | None]:
    """Verify every line of a known key; give the time that each key which signed says, or None."""
    known = {(key.name, key.id): key for key in keys}
    times: dict[NoteKey, int | None] = {}
    for name, key_id, signature in note.lines:
        key = known.get((name, key_id))
        if key is None:
            continue
        require(key not in times, "a second line of one key")
        times[key] = _check_line(note, key, signature)
    return times


def _check_line(note: Note, key: NoteKey, signature: bytes) -> int | None:
    if key.type == 1:
        check_signature(key.public, note.text.encode(), signature)
        return None
    require(len(signature) > 8, "a cosignature without signature")
    time = int.from_bytes(signature[:8], "big")
    require(time < 1 << 63, "a time beyond 2^63")
    if key.type == 4:
        message = f"cosignature/v1\ntime {time}\n{note.text}".encode()
    else:
        message = _cosigned_message(note, key.name, time)
    check_signature(key.public, message, signature[8:])
    return time or None


def _cosigned_message(note: Note, name: str, time: int) -> bytes:
    names = name.encode(), note.origin.encode()
    require(all(len(each) < 256 for each in names), "a name too long for its message")
    return (
        b"subtree/v1\n\0"
        + bytes([len(names[0])])
        + names[0]
        + time.to_bytes(8, "big")
        + bytes([len(names[1])])
        + names[1]
        + bytes(8)
        + note.size.to_bytes(8, "big")
        + note.root
    )
