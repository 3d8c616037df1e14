"""Compressed bodies: what other programs compress is taken, what is broken or blown up is refused."""

from __future__ import annotations

import asyncio
import errno
import gzip
import io
import json
import os
import subprocess
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import zstandard
from fastapi import Request
from starlette.datastructures import Headers

from fhir_bridge.http import bodies
from fhir_bridge.http.bodies import pieces_of
from tests.support.bridge_world import World, fresh, patient, running

LIMIT = 200_000
BODY = json.dumps(patient("p1")).encode()
Compress = Callable[[bytes], bytes]


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("FHIR_BRIDGE_INGEST_MAX_MESSAGE_BYTES", str(LIMIT))
    async with running(fresh(tmp_path)) as made:
        yield made


async def put(world: World, body: bytes, *codings: str) -> httpx.Response:
    headers = [(name, value) for name, value in (await world.token()).items()]
    headers += [("Content-Type", "application/fhir+json"), *(("Content-Encoding", each) for each in codings)]
    return await world.http.put("/fhir/Patient/p1", headers=headers, content=body)


def said(answer: httpx.Response) -> tuple[int, str]:
    outcome: dict[str, Any] = answer.json()
    return answer.status_code, outcome["issue"][0]["code"]


def gzip_program(content: bytes) -> bytes:
    return subprocess.run(["gzip", "-c"], input=content, capture_output=True, check=True).stdout


def zstd_in_blocks(content: bytes) -> bytes:
    """Without the content's size in the frame's head, flushed half-way."""
    made = io.BytesIO()
    with zstandard.ZstdCompressor(write_checksum=True).stream_writer(made, closefd=False) as writer:
        writer.write(content[:100])
        writer.flush(zstandard.FLUSH_BLOCK)
        writer.write(content[100:])
    return made.getvalue()


WAYS: list[tuple[str, Compress]] = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip_program),
    (" GZIP ", gzip.compress),
    ("gzip", lambda content: gzip.compress(content[:50]) + gzip.compress(content[50:])),
    ("zstd", zstandard.ZstdCompressor().compress),
    ("zstd", zstd_in_blocks),
    ("zstd", lambda content: b"".join(map(zstandard.ZstdCompressor().compress, (content[:50], content[50:])))),
    ("identity", bytes),
]


@pytest.mark.parametrize(("coding", "compress"), WAYS)
async def test_a_compressed_body_is_taken_as_what_it_holds(world: World, coding: str, compress: Compress) -> None:
    assert (await put(world, compress(BODY), coding)).status_code == 201
    again = await put(world, BODY)
    assert again.status_code == 200
    assert again.headers["etag"] == (await put(world, compress(BODY), coding)).headers["etag"]


