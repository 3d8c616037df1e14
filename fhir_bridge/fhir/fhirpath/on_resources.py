"""Functions that FHIR adds (R4 fhirpath.html#functions), those that look into elements, and those that tell time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhir_bridge.fhir.fhirpath.calls import Argument, Function, Run, held, plain_call
from fhir_bridge.fhir.fhirpath.steps import children_of, node_of
from fhir_bridge.fhir.fhirpath.temporal import DATE, DATE_TIME, TIME, from_clock
from fhir_bridge.fhir.fhirpath.types import BOOLEAN, SYSTEM, TYPE_INFO, Model, did_you_mean
from fhir_bridge.fhir.fhirpath.values import Items, Node, PathFailed, Scope, plain, single
from fhir_bridge.fhir.narrative import check_narrative, is_blank
from fhir_bridge.fhir.path_syntax import Literal, PathNotUnderstood
from fhir_bridge.fhir.reference_text import type_of

REFUSED: Mapping[str, str] = {
    "conformsTo": "conformsTo() is not evaluated: name the profile in the pack's profiles, which judge whole records",
    "elementDefinition": "elementDefinition() is not evaluated: definitions are not part of a record",
    "slice": "slice() is not evaluated: profiles judge slices",
    "checkModifiers": "checkModifiers() is not evaluated: modifier extensions are refused when a record comes in",
    "subsumes": "subsumes() needs a terminology server",
    "subsumedBy": "subsumedBy() needs a terminology server",
}
"""Functions of the standard that are not run, and why."""


def _holder(item: Any) -> Mapping[str, Any]:
    """The object that holds an element's extensions."""
    if type(item) is not Node:
        return {}
    found = item.value if type(item.value) is dict else item.beside
    return found if type(found) is dict else {}


def _extension(args: tuple[Argument, ...], _model: Model) -> Run:
    evaluate = args[0].evaluate

    def run(items: Items, scope: Scope, focus: Items) -> Items:
        url = single(evaluate(focus, scope), "extension()")
        found = []
        for item in items:
            listed = _holder(item).get("extension")
            for each in listed if type(listed) is list else ():
                if type(each) is dict and each.get("url") == url:
                    found.append(Node(each, "Extension"))
        return found

    return run


def _has_value(items: Items) -> Items:
    return [len(items) == 1 and _is_valued(items[0])]


def _get_value(items: Items) -> Items:
    return [plain(items[0])] if len(items) == 1 and _is_valued(items[0]) else []


def _is_valued(item: Any) -> bool:
    return type(item) is Node and item.value is not None and type(item.value) not in (dict, list)


def _resolve(_args: tuple[Argument, ...], model: Model) -> Run:
    """Contained resources, and entries of the Bundle that is looked at; nothing is fetched."""

    def run(items: Items, scope: Scope, _focus: Items) -> Items:
        found = []
        for item in items:
            text = _reference_text(item)
            if text is not None:
                target = _targets(scope).get(text)
                if target is not None:
                    found.append(node_of(target, model))
        return found

    return run


def _reference_text(item: Any) -> str | None:
    value = item.value if type(item) is Node else item
    text = value.get("reference") if type(value) is dict else value
    return text if type(text) is str else None


def _targets(scope: Scope) -> dict[str, dict[str, Any]]:
    """What references in a record can name within it; made once, as a hostile one has many of both."""
    if scope.targets is None:
        root = scope.root.value
        scope.targets = found = {"#": root}
        for each in _objects(root.get("contained")):
            found[f"#{each.get('id')}"] = each
        for entry in _objects(root.get("entry") if root.get("resourceType") == "Bundle" else None):
            resource, url = entry.get("resource"), entry.get("fullUrl")
            if type(resource) is dict and type(url) is str:
                # Type/id of a full URL is what a relative reference says.
                found.setdefault("/".join(url.split("/")[-2:]), resource)
                found[url] = resource
    return scope.targets


def _objects(listed: Any) -> list[dict[str, Any]]:
    return [each for each in listed if type(each) is dict] if type(listed) is list else []


def type_shown(items: Items, scope: Scope) -> list[str | None]:
    """Type of the target of each reference, as far as its text or the contained resources show it."""
    return [type_of(item.value if type(item) is Node else {"reference": item}, scope.contained) for item in items]


def _member_of(args: tuple[Argument, ...], model: Model) -> Run:
    syntax = args[0].syntax
    if not isinstance(syntax, Literal) or type(syntax.value) is not str:
        raise PathNotUnderstood("memberOf() wants its value set written out")
    url = syntax.value.partition("|")[0]
    codes = model.definitions.codes.get(url)
    if codes is None:
        known = did_you_mean(url, model.definitions.codes)
        raise PathNotUnderstood(f"memberOf() knows only value sets that R4 lists in full, not {url!r}{known}")

    def is_member(value: Any) -> bool:
        if type(value) is str:
            return any(value in listed for listed in codes.values())
        if type(value) is not dict:
            raise PathFailed("memberOf() is for a code, a Coding or a CodeableConcept")
        if "coding" in value:
            return any(is_member(coding) for coding in value["coding"] if type(coding) is dict)
        return value.get("code") in codes.get(value.get("system", ""), ())

    def run(items: Items, _scope: Scope, _focus: Items) -> Items:
        if len(items) > 1:
            raise PathFailed(f"memberOf() wants one item and found {len(items)}")
        return [is_member(i.value if type(i) is Node else i) for i in items]

    return run


def _html_checks(items: Items) -> Items:
    texts = [i.value if type(i) is Node else i for i in items]
    if not texts:
        return []
    return [all(type(text) is str and check_narrative(text) is None and not is_blank(text) for text in texts)]


def _children(_args: tuple[Argument, ...], model: Model) -> Run:
    return lambda items, _scope, _focus: [child for item in items for child in children_of(item, model)]


def _descendants(_args: tuple[Argument, ...], model: Model) -> Run:
    def run(items: Items, _scope: Scope, _focus: Items) -> Items:
        found: Items = []
        level = items
        while level:
            level = [child for item in level for child in children_of(item, model)]
            found += level
        return held(found, "descendants()")

    return run


def _type(_args: tuple[Argument, ...], model: Model) -> Run:
    return lambda items, _scope, _focus: [model.info(item) for item in items]


def _clock(kind: str, name: str) -> Function:
    def make(_args: tuple[Argument, ...], _model: Model) -> Run:
        def run(_items: Items, scope: Scope, _focus: Items) -> Items:
            if scope.now is None:
                raise PathFailed(f"{name}() is not told the time")
            return [from_clock(scope.now, kind)]

        return run

    return Function(make, gives=frozenset({SYSTEM + kind}), needs_clock=True)


TABLE: dict[str, Function] = {
    "children": Function(_children, gives="unordered"),
    "descendants": Function(_descendants, gives="unordered"),
    "type": Function(_type, gives=TYPE_INFO),
    "extension": Function(_extension, 1, 1, gives=frozenset({"Extension"})),
    "hasValue": plain_call(_has_value, BOOLEAN),
    "getValue": plain_call(_get_value, frozenset()),
    "resolve": Function(_resolve, gives=frozenset({"Resource"})),
    "memberOf": Function(_member_of, 1, 1, gives=BOOLEAN),
    "htmlChecks": plain_call(_html_checks, BOOLEAN),
    "now": _clock(DATE_TIME, "now"),
    "today": _clock(DATE, "today"),
    "timeOfDay": _clock(TIME, "timeOfDay"),
}
