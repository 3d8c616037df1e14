"""A ledger as one portable stream: genesis, blocks and checkpoints, to be kept or read elsewhere.

The stream is a sequence of lines, each the hexadecimal of one deterministic CBOR
array; the first names the format. Entries and headers are all that a machine
needs, so a reader rebuilds state and roots and trusts none of ours.

    ["ledger-core/export/v1", origin, log public key]
    ["block", height, time in Unix ms, [entry, …]]       one per block, genesis first
    ["checkpoint", note]                                 after the block it covers
"""

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from ledger_core.checkpoint import cosigner_key, log_key, parse_checkpoint, verify_note
from ledger_core.codec import Value, decode, encode
from ledger_core.errors import IntegrityBroken, NotCanonical
from ledger_core.machine import Header, State, apply_block, begin, read_genesis
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

    def entries(self) -> Iterator[tuple[int, int, bytes, bytes]]:
        """Yield (index, height, entry, leaf hash) in order of index."""
        ...

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Yield (size, note) by size."""
        ...


def export_ledger(ledger: Exportable) -> Iterator[str]:
    """Yield the lines of the export of ``ledger``, each with its newline."""
    yield _line((FORMAT, ledger.origin, ledger.log_public))
    notes = dict(ledger.checkpoints())
    group: list[bytes] = []
    for index, _, entry, _ in ledger.entries():
        group.append(entry)
        closing = read_state_entry(entry)
        if closing is not None:
            yield _line(("block", closing.height, closing.time_ms, group))
            if index + 1 in notes:
                yield _line(("checkpoint", notes[index + 1]))
            group = []


def replay_export(lines: Iterable[str]) -> State:
    """Rebuild the state from an export, checking every block and checkpoint on the way.

    Raises:
        IntegrityBroken: A line is malformed, out of place, or leads to another root.
        NoteInvalid: A checkpoint is not signed by the key that the export names.
    """
    items = iter(lines)
    head = _array(next(items, ""))
    if len(head) != 3 or head[0] != FORMAT or not isinstance(head[1], str) or not isinstance(head[2], bytes):
        raise IntegrityBroken("this is not an export of this format")
    keys = (log_key(head[1], head[2]), cosigner_key(head[1], head[2]))
    state: State | None = None
    for item in items:
        match _array(item):
            case ("block", int(height), int(time_ms), tuple(entries)):
                state = _apply(state, Header(height, time_ms), entries)
            case ("checkpoint", str(note)) if state is not None:
                found = parse_checkpoint(verify_note(note, keys)[0])
                if (found.origin, found.size, found.root) != (head[1], state.log.size, state.log.root()):
                    raise IntegrityBroken(f"the checkpoint of size {found.size} has another root")
            case _:
                raise IntegrityBroken("a line of the export is out of place")
    if state is None:
        raise IntegrityBroken("the export holds no blocks")
    return state


def _apply(state: State | None, header: Header, entries: tuple[Value, ...]) -> State:
    given = [entry for entry in entries if isinstance(entry, bytes)]
    if not given or len(given) != len(entries):
        raise IntegrityBroken(f"block {header.height} is malformed")
    try:
        block = begin(read_genesis(given[0])) if state is None else apply_block(state, header, given[:-1])
    except ValueError:
        raise IntegrityBroken(f"block {header.height} does not follow the one before it") from None
    if list(block.entries) != given:
        raise IntegrityBroken(f"block {header.height} is not what its transactions lead to")
    return block.state


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
