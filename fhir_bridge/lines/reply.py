"""What a line gives the entrance to send: status, exact bytes, headers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.json import render
from fhir_bridge.fhir.outcome import operation_outcome

FHIR_JSON = "application/fhir+json"
NO_STORE = (("Cache-Control", "no-store"),)
"""For every answer that holds records: no cache on the way may keep it beyond a withdrawal."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer in plain values; ``headers`` leave out content type and length."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = FHIR_JSON


def outcome_reply(status: int, issues: Sequence[Issue], headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    """Return an OperationOutcome as an answer."""
    return Reply(status, render(operation_outcome(list(issues))), headers)


def version_headers(version: str, last_updated: datetime, location: str | None = None) -> tuple[tuple[str, str], ...]:
    """Return ETag, Last-Modified and, for a write, Location."""
    headers = [("ETag", f'W/"{version}"'), ("Last-Modified", format_datetime(last_updated, usegmt=True))]
    if location is not None:
        headers.append(("Location", location))
    return tuple(headers)
