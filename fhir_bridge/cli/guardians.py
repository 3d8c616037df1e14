"""``guardian``: attest, as an institution's clerk, who may act for a patient, and end it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from fhir_bridge.cli import screen
from fhir_bridge.cli.failing import FAILED, SETUP, Failure
from fhir_bridge.cli.options import AsJson, Data, InstitutionName, data_directory
from fhir_bridge.cli.waiting import wait_for

app = typer.Typer(help="Guardians of patients, on an institution's word.", rich_markup_mode=None)

Patient = Annotated[str, typer.Option("--patient", help="Patient, by the institution's own id or the canonical one.")]
Practitioner = Annotated[str, typer.Option(help="Practitioner id of who attests.")]


@app.callback()
def _guardian() -> None:
    """Guardians of patients, on an institution's word."""


@app.command()
def attest(
    institution: InstitutionName,
    patient: Patient,
    practitioner: Practitioner,
    name: Annotated[str, typer.Option(help="Name of the guardian.")],
    relationship: Annotated[str, typer.Option(help="Code of v3-RoleCode, such as MTH, FTH, GUARD.")],
    basis: Annotated[str, typer.Option(help="The paper or the law that it rests on.")],
    until: Annotated[str, typer.Option(help="Last day, such as that before the child's majority.")],
    begins: Annotated[str | None, typer.Option("--from", help="First day; now by default.")] = None,
    scope: Annotated[str, typer.Option(help="What the guardian may do.")] = "patient/*.rs patient/Consent.cu",
    key: Annotated[Path | None, typer.Option(help="File with the guardian's public JSON Web Key.")] = None,
    new_key: Annotated[
        Path | None, typer.Option(help="Make a key; write the guardian's credentials to this new file.")
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Let somebody act for a patient in an own name, for this institution's chart, until a day."""
    if (key is None) == (new_key is None):
        raise Failure("give --key FILE or --new-key FILE", exit_code=SETUP)
    if new_key is not None and new_key.exists():
        raise Failure(f"{new_key} exists (give a new file to --new-key)", exit_code=SETUP)
    private, public = _keys(key)
    given = {"name": name, "relationship": relationship, "basis": basis, "scope": scope, "until": until}
    given |= {"key": json.dumps(public)} | ({"from": begins} if begins is not None else {})
    path = f"Patient/{patient}/$attest-guardian"
    directory = data_directory(data)
    answer, token_url = wait_for(ask_as_clerk(directory, institution, practitioner, path, _parameters(given)))
    told = {each["name"]: each["valueString"] for each in answer["parameter"]}
    if new_key is not None:
        _save(new_key, {"client_id": told["client_id"], "private_jwk": private, "token_url": token_url})
        screen.remark(f"credentials (owner-only file; hand them to the guardian): {new_key}")
    if as_json:
        screen.print_json(told)
        return
    print(told["guardian"])
    screen.remark(f"acts as client {told['client_id']} until {until}, attested by institution {institution}")


@app.command()
def end(
    institution: InstitutionName,
    patient: Patient,
    practitioner: Practitioner,
    guardian: Annotated[str, typer.Argument(help="Id that attesting gave.")],
    data: Data = None,
) -> None:
    """End a guardian's time at once; permits it signed end with it, denials stay."""
    path = f"Patient/{patient}/$end-guardianship"
    body = _parameters({"guardian": guardian})
    wait_for(ask_as_clerk(data_directory(data), institution, practitioner, path, body))
    screen.remark("ended")


async def ask_as_clerk(
    data: Path, institution: str, practitioner: str, path: str, body: bytes
) -> tuple[dict[str, Any], str]:
    """POST to the public API as an institution's practitioner; return the answer and the token endpoint.

    Raises:
        Failure: It was refused.
    """
    from fhir_bridge.cli.tokens import as_institution

    headers = {"Content-Type": "application/fhir+json"}
    async with as_institution(data, institution, practitioner=practitioner) as (client, token_url):
        answer = await client.post(f"/fhir/{path}", content=body, headers=headers)
    found: dict[str, Any] = json.loads(answer.content)
    if answer.is_error:
        issues = found.get("issue", [])
        problem = "; ".join(map(screen.issue_words, issues)) or f"answered {answer.status_code}"
        raise Failure(problem, exit_code=FAILED)
    return found, token_url


def _keys(public: Path | None) -> tuple[dict[str, Any], Any]:
    """Return a private and a public key: new ones, or the public one of a file."""
    from fhir_bridge.adapters.access import make_key

    if public is None:
        return make_key()
    try:
        return {}, json.loads(public.read_bytes())
    except ValueError:
        raise Failure(f"{public} is not a JSON Web Key", exit_code=SETUP) from None


def _parameters(given: dict[str, str]) -> bytes:
    listed = [{"name": name, "valueString": value} for name, value in given.items()]
    return json.dumps({"resourceType": "Parameters", "parameter": listed}).encode()


def _save(path: Path, credentials: dict[str, Any]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(credentials, file, indent=2)
