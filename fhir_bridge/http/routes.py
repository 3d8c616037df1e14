"""Routes of the FHIR interactions: a handler is given the request and the parts of the path, and nothing is declared.

FastAPI's own routes read parameters and bodies into declared types. FHIR's
take any type name, any criteria and exact bytes, so nothing would be declared;
on these plain routes the same interaction costs a fifth less (2026-11).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Sequence

from fastapi import Request, Response
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.routing import Route

from fhir_bridge.http.formats import require_json
from fhir_bridge.lines.capability import Operation

Handler = Callable[..., Awaitable[Response]]
"""``await handler(request, **parts)``, where parts are what braces in the route's path stand for."""


class _Name(StringConvertor):
    """A part of a path that names a record or a version: what begins as R4's fixed names do (``_history``) is none.

    So a method that a fixed name does not take is answered with 405, not as one about a record of that name.
    """

    regex = "[^/_$][^/]*"


class _Type(StringConvertor):
    """A part of a path that names a type; an unknown one is the handler's to refuse."""

    regex = "(?!metadata$)[^/_$.][^/]*"


register_url_convertor("type_name", _Type())
register_url_convertor("record_id", _Name())
for _name in ("version", "job", "sha256"):
    register_url_convertor(_name, _Name())
_PART = re.compile(r"{(\w+)}")


class Routes:
    """Routes below one prefix, tried in the order in which they were added, for requests that accept what we serve.

    ``operations`` are those among them with a name behind ``$``.
    """

    def __init__(self, prefix: str = "/fhir") -> None:
        self._prefix = prefix
        self.routes: list[Route] = []
        self.operations: list[Operation] = []

    def get(self, path: str) -> Callable[[Handler], Handler]:
        """Register a handler for GET, and for HEAD, which R4 http.html#head lets stand wherever GET does."""
        return self._at(path, ["GET"])

    def post(self, path: str) -> Callable[[Handler], Handler]:
        """Register a handler for POST."""
        return self._at(path, ["POST"])

    def put(self, path: str) -> Callable[[Handler], Handler]:
        """Register a handler for PUT."""
        return self._at(path, ["PUT"])

    def delete(self, path: str) -> Callable[[Handler], Handler]:
        """Register a handler for DELETE."""
        return self._at(path, ["DELETE"])

    def _at(self, path: str, methods: Sequence[str]) -> Callable[[Handler], Handler]:
        def register(handler: Handler) -> Handler:
            async def endpoint(request: Request) -> Response:
                if request.method != "DELETE":
                    # Its answer has no body, and a withdrawal is never refused.
                    require_json(request)
                return await handler(request, **request.path_params)

            endpoint.__name__, endpoint.__doc__ = handler.__name__, handler.__doc__
            # Starlette adds HEAD to GET.
            at = self._prefix + _PART.sub(r"{\1:\1}", path)
            self.routes.append(Route(at, endpoint, methods=methods, name=handler.__name__))
            first, last = path[1:].partition("/")[0], path.rpartition("/")[2]
            if last.startswith("$"):
                of_type = None if first.startswith("{") else "" if first == last else first
                self.operations.append(Operation(of_type, last[1:], inspect.getdoc(handler) or last[1:]))
            return handler

        return register
