"""What a request to the control socket gives: a JSON object, and members of it of the kind that is asked for."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from fhir_bridge.errors import SetupWrong


async def object_of(request: Request) -> dict[str, Any]:
    try:
        value = await request.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise SetupWrong("the body must be a JSON object")
    return value


def text_of(given: dict[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise SetupWrong(f"{name} must be a text")
    return value


def texts_of(given: dict[str, Any], name: str) -> dict[str, str]:
    value = given.get(name, {})
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise SetupWrong(f"{name} must be an object of texts")
    return value
