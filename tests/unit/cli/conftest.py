"""A service to speak to: real HTTP over a real control socket, with answers that a test decides."""

from __future__ import annotations

import gc
import json
import socketserver
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest


@dataclass(frozen=True)
class Call:
    """A request as it arrived."""

    method: str
    path: str
    params: dict[str, str]
    body: bytes
    content_type: str = ""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = Callable[[Call], tuple[int, Any]]


@dataclass
class Service:
    """What listens on the control socket of ``data``."""

    data: Path
    calls: list[Call] = field(default_factory=list)
    answer: Answer = field(default=lambda call: (200, {}))
    headers: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "VERSION").write_text("1")
    return directory


@pytest.fixture
def service(data: Path) -> Iterator[Service]:
    with listening(data) as found:
        yield found


class listening:
    """Listen on ``data``/control.sock inside the ``with``."""

    def __init__(self, data: Path) -> None:
        self._service = Service(data)

    def __enter__(self) -> Service:
        service = self._service

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                address = urlsplit(self.path)
                params = {name: values[0] for name, values in parse_qs(address.query).items()}
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                kind = self.headers.get("Content-Type", "")
                call = Call(self.command, address.path, params, body, kind)
                service.calls.append(call)
                status, answer = service.answer(call)
                raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in service.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = handle_any

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A command that ended closes its connections; that is no error of the stand-in."""

        self._server = Server(str(service.data / "control.sock"), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return service

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        # A command that ends while it connects leaves the half-made connection's socket to the collector (httpx
        # 0.28, anyio); collected here, it is not charged to the test that happens to run next.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
