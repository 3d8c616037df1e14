"""Read the snapshot of a StructureDefinition into a tree of elements and slices.

For the compiler of profiles. Ids of elements say where they belong (FHIR R4 elementdefinition.html#id):
``Patient.extension:race.url`` is the child ``url`` of the slice ``race`` of ``Patient.extension``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fhir_bridge.errors import ProfileBroken

Json = dict[str, Any]
HL7 = "http://hl7.org/fhir/StructureDefinition/"
"""What the canonical urls of R4's own definitions begin with."""


@dataclass(slots=True)
class Node:
    """One element definition and what stands below it.

    Attributes:
        id: As in the snapshot.
        row: The ElementDefinition.
        children: Name of a child element → its definitions.
        parts: Slices of this slice by name.
    """

    id: str
    row: Json
    children: dict[str, Group] = field(default_factory=dict)
    parts: dict[str, Node] = field(default_factory=dict)

    @property
    def min(self) -> int:
        """Least number of values."""
        return int(self.row.get("min", 0))

    @property
    def max(self) -> int | None:
        """Greatest number of values; None for any."""
        most = self.row.get("max", "*")
        return None if most == "*" else int(most)

    def value(self, stem: str) -> Any:
        """What stands in ``stem[x]`` of the row (fixed, pattern), or None."""
        for key, value in self.row.items():
            if key.startswith(stem) and key[len(stem) : len(stem) + 1].isupper():
                return value
        return None

    def types(self) -> Iterator[Json]:
        """The types that the element may have."""
        yield from self.row.get("type", ())

    def profiles(self, code: str | None = None) -> list[str]:
        """Canonical urls of the profiles of its types, without versions."""
        return [
            str(url).partition("|")[0]
            for each in self.types()
            if code in (None, each.get("code"))
            for url in each.get("profile", ())
        ]


@dataclass(slots=True)
class Group:
    """The definition of a child element, and those of its slices by name."""

    whole: Node | None = None
    slices: dict[str, Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One profile: its tree and every node by id."""

    url: str
    type: str
    root: Node
    nodes: dict[str, Node]


def read_snapshot(definition: Json) -> Snapshot:
    """Return the tree of a StructureDefinition.

    Raises:
        ProfileBroken: It has no snapshot, or an element's id leads nowhere.
    """
    url = str(definition.get("url"))
    rows = definition.get("snapshot", {}).get("element", [])
    if not rows:
        raise ProfileBroken(
            f"{url} has no snapshot, and none is made here: take the published package, whose profiles have one"
        )
    nodes: dict[str, Node] = {}
    for row in rows:
        node = Node(str(row.get("id", "")), row)
        if nodes:
            _enter(node, nodes, url)
        nodes[node.id] = node
    root = nodes[str(rows[0].get("id", ""))]
    return Snapshot(url, str(definition.get("type")), root, nodes)


def _enter(node: Node, nodes: dict[str, Node], url: str) -> None:
    above, _, last = node.id.rpartition(".")
    parent = nodes.get(above)
    if parent is None:
        raise ProfileBroken(f"{url}: the id of the element {node.id or node.row.get('path')} leads to no element")
    name, _, part = last.partition(":")
    group = parent.children.setdefault(name, Group())
    if not part:
        group.whole = node
        return
    outer, _, inner = part.rpartition("/")
    # Some publishers write a "/" into the name of a slice that has no slice above it.
    sliced = group.slices.get(outer)
    if sliced is None:
        group.slices[part] = node
    else:
        sliced.parts[inner] = node
