"""Compile rules: a YAML mapping becomes one closure for each resource type it works on.

The language is closed: every key and verb is known here, and whatever is not is an error of the pack with line,
column and the nearest known word.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass

from fhir_bridge.fhir.tables import Definitions, r4, stu3
from fhir_bridge.normalize import verbs_codes, verbs_shape, verbs_units, verbs_verdicts
from fhir_bridge.normalize.draft import By, Draft
from fhir_bridge.normalize.places import Condition, compile_condition
from fhir_bridge.normalize.tables import Tables
from fhir_bridge.normalize.verb_args import Act, Args, Bench, Verb, replaced
from fhir_bridge.normalize.yaml_text import Mapping, Node, Spot, did_you_mean

VERBS: AnyMapping[str, Verb] = {
    **verbs_shape.VERBS,
    **verbs_codes.VERBS,
    **verbs_units.VERBS,
    **verbs_verdicts.VERBS,
}
LABEL = "label"
STAGES = ("version", "fit", "content", LABEL)
"""Order in which rules run: STU3 elements to R4, what is left over, the source's habits, sensitivity."""

ANY = "*"
_KEYS = ("rule", "version", "stage", "from", "on", "when", "do", "why")


@dataclass(frozen=True, slots=True)
class Rule:
    """One compiled rule for one resource type (``*``: every type)."""

    name: str
    stage: str
    type_name: str
    release: str | None
    when: Condition | None
    acts: tuple[Act, ...]
    spot: Spot
    version: int | None = None

    def apply(self, draft: Draft) -> None:
        """Run the rule on a draft of its type."""
        if self.when is None or self.when(draft.body):
            for act in self.acts:
                act(draft)


def compile_rules(document: Node, tables: Tables, constants: AnyMapping[str, str]) -> Iterator[Rule]:
    """Compile a file of rules: one mapping, or a list of them.

    Raises:
        RulesetBroken: With file, line and column.
    """
    nodes = [document] if hasattr(document.value, "keys") else list(document.items("a rule file"))
    for node in nodes:
        yield from _compile(node.mapping("a rule"), tables, constants)


def _compile(rule: Mapping, tables: Tables, constants: AnyMapping[str, str]) -> Iterator[Rule]:
    rule.only(_KEYS, "key")
    name = rule.require("rule").text("rule")
    version = rule.get("version")
    if version is not None and not isinstance(version.value, int):
        raise version.spot.broken("'version' must be a whole number")
    number = None if version is None else int(version.value)
    why = rule.require("why").text("why")
    stage, release = _stage(rule), _release(rule)
    releases = (stu3(), r4()) if release == "STU3" else (r4(),)
    for type_name in _types(rule.require("on"), releases):
        bench_type = "DomainResource" if type_name == ANY else type_name
        bench = Bench(By(name, why), bench_type, releases, tables, constants)
        yield Rule(name, stage, type_name, release, _when(rule, bench), _acts(rule, bench), rule.spot, number)


def _stage(rule: Mapping) -> str:
    node = rule.get("stage")
    if node is None:
        return "version" if rule.get("from") is not None else "content"
    if node.value not in STAGES:
        raise node.spot.broken(f"'stage' must be one of {', '.join(STAGES)}{did_you_mean(str(node.value), STAGES)}")
    return str(node.value)


def _release(rule: Mapping) -> str | None:
    node = rule.get("from")
    if node is not None and node.value != "STU3":
        raise node.spot.broken("'from' names the release whose records the rule converts: STU3")
    return None if node is None else "STU3"


def _types(node: Node, releases: tuple[Definitions, ...]) -> list[str]:
    nodes = [node] if isinstance(node.value, str) else list(node.items("'on'"))
    known = frozenset().union(*(d.resource_types() for d in releases))
    for given in nodes:
        if given.value != ANY and given.value not in known:
            raise given.spot.broken(f"no resource type {given.value!r}{did_you_mean(str(given.value), known)}")
    return [str(given.value) for given in nodes]


def _when(rule: Mapping, bench: Bench) -> Condition | None:
    node = rule.get("when")
    if node is None:
        return None
    text = replaced(node.text("when"), bench.constants, node, quoted=True)
    return compile_condition(text, bench.type_name, bench.releases, node.spot)


def _acts(rule: Mapping, bench: Bench) -> tuple[Act, ...]:
    acts = []
    for node in rule.require("do").items("'do'"):
        step = node.mapping("a step")
        words = step.names()
        if len(words) != 1:
            raise node.spot.broken("a step is one verb with its arguments")
        verb = VERBS.get(words[0])
        if verb is None:
            meant = did_you_mean(words[0], VERBS)
            raise step.key_spot(words[0]).broken(f"unknown verb {words[0]!r}{meant}")
        values = step.require(words[0]).mapping(f"{words[0]!r}")
        values.only(verb.keys, f"argument of {words[0]}")
        acts.append(verb.make(Args(values, bench)))
    return tuple(acts)
