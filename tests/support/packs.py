"""Small rule packs made on the spot, whose work shows in every record that they touch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.bridge_world import observation

QUARANTINE = "quarantine: {code: business-rule, text: 'not by this pack'}"


def marking_pack(folder: Path, mark: str, *, also: str = "", when: str = "") -> Path:
    """Write a pack that says ``mark`` in two elements of every Observation, by two rules in two files.

    A record in which the two differ was made by a mixture.

    Args:
        also: A further step of the first rule, as YAML.
        when: Condition of that step, FHIRPath.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source.yaml").write_text("institution: northgate\n")
    (folder / "first.yaml").write_text(_rule("marks/first", "method.text", mark))
    (folder / "second.yaml").write_text(_rule("marks/second", "bodySite.text", mark))
    extra = folder / "third.yaml"
    extra.unlink(missing_ok=True)
    if also:
        condition = f"when: {json.dumps(when)}\n" if when else ""
        extra.write_text(f"rule: marks/third\non: Observation\n{condition}do:\n  - {also}\nwhy: tests\n")
    examples = folder / "examples"
    examples.mkdir(exist_ok=True)
    sent = observation("o", "p")
    (examples / "marked.input.json").write_text(json.dumps(sent))
    (examples / "marked.expected.json").write_text(json.dumps(marked(sent, mark)))
    return folder


def marked(sent: dict[str, Any], mark: str) -> dict[str, Any]:
    """Return what the pack makes of an Observation, ids apart."""
    return sent | {"method": {"text": mark}, "bodySite": {"text": mark}}


def _rule(name: str, path: str, mark: str) -> str:
    return f"rule: {name}\non: Observation\ndo:\n  - set: {{path: {path}, value: '{mark}'}}\nwhy: tests\n"
