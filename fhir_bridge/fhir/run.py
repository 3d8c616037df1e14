"""What one validation carries along: the resource, the findings, and places that cost nothing until needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.reference_text import contained_types

# A sender is helped by the first hundred faults; a hostile one gets no more work out of us.
MAX_ISSUES = 100

Place = tuple[Optional["Place"], str | int]
"""Parent place and one more step: an element name or an index. Written out only for a finding."""


def written(place: Place) -> str:
    """Write a place as a FHIRPath-like path, ``Patient.name[0].family``."""
    steps: list[str] = []
    here: Place | None = place
    while here is not None:
        here, step = here
        steps.append(f"[{step}]" if type(step) is int else f".{step}")
    return "".join(reversed(steps))[1:]


class Run:
    """One validation of one resource (contained ones included).

    ``found`` counts the errors; ``issues`` keeps the first ``MAX_ISSUES`` findings, at most half of them flags.
    """

    __slots__ = (
        "contained",
        "container",
        "entries",
        "found",
        "fragments",
        "issues",
        "known_keys",
        "resource",
        "types_by_url",
    )

    def __init__(
        self,
        resource: dict[str, Any],
        known_keys: frozenset[str],
        entries: bool = True,
        types_by_url: Mapping[str, str] | None = None,
    ) -> None:
        """Start with no findings; ``resource`` is the outermost one."""
        self.types_by_url = types_by_url or {}
        self.container = resource
        self.contained = contained_types(resource)
        self.resource = resource
        self.known_keys = known_keys
        self.entries = entries
        self.fragments: list[tuple[str, Place, dict[str, Any]]] = []
        self.issues: list[Issue] = []
        self.found = 0

    def error(self, code: str, text: str, place: Place) -> None:
        """Add a finding that refuses the record."""
        self._add("error", code, text, place)

    def flag(self, code: str, text: str, place: Place) -> None:
        """Add a data-quality finding that does not refuse the record."""
        self._add("warning", code, text, place)

    def _add(self, severity: str, code: str, text: str, place: Place) -> None:
        # Flags get half the room, so that no error is lost behind them, and keep no rule from being looked at.
        self.found += severity == "error"
        room = MAX_ISSUES if severity == "error" else MAX_ISSUES // 2
        if len(self.issues) < room:
            self.issues.append(Issue(severity, code, text, written(place)))
