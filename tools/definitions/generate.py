"""Make the compact FHIR tables of ``fhir_bridge/fhir/definitions`` from HL7's own packages.

For the developer who updates them; nothing here runs in the service. Unpack the npm packages
``hl7.fhir.r4.examples`` 4.0.1, ``hl7.fhir.r4.expansions`` 4.0.1, ``hl7.fhir.r3.examples`` 3.0.2,
``hl7.fhir.r4b.examples`` 4.3.0, ``hl7.fhir.r5.core`` 5.0.0 and ``hl7.fhir.r5.expansions`` 5.0.0 (all CC0-1.0)
and run::

    python tools/definitions/generate.py --r4 DIR --r4-expansions DIR --r3 DIR --r4b DIR --r5 DIR \\
        --r5-expansions DIR --out fhir_bridge/fhir/definitions

The output depends on the input alone: same packages, same bytes. R4B is written as what differs from R4: almost
nothing does.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]

SYSTEM_TYPE = "http://hl7.org/fhirpath/System."
FHIR_TYPE = "http://hl7.org/fhir/StructureDefinition/structuredefinition-fhir-type"
PROFILE = "http://hl7.org/fhir/StructureDefinition/"
# Written by hand in the validator, because they hold for every element or need the whole resource.
BY_HAND = {"ele-1", "ext-1", "dom-1", "dom-2", "dom-3", "dom-4", "dom-5", "txt-1", "txt-2", "ref-1"}
# A list longer than this is a code system in disguise; the terminology owner checks those.
MAX_CODES = 1_500
MAX_TARGETS = 40


def main() -> None:
    """Read the packages named on the command line and write every table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--r4", "--r4-expansions", "--r3", "--r4b", "--r5", "--r5-expansions", "--out"):
        parser.add_argument(name, type=Path, required=True)
    given = parser.parse_args()
    r4_codes = _code_lists([given.r4, given.r4_expansions])
    r3_codes = _code_lists([given.r3])
    in_r4 = _tables(given.r4, r4_codes)
    _write(given.out / "r4.json", in_r4)
    _write(given.out / "r4b.json", _beside(in_r4, _tables(given.r4b, _code_lists([given.r4b]))))
    _write(given.out / "r5.json", _tables(given.r5, _code_lists([given.r5, given.r5_expansions])))
    _write(given.out / "stu3.json", _tables(given.r3, r3_codes))
    _write(given.out / "r4-search.json", _search_parameters(given.r4))
    _write(given.out / "r4-compartment.json", _patient_compartment(given.r4))
    _write(given.out / "r4-summary.json", _summaries(given.r4))


def _tables(package: Path, lists: dict[str, dict[str, list[str]]]) -> Json:
    """Elements, invariants and required code lists of every concrete type."""
    types: dict[str, Json] = {}
    used: dict[str, dict[str, list[str]]] = {}
    for definition in _resources(package, "StructureDefinition"):
        if definition.get("derivation") == "constraint" or definition["kind"] == "logical":
            continue
        _add_types(definition, types, lists, used)
    return {"types": types, "codes": used}


def _beside(base: Json, table: Json) -> Json:
    """What a release adds to another, and the names of the types that it lacks."""
    types, codes = table["types"], table["codes"]
    return {
        "types": {name: row for name, row in types.items() if row != base["types"].get(name)},
        "without": sorted(base["types"].keys() - types.keys()),
        "codes": {url: found for url, found in codes.items() if found != base["codes"].get(url)},
    }


def _add_types(definition: Json, types: dict[str, Json], lists: Any, used: Any) -> None:
    elements = definition["snapshot"]["element"]
    root = elements[0]["path"]
    parents = {e["path"].rpartition(".")[0] for e in elements}
    types[root] = {"kind": definition["kind"], "elements": {}}
    if definition.get("abstract"):
        types[root]["abstract"] = True
    _add_invariants(types[root], elements[0], set())
    for element in elements[1:]:
        path = element["path"]
        owner, _, name = path.rpartition(".")
        if element["max"] == "0":
            continue
        if path in parents:
            types[path] = {"kind": "backbone", "elements": {}}
            _add_invariants(types[path], element, set())
        row = _element(element, path in parents, definition["kind"], lists, used)
        types[owner]["elements"][name] = row
        if path not in parents:
            _add_invariants(row, element, {definition["type"]})


