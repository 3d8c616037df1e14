"""Judge a block of the log by applying the machine, and keep a bad one so that others can judge it.

A case of a block is a folder with

    checkpoint.note   a checkpoint that covers the block
    block             its entries, a line of hexadecimal each
    before            the log's size before it, then the roots of its complete subtrees, base64
    path              consistency hashes from the log's size after the block to the checkpoint's

The last three lead to the signed root, so the log's key vouched for these entries at these
positions. Some are wrong on sight (``false-entry``: no rules accept them whatever came
before); others only after replaying what came before (``wrong-block``), which
``confirm_block`` does with a copy of the log and then calls it ``wrong-state``.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ledger_core.checkpoint import Checkpoint, NoteKey, parse_checkpoint, verify_note
from ledger_core.codec import decode
from ledger_core.errors import EvidenceInvalid, LedgerError, NotCanonical, ProofInvalid
from ledger_core.hashing import HASH_BYTES, leaf_hash
from ledger_core.log import Frontier
from ledger_core.machine import BlockResult, Header, State, apply_block, begin, read_genesis
from ledger_core.proofs import verify_consistency
from ledger_core.stateroot import read_state_entry
from ledger_core.transactions import ENTRY_TRANSACTION, Prepared, Rejection, prepare, read_envelope
from ledger_core.witness.cases import encode_hashes, keep_case, read_hashes, read_text, verify_notes
from ledger_core.witness.evidence import FALSE_ENTRY, WRONG_BLOCK, WRONG_STATE, Finding

MAX_BLOCK_BYTES: Final = 128 * 2**20

_UNKNOWN: Final = frozenset({Rejection.UNKNOWN_KIND, Rejection.UNKNOWN_VERSION, Rejection.UNKNOWN_SUITE})


class EntrySource(Protocol):
    """Where log entries come from; nothing about them is trusted."""

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the entries from ``start`` up to, not including, ``stop``."""
        ...


