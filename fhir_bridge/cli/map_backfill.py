"""``map backfill``: make stored records again where a rule was mended."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fhir_bridge.cli import screen
from fhir_bridge.cli.failing import FAILED, SETUP, Failure
from fhir_bridge.cli.options import AsJson, Data, data_directory
from fhir_bridge.cli.waiting import wait_for


def backfill(
    institution: Annotated[str, typer.Argument(help="Name of a registered institution.")],
    rule: Annotated[str, typer.Option("--rule", help="Only records that this rule had a hand in.")] = "",
    since: Annotated[
        str, typer.Option("--since", metavar="HASH", help="Only records stored since this ruleset's first one.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change and write nothing.")] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make an institution's records again from their originals, under the rules it is registered with now.

    Records that other rules made and that come out otherwise get a new version; the old ones stay. Break it off and
    start it again as you like: it goes on where it was, and by itself when the service starts. Intake goes first.
    Exit code 1 if a record or a chart could not be made again.
    """
    directory = data_directory(data)
    if rule and since:
        raise Failure("--rule and --since are two ways to choose: give one", exit_code=SETUP)
    order = {"institution": institution, "rule": rule, "since": since, "dry_run": dry_run}
    done = wait_for(_run(directory, order))
    if as_json:
        screen.print_json(done)
    else:
        _tell(done, dry_run)
    if done["refused"] or done["failed"]:
        raise typer.Exit(FAILED)


async def _run(directory: Path, order: Mapping[str, Any]) -> dict[str, Any]:
    done: dict[str, Any] | None = None
    with screen.metered("backfill", None) as meter:
        async for event in _events(directory, order):
            if "refused" in event:
                raise Failure(str(event["refused"]), exit_code=SETUP)
            done = event.get("done", done)
            at = event.get("progress", done) or {}
            meter.advance(1, f"{at.get('done')} of {at.get('charts')} charts, {at.get('versions')} new versions")
    if done is None:
        raise Failure("the backfill broke off (start it again: it goes on where it was)", exit_code=FAILED)
    return done


async def _events(directory: Path, order: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    from fhir_bridge.cli.control import open_control

    async with open_control(directory) as control:
        async for line in control.lines("/map/backfill", order):
            yield json.loads(line)


def _tell(done: Mapping[str, Any], dry_run: bool) -> None:
    word = "would get a new version" if dry_run else "got a new version"
    print(f"{done['done']} of {done['charts']} charts, {done['looked_at']} records made again")
    print(f"{done['versions']} {word}")
    for element, count in sorted(done["elements"].items(), key=lambda each: (-each[1], each[0])):
        print(f"  {element}: {count}")
    if done["erased"]:
        print(f"{done['erased']} erased charts passed over")
    for code, count in sorted(done["refused"].items()):
        screen.remark(f"{count} records keep their version, the rules would not take them: {code}")
    for code, count in sorted(done["failed"].items()):
        screen.remark(f"{count} charts not done: {code} (mend it and start the backfill again)")
