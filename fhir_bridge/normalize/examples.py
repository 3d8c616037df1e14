"""Run a pack's examples: the input a hospital sends, and what an engineer says must come of it.

``examples/NAME.input.json`` is one resource in the sender's release (``NAME.input.csv`` a header and one row),
``NAME.expected.json`` the R4 resource with the sender's own ids, ``{"quarantined": "issue code"}``, or for a row that
intake refuses ``{"refused": "issue code"}``; a row's id may be left out of it. Where the input also has
``NAME.flags.json``, the codes of its findings are compared too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fhir_bridge.errors import Issue, RecordRefused
from fhir_bridge.fhir.json import parse, parse_any, render
from fhir_bridge.fhir.validate import is_refused, validate_r4
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize.message import preview
from fhir_bridge.normalize.pack import Ruleset, load_ruleset
from fhir_bridge.ports.formats import Drawn

_INPUT, _ROW = ".input.json", ".input.csv"


@dataclass(frozen=True, slots=True)
class ExampleResult:
    """How one example came out; ``differences`` name elements and are empty when it passed."""

    name: str
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """True when the rules did what the example says."""
        return not self.differences


def run_examples(directory: Path, ruleset: Ruleset | None = None) -> list[ExampleResult]:
    """Run every example of the pack in ``directory``, sorted by name.

    Raises:
        RulesetBroken: The pack does not load.
    """
    rules = ruleset or load_ruleset(directory)
    inputs = [p for p in sorted((directory / "examples").glob("*.input.*")) if p.name.endswith((_INPUT, _ROW))]
    return [ExampleResult(_stem(p), tuple(_differences(p, rules))) for p in inputs]


def _stem(path: Path) -> str:
    return path.name.removesuffix(_INPUT).removesuffix(_ROW)


def _differences(path: Path, rules: Ruleset) -> Iterator[str]:
    stem = _stem(path)
    expected_path = path.with_name(f"{stem}.expected.json")
    if not expected_path.is_file():
        yield f"{expected_path.name} is missing"
        return
    expected: dict[str, Any] = {}
    try:
        expected = parse(expected_path.read_bytes())
        sent = _sent(path, rules)
    except RecordRefused as refusal:
        if not path.name.endswith(_ROW) or expected != {"refused": refusal.issues[0].code}:
            yield f"cannot be read: {refusal.issues[0].diagnostics}"
        return
    try:
        found = preview(sent, rules.fhir_version, rules)
    except RecordRefused as refusal:
        yield from _compare({"quarantined": refusal.issues[0].code}, expected, "result")
        return
    if path.name.endswith(_ROW) and "id" not in expected:
        # A digest of key columns is nothing that an engineer could write down.
        expected = {"id": found.body["id"], **expected}
    yield from _compare(found.body, expected, str(expected.get("resourceType", "result")))
    if is_refused(validate_r4(found.body)):
        yield "the result is not valid R4"
    again = preview(found.body, FhirVersion.R4, rules)
    yield from (f"a second run changes {c.element}" for c in again.changes)
    flags_path = path.with_name(f"{stem}.flags.json")
    if flags_path.is_file():
        yield from _compare([f.code for f in found.flags], parse_any(flags_path.read_bytes()), "flags")


def _sent(path: Path, rules: Ruleset) -> dict[str, Any]:
    """Return the resource that an example sends.

    Raises:
        RecordRefused: It is not strict JSON, or no row that intake would take.
    """
    content = path.read_bytes()
    if not path.name.endswith(_ROW):
        return parse(content)
    for each in rules.formats:
        (drawn,) = _one(each.read(content, "text/csv", 2))
        issues = drawn.issues if drawn.resource is None else validate_r4(drawn.resource)
        errors = [issue for issue in issues if issue.severity in ("error", "fatal")]
        if drawn.resource is None or errors:
            raise RecordRefused(errors)
        return drawn.resource
    raise RecordRefused([Issue("error", "not-supported", "the pack's source.yaml describes no CSV")])


def _one(rows: tuple[Drawn, ...]) -> tuple[Drawn, ...]:
    if len(rows) != 1:
        raise RecordRefused([Issue("error", "structure", f"an example holds one row, this one {len(rows)}")])
    return rows


def _compare(found: Any, expected: Any, place: str) -> Iterator[str]:
    """Name every leaf that differs; numbers are compared by their text."""
    if type(found) is dict and type(expected) is dict:
        for key in [*expected, *(k for k in found if k not in expected)]:
            if key not in found:
                yield f"{place}.{key} is missing"
            elif key not in expected:
                yield f"{place}.{key} was not expected"
            else:
                yield from _compare(found[key], expected[key], f"{place}.{key}")
    elif type(found) is list and type(expected) is list:
        if len(found) != len(expected):
            yield f"{place} has {len(found)} values instead of {len(expected)}"
        for index, (one, other) in enumerate(zip(found, expected, strict=False)):
            yield from _compare(one, other, f"{place}[{index}]")
    elif render(found) != render(expected):
        yield f"{place} is {render(found).decode()} instead of {render(expected).decode()}"
