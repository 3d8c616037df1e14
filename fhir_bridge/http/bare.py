"""Applications that do what we say and nothing that the framework offers beside it."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from fhir_bridge import __version__

_NONE: Final[TelemetryConfig] = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""FastAPI's own telemetry tells paths and the texts of errors, and a variable of the environment turns it on."""


def bare_app(title: str) -> FastAPI:
    """Return an application without routes, pages or telemetry of the framework's."""
    return FastAPI(
        title=title,
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        telemetry=_NONE,
    )
