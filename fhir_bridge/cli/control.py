"""Speak to the service: through its control socket while it runs, in this process when it does not.

Either way a command sends the same requests to the same application, so it
cannot tell the difference. The data directory's lock keeps the second way from
being taken beside a running service.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from fhir_bridge.cli.failing import FAILED, SETUP, Failure

# Linux keeps 108 bytes for the path of a socket, its closing NUL included; macOS keeps 104.
_SOCKET_PATH_MAX = 100
# A bundle of some ten thousand entries takes minutes on a slow machine; fsck and backups take longer and stream.
_TIMEOUT = httpx.Timeout(600.0, connect=5.0)


class Control:
    """The control API of one data directory.

    ``public`` reaches the public API of the same service when it runs in this
    process, and is None when it listens on an address of its own.
    """

    def __init__(self, client: httpx.AsyncClient, public: httpx.AsyncClient | None) -> None:
        self._client = client
        self.public = public

    async def get(self, path: str, **params: str | None) -> Any:
        """Return the JSON answer to a GET; parameters that are None are left out."""
        return (await self._send("GET", path, params=_given(params))).json()

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the JSON answer to a POST of a JSON body."""
        return (await self._send("POST", path, json=dict(body))).json()

    async def put_through(
        self, path: str, content: bytes, content_type: str = "application/fhir+json", **params: str | None
    ) -> Any:
        """Return the JSON answer to a POST of a message."""
        headers = {"Content-Type": content_type}
        return (await self._send("POST", path, params=_given(params), content=content, headers=headers)).json()

    async def text(self, path: str) -> str:
        """Return the text answer to a GET."""
        return (await self._send("GET", path)).text

    async def chunks(self, path: str) -> AsyncIterator[bytes]:
        """Yield the bytes of a long answer to a GET."""
        async with self._client.stream("GET", path, timeout=None) as response:
            await _check(response)
            async for chunk in response.aiter_bytes():
                yield chunk

    async def lines(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[str]:
        """Yield the lines of a long answer to a POST of a JSON body."""
        async with self._client.stream("POST", path, json=dict(body), timeout=None) as response:
            await _check(response)
            async for line in response.aiter_lines():
                if line.strip():
                    yield line

    async def _send(self, method: str, path: str, **rest: Any) -> httpx.Response:
        try:
            response = await self._client.request(method, path, **rest)
        except httpx.TransportError as error:
            raise Failure(f"the service went away ({type(error).__name__}); look at its log and try again") from error
        await _check(response)
        return response


class Refused(Failure):
    """The service said no; ``status`` is its HTTP status, ``retry_after_s`` says when to come back, if it does."""

    def __init__(self, message: str, *, status: int, retry_after_s: int | None, exit_code: int) -> None:
        super().__init__(message, exit_code=exit_code)
        self.status = status
        self.retry_after_s = retry_after_s


@asynccontextmanager
async def open_control(data: Path, *, port: int | None = None) -> AsyncIterator[Control]:
    """Open the control API of a data directory, which the caller has checked.

    Args:
        data: The directory.
        port: Port that the service is to think it listens on when it runs in this process.

    Raises:
        SetupWrong: Another process holds the directory and does not answer.
    """
    with reachable_socket(data / "control.sock") as path:
        if path is not None:
            transport = httpx.AsyncHTTPTransport(uds=path)
            async with httpx.AsyncClient(transport=transport, base_url="http://control", timeout=_TIMEOUT) as client:
                yield Control(client, None)
            return
    # Loads the whole service: only when there is none to speak to.
    from fhir_bridge.wiring import open_bridge

    async with open_bridge(data, port=port) as bridge:
        # The service's own answer to a fault of its own (500) tells more than the exception would.
        control = httpx.ASGITransport(app=bridge.control, raise_app_exceptions=False)
        public = httpx.ASGITransport(app=bridge.http, raise_app_exceptions=False)
        async with (
            httpx.AsyncClient(transport=control, base_url="http://control", timeout=_TIMEOUT) as client,
            httpx.AsyncClient(transport=public, base_url="http://service", timeout=_TIMEOUT) as entrance,
        ):
            yield Control(client, entrance)


class reachable_socket:
    """Give a path that leads to a listening socket and is short enough to connect to, or None.

    A path beyond what the system takes is reached through an open descriptor
    of its directory, which therefore stays open inside the ``with``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._directory: int | None = None

    def __enter__(self) -> str | None:
        path = str(self._path)
        if len(os.fsencode(path)) > _SOCKET_PATH_MAX and self._path.parent.is_dir():
            self._directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            path = f"/proc/self/fd/{self._directory}/{self._path.name}"
        return path if _answers(path) else None

    def __exit__(self, *_: object) -> None:
        if self._directory is not None:
            os.close(self._directory)


def _answers(path: str) -> bool:
    """Tell whether somebody listens; a socket file that a killed service left behind does not answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _given(params: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in params.items() if value is not None}


async def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    await response.aread()
    message = _diagnosis(response)
    retry = response.headers.get("Retry-After", "")
    raise Refused(
        message,
        status=response.status_code,
        retry_after_s=int(retry) if retry.isdigit() else None,
        exit_code=SETUP if response.status_code == 400 else FAILED,
    )


def _diagnosis(response: httpx.Response) -> str:
    """Return the words of an OperationOutcome, or the bare status."""
    try:
        issues = response.json()["issue"]
        words = [f"{i.get('diagnostics', i.get('code', 'refused'))}{_place(i)}" for i in issues]
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"the service answered {response.status_code} without saying why (look at its log)"
    return "; ".join(words)


def _place(issue: Mapping[str, Any]) -> str:
    expression = issue.get("expression") or []
    return f" at {expression[0]}" if expression else ""
