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

from fhir_bridge.errors import RecordRefused
from fhir_bridge.fhir.json import parse, parse_any, render
from fhir_bridge.fhir.validate import is_refused, validate_r4
from fhir_bridge.model.ingest import Body, FhirVersion
from fhir_bridge.normalize.message import preview
from fhir_bridge.normalize.pack import Ruleset, load_ruleset

_INPUT, _ROW = ".input.json", ".input.csv"


@dataclass(frozen=True, slots=True)
class Difference:
    """One element that came out otherwise; ``expected`` and ``found`` are JSON texts, None for no value."""

    place: str
    words: str
    expected: str | None = None
    found: str | None = None

    def __str__(self) -> str:
        return f"{self.place} {self.words}".strip()


@dataclass(frozen=True, slots=True)
class ExampleResult:
    """How one example came out.

    Attributes:
        differences: In words; empty when it passed.
        details: The same, element by element.
        outcome: What came of the input; None where it could not be run.
        flags: Codes of its findings.
    """

    name: str
    differences: tuple[str, ...]
    details: tuple[Difference, ...] = ()
    outcome: Any = None
    flags: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True when the rules did what the example says."""
        return not self.differences


def run_examples(directory: Path, ruleset: Ruleset | None = None, only: str = "") -> list[ExampleResult]:
    """Run every example of the pack in ``directory`` whose name contains ``only``, sorted by name.

    Raises:
        RulesetBroken: The pack does not load.
    """
    rules = ruleset or load_ruleset(directory)
    inputs = [p for p in sorted((directory / "examples").glob("*.input.*")) if p.name.endswith((_INPUT, _ROW))]
    return [_run(path, rules) for path in inputs if only in _stem(path)]


def _stem(path: Path) -> str:
    return path.name.removesuffix(_INPUT).removesuffix(_ROW)


def _run(path: Path, rules: Ruleset) -> ExampleResult:
    stem = _stem(path)
    try:
        sent = _row(path, rules) if _is_row(path) else parse(path.read_bytes())
    except RecordRefused as refusal:
        return _refused(path, refusal)
    if isinstance(sent, Difference):
        return _result(stem, [sent])
    if type(sent.get("resourceType")) is not str:
        return _result(stem, [Difference("", "the input has no resourceType")])
    try:
        found = preview(sent, rules.fhir_version, rules)
    except RecordRefused as refusal:
        verdict = {"quarantined": refusal.issues[0].code}
        return _result(stem, _differences(path, verdict), verdict)
    flags = tuple(flag.code for flag in found.flags)
    outcome = _without_made_id(path, found.body)
    details = [*_differences(path, outcome), *_beyond(found.body, rules), *_flags(path, flags)]
    return _result(stem, details, outcome, flags)


def _refused(path: Path, refusal: RecordRefused) -> ExampleResult:
    """A row that intake would refuse is an outcome like any other; JSON that cannot be read is a mistake."""
    if not _is_row(path):
        return _result(_stem(path), [_not_json(refusal)])
    verdict = {"refused": refusal.issues[0].code}
    details = _differences(path, verdict)
    told = [Difference("", f"the row is refused: {issue.diagnostics}") for issue in refusal.issues]
    return _result(_stem(path), [*told, *details] if details else [], verdict)


def _result(name: str, details: list[Difference], outcome: Any = None, flags: tuple[str, ...] = ()) -> ExampleResult:
    return ExampleResult(name, tuple(map(str, details)), tuple(details), outcome, flags)


def _differences(path: Path, outcome: Any) -> list[Difference]:
    """Compare what came out with the expected file."""
    expected = _expected(path)
    if isinstance(expected, Difference):
        return [expected]
    place = "result" if "resourceType" not in outcome else str(expected.get("resourceType", "result"))
    return list(_compare(outcome, expected, place))


def _expected(path: Path) -> dict[str, Any] | Difference:
    """What the example says must come of its input, or what is wrong with the file that says it."""
    expected_path = path.with_name(f"{_stem(path)}.expected.json")
    if not expected_path.is_file():
        return Difference(expected_path.name, "is missing")
    try:
        return parse(expected_path.read_bytes())
    except RecordRefused as refusal:
        return _not_json(refusal)


def _without_made_id(path: Path, body: Body) -> Body:
    """A digest of a row's key columns is nothing that an engineer could write down: it may be left out."""
    expected = _expected(path)
    if not _is_row(path) or (isinstance(expected, dict) and "id" in expected):
        return body
    return {key: value for key, value in body.items() if key != "id"}


def _beyond(body: Body, rules: Ruleset) -> Iterator[Difference]:
    """What holds for every example: its result is valid R4, and a second run changes nothing."""
    if is_refused(validate_r4(body)):
        yield Difference("", "the result is not valid R4")
    again = preview(body, FhirVersion.R4, rules)
    yield from (Difference("", f"a second run changes {change.element}") for change in again.changes)


def _flags(path: Path, flags: tuple[str, ...]) -> Iterator[Difference]:
    flags_path = path.with_name(f"{_stem(path)}.flags.json")
    if flags_path.is_file():
        yield from _compare(list(flags), parse_any(flags_path.read_bytes()), "flags")


def _is_row(path: Path) -> bool:
    return path.name.endswith(_ROW)


def _row(path: Path, rules: Ruleset) -> dict[str, Any] | Difference:
    """Return the resource that a row becomes, or what is wrong with the example itself.

    Raises:
        RecordRefused: Intake would not take it.
    """
    for each in rules.formats:
        found = each.read(path.read_bytes(), "text/csv", 2)
        if len(found) != 1:
            return Difference("", f"cannot be read: an example is one record, this one {len(found)}")
        (drawn,) = found
        issues = drawn.issues if drawn.resource is None else validate_r4(drawn.resource)
        errors = [issue for issue in issues if issue.severity in ("error", "fatal")]
        if drawn.resource is None or errors:
            raise RecordRefused(errors)
        return drawn.resource
    return Difference("", "cannot be read: the pack's source.yaml describes no CSV")


def _not_json(refusal: RecordRefused) -> Difference:
    return Difference("", f"not strict JSON: {refusal.issues[0].diagnostics}")


def _compare(found: Any, expected: Any, place: str) -> Iterator[Difference]:
    """Name every leaf that differs; numbers are compared by their text."""
    if type(found) is dict and type(expected) is dict:
        for key in [*expected, *(k for k in found if k not in expected)]:
            if key not in found:
                yield Difference(f"{place}.{key}", "is missing", _text(expected[key]))
            elif key not in expected:
                yield Difference(f"{place}.{key}", "was not expected", None, _text(found[key]))
            else:
                yield from _compare(found[key], expected[key], f"{place}.{key}")
    elif type(found) is list and type(expected) is list:
        if len(found) != len(expected):
            words = f"has {len(found)} values instead of {len(expected)}"
            yield Difference(place, words, _text(expected), _text(found))
        for index, (one, other) in enumerate(zip(found, expected, strict=False)):
            yield from _compare(one, other, f"{place}[{index}]")
    elif _text(found) != _text(expected):
        words = f"is {_text(found)} instead of {_text(expected)}"
        yield Difference(place, words, _text(expected), _text(found))


def _text(value: Any) -> str:
    return render(value).decode()
