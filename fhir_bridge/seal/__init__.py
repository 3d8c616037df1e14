"""Room 3: put a normalised record into envelopes that only its chart's key opens, and commit to it."""

from fhir_bridge.seal.blob import open_blob, seal_blob
from fhir_bridge.seal.index import (
    OpenedSegment,
    check_numbers,
    open_parts,
    open_segment,
    seal_merged,
    seal_parts,
    seal_segment,
)
from fhir_bridge.seal.record import (
    LINEAGE,
    NORMALISED,
    ORIGINAL,
    Opened,
    OpenedPart,
    RecordPlace,
    open_contents,
    open_normalised,
    open_part,
    seal_record,
)

__all__ = [
    "LINEAGE",
    "NORMALISED",
    "ORIGINAL",
    "Opened",
    "OpenedPart",
    "OpenedSegment",
    "RecordPlace",
    "check_numbers",
    "open_blob",
    "open_contents",
    "open_normalised",
    "open_part",
    "open_parts",
    "open_segment",
    "seal_blob",
    "seal_merged",
    "seal_parts",
    "seal_record",
    "seal_segment",
]
