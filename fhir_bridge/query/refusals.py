"""Refuse a search that cannot be answered as asked."""

from __future__ import annotations

import re

from fhir_bridge.errors import Issue, RecordRefused

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z_-]{0,40}(?::[A-Za-z]{1,20})?")


class QueryRefused(RecordRefused):
    """The request must change; ``issues`` name the parameter and never its value."""

    code = "query-refused"


def unsupported(name: str, what: str = "is not a search parameter that is supported here") -> Issue:
    """Return the issue for a parameter or modifier that we do not have."""
    return Issue("error", "not-supported", f"{shown(name)} {what}", shown(name))


def invalid(name: str, what: str) -> Issue:
    """Return the issue for a value that does not fit its parameter."""
    return Issue("error", "invalid", f"{shown(name)} {what}", shown(name))


def shown(name: str) -> str:
    """Return a parameter's name as far as it may be echoed: names may have been mistaken for values."""
    return name if _PLAIN_NAME.fullmatch(name) else "a parameter"
