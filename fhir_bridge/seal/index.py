"""Seal the rows of a chart's index in append-only segments.

For the ingest line, which appends, and for whoever opens a chart. Codes, dates
and names that search needs are here and nowhere else on disk.

Invariants:
    * a segment opens only as the numbered segment of the chart it was sealed for, so none can be moved or repeated;
    * rows come back in the order they were sealed.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fhir_bridge.errors import EnvelopeBroken
from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.vault import Segment, StoredSegment
from fhir_bridge.seal.envelope import RANDOM_BYTES, open_bytes, pack, place, seal_bytes, unpack

INDEX = "index"
_LAYOUT = b"\x01"

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[IndexRow, ...])


def seal_segment(
    chart_key: bytes, chart: str, number: int, rows: Sequence[IndexRow], randomness: Randomness
) -> Segment:
    """Seal the rows that one commit appends to a chart's index.

    Args:
        number: Place among the chart's segments, counted from 0.
    """
    packed = pack([_LAYOUT], _encoder.encode(tuple(rows)))
    sealed = seal_bytes(chart_key, INDEX, _place(chart, number), packed, randomness.token(RANDOM_BYTES))
    return Segment(chart, number, sealed)


def open_segment(chart_key: bytes, segment: StoredSegment | Segment) -> tuple[IndexRow, ...]:
    """Open a segment.

    Raises:
        EnvelopeBroken: Other key, chart or number, or changed bytes.
    """
    padded = open_bytes(chart_key, INDEX, _place(segment.chart, segment.number), segment.ciphertext)
    if padded[:1] != _LAYOUT:
        raise EnvelopeBroken("index segment of a layout this version does not know")
    try:
        return _decoder.decode(unpack(padded, 1))
    except msgspec.MsgspecError:
        raise EnvelopeBroken("index segment holds no rows of this version") from None


def _place(chart: str, number: int) -> bytes:
    return place(INDEX, chart, str(number))
