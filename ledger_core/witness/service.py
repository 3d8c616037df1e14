"""One witness at work: judges submissions, remembers, keeps evidence, signs.

For the HTTP server, and for a process that follows a log by itself.

Invariants:
    * a cosignature leaves only after the records that forbid contradicting it are durable;
    * submissions for one log are judged one after another, those for others meanwhile;
    * the times that a witness signs never fall.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from ledger_core.checkpoint import Checkpoint, NoteKey, cosign
from ledger_core.errors import EvidenceInvalid, LedgerUnavailable, ReplayRefused
from ledger_core.witness import cases, core
from ledger_core.witness.core import Refusal, Request, Seen
from ledger_core.witness.evidence import Finding, weigh
from ledger_core.witness.home import Home
from ledger_core.witness.records import Records

# A clock set back by more than this stops signing; less is bridged by repeating the last time.
MAX_CLOCK_STEP_BACK_S: Final = 300
_REMEMBERED_REFUSALS: Final = 10_000

TEXT: Final = "text/plain; charset=utf-8"
TLOG_SIZE: Final = "text/x.tlog.size"


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back over HTTP, or to whoever asked in this process."""

    status: int
    content_type: str
    body: str


class Vouching(Protocol):
    """What a replaying witness asks before it signs."""

    def vouch(self, checkpoint: Checkpoint, note: str) -> None:
        """Return when replaying the log leads to ``checkpoint``.

        Raises:
            ReplayRefused: It leads elsewhere; evidence is kept.
            LedgerUnavailable: Not known yet; ask again later.
        """
        ...


class Witness:
    """Answers submissions for every log its home follows; safe to share between threads."""

    def __init__(
        self,
        home: Home,
        records: Records,
        *,
        clock_s: Callable[[], int],
        replay: Vouching | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._home, self._records = home, records
        self._clock_s, self._replay, self._report = clock_s, replay, report
        self._locks: dict[str, threading.Lock] = {}
        self._locks_mutex = threading.Lock()
        self._refused: OrderedDict[Checkpoint, int] = OrderedDict()

    @property
    def home(self) -> Home:
        return self._home

    def add_checkpoint(self, body: bytes) -> Response:
        """Judge a submission and return cosignature lines, or why there are none."""
        request = core.parse_request(body)
        if isinstance(request, Refusal):
            return _refuse(request)
        trusted = self._home.trusted()
        log_note = core.authenticate(request, trusted)
        if isinstance(log_note, Refusal):
            return _refuse(log_note)
        origin = request.checkpoint.origin
        with self._lock(origin):
            return self._judge(request, log_note, trusted[origin])

    def newest(self, origin_hash: str) -> Response:
        """Return the newest cosigned checkpoint of the log whose origin has this SHA-256 (lower-case hex)."""
        for origin in self._records.origins():
            if hashlib.sha256(origin.encode()).hexdigest() == origin_hash:
                seen = self._records.newest(origin)
                if seen is not None:
                    return Response(core.ACCEPTED, TEXT, seen.note)
        return _refuse(Refusal(core.UNKNOWN_LOG, "no checkpoint of such a log was ever cosigned here"))

    def _judge(self, request: Request, log_note: str, keys: tuple[NoteKey, ...]) -> Response:
        origin = request.checkpoint.origin
        seen = self._records.newest(origin)
        refusal = core.check_growth(request, seen)
        if refusal is not None:
            self._look_for_evidence(request, refusal, log_note, seen, keys)
            return _refuse(refusal)
        if self._replay is not None:
            try:
                self._replay.vouch(request.checkpoint, log_note)
            except ReplayRefused as cause:
                return _refuse(Refusal(core.NOT_CONSISTENT, str(cause)))
            except LedgerUnavailable as cause:
                return _refuse(Refusal(core.UNAVAILABLE, str(cause)))
        return self._sign(request.checkpoint, log_note, seen)

    def _sign(self, checkpoint: Checkpoint, log_note: str, seen: Seen | None) -> Response:
        last = 0 if seen is None else seen.time_s
        now = self._clock_s()
        if last - now > MAX_CLOCK_STEP_BACK_S:
            self._report(f"the clock stands {last - now} s before the last cosignature; set it right")
            return _refuse(Refusal(core.UNAVAILABLE, "the witness's clock is behind its last cosignature"))
        time_s = max(now, last)
        note = log_note
        for key, identity in self._home.cosigners:
            note = cosign(note, key, identity, time_s=time_s)
        after = Seen(checkpoint.size, checkpoint.root, note, time_s)
        if not self._records.advance(checkpoint.origin, seen, after, log_note):
            newest = self._records.newest(checkpoint.origin)
            size = 0 if newest is None else newest.size
            return _refuse(Refusal(core.CONFLICT, "another process signed meanwhile", size))
        self._refused.pop(checkpoint, None)
        self._report(f"{checkpoint.origin}: cosigned {checkpoint.size} entries")
        return Response(core.ACCEPTED, TEXT, note[len(log_note) :])

    def _look_for_evidence(
        self, request: Request, refusal: Refusal, note: str, seen: Seen | None, keys: tuple[NoteKey, ...]
    ) -> None:
        checkpoint = request.checkpoint
        if seen is None:
            return
        # A proof that starts elsewhere says nothing about growth from what was seen.
        path = request.proof if request.old_size == seen.size else ()
        first = seen.note
        finding = _try_weigh(first, note, path, keys)
        earlier = self._records.note_at(checkpoint.origin, checkpoint.size)
        if earlier is not None and (finding is None or not finding.is_proof):
            first = earlier
            finding = _try_weigh(first, note, (), keys)
        if finding is None:
            return
        insists = self._refuse_again(checkpoint) > 1
        is_growth_unknown = refusal.status == core.CONFLICT and checkpoint.size > seen.size
        if not finding.is_proof and (is_growth_unknown or not insists):
            return
        first = core.keep_signed_lines(first, keys)
        folder, now = self._home.evidence, self._clock_s()
        case = cases.keep_notes(folder, finding, first=first, second=note, path=path, time_s=now)
        word = "PROOF" if finding.is_proof else "suspicion"
        if case is not None:
            self._report(f"{finding.origin}: {word} of {finding.kind}: {finding.statement}; kept in {case}")

    def _refuse_again(self, checkpoint: Checkpoint) -> int:
        count = self._refused.pop(checkpoint, 0) + 1
        self._refused[checkpoint] = count
        if len(self._refused) > _REMEMBERED_REFUSALS:
            self._refused.popitem(last=False)
        return count

    def _lock(self, origin: str) -> threading.Lock:
        with self._locks_mutex:
            return self._locks.setdefault(origin, threading.Lock())


def _try_weigh(first: str, second: str, path: tuple[bytes, ...], keys: tuple[NoteKey, ...]) -> Finding | None:
    try:
        return weigh(first, second, path, keys)
    except EvidenceInvalid:
        # The log's key was changed since: the older note no longer holds under the trusted keys.
        return None


def _refuse(refusal: Refusal) -> Response:
    if refusal.known_size is not None:
        return Response(refusal.status, TLOG_SIZE, f"{refusal.known_size}\n")
    return Response(refusal.status, TEXT, refusal.reason + "\n")
