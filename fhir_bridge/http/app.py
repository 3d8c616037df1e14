"""Build the FHIR application: every route, each one call into a line.

Bodies go through as bytes, because what was committed is served exactly.
Routes are mounted from the most particular to the most general.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import FastAPI

from fhir_bridge import __version__
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
)
from fhir_bridge.http.measuring import Measured
from fhir_bridge.http.question_ids import QuestionIds
from fhir_bridge.lines.capability import Operation
from fhir_bridge.lines.services import Services


def create_app(services: Services) -> FastAPI:
    """Return the application that serves ``services``."""
    app = FastAPI(title="fhir-bridge", version=__version__, openapi_url=None, redirect_slashes=False)
    app.state.services = services
    app.add_middleware(QuestionIds, randomness=services.randomness)
    app.add_middleware(Measured)
    errors.install(app)
    app.include_router(open_routes.router)
    operations: list[Operation] = []
    for each in (claims, decisions, delegation, emergency, guardianship, importing, fhir):
        app.router.routes.extend(each.router.routes)
        operations += each.router.operations
    app.state.operations = _once(operations)
    return app


def _once(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """Return each operation once, by name; one of every type stands for a type's own of that name too."""
    found: dict[tuple[str | None, str], Operation] = {}
    for each in operations:
        found.setdefault((each.type, each.name), each)
    kept = [each for each in found.values() if each.type is None or (None, each.name) not in found]
    return tuple(sorted(kept, key=lambda each: each.name))
