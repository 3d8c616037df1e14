"""Judge references within a resource: ``#id`` and the contained resources they mean.

For the validator, after the walk that collected them. Invariants dom-3 and ref-1 of R4 (references.html#contained).
"""

from __future__ import annotations

from typing import Any

from fhir_bridge.fhir.run import Place, Run


def check_fragments(place: Place, run: Run) -> None:
    """Refuse ``#`` references to nothing, and contained resources that nothing refers to."""
    contained = run.container.get("contained") if type(run.container) is dict else None
    if not contained and not run.fragments:
        return
    held = contained if type(contained) is list else []
    # Another kind of id is told elsewhere, and may be no key.
    ids = [c["id"] if type(c) is dict and type(c.get("id")) is str else None for c in held]
    _check_ids(ids, place, run)
    known = {i for i in ids if i is not None}
    for fragment, where, _ in run.fragments:
        # A url or canonical may point into a text; only a Reference must find a contained resource.
        if fragment and fragment not in known and where[1] == "reference":
            run.error("invariant", "ref-1: nothing of that id is contained in this resource", where)
    named = {fragment for fragment, _, _ in run.fragments}
    for index, resource in enumerate(held):
        if ids[index] not in named and not _points_to_container(resource, run):
            text = "dom-3: a contained resource must be referred to from elsewhere in the resource"
            run.error("invariant", text, ((place, "contained"), index))


def _check_ids(ids: list[str | None], place: Place, run: Run) -> None:
    seen: set[str] = set()
    for index, local_id in enumerate(ids):
        if local_id is None:
            continue
        if local_id in seen:
            run.error("duplicate", "two contained resources have the same id", ((place, "contained"), index))
        seen.add(local_id)


def _points_to_container(resource: Any, run: Run) -> bool:
    return any(not fragment and owner is resource for fragment, _, owner in run.fragments)
