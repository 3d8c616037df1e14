"""Request bodies: as sent or compressed with gzip or zstd, under one limit of bytes for what they hold.

Whatever a body claims to be, reading stops as soon as more than the limit has
come out of it, so that a small body cannot become a large one in memory. It
stops too when the time for a body is over, so that a sender who dribbles does
not hold what has come for ever. The body of an import may be of any length: it
is handed on while it comes and never held.

Standards: RFC 9110 section 8.4 (Content-Encoding), 12.5.3 (Accept-Encoding in a
415), 15.5.9 (408); RFC 1952 (gzip, several members too); RFC 8878 (zstd, windows up to 8 MiB).
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import zstandard
from fastapi import Request

from fhir_bridge.errors import CodingUnsupported, Issue, MessageLate, MessageTooLong, RecordRefused
from fhir_bridge.http.caller import services_of
from fhir_bridge.model.shared_bytes import CAN_SHARE, SharedBytes

CODINGS: Final = ("gzip", "zstd")
_GZIP = 16 + zlib.MAX_WBITS
_WINDOW_BYTES = 8 << 20
_STEP_BYTES = 512
"""So few compressed bytes at a time: a block of zstd takes four of them and may hold 128 KiB."""
_MOST_MEMBERS = 1_000
_AT_ONCE_BYTES = 256 << 10
_FEW_BYTES = 4 << 20


async def body_of(request: Request, limit: int) -> bytes:
    """Return what a request's body holds, as :func:`message_of` does, but never in shared memory."""
    return bytes(await message_of(request, limit))


async def message_of(request: Request, limit: int) -> bytes | memoryview:
    """Return what a request's body holds, decompressed; a view of shared memory if that is much.

    Raises:
        MessageTooLong: More than ``limit`` bytes.
        MessageLate: It did not come whole in time.
        CodingUnsupported: Another Content-Encoding than one of :data:`CODINGS`, or several.
        RecordRefused: The body is not what its Content-Encoding says, or breaks off.
    """
    coding = _coding_of(request)
    body = await read_body(request, limit)
    if coding and body is not None:
        body = await asyncio.to_thread(_decompressed, coding, body, limit)
    if body is None:
        raise MessageTooLong([Issue("error", "too-long", f"a message may hold at most {limit} bytes")])
    return body


async def read_body(request: Request, limit: int) -> bytes | memoryview | None:
    """Return a request's body as it came; None as soon as more than ``limit`` bytes of it have come.

    Raises:
        MessageLate: It did not come whole in time.
    """
    received, seconds = _Gathered(), services_of(request).max_body_s
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                received.add(chunk)
                if received.size > limit:
                    return None
    except TimeoutError:
        problem = f"a body must come whole within {seconds} seconds; send less at once, or compressed"
        raise MessageLate([Issue("error", "timeout", problem)]) from None
    return received.whole()


async def pieces_of(request: Request, limit: int, still_s: int) -> AsyncIterator[bytes]:
    """Yield what a request's body holds, decompressed, in pieces of at most 256 KiB, while it comes.

    Args:
        limit: The most bytes that are read of the body as it was sent; what they hold is for the caller to count.
        still_s: Seconds that it may stand still.

    Raises:
        MessageTooLong: More than ``limit`` bytes were sent.
        MessageLate: Nothing came for ``still_s`` seconds.
        CodingUnsupported: Another Content-Encoding than one of :data:`CODINGS`, or several.
        RecordRefused: The body is not what its Content-Encoding says, or breaks off.
    """
    coding = _coding_of(request)
    unfolding = _Unfolding(coding) if coding else None
    async for chunk in _chunks(request, limit, still_s):
        pieces = iter([chunk]) if unfolding is None else unfolding.feed(chunk)
        while some := await asyncio.to_thread(_some, pieces, coding):
            # A step of zstd may hold 16 MiB: of two bytes each, its lines would take a gigabyte.
            for at in range(0, len(some), _AT_ONCE_BYTES):
                yield some[at : at + _AT_ONCE_BYTES]
    if unfolding is not None:
        with _told(coding):
            unfolding.end()


