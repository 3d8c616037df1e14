"""Read a stored original again: FHIR as it came, or what the pack's source formats make of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fhir_bridge.errors import RecordRefused
from fhir_bridge.fhir.json import parse
from fhir_bridge.model.ingest import Body
from fhir_bridge.ports.formats import Drawn, SourceFormat


def fhir_in(original: bytes) -> Body | None:
    """Return an original as decoded JSON, a resource or a Bundle's entry; None if it is of another format."""
    try:
        return parse(original)
    except RecordRefused:
        return None


def reread(original: bytes, formats: Sequence[SourceFormat]) -> Iterator[Drawn]:
    """Yield the parts that an original of another format can have been; of several, identity tells which it is."""
    for each in formats:
        for drawn in each.reread(original):
            if drawn.resource is not None:
                yield drawn
