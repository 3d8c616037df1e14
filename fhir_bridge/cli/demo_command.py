"""``demo``: the whole story on one machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def demo(
    once: Annotated[bool, typer.Option("--once", help="End after the story instead of serving on.")] = False,
    data: Annotated[
        Path | None, typer.Option("--data", help="New data directory; a temporary one without it.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0: a free one.")] = 0,
) -> None:
    """Start the service with embedded parts and tell the story, through its public API only."""
    from fhir_bridge.cli.demo.story import tell

    # Embedded parts alone: the story flips a byte in its vault, which must not be anybody's real one.
    for name in ("FHIR_BRIDGE_VAULT_URL", "FHIR_BRIDGE_LEDGER_URL", "FHIR_BRIDGE_KAFKA"):
        os.environ.pop(name, None)
    raise typer.Exit(tell(once=once, data=data, port=port))
