"""Seal the rows of a chart's index in segments.

For the ingest line, which appends one with each commit, for whoever merges
segments or makes their rows anew, and for whoever opens a chart. Codes, dates
and names that search needs are here and nowhere else on disk.

A segment says which numbers it stands for, from ``first`` to its own: a
chart's segments in order leave no number out and none twice, so that one that
is missing, or was put back beside what it was merged into, shows.

Invariants:
    * a segment opens only as the numbered segment of the chart it was sealed for, so none can be moved or repeated;
    * rows come back in the order they were sealed, each with the batch that anchored it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from fhir_bridge.errors import EnvelopeBroken, IntegrityBroken
from fhir_bridge.fhir.indexing import DEFINITIONS_BYTES, definitions
from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.vault import Segment, StoredSegment
from fhir_bridge.seal.envelope import RANDOM_BYTES, open_bytes, pack, place, seal_bytes, unpack

INDEX = "index"
_FIRST_LAYOUT = b"\x01"
_LAYOUT = b"\x02"
_FIRST = slice(1, 9)
_DEFINITIONS = slice(9, 9 + DEFINITIONS_BYTES)

_encoder = msgspec.msgpack.Encoder()
_rows = msgspec.msgpack.Decoder(tuple[IndexRow, ...])
_packed_parts = msgspec.msgpack.Decoder(list[tuple[int | None, msgspec.Raw]])


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one batch, still packed."""

    batch: int
    packed: bytes

    def rows(self) -> tuple[IndexRow, ...]:
        """Unpack the rows.

        Raises:
            EnvelopeBroken: They were written by a version that this one does not understand.
        """
        try:
            return _rows.decode(self.packed)
        except msgspec.MsgspecError:
            raise EnvelopeBroken("index segment holds no rows of this version") from None


@dataclass(frozen=True, slots=True)
class OpenedSegment:
    """A segment opened: it stands for the numbers from ``first`` to ``number``.

    ``definitions`` names those by which its rows were made; empty where it does not say.
    """

    chart: str
    first: int
    number: int
    definitions: bytes
    parts: tuple[Part, ...]

    @property
    def is_of_today(self) -> bool:
        """True if its rows are what the definitions in use would make."""
        return self.definitions == definitions()


def seal_segment(
    chart_key: bytes, chart: str, number: int, rows: Sequence[IndexRow], randomness: Randomness
) -> Segment:
    """Seal the rows that one commit appends to a chart's index.

    Args:
        number: Place among the chart's segments, counted from 0.
    """
    # The batch is numbered in the commit; the vault's own column has it.
    return _seal(chart_key, chart, number, number, definitions(), [(None, rows)], randomness)


def seal_parts(
    chart_key: bytes,
    chart: str,
    first: int,
    number: int,
    parts: Sequence[tuple[int, Sequence[IndexRow]]],
    randomness: Randomness,
) -> Segment:
    """Seal rows, made by the definitions in use, as the segment that stands for the numbers from ``first`` on."""
    return _seal(chart_key, chart, first, number, definitions(), parts, randomness)


def seal_merged(chart_key: bytes, segments: Sequence[OpenedSegment], randomness: Randomness) -> Segment:
    """Seal consecutive segments of one chart as one, under the number of the last.

    Raises:
        ValueError: They are not consecutive, or their rows were made by different definitions.
    """
    check_numbers(segments, start=segments[0].first)
    if len({(each.chart, each.definitions) for each in segments}) != 1:
        raise ValueError("segments of different charts or definitions are not merged")
    parts = [(part.batch, msgspec.Raw(part.packed)) for each in segments for part in each.parts]
    last = segments[-1]
    return _seal(chart_key, last.chart, segments[0].first, last.number, last.definitions, parts, randomness)


def open_segment(chart_key: bytes, segment: StoredSegment | Segment) -> tuple[IndexRow, ...]:
    """Open a segment for its rows alone.

    Raises:
        EnvelopeBroken: Other key, chart or number, or changed bytes.
    """
    return tuple(row for part in open_parts(chart_key, segment).parts for row in part.rows())


def open_parts(chart_key: bytes, segment: StoredSegment | Segment) -> OpenedSegment:
    """Open a segment.

    Raises:
        EnvelopeBroken: Other key, chart or number, or changed bytes.
    """
    padded = open_bytes(chart_key, INDEX, _place(segment.chart, segment.number), segment.ciphertext)
    batch = segment.batch if isinstance(segment, StoredSegment) else -1
    if padded[:1] == _FIRST_LAYOUT:
        return OpenedSegment(segment.chart, segment.number, segment.number, b"", (Part(batch, unpack(padded, 1)),))
    if padded[:1] != _LAYOUT:
        raise EnvelopeBroken("index segment of a layout this version does not know")
    try:
        found = _packed_parts.decode(unpack(padded, _DEFINITIONS.stop))
    except msgspec.MsgspecError:
        raise EnvelopeBroken("index segment holds no rows of this version") from None
    parts = tuple(Part(batch if number is None else number, bytes(packed)) for number, packed in found)
    first = int.from_bytes(padded[_FIRST], "big")
    return OpenedSegment(segment.chart, first, segment.number, padded[_DEFINITIONS], parts)


def check_numbers(segments: Sequence[OpenedSegment], *, start: int = 0) -> None:
    """Check that segments in order leave no number out and none twice.

    Raises:
        IntegrityBroken: One is missing, or stands beside what it was merged into.
    """
    for each in segments:
        if each.first != start or each.number < each.first:
            raise IntegrityBroken("a chart's index segments do not follow each other; run fsck")
        start = each.number + 1


def _seal(
    chart_key: bytes,
    chart: str,
    first: int,
    number: int,
    made_by: bytes,
    parts: Sequence[tuple[int | None, object]],
    randomness: Randomness,
) -> Segment:
    packed = pack([_LAYOUT, first.to_bytes(8, "big"), made_by], _encoder.encode(parts))
    sealed = seal_bytes(chart_key, INDEX, _place(chart, number), packed, randomness.token(RANDOM_BYTES))
    return Segment(chart, number, sealed)


def _place(chart: str, number: int) -> bytes:
    return place(INDEX, chart, str(number))
