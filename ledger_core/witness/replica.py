"""The replayed state of a log: confirmed on disk, and ahead of that in memory.

Loading a million values takes seconds where replaying a million transactions takes minutes.

Invariant: what is loaded leads to the roots that were kept with it, or is refused.
"""

from typing import Final

from ledger_core.codec import decode, encode
from ledger_core.errors import IntegrityBroken, NotCanonical
from ledger_core.hashing import HASH_BYTES
from ledger_core.log import Frontier
from ledger_core.machine import BlockResult, Header, State
from ledger_core.sparse import StateTree
from ledger_core.witness.records import Records

_VERSION: Final = 1


class Replica:
    """One log's state as far as it was replayed; used by one thread at a time."""

    def __init__(self, records: Records) -> None:
        """Load what was confirmed.

        Raises:
            IntegrityBroken: The rows do not lead to the roots kept beside them.
        """
        self._records = records
        self._confirmed, self._note = _load(records)
        self._state = self._confirmed
        self._updates: dict[bytes, bytes] = {}
        self._roots: list[tuple[int, bytes]] = []

    @property
    def state(self) -> State | None:
        """State after the newest block applied, confirmed or not; None before the first."""
        return self._state

    @property
    def frontier(self) -> Frontier:
        return Frontier() if self._state is None else self._state.log

    @property
    def size(self) -> int:
        """Entries whose blocks are applied, confirmed and durable."""
        return 0 if self._confirmed is None else self._confirmed.log.size

    @property
    def note(self) -> str:
        """The log's note under which the confirmed entries were found; "" before the first."""
        return self._note

    def root_at(self, size: int) -> bytes | None:
        """Return the log root after the confirmed block that ended at ``size``, or None."""
        return self._records.replica_root(size)

    def apply(self, block: BlockResult) -> None:
        """Go on to the state after ``block``, in memory."""
        self._state = block.state
        self._updates.update(block.updates)
        self._roots.append((block.state.log.size, block.state.log.root()))

    def confirm(self, note: str) -> None:
        """Make everything applied durable; ``note`` is the checkpoint that covers it.

        Raises:
            LedgerUnavailable: Nothing was written.
        """
        if self._state is not None and self._state is not self._confirmed:
            self._records.save_replica(_values(self._state, note), self._updates, self._roots)
        self._confirmed, self._note = self._state, note
        self._updates, self._roots = {}, []

    def discard(self) -> None:
        """Go back to what is confirmed."""
        self._state = self._confirmed
        self._updates, self._roots = {}, []


def _values(state: State, note: str) -> dict[str, bytes]:
    head = (_VERSION, state.network, state.header.height, state.header.time_ms, state.tree.suite, state.tree.root)
    return {
        "head": encode(head),
        "frontier": encode((state.log.size, list(state.log.peaks))),
        "note": note.encode(),
    }


def _load(records: Records) -> tuple[State | None, str]:
    values = records.replica()
    if not values:
        return None, ""
    try:
        match decode(values["head"]), decode(values["frontier"]):
            case (1, bytes(network), int(height), int(time_ms), int(suite), bytes(root)), (int(size), tuple(peaks)):
                hashes = tuple(item for item in peaks if isinstance(item, bytes) and len(item) == HASH_BYTES)
            case _:
                raise IntegrityBroken("the witness's replayed state is of another form")
        tree = StateTree.from_sorted(records.replica_state(), suite=suite)
        note = values["note"].decode()
    except (KeyError, ValueError, NotCanonical) as cause:
        raise IntegrityBroken("the witness's replayed state cannot be read") from cause
    frontier = Frontier(size, hashes)
    is_sound = len(hashes) == len(peaks) == size.bit_count() and frontier.root() == records.replica_root(size)
    if not is_sound or tree.root != root:
        raise IntegrityBroken("the witness's replayed state does not lead to the roots kept beside it")
    return State(network, Header(height, time_ms), tree, frontier), note