async def _chunks(request: Request, limit: int, still_s: int) -> AsyncIterator[bytes]:
    stream, sent = request.stream(), 0
    problem = f"a body may hold at most {limit} bytes, also compressed: send it in parts"
    too_long = MessageTooLong([Issue("error", "too-long", problem)])
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_long
    while True:
        try:
            async with asyncio.timeout(still_s):
                chunk = await anext(stream, None)
        except TimeoutError:
            problem = f"nothing of the body came for {still_s} seconds: send it without such pauses, or in parts"
            raise MessageLate([Issue("error", "timeout", problem)]) from None
        if chunk is None:
            return
        sent += len(chunk)
        if sent > limit:
            raise too_long
        yield chunk


def _coding_of(request: Request) -> str:
    """Return the one Content-Encoding of a request; empty for none.

    Raises:
        CodingUnsupported: Another one than those of :data:`CODINGS`, or several.
    """
    coding = ",".join(request.headers.getlist("content-encoding")).strip().lower().removeprefix("x-")
    if coding in ("", "identity"):
        return ""
    if coding not in CODINGS:
        problem = f"send the body as it is, or with one Content-Encoding of {', '.join(CODINGS)}"
        raise CodingUnsupported([Issue("error", "not-supported", problem)])
    return coding


class _Gathered:
    """Bytes as they come; many of them in memory that the workers share, so that they are held once."""

    def __init__(self) -> None:
        self.size = 0
        self._few = bytearray()
        self._many: SharedBytes | None = None

    def add(self, piece: bytes) -> None:
        """Append bytes."""
        self.size += len(piece)
        if self._many is None and CAN_SHARE and self.size > _FEW_BYTES:
            self._many = SharedBytes()
            self._many.add(self._few)
            self._few = bytearray()
        if self._many is None:
            self._few += piece
        else:
            self._many.add(piece)

    def whole(self) -> bytes | memoryview:
        """Return all of them."""
        return bytes(self._few) if self._many is None else self._many.view()


def _decompressed(coding: str, sent: bytes | memoryview, limit: int) -> bytes | memoryview | None:
    found = _Gathered()
    unfolding = _Unfolding(coding, _MOST_MEMBERS)
    with _told(coding):
        for piece in unfolding.feed(sent):
            found.add(piece)
            if found.size > limit:
                return None
        unfolding.end()
    return found.whole()


def _some(pieces: Iterator[bytes], coding: str) -> bytes:
    """Return the next bytes of a body, about as many as are handled at once; none at the end."""
    found = bytearray()
    with _told(coding):
        for piece in pieces:
            found += piece
            if len(found) >= _AT_ONCE_BYTES:
                break
    return bytes(found)


@contextmanager
def _told(coding: str) -> Iterator[None]:
    try:
        yield
    except (zlib.error, zstandard.ZstdError, EOFError):
        problem = f"the body is not {coding}, or not all of it: Content-Encoding must say how it is compressed"
        if coding == "zstd":
            problem += f"; a window may be {_WINDOW_BYTES >> 20} MiB (no --ultra, no --long)"
        raise RecordRefused([Issue("error", "structure", problem)]) from None


class _Unfolding:
    """Decompresses a body of one or more members (gzip) or frames (zstd), a step of it at a time."""

    def __init__(self, coding: str, most_members: int | None = None) -> None:
        self._begin = _gzip if coding == "gzip" else _zstd
        self._most_members = most_members
        self._member: _Member | None = None
        self._members = 0

    def feed(self, sent: bytes | memoryview) -> Iterator[bytes]:
        """Yield what the next bytes of the body hold.

        Raises:
            EOFError: They begin more members than anybody needs.
        """
        at = 0
        while at < len(sent):
            if self._member is None or self._member.eof:
                if self._members == self._most_members:
                    raise EOFError
                self._member, self._members = self._begin(), self._members + 1
            step = bytes(sent[at : at + _STEP_BYTES])
            at += len(step)
            yield self._member.decompress(step)
            if self._member.eof:
                at -= len(self._member.unused_data)

    def end(self) -> None:
        """Raise EOFError if the body has broken off."""
        if self._member is None or not self._member.eof:
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
