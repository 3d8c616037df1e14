"""HTTP/1.1 off the wire by llhttp, made to lose nothing where a client offers another protocol.

RFC 9110 section 7.8 lets a server ignore ``Upgrade``, and clients offer HTTP/2
on every request (``Upgrade: h2c``; Java's own client does). llhttp takes what
follows such a head for the other protocol, and a body would be lost. So heads
are looked at before llhttp sees them, and the offer is taken out.

Invariants:
    * no request is served whose body llhttp did not read;
    * a head longer than MAX_HEAD is refused, and no more of it is kept.
"""

from __future__ import annotations

import re
from typing import Any, Final

from httptools import HttpParserError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD: Final = 64 << 10
"""Bytes that request line and header fields may have together."""

_END: Final = re.compile(rb"\r?\n\r?\n")
_OFFER: Final = re.compile(rb"(?im)^(?:upgrade|http2-settings)[ \t]*:[^\n]*\n")


class HttpProtocol(HttpToolsProtocol):
    """One connection; for ``uvicorn.Config(http=HttpProtocol)``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_in_head = True
        self._head = b""

    def data_received(self, data: bytes) -> None:
        """Hold a head back until it is whole, and take an offer of another protocol out of it."""
        if self._is_in_head:
            self._unset_keepalive_if_required()
            data = self._head + data
            end = _END.search(data)
            if (len(data) if end is None else end.start()) > MAX_HEAD:
                self.send_400_response("The head of the request is too long.")
                return
            if end is None:
                self._head = data
                return
            self._head = b""
            data = _OFFER.sub(b"", data[: end.end()]) + data[end.end() :]
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """Serve the request, unless another one came in front of it and its own offer was not seen."""
        if self.parser.should_upgrade():
            raise HttpParserError("what follows this head would not be read")
        self._is_in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect a head next."""
        self._is_in_head = True
        super().on_message_complete()
