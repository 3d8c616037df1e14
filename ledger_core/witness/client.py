"""The operator's side: show a checkpoint to several witnesses at once and gather what they sign.

A witness that is down, slow or lying costs nothing but its own signature: each is asked
in a thread of its own, with one deadline for all, and only lines that verify under the
keys configured for that witness are taken.
"""

import http.client
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlsplit

from ledger_core.checkpoint import NoteKey, parse_checkpoint, split_note, verify_note
from ledger_core.errors import LedgerError, LedgerUnavailable, NoteInvalid, PolicyInvalid
from ledger_core.witness.core import ACCEPTED, CONFLICT, format_request

MAX_ANSWER_BYTES: Final = 65_536
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class WitnessAddress:
    """Where a witness listens (submission prefix), and the keys that its lines must verify under."""

    url: str
    keys: tuple[NoteKey, ...]

    @property
    def name(self) -> str:
        return self.keys[0].name if self.keys else self.url


@dataclass(frozen=True, slots=True)
class Answer:
    """What a witness said: signature lines, or the size it knows, or a reason."""

    status: int
    text: str

    @property
    def known_size(self) -> int | None:
        digits = self.text.removesuffix("\n")
        is_size = self.status == CONFLICT and digits.isascii() and digits.isdigit() and len(digits) < 20
        return int(digits) if is_size else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one witness took a checkpoint: ``lines`` are verified cosignatures, none when ``problem`` is set."""

    witness: WitnessAddress
    lines: str
    problem: str


@dataclass(frozen=True, slots=True)
class Gathered:
    """A note with every cosignature that came in time, and how each witness that answered took it."""

    note: str
    count: int
    has_quorum: bool
    outcomes: tuple[Outcome, ...]


class Growing(Protocol):
    """A log that can show it only grew; a ``Ledger`` is one."""

    def prove_consistency(self, old_size: int, new_size: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that the newer log continues the older one."""
        ...


def ask(url: str, note: str, old_size: int, proof: Sequence[bytes], *, timeout_s: float = 5.0) -> Answer:
    """Submit ``note`` once to the witness at ``url`` (http or https) and return its answer, unverified.

    Raises:
        LedgerUnavailable: No whole answer came before ``timeout_s`` was over.
    """
    deadline = time.monotonic() + timeout_s
    connection, prefix = _connect(url, timeout_s)
    watch: threading.Timer | None = None
    try:
        connection.connect()
        # A time-out of the socket bounds each read; this bounds all of them together.
        watch = threading.Timer(max(0.0, deadline - time.monotonic()), _hang_up, (connection.sock,))
        watch.daemon = True
        watch.start()
        body = format_request(note, old_size, tuple(proof))
        connection.request("POST", f"{prefix}/add-checkpoint", body, {"Content-Type": "text/plain; charset=utf-8"})
        response = connection.getresponse()
        content = response.read(MAX_ANSWER_BYTES + 1)
        if len(content) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
            raise LedgerUnavailable("the witness answered too much or too late")
        return Answer(response.status, content.decode())
    except (OSError, http.client.HTTPException, UnicodeDecodeError, ValueError) as cause:
        raise LedgerUnavailable(f"the witness did not answer: {type(cause).__name__}") from cause
    finally:
        if watch is not None:
            watch.cancel()
        connection.close()


def submit(log: Growing, note: str, witness: WitnessAddress, *, old_size: int = 0, timeout_s: float = 5.0) -> Outcome:
    """Have one witness sign ``note``, starting again from the size it says it knows.

    Args:
        log: Where consistency proofs come from.
        note: The log's signed checkpoint.
        witness: Whom to ask.
        old_size: What the witness is thought to know; a wrong guess costs one more round.
        timeout_s: For all rounds together.
    """
    deadline = time.monotonic() + timeout_s
    try:
        size = parse_checkpoint(split_note(note)[0]).size
        for _ in range(_ATTEMPTS):
            proof = log.prove_consistency(old_size, size) if old_size else ()
            answer = ask(witness.url, note, old_size, proof, timeout_s=deadline - time.monotonic())
            if answer.status == ACCEPTED:
                return Outcome(witness, verified_lines(note, answer.text, witness.keys), "")
            if answer.known_size is None:
                return Outcome(witness, "", f"refused with {answer.status}: {_first_line(answer.text)}")
            if answer.known_size > size:
                return Outcome(witness, "", f"has seen {answer.known_size} entries already, not only {size}")
            old_size = answer.known_size
        return Outcome(witness, "", "named another size each time")
    except LedgerError as cause:
        return Outcome(witness, "", str(cause))


