"""Serve a bridge: the public port, the operator's socket, the metrics; signals, and an orderly end.

Invariants:
    * addresses are taken before anything is opened or made; a process that stood by holds the directory by then;
    * SIGTERM and SIGINT drain: nothing that was taken is left half done.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import uvicorn

from fhir_bridge import telemetry
from fhir_bridge.adapters.datadir import DataDirectory
from fhir_bridge.errors import DataDirectoryInUse, SetupWrong
from fhir_bridge.settings import ServiceSettings
from fhir_bridge.wiring import Bridge, check_settings, open_bridge

_LOOK_S = 0.1
_HANDOVER_S = 30.0
"""An ending process may let go of its addresses a little later than of its data directory."""


def serve(data: Path, port: int, kafka: str | None = None, *, standby: bool = False) -> int:
    """Serve until SIGTERM or SIGINT, then drain; return the exit code.

    Args:
        standby: Wait as long as another process serves the directory, and take over when it has ended, however it
            ended: a newer version stands by before the older one is stopped, or a spare one in case.

    Raises:
        SetupWrong: The address or the data directory cannot be used.
    """
    settings = ServiceSettings()
    telemetry.configure(settings.log_level)
    if not standby:
        return _serve_once(data, port, kafka, settings, None)
    # What would be refused at the takeover is refused while the other still serves.
    check_settings(data, kafka)
    directory = _await_turn(data)
    return 0 if directory is None else _serve_once(data, port, kafka, settings, directory)


def _serve_once(
    data: Path, port: int, kafka: str | None, settings: ServiceSettings, directory: DataDirectory | None
) -> int:
    patience_s = 0.0 if directory is None else _HANDOVER_S
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(_listening(settings.host, port, "--port", patience_s))
        measured = None
        if settings.metrics_port:
            # Loopback whatever the host of the rest: the page is for operators (docs/operating.md).
            where = ("127.0.0.1", settings.metrics_port, "FHIR_BRIDGE_METRICS_PORT")
            measured = stack.enter_context(_listening(*where, patience_s))
        bridge = open_bridge(data, port=port, kafka=kafka, directory=directory)
        return asyncio.run(_serve(data, bridge, listening, measured, port, kafka, settings.drain_notice_s))


def _await_turn(data: Path) -> DataDirectory | None:
    """Wait until nobody else holds the directory, and hold it; None if this process is asked to end meanwhile."""
    # No threading.Event: a handler runs on this very thread, which may hold the lock that set() takes.
    asked: list[int] = []
    before = {
        name: signal.signal(name, lambda *got: asked.append(got[0])) for name in (signal.SIGTERM, signal.SIGINT)
    }
    is_told = False
    try:
        while not asked:
            try:
                directory = DataDirectory(data)
            except DataDirectoryInUse:
                if not is_told:
                    telemetry.logger("serve").info("standing by")
                is_told = True
                time.sleep(_LOOK_S)
                continue
            if not asked:
                return directory
            directory.close()
        return None
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


async def _serve(
    data: Path,
    opening: AbstractAsyncContextManager[Bridge],
    public_socket: socket.socket,
    metrics_socket: socket.socket | None,
    port: int,
    kafka: str | None,
    notice_s: float,
) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    async with opening as bridge:
        _spare_the_collector()
        public = _Server(uvicorn.Config(bridge.http, **_UVICORN))
        control = _Server(uvicorn.Config(bridge.control, **_UVICORN))
        listening = _owners_socket(data)
        tasks = [asyncio.create_task(control.serve(sockets=[listening]))]
        await _started(control, tasks[0])
        tasks.append(asyncio.create_task(public.serve(sockets=[public_socket])))
        await _started(public, tasks[1])
        servers = [public, control]
        if metrics_socket is not None:
            servers.append(_Server(uvicorn.Config(bridge.metrics, **_UVICORN)))
            tasks.append(asyncio.create_task(servers[-1].serve(sockets=[metrics_socket])))
            await _started(servers[-1], tasks[-1])
        telemetry.logger("serve").info("serving", port=port, bus="kafka" if kafka else "spool")
        waiting = [asyncio.create_task(stopping.wait()), asyncio.create_task(bridge.standing.fallen())]
        await asyncio.wait([*waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        bridge.standing.leave()
        if bridge.standing.is_sound:
            await asyncio.sleep(notice_s)
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        (data / "control.sock").unlink(missing_ok=True)
    telemetry.logger("serve").info("drained" if bridge.standing.is_sound else "stopped after a failure")
    return 0 if bridge.standing.is_sound else 1


def _spare_the_collector() -> None:
    """Keep the cyclic collector from walking again and again what only grows: definitions, opened index rows.

    With the defaults it was 100 of the 260 ms that the first answer about a chart took (2026-11). What
    answering leaves behind is freed by its reference counts. The command has set wide thresholds when it began.
    """
    gc.collect()
    gc.freeze()


class _Server(uvicorn.Server):
    """A server whose signals are handled by ``serve``, once for both sockets."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


_UVICORN: dict[str, Any] = {
    "log_config": None,
    "access_log": False,
    "server_header": False,
    # Not httptools, if it is there: it loses a body behind an offer of HTTP/2 and bounds neither heads nor trailers.
    "http": "h11",
    "ws": "none",
    "proxy_headers": False,
    "timeout_graceful_shutdown": 10,
    # Longer than clients keep an idle connection (5 s is usual): else both let go at once and a request is lost.
    "timeout_keep_alive": 65,
}


async def _started(server: uvicorn.Server, task: asyncio.Task[None]) -> None:
    while not server.started:
        if task.done():
            await task
            raise SystemExit(2)
        await asyncio.sleep(0.01)


def _listening(host: str, port: int, setting: str, patience_s: float) -> socket.socket:
    """Take a TCP address before anything is opened or made; wait so long for who has it.

    The protocol is named because asyncio turns Nagle's algorithm off only for sockets that name it; with it, an
    answer in two parts waits 40 ms for the client's delayed acknowledgement.

    Raises:
        SetupWrong: Another process listens there, or this one may not.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
            )[0]
            listening = socket.socket(family, kind, protocol)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(2048)
            return listening
        except (OSError, OverflowError) as wrong:
            if getattr(wrong, "errno", None) == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(_LOOK_S)
                continue
            reason = getattr(wrong, "strerror", None) or str(wrong)
            raise SetupWrong(f"cannot listen on {host}:{port} ({reason}): choose another {setting}") from wrong


def _owners_socket(data: Path) -> socket.socket:
    """Listen on ``control.sock``, which only its owner may open.

    A path beyond the 107 bytes that the system takes is reached through a descriptor of its directory.
    """
    path = data / "control.sock"
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with _umask(0o177):
            listening.bind(f"/proc/self/fd/{directory}/control.sock")
    finally:
        os.close(directory)
    listening.listen(128)
    return listening


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
