"""Small profiles and packages of them, for the tests of ``fhir_bridge.fhir.profiles`` and of who uses them."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.profiles import Choice, Profiles, load_profiles

Json = dict[str, Any]

BASE = "http://example.org/fhir"
HL7 = "http://hl7.org/fhir/StructureDefinition/"


def url(name: str) -> str:
    """The canonical url of a profile of these tests."""
    return f"{BASE}/StructureDefinition/{name}"


def profile(type_name: str, *elements: Json, name: str = "p", **more: Any) -> Json:
    """A StructureDefinition that constrains ``type_name``, told by its differential; an element's path is its id."""
    kind = "resource" if type_name[0].isupper() and type_name not in DATATYPES else "complex-type"
    rows = [{"id": e["path"], **e, "path": _plain(e["path"])} for e in elements]
    return {
        "resourceType": "StructureDefinition",
        "url": url(name),
        "version": "1.0.0",
        "kind": kind,
        "type": type_name,
        "derivation": "constraint",
        "baseDefinition": HL7 + type_name,
        "differential": {"element": rows},
        **more,
    }


DATATYPES = frozenset({"Extension", "HumanName", "CodeableConcept", "Quantity"})


def _plain(path: str) -> str:
    return ".".join(step.partition(":")[0] for step in path.split("."))


def extension(name: str, *elements: Json) -> Json:
    """The definition of an extension."""
    fixed = {"path": "Extension.url", "fixedUri": url(name)}
    return profile("Extension", fixed, *elements, name=name)


def value_set(name: str, compose: Json, **more: Any) -> Json:
    """A ValueSet."""
    return {"resourceType": "ValueSet", "url": f"{BASE}/ValueSet/{name}", "compose": compose, **more}


def code_system(name: str, concepts: list[Json], content: str = "complete") -> Json:
    """A CodeSystem."""
    found = {"resourceType": "CodeSystem", "url": f"{BASE}/CodeSystem/{name}", "content": content}
    return {**found, "concept": concepts}


MANIFEST: Json = {"name": "example.profiles", "version": "1.0.0", "canonical": BASE, "fhirVersions": ["4.0.1"]}


def folder_of(folder: Path, resources: Iterable[Json], manifest: Json | None = None) -> Path:
    """A package as a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "package.json").write_text(json.dumps(MANIFEST if manifest is None else manifest))
    for number, resource in enumerate(resources):
        (folder / f"{number}.json").write_text(json.dumps(resource))
    return folder


def archive_of(folder: Path, archive: Path) -> Path:
    """The same package as it is published."""
    with tarfile.open(archive, "w:gz") as made:
        for file in sorted(folder.iterdir(), reverse=True):
            made.add(file, f"package/{file.name}")
        example = b'{"resourceType":"StructureDefinition","url":"http://example.org/example"}'
        entry = tarfile.TarInfo("package/example/StructureDefinition-example.json")
        entry.size = len(example)
        made.addfile(entry, io.BytesIO(example))
    return archive


def loaded(
    folder: Path, *resources: Json, always: tuple[str, ...] | None = ("p",), severity: str = "error"
) -> Profiles:
    """The profiles of a package of ``resources``."""
    package = folder_of(folder / "package", resources)
    urls = None if always is None else tuple(map(url, always))
    return load_profiles([Choice(package, (), severity, urls)])


def told(issues: Iterable[Issue]) -> list[tuple[str, str]]:
    """Severity and place of findings."""
    return [(issue.severity, issue.expression) for issue in issues]
