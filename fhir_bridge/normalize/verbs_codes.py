"""Verbs about meaning: translate, tag, identifier, reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.value_sets import every_coding
from fhir_bridge.normalize.draft import By, Draft, Unconvertible, copied
from fhir_bridge.normalize.tables import CodeMap, Target
from fhir_bridge.normalize.verb_args import Act, Args, Verb

ORIGINAL_CODING = "urn:fhir-bridge:extension:original-coding"
"""Extension on a Coding that was replaced; holds the sender's own."""

_UNMAPPED = ("keep-and-report", "keep", "quarantine")
_ORIGINAL = ("keep", "replace")


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
                done, missing, origins = work(item)
                if done is not item:
                    if type(found.value) is list:
                        found.value[index] = done
                    else:
                        found.parent[found.key] = done
                    sources = {to: f"{where}.{part}" if part else where for to, part in origins.items()}
                    is_safe = type(done) is dict
                    draft.changed(by, where, item, done, is_safe=is_safe, sources=sources, table=codes.name)
                if missing:
                    _report(draft, codes, unmapped, where)

    return act


Work = Callable[[Any], tuple[Any, bool, dict[str, str]]]
"""Gives what a code becomes, whether it is missing from the map, and which part of the new is read out of which of
the old."""


def _for_type(types: frozenset[str], codes: CodeMap, keep: bool) -> Work | None:
    if types == {"CodeableConcept"}:
        return lambda item: _concept(item, codes, keep)
    if types == {"Coding"}:
        return lambda item: _coding(item, codes, keep)
    if types <= {"code", "string", "uri"}:
        return lambda item: _bare(item, codes)
    if "CodeableConcept" in types:
        return lambda item: _concept(item, codes, keep) if type(item) is dict else (item, False, {})
    return None


def _concept(concept: Any, codes: CodeMap, keep: bool) -> tuple[Any, bool, dict[str, str]]:
    """The concept with standard codings before the sender's own; True when a code of ours is not in the map."""
    codings = concept.get("coding") if type(concept) is dict else None
    if type(codings) is not list:
        return concept, False, {}
    held = {_key(coding) for coding in codings}
    made: list[Any] = []
    origins: list[str] = []
    standard = False
    missing = False
    for index, coding in enumerate(codings):
        target = codes.targets.get(_key(coding))
        if target is None:
            missing = missing or (type(coding) is dict and coding.get("system") in codes.systems)
            made.append(coding)
            origins.append(f"coding[{index}]")
            continue
        standard = True
        if (target.system, target.code) not in held:
            spot = sum(_is_target(c, codes) for c in made)
            made.insert(spot, _as_coding(target))
            origins.insert(spot, f"coding[{index}].code")
        if keep:
            made.append(coding)
            origins.append(f"coding[{index}]")
    if made == codings:
        return concept, missing and not standard, {}
    moved = {f"coding[{at}]": origin for at, origin in enumerate(origins) if origin != f"coding[{at}]"}
    return {**concept, "coding": made}, missing and not standard, moved


def _is_target(coding: Any, codes: CodeMap) -> bool:
    return type(coding) is dict and coding.get("system") in codes.target_systems


def _coding(coding: Any, codes: CodeMap, keep: bool) -> tuple[Any, bool, dict[str, str]]:
    if type(coding) is not dict:
        return coding, False, {}
    target = codes.targets.get(_key(coding))
    if target is None:
        return coding, coding.get("system") in codes.systems, {}
    made = _as_coding(target)
    origins = dict.fromkeys(made, "code")
    if keep:
        made = {"extension": [{"url": ORIGINAL_CODING, "valueCoding": copied(coding)}], **made}
        origins["extension[0].valueCoding"] = ""
    return made, False, origins


def _bare(code: Any, codes: CodeMap) -> tuple[Any, bool, dict[str, str]]:
    target = codes.targets.get(("", code)) if type(code) is str else None
    return (target.code, False, {}) if target else (code, code not in codes.target_codes, {})


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
    element = args.choice("element", ("tag", "security"), "tag")
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
    "translate": Verb(("path", "map", "unmapped", "original"), _translate),
    "tag": Verb(("table", "system", "code", "display", "element"), _tag),
    "identifier": Verb(("path", "systems"), _identifier),
    "reference": Verb(("path", "type", "system"), _reference),
}