def _element(element: Json, has_children: bool, kind: str, lists: Any, used: Any) -> Json:
    row: Json = {"min": element["min"], "many": element["max"] != "1"}
    if "contentReference" in element:
        row["types"] = [element["contentReference"].rpartition("#")[2]]
    elif has_children:
        row["types"] = [element["path"]]
    else:
        row["types"] = sorted({_type_code(t, element["path"], kind) for t in element["type"]})
        targets = sorted(_targets(element["type"]))
        if targets:
            row["targets"] = targets
    if element.get("isModifier"):
        row["modifier"] = True
    binding = element.get("binding", {})
    if binding.get("strength") == "required":
        named = binding.get("valueSet") or binding.get("valueSetUri") or ""
        url = (named or binding.get("valueSetReference", {}).get("reference", "")).partition("|")[0]
        codes = lists.get(url)
        if codes and sum(map(len, codes.values())) <= MAX_CODES:
            row["codes"] = url
            used[url] = codes
    return row


def _type_code(typed: Json, path: str, kind: str) -> str:
    code: str = typed.get("code", "")
    if path.count(".") == 1 and path.endswith(".id") and kind == "resource":
        return "id"
    # R4B and R5 write "id" here; their pages, like R4's, say string (element.html).
    if path.endswith(".id"):
        return "string"
    if code.startswith(SYSTEM_TYPE) or not code:
        for extension in typed.get("extension", []):
            if extension["url"] == FHIR_TYPE:
                return str(extension.get("valueUrl") or extension["valueUri"])
        return "uri" if path.endswith("Extension.url") else "string"
    return code


def _targets(types: list[Json]) -> set[str]:
    found: set[str] = set()
    for typed in types:
        if typed.get("code") == "Reference":
            profiles = typed.get("targetProfile", [])
            for profile in [profiles] if isinstance(profiles, str) else profiles:
                found.add(profile.removeprefix(PROFILE))
    return set() if "Resource" in found or not found else found


def _add_invariants(row: Json, element: Json, skip_of: set[str]) -> None:
    """Keep error-level constraints that this very element introduces."""
    rules = []
    for rule in element.get("constraint", []):
        own = rule.get("source") is None or rule["source"].rpartition("/")[2] == element["path"].split(".")[0]
        if rule["severity"] == "error" and rule["key"] not in BY_HAND and own and rule.get("expression"):
            rules.append([rule["key"], rule["human"], rule["expression"]])
    if rules:
        row["invariants"] = rules


def _code_lists(packages: list[Path]) -> dict[str, dict[str, list[str]]]:
    """Value set url -> system -> codes, for the sets that can be listed completely."""
    systems = {s["url"]: _concepts(s) for p in packages for s in _resources(p, "CodeSystem") if "url" in s}
    sets = {v["url"]: v for p in packages for v in _resources(p, "ValueSet") if "url" in v}
    lists = {}
    for url, value_set in sets.items():
        codes = _expanded(value_set) or _composed(value_set, systems)
        if codes:
            lists[url] = {system: sorted(set(found)) for system, found in sorted(codes.items())}
    return lists


def _expanded(value_set: Json) -> dict[str, list[str]] | None:
    expansion = value_set.get("expansion")
    if not expansion or "contains" not in expansion:
        return None
    codes: dict[str, list[str]] = {}
    stack = list(expansion["contains"])
    while stack:
        entry = stack.pop()
        stack.extend(entry.get("contains", []))
        if "code" in entry and not entry.get("abstract"):
            codes.setdefault(entry["system"], []).append(entry["code"])
    total = expansion.get("total")
    complete = total is None or sum(map(len, codes.values())) >= total
    return codes if complete else None


