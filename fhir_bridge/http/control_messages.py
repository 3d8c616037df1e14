"""The operator's routes about keys of messages and signed messages."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from fhir_bridge.errors import SetupWrong
from fhir_bridge.http.given import object_of, text_of
from fhir_bridge.lines.message_keys import MessageKeys


def install(app: FastAPI, messages: MessageKeys) -> None:
    """Add the routes to the control application."""

    @app.get("/institutions/{name}/signing-keys")
    async def signing_keys(name: str) -> JSONResponse:
        return JSONResponse(messages.signing_keys(name))

    @app.post("/institutions/{name}/signing-keys")
    async def change_signing_keys(name: str, request: Request) -> JSONResponse:
        given = await object_of(request)
        if isinstance(given.get("add"), dict):
            return JSONResponse(await messages.add_signing_key(name, given["add"]))
        await messages.remove_signing_key(name, text_of(given, "remove"))
        return JSONResponse({})

    @app.post("/institutions/{name}/encryption-key")
    async def encryption_key(name: str, request: Request) -> JSONResponse:
        given = await object_of(request)
        must = given.get("must")
        if must is not None and type(must) is not bool:
            raise SetupWrong("must is true, false or left out")
        key = await messages.encryption_key(
            name, renew=given.get("renew") is True, destroy_older=given.get("destroy_older") is True, must=must
        )
        return JSONResponse(key)

    @app.get("/signed")
    async def signed() -> JSONResponse:
        return JSONResponse(await messages.signed())

    @app.get("/signed/evidence")
    async def evidence(message: str | None = None, record: str | None = None) -> JSONResponse:
        if record is not None:
            return JSONResponse(await messages.evidence_of(record))
        return JSONResponse(await messages.evidence(message or ""))
