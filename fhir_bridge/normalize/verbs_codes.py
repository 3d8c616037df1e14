"""Verbs about meaning: translate, tag, identifier, reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.value_sets import every_coding
from fhir_bridge.normalize.draft import By, Draft, Unconvertible, copied
from fhir_bridge.normalize.tables import CodeMap, Target
from fhir_bridge.normalize.verb_args import LABEL_TABLE, MAP, TARGET, TEXT, Act, Args, Verb, one_of

ORIGINAL_CODING = "urn:fhir-bridge:extension:original-coding"
"""Extension on a Coding that was replaced; holds the sender's own."""

_UNMAPPED = ("keep-and-report", "keep", "quarantine")
_ORIGINAL = ("keep", "replace")
_TAGGED = ("tag", "security")


def _translate(args: Args) -> Act:
    place, by = args.place("path"), args.bench.by
    codes: CodeMap = args.named("map", args.bench.tables.maps, "map")
    unmapped = args.choice("unmapped", _UNMAPPED, "keep-and-report")
    keep = args.choice("original", _ORIGINAL, "keep") == "keep"
    work = _for_type(place.types, codes, keep)
    if work is None:
        raise args.values.spot.broken(f"translate works on codes, not on {'|'.join(sorted(place.types))}")

    def act(draft: Draft) -> None:
        for found in place.find(draft.body):
            for index, (item, where) in enumerate(list(found.each())):
                done, missing = work(item)
                if done is not item:
                    if type(found.value) is list:
                        found.value[index] = done
                    else:
                        found.parent[found.key] = done
                    draft.changed(by, where, item, done, is_safe=type(done) is dict)
                if missing:
                    _report(draft, codes, unmapped, where)

    return act


Work = Callable[[Any], tuple[Any, bool]]


def _for_type(types: frozenset[str], codes: CodeMap, keep: bool) -> Work | None:
    if types == {"CodeableConcept"}:
        return lambda item: _concept(item, codes, keep)
    if types == {"Coding"}:
        return lambda item: _coding(item, codes, keep)
    if types <= {"code", "string", "uri"}:
        return lambda item: _bare(item, codes)
    if "CodeableConcept" in types:
        return lambda item: _concept(item, codes, keep) if type(item) is dict else (item, False)
    return None


def _concept(concept: Any, codes: CodeMap, keep: bool) -> tuple[Any, bool]:
    """The concept with standard codings before the sender's own; True when a code of ours is not in the map."""
    codings = concept.get("coding") if type(concept) is dict else None
    if type(codings) is not list:
        return concept, False
    held = {_key(coding) for coding in codings}
    made: list[Any] = []
    standard = False
    missing = False
    for coding in codings:
        target = codes.targets.get(_key(coding))
        if target is None:
            missing = missing or (type(coding) is dict and coding.get("system") in codes.systems)
            made.append(coding)
            continue
        standard = True
        if (target.system, target.code) not in held:
            made.insert(sum(_is_target(c, codes) for c in made), _as_coding(target))
        if keep:
            made.append(coding)
    if made == codings:
        return concept, missing and not standard
    return {**concept, "coding": made}, missing and not standard


def _is_target(coding: Any, codes: CodeMap) -> bool:
    return type(coding) is dict and coding.get("system") in codes.target_systems


def _coding(coding: Any, codes: CodeMap, keep: bool) -> tuple[Any, bool]:
    if type(coding) is not dict:
        return coding, False
    target = codes.targets.get(_key(coding))
    if target is None:
        return coding, coding.get("system") in codes.systems
    made = _as_coding(target)
    if keep:
        made = {"extension": [{"url": ORIGINAL_CODING, "valueCoding": copied(coding)}], **made}
    return made, False


def _bare(code: Any, codes: CodeMap) -> tuple[Any, bool]:
    target = codes.targets.get(("", code)) if type(code) is str else None
    return (target.code, False) if target else (code, code not in codes.target_codes)


def _key(coding: Any) -> tuple[str, str]:
    if type(coding) is not dict:
        return ("", "")
    return (coding.get("system") or "", coding.get("code") or "")


