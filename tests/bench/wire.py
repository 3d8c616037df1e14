"""A plain HTTP client on one kept-alive connection: what it costs itself must not show in the numbers."""

from __future__ import annotations

import http.client
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer with the seconds from the first byte sent to the last received."""

    status: int
    body: bytes = field(repr=False)
    seconds: float


Connect = Callable[[], http.client.HTTPConnection]


def over_tcp(port: int) -> Connect:
    """Return what connects to a port of this machine."""

    def connect() -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    return connect


def over_socket(path: Path) -> Connect:
    """Return what connects to a Unix socket."""

    def connect() -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("control", timeout=_TIMEOUT_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(_TIMEOUT_S)
        connection.sock.connect(str(path))
        return connection

    return connect


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes | None = None,
) -> Answer:
    """Send one request, read the whole answer, and insist on success."""
    started = time.perf_counter()
    connection.request(method, path, body, dict(headers))
    answer = connection.getresponse()
    content = answer.read()
    seconds = time.perf_counter() - started
    if not 200 <= answer.status < 300:
        raise RuntimeError(f"{method} {path.partition('?')[0]}: {answer.status} {content[:300]!r}")
    return Answer(answer.status, content, seconds)


def post_all(
    connect: Connect,
    path: str,
    headers: Mapping[str, str],
    messages: Sequence[bytes],
    *,
    in_flight: int,
    per_s: float | None = None,
) -> list[Answer]:
    """Post messages in their order, several in flight, each again as soon as one is answered.

    Args:
        per_s: Send at this rate instead, whatever the answers do; the time of each then
            counts from the moment it was due, so that a queue cannot hide.
    """
    waiting: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
    for item in enumerate(messages):
        waiting.put(item)
    answers: list[Answer | None] = [None] * len(messages)
    failures: list[BaseException] = []
    started = time.perf_counter()

    def work() -> None:
        try:
            connection = connect()
            while not failures:
                number, message = waiting.get_nowait()
                due = None if per_s is None else started + number / per_s
                time.sleep(max(0.0, due - time.perf_counter()) if due is not None else 0.0)
                late = max(0.0, time.perf_counter() - due) if due is not None else 0.0
                answer = ask(connection, "POST", path, headers, message)
                answers[number] = Answer(answer.status, answer.body, answer.seconds + late)
        except queue.Empty:
            pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [answer for answer in answers if answer is not None]


def entry_count(answers: Sequence[Answer]) -> int:
    """Return how many resources the control API says were taken; fails if any was refused."""
    taken = 0
    for answer in answers:
        summary = json.loads(answer.body)
        if summary["refused"]:
            raise RuntimeError(f"refused: {summary['refused'][:2]}")
        taken += sum(summary["outcomes"].values())
    return taken
