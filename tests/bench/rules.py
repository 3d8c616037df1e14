"""Validate, apply 25 rules, validate again: resources a second on one core, for what a Synthea hospital sends.

The records are harbor's, with house codes and units, and the pack is harbor's own with 19 rules more, such as an
integration engineer writes: values that the hospital leaves unsaid, tags, narrative dropped. Every record is
validated again, also those of which the service knows that no rule could have broken them.
"""

from __future__ import annotations

import gzip
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from fhir_bridge.fhir.json import parse, render
from fhir_bridge.fhir.validate import is_refused, validate_r4
from fhir_bridge.model.ingest import Body, FhirVersion
from fhir_bridge.normalize import load_ruleset
from fhir_bridge.normalize.draft import Unconvertible, copied
from fhir_bridge.normalize.message import shaped
from tests.bench.feeding import Figures
from tests.support.hospitals import FOLDER, MAPPINGS

AIMS = {"rules.per_s": "6,000 or more (stretch 12,000)"}
HOSPITAL = "harbor"
WANTED = 25
_TAGS = "https://harbor.example.org/tags"
_ACT = "http://terminology.hl7.org/CodeSystem/v3-ActPriority"
_UNSAID = {
    "patient-active": ("Patient", "active.exists().not()", "default: {path: active, value: true}"),
    "patient-address": ("Patient", "address.exists()", "default: {path: address.use, value: home}"),
    "encounter-priority": (
        "Encounter",
        "class.where(code = 'AMB').exists() and priority.exists().not()",
        f"default: {{path: priority, value: {{coding: [{{system: '{_ACT}', code: R}}]}}}}",
    ),
    "encounter-provider": (
        "Encounter",
        "serviceProvider.exists()",
        "reference: {path: serviceProvider, type: Organization}",
    ),
    "condition-verified": (
        "Condition",
        "verificationStatus.exists().not()",
        "default: {path: verificationStatus, value: {coding: [{system: "
        "'http://terminology.hl7.org/CodeSystem/condition-ver-status', code: confirmed}]}}",
    ),
    "condition-over": (
        "Condition",
        "clinicalStatus.coding.where(code = 'resolved').exists() and abatement.exists()",
        f"tag: {{system: '{_TAGS}', code: over}}",
    ),
    "observation-method": (
        "Observation",
        "code.coding.where(system = 'http://loinc.org' and code = '8302-2').exists()",
        "default: {path: method, value: {text: stadiometer}}",
    ),
    "observation-focus": (
        "Observation",
        "component.exists() and component.code.coding.where(system = 'http://loinc.org').exists()",
        f"tag: {{system: '{_TAGS}', code: panel}}",
    ),
    "procedure-category": (
        "Procedure",
        "category.exists().not() and performed.exists()",
        "default: {path: category, value: {text: procedure}}",
    ),
    "procedure-outcome": (
        "Procedure",
        "status = 'completed' and outcome.exists().not()",
        "default: {path: outcome, value: {text: as reported}}",
    ),
    "prescription-reported": (
        "MedicationRequest",
        "reported.exists().not()",
        "default: {path: reportedBoolean, value: false}",
    ),
    "prescription-priority": (
        "MedicationRequest",
        "intent = 'order' and priority.exists().not()",
        "default: {path: priority, value: routine}",
    ),
    "immunization-source": (
        "Immunization",
        "primarySource.exists().not()",
        "default: {path: primarySource, value: true}",
    ),
    "report-conclusion": (
        "DiagnosticReport",
        "conclusion.exists().not() and result.exists()",
        "default: {path: conclusion, value: see results}",
    ),
    "document-status": (
        "DocumentReference",
        "docStatus.exists().not()",
        "default: {path: docStatus, value: final}",
    ),
    "claim-tag": ("Claim", "total.exists()", f"tag: {{system: '{_TAGS}', code: billing}}"),
    "benefit-tag": ("ExplanationOfBenefit", "outcome.exists()", f"tag: {{system: '{_TAGS}', code: billing}}"),
    "any-narrative": ("'*'", "text.exists()", "narrative: {policy: drop}"),
    "any-tag": ("'*'", "id.exists()", f"tag: {{system: '{_TAGS}', code: harbor-feed}}"),
}
"""Name of a rule → type, condition and step."""


def rules(bundles: int, rounds: int) -> dict[str, Figures]:
    """Return rates for the records of the first ``bundles`` of harbor's bundles, the median of ``rounds``."""
    with TemporaryDirectory(prefix="fhir-bridge-bench-") as folder:
        ruleset = load_ruleset(_pack(Path(folder)))
    own = {rule.name for rule in ruleset.rules if rule.spot.file.startswith(HOSPITAL)}
    assert len(own) == WANTED, f"the pack has {len(own)} rules"
    raw = _resources(bundles)
    bodies = [parse(each) for each in raw]
    fired: Counter[str] = Counter(
        change.rule for each in bodies for change in shaped(copied(each), FhirVersion.R4, ruleset).changes
    )

    def work(made: list[Body]) -> None:
        for each in made:
            _judged(each)
            _judged(shaped(each, FhirVersion.R4, ruleset).body)

    shares = {
        "validate_us": _us(lambda made: [_judged(each) for each in made], bodies, rounds),
        "rules_us": _us(lambda made: [shaped(each, FhirVersion.R4, ruleset) for each in made], bodies, rounds),
        "decode_and_render_us": _us(lambda made: [render(parse(each)) for each in raw], bodies, rounds),
    }
    return {
        "rules": {
            "resources": len(bodies),
            "rules_that_changed_something": len(own & fired.keys()),
            "changes_per_resource": round(fired.total() / len(bodies), 1),
            "per_s": round(1e6 / _us(work, bodies, rounds)),
            **{name: round(us, 1) for name, us in shares.items()},
        }
    }


def _judged(body: Body) -> Body:
    assert not is_refused(validate_r4(body))
    return body


def _us(work: Callable[[list[Body]], Any], bodies: list[Body], rounds: int) -> float:
    work([copied(each) for each in bodies])
    times = []
    for _ in range(rounds):
        # Rules edit what they are given, as they do in the service.
        made = [copied(each) for each in bodies]
        begun = time.process_time()
        work(made)
        times.append(time.process_time() - begun)
    return median(times) / len(bodies) * 1e6


def _resources(bundles: int) -> list[bytes]:
    """The resources as harbor sends them, but for what its pack quarantines."""
    lines = gzip.decompress((FOLDER / HOSPITAL / "bundles.ndjson.gz").read_bytes()).splitlines()[:bundles]
    ruleset = load_ruleset(MAPPINGS / HOSPITAL)
    found = []
    for line in lines:
        for entry in parse(line)["entry"]:
            try:
                shaped(copied(entry["resource"]), FhirVersion.R4, ruleset)
            except Unconvertible:
                continue
            found.append(render(entry["resource"]))
    return found


def _pack(folder: Path) -> Path:
    """Write harbor's pack with more rules beside a copy of the rules that it extends."""
    for name in ("core", HOSPITAL):
        shutil.copytree(MAPPINGS / name, folder / name)
    written = [
        f'- rule: {HOSPITAL}/{name}\n  on: {type_name}\n  when: "{when}"\n  do:\n    - {step}\n  why: "bench"\n'
        for name, (type_name, when, step) in _UNSAID.items()
    ]
    (folder / HOSPITAL / "unsaid.yaml").write_text("\n".join(written))
    return folder / HOSPITAL
