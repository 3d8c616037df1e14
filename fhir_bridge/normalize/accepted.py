"""What a pack's author has looked at and lets stand: findings of lint, each with the reason.

Read with ``source.yaml``, so that it is under the pack's hash and whoever approves the pack sees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fhir_bridge.normalize.yaml_text import Mapping, Node, Spot

KEYS = ("finding", "of", "why")


@dataclass(frozen=True, slots=True)
class Accepted:
    """A kind of finding that is accepted where its message names ``name``; ``spot`` is where the name stands."""

    finding: str
    name: str
    why: str
    spot: Spot


def read_accepted(source: Mapping) -> list[Accepted]:
    """Return what ``source.yaml`` accepts, one for each name.

    Raises:
        RulesetBroken: With file, line and column.
    """
    node = source.get("accepted")
    return [] if node is None else [each for row in node.items("'accepted'") for each in _names(row)]


def _names(row: Node) -> Iterator[Accepted]:
    given = row.mapping("a finding that is accepted")
    given.only(KEYS, "key")
    finding, why = given.require("finding").text("finding"), given.require("why").text("why")
    for name in given.require("of").items("'of'"):
        yield Accepted(finding, name.text("'of'"), why, name.spot)
