"""What a line gives the entrance to send: status, exact bytes, headers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime, parsedate_to_datetime

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.json import render
from fhir_bridge.fhir.outcome import operation_outcome

FHIR_JSON = "application/fhir+json"
NO_STORE = (("Cache-Control", "no-store"),)
"""For every answer that holds records: no cache on the way may keep it beyond a withdrawal."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer in plain values; ``headers`` leave out content type and length.

    ``stream`` gives the body in blocks, instead of ``body``; if it raises, the answer must not end as a whole one.
    """

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = FHIR_JSON
    stream: AsyncIterator[bytes] | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """What a reader says it holds already: ``If-None-Match`` and ``If-Modified-Since`` as sent, or None."""

    if_none_match: str | None = None
    if_modified_since: str | None = None

    def is_current(self, version: str, last_updated: datetime) -> bool:
        """Tell whether it holds this version (RFC 9110 section 13.2.2: a time counts only where no tag is given)."""
        if self.if_none_match is not None:
            tags = [each.strip().removeprefix("W/").strip('"') for each in self.if_none_match.split(",")]
            return tags == ["*"] or version in tags
        if self.if_modified_since is None:
            return False
        try:
            since = parsedate_to_datetime(self.if_modified_since)
        except (ValueError, OverflowError):
            # Some numbers are too large for a date's fields, and are told so in another way.
            return False
        # Last-Modified is told in whole seconds. A date without a zone is none of HTTP's.
        return since.tzinfo is not None and last_updated.replace(microsecond=0) <= since


NOTHING_HELD = Held()


def outcome_reply(status: int, issues: Sequence[Issue], headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    """Return an OperationOutcome as an answer."""
    return Reply(status, render(operation_outcome(list(issues))), headers)


def version_headers(version: str, last_updated: datetime, location: str | None = None) -> tuple[tuple[str, str], ...]:
    """Return ETag, Last-Modified and, for a write, Location."""
    headers = [("ETag", f'W/"{version}"'), ("Last-Modified", format_datetime(last_updated, usegmt=True))]
    if location is not None:
        headers.append(("Location", location))
    return tuple(headers)
