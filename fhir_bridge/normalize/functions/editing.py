"""What the functions of rules share: edit one object of a draft and put it on record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fhir_bridge.normalize.draft import By, Draft
from fhir_bridge.normalize.verb_args import Act, Args

Edit = Callable[[Draft, By, dict[str, Any], str], None]
"""Edits one object of a draft, which stands at a place."""


def on_body(edit: Edit) -> Callable[[Args], Act]:
    def made(args: Args) -> Act:
        by = args.bench.by
        return lambda draft: edit(draft, by, draft.body, str(draft.body["resourceType"]))

    return made


def swap(draft: Draft, by: By, holder: dict[str, Any], place: str, **after: Any) -> None:
    """Set elements of an object, take away those that are None or empty, and put it on record."""
    before = {key: holder.get(key) for key in after}
    for key, value in after.items():
        if value in (None, [], {}):
            holder.pop(key, None)
        else:
            holder[key] = value
    for key in after:
        draft.changed(by, f"{place}.{key}", before[key], holder.get(key))


def listed(value: Any) -> list[Any]:
    return value if type(value) is list else [] if value is None else [value]


def codes_of_concept(concept: Any) -> set[str]:
    codings = concept.get("coding", ()) if type(concept) is dict else ()
    return {coding["code"] for coding in codings if "code" in coding}


def without(value: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in value.items() if k != key}
