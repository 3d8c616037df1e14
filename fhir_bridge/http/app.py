"""Build the FHIR application: every route, each one call into a line.

Bodies go through as bytes, because what was committed is served exactly.
Routes are mounted from the most particular to the most general.
"""

from __future__ import annotations

from fastapi import FastAPI

from fhir_bridge import __version__
from fhir_bridge.http import decisions, delegation, emergency, errors, fhir, guardianship, open_routes
from fhir_bridge.http.question_ids import QuestionIds
from fhir_bridge.lines.services import Services


def create_app(services: Services) -> FastAPI:
    """Return the application that serves ``services``."""
    app = FastAPI(title="fhir-bridge", version=__version__, openapi_url=None, redirect_slashes=False)
    app.state.services = services
    app.add_middleware(QuestionIds, randomness=services.randomness)
    errors.install(app)
    app.include_router(open_routes.router)
    for each in (decisions, delegation, emergency, guardianship, fhir):
        app.router.routes.extend(each.router.routes)
    return app
