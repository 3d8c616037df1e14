"""``signed``: the evidence for what institutions have signed."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Annotated

import typer

from fhir_bridge.cli import screen, service
from fhir_bridge.cli.failing import SETUP, Failure
from fhir_bridge.cli.options import AsJson, Data, data_directory

_PARTS = {"message": "message", "original": "original", "lineage": "lineage.json", "record": "record.json"}

app = typer.Typer(help="Messages that their sender signed.", rich_markup_mode=None)


@app.command("list")
def list_signed(data: Data = None, as_json: AsJson = False) -> None:
    """List the signed messages that are kept."""
    rows = service.get(data_directory(data), "/signed")
    screen.print_rows(rows, ("id", "institution", "received_at"), as_json=as_json, empty="no signed messages")


@app.command()
def export(
    what: Annotated[
        str, typer.Argument(metavar="ID", help="Id of a message, or a record version: Type/id/_history/version.")
    ],
    to: Annotated[Path, typer.Option("--to", help="Folder to make. It will hold personal data.")],
    data: Data = None,
) -> None:
    """Write a signed message, its signature and the key to check it with, for somebody who does not trust us.

    The folder holds message, signature.jws (detached, RFC 7515 appendix F) and key.jwk. For a record version also
    original, the part of the message that the record was made of; lineage.json, which names the message by its
    SHA-256; record.json, the record; and receipt.json, by which all three are on the ledger (ledger-verify, and
    map explain --receipt).
    """
    asked = {"record": what} if "/" in what else {"message": what}
    found = service.get(data_directory(data), "/signed/evidence", **asked)
    try:
        to.mkdir(mode=0o700, parents=True)
        (to / "signature.jws").write_text(found["signature"] + "\n")
        (to / "key.jwk").write_text(json.dumps(found["key"], indent=2) + "\n")
        for name, file in _PARTS.items():
            if name in found:
                (to / file).write_bytes(base64.b64decode(found[name]))
        if "receipt" in found:
            (to / "receipt.json").write_text(found["receipt"])
    except OSError as wrong:
        raise Failure(f"{to} cannot be written ({wrong.strerror})", exit_code=SETUP) from wrong
    screen.remark(f"signed by {found['institution']}, received {found['received_at']}, key {found['thumbprint']}")
    screen.remark(
        "compare this thumbprint (RFC 7638) with the hospital itself: whoever runs this service registered it"
    )
