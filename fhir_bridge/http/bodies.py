"""Request bodies: as sent or compressed with gzip or zstd, under one limit of bytes for what they hold.

Whatever a body claims to be, reading stops as soon as more than the limit has
come out of it, so that a small body cannot become a large one in memory. It
stops too when the time for a body is over, so that a sender who dribbles does
not hold what has come for ever.

Standards: RFC 9110 section 8.4 (Content-Encoding), 12.5.3 (Accept-Encoding in a
415), 15.5.9 (408); RFC 1952 (gzip, several members too); RFC 8878 (zstd, windows up to 8 MiB).
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import zstandard
from fastapi import Request

from fhir_bridge.errors import CodingUnsupported, Issue, MessageLate, MessageTooLong, RecordRefused
from fhir_bridge.http.caller import services_of

CODINGS: Final = ("gzip", "zstd")
_GZIP = 16 + zlib.MAX_WBITS
_WINDOW_BYTES = 8 << 20
_STEP_BYTES = 512
"""So few compressed bytes at a time: a block of zstd takes four of them and may hold 128 KiB."""
_MOST_MEMBERS = 1_000


async def body_of(request: Request, limit: int) -> bytes:
    """Return what a request's body holds, decompressed.

    Raises:
        MessageTooLong: More than ``limit`` bytes.
        MessageLate: It did not come whole in time.
        CodingUnsupported: Another Content-Encoding than one of :data:`CODINGS`, or several.
        RecordRefused: The body is not what its Content-Encoding says, or breaks off.
    """
    coding = ",".join(request.headers.getlist("content-encoding")).strip().lower().removeprefix("x-")
    if coding in ("", "identity"):
        body = await read_body(request, limit)
    elif coding in CODINGS:
        sent = await read_body(request, limit)
        body = None if sent is None else await asyncio.to_thread(_decompressed, coding, sent, limit)
    else:
        problem = f"send the body as it is, or with one Content-Encoding of {', '.join(CODINGS)}"
        raise CodingUnsupported([Issue("error", "not-supported", problem)])
    if body is None:
        raise MessageTooLong([Issue("error", "too-long", f"a message may hold at most {limit} bytes")])
    return body


async def read_body(request: Request, limit: int) -> bytes | None:
    """Return a request's body as it came; None as soon as more than ``limit`` bytes of it have come.

    Raises:
        MessageLate: It did not come whole in time.
    """
    received, seconds = bytearray(), services_of(request).max_body_s
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                received += chunk
                if len(received) > limit:
                    return None
    except TimeoutError:
        problem = f"a body must come whole within {seconds} seconds; send less at once, or compressed"
        raise MessageLate([Issue("error", "timeout", problem)]) from None
    return bytes(received)


def _decompressed(coding: str, sent: bytes, limit: int) -> bytes | None:
    found = bytearray()
    try:
        for piece in _pieces(sent, _gzip if coding == "gzip" else _zstd):
            found += piece
            if len(found) > limit:
                return None
    except (zlib.error, zstandard.ZstdError, EOFError):
        problem = f"the body is not {coding}, or not all of it: Content-Encoding must say how it is compressed"
        raise RecordRefused([Issue("error", "structure", problem)]) from None
    return bytes(found)


def _pieces(sent: bytes, begin: Callable[[], _Member]) -> Iterator[bytes]:
    """Decompress a body of one or more members (gzip) or frames (zstd), a step of it at a time.

    Raises:
        EOFError: It breaks off, or holds more members than anybody needs.
    """
    at = 0
    for _ in range(_MOST_MEMBERS):
        member = begin()
        while not member.eof:
            step = sent[at : at + _STEP_BYTES]
            if not step:
                raise EOFError
            at += len(step)
            yield member.decompress(step)
        at -= len(member.unused_data)
        if at == len(sent):
            return
    raise EOFError


def _gzip() -> _Member:
    return zlib.decompressobj(_GZIP)


def _zstd() -> _Member:
    return zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompressobj()


class _Member(Protocol):
    """What both libraries call a decompression object."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...
