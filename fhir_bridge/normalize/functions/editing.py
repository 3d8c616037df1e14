"""What the functions of rules share: edit one object of a draft and put it on record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from fhir_bridge.normalize.draft import By, Draft
from fhir_bridge.normalize.regrouping import Pieces, regroup
from fhir_bridge.normalize.verb_args import Act, Args

_NOTHING: Mapping[str, str] = MappingProxyType({})
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
    regroup(draft, by, place, before, {key: holder.get(key) for key in after})


def recast(draft: Draft, by: By, place: str, before: Any, after: Any, read: Mapping[str, str] = _NOTHING) -> None:
    """Put on record that a value was made of another, whose pieces it has in other places.

    Args:
        read: For parts that are no piece, the place that they were read out of.
    """
    draft.changed(by, place, before, after, sources=Pieces({place: before}).sources(after, place, read))


def listed(value: Any) -> list[Any]:
    return value if type(value) is list else [] if value is None else [value]


def codes_of_concept(concept: Any) -> set[str]:
    codings = concept.get("coding", ()) if type(concept) is dict else ()
    return {coding["code"] for coding in codings if "code" in coding}


def without(value: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in value.items() if k != key}
