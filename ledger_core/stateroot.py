"""The state-root entry: the last log entry of every block that accepted a transaction.

It is ``[2, suite, height, time in Unix ms, state root]`` in deterministic CBOR;
``suite`` says which hash the state tree uses.
Apart from the machine because verifiers read it too.
"""

from dataclasses import dataclass
from typing import Final

from ledger_core.codec import decode, encode
from ledger_core.errors import NotCanonical
from ledger_core.hashing import TREE_SHA256, TREE_SUITES
from ledger_core.payloads import is_count, is_hash

ENTRY_STATE: Final = 2


@dataclass(frozen=True, slots=True)
class StateEntry:
    """State root, height and time of a block; ``suite`` is that of the state tree after it."""

    height: int
    time_ms: int
    state_root: bytes
    suite: int = TREE_SHA256

    def entry(self) -> bytes:
        """Return the bytes of the log entry."""
        return encode((ENTRY_STATE, self.suite, self.height, self.time_ms, self.state_root))


def read_state_entry(entry: bytes) -> StateEntry | None:
    """Return the state root that ``entry`` carries, or None when it is another kind of entry."""
    try:
        items = decode(entry)
    except NotCanonical:
        return None
    if not isinstance(items, tuple) or len(items) != 5 or items[0] != ENTRY_STATE:
        return None
    suite, height, time_ms, root = items[1:]
    if not is_count(suite) or suite not in TREE_SUITES:
        return None
    if not is_count(height) or not is_count(time_ms) or not is_hash(root):
        return None
    return StateEntry(height, time_ms, root, suite)  # type: ignore[arg-type]  # checked above
