"""Follow a log, recompute every state root, and vouch only for what the transactions lead to.

The log is read in its static form (C2SP tlog-tiles). Nothing it serves is believed:
entries count once they lead to the root of a checkpoint that the log's key signed, and
state counts once this machine has computed it. What was confirmed is durable, so a
restart loads the state and goes on; it does not replay.

Two refusals are kept apart. ``ReplayRefused``: the log signed something wrong; evidence
is kept. ``LogMismatch``: the log serves something that it did not sign; that may be a
broken copy or network, so nothing is taken and it is tried again later.

Invariants:
    * ``vouch`` returns only for a root whose every block this machine has recomputed;
    * no unconfirmed entry ever reaches the records.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NoReturn

from ledger_core.checkpoint import Checkpoint, parse_checkpoint, split_note
from ledger_core.errors import EvidenceInvalid, LedgerUnavailable, LogMismatch, ReplayRefused
from ledger_core.hashing import leaf_hash
from ledger_core.stateroot import read_state_entry
from ledger_core.transactions import Prepared
from ledger_core.witness import cases
from ledger_core.witness.blocks import MAX_BLOCK_BYTES, Fault, judge_block, keep_block, read_blocks
from ledger_core.witness.evidence import weigh
from ledger_core.witness.home import Home
from ledger_core.witness.records import Records
from ledger_core.witness.replica import Replica
from ledger_core.witness.sources import LogSource, SourceTiles, fetch_checkpoint, prepare_ahead, read_entries

# Entries between two points that are confirmed and made durable while catching up.
CONFIRM_ENTRIES: Final = 16_384
VOUCH_BUDGET_S: Final = 4.0


class Follower:
    """The replayed copy of one log's state; safe to share between threads."""

    def __init__(
        self,
        home: Home,
        records: Records,
        source: LogSource,
        *,
        clock_s: Callable[[], int],
        report: Callable[[str], None] = lambda line: None,
        budget_s: float = VOUCH_BUDGET_S,
        confirm_entries: int = CONFIRM_ENTRIES,
        max_block_bytes: int = MAX_BLOCK_BYTES,
    ) -> None:
        """Load what was replayed before.

        Args:
            home: The witness's directory, for the trusted keys and the evidence.
            records: Where confirmed state is kept.
            source: The log as it is served.
            clock_s: Dates evidence.
            report: Told what happens, in words.
            budget_s: How long ``vouch`` may replay.
            confirm_entries: How many entries may be replayed before they are confirmed and kept.
            max_block_bytes: Larger blocks are not taken.

        Raises:
            IntegrityBroken: The records do not lead to the roots kept beside them.
        """
        self._home, self._source = home, source
        self._clock_s, self._report, self._budget_s = clock_s, report, budget_s
        self._confirm_entries, self._max_block_bytes = confirm_entries, max_block_bytes
        self._mutex = threading.Lock()
        self._replica = Replica(records)

    @property
    def size(self) -> int:
        """Number of entries replayed and confirmed."""
        return self._replica.size

    def follow(self) -> tuple[Checkpoint, str]:
        """Replay up to the checkpoint that the log serves now, however long it takes; return it and its note.

        Raises:
            ReplayRefused: The log signed something wrong; evidence is kept.
            LedgerUnavailable: The log could not be read, or serves what it did not sign.
        """
        checkpoint, note = fetch_checkpoint(self._source, self._home.trusted())
        with self._mutex:
            self._vouch(checkpoint, note, None)
        return checkpoint, note

    def vouch(self, checkpoint: Checkpoint, note: str) -> None:
        """Return when replaying leads to ``checkpoint``, after a few seconds at most.

        Args:
            checkpoint: What ``note`` says; the caller has verified it under the log's keys.
            note: The log's signed note.

        Raises:
            ReplayRefused: It leads elsewhere; evidence is kept.
            LedgerUnavailable: Not known yet; what was replayed meanwhile is kept, ask again.
        """
        deadline = time.monotonic() + self._budget_s
        if not self._mutex.acquire(timeout=self._budget_s):
            raise LedgerUnavailable("this witness is still replaying the log")
        try:
            self._vouch(checkpoint, note, deadline)
        finally:
            self._mutex.release()

    def _vouch(self, checkpoint: Checkpoint, note: str, deadline: float | None) -> None:
        if checkpoint.size > self._replica.size:
            self._grow(checkpoint, note, deadline)
            return
        known = self._replica.root_at(checkpoint.size)
        if known is None:
            raise LedgerUnavailable(f"no block that this witness remembers ended at {checkpoint.size} entries")
        if known != checkpoint.root:
            self._keep_contradiction(checkpoint, note)
            raise ReplayRefused(f"the log signed another tree of {checkpoint.size} entries before")

    def _grow(self, checkpoint: Checkpoint, note: str, deadline: float | None) -> None:
        tiles = SourceTiles(self._source)
        if tiles.size < checkpoint.size:
            raise LedgerUnavailable(f"the log serves {tiles.size} entries so far, not {checkpoint.size}")
        if tiles.root(checkpoint.size) != checkpoint.root:
            raise LogMismatch("the tiles that are served do not lead to the signed root")
        if not tiles.covers(self._replica.frontier, checkpoint):
            self._keep_contradiction(checkpoint, note)
            size = self._replica.size
            raise ReplayRefused(
                f"the tree of {checkpoint.size} entries does not begin with the {size} replayed before"
            )
        try:
            self._replay(checkpoint, note, tiles, deadline)
        finally:
            self._replica.discard()

    def _replay(self, checkpoint: Checkpoint, note: str, tiles: SourceTiles, deadline: float | None) -> None:
        replica = self._replica
        entries = read_entries(self._source, replica.size, checkpoint.size)
        with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="replay") as pool:
            for group in read_blocks(prepare_ahead(entries, pool), max_bytes=self._max_block_bytes):
                self._take(group, checkpoint, note, tiles)
                is_late = deadline is not None and time.monotonic() > deadline
                size = replica.frontier.size
                if is_late or size - replica.size >= self._confirm_entries or size == checkpoint.size:
                    self._confirm(checkpoint, note, tiles)
                if is_late and size < checkpoint.size:
                    raise LedgerUnavailable(f"replayed {size} of {checkpoint.size} entries so far")
        if replica.size != checkpoint.size:
            raise LogMismatch("the log serves fewer entries than it signed")

    def _take(self, group: Sequence[Prepared], checkpoint: Checkpoint, note: str, tiles: SourceTiles) -> None:
        begin = self._replica.frontier.size
        if read_state_entry(group[-1].data) is None and begin + len(group) < checkpoint.size:
            # Cut short by the source, or longer than this witness takes: no word about the log.
            raise LogMismatch(f"no whole block could be read after entry {begin}")
        block = judge_block(self._replica.state, group)
        if isinstance(block, Fault):
            self._refuse_block(block, [entry.data for entry in group], checkpoint, note, tiles)
        self._replica.apply(block)

    def _confirm(self, checkpoint: Checkpoint, note: str, tiles: SourceTiles) -> None:
        if not tiles.covers(self._replica.frontier, checkpoint):
            raise LogMismatch("the entries that are served do not lead to the signed root")
        self._replica.confirm(note)
        self._report(f"{checkpoint.origin}: replayed {self._replica.size} of {checkpoint.size} entries")

    def _refuse_block(
        self, fault: Fault, group: Sequence[bytes], checkpoint: Checkpoint, note: str, tiles: SourceTiles
    ) -> NoReturn:
        what, before = fault.what, self._replica.frontier
        if fault.is_unknown:
            raise LedgerUnavailable(f"this witness may be too old for this log: {what}")
        after = before.append(leaf_hash(entry) for entry in group)
        if not tiles.covers(after, checkpoint):
            raise LogMismatch(f"the log serves entries that it did not sign ({what})")
        finding, case = keep_block(
            self._home.evidence,
            fault=fault,
            note=note,
            origin=checkpoint.origin,
            before=before,
            entries=group,
            path=tiles.prove_consistency(after.size, checkpoint.size),
            time_s=self._clock_s(),
        )
        if case is not None:
            self._report(f"{checkpoint.origin}: REFUSED, {finding.kind}: {what}; kept in {case}")
        raise ReplayRefused(what)

    def _keep_contradiction(self, checkpoint: Checkpoint, note: str) -> None:
        """Keep the note under which this log was replayed beside the one that contradicts it."""
        first = self._replica.note
        try:
            older, newer = sorted((parse_checkpoint(split_note(first)[0]).size, checkpoint.size))
            path = () if older == newer else SourceTiles(self._source).beginning(older, newer)
            finding = weigh(first, note, path, self._home.trusted().get(checkpoint.origin, ()))
        except (LedgerUnavailable, EvidenceInvalid):
            # The source no longer serves what would show it; the refusal stands without a case.
            return
        if finding is not None:
            folder, now = self._home.evidence, self._clock_s()
            case = cases.keep_notes(folder, finding, first=first, second=note, path=path, time_s=now)
            if case is not None:
                self._report(f"{finding.origin}: {finding.kind}: {finding.statement}; kept in {case}")
