"""A process that writes to a ledger until it is killed, and tells its parent what it sent and what was acknowledged.

It tells each envelope before it submits it. The next process submits the same bytes
again where no acknowledgement was heard, as users are told to do after a crash.

Made by a fork server, so that a life costs milliseconds and 500 of them minutes.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from ledger_core import Accepted, Ledger
from tests.fault.ledger.ledger_load import ANSWER_LIMIT_S, OPERATOR, Tell, Writer, lost, open_in

WRITERS = 4


def context() -> ForkServerContext:
    """Return a context whose children find this module already loaded."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([__name__])
    return found


class Child:
    """One such process, and all it has told so far."""

    def __init__(
        self, server: ForkServerContext, folder: Path, told: list[Accepted], unanswered: list[bytes], seed: int
    ) -> None:
        self.told: list[object] = []
        self.spoke = threading.Event()
        receiver, sender = server.Pipe(duplex=False)
        task = (folder, told, unanswered, seed, sender)
        self._process: BaseProcess = server.Process(target=write_until_killed, args=task)
        self._process.start()
        sender.close()
        self._listener = threading.Thread(target=self._listen, args=(receiver,))
        self._listener.start()

    def kill(self) -> int | None:
        """End it as loss of the process would, hear it out, and return its exit code."""
        self._process.kill()
        self._process.join()
        self._listener.join()
        return self._process.exitcode

    def _listen(self, receiver: Connection) -> None:
        # A message cut in the middle is one that nobody heard.
        try:
            while True:
                self.told.append(receiver.recv())
                self.spoke.set()
        except (EOFError, OSError):
            receiver.close()


def write_until_killed(
    folder: Path, told: list[Accepted], unanswered: list[bytes], seed: int, sender: Connection
) -> None:
    """Open, look for what was acknowledged, submit again what was not, and go on from several threads for ever."""
    mutex, order = threading.Lock(), threading.Lock()

    def tell(what: object) -> None:
        with mutex:
            sender.send(what)

    try:
        ledger = open_in(folder)
        problems = lost(ledger, told)
        tell("opened" if not problems else f"broken: {problems}")
        for future in [ledger.submit(envelope) for envelope in unanswered]:
            tell(future.result(ANSWER_LIMIT_S))
        threads = [
            threading.Thread(target=_write, args=(ledger, random.Random(seed + number), tell, order))
            for number in range(WRITERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as error:
        tell(f"broken: {error!r}")
        os._exit(1)


def _write(ledger: Ledger, rng: random.Random, tell: Tell, order: threading.Lock) -> None:
    writer = Writer(ledger, rng, tell)
    try:
        while True:
            with order:
                envelope = ledger.sign(writer.payload(), OPERATOR)
                tell(envelope)
                future = ledger.submit(envelope)
            tell(future.result(ANSWER_LIMIT_S))
    except BaseException as error:
        tell(f"broken: {error!r}")
        os._exit(1)
