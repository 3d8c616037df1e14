"""Load a rule pack: a folder that integration engineers own.

``source.yaml`` says what the institution's records look like, ``codes/`` holds its tables, every other ``*.yaml``
holds rules, ``examples/`` its tests. ``extends: core`` puts the rules of ``core`` before its own: the folder beside
the pack, else the copy that ships with the package.

Invariants:
    * a pack loads whole or not at all;
    * the hash covers every file that can change a record, and nothing else: path and content of both folders'
      YAML and tables, in the order of their paths, and the definitions in the packages of profiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from blake3 import blake3

from fhir_bridge.fhir.profiles import Profiles
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize.profile_choices import read_profiles
from fhir_bridge.normalize.rules import ANY, STAGES, Rule, compile_rules
from fhir_bridge.normalize.tables import Tables, load_labels, load_map, load_units
from fhir_bridge.normalize.yaml_text import Mapping, Node, Spot, load

_KEYS = (
    "institution",
    "fhir_version",
    "time_zone",
    "base_urls",
    "extends",
    "constants",
    "maps",
    "units",
    "labels",
    "profiles",
    "why",
)
SOURCE = "source.yaml"

ENGINE = "3"
"""Counted up when the code of a verb or function changes what it does to a record, so that the hash tells."""


@dataclass(frozen=True)
class Ruleset:
    """The rules of one institution, compiled.

    Attributes:
        name: Name of the pack's folder.
        hash: Hex BLAKE3 over everything that can change a record.
        fhir_version: Release of the records that the pack is written for.
        base_urls: Bases of absolute URLs that mean the sender's own records, without a slash at the end.
        rules: In the order in which they run.
        profiles: What records are judged by before any rule runs; None for the standard alone.
    """

    name: str
    hash: str
    fhir_version: FhirVersion
    base_urls: frozenset[str]
    rules: tuple[Rule, ...]
    tables: Tables = field(repr=False)
    profiles: Profiles | None = field(default=None, repr=False, compare=False)

    def rules_for(self, stage: str, type_name: str, release: str) -> tuple[Rule, ...]:
        """The rules of a stage that may touch a record of this type that came in this release."""
        key = (stage, type_name, release)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = tuple(
                rule
                for rule in self.rules
                if rule.stage == stage and rule.type_name in (type_name, ANY) and rule.release in (None, release)
            )
        return found

    @cached_property
    def _found(self) -> dict[tuple[str, str, str], tuple[Rule, ...]]:
        return {}


def load_ruleset(directory: Path) -> Ruleset:
    """Load and compile the pack in ``directory``.

    Raises:
        RulesetBroken: Something in it is wrong; the message reads ``file:line:column what``.
    """
    layers = [directory]
    head = _source(directory)
    extends = head.get("extends")
    if extends is not None:
        layers.insert(0, _extended(directory, extends))
    rules: list[Rule] = []
    tables = Tables()
    constants: dict[str, str] = {}
    for folder in layers:
        source = _source(folder)
        if folder != directory and "profiles" in source.names():
            raise source.key_spot("profiles").broken("profiles are chosen by an institution's own pack")
        constants |= _constants(source)
        _load_tables(source, folder, tables)
        for path in _rule_files(folder):
            rules += compile_rules(load(path, _label(folder, path)), tables, constants)
    _refuse_doubles(rules)
    ordered = sorted(rules, key=lambda rule: STAGES.index(rule.stage))
    profiles = read_profiles(head, directory, _version(head))
    digest = _hash(layers, b"" if profiles is None else profiles.digest)
    return Ruleset(directory.name, digest, _version(head), _base_urls(head), tuple(ordered), tables, profiles)


def packaged_core() -> Path:
    """The copy of ``core`` that ships with the package, or the one of the source tree."""
    packaged = Path(str(files("fhir_bridge"))) / "_mappings" / "core"
    return packaged if packaged.is_dir() else Path(str(files("fhir_bridge"))).parent / "mappings" / "core"


def _source(folder: Path) -> Mapping:
    path = folder / SOURCE
    if not path.is_file():
        raise Spot(f"{folder.name}/{SOURCE}").broken("there is no such file; it says whose records these are")
    mapping = load(path, f"{folder.name}/{SOURCE}").mapping(SOURCE)
    mapping.only(_KEYS, "key")
    return mapping


def _extended(directory: Path, node: Node) -> Path:
    if node.value != "core":
        raise node.spot.broken("a pack can extend 'core' and nothing else")
    beside = directory.parent / "core"
    return beside if (beside / SOURCE).is_file() else packaged_core()


def _rule_files(folder: Path) -> list[Path]:
    found = [p for p in folder.rglob("*.yaml") if p.name != SOURCE]
    return sorted(p for p in found if "examples" not in p.relative_to(folder).parts)


def _label(folder: Path, path: Path) -> str:
    return f"{folder.name}/{path.relative_to(folder).as_posix()}"


def _constants(source: Mapping) -> dict[str, str]:
    made = {}
    for key in ("institution", "time_zone"):
        node = source.get(key)
        if node is not None:
            made[key] = node.text(key)
    node = source.get("constants")
    if node is not None:
        declared = node.mapping("constants")
        made |= {name: declared.require(name).text(name) for name in declared.names()}
    return made


def _version(source: Mapping) -> FhirVersion:
    node = source.get("fhir_version")
    if node is None:
        return FhirVersion.R4
    if node.value not in FhirVersion.__members__:
        raise node.spot.broken(f"'fhir_version' must be one of {', '.join(FhirVersion.__members__)}")
    return FhirVersion(str(node.value))


def _base_urls(source: Mapping) -> frozenset[str]:
    node = source.get("base_urls")
    return frozenset(n.text("base_urls").rstrip("/") for n in node.items("base_urls")) if node else frozenset()


def _load_tables(source: Mapping, folder: Path, tables: Tables) -> None:
    for name, entry in _declared(source, "maps"):
        tables.maps[name] = load_map(name, entry, folder, folder.name)
    for name, entry in _declared(source, "units"):
        tables.units[name] = load_units(name, entry, folder, folder.name)
    for name, entry in _declared(source, "labels"):
        tables.labels[name] = load_labels(name, entry, folder, folder.name)


def _declared(source: Mapping, key: str) -> Iterator[tuple[str, Mapping]]:
    node = source.get(key)
    if node is not None:
        declared = node.mapping(key)
        for name in declared.names():
            yield name, declared.require(name).mapping(name)


def _refuse_doubles(rules: list[Rule]) -> None:
    seen: dict[str, Spot] = {}
    for rule in rules:
        spot = seen.setdefault(rule.name, rule.spot)
        if spot != rule.spot:
            raise rule.spot.broken(f"rule {rule.name!r} already stands at {spot.file}:{spot.line}")


def _hash(layers: list[Path], profiles: bytes) -> str:
    hasher = blake3(b"fhir-bridge/ruleset/" + ENGINE.encode() + profiles)
    for folder in layers:
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and _counts(p.relative_to(folder))):
            name, content = path.relative_to(folder).as_posix().encode(), path.read_bytes()
            for part in (name, content):
                hasher.update(len(part).to_bytes(8, "big") + part)
        hasher.update(bytes(8))
    return hasher.hexdigest()


def _counts(path: Path) -> bool:
    return "examples" not in path.parts and path.suffix in (".yaml", ".csv")
