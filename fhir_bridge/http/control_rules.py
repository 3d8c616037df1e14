"""The operator's routes about rules in use."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from fhir_bridge.errors import SetupWrong
from fhir_bridge.http.given import object_of, text_of
from fhir_bridge.lines.rule_story import RuleStory
from fhir_bridge.lines.rule_watch import RuleWatch
from fhir_bridge.lines.rules import Rules
from fhir_bridge.lines.trying import WHOLE


def install(app: FastAPI, rules: Rules, story: RuleStory, watch: RuleWatch) -> None:
    """Add the routes to the control application."""

    @app.get("/rules")
    async def status(institution: str | None = None) -> JSONResponse:
        found = story.status(institution)
        return JSONResponse([each | {"watch_failure": watch.failures.get(each["institution"])} for each in found])

    @app.get("/rules/{name}/history")
    async def history(name: str, touching: str | None = None) -> JSONResponse:
        return JSONResponse(await story.history(name, touching))

    @app.post("/rules/{name}/propose")
    async def propose(name: str, request: Request) -> JSONResponse:
        given = await object_of(request)
        return JSONResponse(await rules.propose(name, text_of(given, "ruleset_dir"), text_of(given, "author")))

    @app.post("/rules/{name}/approve")
    async def approve(name: str, request: Request) -> JSONResponse:
        given = await object_of(request)
        return JSONResponse(await rules.approve(name, text_of(given, "ruleset"), text_of(given, "approver")))

    @app.post("/rules/{name}/activate")
    async def activate(name: str, request: Request) -> JSONResponse:
        return JSONResponse(await rules.activate(name, text_of(await object_of(request), "ruleset")))

    @app.post("/rules/{name}/rollback")
    async def roll_back(name: str, request: Request) -> JSONResponse:
        given = await object_of(request)
        ruleset = text_of(given, "ruleset") if "ruleset" in given else None
        return JSONResponse(await rules.roll_back(name, ruleset, text_of(given, "author")))

    @app.post("/rules/{name}/shadow")
    async def shadow(name: str, request: Request) -> JSONResponse:
        given = await object_of(request)
        return JSONResponse(await rules.shadow(name, text_of(given, "ruleset"), _share(given.get("share"))))

    @app.post("/rules/{name}/canary")
    async def canary(name: str, request: Request) -> JSONResponse:
        given = await object_of(request)
        return JSONResponse(await rules.canary(name, text_of(given, "ruleset"), _share(given.get("share"))))

    @app.post("/rules/{name}/withdraw")
    async def withdraw(name: str, request: Request) -> JSONResponse:
        given = await object_of(request)
        return JSONResponse(await rules.withdraw(name, text_of(given, "author") if "author" in given else ""))


def _share(value: object) -> int:
    if type(value) is not int or not 1 <= value <= WHOLE:
        raise SetupWrong("share must be more than 0 % and at most 100 %")
    return value