def _as_coding(target: Target) -> dict[str, Any]:
    made = {"system": target.system, "code": target.code}
    if target.display:
        made["display"] = target.display
    return made


def _report(draft: Draft, codes: CodeMap, policy: str, place: str) -> None:
    if policy == "keep":
        return
    text = f"map {codes.name} has no standard code for a code of the sender's own system"
    if policy == "quarantine":
        raise Unconvertible(Issue("error", "code-invalid", text, place))
    draft.flag("code-invalid", text, place)


def _tag(args: Args) -> Act:
    by = args.bench.by
    if args.values.get("table") is not None:
        labels = args.named("table", args.bench.tables.labels, "label table").labels

        def look_up(draft: Draft) -> None:
            found = {t: None for key in every_coding(draft.body) if key in labels for t in labels[key]}
            _label(draft, by, "security", list(found))

        return look_up
    target = Target(args.text("system"), args.text("code"), args.optional_text("display") or "")
    element = args.choice("element", _TAGGED, "tag")
    return lambda draft: _label(draft, by, element, [target])


def _label(draft: Draft, by: By, element: str, wanted: list[Target]) -> None:
    if not wanted:
        return
    meta = draft.body.setdefault("meta", {})
    before = meta.get(element, [])
    held = {_key(coding) for coding in before}
    added = [_as_coding(t) for t in wanted if (t.system, t.code) not in held]
    if added:
        meta[element] = [*before, *added]
        draft.changed(by, f"{draft.body['resourceType']}.meta.{element}", before or None, meta[element], is_safe=True)


def _identifier(args: Args) -> Act:
    """Give identifiers the one system that the aliases of a map stand for."""
    place, by = args.place("path"), args.bench.by
    codes: CodeMap = args.named("systems", args.bench.tables.maps, "map")
    aliases = {code: target.code for (_system, code), target in codes.targets.items()}

    def act(draft: Draft) -> None:
        for found in place.find(draft.body):
            for item, where in found.each():
                before = item.get("system") if type(item) is dict else None
                after = aliases.get(before) if type(before) is str else None
                if after is not None and after != before:
                    item["system"] = after
                    draft.changed(by, f"{where}.system", before, after)

    return act


def _reference(args: Args) -> Act:
    """Say what a logical reference means: the type of its target, the system of its identifier."""
    place, by = args.place("path"), args.bench.by
    type_name, system = args.optional_text("type"), args.optional_text("system")

    def act(draft: Draft) -> None:
        for found in place.find(draft.body):
            for item, where in found.each():
                if type(item) is not dict:
                    continue
                if type_name and "type" not in item and "reference" not in item:
                    item["type"] = type_name
                    draft.changed(by, f"{where}.type", None, type_name)
                identifier = item.get("identifier")
                if system and type(identifier) is dict and "system" not in identifier:
                    item["identifier"] = {"system": system, **identifier}
                    draft.changed(by, f"{where}.identifier.system", None, system)

    return act


VERBS = {
    "translate": Verb(
        {
            "path": TARGET,
            "map": MAP,
            "unmapped": one_of(*_UNMAPPED).maybe(),
            "original": one_of(*_ORIGINAL).maybe(),
        },
        _translate,
        "adds the standard coding before the sender's",
    ),
    "tag": Verb(
        {
            "table": LABEL_TABLE.maybe(),
            "system": TEXT.maybe(),
            "code": TEXT.maybe(),
            "display": TEXT.maybe(),
            "element": one_of(*_TAGGED).maybe(),
        },
        _tag,
        "labels by the codes in the record, or one fixed tag",
        either=(("table",), ("system", "code")),
    ),
    "identifier": Verb(
        {"path": TARGET, "systems": MAP}, _identifier, "aliases of identifier systems to the one canonical"
    ),
    "reference": Verb(
        {"path": TARGET, "type": TEXT.maybe(), "system": TEXT.maybe()},
        _reference,
        "says what a logical reference points to",
    ),
}
