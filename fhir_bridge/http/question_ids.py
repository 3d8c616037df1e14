"""Give every request below ``/fhir`` an id of its own, which its answer carries in ``X-Request-Id``.

R4 http.html#custom lets a server assign the id. Ours names the decision behind
the answer (docs/decision-receipts.md), so what a client sends in that header is
not taken; it comes back in ``X-Correlation-Id`` as R4 asks.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.telemetry import during

_MAX_ECHOED = 200


class QuestionIds:
    """ASGI middleware; sets ``request.state.question``."""

    def __init__(self, app: ASGIApp, randomness: Randomness) -> None:
        self._app = app
        self._randomness = randomness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or not (scope["path"] + "/").startswith("/fhir/"):
            await self._app(scope, receive, send)
            return
        given = self._randomness.token(16).hex()
        scope.setdefault("state", {})["question"] = given
        added = [(b"x-request-id", given.encode())]
        added += [
            (b"x-correlation-id", value)
            for name, value in scope["headers"]
            if name == b"x-request-id" and len(value) <= _MAX_ECHOED
        ][:1]

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *added]
            await send(message)

        with during(given):
            await self._app(scope, receive, sending)
