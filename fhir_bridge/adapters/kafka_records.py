"""Reads records whose header names are no UTF-8, which the Kafka library gives up on.

A name of a header is any bytes to a broker and to most producers. The library
decodes it strictly, and the error that comes of it would end the reading of
everything, at every start anew, for as long as the broker keeps that one record.
So names are read with a replacement character where they are no text; such a
header says nothing here, and the record is judged by the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack_from
from typing import Any, Final

from aiokafka.consumer import fetcher  # type: ignore[import-untyped]
from aiokafka.record.default_records import (  # type: ignore[import-untyped]
    _DefaultRecordBatchPy,
    _DefaultRecordPy,
)
from aiokafka.record.memory_records import MemoryRecords  # type: ignore[import-untyped]
from aiokafka.record.util import decode_varint  # type: ignore[import-untyped]

_BEFORE_LENGTH: Final = 8
_LOG_OVERHEAD: Final = 12


def tolerate_header_names() -> None:
    """Let the library's consumers read by :class:`Records`, which it has no other way to be told of."""
    fetcher.MemoryRecords = Records


class Records:
    """The batches of one answer of a broker, for the library's fetcher."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._batches = MemoryRecords(data)

    def has_next(self) -> bool:
        """Tell whether a whole batch follows."""
        return bool(self._batches.has_next())

    def size_in_bytes(self) -> int:
        """Return the answer's length, with a batch that broke off."""
        return len(self._data)

    def next_batch(self) -> _Batch:
        """Return the next batch."""
        length = unpack_from(">i", self._data, self._at + _BEFORE_LENGTH)[0]
        start, self._at = self._at, self._at + _LOG_OVERHEAD + length
        return _Batch(self._batches.next_batch(), memoryview(self._data)[start : self._at])


class _Batch:
    """A batch as the library decodes it, and from the first record on that it cannot decode, as we do."""

    def __init__(self, decoded: Any, data: memoryview) -> None:
        self._decoded = decoded
        self._data = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoded, name)

    def __next__(self) -> Any:
        return next(self._decoded)

    def __iter__(self) -> Iterator[Any]:
        done = -1
        try:
            for record in self._decoded:
                yield record
                done = record.offset
        except UnicodeDecodeError:
            yield from (record for record in _tolerant(self._data) if record.offset > done)


def _tolerant(data: memoryview) -> Iterator[Any]:
    """Decode a batch of format 2 (Kafka protocol guide, "Record Batch"), whose checksum was good."""
    batch = _DefaultRecordBatchPy(data)
    batch._maybe_uncompress()
    buffer, at = batch._buffer, batch._pos
    for _ in range(batch._num_records):
        _, at = decode_varint(buffer, at)
        delta_ms, at = decode_varint(buffer, at + 1)
        delta, at = decode_varint(buffer, at)
        key, at = _bytes(buffer, at)
        value, at = _bytes(buffer, at)
        count, at = decode_varint(buffer, at)
        headers: list[tuple[str, bytes | None]] = []
        for _ in range(count):
            name, at = _bytes(buffer, at)
            content, at = _bytes(buffer, at)
            headers.append(((name or b"").decode("utf-8", "replace"), content))
        moment = batch.first_timestamp + delta_ms
        yield _DefaultRecordPy(batch.base_offset + delta, moment, batch.timestamp_type, key, value, headers)


def _bytes(buffer: bytearray, at: int) -> tuple[bytes | None, int]:
    length, at = decode_varint(buffer, at)
    return (None, at) if length < 0 else (bytes(buffer[at : at + length]), at + length)
