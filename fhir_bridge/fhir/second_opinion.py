"""What the library ``fhir.resources`` thinks of a resource; asked by tests and by an operator, never on the way in.

It checks structure only, refuses 18 of 744 official R4 examples and takes about 0.2 ms a resource, so its judgement
does not refuse records (``docs/decisions/0003-validation.md``). Where it refuses and :func:`validate_r4` accepts, one
of the two is wrong: a differential test keeps the list of those that it is.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from fhir_bridge.fhir.json import render

_PACKAGES = {"R4": "fhir.resources.R4B", "STU3": "fhir.resources.STU3"}


def second_opinion(resource: dict[str, Any], *, release: str = "R4") -> tuple[str, ...] | None:
    """Return the places that ``fhir.resources`` objects to; empty when it accepts.

    Args:
        resource: Decoded resource; its numbers may be ``Decimal``.
        release: ``R4`` (asked as R4B, the nearest there is) or ``STU3``.

    Returns:
        None when the library does not know the type.
    """
    model = _model(release, str(resource.get("resourceType")))
    if model is None:
        return None
    try:
        model.model_validate_json(render(resource))
    except ValidationError as error:
        return tuple(".".join(map(str, e["loc"])) for e in error.errors(include_input=False, include_context=False))
    return ()


@cache
def _model(release: str, type_name: str) -> type[BaseModel] | None:
    if not (type_name.isalpha() and type_name.isascii()):
        return None
    try:
        module = importlib.import_module(f"{_PACKAGES[release]}.{type_name.lower()}")
    except ModuleNotFoundError:
        return None
    found = getattr(module, type_name, None)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None
