"""``fsck``, ``reindex``, ``backup`` and ``restore``: is all still what was anchored, and could it be brought back?"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fhir_bridge.cli import screen, service
from fhir_bridge.cli.failing import FAILED, SETUP, Failure
from fhir_bridge.cli.options import AsJson, Data, data_directory
from fhir_bridge.cli.waiting import wait_for

_SHOWN = 20
_LOG_KEY = "keyring identity-log"


def fsck(
    deep: Annotated[bool, typer.Option("--deep", help="Also open every envelope.")] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="A checkpoint kept elsewhere; finds a ledger rolled back as a whole."),
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Compare everything stored with the ledger; name the place of what disagrees. Exit code 1 if anything does.

    Works whether a service runs or not, and on files that no service could open any more.
    """
    if checkpoint is not None and not checkpoint.is_file():
        raise Failure(f"{checkpoint} is not a file", exit_code=SETUP)
    note = None if checkpoint is None else checkpoint.read_text()
    findings, done = wait_for(_fsck(data_directory(data), deep, note))
    if as_json:
        screen.print_json({"findings": findings, **done})
    else:
        for finding in findings:
            print(f"{finding['place']}: {finding['what']}")
        verdict = "agrees with the ledger" if not findings else f"{len(findings)} disagreements"
        print(f"{done['records']} records checked: {verdict}" if "records" in done else f"checked: {verdict}")
    if findings:
        raise typer.Exit(FAILED)


def reindex(data: Data = None, as_json: AsJson = False) -> None:
    """Make every chart's index anew where other search definitions made it. Safe to break off and to repeat.

    A running service does the same by itself, in the background and for each chart that is opened.
    """
    done = wait_for(_reindex(data_directory(data)))
    if as_json:
        screen.print_json(done)
    else:
        print(f"{done['segments']} index segments made anew; every chart is of the definitions in use")


def backup(
    to: Annotated[Path, typer.Option("--to", help="Folder to write; made when missing.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Copy vault and ledger to one place and keys to another: keep the two apart, or an erasure is no erasure."""
    answer = service.post(data_directory(data), "/backup", {"to": str(to.absolute())})
    if as_json:
        screen.print_json(answer)
        return
    for name, place in answer.items():
        print(f"{name}: {place}")


def restore(
    source: Annotated[Path, typer.Option("--from", help="Folder of the vault's backup.")],
    keys: Annotated[Path, typer.Option("--keys", help="Folder of the keys' backup.")],
    data: Data = None,
) -> None:
    """Bring a backup back into an empty data directory and check it against its ledger; exit code 1 if it differs."""
    directory = data_directory(data, may_be_new=True)
    if directory.exists() and any(directory.iterdir()):
        raise Failure(f"{directory} is not empty (restore into a new directory)", exit_code=SETUP)
    for place in (source, keys):
        if not place.is_dir():
            raise Failure(f"{place} is not a folder", exit_code=SETUP)
    from fhir_bridge.wiring import restore as bring_back

    bring_back(source, keys, directory)
    findings, _ = wait_for(_fsck(directory, False, None))
    for finding in findings[:_SHOWN]:
        print(f"{finding['place']}: {finding['what']}")
    if len(findings) > _SHOWN:
        print(f"and {len(findings) - _SHOWN} more: fhir-bridge fsck --data {directory}")
    if any(found["place"] == _LOG_KEY and found["what"].startswith("another key") for found in findings):
        raise Failure("the keys are not those of this vault (--from and --keys take the two folders of one backup)")
    if findings:
        raise Failure(f"the copy in {directory} disagrees with its ledger (do not serve it; try another backup)")
    print(f"restored into {directory} and checked against its ledger")
    print(f"in depth: fhir-bridge fsck --deep --data {directory}")


class Store(StrEnum):
    """What has a layout of its own."""

    VAULT = "vault"
    LEDGER = "ledger"


def migrate(
    store: Annotated[Store, typer.Argument(help="Which store.")],
    to: Annotated[int, typer.Option("--to", help="Number of the layout.")],
    data: Data = None,
) -> None:
    """Bring a store to another layout: down for an older fhir-bridge that is to open it, which data may not allow.

    Up goes by itself when the service starts. The service must be stopped; make a backup first.
    """
    from fhir_bridge.wiring import migrate as run

    done = run(data_directory(data), store.value, to)
    for step in done.steps:
        print(f"{'undone' if done.after < done.before else 'done'}: {step}")
    print(f"{store.value}: layout {done.before}" + (f" became {done.after}" if done.after != done.before else ""))


async def _fsck(data: Path, deep: bool, checkpoint: str | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    findings: list[dict[str, Any]] = []
    done: dict[str, Any] | None = None
    with screen.metered("fsck", None) as meter:
        async for event in _events(data, deep, checkpoint):
            if "finding" in event:
                findings.append(event["finding"])
            done = event.get("done", done)
            meter.advance(1, str(event.get("progress", "")))
    if done is None:
        raise Failure("the check broke off before its end (look at the service's log and start it again)")
    return findings, done


async def _reindex(data: Path) -> dict[str, Any]:
    from fhir_bridge.cli.control import open_control

    done: dict[str, Any] | None = None
    async with open_control(data) as control:
        with screen.metered("reindex", None) as meter:
            async for line in control.lines("/reindex", {}):
                event = json.loads(line)
                done = event.get("done", done)
                if "progress" in event:
                    meter.advance(1, f"{event['progress']['charts']} of {event['progress']['of']} charts")
    if done is None:
        raise Failure("the work broke off before its end (look at the service's log and start it again)")
    return done


async def _events(data: Path, deep: bool, checkpoint: str | None) -> AsyncIterator[dict[str, Any]]:
    """Let the running service check, which holds the keyring's passphrase; without one, check the files here."""
    from fhir_bridge.cli.control import open_control, reachable_socket

    with reachable_socket(data / "control.sock") as path:
        is_served = path is not None
    if is_served:
        async with open_control(data) as control:
            async for line in control.lines("/fsck", {"deep": deep, "checkpoint": checkpoint}):
                yield json.loads(line)
        return
    from fhir_bridge.wiring import check_lines

    for found in check_lines(data, deep=deep, checkpoint=checkpoint):
        yield json.loads(found)
