"""Write findings as a FHIR OperationOutcome."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fhir_bridge.errors import Issue


def operation_outcome(issues: Iterable[Issue]) -> dict[str, Any]:
    """Return an OperationOutcome with one issue per finding; at least one, as the standard requires."""
    listed = [_issue(i) for i in issues]
    if not listed:
        listed = [_issue(Issue("information", "informational", "all is well"))]
    return {"resourceType": "OperationOutcome", "issue": listed}


def _issue(issue: Issue) -> dict[str, Any]:
    written: dict[str, Any] = {"severity": issue.severity, "code": issue.code}
    if issue.diagnostics:
        written["diagnostics"] = issue.diagnostics
    if issue.expression:
        written["expression"] = [issue.expression]
    return written
