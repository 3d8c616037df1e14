"""The pure rooms, wherever they run: in this process or in workers."""

from __future__ import annotations

from typing import Protocol

from fhir_bridge.model.ingest import Processed, Received, SourceContext


class Rooms(Protocol):
    """Decodes, validates and normalises messages side by side."""

    async def process(self, received: Received, source: SourceContext) -> Processed:
        """Return what the pure rooms make of a message.

        Raises:
            RulesetBroken: The institution's rule pack does not load.
            Unavailable: The workers are gone and could not be started again.
        """
        ...

    async def close(self) -> None:
        """Stop the workers."""
        ...
