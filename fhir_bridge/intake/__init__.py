"""First room: decode strictly, split bundles, validate, refuse with reasons.

``receive`` is the front door; what it takes may be normalised, what it refuses names the place and what to change.
``receive_in_turn`` does the same for a large bundle without holding it decoded.
``examine`` and ``examine_rows`` only say what is wrong.
"""

from __future__ import annotations

from fhir_bridge.intake.limits import Limits
from fhir_bridge.intake.receiving import examine, examine_rows, receive, receive_in_turn, split_ndjson

__all__ = ["Limits", "examine", "examine_rows", "receive", "receive_in_turn", "split_ndjson"]
