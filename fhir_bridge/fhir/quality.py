"""placeholder"""

from __future__ import annotations

from typing import Any

from fhir_bridge.fhir.run import Place, Run


def quality_flags(resource: dict[str, Any], name: str, place: Place, run: Run) -> None:
    return None
