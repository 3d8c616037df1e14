"""``institution``: who takes part."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fhir_bridge.cli import screen, service
from fhir_bridge.cli.failing import SETUP, Failure
from fhir_bridge.cli.options import AsJson, Data, data_directory

app = typer.Typer(help="Register institutions and list them.", rich_markup_mode=None)


class FhirVersion(StrEnum):
    """Releases an institution may send."""

    STU3 = "STU3"
    R4 = "R4"
    R4B = "R4B"
    R5 = "R5"


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Short name: lower-case letters, digits and hyphens.")],
    ruleset: Annotated[Path, typer.Option("--ruleset", help="Folder of the institution's rule pack.")],
    fhir_version: Annotated[FhirVersion, typer.Option("--fhir-version", help="What it sends.")] = FhirVersion.R4,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Register an institution: its ledger identity, its keys, its rules and its first credentials.

    Prints its id on standard output and everything else on standard error.
    """
    directory = data_directory(data, may_be_new=True)
    if not ruleset.is_dir():
        raise Failure(f"{ruleset} is not a folder (give the folder that holds source.yaml)", exit_code=SETUP)
    body = {"name": name, "fhir_version": fhir_version.value, "ruleset_dir": str(ruleset.absolute())}
    made = service.post(directory, "/institutions", body)
    if as_json:
        screen.print_json(made)
        return
    print(made["id"], flush=True)
    screen.remark(f"{made['name']} has joined the ledger; consents name it Organization/{made['id']}")
    screen.remark(f"topic: {made['topic']}")
    screen.remark(f"credentials (owner-only file; hand them to its system): {directory / made['credentials']}")


@app.command("list")
def list_institutions(data: Data = None, as_json: AsJson = False) -> None:
    """List the institutions of this service."""
    rows = service.get(data_directory(data), "/institutions")
    columns = ("name", "id", "fhir_version", "ruleset", "topic")
    screen.print_rows(rows, columns, as_json=as_json, empty="no institution yet: fhir-bridge institution add NAME")
