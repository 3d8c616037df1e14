"""Evidence as files: kept once, checked offline by anyone who has the log's verifier key.

A case of two notes is a folder with

    first.note      the checkpoint seen first
    second.note     the one that contradicts it
    path            the hashes that came with it, base64, a line each
    about.json      when, and in words what was found; a convenience, never believed

Other kinds of case are documented where they are made. Folders are named by kind and
by digest of what they hold, so the same contradiction is kept once. The number of each
kind is bounded: whoever makes a thousand contradictions is convicted by fewer.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from ledger_core.checkpoint import NoteKey
from ledger_core.codec import decode_base64
from ledger_core.errors import EvidenceInvalid
from ledger_core.hashing import tagged_hash
from ledger_core.witness.evidence import Finding, weigh
from ledger_core.witness.files import write_folder

FORMAT: Final = "ledger-core/evidence/v1"
MAX_CASES_OF_A_KIND: Final = 1000
_MAX_FILE_BYTES: Final = 300_000
_DOMAIN: Final = "ledger-core/evidence/v1"


def keep_notes(
    folder: Path, finding: Finding, *, first: str, second: str, path: Sequence[bytes], time_s: int
) -> Path | None:
    """Keep two notes that contradict each other; return the new folder, None when kept before."""
    files = {"first.note": first.encode(), "second.note": second.encode(), "path": encode_hashes(path)}
    # Named without the hashes: one signed pair is one suspicion, however often wrong hashes come with it.
    name = (finding.origin, _text(first), _text(second))
    return keep_case(folder, finding, files, name=name, time_s=time_s)


def keep_case(
    folder: Path, finding: Finding, files: Mapping[str, bytes], *, name: Sequence[str], time_s: int
) -> Path | None:
    """Keep ``files`` as a case named by ``name``; return the new folder, None when kept before or full."""
    digest = tagged_hash(_DOMAIN, *(part.encode() for part in name)).hex()
    case = folder / f"{finding.kind}-{digest[:16]}"
    alike = sum(1 for item in cases(folder) if item.name.startswith(f"{finding.kind}-"))
    if case.exists() or alike >= MAX_CASES_OF_A_KIND:
        return None
    about = {
        "format": FORMAT,
        "kind": finding.kind,
        "is_proof": finding.is_proof,
        "origin": finding.origin,
        "statement": finding.statement,
        "kept_at_s": time_s,
    }
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    return case if write_folder(case, {**files, "about.json": text.encode()}) else None


def cases(folder: Path) -> Iterator[Path]:
    """Yield every case in ``folder``, by name."""
    if folder.exists():
        yield from sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))


def verify_notes(case: Path, keys: tuple[NoteKey, ...]) -> Finding:
    """Return what the two notes of a case show; offline, believing no word of ``about.json``.

    Args:
        case: The folder of the case.
        keys: The log's keys, from a source that the caller trusts.

    Raises:
        EvidenceInvalid: Malformed, signed by other keys, or the notes agree.
    """
    first, second = read_text(case / "first.note"), read_text(case / "second.note")
    finding = weigh(first, second, read_hashes(case / "path"), keys)
    if finding is None:
        raise EvidenceInvalid("the notes agree; this shows nothing")
    return finding


def encode_hashes(hashes: Sequence[bytes]) -> bytes:
    """Return one base64 line for each hash."""
    return b"".join(base64.b64encode(item) + b"\n" for item in hashes)


def read_hashes(path: Path, *, skip: int = 0) -> tuple[bytes, ...]:
    """Return the hashes in a file, without its first ``skip`` lines; malformed lines come back as no bytes."""
    return tuple(decode_base64(line) for line in read_text(path).split("\n")[skip:] if line)


def read_text(path: Path, *, max_bytes: int = _MAX_FILE_BYTES) -> str:
    """Return a bounded text file of a case.

    Raises:
        EvidenceInvalid: It is missing, too long or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise EvidenceInvalid(f"{path.name} is too long")
        return content.decode()
    except (OSError, UnicodeDecodeError) as cause:
        raise EvidenceInvalid(f"{path.name} cannot be read") from cause


def _text(note: str) -> str:
    return note.partition("\n\n")[0]
