"""The operator's routes about what rules made of records that are stored."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from fhir_bridge.errors import RulesetBroken, SetupWrong
from fhir_bridge.http.given import object_of, text_of
from fhir_bridge.lines.backfilling import BackfillLine, Wanted
from fhir_bridge.lines.explaining import Explaining


def install(app: FastAPI, explaining: Explaining, backfilling: BackfillLine) -> None:
    """Add the routes to the control application."""

    @app.get("/map/explain")
    async def explain(record: str, element: str = "") -> JSONResponse:
        return JSONResponse(await explaining.explain(record, element))

    @app.post("/map/backfill")
    async def backfill(request: Request) -> StreamingResponse:
        given = await object_of(request)
        rule, since = (text_of(given, name) if given.get(name) else "" for name in ("rule", "since"))
        wanted = Wanted(text_of(given, "institution"), rule, since)
        lines = _told(backfilling, wanted, is_rehearsal=given.get("dry_run") is True)
        return StreamingResponse(lines, media_type="application/x-ndjson")


async def _told(backfilling: BackfillLine, wanted: Wanted, *, is_rehearsal: bool) -> AsyncIterator[bytes]:
    """Return a run as NDJSON: ``progress`` after each chart, ``done`` at the end, ``refused`` if it cannot begin."""
    last: dict[str, Any] = {}
    try:
        async for progress in backfilling.rehearse(wanted) if is_rehearsal else backfilling.run(wanted):
            last = asdict(progress)
            yield _line({"progress": last})
    except (SetupWrong, RulesetBroken) as refused:
        yield _line({"refused": str(refused)})
        return
    yield _line({"done": last})


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
