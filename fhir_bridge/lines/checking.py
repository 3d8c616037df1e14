"""What a check of everything reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was committed, and where; holds pseudonyms only."""

    place: str
    what: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A line for whoever waits."""

    text: str
