"""The server as `serve` sets it up, on a real socket: what its parser must do with heads, bodies and trailers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from fhir_bridge.serving import _UVICORN

BODY = b'{"resourceType":"Patient"}'
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQ\r\n"
"""What Java's HttpClient sends with its first request (RFC 7540 section 3.2)."""
LENGTH = b"Content-Length: 26\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def post(fields: bytes, body: bytes = BODY) -> bytes:
    return b"POST /x HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n" + body


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the names of the header fields, a line, and the body as it came."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    told = b",".join(name for name, _ in scope["headers"]) + b"\n" + body
    length = (b"content-length", str(len(told)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": told})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    server = uvicorn.Server(uvicorn.Config(echo, port=0, lifespan="off", **_UVICORN))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


async def answer(port: int, request: bytes) -> bytes:
    """Send a request and return all that comes back until the server has said nothing for a while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    found = b""
    try:
        while more := await asyncio.wait_for(reader.read(1 << 16), 0.5):
            found += more
    except (TimeoutError, ConnectionError):
        pass
    writer.close()
    return found


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_is_read_whatever_other_protocol_its_head_offers(port: int, is_chunked: bool) -> None:
    """RFC 9110 section 7.8: the offer may be ignored."""
    body = b"1a\r\n" + BODY + b"\r\n0\r\n\r\n" if is_chunked else BODY
    found = await answer(port, post(OFFER + (CHUNKED if is_chunked else LENGTH), body))
    assert found.startswith(b"HTTP/1.1 200 ")
    assert found.endswith(b"\n" + BODY)


async def test_trailers_are_no_header_fields(port: int) -> None:
    """RFC 9110 section 6.5.1."""
    found = await answer(port, post(CHUNKED, b"1a\r\n" + BODY + b"\r\n0\r\nAuthorization: Bearer x\r\n\r\n"))
    assert found.startswith(b"HTTP/1.1 200 ")
    assert b"authorization" not in found


async def test_of_two_framings_chunks_count(port: int) -> None:
    """RFC 9112 section 6.3; what is no chunk then is not read as a body of the stated length."""
    chunked = b"1a\r\n" + BODY + b"\r\n0\r\n\r\n"
    assert (await answer(port, post(b"Content-Length: 3\r\n" + CHUNKED, chunked))).endswith(b"\n" + BODY)
    assert b" 200 " not in await answer(port, post(LENGTH + CHUNKED))


@pytest.mark.parametrize(
    "broken",
    [
        b"nonsense\r\n\r\n",
        post(LENGTH + b"Content-Length: 25\r\n"),
        post(b"Content-Length: +26\r\n"),
        post(b"Transfer-Encoding: xchunked\r\n"),
        post(b"X : y\r\n" + LENGTH),
        post(b"Upgrade : q\r\n" + LENGTH),
        post(b"Upgrade: x\rContent-Length: 33\r\n", b"GET /s HTTP/1.1\r\nHost: victim\r\n\r\n"),
        b"POST /x HTTP/1.1\r\n" + LENGTH + b"\r\n" + BODY,
        post(b"X-Long: " + b"a" * (1 << 17) + b"\r\n" + LENGTH),
        post(CHUNKED, b"0\r\n" + b"a: b\r\n" * (1 << 16) + b"\r\n"),
    ],
    ids=range(10),
)
async def test_a_request_that_two_servers_might_read_differently_or_that_is_too_long_is_refused(
    port: int, broken: bytes
) -> None:
    """RFC 9112 sections 3.2, 5.1, 6.3 and 11.2."""
    found = await answer(port, broken)
    assert found.startswith(b"HTTP/1.1 400 ")
    assert b" 200 " not in found
