"""What lint finds in a pack, and the forms in which editors and CI read it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fhir_bridge.normalize.yaml_text import Spot

CODES = {
    "broken": ("error", "the pack does not load like this"),
    "two-targets": ("error", "one code is mapped to different targets"),
    "not-ucum": ("error", "a unit table gives a unit that is not UCUM"),
    "zero-factor": ("error", "a factor of zero converts nothing"),
    "check-digit": ("error", "a code whose check digit is wrong is a typing mistake"),
    "outside-binding": ("error", "a rule writes a code that the element's required value set does not have"),
    "unknown-zone": ("error", "the time zone is none of IANA's"),
    "never-holds": ("warning", "a condition that no record can meet"),
    "shadowed": ("warning", "an earlier rule leaves this one nothing to do"),
    "two-writers": ("warning", "two rules of one stage write the same element"),
    "empty-do": ("warning", "the rule does nothing"),
    "no-example": ("warning", "no example makes the rule change a record"),
    "empty-table": ("warning", "the table holds nothing"),
    "unused-table": ("warning", "no rule names the table"),
    "unused-constant": ("warning", "no rule names the constant"),
    "guess": ("warning", "guessed by map new and confirmed by nobody"),
    "doubled-row": ("warning", "a table says the same twice"),
    "no-time-zone": ("warning", "source.yaml does not say in which zone the institution's clocks run"),
    "no-version": ("warning", "a rule without a version cannot be told from its former self"),
    "odd-code": ("warning", "a code that is not written as its system writes codes"),
    "misread-unit": ("warning", "UCUM reads the unit as something else"),
    "unused-acceptance": ("warning", "source.yaml accepts what lint does not find"),
}
"""Code → severity and meaning; both are public and stay."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong or doubtful, and where."""

    file: str
    line: int
    column: int
    code: str
    message: str

    @property
    def severity(self) -> str:
        """``error`` or ``warning``."""
        return CODES[self.code][0]


def found(spot: Spot, code: str, message: str) -> Finding:
    """Make a finding about a place."""
    return Finding(spot.file, spot.line, spot.column, code, message)


def as_row(finding: Finding) -> dict[str, Any]:
    """A finding as a JSON object."""
    return {
        "file": finding.file,
        "line": finding.line,
        "column": finding.column,
        "severity": finding.severity,
        "code": finding.code,
        "message": finding.message,
    }


def as_github(finding: Finding) -> str:
    """A finding as a workflow command of GitHub Actions, which shows it beside the line."""
    message = _escaped(finding.message)
    place = f"file={_property(finding.file)},line={finding.line},col={finding.column}"
    return f"::{finding.severity} {place},title={finding.code}::{message}"


def as_sarif(findings: Sequence[Finding], version: str) -> dict[str, Any]:
    """Findings as one run in SARIF 2.1.0 (OASIS), for code scanning."""
    names = sorted({each.code for each in findings})
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "fhir-bridge map lint",
                        "version": version,
                        "rules": [_described(name) for name in names],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(each, names) for each in findings],
            }
        ],
    }


def worst(findings: Iterable[Finding]) -> str:
    """Return ``error``, ``warning`` or, where nothing was found, an empty text."""
    severities = {each.severity for each in findings}
    return next((each for each in ("error", "warning") if each in severities), "")


def _described(name: str) -> dict[str, Any]:
    severity, meaning = CODES[name]
    return {
        "id": name,
        "shortDescription": {"text": meaning},
        "defaultConfiguration": {"level": severity},
    }


def _result(finding: Finding, names: Sequence[str]) -> dict[str, Any]:
    region = {"startLine": finding.line, "startColumn": finding.column}
    place = {"artifactLocation": {"uri": finding.file.replace("\\", "/")}, "region": region}
    return {
        "ruleId": finding.code,
        "ruleIndex": names.index(finding.code),
        "level": finding.severity,
        "message": {"text": finding.message},
        "locations": [{"physicalLocation": place}],
    }


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
