"""What contradictory checkpoints prove, and what they only make suspicious; for anyone, offline.

Two notes that a log's key signed can convict the log by themselves:

    fork       equal sizes, different roots
    rewrite    a smaller and a larger tree, and hashes that lead to the larger root while
               the smaller root that they imply is another one: the larger tree does not
               begin with the smaller
    rollback   more than a minute after signing one tree, the log said that a smaller one was
               its largest (its own timed cosignatures); a log restored from an old backup
               does this too, and breaks its word all the same

Two more kinds come from replaying (``blocks``): ``false-entry`` and ``wrong-state``.

Everything else is suspicion: ``unproven`` (growth without a valid proof; anybody may
send a note with a wrong proof), ``stale`` (a smaller checkpoint that this witness
never saw; a late message looks the same), and ``wrong-block`` (a signed block that
is proof once the log before it has been replayed).

Invariant: the kind is computed from notes and hashes at each check, never believed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ledger_core.checkpoint import Checkpoint, NoteKey, parse_checkpoint, verify_note
from ledger_core.errors import EvidenceInvalid, NoteInvalid
from ledger_core.hashing import HASH_BYTES, node_hash
from ledger_core.witness.core import log_time

FORK: Final = "fork"
REWRITE: Final = "rewrite"
ROLLBACK: Final = "rollback"
UNPROVEN: Final = "unproven"
STALE: Final = "stale"
FALSE_ENTRY: Final = "false-entry"
WRONG_STATE: Final = "wrong-state"
WRONG_BLOCK: Final = "wrong-block"
# A log that signs from several threads may cross its own words by moments; that convicts nobody.
ROLLBACK_MARGIN_S: Final = 60
PROOFS: Final = frozenset({FORK, REWRITE, ROLLBACK, FALSE_ENTRY, WRONG_STATE})


@dataclass(frozen=True, slots=True)
class Finding:
    """What evidence shows. ``is_proof``: the log's key alone can have made it."""

    kind: str
    origin: str
    statement: str

    @property
    def is_proof(self) -> bool:
        return self.kind in PROOFS


def weigh(first: str, second: str, path: Sequence[bytes], keys: tuple[NoteKey, ...]) -> Finding | None:
    """Return what two notes of one log show together, or None when they agree.

    Args:
        first: The note seen first.
        second: The note presented later.
        path: Consistency hashes between the two sizes, as submitted; may be empty. Where
            the smaller size is a power of two, the smaller tree's root within the larger
            tree may stand before them.
        keys: The log's keys, from a source that the caller trusts.

    Raises:
        EvidenceInvalid: A note is malformed or not signed by ``keys``, or the logs differ.
    """
    one, two = _read(first, keys), _read(second, keys)
    if one.origin != two.origin:
        raise EvidenceInvalid("the notes are of two logs")
    if one.size == two.size:
        return _weigh_equal(one, two)
    if one.size < two.size:
        return _weigh_sizes((one, first), (two, second), path, keys, is_growth=True)
    return _weigh_sizes((two, second), (one, first), path, keys, is_growth=False)


def implied_roots(old_size: int, new_size: int, path: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """Return the roots that a consistency path leads to, or None when its length does not fit.

    The climb of RFC 9162 section 2.1.4.2, where the first hash is always given: for an
    ``old_size`` that is a power of two, it is the older root itself. When the newer root is
    a signed one, the hashes are nodes of that tree, so the older root is that of its beginning.
    """
    if not path or not 0 < old_size < new_size or any(len(item) != HASH_BYTES for item in path):
        return None
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    older = newer = path[0]
    for sibling in path[1:]:
        if last == 0:
            return None
        if node & 1 or node == last:
            older, newer = node_hash(sibling, older), node_hash(sibling, newer)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            newer = node_hash(newer, sibling)
        node, last = node >> 1, last >> 1
    return None if last else (older, newer)


def _read(note: str, keys: tuple[NoteKey, ...]) -> Checkpoint:
    try:
        return parse_checkpoint(verify_note(note, keys)[0])
    except NoteInvalid as cause:
        raise EvidenceInvalid(f"a note of the evidence does not hold: {cause}") from cause


def _weigh_equal(one: Checkpoint, two: Checkpoint) -> Finding | None:
    if one.root == two.root:
        return None
    return Finding(FORK, one.origin, f"the log signed two different trees of {one.size} entries")


def _weigh_sizes(
    small: tuple[Checkpoint, str],
    large: tuple[Checkpoint, str],
    path: Sequence[bytes],
    keys: tuple[NoteKey, ...],
    *,
    is_growth: bool,
) -> Finding | None:
    older, newer, origin = small[0], large[0], small[0].origin
    consistent = _are_consistent(older, newer, path)
    if consistent is False:
        statement = f"the tree of {newer.size} entries does not begin with the signed tree of {older.size}"
        return Finding(REWRITE, origin, statement)
    times = log_time(small[1], keys), log_time(large[1], keys)
    if times[0] is not None and times[1] is not None and times[0] - times[1] > ROLLBACK_MARGIN_S:
        statement = f"at {times[0]} the log called {older.size} entries its largest tree; at {times[1]}, {newer.size}"
        return Finding(ROLLBACK, origin, statement)
    if consistent or older.size == 0:
        return None
    if is_growth:
        return Finding(UNPROVEN, origin, f"growth from {older.size} to {newer.size} entries came without a proof")
    return Finding(STALE, origin, f"a tree of {older.size} entries was presented after one of {newer.size}")


def _are_consistent(older: Checkpoint, newer: Checkpoint, path: Sequence[bytes]) -> bool | None:
    """True or False when the hashes show it either way; None when they show nothing."""
    is_power = older.size & (older.size - 1) == 0
    for candidate in ([older.root, *path], list(path)) if is_power else (list(path),):
        roots = implied_roots(older.size, newer.size, candidate)
        if roots is not None and roots[1] == newer.root:
            return roots[0] == older.root
    return None
