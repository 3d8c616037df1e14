"""Measures every answer, and gives operators the page with what was measured.

An answer is counted under the name of the route that gave it, never under its
path: paths hold ids, and a stranger could invent them without end.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from fastapi.responses import Response
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fhir_bridge import metrics
from fhir_bridge.http import errors
from fhir_bridge.http.bare import bare_app

Page = Callable[[], Awaitable[bytes]]


class Measured:
    """ASGI middleware; counts and times answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            interaction = getattr(scope.get("endpoint"), "__name__", "none")
            metrics.ANSWERS.labels(interaction, f"{status // 100}xx").inc()
            metrics.ANSWER.labels(interaction).observe(time.perf_counter() - begun)


def add_page(app: FastAPI, page: Page) -> None:
    """Serve the metrics at ``/metrics``; only on an application that operators alone reach."""

    @app.get("/metrics")
    async def metrics_page() -> Response:
        return Response(await page(), media_type=metrics.CONTENT_TYPE)


def create_metrics(page: Page) -> FastAPI:
    """Return the application of the loopback port: one page, for who names this machine as the host.

    The host is checked because a web page open in a browser on this machine may reach loopback under a name of
    its own (DNS rebinding).
    """
    app = bare_app("fhir-bridge metrics")
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"], www_redirect=False)
    errors.install(app)
    add_page(app, page)
    return app
