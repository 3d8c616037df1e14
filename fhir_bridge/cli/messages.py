"""Read the messages that a file or a pipe holds: one JSON document, or one a line, compressed or not.

Invariants:
    * a message's bytes are passed on as they stand, white space at its ends aside;
    * a file of many messages is read message by message, never as a whole.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from fhir_bridge.cli.failing import SETUP, Failure

STANDARD_INPUT = "-"
_GZIP_MAGIC = b"\x1f\x8b"


@contextmanager
def opened(name: str) -> Iterator[tuple[Iterator[bytes], Callable[[], int]]]:
    """Open a file, or standard input for ``-``; give its messages and a count of the raw bytes read so far.

    Raises:
        Failure: The file cannot be read, or is damaged.
    """
    try:
        with _raw(name) as raw:
            counted = _Counted(raw)
            yield _guarded(name, _messages(_plain(counted))), lambda: counted.count
    except OSError as error:
        raise Failure(f"{name}: {error.strerror or 'not readable'}", exit_code=SETUP) from error


def order_key(message: bytes) -> str:
    """Return what a message must stay in order by: its patient where one can be told, else its own identity.

    Messages of one key are sent one after another, as an institution keys its
    topic by patient. What cannot be read gets a key of its own; the service
    judges it.
    """
    try:
        body = json.loads(message)
    except (ValueError, RecursionError):
        return ""
    resources = [e.get("resource") for e in _items(body, "entry")] or [body]
    found = [r for r in resources if isinstance(r, dict)]
    for resource in found:
        if resource.get("resourceType") == "Patient":
            return str(resource.get("id"))
    for resource in found:
        for element in ("subject", "patient", "beneficiary"):
            reference = resource.get(element)
            if isinstance(reference, dict) and isinstance(reference.get("reference"), str):
                return str(reference["reference"]).rsplit("/", 1)[-1]
    return f"{found[0].get('resourceType')}/{found[0].get('id')}" if found else ""


def _raw(name: str) -> BinaryIO:
    return sys.stdin.buffer if name == STANDARD_INPUT else Path(name).open("rb")


def _plain(raw: _Counted) -> BinaryIO:
    buffered = io.BufferedReader(raw, 1 << 16)
    if buffered.peek(2)[:2] == _GZIP_MAGIC:
        return cast(BinaryIO, gzip.GzipFile(fileobj=buffered))
    return buffered


def _messages(plain: BinaryIO) -> Iterator[bytes]:
    """One message a line when the first line is a whole document, else everything is one message."""
    first = _first_line(plain)
    if not _is_document(first):
        whole = (first + plain.read()).strip()
        if whole:
            yield whole
        return
    yield first.strip()
    for line in plain:
        if line.strip():
            yield line.strip()


def _first_line(plain: BinaryIO) -> bytes:
    for line in plain:
        if line.strip():
            return line
    return b""


def _is_document(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _guarded(name: str, messages: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from messages
    except (gzip.BadGzipFile, EOFError) as error:
        raise Failure(f"{name} is a damaged gzip file", exit_code=SETUP) from error


def _items(body: Any, name: str) -> list[dict[str, Any]]:
    items = body.get(name) if isinstance(body, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


class _Counted(io.RawIOBase):
    """Counts what is read from a file, before decompression: what a progress bar can compare with its size."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._raw.read(len(buffer))
        buffer[: len(chunk)] = chunk
        self.count += len(chunk)
        return len(chunk)
