"""HL7's official examples of STU3, R4B and R5, and what HL7's version converter makes of them.

Needs ``make versions`` (packages by npm, the converter by Maven); what is missing is a failure.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fhir_bridge.fhir.json import parse, render
from fhir_bridge.fhir.validate import is_refused, validate_r4b, validate_r5, validate_stu3

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / ".build" / "versions"
PACKAGES = {
    "STU3": "hl7.fhir.r3.examples-3.0.2.tgz",
    "R4B": "hl7.fhir.r4b.examples-4.3.0.tgz",
    "R5": "hl7.fhir.r5.examples-5.0.0.tgz",
}
VALIDATE = {"STU3": validate_stu3, "R4B": validate_r4b, "R5": validate_r5}
Json = dict[str, Any]

_DEFINITIONS_TEXT = """
    ActivityDefinition ActorDefinition ArtifactAssessment Binary Bundle CapabilityStatement ChargeItemDefinition
    Citation CodeSystem CompartmentDefinition ConceptMap ConditionDefinition DataElement DeviceDefinition
    EventDefinition Evidence EvidenceReport EvidenceVariable ExampleScenario ExpansionProfile GraphDefinition
    ImplementationGuide Library Linkage Measure MessageDefinition MessageHeader NamingSystem ObservationDefinition
    OperationDefinition OperationOutcome Parameters PlanDefinition Questionnaire Requirements ResearchDefinition
    ResearchElementDefinition SearchParameter ServiceDefinition SpecimenDefinition StructureDefinition
    StructureMap Subscription SubscriptionStatus SubscriptionTopic TerminologyCapabilities TestPlan TestReport
    TestScript ValueSet
"""
DEFINITIONS = frozenset(_DEFINITIONS_TEXT.split())
"""Types of definitions, messages and tests: nothing that a chart or a directory holds."""


@cache
def official(release: str) -> tuple[Json, ...]:
    """Return the valid examples of types that a chart or a directory can hold; to be left unchanged."""
    return tuple(each for each in _records(release) if not is_refused(VALIDATE[release](each)))


def refused(release: str) -> set[tuple[str, str | None]]:
    """Return type and id of the examples of those types that the validator of their own release refuses."""
    found = (each for each in _records(release) if is_refused(VALIDATE[release](each)))
    return {(each["resourceType"], each.get("id")) for each in found}


@cache
def _records(release: str) -> tuple[Json, ...]:
    path = BUILD / PACKAGES[release]
    assert path.is_file(), f"{path.name} is missing: make versions"
    return tuple(each for each in _of_package(path) if each["resourceType"] not in DEFINITIONS)


def _of_package(path: Path) -> Iterator[Json]:
    skipped = tuple(f"package/{name}-" for name in DEFINITIONS)
    with tarfile.open(path) as package:
        for member in package:
            if not member.name.endswith(".json") or member.name.startswith(skipped) or "/." in member.name:
                continue
            stream = package.extractfile(member)
            found = parse(stream.read()) if stream else {}
            if "resourceType" in found:
                yield found


def shipped_stu3() -> tuple[Json, ...]:
    """Return the STU3 examples that stand in the repository."""
    lines = gzip.decompress((ROOT / "tests/data/hl7-examples/stu3.ndjson.gz").read_bytes()).splitlines()
    return tuple(parse(line) for line in lines)


def by_converter(release: str, resources: Sequence[Json]) -> list[Json | str]:
    """Return what HL7's converter makes of each resource: R4, or the class of the exception it fails with."""
    done = subprocess.run(
        converter_command(),
        input=converter_lines(release, resources),
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    )
    found = done.stdout.decode().split("\n")[:-1]
    assert len(found) == len(resources)
    return [_decoded(line) for line in found]


def converter_command() -> list[str]:
    """Return what starts HL7's converter on standard input."""
    classes = BUILD / "classes"
    assert (classes / "ConvertToR4.class").is_file(), "the converter is missing: make versions"
    jars = [*sorted((ROOT / ".build/hapi/lib").glob("*.jar"))]
    return ["java", "-Xmx1g", "-XX:+UseSerialGC", "-cp", ":".join(map(str, [classes, *jars])), "ConvertToR4"]


def converter_lines(release: str, resources: Sequence[Json]) -> bytes:
    """Return resources of a release as the converter reads them."""
    return b"".join(release.encode() + b"\t" + render(resource) + b"\n" for resource in resources)


def _decoded(line: str) -> Json | str:
    if line.startswith("!"):
        return line[1:]
    try:
        return json.loads(line, parse_float=str, parse_int=str)  # type: ignore[no-any-return]  # an object a line
    except json.JSONDecodeError:
        return "no JSON"
