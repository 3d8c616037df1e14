"""The waits of an engineer: a preview from a cold start, lint of 1,000 rules, a saved rule until it is in force."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tests.bench import reload
from tests.bench.feeding import Figures
from tests.support.hospitals import MAPPINGS

AIMS = {
    "map_preview.wall_s": "0.5 or less",
    "map_lint_1000_rules.wall_s": "2 or less",
    "rules_reload.in_force_median_ms": "100 or less, with traffic",
}
_RULE = """- rule: many/r{n}
  version: 1
  on: Observation
  why: one of many
  when: code.coding.where(system = %source.lab and code = 'L{n}').exists()
  do:
    - set: {{path: code.text, value: t{n}}}
    - default: {{path: status, value: final}}
"""


def map_tools(runs: int, saves: int) -> dict[str, Figures]:
    """Measure each as a person does: a process of its own, the median of several."""
    example = MAPPINGS / "harbor" / "examples" / "hba1c-with-offset-and-range.input.json"
    with TemporaryDirectory() as folder:
        many = _many(Path(folder) / "many")
        return {
            "map_preview": _command(runs, "map", "preview", str(MAPPINGS / "harbor"), str(example)),
            "map_lint_1000_rules": _command(runs, "map", "lint", str(many)),
            "rules_reload": _reload(saves),
        }


def _many(pack: Path) -> Path:
    pack.mkdir()
    (pack / "source.yaml").write_text("institution: many\ntime_zone: Europe/Paris\nconstants: {lab: urn:many}\n")
    (pack / "rules.yaml").write_text("".join(_RULE.format(n=n) for n in range(1_000)))
    return pack


def _command(runs: int, *words: str) -> Figures:
    walls, processors = [], []
    for _ in range(runs + 1):
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, "-m", "fhir_bridge.cli.main", *words], capture_output=True, check=False)
        walls.append(time.perf_counter() - begun)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processors.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    # The first has read the files from the disk.
    return {"wall_s": round(median(walls[1:]), 3), "processor_s": round(median(processors[1:]), 3)}


def _reload(saves: int) -> Figures:
    os.environ["FHIR_BRIDGE_RULES_WATCH"] = "true"
    try:
        measured = asyncio.run(reload.measure(MAPPINGS / "harbor", saves, workers=2, senders=2, pause_s=0.05))
    finally:
        del os.environ["FHIR_BRIDGE_RULES_WATCH"]
    told: Figures = {}
    for name, value in measured.items():
        if isinstance(value, dict):
            told |= {f"{name.removesuffix('_ms')}_{which}_ms": each for which, each in value.items()}
        elif isinstance(value, int):
            told[name] = value
    return told
