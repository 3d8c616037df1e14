"""Verbs about meaning: tag, identifier, reference."""

from __future__ import annotations

from fhir_bridge.fhir.value_sets import every_coding
from fhir_bridge.normalize.code_maps import CodeMap, Target
from fhir_bridge.normalize.draft import By, Draft
from fhir_bridge.normalize.verb_args import LABEL_TABLE, MAP, TARGET, TEXT, Act, Args, Verb, one_of
from fhir_bridge.normalize.verbs_translate import as_coding, coding_key

_TAGGED = ("tag", "security")


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
    held = {coding_key(coding) for coding in before}
    added = [as_coding(t) for t in wanted if (t.system, t.code) not in held]
    if added:
        meta[element] = [*before, *added]
        draft.changed(by, f"{draft.body['resourceType']}.meta.{element}", before or None, meta[element], is_safe=True)


def aliases_of(args: Args) -> dict[str, str]:
    """Return what an ``identifier`` step calls by another name: system that the sender uses → the canonical one."""
    codes: CodeMap = args.named("systems", args.bench.tables.maps, "map")
    return {code: target.code for (_system, code), target in codes.targets.items()}


def _identifier(args: Args) -> Act:
    """Give identifiers the one system that the aliases of a map stand for."""
    place, by = args.place("path"), args.bench.by
    aliases = aliases_of(args)

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