def gather(
    log: Growing,
    note: str,
    witnesses: Sequence[WitnessAddress],
    *,
    quorum: int,
    timeout_s: float = 5.0,
    patience_s: float = 0.0,
    known_sizes: Callable[[WitnessAddress], int] = lambda witness: 0,
) -> Gathered:
    """Ask all witnesses at once; return when ``quorum`` of them have signed, or at the deadline.

    Missing the quorum is an outcome, not an error: the ledger goes on, and says less.

    Args:
        log: Where consistency proofs come from; asked from several threads.
        note: The log's signed checkpoint.
        witnesses: Whom to ask.
        quorum: How many must sign.
        timeout_s: Deadline for everything.
        patience_s: How long to wait for the others once the quorum is there.
        known_sizes: What each witness is thought to know, to spare a round.

    Raises:
        PolicyInvalid: A key is named twice: two of the witnesses are one, or one lists it twice.
    """
    _check_apart(witnesses)
    deadline = time.monotonic() + timeout_s
    answers: queue.Queue[Outcome] = queue.Queue()
    for witness in witnesses:
        start = known_sizes(witness)
        # Daemons: a witness that never answers must not keep the process from ending.
        arguments = (answers, log, note, witness, start, timeout_s)
        threading.Thread(target=_submit_into, args=arguments, name="ask-witness", daemon=True).start()
    outcomes: list[Outcome] = []
    signed = 0
    while len(outcomes) < len(witnesses):
        try:
            outcome = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        outcomes.append(outcome)
        signed += bool(outcome.lines)
        if signed == quorum:
            deadline = min(deadline, time.monotonic() + patience_s)
    lines = "".join(outcome.lines for outcome in outcomes)
    return Gathered(note + lines, signed, signed >= quorum, tuple(outcomes))


def verified_lines(note: str, answer: str, keys: tuple[NoteKey, ...]) -> str:
    """Return the lines of ``answer`` that are timed cosignatures of ``note`` by ``keys``, each key once.

    Raises:
        NoteInvalid: There is none, or one by a known key is false.
    """
    wanted = {(key.name, key.id): key for key in keys}
    kept = ""
    for raw, line in zip(answer.split("\n"), split_note(f"-\n\n{answer}")[1], strict=False):
        key = wanted.pop((line.name, line.key_id), None)
        if key is not None:
            if verify_note(f"{split_note(note)[0]}\n{raw}\n", [key])[1][0].time_s is None:
                raise NoteInvalid("a cosignature claims no time")
            kept += raw + "\n"
    if not kept:
        raise NoteInvalid("the witness's answer holds no line by its known keys")
    return kept


def _check_apart(witnesses: Sequence[WitnessAddress]) -> None:
    seen: set[bytes] = set()
    for key in (key for witness in witnesses for key in witness.keys):
        if key.public in seen:
            raise PolicyInvalid(f"a witness counts once; this key is named twice: {key.vkey()}")
        seen.add(key.public)


def _submit_into(
    answers: "queue.Queue[Outcome]", log: Growing, note: str, witness: WitnessAddress, start: int, timeout_s: float
) -> None:
    try:
        answers.put(submit(log, note, witness, old_size=start, timeout_s=timeout_s))
    except Exception as failure:  # noqa: BLE001 - the thread must answer, whatever ``log`` raised
        answers.put(Outcome(witness, "", f"failed: {type(failure).__name__}"))


def _connect(url: str, timeout_s: float) -> tuple[http.client.HTTPConnection, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as cause:
        raise LedgerUnavailable("the witness's address is malformed") from cause
    if timeout_s <= 0:
        raise LedgerUnavailable("the time for asking is over")
    if host is None or parts.scheme not in ("http", "https"):
        raise LedgerUnavailable("a witness's address begins with http:// or https://")
    prefix = parts.path.rstrip("/")
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context), prefix
    return http.client.HTTPConnection(host, port, timeout=timeout_s), prefix


def _hang_up(connected: socket.socket) -> None:
    try:
        connected.shutdown(socket.SHUT_RDWR)
    except OSError:
        # It was closed in time.
        return


def _first_line(text: str) -> str:
    line = text.partition("\n")[0][:200]
    return line if line.isprintable() else "(unprintable)"
