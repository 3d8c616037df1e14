"""What a witness answers to a submitted checkpoint: pure rules, no files, no clock, no keys of its own.

Follows ``add-checkpoint`` of C2SP tlog-witness. A witness signs a checkpoint only
when it continues the newest one that it signed for the same log, so whoever holds
its cosignature knows that everybody else was shown the same history.

Stricter than C2SP in two places: a checkpoint with extension lines is refused (this
ledger writes none and nobody audits them), and so is a size of 2^63 or more.

Invariants:
    * a checkpoint that is smaller than the newest one, or of equal size with another
      root, or without a valid proof of growth, is never accepted;
    * of a note, only lines that a trusted key signed are kept.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ledger_core.checkpoint import (
    COSIGNATURE_ED25519,
    NOTE_ED25519,
    Checkpoint,
    NoteKey,
    cosigner_key,
    parse_checkpoint,
    split_note,
    verify_note,
)
from ledger_core.codec import decode_base64
from ledger_core.errors import NoteInvalid, ProofInvalid
from ledger_core.hashing import EMPTY_LOG, HASH_BYTES
from ledger_core.proofs import verify_consistency

ACCEPTED: Final = 200
MALFORMED: Final = 400
NOT_SIGNED: Final = 403
UNKNOWN_LOG: Final = 404
CONFLICT: Final = 409
NOT_CONSISTENT: Final = 422
UNAVAILABLE: Final = 503

# 63 proof lines need under 3 KiB; the rest leaves room for about twenty ML-DSA-44 lines.
MAX_BODY_BYTES: Final = 81_920
MAX_PROOF_LINES: Final = 63

_OLD = re.compile(r"old (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed submission; nothing in it is verified."""

    old_size: int
    proof: tuple[bytes, ...]
    note: str
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest checkpoint a witness signed for a log, and when."""

    size: int
    root: bytes
    note: str
    time_s: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a submission is not cosigned; ``known_size`` goes with a conflict."""

    status: int
    reason: str
    known_size: int | None = None


def parse_request(body: bytes) -> Request | Refusal:
    """Return what ``body`` submits, or the refusal of something that is no submission."""
    if len(body) > MAX_BODY_BYTES:
        return Refusal(MALFORMED, "the body is too long")
    try:
        head, separator, note = body.decode("utf-8").partition("\n\n")
        checkpoint = parse_checkpoint(split_note(note)[0])
    except (UnicodeDecodeError, NoteInvalid) as cause:
        return Refusal(MALFORMED, f"the body holds no checkpoint: {_reason(cause)}")
    first, *rest = head.split("\n")
    old = _OLD.fullmatch(first)
    proof = tuple(decode_base64(line) for line in rest)
    if not separator or old is None:
        return Refusal(MALFORMED, "the first line must be 'old' and a size")
    if len(proof) > MAX_PROOF_LINES or any(len(item) != HASH_BYTES for item in proof):
        return Refusal(MALFORMED, "a proof has at most 63 lines, each the base64 of 32 bytes")
    return Request(int(old[1]), proof, note, checkpoint)


def format_request(note: str, old_size: int, proof: tuple[bytes, ...]) -> bytes:
    """Return the body that submits ``note``: the writing side of ``parse_request``."""
    lines = [f"old {old_size}", *(base64.b64encode(item).decode() for item in proof)]
    return ("\n".join(lines) + "\n\n" + note).encode()


def authenticate(request: Request, trusted: Mapping[str, tuple[NoteKey, ...]]) -> str | Refusal:
    """Return the note with the lines that the log's keys signed, and no others.

    Args:
        request: A parsed submission.
        trusted: For each origin, the log keys that the witness's owner trusts.
    """
    keys = trusted.get(request.checkpoint.origin)
    if not keys:
        return Refusal(UNKNOWN_LOG, "this witness does not follow a log of that origin")
    try:
        verify_note(request.note, keys)
    except NoteInvalid as cause:
        return Refusal(NOT_SIGNED, str(cause))
    return keep_signed_lines(request.note, keys)


def check_growth(request: Request, seen: Seen | None) -> Refusal | None:
    """Return why the submission does not continue what was ``seen``, or None when it does."""
    new, known = request.checkpoint, 0 if seen is None else seen.size
    if request.old_size > new.size:
        return Refusal(MALFORMED, "the old size is larger than the checkpoint's")
    if request.old_size != known:
        return Refusal(CONFLICT, f"the newest size seen here is {known}", known)
    try:
        verify_consistency(
            old_size=known,
            old_root=EMPTY_LOG if seen is None else seen.root,
            new_size=new.size,
            new_root=new.root,
            path=request.proof,
        )
    except ProofInvalid as cause:
        return Refusal(NOT_CONSISTENT, str(cause))
    if new.size == 0 and new.root != EMPTY_LOG:
        return Refusal(NOT_CONSISTENT, "an empty log has another root")
    return None


def keep_signed_lines(note: str, keys: tuple[NoteKey, ...]) -> str:
    """Return ``note`` with only the signature lines that ``keys``, or their timed forms, made.

    Raises:
        NoteInvalid: None of the keys signed it, or one signed falsely.
    """
    text, lines = split_note(note)
    kept = f"{text}\n"
    wanted = {(key.name, key.id): key for key in with_timed(keys)}
    # Not splitlines(): that knows more line ends than a note has.
    for raw, line in zip(note[len(kept) :].split("\n"), lines, strict=False):
        key = wanted.pop((line.name, line.key_id), None)
        if key is not None and _is_signed_by(f"{text}\n{raw}\n", key):
            kept += raw + "\n"
    verify_note(kept, keys)
    return kept


def log_time(note: str, keys: tuple[NoteKey, ...]) -> int | None:
    """Return the latest time at which one of the log's own keys said that this was its largest tree."""
    times: list[int] = []
    for key in with_timed(keys):
        try:
            times += [item.time_s for item in verify_note(note, [key])[1] if item.time_s is not None]
        except NoteInvalid:
            continue
    return max(times, default=None)


def with_timed(keys: tuple[NoteKey, ...]) -> tuple[NoteKey, ...]:
    """Return ``keys`` and, for each plain Ed25519 key, the same key as a cosigner.

    A log of this package signs both ways with one key. A valid timed line is a statement
    by the holder of that key, whether or not its second form was configured.
    """
    timed = [cosigner_key(key.name, key.public) for key in keys if key.type == NOTE_ED25519]
    have = {key for key in keys if key.type == COSIGNATURE_ED25519}
    return (*keys, *(key for key in timed if key not in have))


def _is_signed_by(note: str, key: NoteKey) -> bool:
    try:
        verify_note(note, [key])
    except NoteInvalid:
        return False
    return True


def _reason(cause: Exception) -> str:
    return str(cause) if isinstance(cause, NoteInvalid) else "it is not UTF-8"
