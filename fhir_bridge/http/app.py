"""Build the FHIR application: every route, each one call into a line.

Bodies go through as bytes, because what was committed is served exactly.
Routes are mounted from the most particular to the most general.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import FastAPI
from starlette.routing import Route

from fhir_bridge import tracing
from fhir_bridge.http import (
    claims,
    decisions,
    delegation,
    emergency,
    errors,
    fhir,
    guardianship,
    importing,
    open_routes,
    translating,
)
from fhir_bridge.http.bare import bare_app
from fhir_bridge.http.description import describe
from fhir_bridge.http.measuring import Measured
from fhir_bridge.http.question_ids import QuestionIds
from fhir_bridge.http.traced import Traced
from fhir_bridge.lines.capability import Operation
from fhir_bridge.lines.services import Services

_INTERACTIONS = tuple(
    each.router for each in (claims, decisions, delegation, emergency, guardianship, importing, translating, fhir)
)


def create_app(services: Services) -> FastAPI:
    """Return the application that serves ``services``."""
    app = bare_app("fhir-bridge")
    app.state.services = services
    app.add_middleware(QuestionIds, randomness=services.randomness)
    app.add_middleware(Measured)
    if tracing.is_on():
        app.add_middleware(Traced, paths={each.endpoint: each.path_format for each in _routes()})
    errors.install(app)
    app.include_router(open_routes.router)
    operations: list[Operation] = []
    for each in _INTERACTIONS:
        app.router.routes.extend(each.routes)
        operations += each.operations
    app.state.operations = _once(operations)
    app.state.description = description(services.base_url)
    return app


def description(base_url: str) -> bytes:
    """Return what the application tells of itself as OpenAPI."""
    return describe(_routes(), base_url)


def _routes() -> list[Route]:
    found = [each for each in open_routes.router.routes if isinstance(each, Route)]
    return [*found, *(route for each in _INTERACTIONS for route in each.routes)]


def _once(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """Return each operation once, by name; one of every type stands for a type's own of that name too."""
    found: dict[tuple[str | None, str], Operation] = {}
    for each in operations:
        found.setdefault((each.type, each.name), each)
    kept = [each for each in found.values() if each.type is None or (None, each.name) not in found]
    return tuple(sorted(kept, key=lambda each: each.name))
