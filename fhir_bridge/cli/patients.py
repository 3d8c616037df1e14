"""``patient`` and ``person``: enrol a patient's agent, and say which charts are one human."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from fhir_bridge.cli import screen, service
from fhir_bridge.cli.failing import SETUP, Failure
from fhir_bridge.cli.options import AsJson, Data, InstitutionName, data_directory

patient = typer.Typer(help="Patients and their agents.", rich_markup_mode=None)
person = typer.Typer(help="Which charts belong to one human.", rich_markup_mode=None)

_COLUMNS = {
    "person": ("person",),
    "institution": ("institution", "hospital"),
    "patient": ("patient", "patient_id", "local_patient_id", "local patient id"),
}
"""Names that a column of a cross-reference feed goes by."""


@patient.callback()
def _patient() -> None:
    """Patients and their agents."""


@patient.command()
def enrol(
    institution: InstitutionName,
    patient_id: Annotated[str, typer.Option("--patient", help="Patient id as the institution knows it.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Give a patient an agent of their own: keys that open and close consent, and credentials to sign in with.

    Prints the patient's canonical id on standard output and everything else on standard error.
    """
    body = {"institution": institution, "patient": patient_id}
    directory = data_directory(data)
    enrolled = service.post(directory, "/patients", body)
    if as_json:
        screen.print_json(enrolled)
        return
    print(enrolled["patient"], flush=True)
    screen.remark(f"enrolled as Patient/{enrolled['patient']}, charts linked: {enrolled['charts']}")
    place = directory / enrolled["credentials"]
    screen.remark(f"credentials (owner-only file; hand them to the patient's agent): {place}")


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
    with feed.open(newline="", encoding="utf-8-sig") as lines:
        rows = read_feed(lines)
    answer = service.post(directory, "/links", {"rows": rows})
    if as_json:
        screen.print_json(answer)
        return
    print(f"{len(rows)} rows read, {answer['changed']} links new or changed")


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
