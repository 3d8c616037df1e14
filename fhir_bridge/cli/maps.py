"""``map``: try rules before they touch a record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fhir_bridge.cli import (
    csv_files,
    map_ask,
    map_backfill,
    map_bench,
    map_coverage,
    map_diff,
    map_exchange,
    map_explain,
    map_lint,
    map_new,
    map_preview,
    map_schema,
    map_test,
    map_unmapped,
    messages,
    screen,
)
from fhir_bridge.cli.csv_files import FileFormat, Format
from fhir_bridge.cli.failing import FAILED, SETUP, Failure
from fhir_bridge.cli.options import AsJson
from fhir_bridge.errors import Issue

app = typer.Typer(
    help="Mapping rules: find their mistakes, see what they do to records, before they touch one.",
    rich_markup_mode=None,
)

_FINDING = ("file", "message", "severity", "expression", "code", "diagnostics")


@app.command()
def validate(
    pack: Annotated[Path, typer.Argument(help="Folder of the rule pack; its source.yaml chooses the profiles.")],
    files: Annotated[
        list[str], typer.Argument(help="Resources or bundles, one a file or one a line, or CSV; - for stdin.")
    ],
    file_format: FileFormat = Format.AUTO,
    as_json: AsJson = False,
) -> None:
    """Judge records by FHIR and a pack's profiles, as intake would; store nothing. Exit code 1 if one is refused.

    One line a finding, on standard output. What the profiles demand and is not judged here is told on standard error.
    """
    if not (pack / "source.yaml").is_file():
        raise Failure(f"{pack} is not a rule pack (it holds no source.yaml)", exit_code=SETUP)
    from fhir_bridge.intake import examine, examine_rows
    from fhir_bridge.normalize import load_ruleset

    rules = load_ruleset(pack)
    for note in () if rules.profiles is None else rules.profiles.notes:
        screen.remark(note)
    found, judged = [], 0
    for name in files:
        if csv_files.is_csv(name, file_format):
            for piece, content_type in csv_files.cut(name, csv_files.format_in(pack)):
                judged += 1
                issues = examine_rows(piece, content_type, rules.formats, rules.profiles)
                found += [{"file": name, "message": judged, **_row(issue)} for issue in issues]
            continue
        with messages.opened(name) as (each, _):
            for number, message in enumerate(each, 1):
                judged += 1
                issues = examine(message, rules.fhir_version, rules.profiles, rules.zone)
                found += [{"file": name, "message": number, **_row(issue)} for issue in issues]
    screen.print_rows(found, _FINDING, as_json=as_json, empty="nothing was found")
    refused = sum(row["severity"] in ("error", "fatal") for row in found)
    warned = sum(row["severity"] == "warning" for row in found)
    screen.remark(f"{judged} messages, {refused} errors, {warned} warnings")
    if refused:
        raise typer.Exit(FAILED)


def _row(issue: Issue) -> dict[str, str]:
    return {
        "severity": issue.severity,
        "expression": issue.expression,
        "code": issue.code,
        "diagnostics": issue.diagnostics,
    }


app.command("new")(map_new.new)
app.command("lint")(map_lint.lint)
app.command("test")(map_test.run_pack)
app.command("preview")(map_preview.preview)
app.command("explain")(map_explain.explain)
app.command("backfill")(map_backfill.backfill)
app.command("schema")(map_schema.schema)
app.command("coverage")(map_coverage.coverage)
app.command("unmapped")(map_unmapped.unmapped)
app.command("diff")(map_diff.diff)
app.command("bench")(map_bench.bench)
app.command()(map_ask.ask)
map_exchange.install(app)
