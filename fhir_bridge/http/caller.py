"""Who calls, and what they send: a requester comes from a verified bearer token and from nothing else."""

from __future__ import annotations

from dataclasses import replace

from fastapi import Request

from fhir_bridge.errors import NotAuthenticated
from fhir_bridge.lines.services import Services
from fhir_bridge.model.access import Question, Requester


def services_of(request: Request) -> Services:
    """Return the lines behind this application."""
    services: Services = request.app.state.services
    return services


async def requester_of(request: Request) -> Requester:
    """Return who asks.

    Raises:
        NotAuthenticated: No bearer token, several, or one that does not hold up.
    """
    values = request.headers.getlist("authorization")
    if len(values) != 1:
        raise NotAuthenticated("one Authorization header is needed")
    scheme, _, token = values[0].partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise NotAuthenticated("a bearer token is needed")
    who = await services_of(request).verifier.verify(token.strip())
    return replace(who, question=question_of(request))


def question_of(request: Request, form: bytes | None = None) -> Question:
    """Return the request as it came, under the id that its answer carries.

    Args:
        form: Body of a search by POST.
    """
    target: bytes = request.scope.get("raw_path") or request.url.path.encode()
    query: bytes = request.scope["query_string"]
    asked = request.method.encode() + b" " + target + (b"?" + query if query else b"")
    return Question(request.state.question, asked if form is None else asked + b"\n" + form)