def _composed(value_set: Json, systems: dict[str, list[str] | None]) -> dict[str, list[str]] | None:
    compose = value_set.get("compose", {})
    codes: dict[str, list[str]] = {}
    if compose.get("exclude"):
        return None
    for include in compose.get("include", []):
        if include.get("filter") or include.get("valueSet") or "system" not in include:
            return None
        if "concept" in include:
            found: list[str] | None = [c["code"] for c in include["concept"]]
        else:
            found = systems.get(include["system"])
        if not found:
            return None
        codes.setdefault(include["system"], []).extend(found)
    return codes or None


def _concepts(system: Json) -> list[str] | None:
    if system.get("content") != "complete":
        return None
    codes, stack = [], list(system.get("concept", []))
    while stack:
        concept = stack.pop()
        codes.append(concept["code"])
        stack.extend(concept.get("concept", []))
    return codes


def _search_parameters(package: Path) -> dict[str, dict[str, Json]]:
    """Type -> parameter -> kind and FHIRPath, cut down to the part that speaks of that type."""
    table: dict[str, dict[str, Json]] = {}
    known = {p["url"]: p for p in _resources(package, "SearchParameter")}
    for parameter in known.values():
        if not parameter.get("expression") or "/us/" in parameter["url"]:
            continue
        if not parameter["url"].startswith("http://hl7.org/fhir/SearchParameter/"):
            continue
        for base in parameter["base"]:
            parts = [p for p in _union(parameter["expression"]) if _speaks_of(p, base)]
            if parts:
                row: Json = {"kind": parameter["type"], "path": " | ".join(parts)}
                # "Any type" is said by leaving the targets out.
                if 0 < len(parameter.get("target", [])) < MAX_TARGETS:
                    row["targets"] = sorted(parameter["target"])
                if parameter["type"] == "composite":
                    row["components"] = [_component(c, known) for c in parameter["component"]]
                    _mend(base, parameter["code"], row["components"])
                table.setdefault(base, {})[parameter["code"]] = row
    return {base: dict(sorted(rows.items())) for base, rows in sorted(table.items())}


def _component(component: Json, known: dict[str, Json]) -> list[str]:
    """Name, kind and path of one component of a composite parameter."""
    definition = known[component["definition"]]
    return [definition["code"], definition["type"], component["expression"]]


def _mend(base: str, code: str, components: list[list[str]]) -> None:
    """R4 gives the reference the path of the code, and the code that of the reference; R4B has them right."""
    if (base, code) == ("DocumentReference", "relationship"):
        components[0][2], components[1][2] = components[1][2], components[0][2]


def _summaries(package: Path) -> dict[str, list[str]]:
    """Type or backbone element -> names of its elements that are part of a summary (``isSummary``)."""
    table: dict[str, list[str]] = {}
    for definition in _resources(package, "StructureDefinition"):
        if definition.get("derivation") == "constraint" or definition["kind"] == "logical":
            continue
        for element in definition["snapshot"]["element"]:
            owner, _, name = element["path"].rpartition(".")
            if owner and element.get("isSummary") and element["max"] != "0":
                table.setdefault(owner, []).append(name)
    return table


def _union(expression: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for position, char in enumerate(expression):
        depth += (char == "(") - (char == ")")
        if char == "|" and not depth:
            parts.append(expression[start:position].strip())
            start = position + 1
    return [*parts, expression[start:].strip()]


def _speaks_of(part: str, base: str) -> bool:
    return part.lstrip("(").split(".")[0].split(" ")[0] == base


def _patient_compartment(package: Path) -> dict[str, list[str]]:
    path = package / "package" / "CompartmentDefinition-patient.json"
    rows = json.loads(path.read_text())["resource"]
    return {row["code"]: row["param"] for row in rows if row.get("param")}


def _resources(package: Path, kind: str) -> Iterator[Json]:
    for path in sorted((package / "package").glob(f"{kind}-*.json")):
        found = json.loads(path.read_text())
        if found.get("resourceType") == kind:
            yield found


def _write(path: Path, table: Any) -> None:
    path.write_text(json.dumps(table, separators=(",", ":"), sort_keys=False) + "\n")
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
