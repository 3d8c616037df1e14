"""Compile rules: a YAML mapping becomes one closure for each resource type it works on.

The language is closed: every key and verb is known here, and whatever is not is an error of the pack with line,
column and the nearest known word.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass, field, fields
from functools import lru_cache

from fhir_bridge.fhir.fhirpath import PathFailed
from fhir_bridge.fhir.tables import Definitions, definitions_of, r4
from fhir_bridge.normalize import verbs_codes, verbs_shape, verbs_translate, verbs_units, verbs_verdicts
from fhir_bridge.normalize.draft import By, Draft
from fhir_bridge.normalize.places import Condition, compile_condition
from fhir_bridge.normalize.same import Same
from fhir_bridge.normalize.tables import Tables
from fhir_bridge.normalize.verb_args import Act, Args, Bench, Verb, replaced
from fhir_bridge.normalize.yaml_text import Keys, Mapping, Node, Spot, did_you_mean

VERBS: AnyMapping[str, Verb] = {
    **verbs_shape.VERBS,
    **verbs_codes.VERBS,
    **verbs_translate.VERBS,
    **verbs_units.VERBS,
    **verbs_verdicts.VERBS,
}
LABEL = "label"
STAGES = ("version", "fit", "content", LABEL)
"""Order in which rules run: another release's elements to R4, what is left over, the source's habits, sensitivity."""

ANY = "*"
FROM = ("STU3", "R4B", "R5")
RULE_KEYS = ("rule", "version", "stage", "from", "on", "when", "do", "why")


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
    aliases: AnyMapping[str, str] = field(default_factory=dict)
    """What it says of the type's own identifiers, whatever the record: system that the sender uses → canonical."""

    def apply(self, draft: Draft) -> None:
        """Run the rule on a draft of its type."""
        if self.when is None or self._fires(self.when, draft):
            for act in self.acts:
                act(draft)

    def _fires(self, when: Condition, draft: Draft) -> bool:
        """Whether the condition holds; one that the record's data cannot answer does not, and that is told."""
        try:
            return when(draft.body)
        except PathFailed as problem:
            text = f"the condition of the rule {self.name} cannot be judged: {problem}"
            draft.flag("processing", text, str(draft.body.get("resourceType", "")), "warning")
            return False


def written_rules(document: Node) -> list[Mapping]:
    """Return the rules of a file as they are written: one mapping, or a list of them.

    Raises:
        RulesetBroken: With file, line and column.
    """
    nodes = [document] if hasattr(document.value, "keys") else list(document.items("a rule file"))
    return [node.mapping("a rule") for node in nodes]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a pack gives its rules: its tables and constants, as they are at one moment."""

    tables: Tables = field(compare=False)
    constants: AnyMapping[str, str] = field(compare=False)
    key: tuple[object, ...]

    @classmethod
    def of(cls, tables: Tables, constants: AnyMapping[str, str]) -> Surroundings:
        """Take what there is now; tables that are added later are not seen."""
        kinds = {each.name: getattr(tables, each.name) for each in fields(tables)}
        held = [(kind, name, Same(table)) for kind, named in kinds.items() for name, table in named.items()]
        return cls(
            Tables(**{kind: dict(named) for kind, named in kinds.items()}),
            dict(constants),
            (tuple(held), tuple(sorted(constants.items()))),
        )


def compile_rule(rule: Mapping, around: Surroundings) -> tuple[Rule, ...]:
    """Compile one rule, once for each type it works on; the same rule in the same surroundings is compiled once.

    Raises:
        RulesetBroken: With file, line and column.
    """
    return _compiled(Same(rule.values), rule.spot, around)


@lru_cache(maxsize=4096)
def _compiled(rule: Same[Keys], spot: Spot, around: Surroundings) -> tuple[Rule, ...]:
    return tuple(_compile(Mapping(rule.value, spot), around.tables, around.constants))


def _compile(rule: Mapping, tables: Tables, constants: AnyMapping[str, str]) -> Iterator[Rule]:
    rule.only(RULE_KEYS, "key")
    name = rule.require("rule").text("rule")
    version = rule.get("version")
    if version is not None and not isinstance(version.value, int):
        raise version.spot.broken("'version' must be a whole number")
    number = None if version is None else int(version.value)
    why = rule.require("why").text("why")
    stage, release = stage_of(rule), release_of(rule)
    releases = releases_of(release)
    for type_name in types_of(rule.require("on"), releases):
        bench_type = "DomainResource" if type_name == ANY else type_name
        bench = Bench(By(name, why), bench_type, releases, tables, constants)
        when = condition_of(rule, bench)
        aliases = _aliases(rule, bench) if when is None else {}
        yield Rule(name, stage, type_name, release, when, _acts(rule, bench), rule.spot, number, aliases)


def _aliases(rule: Mapping, bench: Bench) -> dict[str, str]:
    """Return what a rule says of a type's own identifiers: references to such records by identifier mean the same."""
    found: dict[str, str] = {}
    for node in rule.require("do").items("'do'"):
        if verb_name(node) == "identifier":
            _, args = read_step(node, bench)
            if args.text("path") == "identifier":
                found |= verbs_codes.aliases_of(args)
    return found


