"""``map``: try rules before they touch a record."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fhir_bridge.cli import map_backfill, map_explain, messages, screen
from fhir_bridge.cli.failing import FAILED, SETUP, Failure
from fhir_bridge.cli.options import AsJson, Data, InstitutionName, data_directory
from fhir_bridge.errors import Issue

app = typer.Typer(
    help="Mapping rules: test a pack, preview what it does, judge by its profiles.", rich_markup_mode=None
)

_FINDING = ("file", "message", "severity", "expression", "code", "diagnostics")
_COLUMNS = ("record", "element", "before", "after", "rule", "reason")


@app.command("test")
def run_pack(
    pack: Annotated[Path, typer.Argument(help="Folder of the rule pack: it holds source.yaml and examples/.")],
    as_json: AsJson = False,
) -> None:
    """Run a pack's examples. Exit code 1 if one comes out otherwise, or if there is none."""
    if not (pack / "source.yaml").is_file():
        raise Failure(f"{pack} is not a rule pack (it holds no source.yaml)", exit_code=SETUP)
    from fhir_bridge.normalize import run_examples

    results = run_examples(pack)
    failed = [result for result in results if not result.passed]
    if as_json:
        screen.print_json([{"name": r.name, "passed": r.passed, "differences": r.differences} for r in results])
    else:
        for result in failed:
            print(f"{result.name}: " + "; ".join(result.differences))
        print(f"{len(results) - len(failed)} of {len(results)} examples pass")
    if failed or not results:
        raise typer.Exit(FAILED)


@app.command()
def validate(
    pack: Annotated[Path, typer.Argument(help="Folder of the rule pack; its source.yaml chooses the profiles.")],
    files: Annotated[list[str], typer.Argument(help="Resources or bundles, one a file or one a line; - for stdin.")],
    as_json: AsJson = False,
) -> None:
    """Judge records by FHIR and a pack's profiles, as intake would; store nothing. Exit code 1 if one is refused.

    One line a finding, on standard output. What the profiles demand and is not judged here is told on standard error.
    """
    if not (pack / "source.yaml").is_file():
        raise Failure(f"{pack} is not a rule pack (it holds no source.yaml)", exit_code=SETUP)
    from fhir_bridge.intake import examine
    from fhir_bridge.normalize import load_ruleset

    rules = load_ruleset(pack)
    for note in () if rules.profiles is None else rules.profiles.notes:
        screen.remark(note)
    found, judged = [], 0
    for name in files:
        with messages.opened(name) as (each, _):
            for number, message in enumerate(each, 1):
                judged += 1
                issues = examine(message, rules.fhir_version, rules.profiles)
                found += [{"file": name, "message": number, **_row(issue)} for issue in issues]
    screen.print_rows(found, _FINDING, as_json=as_json, empty="nothing was found")
    refused = sum(row["severity"] != "warning" for row in found)
    screen.remark(f"{judged} messages, {refused} errors, {len(found) - refused} warnings")
    if refused:
        raise typer.Exit(FAILED)


def _row(issue: Issue) -> dict[str, str]:
    return {
        "severity": issue.severity,
        "expression": issue.expression,
        "code": issue.code,
        "diagnostics": issue.diagnostics,
    }


@app.command()
def preview(
    institution: InstitutionName,
    file: Annotated[str, typer.Argument(help="A resource or bundle as the institution sends it; - for stdin.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show what the rules change in a message, element by element, and store nothing."""
    directory = data_directory(data)
    with messages.opened(file) as (found, _):
        message = next(found, b"")
    shown = asyncio.run(_preview(directory, institution, message))
    if as_json:
        screen.print_json(shown)
    else:
        screen.print_rows(list(_changes(shown)), _COLUMNS, as_json=False, empty="the rules change nothing")
        _tell_rest(shown)
    if shown["refused"]:
        raise typer.Exit(FAILED)


async def _preview(data: Path, institution: str, message: bytes) -> Any:
    from fhir_bridge.cli.control import open_control

    async with open_control(data) as control:
        return await control.put_through("/map/preview", message, institution=institution)


def _changes(shown: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in shown["entries"]:
        for change in entry["changes"]:
            yield {"record": f"{entry['type']}/{entry['id']}", **change}


def _tell_rest(shown: Mapping[str, Any]) -> None:
    for name in ("quarantined", "refused"):
        for found in shown[name]:
            issues = found.get("issues", [found])
            words = "; ".join(screen.issue_words(issue) for issue in issues)
            index = "" if found.get("index") is None else f" entry {found['index']}"
            print(f"{name}{index}: {words}")


app.command("explain")(map_explain.explain)
app.command("backfill")(map_backfill.backfill)
