"""Packs and messages for the tests of normalisation, made in a few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fhir_bridge.fhir.json import parse, render
from fhir_bridge.model.ingest import FhirVersion, Interaction, Normalized, Reception, SourceContext, Validated
from fhir_bridge.normalize import Normalization, Ruleset, load_ruleset, normalize

MAPPINGS = Path(__file__).resolve().parents[3] / "mappings"
KEY = bytes(range(32))
SOURCE = SourceContext("northgate", "ng", FhirVersion.R4, KEY)
RULE = "rule: r\non: Observation\nwhy: test\n"


def pack(folder: Path, rules: str = "", source: str = "institution: x\n", **files: str) -> Path:
    """Write a pack with one rule file; other files by name, ``__`` for ``/``."""
    folder.mkdir(exist_ok=True)
    (folder / "source.yaml").write_text(source)
    if rules:
        (folder / "rules.yaml").write_text(rules)
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_csv", ".csv").replace("_yaml", ".yaml")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def rules(
    folder: Path, steps: str, *, on: str = "Observation", head: str = "", source: str = "institution: x\n"
) -> Ruleset:
    """A ruleset with one rule whose ``do`` is the given YAML list in flow or block form."""
    text = f"rule: r\non: {on}\n{head}do:\n{steps}\nwhy: test\n"
    return load_ruleset(pack(folder, text, source))


def entry(resource: Any, *, index: int = 0, full_url: str | None = None, method: str = "PUT") -> Validated:
    """An accepted entry of a message, its original bytes as rendered."""
    body = parse(resource) if isinstance(resource, bytes) else resource
    original = resource if isinstance(resource, bytes) else render(body)
    interaction = Interaction(method, body["resourceType"], body.get("id"))
    return Validated(index, interaction, full_url, original, body)


def message(*resources: Any, kind: str = "transaction", urls: dict[int, str] | None = None) -> Reception:
    """A message of accepted entries."""
    urls = urls or {}
    return Reception(kind, tuple(entry(r, index=i, full_url=urls.get(i)) for i, r in enumerate(resources)))


def run(*resources: Any, ruleset: Ruleset, source: SourceContext = SOURCE, **how: Any) -> Normalization:
    """Normalise resources that came as one message."""
    return normalize(message(*resources, **how), source, ruleset)


def body(record: Normalized) -> Any:
    """The decoded content of a record."""
    return parse(record.content)


def patient(local: str = "p1", **more: Any) -> dict[str, Any]:
    """A Patient with the given local id."""
    return {"resourceType": "Patient", "id": local, **more}


def observation(local: str = "o1", **more: Any) -> dict[str, Any]:
    """An Observation about patient ``p1``."""
    return {
        "resourceType": "Observation",
        "id": local,
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8310-5"}]},
        "subject": {"reference": "Patient/p1"},
        **more,
    }
