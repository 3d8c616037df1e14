"""A resource while rules work on it, with the account of what they changed.

For the verbs. Nothing may touch ``body`` without telling :meth:`Draft.changed`; that is what lineage is made of.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fhir_bridge.errors import Issue
from fhir_bridge.model.ingest import Body, Change


@dataclass(frozen=True, slots=True)
class By:
    """The rule on whose behalf a change is made."""

    rule: str
    why: str


class Unconvertible(Exception):
    """A rule says that this record must not pass as converted; a signal to the loop, never seen outside."""

    def __init__(self, issue: Issue) -> None:
        super().__init__(issue.code)
        self.issue = issue


@dataclass(slots=True)
class Draft:
    """One resource on the bench.

    Attributes:
        body: The resource; verbs edit it in place.
        sent_type: Resource type in the sender's release.
        renamed: Where a rule gave an element another name: (id of its holder, new name) → the name that was sent.
        was_reshaped: Something changed that could have made the record invalid; it is validated again.
    """

    body: Body
    sent_type: str
    changes: list[Change] = field(default_factory=list)
    flags: list[Issue] = field(default_factory=list)
    renamed: dict[tuple[int, str], str] = field(default_factory=dict)
    was_reshaped: bool = False

    def changed(self, by: By, place: str, before: Any, after: Any, *, is_safe: bool = False) -> None:
        """Put a change on record; one that changes nothing is left out.

        Args:
            is_safe: The verb itself vouches that a valid record stays valid.
        """
        if before is not after and before != after:
            # Copies, as what stands in the body, or moved on in it, is edited by the rules that follow.
            self.changes.append(Change(place, copied(before), copied(after), by.rule, by.why))
            self.was_reshaped = self.was_reshaped or not is_safe

    def flag(self, code: str, diagnostics: str, place: str, severity: str = "information") -> None:
        """Put a data-quality finding on record; it never holds a value."""
        self.flags.append(Issue(severity, code, diagnostics, place))


def copied(value: Any) -> Any:
    """Return a deep copy of a JSON value; scalars are shared."""
    kind = type(value)
    if kind is dict:
        return {k: copied(v) if type(v) in _CONTAINERS else v for k, v in value.items()}
    if kind is list:
        return [copied(v) if type(v) in _CONTAINERS else v for v in value]
    return value


_CONTAINERS = (dict, list)
