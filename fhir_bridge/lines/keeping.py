"""The records of a large message: whole on disk, in sealed blocks; what the line decides by in memory.

The ingest line decides on slim records, which have their place, their ids and what it takes to find and to compare
them, and holds of those it takes next to nothing. When one is sealed, it is asked for whole.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar, overload

import msgspec
from msgspec.structs import replace

from fhir_bridge.errors import Unavailable
from fhir_bridge.model import blocks
from fhir_bridge.model.blocks import BLOCK_BYTES
from fhir_bridge.model.ingest import ChartRef, Normalized, Sealed, pack_values
from fhir_bridge.ports.overflow import Overflow

RECORDS_AT_ONCE: Final = 256
"""The most records in a block, which large ones close before."""
_NAMES_A_PATIENT: Final[Mapping[str, tuple[Any, ...]]] = {"patient": ("",)}
_IN_MANY: Final = {bytes(packed): packed for packed in map(pack_values, ({}, _NAMES_A_PATIENT))}
"""Search values of slim rows that many have: all but those with identifiers."""
_Value = TypeVar("_Value", bound=Hashable)
_sealed = msgspec.msgpack.Decoder(list[Sealed])

# Half of what pickling takes, both sides together (2026-11). Values of the index cross as they were packed.
encode: Final = msgspec.msgpack.Encoder().encode
"""Return a block of records as MessagePack: so they cross between processes, and lie on disk once sealed."""
decode: Final = msgspec.msgpack.Decoder(list[Normalized]).decode
"""Return the records of a block."""


class KeptRecords(Sequence[Normalized]):
    """Slim records in the order of their entries, read from disk block after block, each for a moment."""

    def __init__(self, overflow: Overflow) -> None:
        self._overflow = overflow
        self._whole, self._slim = _Blocks(overflow), _Blocks(overflow)
        self._charts: Mapping[int, ChartRef | None] = {}
        self._added = b""
        self._missing: frozenset[int] = frozenset()

    def put(self, block: bytes) -> None:
        """Keep a block, as :func:`encode` makes it."""
        records = decode(block)
        self._whole.put(block, records)
        slim = [_slim(record) for record in records]
        self._slim.put(encode(slim), slim)

    def say_charts(self, charts: Mapping[int, ChartRef | None]) -> None:
        """Learn whose records are that did not say it themselves; None for one that was none after all."""
        self._charts = charts
        self._missing = frozenset(index for index, chart in charts.items() if chart is None)

    def add_to_lineage(self, entry: bytes) -> None:
        """Have one more change, as JSON, at the end of the lineage of each."""
        self._added = entry

    @property
    def is_lost(self) -> bool:
        """True once a block could not be read: only the rooms can make the records again."""
        return self._whole.is_lost or self._slim.is_lost

    def __len__(self) -> int:
        return self._slim.count - len(self._missing)

    def __iter__(self) -> Iterator[Normalized]:
        known: dict[Hashable, Any] = {}
        for number in range(self._slim.number):
            for record in self._slim.block(number):
                if record.index not in self._missing:
                    chart = _shared(self._charts.get(record.index) or record.chart, known)
                    yield replace(_sharing(record, known), chart=chart, kept=self)

    @overload
    def __getitem__(self, index: int) -> Normalized: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Normalized]: ...
    def __getitem__(self, index: int | slice) -> Normalized | Sequence[Normalized]:
        return list(self)[index]

    def whole(self, index: int) -> Normalized:
        """Return the record of an entry whole; cheap in the order of the entries."""
        record = self._whole.of_entry(index)
        chart = self._charts.get(index) or record.chart
        lineage = appended(record.lineage, self._added) if self._added else record.lineage
        return replace(record, chart=chart, lineage=lineage)


class _Blocks:
    """Blocks of records in an overflow, found by the entry of a record; the one read last is held."""

    def __init__(self, overflow: Overflow) -> None:
        self._overflow = overflow
        self._numbers: list[int] = []
        self._firsts: list[int] = []
        self._opened: tuple[int, Sequence[Normalized]] = (-1, ())
        self.count = 0
        self.is_lost = False

    @property
    def number(self) -> int:
        return len(self._numbers)

    def put(self, block: bytes, records: Sequence[Normalized]) -> None:
        self._numbers.append(self._overflow.put(block))
        self._firsts.append(records[0].index)
        self.count += len(records)

    def block(self, number: int) -> Sequence[Normalized]:
        try:
            return decode(self._overflow.get(self._numbers[number]))
        except Unavailable:
            self.is_lost = True
            raise

    def of_entry(self, index: int) -> Normalized:
        number = bisect_right(self._firsts, index) - 1
        if self._opened[0] != number:
            self._opened = number, self.block(number)
        records = self._opened[1]
        return records[bisect_left(records, index, key=lambda record: record.index)]


class KeptSealed(Sequence[Sealed]):
    """Sealed records on disk, a block after the other."""

    def __init__(self, overflow: Overflow) -> None:
        self._overflow = overflow
        self._firsts: list[int] = []
        self._held: list[Sealed] = []
        self._held_bytes = self._count = 0

    def append(self, sealed: Sealed) -> None:
        """Add one; it is on disk with the block that it fills."""
        self._held.append(sealed)
        self._count += 1
        self._held_bytes += len(sealed.normalised) + len(sealed.original) + len(sealed.lineage)
        if len(self._held) == RECORDS_AT_ONCE or self._held_bytes >= BLOCK_BYTES:
            self._overflow.put(msgspec.msgpack.encode(self._held))
            self._firsts.append(self._count - len(self._held))
            self._held, self._held_bytes = [], 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sealed]:
        for number in range(len(self._firsts)):
            yield from self._block(number)
        yield from self._held

    @overload
    def __getitem__(self, index: int) -> Sealed: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sealed]: ...
    def __getitem__(self, index: int | slice) -> Sealed | Sequence[Sealed]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(self._count))]
        at = range(self._count)[index]
        if at >= self._count - len(self._held):
            return self._held[at - self._count]
        number = bisect_right(self._firsts, at) - 1
        return self._block(number)[at - self._firsts[number]]

    def _block(self, number: int) -> list[Sealed]:
        return _sealed.decode(self._overflow.get(number))


def _slim(record: Normalized) -> Normalized:
    row = record.row
    names_a_patient = any(row.values_of(name) for name in ("patient", "subject"))
    search = _NAMES_A_PATIENT if names_a_patient else {}
    if identifiers := row.values_of("identifier"):
        search = {**search, "identifier": identifiers}
    slim_row = replace(
        row, dated_us=None, labels=(), codes=(), data_period_us=None, search=pack_values(search), references=()
    )
    return replace(record, original=b"", content=b"", lineage=b"", row=slim_row)


def _sharing(record: Normalized, known: dict[Hashable, Any]) -> Normalized:
    """Return a slim record that holds the same objects as others for what is the same in many of them.

    Read from disk, each has its own: a record staged and its outcome took 1.9 kB together, and now 0.9 (2026-11).
    """
    row, kind = record.row, _shared(record.type, known)
    found = _IN_MANY.get(bytes(row.search))
    row = replace(
        row,
        type=kind,
        id=record.id,
        origin=_shared(row.origin, known),
        author=_shared(row.author, known),
        search=row.search.copy() if found is None else found,
    )
    return replace(record, type=kind, ruleset=_shared(record.ruleset, known), row=row)


def _shared(value: _Value, known: dict[Hashable, Any]) -> _Value:
    same: _Value = known.setdefault(value, value)
    return same


def in_blocks(records: Iterable[Normalized], most: int = RECORDS_AT_ONCE) -> Iterator[list[Normalized]]:
    """Yield the records, at most so many at a time, fewer of large ones."""
    return blocks.in_blocks(records, most, _weight)


def appended(lineage: bytes, entry: bytes) -> bytes:
    """Append to a JSON array without reading the numbers in it, whose text is kept."""
    return lineage[:-1] + (b"," if len(lineage) > 2 else b"") + entry + b"]"


def _weight(record: Normalized) -> int:
    return len(record.original) + len(record.content) + len(record.lineage)
