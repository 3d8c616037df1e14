"""Ports on loopback for servers that are started a moment later, while other processes of the suite take theirs.

They lie below those that systems give to clients (Linux 32768 and up, elsewhere 49152), so that no client's own end
takes one meanwhile; and each process of pytest-xdist draws from a share of its own.
"""

from __future__ import annotations

import os
import random
import socket

_FIRST, _END = 12_000, 32_000
_SHARES = 10
_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on and that this process has not given before.

    Raises:
        RuntimeError: There are none.
    """
    lane = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _SHARES
    share = range(_FIRST + lane, _END, _SHARES)
    # Not the generator that pytest-randomly seeds: suites beside each other would draw the same ports.
    drawn = random.SystemRandom().sample(share, len(share))
    found = [port for port in drawn if port not in _given]
    chosen: list[int] = []
    while len(chosen) < count:
        if not found:
            raise RuntimeError("no free port is left")
        port = found.pop()
        if _is_free(port):
            chosen.append(port)
    _given.update(chosen)
    return chosen


def free_port() -> int:
    """Return one such port."""
    return free_ports(1)[0]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
