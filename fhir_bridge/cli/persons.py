"""``person``: which charts are one human's, by a feed, by what their Patients say, and by who decides."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fhir_bridge.cli import screen, service
from fhir_bridge.cli.failing import FAILED, SETUP, Failure
from fhir_bridge.cli.options import AsJson, Data, data_directory
from fhir_bridge.cli.waiting import wait_for

person = typer.Typer(help="Which charts belong to one human.", rich_markup_mode=None)

One = Annotated[str, typer.Argument(metavar="PATIENT", help="Canonical Patient id.")]
Other = Annotated[str, typer.Argument(metavar="OTHER", help="Canonical Patient id of the other chart.")]

_SUGGESTED = ("bits", "one", "other", "agrees", "differs")
_COLUMNS = {
    "person": ("person",),
    "institution": ("institution", "hospital"),
    "patient": ("patient", "patient_id", "local_patient_id", "local patient id"),
}
"""Names that a column of a cross-reference feed goes by."""


@person.callback()
def _person() -> None:
    """Which charts belong to one human."""


@person.command()
def link(
    feed: Annotated[Path, typer.Argument(help="CSV with the columns person, institution and local patient id.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Apply a cross-reference feed. Applying it again changes nothing; other columns are ignored."""
    directory = data_directory(data)
    try:
        with feed.open(newline="", encoding="utf-8-sig") as lines:
            rows = read_feed(lines)
    except UnicodeDecodeError as error:
        raise Failure(f"{feed} is not UTF-8: save it so", exit_code=SETUP) from error
    except csv.Error as error:
        raise Failure(f"{feed} cannot be read as CSV: {error}", exit_code=SETUP) from error
    answer = service.post(directory, "/links", {"rows": rows})
    if as_json:
        screen.print_json(answer)
        return
    print(f"{len(rows)} rows read, {answer['changed']} links new or changed")


@person.command()
def suggest(
    least_bits: Annotated[
        float | None,
        typer.Option("--least-bits", help="Evidence from which a pair is shown; by default by how many there are."),
    ] = None,
    link_identifiers: Annotated[
        bool,
        typer.Option("--link-identifiers", help="Link pairs with a trusted identifier in common; show the others."),
    ] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show pairs of charts that may be one human's, best first. Nothing is linked before somebody accepts it.

    Look both patients up where they were treated, then 'person accept' or 'person refuse' the pair.
    """
    if least_bits is not None and not math.isfinite(least_bits):
        raise Failure("--least-bits must be a number", exit_code=SETUP)
    body = {"least_bits": least_bits, "link_identifiers": link_identifiers}
    found, done = wait_for(_suggested(data_directory(data), body))
    if as_json:
        screen.print_json({"suggestions": found} | done)
        return
    screen.print_rows([_shown(each) for each in found], _SUGGESTED, as_json=False, empty="no pair to decide about")
    screen.remark(
        f"{done['patients']} patients compared, {len(found)} pairs from {done['least_bits']} bits, "
        f"{done['linked']} linked by identifier"
    )
    if done["skipped"]:
        screen.remark(f"{done['skipped']} values that more than 500 patients share were not looked through")


@person.command()
def accept(
    patient: One,
    other: Other,
    merge: Annotated[
        bool, typer.Option("--merge", help="Also where both are linked with others: all are one human then.")
    ] = False,
    data: Data = None,
) -> None:
    """Link two charts, because somebody has looked. Consents signed before do not reach the new link."""
    body = {"one": patient, "two": other, "merge": merge}
    answer = service.post(data_directory(data), "/persons/accept", body)
    print(f"{answer['linked']} charts are one human's now")


@person.command()
def refuse(patient: One, other: Other, data: Data = None) -> None:
    """Note that two charts are two humans', so that the pair is not suggested again."""
    service.post(data_directory(data), "/persons/refuse", {"one": patient, "two": other})
    print("noted: two humans")


@person.command()
def unlink(patient: One, data: Data = None) -> None:
    """Undo a chart's link, and what was said of it by 'person refuse'."""
    answer = service.post(data_directory(data), "/persons/unlink", {"patient": patient})
    print(f"unlinked from {answer['unlinked_from']} charts")


@person.command()
def show(patient: One, data: Data = None, as_json: AsJson = False) -> None:
    """Show the charts of a person, and on what ground each is linked."""
    rows = service.get(data_directory(data), "/persons/linked", patient=patient)
    screen.print_rows(rows, ("institution", "patient", "assurance"), as_json=as_json, empty="")


async def _suggested(directory: Path, body: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    found: list[dict[str, Any]] = []
    done: dict[str, Any] | None = None
    with screen.metered("patients", None) as meter:
        async for event in _events(directory, body):
            done = event.get("done", done)
            if "suggestion" in event:
                found.append(event["suggestion"])
            meter.advance(1, f"{event.get('progress', {}).get('patients', '')}")
    if done is None:
        raise Failure("the comparison broke off (start it again: it changes nothing)", exit_code=FAILED)
    return found, done


async def _events(directory: Path, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    from fhir_bridge.cli.control import open_control

    async with open_control(directory) as control:
        async for line in control.lines("/persons/suggest", body):
            yield json.loads(line)


def _shown(pair: Mapping[str, Any]) -> dict[str, Any]:
    fields = pair["fields"]
    return {
        "bits": pair["bits"],
        "one": f"{pair['one']['institution']} {pair['one']['patient']}",
        "other": f"{pair['two']['institution']} {pair['two']['patient']}",
        "agrees": ", ".join(name if how == "same" else f"{name} ({how})" for name, how in _agreeing(fields)),
        "differs": ", ".join(name for name, how in fields.items() if how == "different"),
    }


def _agreeing(fields: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, how) for name, how in fields.items() if how != "different"]


def read_feed(lines: Iterable[str]) -> list[dict[str, str]]:
    """Return the rows of a cross-reference feed under the names the service uses.

    Raises:
        Failure: A column is missing, or a row has an empty cell; names column and line, never a value.
    """
    reader = csv.DictReader(lines)
    columns = {name: _column(name, reader.fieldnames or ()) for name in _COLUMNS}
    return [_row(columns, row, reader.line_num) for row in reader]


def _column(name: str, header: Iterable[str]) -> str:
    known = {column.strip().lower(): column for column in header}
    for alias in _COLUMNS[name]:
        if alias in known:
            return known[alias]
    raise Failure(
        f"the feed has no column {name!r} (its first line must name person, institution, patient_id)", exit_code=SETUP
    )


def _row(columns: Mapping[str, str], row: Mapping[str, str | None], line: int) -> dict[str, str]:
    found = {name: (row[column] or "").strip() for name, column in columns.items()}
    missing = [columns[name] for name, value in found.items() if not value]
    if missing:
        raise Failure(f"line {line} of the feed has nothing in column {missing[0]!r}", exit_code=SETUP)
    return found
