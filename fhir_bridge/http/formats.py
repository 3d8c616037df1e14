"""Which formats an answer may have: JSON, and a clear refusal where only something else is accepted.

R4 http.html#mime-type gives the names of JSON; ``_format`` goes before the
Accept header, whose ranges and weights are those of RFC 9110 section 12.5.1.
What cannot be read as a header accepts everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from fastapi import Request

from fhir_bridge.errors import FormatUnacceptable, Issue

_JSON = frozenset({"json", "application/json", "application/fhir+json", "application/json+fhir", "text/json"})
"""What means JSON; the last but one is from before R4 and still sent by clients."""

_SERVED = ("application/fhir+json", "application/json", "application/json+fhir", "text/json")


def require_json(request: Request) -> None:
    """Refuse a request whose ``_format``, or without it whose Accept header, leaves no JSON.

    Raises:
        FormatUnacceptable: Before anything is looked up or written.
    """
    query: bytes = request.scope["query_string"]
    # Nothing is read from a query that cannot name it; a percent sign may stand for any of its letters.
    wanted = request.query_params.getlist("_format") if b"_format" in query or b"%" in query else ()
    if wanted:
        require_formats(wanted)
    elif not _accepts_json(",".join(request.headers.getlist("accept"))):
        raise _refusal()


def require_formats(wanted: Iterable[str]) -> None:
    """Raise FormatUnacceptable unless every value of ``_format`` means JSON, or anything."""
    for value in wanted:
        # A plus that was not escaped arrives as a space.
        name = value.partition(";")[0].strip().lower().replace(" ", "+")
        if name not in _JSON | {"", "*/*"}:
            raise _refusal()


@lru_cache(maxsize=256)
def _accepts_json(header: str) -> bool:
    """Tell whether a media type of ours has a weight above 0; the most particular range that covers one decides."""
    weights: dict[str, float] = {}
    for each in header.split(","):
        name, *parameters = (part.strip().lower() for part in each.split(";"))
        if name:
            weights[name] = max(weights.get(name, 0.0), _weight(parameters))
    covering = [
        [weights[n] for n in (media, f"{media.partition('/')[0]}/*", "*/*") if n in weights] for media in _SERVED
    ]
    return not weights or any(found and found[0] > 0 for found in covering)


def _weight(parameters: Iterable[str]) -> float:
    for each in parameters:
        name, _, value = each.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 1.0
    return 1.0


def _refusal() -> FormatUnacceptable:
    return FormatUnacceptable([Issue("error", "not-supported", "answers are JSON: accept application/fhir+json")])
