"""Exchange code maps: a table becomes a ConceptMap that others can read, a ConceptMap a table that people can edit.

Nothing a map says of a code is lost on either way; what a table cannot hold is refused, not dropped.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fhir_bridge.fhir.json import parse
from fhir_bridge.fhir.validate import validate_r4
from fhir_bridge.normalize.code_maps import NEEDS_COMMENT, CodeMap
from fhir_bridge.normalize.concept_maps import NoConceptMap, concept_map, read_concept_map
from fhir_bridge.normalize.map_files import as_csv
from fhir_bridge.normalize.pack import find_map
from fhir_bridge.normalize.yaml_text import did_you_mean

_HELD = frozenset({"resourceType", "url", "name", "status", "group", "id", "text", "meta"})
"""What a ConceptMap says beside its groups and a table has, makes anew or need not know."""


class NoSuchMap(Exception):
    """The pack has no map of this name; the message names the nearest."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A table made of a ConceptMap; ``left_out`` names what described the map and not its codes."""

    csv: str
    rows: int
    url: str
    left_out: tuple[str, ...]


def imported(name: str, data: bytes) -> Imported:
    """Make a table of a ConceptMap.

    Raises:
        NoConceptMap: It is none, or says of its codes what a table cannot hold.
    """
    codes = read_concept_map(name, data)
    body = parse(data)
    beyond = sorted(_beyond(codes, body))
    if beyond:
        problem = f"a table cannot hold its {' and '.join(beyond)}"
        raise NoConceptMap(f"{problem}: name the file itself under 'maps', file: codes/{name}.json")
    return Imported(as_csv(codes.rows), len(codes.rows), codes.url, tuple(each for each in body if each not in _HELD))


def _beyond(codes: CodeMap, body: dict[str, Any]) -> set[str]:
    elements = [element for group in body.get("group", ()) for element in group["element"]]
    found = {f"unmapped mode {each.mode}" for each in codes.unmapped}
    if any(row.depends for row in codes.rows):
        found.add("targets that depend on more than a code")
    if any("target" not in element for element in elements):
        found.add("codes without a target")
    if any(not row.code for row in codes.rows):
        found.add("elements without a code")
    return found


def exported(directory: Path, name: str) -> str:
    """Return a pack's map as the text of a ConceptMap: the file itself where it is one.

    Raises:
        NoSuchMap: The pack and its core have none of this name.
        NoConceptMap: It cannot be a valid one.
        RulesetBroken: The pack does not load.
    """
    found = find_map(directory, name)
    if isinstance(found, list):
        raise NoSuchMap(f"no map {name!r} in {directory}{did_you_mean(name, found)}")
    codes, path = found
    if path.suffix == ".json":
        return path.read_text("utf-8")
    for row in codes.rows:
        if row.equivalence in NEEDS_COMMENT and not row.comment:
            raise NoConceptMap(f"{row.code} is {row.equivalence} and says in no comment how far (R4 invariant cmd-1)")
    made = concept_map(codes)
    for issue in validate_r4(made):
        if issue.severity in ("error", "fatal"):
            raise NoConceptMap(f"{issue.expression}: {issue.diagnostics}")
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"
