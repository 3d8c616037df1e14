"""``labels``: which value sets label records, putting others into force, and labelling what is stored by them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fhir_bridge.cli import screen, service
from fhir_bridge.cli.failing import FAILED, SETUP, Failure
from fhir_bridge.cli.options import AsJson, Data, data_directory
from fhir_bridge.cli.waiting import wait_for

app = typer.Typer(help="Value sets that label sensitive records.", rich_markup_mode=None)


@app.command()
def show(data: Data = None, as_json: AsJson = False) -> None:
    """Show the value sets in force and how many charts they have not labelled yet."""
    found = service.get(data_directory(data), "/labels")
    if as_json:
        screen.print_json(found)
        return
    screen.print_rows(found["sets"], ("label", "value_set", "concepts"), as_json=False, empty="no value sets")
    print(f"digest {found['digest']}")
    if found["charts_behind"]:
        print(f"{found['charts_behind']} charts wait to be labelled (fhir-bridge labels relabel)")


@app.command()
def load(
    topics: Annotated[
        list[str] | None, typer.Argument(metavar="LABEL=FILE...", help="A code of v3-ActCode and its ValueSet.")
    ] = None,
    beside: Annotated[
        list[Path] | None, typer.Option("--with", help="File, or folder of files, that the others include.")
    ] = None,
    also: Annotated[
        list[Path] | None, typer.Option("--also", help="A ValueSet that labels nothing: for searches with :in.")
    ] = None,
    packaged: Annotated[
        bool, typer.Option("--packaged", help="Go back to the sets of this release, but for those named.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Read the files and change nothing.")] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Put FHIR ValueSets into force at once, then label what is stored by them. Others in force stay."""
    directory = data_directory(data)
    if not (topics or also or packaged):
        raise Failure("which value sets? (give LABEL=FILE, --also or --packaged)", exit_code=SETUP)
    body = _order(topics or [], beside or [], also or []) | {"packaged": packaged, "check_only": check}
    answer = service.post(directory, "/labels", body)
    if check:
        _tell(answer, as_json, f"{len(answer['value_sets'])} value sets can be in force; digest {answer['digest']}")
        return
    if not as_json:
        print(f"in force: {', '.join(answer['value_sets'])}")
    _run(directory, as_json)


@app.command()
def relabel(data: Data = None, as_json: AsJson = False) -> None:
    """Label what is stored by the sets in force, where that is not done yet. Takes up a run that was cut off."""
    _run(data_directory(data), as_json)


def _order(topics: Sequence[str], beside: Sequence[Path], also: Sequence[Path]) -> dict[str, Any]:
    """Return the request: every file by its name, and which of them is for what."""
    wanted: dict[str, str] = {}
    files: dict[str, str] = {}
    for topic in topics:
        label, equals, name = topic.partition("=")
        if not equals or not label or not name:
            raise Failure(f"{topic!r} is not of the form LABEL=FILE", exit_code=SETUP)
        wanted[label] = _read(Path(name), files)
    for path in beside:
        for each in sorted(path.glob("*.json")) if path.is_dir() else [path]:
            _read(each, files)
    return {"topics": wanted, "also": {_read(path, files): "" for path in also}, "files": files}


def _read(path: Path, files: dict[str, str]) -> str:
    """Add a file under its name, or its whole path where two share a name; return that."""
    if not path.is_file():
        raise Failure(f"{path} is not a file", exit_code=SETUP)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as wrong:
        raise Failure(f"{path} is not UTF-8", exit_code=SETUP) from wrong
    name = path.name if files.get(path.name, text) == text else str(path)
    files[name] = text
    return name


def _run(directory: Path, as_json: bool) -> None:
    done = wait_for(_relabel(directory))
    words = f"{done['done']} of {done['charts']} charts labelled, {done['versions']} new versions"
    _tell(done, as_json, words)
    if done["failed"]:
        codes = ", ".join(f"{code} ({charts})" for code, charts in sorted(done["failed"].items()))
        raise Failure(f"charts not labelled: {codes} (nothing of them leaks; mend it and run 'labels relabel')")


async def _relabel(directory: Path) -> dict[str, Any]:
    done: dict[str, Any] | None = None
    with screen.metered("labels", None) as meter:
        async for event in _events(directory):
            if "refused" in event:
                raise Failure(str(event["refused"]), exit_code=SETUP)
            done = event.get("done", done)
            at = event.get("progress", done) or {}
            meter.advance(1, f"{at.get('done')} of {at.get('charts')} charts, {at.get('versions')} new versions")
    if done is None:
        raise Failure("labelling broke off (start 'labels relabel' again: it goes on where it was)", exit_code=FAILED)
    return done


async def _events(directory: Path) -> AsyncIterator[dict[str, Any]]:
    from fhir_bridge.cli.control import open_control

    async with open_control(directory) as control:
        async for line in control.lines("/labels/relabel", {}):
            yield json.loads(line)


def _tell(answer: Any, as_json: bool, words: str) -> None:
    if as_json:
        screen.print_json(answer)
    else:
        print(words)