@pytest.mark.parametrize(
    ("coding", "compress"), [("gzip", gzip.compress), ("zstd", zstandard.ZstdCompressor().compress)]
)
async def test_what_is_not_whole_is_refused(world: World, coding: str, compress: Compress) -> None:
    good = compress(BODY)
    broken = [b"", good[:-1], good[: len(good) // 2], good[:3], good + b"\0", good + b"rest", BODY]
    broken.append(good[:20] + bytes([good[20] ^ 0xFF]) + good[21:])
    for body in broken:
        assert said(await put(world, body, coding)) == (400, "structure"), body[:20]


async def test_a_small_body_cannot_become_a_large_one(world: World) -> None:
    large = b"0" * (64 << 20)
    for coding, bomb in (("gzip", gzip.compress(large)), ("zstd", zstandard.ZstdCompressor().compress(large))):
        assert len(bomb) < LIMIT
        answer = await put(world, bomb, coding)
        assert said(answer) == (413, "too-long")
        assert str(LIMIT) in answer.text
    assert said(await put(world, gzip.compress(b"") * 5_000, "gzip")) == (400, "structure")


async def test_no_more_is_decompressed_than_is_taken(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    from fhir_bridge.http import bodies

    come: list[int] = []
    feed = bodies._Unfolding.feed

    def counted(self: bodies._Unfolding, sent: bytes) -> Iterator[bytes]:
        for piece in feed(self, sent):
            come.append(len(piece))
            yield piece

    monkeypatch.setattr(bodies._Unfolding, "feed", counted)
    assert (await put(world, gzip.compress(b"0" * (64 << 20)), "gzip")).status_code == 413
    assert sum(come) < 2 * LIMIT + 1_200 * 512, "a step of gzip becomes 1,032 times as much at the most"


async def test_other_codings_are_refused_with_those_that_are_taken(world: World) -> None:
    for codings in (("br",), ("deflate",), ("gzip, gzip",), ("gzip", "zstd"), ("compress",)):
        answer = await put(world, zlib.compress(BODY), *codings)
        assert said(answer) == (415, "not-supported")
        assert answer.headers["accept-encoding"] == "gzip, zstd"


@pytest.mark.parametrize("path", ["/fhir/Patient/p1", "/token"])
async def test_a_sender_who_dribbles_is_told_the_time_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """RFC 9110 section 15.5.9: 408, and the connection closes, for the rest of the body is no request."""
    monkeypatch.setenv("FHIR_BRIDGE_INGEST_MAX_BODY_S", "1")

    async def dribble() -> AsyncIterator[bytes]:
        yield BODY[:-1]
        await asyncio.Event().wait()

    async with running(fresh(tmp_path)) as world:
        headers = await world.token() | {"Content-Type": "application/fhir+json"}
        method = "POST" if path == "/token" else "PUT"
        answer = await world.http.request(method, path, headers=headers, content=dribble())
        assert answer.status_code == 408
        assert answer.headers["connection"] == "close"
        if path != "/token":
            assert said(answer) == (408, "timeout")
            assert "within 1 seconds" in answer.text
        assert (await world.http.get("/fhir/Patient/p1", headers=headers)).status_code == 404
        assert (await put(world, BODY)).status_code == 201


class Sent:
    """A request as much as :func:`pieces_of` asks of one."""

    def __init__(self, body: bytes, coding: str) -> None:
        self.headers = Headers({"Content-Encoding": coding})
        self._body = body

    async def stream(self) -> AsyncIterator[bytes]:
        yield self._body


@pytest.mark.parametrize("coding", ["gzip", "zstd", "identity"])
async def test_the_body_of_an_import_comes_in_small_pieces_however_dense_it_is(coding: str) -> None:
    body = b"1\n" * (8 << 20)
    compress: dict[str, Compress] = {"gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}
    sent = Sent(compress[coding](body) if coding in compress else body, coding)
    pieces = [piece async for piece in pieces_of(cast(Request, sent), 1 << 30, 60)]
    assert b"".join(pieces) == body
    assert max(map(len, pieces)) <= 256 << 10


async def test_a_window_beyond_the_limit_is_told_as_such(world: World) -> None:
    wide = zstandard.ZstdCompressionParameters.from_level(1, window_log=27)
    sent = zstandard.ZstdCompressor(compression_params=wide).compress(BODY + b" " * (9 << 20))
    answer = await put(world, sent[:LIMIT], "zstd")
    assert said(answer) == (400, "structure")
    assert "8 MiB" in answer.text


@pytest.mark.parametrize(("can_share", "expected"), [(True, 503), (False, 201)])
async def test_a_large_body_where_there_is_no_memory_to_share(
    world: World, monkeypatch: pytest.MonkeyPatch, *, can_share: bool, expected: int
) -> None:
    """What is used up comes back, so the sender tries again; what there never is nobody waits for."""

    def refused(*_: Any) -> int:
        raise OSError(errno.EMFILE, "used up")

    headers = await world.token() | {"Content-Type": "application/fhir+json"}
    monkeypatch.setattr(os, "memfd_create", refused)
    monkeypatch.setattr(bodies, "CAN_SHARE", can_share)
    monkeypatch.setattr(bodies, "_FEW_BYTES", 100)
    assert len(BODY) > 100
    answer = await world.http.put("/fhir/Patient/p1", headers=headers, content=BODY)
    assert answer.status_code == expected
