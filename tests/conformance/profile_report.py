"""Count what the profiles of a package say about its own examples and about northgate's stream, and how fast.

For tests, and for whoever has a package at hand (US Core is published at https://hl7.org/fhir/us/core)::

    python -m tests.conformance.profile_report PACKAGE [NEEDED …]
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.json import parse
from fhir_bridge.fhir.profiles import Choice, Profiles, load_profiles
from fhir_bridge.fhir.validate import is_refused, validate_r4
from fhir_bridge.intake import Limits
from fhir_bridge.lines.pure import process
from fhir_bridge.model.ingest import FhirVersion, Processed, Received, SourceContext

ROOT = Path(__file__).resolve().parents[2]
NORTHGATE = ROOT / "tests/data/hospitals/northgate"
_NOT_RECORDS = frozenset({"CapabilityStatement", "ImplementationGuide", "OperationDefinition", "StructureDefinition"})

Json = dict[str, Any]


def declared(package: Path, *needs: Path) -> Profiles:
    """The profiles of a package, for records that claim them."""
    return load_profiles([Choice(package, needs, "error", None)])


def examples(package: Path) -> Iterator[tuple[str, Json]]:
    """Name and content of a package's own examples, which conform to it by construction."""
    with tarfile.open(package, "r:gz") as archive:
        for member in archive:
            if member.name.startswith("package/example/") and member.name.endswith(".json"):
                file = archive.extractfile(member) or io.BytesIO(b"{}")
                body = parse(file.read())
                if body.get("resourceType") and body["resourceType"] not in _NOT_RECORDS:
                    yield member.name.rpartition("/")[2], body


def northgate() -> Iterator[tuple[Json, dict[str, str]]]:
    """Every resource that northgate sends, with the types of its neighbours by fullUrl."""
    lines = [gzip.decompress((NORTHGATE / "directory.json.gz").read_bytes())]
    lines += gzip.decompress((NORTHGATE / "events.ndjson.gz").read_bytes()).splitlines()
    for line in lines:
        entries = parse(line)["entry"]
        types = {e["fullUrl"]: e["resource"]["resourceType"] for e in entries if "fullUrl" in e}
        yield from ((e["resource"], types) for e in entries)


def claims(resource: Json) -> list[str]:
    """The profiles that a resource claims."""
    return list(resource.get("meta", {}).get("profile", ()))


def is_unknown_claim(issue: Issue) -> bool:
    """Tell whether a finding says that a claimed profile is not loaded."""
    return issue.code == "not-found" and ".meta.profile[" in issue.expression


def main(package: Path, *needs: Path) -> None:
    """Print counts, and rates by processor time."""
    begun = time.process_time()
    profiles = declared(package, *needs)
    print(f"loaded in {time.process_time() - begun:.1f} s; not judged:")
    print("".join(f"  {note}\n" for note in profiles.notes), end="")
    if package.is_file():
        kept: Counter[str] = Counter()
        for name, body in examples(package):
            base = is_refused(validate_r4(body))
            verdict = (
                "refused by R4's own rules" if base else "refused" if is_refused(profiles.judge(body)) else "valid"
            )
            kept[verdict] += 1
            if verdict != "valid":
                print(f"  {name}: {verdict}")
        print(f"examples: {dict(kept)}")
    _print_northgate(profiles)
    _print_rooms(package, *needs)


def _print_rooms(package: Path, *needs: Path) -> None:
    """The whole of what a worker does with northgate's stream: decode, validate, normalise, index."""
    messages = gzip.decompress((NORTHGATE / "events.ndjson.gz").read_bytes()).splitlines()
    chosen = {"package": str(package.resolve()), "needs": [str(n.resolve()) for n in needs], "mode": "warning"}
    head = (ROOT / "mappings/northgate/source.yaml").read_text("utf-8")
    for name, more in (("without", ""), ("with", f"profiles: [{json.dumps(chosen | {'apply': 'declared'})}]\n")):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "source.yaml").write_text(head + more)
            source = SourceContext("northgate", "n", FhirVersion.R4, bytes(32), folder, folder)
            done = [_process(messages[0], source)]
            begun = time.process_time()
            done += [_process(message, source) for message in messages]
            taken_s = time.process_time() - begun
        records = sum(len(each.records) for each in done[1:])
        print(f"  {records / taken_s:,.0f} resources/s through a worker's rooms {name} profiles")


def _process(message: bytes, source: SourceContext) -> Processed:
    return process(Received("northgate", FhirVersion.R4, message, datetime.now(UTC)), source, Limits())


def _print_northgate(profiles: Profiles) -> None:
    sent = list(northgate())
    begun = time.process_time()
    for resource, types in sent:
        validate_r4(resource, types_by_url=types)
    base_s = time.process_time() - begun
    begun = time.process_time()
    found = [profiles.judge(resource, types_by_url=types) for resource, types in sent]
    judged_s = time.process_time() - begun
    claiming = [issues for (resource, _), issues in zip(sent, found, strict=True) if claims(resource)]
    unknown = sum(all(map(is_unknown_claim, issues)) and bool(issues) for issues in claiming)
    refused = sum(map(is_refused, claiming))
    print(
        f"northgate: {len(sent)} resources, {len(claiming)} claim profiles: {unknown} of them one that is not loaded,"
    )
    print(f"  {refused} refused")
    print(f"  {len(sent) / base_s:,.0f} resources/s by R4 alone", end=", ")
    print(f"{len(sent) / (base_s + judged_s):,.0f} with the profiles")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
