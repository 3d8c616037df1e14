"""An OpenTelemetry collector of our own: takes OTLP over HTTP on loopback and keeps what comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Value = str | int


@dataclass
class Collector:
    """What came, and how the next request is answered.

    Attributes:
        delay_s: Time to wait before an answer.
        requests: All that came, whatever they were and however answered.
    """

    url: str = ""
    status: int = 200
    delay_s: float = 0.0
    bodies: list[bytes] = field(default_factory=list)
    requests: int = 0

    @property
    def spans(self) -> list[Span]:
        """Every span that came, in the order in which they ended."""
        return [
            span
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def wait_until(self, holds: Callable[[Collector], bool], within_s: float = 60.0) -> None:
        """Wait until something holds of what came; a sender sends now and then, and at its end not for long."""
        deadline = time.monotonic() + within_s
        while not holds(self):
            assert time.monotonic() < deadline, f"{self.requests} requests, {sorted({e.name for e in self.spans})}"
            time.sleep(0.02)

    def trace_of(self, name: str) -> list[Span]:
        """Return the trace that begins with the one span of this name."""
        (first,) = [each for each in self.spans if each.name == name]
        return [each for each in self.spans if each.trace_id == first.trace_id]


def tree(spans: list[Span]) -> list[tuple[str, str]]:
    """Return each span's name and its parent's, empty for a parent that is elsewhere; in no order."""
    names = {each.span_id: each.name for each in spans}
    return sorted((each.name, names.get(each.parent_span_id, "")) for each in spans)


def told(span: Span) -> dict[str, Value]:
    """Return a span's attributes."""
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.requests += 1
            body = self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(collector.delay_s)
            if collector.status == 200 and self.path == "/v1/traces":
                collector.bodies.append(body)
            self.send_response(collector.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
