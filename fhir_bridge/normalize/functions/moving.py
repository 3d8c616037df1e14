"""Move what a rule names: out of a part, into a part, apart by datatype, to another type. For any release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhir_bridge.normalize.draft import Draft
from fhir_bridge.normalize.functions.cross_version import guessed, url_of, value_key
from fhir_bridge.normalize.functions.editing import listed, recast, swap
from fhir_bridge.normalize.verb_args import Act, Args


def lift(args: Args) -> Act:
    """Put one child of a part in the place of the part: ``requester.agent`` becomes ``requester``.

    What else stood in the part follows as an extension of the child.
    """
    place, by = args.place("path"), args.bench.by
    child, release = args.text("child"), args.bench.releases[0].release

    def act(draft: Draft) -> None:
        for found in place.find(draft.body):
            before = found.value
            items = before if type(before) is list else [before]
            if not any(type(item) is dict and child in item for item in items):
                continue
            made = [_lifted(item, child, url_of(release, f"{draft.sent_type}.{place.text}")) for item in items]
            found.parent[found.key] = made if type(before) is list else made[0]
            recast(draft, by, found.place, before, found.parent[found.key])

    return act


def _lifted(part: dict[str, Any], child: str, url: str) -> dict[str, Any]:
    if child not in part:
        return part
    made = dict(part[child])
    rest = {k: v for k, v in part.items() if k not in (child, "id", "extension")}
    held = [*made.pop("extension", ()), *part.get("extension", ()), *_beside(rest, url)]
    # An extension stands in front of what it belongs to.
    return {"extension": held, **made} if held else made


def _beside(parts: Mapping[str, Any], url: str) -> list[dict[str, Any]]:
    found = []
    for key, value in parts.items():
        for item in value if type(value) is list else [value]:
            found.append({"url": f"{url}.{key}", value_key(guessed(item)): item})
    return found


def unwrap(args: Args) -> Act:
    """Put the children of a part in its place, unless one of them is there already."""
    by, name = args.bench.by, args.sibling("part")

    def act(draft: Draft) -> None:
        body = draft.body
        part = body.get(name)
        if type(part) is dict and not set(part) & set(body):
            swap(draft, by, body, body["resourceType"], **{**part, name: None})

    return act


def become(args: Args) -> Act:
    """Give the resource the type that R4 calls it."""
    by, name = args.bench.by, args.text("type")

    def act(draft: Draft) -> None:
        before = draft.body["resourceType"]
        draft.body["resourceType"] = name
        draft.changed(by, f"{before}.resourceType", before, name)

    return act


def split(args: Args) -> Act:
    """Move the concepts, the references or both of a CodeableReference to elements beside it; the rest stays."""
    place, by = args.place("path"), args.bench.by
    names = {part: args.optional_text(part) for part in ("concept", "reference")}

    def act(draft: Draft) -> None:
        for found in place.find(draft.body):
            left: list[Any] = []
            moved: dict[str, list[Any]] = {name: [] for name in names.values() if name}
            for each in listed(found.value):
                rest = dict(each)
                for part, name in names.items():
                    if name is not None and part in rest:
                        moved[name].append(rest.pop(part))
                if rest:
                    left.append(rest)
            if not any(moved.values()):
                continue
            after: dict[str, Any] = {name: [*listed(found.parent.get(name)), *v] for name, v in moved.items() if v}
            if found.key not in after:
                after[found.key] = left if type(found.value) is list or not left else left[0]
            for name in after:
                # What goes to another element has that element's name in both releases' eyes.
                draft.renamed.setdefault((id(found.parent), name), name)
            swap(draft, by, found.parent, found.place.removesuffix(f".{found.key}"), **after)

    return act


def into(args: Args) -> Act:
    """Move an element of the resource into a part of it, which is made where it lacks."""
    by, name, part = args.bench.by, args.sibling("path"), args.sibling("part")

    def act(draft: Draft) -> None:
        body = draft.body
        if name in body and name not in body.get(part, {}):
            held = body.get(part, {})
            value = body[name]
            made = {**held, name: value}
            if (id(held), part) in draft.renamed:
                draft.renamed[id(made), part] = draft.renamed[id(held), part]
            swap(draft, by, body, body["resourceType"], **{part: made, name: None})

    return act


def each_alone(args: Args) -> Act:
    """Repeat a part for each value of one of its elements: R4 allows one ``condition`` in a ``diagnosis``."""
    by = args.bench.by
    part, _, name = args.place("path").text.rpartition(".")

    def act(draft: Draft) -> None:
        held = listed(draft.body.get(part))
        if not any(len(listed(each.get(name))) > 1 for each in held):
            return
        made = []
        for each in held:
            made += [{**each, name: [value]} for value in listed(each.get(name))] or [each]
        swap(draft, by, draft.body, draft.body["resourceType"], **{part: made})

    return act


def yes_no(args: Args) -> Act:
    """Say true and false by two codes."""
    place, by = args.place("path"), args.bench.by
    words = {True: args.text("yes"), False: args.text("no")}

    def act(draft: Draft) -> None:
        for found in place.find(draft.body):
            if type(found.value) is bool:
                before, found.parent[found.key] = found.value, words[found.value]
                draft.changed(by, found.place, before, found.value)

    return act
