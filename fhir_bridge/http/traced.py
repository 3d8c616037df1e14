"""Give every request a span, in the trace that its sender names in ``traceparent`` (W3C Trace Context).

It is called by its method and the template of its route, as OpenTelemetry's
conventions for HTTP servers have it; the path holds ids and is never told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fhir_bridge import tracing
from fhir_bridge.tracing import Kind

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"})
_OTHER: Final = "_OTHER"


class Traced:
    """ASGI middleware; the outermost, so that the span lasts as long as the answer."""

    def __init__(self, app: ASGIApp, paths: Mapping[object, str]) -> None:
        """Take the template of each endpoint's path, for routes that the framework does not name in the scope."""
        self._app = app
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, status = scope["method"] if scope["method"] in _METHODS else _OTHER, 500
        span = tracing.root(method, Kind.SERVER, _traceparent(scope), method=method)

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            with tracing.within(span):
                await self._app(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path_format", None) or self._paths.get(scope.get("endpoint"))
            if route is not None:
                span.rename(f"{method} {route}")
                span.note(route=route)
            span.note(status=status)
            if "question" in scope.get("state", {}):
                span.note(request=scope["state"]["question"])
            span.end()


def _traceparent(scope: Scope) -> str:
    """Return the one header of that name; of several none is to be believed."""
    found = [value for name, value in scope["headers"] if name == b"traceparent"]
    return found[0].decode("latin-1") if len(found) == 1 else ""
