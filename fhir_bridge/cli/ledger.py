"""``verify`` and ``ledger``: check a receipt offline; hand out what outsiders check with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fhir_bridge.cli.options import Data, data_directory
from fhir_bridge.cli.waiting import wait_for

app = typer.Typer(help="What outsiders check this ledger with.", rich_markup_mode=None)

Out = Annotated[Path | None, typer.Option("--out", help="File to write; standard output without it.")]


def verify(
    receipt: Annotated[Path, typer.Argument(help="The receipt.")],
    record: Annotated[Path | None, typer.Option("--record", help="The record at hand, byte for byte.")] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", help="Whom to trust; without it, nobody vouches.")
    ] = None,
) -> None:
    """Check a receipt offline. Exit code: 0 verified, 1 refused, 2 not authenticated, 3 unreadable."""
    from ledger_core.verify import main

    given = {"--record": record, "--policy": policy}
    options = [part for name, path in given.items() if path is not None for part in (f"{name}={path}",)]
    raise typer.Exit(main([*options, "--", str(receipt)]))


@app.command()
def policy(out: Out = None, data: Data = None) -> None:
    """Write the verifier's policy: the log's name and keys. Hand it over by a way that receipts do not take."""
    wait_for(_copy(data_directory(data), "/ledger/policy", out))


@app.command()
def export(out: Out = None, data: Data = None) -> None:
    """Write everything on the ledger, for an auditor to replay. It holds commitments only, no record."""
    wait_for(_copy(data_directory(data), "/ledger/export", out))


@app.command()
def checkpoint(out: Out = None, data: Data = None) -> None:
    """Write the signed head of the log."""
    wait_for(_copy(data_directory(data), "/ledger/checkpoint", out))


async def _copy(data: Path, path: str, out: Path | None) -> None:
    from fhir_bridge.cli.control import open_control

    async with open_control(data) as control:
        if out is None:
            async for chunk in control.chunks(path):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return
        # Beside the target and renamed at the end, so that a broken download never looks like a whole one.
        partial = out.with_name(out.name + ".partial")
        with partial.open("wb") as file:
            async for chunk in control.chunks(path):
                file.write(chunk)
        partial.replace(out)