def stage_of(rule: Mapping) -> str:
    """Return the stage in which a rule runs."""
    node = rule.get("stage")
    if node is None:
        return "version" if rule.get("from") is not None else "content"
    if node.value not in STAGES:
        raise node.spot.broken(f"'stage' must be one of {', '.join(STAGES)}{did_you_mean(str(node.value), STAGES)}")
    return str(node.value)


def release_of(rule: Mapping) -> str | None:
    """Return the release whose records a rule converts, or None for rules about R4."""
    node = rule.get("from")
    if node is None:
        return None
    if node.value not in FROM:
        raise node.spot.broken(f"'from' names the release whose records the rule converts: {', '.join(FROM)}")
    return str(node.value)


def releases_of(release: str | None) -> tuple[Definitions, ...]:
    """Return the definitions in which the paths of a rule about ``release`` (None: R4) may stand."""
    return (r4(),) if release is None else (definitions_of(release), r4())


def types_of(node: Node, releases: tuple[Definitions, ...]) -> list[str]:
    """Return the resource types that ``on`` names."""
    nodes = [node] if isinstance(node.value, str) else list(node.items("'on'"))
    known = frozenset().union(*(d.resource_types() for d in releases))
    for given in nodes:
        if given.value != ANY and given.value not in known:
            raise given.spot.broken(f"no resource type {given.value!r}{did_you_mean(str(given.value), known)}")
    return [str(given.value) for given in nodes]


def condition_of(rule: Mapping, bench: Bench) -> Condition | None:
    """Compile ``when``; None where a rule has none."""
    node = rule.get("when")
    if node is None:
        return None
    text = replaced(node.text("when"), bench.constants, node, quoted=True)
    return compile_condition(text, bench.type_name, bench.releases, node.spot)


def _acts(rule: Mapping, bench: Bench) -> tuple[Act, ...]:
    return tuple(compile_step(node, bench) for node in rule.require("do").items("'do'"))


def compile_step(node: Node, bench: Bench) -> Act:
    """Compile one step of a rule: a verb with its arguments."""
    verb, args = read_step(node, bench)
    args.values.only(verb.args, f"argument of {verb_name(node)}")
    return verb.make(args)


def read_step(node: Node, bench: Bench) -> tuple[Verb, Args]:
    """Return a step's verb and its arguments, not yet checked."""
    name = verb_name(node)
    verb = VERBS.get(name)
    step = node.mapping("a step")
    if verb is None:
        raise step.key_spot(name).broken(f"unknown verb {name!r}{did_you_mean(name, VERBS)}")
    return verb, Args(step.require(name).mapping(repr(name)), bench)


def verb_name(node: Node) -> str:
    """Return the one word that a step consists of."""
    words = node.mapping("a step").names()
    if len(words) != 1:
        raise node.spot.broken("a step is one verb with its arguments")
    return words[0]
