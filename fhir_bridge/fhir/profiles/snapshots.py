"""Read a StructureDefinition into a tree of elements and slices, from its snapshot or else its differential.

For the compiler of profiles. Ids of elements say where they belong (FHIR R4 elementdefinition.html#id):
``Patient.extension:race.url`` is the child ``url`` of the slice ``race`` of ``Patient.extension``.

A differential holds all that a profile adds to its base, and the compiler compiles nothing else; so it does as well
as a snapshot where the base is judged beside it.
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
    """One profile: its tree and every node by id.

    ``base`` is the profile that must be judged beside it; empty where the tree holds everything.
    """

    url: str
    type: str
    root: Node
    nodes: dict[str, Node]
    base: str


def read_snapshot(definition: Json) -> Snapshot:
    """Return the tree of a StructureDefinition.

    Raises:
        ProfileBroken: It has neither snapshot nor differential.
    """
    url, type_name = str(definition.get("url")), str(definition.get("type"))
    base = ""
    rows = definition.get("snapshot", {}).get("element", [])
    if not rows:
        rows = definition.get("differential", {}).get("element", [])
        base = str(definition.get("baseDefinition", "")).partition("|")[0]
    if not rows:
        raise ProfileBroken(f"{url} has neither a snapshot nor a differential")
    root = Node(type_name, {"path": type_name})
    nodes = {type_name: root}
    for row, id_ in zip(rows, _ids(rows), strict=True):
        node = _node(id_, nodes, url)
        node.row.update(row)
    return Snapshot(url, type_name, root, nodes, base)


def _ids(rows: list[Json]) -> Iterator[str]:
    """The ids of elements; made from path and slice where they are not written."""
    current: dict[str, str] = {}
    for row in rows:
        path = str(row.get("path", ""))
        above, _, name = path.rpartition(".")
        made = f"{current.get(above, above)}.{name}" if above else path
        made = f"{made}:{row['sliceName']}" if "sliceName" in row and above else made
        current = {known: id_ for known, id_ in current.items() if not known.startswith(path + ".")}
        current[path] = str(row.get("id") or made)
        yield current[path]


def _node(id_: str, nodes: dict[str, Node], url: str) -> Node:
    """The node of an id, entered below those that lead to it; a differential leaves out what it does not change."""
    found = nodes.get(id_)
    if found is not None:
        return found
    above, _, last = id_.rpartition(".")
    if not above:
        raise ProfileBroken(f"{url}: the element {id_} is not one of {next(iter(nodes))}")
    parent = _node(above, nodes, url)
    name, _, part = last.partition(":")
    node = nodes[id_] = Node(id_, {"path": f"{parent.row['path']}.{name}"})
    group = parent.children.setdefault(name, Group())
    if not part:
        group.whole = node
        return node
    outer, _, inner = part.rpartition("/")
    # Some publishers write a "/" into the name of a slice that has no slice above it.
    sliced = group.slices.get(outer)
    if sliced is None:
        group.slices[part] = node
    else:
        sliced.parts[inner] = node
    return node
