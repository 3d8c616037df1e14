"""``map lint``: everything that is wrong or doubtful in a rule pack, at once."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fhir_bridge import __version__
from fhir_bridge.cli import collector, screen
from fhir_bridge.cli.failing import FAILED, SETUP, Failure
from fhir_bridge.cli.options import AsJson

if TYPE_CHECKING:
    from fhir_bridge.mapping_tools.findings import Finding

_STYLES = {"error": "red", "warning": "yellow"}


class Format(StrEnum):
    """Forms in which findings can be printed."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    GITHUB = "github"


def lint(
    packs: Annotated[list[Path], typer.Argument(help="Folders of rule packs.", metavar="PACK...")],
    form: Annotated[
        Format, typer.Option("--format", help="text, json, sarif (code scanning) or github (annotations).")
    ] = Format.TEXT,
    strict: Annotated[bool, typer.Option("--strict", help="Let warnings fail, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find what is wrong or doubtful in rule packs, all of it at once. Exit code 1 on errors."""
    for pack in packs:
        refuse_no_pack(pack)
    with collector.paused():
        from fhir_bridge.mapping_tools.findings import worst
        from fhir_bridge.mapping_tools.lint import lint as findings_of

        findings = [finding for pack in packs for finding in findings_of(pack)]
    _print(findings, Format.JSON if as_json else form)
    errors = sum(finding.severity == "error" for finding in findings)
    screen.remark(f"{_many(errors, 'error')}, {_many(len(findings) - errors, 'warning')}")
    if worst(findings) in (("error", "warning") if strict else ("error",)):
        raise typer.Exit(FAILED)


def refuse_no_pack(folder: Path) -> None:
    """Stop unless a folder is a rule pack."""
    if not (folder / "source.yaml").is_file():
        raise Failure(f"{folder} is not a rule pack (it holds no source.yaml)", exit_code=SETUP)


def _print(findings: Sequence[Finding], form: Format) -> None:
    from fhir_bridge.mapping_tools.findings import as_github, as_row, as_sarif

    if form is Format.JSON:
        screen.print_json([as_row(finding) for finding in findings])
    elif form is Format.SARIF:
        screen.print_json(as_sarif(findings, __version__))
    elif form is Format.GITHUB:
        for finding in findings:
            print(as_github(finding))
    else:
        for finding in findings:
            place = screen.styled(f"{finding.file}:{finding.line}:{finding.column}", "bold")
            severity = screen.styled(finding.severity, _STYLES[finding.severity])
            print(f"{place} {severity} {screen.styled(finding.code, 'dim')} {finding.message}")


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
