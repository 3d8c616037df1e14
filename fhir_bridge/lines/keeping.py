"""The records of a large message: whole on disk, in sealed blocks; what the line decides by in memory.

The ingest line works on slim records, which have their place, their ids and what it takes to find and to compare
them. When one is sealed, it is asked for whole.
"""

from __future__ import annotations

import pickle
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, overload

import msgspec

from fhir_bridge.model.ingest import ChartRef, Normalized, Sealed
from fhir_bridge.ports.overflow import Overflow

RECORDS_AT_ONCE: Final = 256
"""Records in a block."""
_SOMEBODY: Final = ("",)
_NOTHING_FOUND: Final[Mapping[str, tuple[Any, ...]]] = {}
_NAMES_A_PATIENT: Final[Mapping[str, tuple[Any, ...]]] = {"patient": _SOMEBODY}
_NO_LINEAGE = b"[]"
_sealed = msgspec.msgpack.Decoder(list[Sealed])


class KeptRecords:
    """Records in the order of their entries, a block after the other."""

    def __init__(self, overflow: Overflow) -> None:
        self._overflow = overflow
        self._firsts: list[int] = []
        self._opened: tuple[int, dict[int, Normalized]] = (-1, {})
        self.slim: list[Normalized] = []

    def put(self, block: bytes) -> None:
        """Keep a block, as :func:`encode` makes it."""
        self._overflow.put(block)
        records = decode(block)
        self._firsts.append(records[0].index)
        self.slim += [self._slim(record) for record in records]

    def say_charts(self, charts: Mapping[int, ChartRef | None]) -> None:
        """Learn whose records are that did not say it themselves; None for one that was none after all."""
        if charts:
            said = [(record, charts.get(record.index, record.chart)) for record in self.slim]
            self.slim = [replace(record, chart=chart) for record, chart in said if chart is not None]

    def whole(self, slim: Normalized) -> Normalized:
        """Return a record whole, with what was said of the slim one since. Cheap in the order of the entries."""
        number = bisect_right(self._firsts, slim.index) - 1
        at, opened = self._opened
        if at != number:
            opened = {record.index: record for record in decode(self._overflow.get(number))}
            self._opened = number, opened
        record = opened[slim.index]
        return replace(record, chart=slim.chart, lineage=_joined(record.lineage, slim.lineage))

    def _slim(self, record: Normalized) -> Normalized:
        row = record.row
        names_a_patient = any(row.search.get(name) for name in ("patient", "subject"))
        search = _NAMES_A_PATIENT if names_a_patient else _NOTHING_FOUND
        if "identifier" in row.search:
            search = {**search, "identifier": row.search["identifier"]}
        slim_row = replace(row, labels=(), codes=(), data_period_us=None, search=search, references=())
        return replace(record, original=b"", content=b"", lineage=_NO_LINEAGE, row=slim_row, kept=self)


class KeptSealed(Sequence[Sealed]):
    """Sealed records on disk, a block after the other."""

    def __init__(self, overflow: Overflow) -> None:
        self._overflow = overflow
        self._blocks = self._count = 0
        self._held: list[Sealed] = []

    def append(self, sealed: Sealed) -> None:
        """Add one; it is on disk with the block that it fills."""
        self._held.append(sealed)
        self._count += 1
        if len(self._held) == RECORDS_AT_ONCE:
            self._overflow.put(msgspec.msgpack.encode(self._held))
            self._blocks, self._held = self._blocks + 1, []

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sealed]:
        for number in range(self._blocks):
            yield from self._block(number)
        yield from self._held

    @overload
    def __getitem__(self, index: int) -> Sealed: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sealed]: ...
    def __getitem__(self, index: int | slice) -> Sealed | Sequence[Sealed]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(self._count))]
        number, at = divmod(range(self._count)[index], RECORDS_AT_ONCE)
        return (self._block(number) if number < self._blocks else self._held)[at]

    def _block(self, number: int) -> list[Sealed]:
        return _sealed.decode(self._overflow.get(number))


def encode(records: Sequence[Normalized]) -> bytes:
    """Return a block of records, for :func:`decode`."""
    return pickle.dumps(records, pickle.HIGHEST_PROTOCOL)


def decode(block: bytes) -> Sequence[Normalized]:
    """Return the records of a block; only of one that a worker or an overflow of ours gave."""
    records: Sequence[Normalized] = pickle.loads(block)  # noqa: S301 - as between processes, where it comes from
    return records


def _joined(lineage: bytes, added: bytes) -> bytes:
    """Append one JSON array to another without reading the numbers in them, whose text is kept."""
    if added == _NO_LINEAGE:
        return lineage
    return added if lineage == _NO_LINEAGE else lineage[:-1] + b"," + added[1:]
