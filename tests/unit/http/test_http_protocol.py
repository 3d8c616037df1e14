"""HTTP/1.1 off a real socket: bodies survive an offer of HTTP/2, heads have a limit, what is broken is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from fhir_bridge.http.protocol import MAX_HEAD, HttpProtocol

BODY = b'{"resourceType":"Patient"}'
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQ\r\n"
"""What Java's HttpClient sends with its first request (RFC 7540 section 3.2)."""


def post(offer: bytes = b"", *, framing: bytes | None = None, body: bytes = BODY) -> bytes:
    framing = b"Content-Length: %d\r\n" % len(body) if framing is None else framing
    return b"POST /x HTTP/1.1\r\nHost: a\r\n" + offer + framing + b"\r\n" + body


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
    config = uvicorn.Config(echo, http=HttpProtocol, ws="none", port=0, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


async def answers(port: int, parts: Sequence[bytes]) -> bytes:
    """Send parts one by one and return all that comes back until the server has said nothing for a while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.02)
    found = b""
    while True:
        try:
            more = await asyncio.wait_for(reader.read(1 << 16), 0.5)
        except TimeoutError:
            break
        if not more:
            break
        found += more
    writer.close()
    return found


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(),
        post(OFFER),
        post(OFFER.replace(b"Upgrade:", b"uPGRADE:")),
        post(OFFER, framing=b"Transfer-Encoding: chunked\r\n", body=b"1a\r\n" + BODY + b"\r\n0\r\n\r\n"),
        post(b"Connection: upgrade\r\nUpgrade: websocket\r\n"),
    ],
)
async def test_a_body_is_read_whatever_other_protocol_its_head_offers(port: int, request_bytes: bytes) -> None:
    whole = await answers(port, [request_bytes])
    assert whole.startswith(b"HTTP/1.1 200 ")
    assert whole.endswith(b"\n" + BODY)
    assert b"upgrade" not in whole.partition(b"\r\n\r\n")[2].lower()
    for at in (1, 20, 45, len(request_bytes) - len(BODY), len(request_bytes) - 3):
        parts = await answers(port, [request_bytes[:at], request_bytes[at:]])
        assert parts.startswith(b"HTTP/1.1 200 "), at
        assert parts.endswith(b"\n" + BODY), at


async def test_byte_by_byte_is_the_same_request(port: int) -> None:
    request = post(OFFER)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for byte in request:
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(0)
    assert (await asyncio.wait_for(reader.readuntil(BODY), 5)).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_one_connection_serves_requests_one_after_the_other_and_in_a_row(port: int) -> None:
    offered = await answers(port, [post(OFFER), post(OFFER), post()])
    assert offered.count(b"HTTP/1.1 200 ") == offered.count(BODY) == 3
    in_a_row = await answers(port, [post() + post() + post()])
    assert in_a_row.count(b"HTTP/1.1 200 ") == in_a_row.count(BODY) == 3


async def test_an_offer_behind_another_request_is_refused_and_its_body_not_served_as_empty(port: int) -> None:
    both = await answers(port, [post() + post(OFFER)])
    assert b"HTTP/1.1 400 " in both
    assert both.count(b"HTTP/1.1 200 ") <= 1


@pytest.mark.parametrize("is_split", [False, True])
async def test_a_head_has_a_limit(port: int, is_split: bool) -> None:
    fitting = post(b"X-Long: " + b"a" * (MAX_HEAD - 200) + b"\r\n")
    assert (await answers(port, [fitting])).startswith(b"HTTP/1.1 200 ")
    endless = b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * (MAX_HEAD + 1)
    parts = [endless[:1000], endless[1000:]] if is_split else [endless + b"\r\n\r\n"]
    assert (await answers(port, parts)).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "broken",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        post(framing=b"Content-Length: 26\r\nTransfer-Encoding: chunked\r\n"),
        post(framing=b"Content-Length: 26\r\nContent-Length: 25\r\n"),
        post(framing=b"Content-Length: +26\r\n"),
        post(framing=b"Transfer-Encoding: xchunked\r\n"),
        post(framing=b"X : y\r\nContent-Length: 26\r\n"),
        post(framing=b" folded\r\nContent-Length: 26\r\n"),
    ],
)
async def test_a_request_that_two_servers_might_read_differently_is_refused(port: int, broken: bytes) -> None:
    """RFC 9112 sections 5.1, 5.2, 6.3 and 11.2."""
    found = await answers(port, [broken])
    assert found.startswith(b"HTTP/1.1 400 "), found[:80]
    assert b"HTTP/1.1 200" not in found
