"""Receive the body of an import: cut into lines as it comes, each durable and sealed before the sender is answered.

What is held of a body at any time is a piece of it, the line that has begun,
and a commit's worth of lines, however long it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from blake3 import blake3

from fhir_bridge.errors import Issue, MediaUnsupported, MessageTooLong, RecordRefused
from fhir_bridge.lines.import_words import FETCHES_NOTHING, NDJSON
from fhir_bridge.lines.media_types import declared_version
from fhir_bridge.lines.ndjson import LineCutter
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.ports.imports import ImportStore, Line
from fhir_bridge.ports.keys import KeyKind, KeyName, KeyStore
from fhir_bridge.settings import ImportSettings

_NDJSON_TYPES = frozenset({"application/fhir+ndjson", "application/ndjson", "application/x-ndjson", "text/x-ndjson"})
_JSON_TYPES = frozenset({"application/fhir+json", "application/json", "text/json", "application/json+fhir"})
_LINES_AT_ONCE = 4_096
_BYTES_AT_ONCE = 1 << 20


@dataclass(slots=True)
class Whole:
    """What a body came to: lines that are not blank, bytes, and a keyed digest that the same body gives again."""

    lines: int = 0
    size: int = 0
    digest: bytes = b""


class Receiver:
    """Puts bodies into the store."""

    def __init__(self, store: ImportStore, keys: KeyStore, settings: ImportSettings) -> None:
        self._store = store
        self._keys = keys
        self._settings = settings

    async def take_in(self, name: str, institution: str, pieces: AsyncIterator[bytes]) -> Whole:
        """Return once every line is durable.

        Args:
            name: The job's.
            pieces: The body, decompressed, as it comes.

        Raises:
            MessageTooLong: More bytes or lines than an import may hold.
            RecordRefused: It holds no line.
            Unavailable: The disk does not take it.
        """
        key_name = KeyName(KeyKind.INSTITUTION, institution)
        hasher = blake3(b"fhir-bridge/import/1\0", key=self._keys.ensure([key_name])[key_name])
        cutter = LineCutter(self._settings.max_line_bytes)
        whole = Whole()
        held: list[Line] = []
        await self._store.begin(name, institution)
        async for piece in pieces:
            whole.size += len(piece)
            if whole.size > self._settings.max_bytes:
                problem = f"an import may hold at most {self._settings.max_bytes} bytes: send it in parts"
                raise MessageTooLong([Issue("error", "too-long", problem)])
            hasher.update(piece)
            held += await asyncio.to_thread(cutter.feed, piece)
            held = await self._put(name, held, whole, is_last=False)
            if whole.lines > self._settings.max_lines:
                problem = f"an import may hold at most {self._settings.max_lines} lines: send it in parts"
                raise MessageTooLong([Issue("error", "too-costly", problem)])
        await self._put(name, [*held, *cutter.end()], whole, is_last=True)
        if not whole.lines:
            raise RecordRefused(
                [Issue("error", "required", "the body holds no line: each is a resource or a Bundle")]
            )
        whole.digest = hasher.digest()
        return whole

    async def _put(self, name: str, held: list[Line], whole: Whole, *, is_last: bool) -> list[Line]:
        """Put lines to disk, a commit's worth at a time; return those that are too few for one yet."""
        while held:
            some, size = 0, 0
            while some < len(held) and some < _LINES_AT_ONCE and size < _BYTES_AT_ONCE:
                size += len(held[some].body)
                some += 1
            if some < _LINES_AT_ONCE and size < _BYTES_AT_ONCE and not is_last:
                break
            await self._store.add(name, held[:some])
            whole.lines += some
            held = held[some:]
        return held


def release_of(content_type: str) -> FhirVersion | None:
    """Check the media type of a kick-off; return the release that it declares.

    Raises:
        RecordRefused: A kick-off that names addresses, or an unknown release.
        MediaUnsupported: Anything else that is no NDJSON.
    """
    plain = content_type.partition(";")[0].strip().lower()
    if plain in _JSON_TYPES:
        raise RecordRefused([Issue("error", "not-supported", FETCHES_NOTHING)])
    if plain not in _NDJSON_TYPES:
        raise MediaUnsupported([Issue("error", "not-supported", f"send Content-Type: {NDJSON}")])
    return declared_version(content_type)


def require_async(prefer: str) -> None:
    """Raise RecordRefused unless a Prefer header asks for the background (RFC 7240 section 4.1)."""
    if "respond-async" not in (each.strip().lower() for each in prefer.replace(";", ",").split(",")):
        problem = "an import is done in the background: send Prefer: respond-async"
        raise RecordRefused([Issue("error", "required", problem)])
