"""One question to the service and its answer, for commands that need no more than that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fhir_bridge.cli.waiting import wait_for


def get(data: Path, path: str, **params: str | None) -> Any:
    """Return the control API's answer to a GET; parameters that are None are left out."""

    async def question() -> Any:
        from fhir_bridge.cli.control import open_control

        async with open_control(data) as control:
            return await control.get(path, **params)

    return wait_for(question())


def post(data: Path, path: str, body: Mapping[str, Any]) -> Any:
    """Return the control API's answer to a POST of JSON."""

    async def order() -> Any:
        from fhir_bridge.cli.control import open_control

        async with open_control(data) as control:
            return await control.post(path, body)

    return wait_for(order())
