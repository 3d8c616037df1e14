"""What an index row takes from a record's body, and the name of the definitions by which it does.

For the ingest line's rooms, which make rows, and for whoever makes them anew
when definitions have changed: search parameters, the elements that date a
record, the elements that say what it is.

Invariants:
    * two versions of this program with the same :func:`definitions` take the same values from the same body.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

from msgspec import structs

from fhir_bridge.fhir.json import parse
from fhir_bridge.fhir.search import extract
from fhir_bridge.fhir.subjects import codes
from fhir_bridge.fhir.tables import search_parameters
from fhir_bridge.fhir.timeline import DATING_ELEMENTS, dated
from fhir_bridge.model.ingest import IndexRow, pack_values

EXTRACTION = 4
"""Raise this whenever the code takes other values from a body than before, with the same tables."""

DEFINITIONS_BYTES = 16


@cache
def definitions() -> bytes:
    """Return the digest that stands for the definitions and the code that rows are made with."""
    parts: list[Any] = [EXTRACTION, sorted(DATING_ELEMENTS.items())]
    for base, parameters in sorted(search_parameters().items()):
        parts.append((base, sorted(map(repr, parameters.values()))))
    return hashlib.sha256(b"fhir-bridge/index-definitions/1\0" + repr(parts).encode()).digest()[:DEFINITIONS_BYTES]


def renewed(row: IndexRow, body: bytes) -> IndexRow:
    """Return a row with the values that these definitions take from the body it was made of.

    Who wrote it, when, its labels and what it refers to stay as they were decided when the record came.

    Args:
        body: The exact bytes that are stored and served; empty for a tombstone.
    """
    if row.deleted:
        return row
    resource = parse(body)
    # Rows are made before version and time are put in.
    for ours in ("versionId", "lastUpdated"):
        resource["meta"].pop(ours, None)
    start, period = dated(resource)
    return structs.replace(
        row, dated_us=start, data_period_us=period, codes=codes(resource), search=pack_values(extract(resource))
    )
