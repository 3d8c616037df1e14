"""Code maps as FHIR ConceptMap (R4 conceptmap.html): read one, make one.

For the loader of packs and for the exchange of tables. What is read must be a valid ConceptMap; what is made is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fhir_bridge.fhir.json import NotStrictJson, parse
from fhir_bridge.fhir.validate import validate_r4
from fhir_bridge.normalize.code_maps import CodeMap, MapRow, Target, Unmapped


class NoConceptMap(Exception):
    """The bytes are no valid ConceptMap of R4; the message says what is wrong and where."""


def read_concept_map(name: str, data: bytes) -> CodeMap:
    """Read a ConceptMap.

    Raises:
        NoConceptMap: It is none, or not a valid one.
    """
    try:
        body = parse(data)
    except NotStrictJson as error:
        raise NoConceptMap(f"not strict JSON: {error.issues[0].diagnostics}") from error
    if body.get("resourceType") != "ConceptMap":
        raise NoConceptMap("the resource is no ConceptMap")
    for issue in validate_r4(body):
        if issue.severity in ("error", "fatal"):
            raise NoConceptMap(f"{issue.expression}: {issue.diagnostics}")
    groups = body.get("group", [])
    return CodeMap(
        name,
        tuple(row for group in groups for row in _rows(group)),
        url=body.get("url", ""),
        version=body.get("version", ""),
        source_set=_set(body, "source"),
        target_set=_set(body, "target"),
        unmapped=tuple(_unmapped(group) for group in groups if "unmapped" in group),
    )


def _set(body: dict[str, Any], end: str) -> str:
    found: str = body.get(f"{end}Canonical") or body.get(f"{end}Uri") or ""
    return found


def _rows(group: dict[str, Any]) -> Iterator[MapRow]:
    for element in group["element"]:
        for target in element.get("target", ()):
            yield MapRow(
                group.get("source", ""),
                element.get("code", ""),
                Target(group.get("target", ""), target.get("code", ""), target.get("display", "")),
                target["equivalence"],
                display=element.get("display", ""),
                comment=target.get("comment", ""),
                system_version=group.get("sourceVersion", ""),
                target_version=group.get("targetVersion", ""),
                depends=bool(target.get("dependsOn") or target.get("product")),
            )


def _unmapped(group: dict[str, Any]) -> Unmapped:
    given = group["unmapped"]
    target = Target(group.get("target", ""), given.get("code", ""), given.get("display", ""))
    return Unmapped(given["mode"], group.get("source", ""), target, given.get("url", ""))


def concept_map(codes: CodeMap) -> dict[str, Any]:
    """Return a map as ConceptMap; rows of one source and target system are one group."""
    made: dict[str, Any] = {"resourceType": "ConceptMap"}
    if codes.url:
        made["url"] = codes.url
    if codes.version:
        made["version"] = codes.version
    made |= {"name": codes.name, "status": "active"}
    for end, named in (("source", codes.source_set), ("target", codes.target_set)):
        if named:
            made[f"{end}Canonical"] = named
    groups: dict[tuple[str, ...], list[MapRow]] = {}
    for row in codes.rows:
        key = (row.system, row.system_version, row.target.system, row.target_version)
        groups.setdefault(key, []).append(row)
    if groups:
        made["group"] = [_group(key, rows, codes.unmapped) for key, rows in groups.items()]
    return made


def _group(key: tuple[str, ...], rows: Sequence[MapRow], unmapped: Sequence[Unmapped]) -> dict[str, Any]:
    names = ("source", "sourceVersion", "target", "targetVersion")
    made: dict[str, Any] = {name: value for name, value in zip(names, key, strict=True) if value}
    elements: dict[tuple[str, str], list[MapRow]] = {}
    for row in rows:
        elements.setdefault((row.code, row.display), []).append(row)
    made["element"] = [
        {
            **{name: text for name, text in (("code", code), ("display", display)) if text},
            "target": [_target(row) for row in found],
        }
        for (code, display), found in elements.items()
    ]
    for each in unmapped:
        if (each.system, each.target.system) == (key[0], key[2]):
            given = {"mode": each.mode, "code": each.target.code, "display": each.target.display, "url": each.url}
            made["unmapped"] = {name: value for name, value in given.items() if value}
    return made


def _target(row: MapRow) -> dict[str, Any]:
    given = {"code": row.target.code, "display": row.target.display, "equivalence": row.equivalence}
    return {name: value for name, value in (given | {"comment": row.comment}).items() if value}
