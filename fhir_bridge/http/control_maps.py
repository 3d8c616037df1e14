"""The operator's routes about what rules made of records that are stored."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from fhir_bridge.lines.explaining import Explaining


def install(app: FastAPI, explaining: Explaining) -> None:
    """Add the routes to the control application."""

    @app.get("/map/explain")
    async def explain(record: str, element: str = "") -> JSONResponse:
        return JSONResponse(await explaining.explain(record, element))
