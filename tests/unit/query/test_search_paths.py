"""Search paths run compiled; a plain walk over the JSON finds the same in every official example."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from fhir_bridge.fhir.json import render
from fhir_bridge.fhir.paths import compile_path
from fhir_bridge.fhir.tables import r4, search_parameters
from tests.unit.fhir.fhir_samples import examples

STEP = re.compile(
    r"\.(?:as\((?P<as>\w+)\)|ofType\((?P<of>\w+)\)|where\(resolve\(\) is (?P<to>\w+)\)"
    r"|where\((?P<key>\w+)='(?P<value>[^']*)'\)|(?P<name>\w+)(?!\())"
)


def walk(resource: dict[str, Any], path: str) -> list[Any] | None:
    """What a path selects, one step after another; None if this walk does not know one of the steps."""
    path = re.sub(r"^\((.*?) as (\w+)\)", r"\1.as(\2)", path)
    path = re.sub(r"^\((.*)\)", r"\1", path)
    found: list[Any] = [resource]
    at = path.index(".") if "." in path else len(path)
    narrowed = None
    while at < len(path):
        step = STEP.match(path, at)
        if step is None:
            return None
        following = STEP.match(path, step.end())
        narrowed = (following["as"] or following["of"]) if following else None
        if step["name"]:
            found = [value for item in found for value in children(item, step["name"], narrowed)]
        elif step["to"]:
            found = [item for item in found if points_to(item, step["to"])]
        elif step["key"]:
            found = [item for item in found if item.get(step["key"]) == step["value"]]
        at = step.end()
    return found


def children(item: Any, name: str, narrowed: str | None) -> Iterator[Any]:
    """Values of an element, whatever the type of a choice; only of the wanted type if one is wanted."""
    if not isinstance(item, dict):
        return
    for key, value in item.items():
        suffix = key.removeprefix(name) if key.startswith(name) else None
        if (key == name and not narrowed) or (suffix and fits(suffix, narrowed)):
            yield from value if isinstance(value, list) else [value]


TYPES = {f"{name[0].upper()}{name[1:]}" for name in r4().types} - {"Id"}
"""As they stand in a key; no choice of R4 has ``id``, and ``subscriberId`` is an element of its own."""


def fits(suffix: str, narrowed: str | None) -> bool:
    """Tell whether what follows an element's name in a key is a type, and the one that is wanted."""
    return suffix in TYPES and (narrowed is None or suffix.lower() == narrowed.lower())


def points_to(item: Any, type_name: str) -> bool:
    text = item.get("reference", "") if isinstance(item, dict) else ""
    return f"{type_name}/" in f"/{text}" or (isinstance(item, dict) and item.get("type") == type_name)


def test_compiled_paths_select_what_a_plain_walk_selects() -> None:
    table, told = search_parameters(), Counter[str]()
    for resource in examples("r4"):
        type_name = resource["resourceType"]
        if "contained" in resource:
            # The walk cannot tell the type of what #id points to.
            continue
        for row in table.get(type_name, {}).values():
            for branch in row.path.split(" | "):
                expected = walk(resource, branch)
                if expected is None or row.kind in ("composite", "special"):
                    told["unknown"] += 1
                    continue
                got = compile_path(branch, type_name, r4()).select(resource)
                valued = [each for each in got if not is_bare(each)]
                assert render(valued) == render([e for e in expected if e is not None]), (resource["id"], branch)
                told["found" if valued else "empty"] += 1
    assert told["found"] > 1_900
    assert told["unknown"] < told["found"] + told["empty"]


def is_bare(value: Any) -> bool:
    """A primitive that has extensions and no value."""
    return isinstance(value, dict) and set(value) <= {"extension", "id"}
