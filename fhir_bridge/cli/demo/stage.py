"""Where the story plays: the service as a process of its own, reached by command line and HTTP only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from fhir_bridge.cli.failing import SETUP, Failure

_READY_S = 60.0
_STOP_S = 40.0


class Stage:
    """A data directory, the service over it, and ways to call both.

    Everything a scene does goes through :meth:`command` (what a person would
    type) or :meth:`ask` (what a client would send).
    """

    def __init__(self, data: Path, port: int, log: Path) -> None:
        self.data = data
        self.port = port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(base_url=self.url, timeout=120.0, trust_env=False)

    # --- the service

    def start(self) -> None:
        """Start the service and wait until it is ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [*_PROGRAM, "serve", "--data", str(self.data), "--port", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C reaches the story alone, which then stops the service in good order.
                start_new_session=True,
            )
        deadline = time.monotonic() + _READY_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"the service did not start: {_last_line(self.log)} (its log: {self.log})")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the service and wait until it has ended."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def wait(self) -> None:
        """Wait until the service ends by itself."""
        if self._process is not None:
            self._process.wait()

    # --- calls

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command of the public command line; the caller waits for it."""
        return subprocess.Popen(  # noqa: S603 - our own program
            [*_PROGRAM, *arguments, "--data", str(self.data)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def command(self, *arguments: str, expect: int = 0) -> str:
        """Run a command and return what it printed.

        Raises:
            Failure: It ended with another exit code than expected.
        """
        return finish(self.begin(*arguments), arguments, expect)

    def verify(self, receipt: Path, record: Path, policy: Path) -> str:
        """Run the offline verifier, which needs no data directory, and return what it printed."""
        done = subprocess.run(  # noqa: S603 - our own program
            [*_PROGRAM, "verify", str(receipt), "--record", str(record), "--policy", str(policy)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Failure(f"a receipt did not verify: {' '.join(done.stdout.split())}")
        return done.stdout

    def ask(self, method: str, path: str, token: str, **rest: Any) -> httpx.Response:
        """Send a request with a bearer token; its status must be a success."""
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/fhir+json"}
        response = self._client.request(method, path, headers=headers, **rest)
        if not response.is_success:
            raise Failure(f"{method} {path.split('?')[0]} was answered {response.status_code} (log: {self.log})")
        return response

    def _is_ready(self) -> bool:
        try:
            return self._client.get("/health/ready").is_success
        except httpx.TransportError:
            return False


def finish(process: subprocess.Popen[str], arguments: tuple[str, ...], expect: int = 0) -> str:
    """Wait for a command and return what it printed.

    Raises:
        Failure: It ended with another exit code than expected.
    """
    output, errors = process.communicate()
    if process.returncode != expect:
        reason = (errors.strip().splitlines() or output.strip().splitlines() or ["it said nothing"])[-1]
        what = " ".join(arguments[:2])
        raise Failure(f"'{what}' ended with {process.returncode}: {reason.removeprefix('error: ')}")
    return output


_PROGRAM = (sys.executable, "-m", "fhir_bridge.cli.main")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


def new_directory(data: Path) -> Path:
    """Return the data directory to use, which must not hold anything yet."""
    if data.exists() and any(data.iterdir()):
        raise Failure(f"{data} is not empty (the story needs a new directory)", exit_code=SETUP)
    os.makedirs(data, mode=0o700, exist_ok=True)
    return data.absolute()
