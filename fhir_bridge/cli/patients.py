"""``patient``: enrol a patient's agent."""

from __future__ import annotations

from typing import Annotated

import typer

from fhir_bridge.cli import screen, service
from fhir_bridge.cli.options import AsJson, Data, InstitutionName, data_directory

patient = typer.Typer(help="Patients and their agents.", rich_markup_mode=None)


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
