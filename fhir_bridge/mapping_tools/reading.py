"""Read a pack part by part and go on after a mistake, where the loader stops at the first.

For lint and for comparing packs. What is right is compiled as the loader does it, so both judge alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from fhir_bridge.normalize import pack as packs
from fhir_bridge.normalize import rules as language
from fhir_bridge.normalize.code_maps import CodeMap
from fhir_bridge.normalize.csv_choices import described_files, read_table
from fhir_bridge.normalize.draft import By
from fhir_bridge.normalize.functions import FUNCTIONS
from fhir_bridge.normalize.loaded_tables import TABLE_KINDS, load_table
from fhir_bridge.normalize.preferred_units import PreferredUnits
from fhir_bridge.normalize.tables import LabelTable, Tables, UnitTable
from fhir_bridge.normalize.verb_args import Arg, Args, Bench, replaced
from fhir_bridge.normalize.yaml_text import Fault, Keys, Node, Spot, load
from fhir_bridge.normalize.yaml_text import Mapping as YamlMapping

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepText:
    """One step of a rule as it is written; ``texts`` are its arguments that are texts."""

    verb: str
    args: Node
    texts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RuleText:
    """One rule as it is written; ``when`` has its constants replaced."""

    name: str
    types: tuple[str, ...]
    stage: str
    release: str | None
    when: str | None
    when_spot: Spot
    steps: tuple[StepText, ...]
    has_version: bool
    node: Node

    @property
    def spot(self) -> Spot:
        """Where the rule stands."""
        return self.node.spot


@dataclass(slots=True)
class PackText:
    """One folder of a pack, read as far as it can be."""

    folder: Path
    label: str
    source: YamlMapping | None = None
    constants: dict[str, str] = field(default_factory=dict)
    tables: Tables = field(default_factory=Tables)
    rules: list[RuleText] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def read_pack(folder: Path, label: str, below: PackText | None = None) -> PackText:
    """Read one folder.

    Args:
        label: What findings call the folder.
        below: The core that the pack extends; its tables and constants can be named too.
    """
    read = PackText(folder, label)
    if below is not None:
        read.constants |= below.constants
        read.tables = Tables(**{each.name: dict(getattr(below.tables, each.name)) for each in fields(Tables)})
    try:
        file = f"{label}/{packs.SOURCE}"
        read.source = load(folder / packs.SOURCE, file).mapping(packs.SOURCE)
        read.faults += read.source.unknown(packs.SOURCE_KEYS, "key")
        read.constants |= packs.constants_of(read.source)
    except Fault as fault:
        read.faults.append(fault)
    if read.source is not None:
        _read_tables(read, read.source)
        _read_csv(read, read.source)
    for path in packs.rule_files(folder):
        _read_rules(read, path)
    return read


def core_of(read: PackText) -> PackText | None:
    """Return the core that a pack extends, or None."""
    node = read.source.get("extends") if read.source is not None else None
    if node is None or node.value != "core":
        return None
    folder = packs.extended(read.folder, node)
    return read_pack(folder, str(folder))


def _read_tables(read: PackText, source: YamlMapping) -> None:
    """Load every table; one that is broken stays empty, so that naming it is no second mistake."""
    for kind in TABLE_KINDS:
        try:
            entries = list(packs.declared(source, kind))
        except Fault as fault:
            read.faults.append(fault)
            continue
        for name, entry in entries:
            held = getattr(read.tables, kind)
            try:
                held[name] = load_table(kind, name, entry, read.folder, read.label)
            except Fault as fault:
                read.faults.append(fault)
                held[name] = _EMPTY[kind](name)


def _read_csv(read: PackText, source: YamlMapping) -> None:
    try:
        described = described_files(source, packs.version_of(source))
    except Fault as fault:
        read.faults.append(fault)
        return
    for name, node in described:
        try:
            read_table(name, node, read.constants)
        except Fault as fault:
            read.faults.append(fault)


_EMPTY: Mapping[str, Callable[[str], Any]] = {
    "maps": lambda name: CodeMap(name, ()),
    "units": lambda name: UnitTable(name, {}, {}),
    "labels": lambda name: LabelTable(name, {}),
    "preferred_units": lambda name: PreferredUnits(name, {}, {}),
}


def _read_rules(read: PackText, path: Path) -> None:
    name = f"{read.label}/{path.relative_to(read.folder).as_posix()}"
    try:
        document = load(path, name)
        nodes = [document] if isinstance(document.value, Keys) else list(document.items("a rule file"))
    except Fault as fault:
        read.faults.append(fault)
        return
    for node in nodes:
        found = _Reader(read).rule(node)
        if found is not None:
            read.rules.append(found)


class _Reader:
    """Reads one rule, one mistake after the other."""

    def __init__(self, read: PackText) -> None:
        self._read = read
        self._told: set[str] = set()

    def rule(self, node: Node) -> RuleText | None:
        """Return the rule, as far as it can be read; None where it is no rule at all."""
        rule = self._try(node.mapping, "a rule")
        if rule is None:
            return None
        for fault in rule.unknown(language.RULE_KEYS, "key"):
            self._tell(fault)
        name = self._try(lambda: rule.require("rule").text("rule"))
        why = self._try(lambda: rule.require("why").text("why"))
        stage = self._try(language.stage_of, rule) or "content"
        release = self._try(language.release_of, rule)
        types = self._types(rule, release)
        benches = self._benches(By(name or "", why or ""), types, release)
        for bench in benches:
            self._try(language.condition_of, rule, bench)
        steps = tuple(self._steps(rule, benches))
        has_version = self._has_version(rule)
        if name is None:
            return None
        when = rule.get("when")
        spot = node.spot if when is None else when.spot
        return RuleText(name, tuple(types), stage, release, self._when(when), spot, steps, has_version, node)

    def _benches(self, by: By, types: Sequence[str], release: str | None) -> list[Bench]:
        releases = language.releases_of(release)
        names = ["DomainResource" if each == language.ANY else each for each in types]
        return [Bench(by, name, releases, self._read.tables, self._read.constants) for name in names]

    def _has_version(self, rule: YamlMapping) -> bool:
        version = rule.get("version")
        if version is not None and not isinstance(version.value, int):
            self._tell(version.spot.broken("'version' must be a whole number"))
        return version is not None

    def _types(self, rule: YamlMapping, release: str | None) -> list[str]:
        releases = language.releases_of(release)
        on = self._try(lambda: rule.require("on"))
        if on is None:
            return []
        nodes = [on] if isinstance(on.value, str) else self._try(lambda: list(on.items("'on'"))) or []
        found = [self._try(language.types_of, each, releases) for each in nodes]
        return [name for names in found if names is not None for name in names]

    def _when(self, node: Node | None) -> str | None:
        if node is None:
            return None
        return self._try(lambda: replaced(node.text("when"), self._read.constants, node, quoted=True))

    def _steps(self, rule: YamlMapping, benches: list[Bench]) -> Iterator[StepText]:
        nodes = self._try(lambda: list(rule.require("do").items("'do'"))) or []
        for node in nodes:
            for bench in benches:
                self._step(node, bench)
            try:
                verb = language.verb_name(node)
                args = node.mapping("a step").require(verb)
            except Fault:
                continue
            texts = args.value.items() if isinstance(args.value, Keys) else ()
            yield StepText(verb, args, {key: value for key, value in texts if isinstance(value, str)})

    def _step(self, node: Node, bench: Bench) -> None:
        try:
            language.compile_step(node, bench)
        except Fault as first:
            try:
                verb, args = language.read_step(node, bench)
            except Fault:
                self._tell(first)
                return
            for fault in [*args.values.unknown(verb.args, f"argument of {language.verb_name(node)}"), first]:
                self._tell(fault)
            for key in args.values.names():
                if key in verb.args:
                    self._try(_checked, verb.args[key], args, key)

    def _try(self, attempt: Callable[..., T], *given: Any) -> T | None:
        try:
            return attempt(*given)
        except Fault as fault:
            self._tell(fault)
            return None

    def _tell(self, fault: Fault) -> None:
        """Put a fault on the list; a rule for several types has the same one for each."""
        if str(fault) not in self._told:
            self._told.add(str(fault))
            self._read.faults.append(fault)


def _checked(arg: Arg, args: Args, key: str) -> None:
    """Judge one argument by itself."""
    tables = args.bench.tables
    named: dict[str, Mapping[str, Any]] = {
        "map": tables.maps,
        "unit table": tables.units,
        "label table": tables.labels,
        "function": FUNCTIONS,
    }
    if arg.kind in named:
        args.named(key, named[arg.kind], arg.kind)
    elif arg.kind == "choice":
        args.choice(key, arg.options)
    elif arg.kind == "choices":
        args.choices(key, arg.options)
    else:
        {"path": args.place, "sibling": args.sibling, "text": args.text, "value": args.json}[arg.kind](key)
