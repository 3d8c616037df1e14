"""A ledger as one portable stream, to be kept, moved to another machine, or read elsewhere.

The stream is a sequence of lines, each the hexadecimal of one deterministic CBOR
array; the first names the format. Entries and headers are all that a machine
needs, so a reader rebuilds state and roots and trusts none of ours.

    ["ledger-core/export/v1", origin, log public key]
    ["block", height, time in Unix ms, [entry, …]]       one per block, genesis first
    ["checkpoint", note]                                 after the block it covers
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Final, Protocol

from ledger_core.checkpoint import cosignatures, cosigner_key, log_key, parse_checkpoint, verify_note
from ledger_core.codec import Value, decode, encode
from ledger_core.errors import IntegrityBroken, NotCanonical, OpeningRefused
from ledger_core.log import TiledLog
from ledger_core.machine import BlockResult, Header, State, apply_block, begin, read_genesis
from ledger_core.ports import EntryRow, Store, commit_of
from ledger_core.stateroot import read_state_entry

FORMAT: Final = "ledger-core/export/v1"


class Exportable(Protocol):
    """What an export reads of a ledger."""

    @property
    def origin(self) -> str:
        """The log's name in checkpoints."""
        ...

    @property
    def log_public(self) -> bytes:
        """The key that checkpoints verify under."""
        ...

    def entries(self) -> Iterator[EntryRow]:
        """Yield the entries by number."""
        ...

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Yield (size, note) by size."""
        ...


@dataclass(frozen=True, slots=True)
class Replayed:
    """A block of an export, rebuilt, with its checkpoint if the export has one."""

    origin: str
    log_public: bytes
    block: BlockResult
    note: str | None


def export_ledger(ledger: Exportable) -> Iterator[str]:
    """Yield the lines of the export of ``ledger``, each with its newline."""
    yield _line((FORMAT, ledger.origin, ledger.log_public))
    rows = ledger.entries()
    # Entries are begun before notes: then every block among them has its note, though a writer goes on.
    first = list(islice(rows, 1))
    notes = ledger.checkpoints()
    size, note = next(notes, (0, ""))
    group: list[bytes] = []
    for row in chain(first, rows):
        group.append(row.entry)
        closing = read_state_entry(row.entry)
        if closing is not None:
            yield _line(("block", closing.height, closing.time_ms, group))
            group = []
            while size and size < row.index + 1:
                size, note = next(notes, (0, ""))
            if size == row.index + 1:
                yield _line(("checkpoint", note))


def replay_export(lines: Iterable[str]) -> State:
    """Rebuild the state from an export, checking every block and checkpoint on the way.

    Raises:
        IntegrityBroken: A line is malformed, out of place, or leads to another root.
        NoteInvalid: A checkpoint is not signed by the key that the export names.
    """
    state: State | None = None
    for replayed in replay_blocks(lines):
        state = replayed.block.state
    if state is None:
        raise IntegrityBroken("the export holds no blocks")
    return state


def import_ledger(lines: Iterable[str], store: Store, *, progress: Callable[[int], None] | None = None) -> State:
    """Write the ledger of an export into an empty ``store``, checking every block and checkpoint.

    Args:
        lines: What ``export_ledger`` gave; nothing about it is trusted.
        store: A store that holds no ledger yet.
        progress: Called with the number of entries written so far, after each block.

    Raises:
        IntegrityBroken: As ``replay_export``; or a block lacks its checkpoint. What was
            written until then is a sound, shorter ledger.
        NoteInvalid: A checkpoint is not signed by the key that the export names.
    """
    log = TiledLog(store.tile, 0)
    newest: Replayed | None = None
    cosigned: tuple[int, str] | None = None
    for newest in replay_blocks(lines):
        row = newest.block.state.row()
        if newest.note is None:
            raise IntegrityBroken(f"block {row.height} has no checkpoint in the export")
        commit = commit_of(newest.block, log, newest.note)
        if row.height == 0:
            store.begin({"origin": newest.origin, "log_key": newest.log_public.hex()}, commit)
        else:
            store.commit(commit)
        log.publish(commit.tiles, row.size)
        if cosignatures(newest.note, newest.origin):
            cosigned = row.size, newest.note
        if progress is not None:
            progress(row.size)
    if newest is None:
        raise IntegrityBroken("the export holds no blocks")
    if cosigned is not None:
        # So that receipts go on standing under it.
        store.replace_checkpoint(*cosigned)
    return newest.block.state


def replay_blocks(lines: Iterable[str]) -> Iterator[Replayed]:
    """Yield every block of an export, rebuilt by the machine; its checkpoint is verified.

    Raises:
        IntegrityBroken: A line is malformed, out of place, or leads to another root.
        NoteInvalid: A checkpoint is not signed by the key that the export names.
    """
    items = iter(lines)
    head = _array(next(items, ""))
    if len(head) != 3 or head[0] != FORMAT or not isinstance(head[1], str) or not isinstance(head[2], bytes):
        raise IntegrityBroken("this is not an export of this format")
    origin, public = head[1], head[2]
    state: State | None = None
    pending: Replayed | None = None
    for item in items:
        match _array(item):
            case ("block", int(height), int(time_ms), tuple(entries)):
                if pending is not None:
                    yield pending
                block = _apply(state, Header(height, time_ms), entries)
                state, pending = block.state, Replayed(origin, public, block, None)
            case ("checkpoint", str(note)) if pending is not None and pending.note is None:
                _check_note(pending, note)
                pending = replace(pending, note=note)
            case _:
                raise IntegrityBroken("a line of the export is out of place")
    if pending is not None:
        yield pending


def _check_note(pending: Replayed, note: str) -> None:
    keys = (log_key(pending.origin, pending.log_public), cosigner_key(pending.origin, pending.log_public))
    found = parse_checkpoint(verify_note(note, keys)[0])
    log = pending.block.state.log
    if (found.origin, found.size, found.root) != (pending.origin, log.size, log.root()):
        raise IntegrityBroken(f"the checkpoint of size {found.size} has another root")


def _apply(state: State | None, header: Header, entries: tuple[Value, ...]) -> BlockResult:
    given = [entry for entry in entries if isinstance(entry, bytes)]
    if not given or len(given) != len(entries):
        raise IntegrityBroken(f"block {header.height} is malformed")
    try:
        block = begin(read_genesis(given[0])) if state is None else apply_block(state, header, given[:-1])
    except (OpeningRefused, ValueError):
        raise IntegrityBroken(f"block {header.height} does not follow what comes before it") from None
    if list(block.entries) != given:
        raise IntegrityBroken(f"block {header.height} is not what its transactions lead to")
    return block


def _line(items: tuple[Value, ...]) -> str:
    return encode(items).hex() + "\n"


def _array(line: str) -> tuple[Value, ...]:
    try:
        value = decode(bytes.fromhex(line))
    except (ValueError, NotCanonical):
        raise IntegrityBroken("a line of the export is malformed") from None
    if not isinstance(value, tuple):
        raise IntegrityBroken("a line of the export is malformed")
    return value
