"""A witness behind HTTP: ``add-checkpoint`` and the newest checkpoints, nothing else.

C2SP tlog-witness with one prefix for both. There is no authentication but the log's
signature in what is submitted. Requests are small, bounded and answered by one thread
each; on the open internet put a proxy with TLS and rate limits before it.

Invariant: a connection holds its place for one deadline to bring a whole request and
one to take the answer, however its bytes are spread over them.

    POST /add-checkpoint            cosignature lines
    GET  /<origin hash>/checkpoint  the newest cosigned checkpoint of a log
    GET  /                          name, role and verifier keys of this witness
"""

import io
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final

from ledger_core.errors import LedgerError
from ledger_core.witness.core import MAX_BODY_BYTES
from ledger_core.witness.service import TEXT, Response, Witness

REQUEST_TIMEOUT_S: Final = 10.0
MAX_CONNECTIONS: Final = 64

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_CHECKPOINT = re.compile(r"/([0-9a-f]{64})/checkpoint")


class WitnessServer(ThreadingHTTPServer):
    """Listens from the moment it is made; ``serve_forever`` answers, ``shutdown`` ends that."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(
        self, address: tuple[str, int], witness: Witness, *, request_timeout_s: float = REQUEST_TIMEOUT_S
    ) -> None:
        """Listen.

        Args:
            address: Host and port; 0 for any free one.
            witness: Who answers.
            request_timeout_s: For the whole of a request, from waiting for it to its last byte;
                and again for its answer.
        """
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.witness, self.request_timeout_s = witness, request_timeout_s
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Answer in a thread of its own, or hang up when too many are being answered."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that breaks is the caller's affair; it leaves no trace here."""


class _Bounded(io.RawIOBase):
    """The bytes of a connection until a deadline. A socket's own time-out bounds each read, not their sum."""

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        self._connection, self._timeout_s = connection, timeout_s
        self._deadline = 0.0

    def begin(self) -> None:
        """Grant the whole time again."""
        self._deadline = time.monotonic() + self._timeout_s

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        self._limit()
        return self._connection.recv_into(buffer)

    def write(self, content: "ReadableBuffer") -> int:
        self._limit()
        return self._connection.send(content)

    def _limit(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)


class _Handler(BaseHTTPRequestHandler):
    server: WitnessServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "witness", ""
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._bytes = _Bounded(self.connection, self.server.request_timeout_s)
        self.rfile.close()
        self.rfile = io.BufferedReader(self._bytes)
        # Headers and body leave in one segment.
        self.wfile = io.BufferedWriter(self._bytes)

    def handle_one_request(self) -> None:
        self._bytes.begin()
        super().handle_one_request()

    def do_POST(self) -> None:
        if self.path != "/add-checkpoint":
            self._answer(Response(404, TEXT, "there is only add-checkpoint\n"))
            return
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") is not None or not re.fullmatch(r"[0-9]{1,9}", length):
            self._answer(Response(411, TEXT, "a plain body with its length is needed\n"), is_last=True)
            return
        if int(length) > MAX_BODY_BYTES:
            self._answer(Response(413, TEXT, "the body is too long\n"), is_last=True)
            return
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            return
        try:
            response = self.server.witness.add_checkpoint(body)
        except LedgerError as failure:
            response = Response(503, TEXT, f"{failure.code}\n")
        self._answer(response)

    def do_GET(self) -> None:
        found = _CHECKPOINT.fullmatch(self.path)
        try:
            if found is not None:
                self._answer(self.server.witness.newest(found[1]))
            elif self.path == "/":
                home = self.server.witness.home
                lines = [f"{home.name} ({home.role})", *home.vkeys()]
                self._answer(Response(200, TEXT, "\n".join(lines) + "\n"))
            else:
                self._answer(Response(404, TEXT, "nothing here\n"))
        except LedgerError as failure:
            self._answer(Response(503, TEXT, f"{failure.code}\n"))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: addresses of callers are nobody's business; refusals are reported elsewhere."""

    def _answer(self, response: Response, *, is_last: bool = False) -> None:
        self._bytes.begin()
        body = response.body.encode()
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(body)))
        if response.status == 503:
            self.send_header("Retry-After", "5")
        if is_last:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
