"""HAPI FHIR's JPA server in a process of its own, to be asked what our service is asked.

Its jars and its compiled launcher are in ``.build/hapi`` (``make hapi``).
Anything missing is a failure with the command that mends it; no test is
skipped for it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / ".build" / "hapi"
IN_MEMORY = ("jdbc:h2:mem:hapi;DB_CLOSE_DELAY=-1", "sa")
START_LIMIT_S = 300.0
ANSWER_LIMIT_S = 300.0
_POLL_S = 0.1
_JSON = "application/fhir+json"


class HapiMissing(RuntimeError):
    """Java or HAPI's jars are not there; the message says how to get them."""


class Hapi:
    """One server on loopback."""

    def __init__(self, log: Path, database: tuple[str, str], heap: str, *options: str) -> None:
        """Find what is needed; start nothing.

        Raises:
            HapiMissing: Java or the jars are not there.
        """
        self.port = free_port()
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._command = [_java(), f"-Xmx{heap}", *options, "-cp", f"{PLACE}/classes:{PLACE}/lib/*", "HapiBesideUs"]
        self._command += [str(self.port), *database]
        self.http = httpx.Client(base_url=f"{self.base_url}/", timeout=ANSWER_LIMIT_S, trust_env=False)

    @property
    def base_url(self) -> str:
        """Its FHIR base."""
        return f"http://127.0.0.1:{self.port}/fhir"

    @property
    def pid(self) -> int:
        """The process that serves."""
        assert self._process is not None
        return self._process.pid

    def launch(self) -> None:
        """Start the process and wait for nothing."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)

    def wait_ready(self) -> None:
        """Wait until it serves."""
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            assert self._process is not None
            said = self.log.read_text(errors="replace")
            if self._process.poll() is not None:
                raise RuntimeError(f"HAPI ended at once: {said[-2000:]}")
            if f"serving on port {self.port}" in said:
                return
            time.sleep(_POLL_S)
        raise RuntimeError(f"HAPI was not ready within {START_LIMIT_S:.0f} s: {self.log.read_text()[-2000:]}")

    def close(self) -> None:
        """End the process; its data is only as lasting as the database it was given."""
        self.http.close()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(30)

    def load(self, resources: Sequence[Mapping[str, Any]]) -> None:
        """Store resources under their own ids in one transaction; fails if one of them is refused."""
        entries = [
            {"resource": each, "request": {"method": "PUT", "url": f"{each['resourceType']}/{each['id']}"}}
            for each in resources
        ]
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
        answer = self.http.post("", content=json.dumps(bundle).encode(), headers={"Content-Type": _JSON})
        if answer.status_code != 200:
            raise RuntimeError(f"HAPI answered a transaction with {answer.status_code}: {answer.text[:2000]}")

    def get(self, path: str) -> httpx.Response:
        """GET below the base, whatever the answer; a ``next`` link may be given whole."""
        query = urlsplit(path)
        relative = path if not query.netloc else f"?{query.query}"
        return self.http.get(relative, headers={"Cache-Control": "no-cache"})


@contextmanager
def hapi(
    folder: Path, *, database: tuple[str, str] = IN_MEMORY, heap: str = "1g", options: Sequence[str] = ()
) -> Iterator[Hapi]:
    """Launch a server and yield at once: whoever asks it something waits with :meth:`Hapi.wait_ready`."""
    server = Hapi(folder / "hapi.log", database, heap, *options)
    try:
        server.launch()
        yield server
    finally:
        server.close()


def _java() -> str:
    if not (PLACE / "classes" / "HapiBesideUs.class").exists():
        raise HapiMissing("HAPI is not here: run `make hapi`")
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java") or (shutil.which("java", path=f"{home}/bin") if home else None)
    if java is None:
        raise HapiMissing("there is no Java here: run `make hapi`, or install a Java runtime of 17 or later")
    return java
