"""``dead-letters``: what could not be taken, why, and sending it again once something was mended."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from fhir_bridge.cli import screen, service
from fhir_bridge.cli.failing import FAILED, SETUP, Failure
from fhir_bridge.cli.options import AsJson, Data, data_directory

app = typer.Typer(help="Messages that could not be taken.", rich_markup_mode=None)

Institution = Annotated[str | None, typer.Option("--institution", help="Only of this institution.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Only with this reason, such as 'quarantined'.")]
Since = Annotated[str | None, typer.Option("--since", help="Only received then or later: 2026-11-29T08:00:00Z.")]
Until = Annotated[str | None, typer.Option("--until", help="Only received before then.")]


@app.command("list")
def list_letters(
    institution: Institution = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters."""
    wanted = {"institution": institution, "reason": reason, "since": since, "until": until}
    rows = service.get(data_directory(data), "/letters", **wanted)
    columns = ("id", "institution", "reason", "received_at", "status", "entries")
    screen.print_rows(rows, columns, as_json=as_json, empty="no dead letters")


@app.command()
def show(
    letter: Annotated[str, typer.Argument(metavar="ID", help="Id of the letter.")],
    message: Annotated[bool, typer.Option("--message", help="Print the message as it was received.")] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show why a message could not be taken. The message itself holds personal data: only with --message."""
    if not letter:
        raise Failure("which letter? (give an ID of 'fhir-bridge dead-letters list')", exit_code=SETUP)
    found = service.get(data_directory(data), f"/letters/{quote(letter, safe='')}")
    if message:
        print(found["message"])
        return
    if as_json:
        screen.print_json({name: value for name, value in found.items() if name != "message"})
        return
    print(f"{found['id']} from {found['institution']}, received {found['received_at']}: {found['reason']}")
    for finding in found["findings"]:
        place = "message" if finding["index"] is None else f"entry {finding['index']}"
        for issue in finding["issues"]:
            print(f"  {place}: {screen.issue_words(issue)}")


@app.command()
def replay(
    letters: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Ids; none: see the options.")] = None,
    institution: Institution = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    every: Annotated[bool, typer.Option("--all", help="Replay all that are open.")] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Send letters through the line again. What has been taken meanwhile changes nothing."""
    directory = data_directory(data)
    if bool(letters) == bool(institution or reason or since or until or every):
        raise Failure(
            "which letters? (give IDs, or else --reason, --institution, --since, --until or --all)", exit_code=SETUP
        )
    chosen = {
        "ids": letters or None,
        "institution": institution,
        "reason": reason,
        "since": since,
        "until": until,
    }
    body = {name: value for name, value in chosen.items() if value is not None}
    answer = service.post(directory, "/letters/replay", body)
    if as_json:
        screen.print_json(answer)
    else:
        print(f"{answer['replayed']} replayed, {answer['still_refused']} still refused")
        for why in answer["why"]:
            place = "message" if why["index"] is None else f"entry {why['index']}"
            print(f"  {why['letter']}: {place}: {screen.issue_words(why['issue'])}")
    if answer["still_refused"]:
        raise typer.Exit(FAILED)
