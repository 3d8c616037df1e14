"""A resource while rules work on it, with the account of what they changed.

For the verbs. Nothing may touch ``body`` without telling :meth:`Draft.changed`; that is what lineage is made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec import structs

from fhir_bridge.errors import Issue
from fhir_bridge.model.ingest import Body, Change

OWN: Mapping[str, str] = {"": ""}
"""Sources of a value that a rule puts in place of another without looking at it."""


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
        foreign: Places of codes that a rule was to translate, whose systems its map does not know → what the rule
            says of such; ``known`` are those that another rule knew.
    """

    body: Body
    sent_type: str
    changes: list[Change] = field(default_factory=list)
    flags: list[Issue] = field(default_factory=list)
    renamed: dict[tuple[int, str], str] = field(default_factory=dict)
    was_reshaped: bool = False
    foreign: dict[str, str] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)

    def changed(
        self,
        by: By,
        place: str,
        before: Any,
        after: Any,
        *,
        is_safe: bool = False,
        sources: Mapping[str, str] | None = None,
        table: str = "",
    ) -> None:
        """Put a change on record as it is now; one that changes nothing is left out.

        Args:
            is_safe: The verb itself vouches that a valid record stays valid.
            sources: Where parts of ``after`` come from (:class:`~fhir_bridge.model.ingest.Change`). Each must still
                stand there: what leaves its place is put on record after what it became.
            table: What the verb went by.
        """
        if before is not after and before != after:
            # Copies: later rules work on the very objects, and what is on record must not follow them.
            before = copied(before) if type(before) in _CONTAINERS else before
            after = copied(after) if type(after) in _CONTAINERS else after
            self.changes.append(Change(place, before, after, by.rule, by.why, sources or None, table))
            self.was_reshaped = self.was_reshaped or not is_safe

    def moved(self, by: By, old: str, new: str, value: Any, held: Any = None) -> None:
        """Put on record that ``value`` stands at ``new`` from now on and no longer at ``old``."""
        self.changed(by, new, held, value, sources={"": old})
        self.changed(by, old, value, None)

    def flag(self, code: str, diagnostics: str, place: str, severity: str = "information") -> None:
        """Put a data-quality finding on record; it never holds a value."""
        self.flags.append(Issue(severity, code, diagnostics, place))


def below(change: Change, place: str) -> Change:
    """Return a change of a contained resource as one of the resource that holds it at ``place``."""
    sources = change.sources and {to: within(place, source) for to, source in change.sources.items()}
    return structs.replace(change, element=within(place, change.element), sources=sources)


def within(place: str, inner: str) -> str:
    """Return a place in a contained resource as one in the resource that holds it at ``place``."""
    return f"{place}.{inner.partition('.')[2]}" if "." in inner else place


def copied(value: Any) -> Any:
    """Return a deep copy of a JSON value; scalars are shared."""
    kind = type(value)
    if kind is dict:
        return {k: copied(v) if type(v) in _CONTAINERS else v for k, v in value.items()}
    if kind is list:
        return [copied(v) if type(v) in _CONTAINERS else v for v in value]
    return value


_CONTAINERS = (dict, list)
