"""Find rules that get into each other's way: two writers of one element, and rules that come too late to act."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fhir_bridge.mapping_tools.conditions import exclude_each_other, is_over
from fhir_bridge.mapping_tools.findings import Finding, found
from fhir_bridge.mapping_tools.reading import RuleText, StepText
from fhir_bridge.normalize.rules import ANY, STAGES
from fhir_bridge.normalize.tables import Tables
from fhir_bridge.normalize.yaml_text import Keys

_DECIDING = {"set": "path", "default": "path", "copy": "to", "remove": "path", "translate": "path", "unit": "path"}
"""Verbs that decide what an element is, with the argument that names it; others work on what is there."""

_ENDING = ("reject", "quarantine")
_FILLING = {"default": "path", "copy": "to"}
"""Verbs that act only where nothing stands yet."""


_NEAREST = 50
"""How many earlier writers of an element a rule is compared with: keeps a thousand of them from costing a million."""


@dataclass(frozen=True, slots=True)
class _Write:
    rule: RuleText
    step: StepText


def overlaps(rules: Sequence[RuleText], tables: Tables) -> Iterator[Finding]:
    """Yield what rules do to each other, at the later one.

    Args:
        rules: Core before pack, in the order of their files.
    """
    ordered = sorted(rules, key=lambda rule: STAGES.index(rule.stage))
    yield from _two_writers(ordered, tables)
    yield from _too_late(ordered)


def _two_writers(rules: Sequence[RuleText], tables: Tables) -> Iterator[Finding]:
    writes: dict[tuple[str, str, str], list[_Write]] = defaultdict(list)
    for rule in rules:
        for step in rule.steps:
            path = step.texts.get(_DECIDING.get(step.verb, ""))
            for type_name in rule.types if path else ():
                writes[rule.stage, type_name, " ".join(str(path).split())].append(_Write(rule, step))
    told = set()
    for (_stage, _type_name, path), group in writes.items():
        for index, later in enumerate(group):
            first = next((w for w in group[max(0, index - _NEAREST) : index] if _clash(w, later, tables)), None)
            key = (first and first.rule.name, later.rule.name, path)
            if first is not None and key not in told:
                told.add(key)
                yield found(
                    later.step.args.spot,
                    "two-writers",
                    f"{later.rule.name} writes {path}, and so does {first.rule.name} ({_at(first.rule)}); "
                    "a record can meet both, and then their order decides",
                )


def _clash(one: _Write, other: _Write, tables: Tables) -> bool:
    if one.rule.name == other.rule.name or one.rule.release != other.rule.release:
        return False
    verbs = {one.step.verb, other.step.verb}
    if verbs == {"translate"}:
        maps = [tables.maps.get(step.texts.get("map", "")) for step in (one.step, other.step)]
        if all(maps) and not (maps[0].systems & maps[1].systems):  # type: ignore[union-attr]  # all() has looked
            return False
    if len(verbs) == 2 and verbs & {"translate", "unit"}:
        # Translating what another rule has put there is an order, not a quarrel.
        return False
    if one.step.verb == "set" and is_over(other.rule.when, one.step.texts["path"], _value(one.step)):
        # Where the first one acted the other no longer does.
        return False
    return not exclude_each_other(one.rule.when, other.rule.when)


def _value(step: StepText) -> object:
    return step.args.value.get("value") if isinstance(step.args.value, Keys) else None


def _too_late(rules: Sequence[RuleText]) -> Iterator[Finding]:
    ended: _Earlier = {}
    filled: _Earlier = {}
    seen: dict[tuple[object, ...], RuleText] = {}
    for rule in rules:
        ending = _before(rule, ended)
        if ending is not None:
            text = f"{rule.name} never runs: {ending.name} ({_at(ending)}) stops every record"
            yield found(rule.spot, "shadowed", text)
            continue
        yield from _doubled(rule, seen)
        yield from _filled(rule, filled)
        if rule.when is not None:
            continue
        for step in rule.steps:
            for type_name in rule.types:
                if step.verb in _ENDING:
                    ended.setdefault((type_name, rule.release, ""), rule)
                elif step.verb == "set" and "where(" not in step.texts.get("path", "where("):
                    filled.setdefault((type_name, rule.release, step.texts["path"]), rule)


_Earlier = dict[tuple[str, str | None, str], RuleText]
"""Type, release and path → the first rule that has settled them."""


def _before(rule: RuleText, earlier: _Earlier, path: str = "") -> RuleText | None:
    """The rule that settled things for every type and release that ``rule`` works on."""
    firsts = []
    for type_name in rule.types:
        keys = [(name, release, path) for name in (type_name, ANY) for release in (None, rule.release)]
        firsts.append(next((earlier[key] for key in keys if key in earlier), None))
    return firsts[0] if firsts and all(firsts) else None


def _doubled(rule: RuleText, seen: dict[tuple[object, ...], RuleText]) -> Iterator[Finding]:
    """Complain about a rule that says what another one has said already."""
    steps = repr([(step.verb, step.args.value) for step in rule.steps])
    for type_name in rule.types:
        first = seen.setdefault((type_name, rule.stage, rule.release, rule.when, steps), rule)
        if first is not rule:
            yield found(rule.spot, "shadowed", f"{rule.name} does what {first.name} ({_at(first)}) has done already")
            return


def _filled(rule: RuleText, filled: _Earlier) -> Iterator[Finding]:
    for step in rule.steps:
        path = step.texts.get(_FILLING.get(step.verb, ""), "")
        first = _before(rule, filled, path) if path else None
        if first is not None and first is not rule:
            text = f"{step.verb} never acts: {first.name} ({_at(first)}) always sets {path}"
            yield found(step.args.spot, "shadowed", text)


def _at(rule: RuleText) -> str:
    return f"{rule.spot.file}:{rule.spot.line}"
