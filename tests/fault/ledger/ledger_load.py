"""Writers that keep a ledger busy, and the question whether what it promised them still stands.

For tests that hurt the ledger: loss of power, kill -9, a disk that is full. The
writers share one signer, so a nonce that does not go on shows as a refusal.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from ledger_core import (
    Accepted,
    Anchor,
    Genesis,
    Identity,
    Ledger,
    LedgerUnavailable,
    OpenPath,
    Restrict,
    envelope_digest,
    open_ledger,
    run_fsck,
)
from ledger_core.stores.files import Connect, connect_file
from ledger_core.transactions import Payload

OPERATOR: Final = Identity.from_private_bytes(b"\1" * 32)
LOG_KEY: Final = Identity.from_private_bytes(b"\5" * 32)
GENESIS: Final = Genesis("fault.example/ledger", OPERATOR.public)
NAME: Final = "ledger.db"
ANSWER_LIMIT_S: Final = 60.0

Tell = Callable[[object], None]


def open_in(folder: Path, *, connect: Connect = connect_file, max_block: int = 512) -> Ledger:
    """Open the ledger of a folder, or begin it."""
    return open_ledger(folder / NAME, log_identity=LOG_KEY, genesis=GENESIS, connect=connect, max_block=max_block)


class Writer:
    """Submits transactions that change log and state, and tells what was acknowledged."""

    def __init__(self, ledger: Ledger, rng: random.Random, tell: Tell) -> None:
        self._ledger, self._rng, self._tell = ledger, rng, tell
        self._path, self._counter = b"", 0

    def submit(self) -> Future[Accepted]:
        """Sign and queue one transaction."""
        return self._ledger.send(self.payload(), OPERATOR)

    def payload(self) -> Payload:
        """Return what to submit next: an anchor, a new path, or a change of its list."""
        draw = self._rng.random()
        if draw < 0.5:
            return Anchor(self._rng.randbytes(32), 1)
        if draw < 0.6 or not self._path:
            self._path, self._counter = self._rng.randbytes(32), 0
            return OpenPath(self._path, OPERATOR.public, bytes(32))
        self._counter += 1
        return Restrict(self._path, self._counter, self._rng.randbytes(32))

    def run(self, number: int) -> None:
        """Submit ``number`` transactions a few at a time; stop quietly where the ledger stops."""
        waiting: list[Future[Accepted]] = []
        try:
            for _ in range(number):
                waiting.append(self.submit())
                if len(waiting) >= self._rng.randint(1, 4):
                    self._tell(waiting.pop(0).result(ANSWER_LIMIT_S))
            for each in waiting:
                self._tell(each.result(ANSWER_LIMIT_S))
        except LedgerUnavailable:
            return


def drive(ledger: Ledger, rng: random.Random, tell: Tell, *, writers: int, each: int) -> list[str]:
    """Run several writers and a reader of checkpoints to their end; return what went wrong in them."""
    problems: list[str] = []
    done = threading.Event()

    def write(seed: int) -> None:
        try:
            Writer(ledger, random.Random(seed), tell).run(each)
        except Exception as error:
            problems.append(f"a writer met {error!r}")

    def read() -> None:
        while not done.is_set():
            tell(ledger.checkpoint())
            time.sleep(0.002)

    threads = [threading.Thread(target=write, args=(rng.getrandbits(64),)) for _ in range(writers)]
    reader = threading.Thread(target=read)
    for thread in (reader, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reader.join()
    return problems


def broken_promises(folder: Path, told: Iterable[object], *, submits: bool = True) -> list[str]:
    """Open the ledger of ``folder`` with the everyday driver and say which promise it breaks, if any.

    Args:
        folder: Holds the ledger as the fault left it.
        told: What the ledger said before: acknowledgements, and checkpoints in the order they were seen.
        submits: Whether to submit once more, which takes the nonce of an envelope that never arrived.
    """
    accepted = [item for item in told if isinstance(item, Accepted)]
    checkpoints = [item for item in told if isinstance(item, str)]
    try:
        with open_in(folder) as ledger:
            problems = [*lost(ledger, accepted), *_doubled(ledger), *(_stuck(ledger) if submits else [])]
        outside = checkpoints[-1] if checkpoints else None
        findings = [f"fsck: {item.where}: {item.what}" for item in run_fsck(folder / NAME, checkpoint=outside)]
    except Exception as error:
        return [f"does not open: {error!r}"]
    return [*problems, *findings]


def lost(ledger: Ledger, accepted: Iterable[Accepted]) -> list[str]:
    """Say which acknowledged entries are not where they were acknowledged."""
    problems = []
    for item in accepted:
        if item.index >= ledger.size:
            problems.append(f"acknowledged entry {item.index} is lost")
        elif envelope_digest(ledger.entry(item.index)) != item.digest:
            problems.append(f"acknowledged entry {item.index} is another now")
    return problems


def _doubled(ledger: Ledger) -> list[str]:
    times = Counter(envelope_digest(row.entry) for row in ledger.entries())
    return [f"{digest.hex()} is there {count} times" for digest, count in times.items() if count > 1]


def _stuck(ledger: Ledger) -> list[str]:
    """Submit once more: the nonce must go on where the survivors left it."""
    size = ledger.size
    accepted = ledger.send(Anchor(bytes(32), 1), OPERATOR).result(ANSWER_LIMIT_S)
    return [] if accepted.index == size and not accepted.is_repeat else [f"the next entry got {accepted.index}"]
