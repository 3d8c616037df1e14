"""``institution``: who takes part."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

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
    fhir_version: Annotated[
        FhirVersion | None, typer.Option("--fhir-version", help="What it sends; else what its pack is written for.")
    ] = None,
    author: Annotated[
        str | None, typer.Option("--author", metavar="NAME", help="Who answers for the rules; else the institution.")
    ] = None,
    approver: Annotated[
        str | None, typer.Option("--approver", metavar="NAME", help="Who else has looked at them.")
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Register an institution: its ledger identity, its keys, its rules and its first credentials.

    Prints its id on standard output and everything else on standard error.
    """
    directory = data_directory(data, may_be_new=True)
    if not ruleset.is_dir():
        raise Failure(f"{ruleset} is not a folder (give the folder that holds source.yaml)", exit_code=SETUP)
    body = {"name": name, "ruleset_dir": str(ruleset.absolute())}
    body |= {} if fhir_version is None else {"fhir_version": fhir_version.value}
    body |= {name: given for name, given in (("author", author), ("approver", approver)) if given}
    made = service.post(directory, "/institutions", body)
    if as_json:
        screen.print_json(made)
        return
    print(made["id"], flush=True)
    screen.remark(f"{made['name']} has joined the ledger; consents name it Organization/{made['id']}")
    screen.remark(f"topic: {made['topic']}")
    for doubt in made.get("doubts", ()):
        screen.remark(f"the pack: {doubt}")
    for note in made.get("not_judged", ()):
        screen.remark(f"profiles: {note}")
    screen.remark(f"credentials (owner-only file; hand them to its system): {directory / made['credentials']}")


@app.command("list")
def list_institutions(data: Data = None, as_json: AsJson = False) -> None:
    """List the institutions of this service."""
    rows = service.get(data_directory(data), "/institutions")
    columns = ("name", "id", "fhir_version", "ruleset", "topic")
    screen.print_rows(rows, columns, as_json=as_json, empty="no institution yet: fhir-bridge institution add NAME")


@app.command("signing-key")
def signing_key(
    name: Annotated[str, typer.Argument(help="Name of the institution.")],
    add_file: Annotated[
        Path | None, typer.Option("--add", metavar="FILE", help="Register this public key (JWK), checked by you.")
    ] = None,
    remove: Annotated[
        str | None,
        typer.Option(
            "--remove", metavar="KID", help="Take this key back; after the last, unsigned messages are taken."
        ),
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Say which keys sign what the institution sends by bus. With one registered, nothing unsigned is taken."""
    directory, place = data_directory(data), f"/institutions/{quote(name, safe='')}/signing-keys"
    if add_file is not None:
        added = service.post(directory, place, {"add": _jwk(add_file)})
        screen.remark(
            f"{name} signs what it sends by bus from now on; key {added['kid']}, thumbprint {added['thumbprint']}"
        )
    if remove is not None:
        service.post(directory, place, {"remove": remove})
    rows = service.get(directory, place)
    screen.print_rows(
        rows,
        ("kid", "thumbprint", "kty", "crv", "alg"),
        as_json=as_json,
        empty="no signing key: nothing has to be signed",
    )


@app.command("encryption-key")
def encryption_key(
    name: Annotated[str, typer.Argument(help="Name of the institution.")],
    renew: Annotated[
        bool, typer.Option("--renew", help="Make another; the one before still opens messages.")
    ] = False,
    destroy_older: Annotated[
        bool, typer.Option("--destroy-older", help="Destroy all but the newest: what was encrypted to them is lost.")
    ] = False,
    must: Annotated[
        bool | None, typer.Option("--require/--optional", help="Whether what comes by bus must be encrypted.")
    ] = None,
    data: Data = None,
) -> None:
    """Print the public key (JWK) that the institution encrypts to what it sends by bus; made on first use."""
    body = {"renew": renew, "destroy_older": destroy_older} | ({} if must is None else {"must": must})
    place = f"/institutions/{quote(name, safe='')}/encryption-key"
    screen.print_json(service.post(data_directory(data), place, body))


def _jwk(file: Path) -> dict[str, object]:
    try:
        jwk = json.loads(file.read_bytes())
    except (OSError, ValueError) as wrong:
        raise Failure(f"{file} cannot be read as a JWK", exit_code=SETUP) from wrong
    if not isinstance(jwk, dict):
        raise Failure(f"{file} holds no JWK (a JSON object with kty)", exit_code=SETUP)
    return jwk