def read_blocks(entries: Iterable[Prepared], *, max_bytes: int = MAX_BLOCK_BYTES) -> Iterator[tuple[Prepared, ...]]:
    """Yield entries by block; what follows the last state root comes last, as it is.

    A group of more than ``max_bytes`` is cut there, and so is no block either.
    """
    group: list[Prepared] = []
    size = 0
    for entry in entries:
        group.append(entry)
        size += len(entry.data)
        if read_state_entry(entry.data) is not None or size > max_bytes:
            yield tuple(group)
            group, size = [], 0
    if group:
        yield tuple(group)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a block. ``is_unknown``: its rules may be newer than this software."""

    what: str
    is_unknown: bool = False


def judge_block(state: State | None, block: Sequence[Prepared]) -> BlockResult | Fault:
    """Apply a block that the log claims; return what it did, or what is wrong with it.

    Args:
        state: The state before it; None for the first block.
        block: The block's entries, its state root last; signatures may have been checked ahead.
    """
    entries = [entry.data for entry in block]
    closing = read_state_entry(entries[-1])
    if closing is None:
        return Fault("the entries do not end with a state root")
    first = 0 if state is None else state.log.size
    try:
        if state is None:
            found = begin(read_genesis(entries[0]))
        else:
            found = apply_block(state, Header(closing.height, closing.time_ms), block[:-1])
    except LedgerError:
        return Fault("the log does not begin with a genesis")
    except ValueError:
        return Fault(f"block {closing.height} does not follow the one before it in height and time")
    for number, result in enumerate(found.results):
        if result.code:
            is_unknown = result.code in _UNKNOWN or _domain(entries[number]) not in (None, ENTRY_TRANSACTION)
            return Fault(f"the rules refuse entry {first + number}: {result.code}", is_unknown)
    if list(found.entries) != entries:
        computed = found.state.tree.root.hex()
        return Fault(
            f"block {closing.height} claims state root {closing.state_root.hex()}; its entries lead to {computed}"
        )
    return found


def keep_block(
    folder: Path,
    *,
    fault: Fault,
    note: str,
    origin: str,
    before: Frontier,
    entries: Sequence[bytes],
    path: Sequence[bytes],
    time_s: int,
) -> tuple[Finding, Path | None]:
    """Keep a block that the log signed and that is wrong; return what it shows and the new folder, if it is new."""
    own_fault = _find_own_fault(before.size, entries)
    finding = Finding(FALSE_ENTRY if own_fault else WRONG_BLOCK, origin, fault.what)
    files = {
        "checkpoint.note": note.encode(),
        "block": "".join(f"{entry.hex()}\n" for entry in entries).encode(),
        "before": f"{before.size}\n".encode() + encode_hashes(before.peaks),
        "path": encode_hashes(path),
    }
    # The same block under a later checkpoint is the same case.
    name = (origin, str(before.size), files["block"].decode())
    return finding, keep_case(folder, finding, files, name=name, time_s=time_s)


def verify_evidence(case: Path, keys: tuple[NoteKey, ...]) -> Finding:
    """Return what a case of either form shows by itself, offline.

    Args:
        case: The folder of the case; nothing in it is believed but what the log's key signed.
        keys: The log's keys, from a source that the caller trusts.

    Raises:
        EvidenceInvalid: Malformed, signed by other keys, or it shows nothing.
    """
    return verify_block(case, keys) if (case / "block").exists() else verify_notes(case, keys)


def verify_block(case: Path, keys: tuple[NoteKey, ...]) -> Finding:
    """Return what a case of a block shows by itself; offline, believing no word of ``about.json``.

    Args:
        case: The folder of the case.
        keys: The log's keys, from a source that the caller trusts.

    Raises:
        EvidenceInvalid: Malformed, or the log's keys did not sign this block.
    """
    checkpoint, before, entries = _read_case(case, keys)
    own_fault = _find_own_fault(before.size, entries)
    if own_fault:
        return Finding(FALSE_ENTRY, checkpoint.origin, own_fault)
    last = before.size + len(entries) - 1
    statement = f"the log signed entries {before.size} to {last}; replay the {before.size} before them to judge them"
    return Finding(WRONG_BLOCK, checkpoint.origin, statement)


def confirm_block(case: Path, keys: tuple[NoteKey, ...], source: EntrySource) -> Finding:
    """Replay a copy of the log up to a case's block and judge that block.

    Args:
        case: The folder of the case.
        keys: The log's keys, from a source that the caller trusts.
        source: A copy of the log, from anyone: it must lead to the roots in the case.

    Raises:
        EvidenceInvalid: The case is malformed or not signed, the copy is of another log,
            or the block is right.
    """
    checkpoint, before, entries = _read_case(case, keys)
    state: State | None = None
    for group in read_blocks(_unchecked(source.entries(0, before.size))) if before.size else ():
        block = judge_block(state, group)
        if isinstance(block, Fault):
            raise EvidenceInvalid(f"the copy of the log goes wrong earlier: {block.what}")
        state = block.state
    if (Frontier() if state is None else state.log) != before:
        raise EvidenceInvalid("the copy of the log does not lead to where the case begins")
    verdict = judge_block(state, tuple(_unchecked(entries)))
    if not isinstance(verdict, Fault):
        raise EvidenceInvalid("the rules lead to exactly this block; this shows nothing")
    if verdict.is_unknown:
        raise EvidenceInvalid(f"this software may be too old to judge: {verdict.what}")
    return Finding(WRONG_STATE, checkpoint.origin, verdict.what)


def _read_case(case: Path, keys: tuple[NoteKey, ...]) -> tuple[Checkpoint, Frontier, tuple[bytes, ...]]:
    try:
        note = read_text(case / "checkpoint.note")
        checkpoint = parse_checkpoint(verify_note(note, keys)[0])
        size = int(read_text(case / "before").partition("\n")[0])
        peaks = read_hashes(case / "before", skip=1)
        lines = read_text(case / "block", max_bytes=4 * MAX_BLOCK_BYTES).split("\n")
        entries = tuple(bytes.fromhex(line) for line in lines if line)
    except (LedgerError, ValueError) as cause:
        raise EvidenceInvalid("a file of the case is malformed, or its checkpoint is not signed") from cause
    is_frontier = size >= 0 and size.bit_count() == len(peaks) and all(len(item) == HASH_BYTES for item in peaks)
    if not is_frontier or not entries:
        raise EvidenceInvalid("the roots before the block do not fit its position")
    before = Frontier(size, peaks)
    _check_whole(entries, is_last=size + len(entries) == checkpoint.size)
    _check_signed(before, entries, read_hashes(case / "path"), checkpoint)
    return checkpoint, before, entries


def _check_whole(entries: Sequence[bytes], *, is_last: bool) -> None:
    """Refuse parts and unions of blocks: they look wrong although the log is not."""
    if any(read_state_entry(entry) is not None for entry in entries[:-1]):
        raise EvidenceInvalid("the case holds more than one block")
    if read_state_entry(entries[-1]) is None and not is_last:
        raise EvidenceInvalid("the case holds only a part of a block")


def _check_signed(before: Frontier, entries: Sequence[bytes], path: Sequence[bytes], checkpoint: Checkpoint) -> None:
    after = before.append(leaf_hash(entry) for entry in entries)
    try:
        verify_consistency(
            old_size=after.size,
            old_root=after.root(),
            new_size=checkpoint.size,
            new_root=checkpoint.root,
            path=path,
        )
    except ProofInvalid as cause:
        raise EvidenceInvalid("the checkpoint does not cover these entries") from cause


def _find_own_fault(first: int, entries: Sequence[bytes]) -> str:
    """Say what is wrong with a block whatever came before it; "" when nothing is.

    Only what no later version of the rules could allow: an old verifier must not accuse a newer log.
    """
    if first == 0:
        verdict = judge_block(None, tuple(_unchecked(entries)))
        return verdict.what if isinstance(verdict, Fault) and not verdict.is_unknown else ""
    for number, entry in enumerate(entries[:-1]):
        envelope = read_envelope(entry)
        if isinstance(envelope, str):
            if _domain(entry) is None:
                return f"entry {first + number} is no log entry at all"
        elif not envelope.is_signed():
            return f"entry {first + number} has a false signature"
    return ""


def _unchecked(entries: Iterable[bytes]) -> Iterator[Prepared]:
    return (prepare(entry, signatures=False) for entry in entries)


def _domain(entry: bytes) -> int | None:
    """The number that says what an entry is, or None when it is not even of that form."""
    try:
        items = decode(entry)
    except NotCanonical:
        return None
    head = items[0] if isinstance(items, tuple) and items else None
    return head if type(head) is int else None
