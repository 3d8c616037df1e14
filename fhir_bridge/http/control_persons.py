"""The operator's routes about which charts are one human's."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from fhir_bridge.errors import SetupWrong
from fhir_bridge.http.given import object_of, text_of
from fhir_bridge.lines.matching import Matching


def install(app: FastAPI, matching: Matching) -> None:
    """Add the routes to the control application."""

    @app.post("/persons/suggest")
    async def suggest(request: Request) -> StreamingResponse:
        given = await object_of(request)
        least, link = given.get("least_bits"), given.get("link_identifiers") is True
        if least is not None and (type(least) not in (int, float) or not math.isfinite(least)):
            raise SetupWrong("least_bits must be a number")
        found = matching.suggest(least, link_identifiers=link)
        return StreamingResponse(_lines(found), media_type="application/x-ndjson")

    @app.post("/persons/accept")
    async def accept(request: Request) -> JSONResponse:
        given = await object_of(request)
        merge = given.get("merge") is True
        return JSONResponse(await matching.accept(text_of(given, "one"), text_of(given, "two"), merge=merge))

    @app.post("/persons/refuse")
    async def refuse(request: Request) -> JSONResponse:
        given = await object_of(request)
        return JSONResponse(await matching.refuse(text_of(given, "one"), text_of(given, "two")))

    @app.post("/persons/unlink")
    async def unlink(request: Request) -> JSONResponse:
        return JSONResponse(await matching.unlink(text_of(await object_of(request), "patient")))

    @app.get("/persons/linked")
    async def linked(patient: str) -> JSONResponse:
        return JSONResponse(matching.linked(patient))


async def _lines(found: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    async for each in found:
        yield json.dumps(each).encode() + b"\n"
