"""``map preview``: what the rules make of a message, element by element, with the rule behind each change."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fhir_bridge.cli import collector, csv_files, messages, screen
from fhir_bridge.cli.csv_files import FileFormat, Format
from fhir_bridge.cli.failing import FAILED, SETUP, Failure
from fhir_bridge.cli.feeds import messages_in
from fhir_bridge.cli.map_lint import refuse_no_pack
from fhir_bridge.cli.options import AsJson, Data, data_directory
from fhir_bridge.cli.waiting import wait_for

if TYPE_CHECKING:
    from fhir_bridge.mapping_tools.sample import Message, Outcome
    from fhir_bridge.model.ingest import Change

_COLUMNS = ("record", "element", "before", "after", "rule", "reason")
_SHOWN_RECORDS = 3


def preview(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Folder of the pack, then a resource, bundle or CSV file; - for stdin.", metavar="PACK FILE"
        ),
    ],
    institution: Annotated[
        str, typer.Option("--institution", help="Ask the running service instead of a pack: canonical ids and all.")
    ] = "",
    file_format: FileFormat = Format.AUTO,
    everything: Annotated[bool, typer.Option("--all", help="Every message of the file, not the first.")] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show what the rules change in a message.

    Element by element, with the rule behind each; nothing is stored. With PACK FILE no service is needed. With
    --institution NAME FILE the running service shows what it would store: canonical ids, links and labels, too. Exit
    code 1 if something would not pass. A message of CSV is 500 rows; its first three records are printed whole.
    """
    if institution:
        _online(_only_file(names), file_format, institution, data, as_json)
        return
    if len(names) != 2:
        raise Failure("give the pack's folder and a file (or --institution NAME and a file)", exit_code=SETUP)
    _offline(Path(names[0]), names[1], file_format, everything, as_json)


def _offline(pack: Path, file: str, file_format: Format, everything: bool, as_json: bool) -> None:
    refuse_no_pack(pack)
    with collector.paused():
        from fhir_bridge.mapping_tools.sample import PASSED, outcomes
        from fhir_bridge.normalize import load_ruleset

        rules = load_ruleset(pack)
    found = list(outcomes(_messages(pack, file, file_format, everything), rules))
    if as_json:
        from fhir_bridge.fhir.json import render

        print(render([_row(each) for each in found]).decode())
    else:
        if csv_files.is_csv(file, file_format):
            from fhir_bridge.fhir.json import render

            _tell_records([render(each.made).decode() for each in found if each.made is not None])
        for each in found:
            _show(each)
        changed = sum(bool(each.changes) for each in found)
        stopped = sum(each.verdict != PASSED for each in found)
        screen.remark(f"records: {len(found)}, changed: {changed}, would not pass: {stopped}")
    if any(each.verdict != PASSED for each in found):
        raise typer.Exit(FAILED)


def _messages(pack: Path, file: str, file_format: Format, everything: bool) -> Iterator[Message]:
    for number, (message, _size) in enumerate(messages_in(pack, file, file_format)):
        if number and not everything:
            screen.remark(f"{file} holds more messages; --all shows them, too")
            return
        yield message


def _tell_records(bodies: Sequence[str]) -> None:
    """Print what the first rows become; who previews a CSV file wants to see that before any rule."""
    for body in bodies[:_SHOWN_RECORDS]:
        print(body)
    if len(bodies) > _SHOWN_RECORDS:
        screen.remark(f"({len(bodies)} records, {_SHOWN_RECORDS} shown; --json shows all)")


def _row(outcome: Outcome) -> dict[str, Any]:
    return {
        "record": outcome.name,
        "place": outcome.place,
        "verdict": outcome.verdict,
        "changes": [
            {"element": c.element, "before": c.before, "after": c.after, "rule": c.rule, "reason": c.reason}
            for c in outcome.changes
        ],
        "flags": [screen.issue_words(_issue(each)) for each in outcome.flags],
        "issues": [screen.issue_words(_issue(each)) for each in outcome.issues],
        "result": outcome.made,
    }


def _issue(issue: Any) -> dict[str, str]:
    return {"code": issue.code, "diagnostics": issue.diagnostics, "expression": issue.expression}


def _show(outcome: Outcome) -> None:
    """One record: its name, what changed where and by which rule, what was noticed."""
    if not (outcome.changes or outcome.flags or outcome.issues):
        return
    print(screen.styled(outcome.name, "bold"))
    for change in outcome.changes:
        print(f"  {screen.styled(change.element, 'cyan')}")
        for line in _lines(change):
            style = {"-": "red", "+": "green"}.get(line[0])
            print("    " + (screen.styled(line, style) if style else line))
        print(screen.styled(f"    by {change.rule}: {change.reason}", "dim"))
    for issue in outcome.flags:
        print(f"  {screen.styled('flag', 'yellow')} {screen.issue_words(_issue(issue))}")
    for issue in outcome.issues:
        print(f"  {screen.styled(outcome.verdict, 'red')} {screen.issue_words(_issue(issue))}")


def _lines(change: Change) -> Iterator[str]:
    """Both values as a unified difference of their JSON."""
    before, after = _json_lines(change.before), _json_lines(change.after)
    for line in difflib.unified_diff(before, after, n=1, lineterm=""):
        if not line.startswith(("---", "+++")):
            yield "  …" if line.startswith("@@") else f"{line[0]} {screen.visible(line[1:])}"


def _json_lines(value: Any) -> list[str]:
    if value is None:
        return []
    import msgspec

    from fhir_bridge.fhir.json import render

    return msgspec.json.format(render(value), indent=2).decode().splitlines()


def _only_file(names: list[str]) -> str:
    if len(names) != 1:
        raise Failure("with --institution give one file", exit_code=SETUP)
    return names[0]


def _online(file: str, file_format: Format, institution: str, data: Path | None, as_json: bool) -> None:
    directory = data_directory(data)
    shown = wait_for(_asked(directory, institution, file, file_format))
    if as_json:
        screen.print_json(shown)
    else:
        if csv_files.is_csv(file, file_format):
            _tell_records([entry["body"] for entry in shown["entries"]])
        screen.print_rows(list(_changes(shown)), _COLUMNS, as_json=False, empty="the rules change nothing")
        _tell_rest(shown)
    if shown["refused"]:
        raise typer.Exit(FAILED)


async def _asked(data: Path, institution: str, file: str, file_format: Format) -> Any:
    from fhir_bridge.cli.control import open_control

    async with open_control(data) as control:
        if csv_files.is_csv(file, file_format):
            message, content_type = next(csv_files.cut(file, await csv_files.format_of(control, institution)))
        else:
            content_type = "application/fhir+json"
            with messages.opened(file) as (found, _):
                message = next(found, b"")
        return await control.put_through("/map/preview", message, content_type, institution=institution)


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
