"""Load a rule pack: a folder that integration engineers own.

``source.yaml`` says what the institution's records look like, ``codes/`` holds its tables, every other ``*.yaml``
holds rules, ``examples/`` its tests. ``extends: core`` puts the rules of ``core`` before its own: the folder beside
the pack, else the copy that ships with the package.

Invariants:
    * a pack loads whole or not at all;
    * the hash covers every file that can change a record, and nothing else: path and content of both folders'
      YAML and tables, of JSON the ConceptMaps that ``maps`` names, in the order of their paths, and the definitions
      in the packages of profiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from blake3 import blake3

from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize.accepted import read_accepted
from fhir_bridge.normalize.code_maps import CodeMap
from fhir_bridge.normalize.csv_choices import read_csv_format
from fhir_bridge.normalize.loaded_tables import TABLE_KINDS, load_table
from fhir_bridge.normalize.profile_choices import read_profiles
from fhir_bridge.normalize.rules import ANY, STAGES, Rule, Surroundings, compile_rule, release_of, written_rules
from fhir_bridge.normalize.tables import Tables
from fhir_bridge.normalize.yaml_text import Mapping, Node, Spot, load
from fhir_bridge.ports.formats import SourceFormat

if TYPE_CHECKING:
    from fhir_bridge.fhir.profiles import Profiles

SOURCE_KEYS = (
    "institution",
    "fhir_version",
    "time_zone",
    "base_urls",
    "extends",
    "constants",
    "maps",
    "units",
    "preferred_units",
    "labels",
    "profiles",
    "csv",
    "accepted",
    "why",
)
SOURCE = "source.yaml"
_OWN = {"profiles": "profiles are chosen by", "csv": "CSV files are described by"}

ENGINE = "5"
"""Counted up when the code of a verb or function changes what it does to a record, so that the hash tells."""


@dataclass(frozen=True)
class Ruleset:
    """The rules of one institution, compiled.

    Attributes:
        name: Name of the pack's folder.
        hash: Hex BLAKE3 over everything that can change a record.
        fhir_version: Release of the records that the pack is written for.
        base_urls: Bases of absolute URLs that mean the sender's own records, without a slash at the end.
        rules: In the order in which they run, those of ``later`` left out.
        later: Release → what compiles the core's rules from that release; only those who get such records pay for it.
        profiles: What records are judged by before any rule runs; None for the standard alone.
        formats: What the institution sends beside FHIR.
        zone: Whose clocks its times without an offset tell; None where the pack does not say.
        institution: Whose pack it says it is; empty where it does not say.
    """

    name: str
    hash: str
    fhir_version: FhirVersion
    base_urls: frozenset[str]
    rules: tuple[Rule, ...]
    tables: Tables = field(repr=False)
    profiles: Profiles | None = field(default=None, repr=False, compare=False)
    later: AnyMapping[str, Callable[[], list[Rule]]] = field(default_factory=dict, repr=False, compare=False)
    formats: tuple[SourceFormat, ...] = field(default=(), repr=False, compare=False)
    zone: ZoneInfo | None = field(default=None, compare=False)
    institution: str = field(default="", compare=False)

    def rules_for(self, stage: str, type_name: str, release: str) -> tuple[Rule, ...]:
        """The rules of a stage that may touch a record of this type that came in this release."""
        key = (stage, type_name, release)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = tuple(
                rule
                for rule in self.of_release(release)
                if rule.stage == stage and rule.type_name in (type_name, ANY) and rule.release in (None, release)
            )
        return found

    def of_release(self, release: str) -> tuple[Rule, ...]:
        """The rules that run on records of a release, in their order."""
        found = self._by_release.get(release)
        if found is None:
            rules = self.rules
            if release in self.later:
                rules = _ordered([*self.later[release](), *rules])
            found = self._by_release[release] = rules
        return found

    def aliases_for(self, release: str) -> dict[str, dict[str, str]]:
        """What rules for a release say of a type's identifiers: type → system that the sender uses → canonical."""
        found = self._aliases.get(release)
        if found is None:
            found = self._aliases[release] = {}
            for rule in self.of_release(release):
                if rule.aliases and rule.release in (None, release):
                    found.setdefault(rule.type_name, {}).update(rule.aliases)
        return found

    @cached_property
    def _by_release(self) -> dict[str, tuple[Rule, ...]]:
        return {}

    @cached_property
    def _aliases(self) -> dict[str, dict[str, dict[str, str]]]:
        return {}

    @cached_property
    def _found(self) -> dict[tuple[str, str, str], tuple[Rule, ...]]:
        return {}


def load_ruleset(directory: Path) -> Ruleset:
    """Load and compile the pack in ``directory``.

    Raises:
        RulesetBroken: Something in it is wrong; the message reads ``file:line:column what``.
    """
    head = source_of(directory)
    layers = layers_of(directory)
    rules: list[Rule] = []
    later: dict[str, list[Mapping]] = {}
    version = version_of(head)
    names: dict[str, Spot] = {}
    tables = Tables()
    constants: dict[str, str] = {}
    for folder in layers:
        source = head if folder == directory else source_of(folder)
        for own, words in _OWN.items() if folder != directory else ():
            if own in source.names():
                raise source.key_spot(own).broken(f"{words} an institution's own pack")
        constants |= constants_of(source)
        _load_tables(source, folder, tables)
        around = Surroundings.of(tables, constants)
        for path in rule_files(folder):
            for rule in written_rules(load(path, label_of(folder, path))):
                _refuse_double(rule, names)
                release = release_of(rule)
                if folder != directory and release not in (None, version):
                    later.setdefault(str(release), []).append(rule)
                else:
                    rules += compile_rule(rule, around)
    read_accepted(head)
    profiles = read_profiles(head, directory, version)
    formats = read_csv_format(head, version, constants)
    digest = _hash(layers, b"" if profiles is None else profiles.digest)
    whole = Surroundings.of(tables, constants)
    compiled_later = {release: partial(_compiled, written, whole) for release, written in later.items()}
    return Ruleset(
        directory.name,
        digest,
        version,
        _base_urls(head),
        _ordered(rules),
        tables,
        profiles,
        compiled_later,
        formats,
        zone_of(head),
        constants_of(head).get("institution", ""),
    )


def _ordered(rules: list[Rule]) -> tuple[Rule, ...]:
    return tuple(sorted(rules, key=lambda rule: STAGES.index(rule.stage)))


def _compiled(written: list[Mapping], around: Surroundings) -> list[Rule]:
    return [rule for each in written for rule in compile_rule(each, around)]


def load_code_maps(directory: Path) -> dict[str, CodeMap]:
    """Load the code maps of the pack in ``directory`` and of the core it extends, and nothing else of it.

    Raises:
        RulesetBroken: A table is wrong, or there is no pack.
    """
    found: dict[str, CodeMap] = {}
    for folder in layers_of(directory):
        for name, entry in declared(source_of(folder), "maps"):
            found[name] = load_table("maps", name, entry, folder, folder.name)
    return found


def find_map(directory: Path, name: str) -> tuple[CodeMap, Path] | list[str]:
    """Return a code map of a pack or its core and the file it is from, or the names that there are.

    Raises:
        RulesetBroken: The table is wrong, or there is no pack.
    """
    names: list[str] = []
    for folder in reversed(layers_of(directory)):
        for each, entry in declared(source_of(folder), "maps"):
            if each == name:
                found = load_table("maps", name, entry, folder, folder.name)
                return found, folder / entry.require("file").text("file")
            names.append(each)
    return names


def layers_of(directory: Path) -> list[Path]:
    """Return the folders whose rules make up a pack, those that run first at the front.

    Raises:
        RulesetBroken: There is no pack, or it extends something else than ``core``.
    """
    extends = source_of(directory).get("extends")
    return [directory] if extends is None else [extended(directory, extends), directory]


def files_of(folder: Path) -> list[Path]:
    """Return the files of one folder that can change a record, in the order in which the hash covers them."""
    maps = {entry.require("file").text("file") for _, entry in declared(source_of(folder), "maps")}
    return sorted(p for p in folder.rglob("*") if p.is_file() and _counts(p.relative_to(folder), maps))


def packaged_core() -> Path:
    """The copy of ``core`` that ships with the package, or the one of the source tree."""
    packaged = Path(str(files("fhir_bridge"))) / "_mappings" / "core"
    return packaged if packaged.is_dir() else Path(str(files("fhir_bridge"))).parent / "mappings" / "core"


def source_of(folder: Path) -> Mapping:
    """Read a pack's ``source.yaml``."""
    path, name = folder / SOURCE, folder.name
    if not path.is_file():
        raise Spot(f"{name}/{SOURCE}").broken("there is no such file; it says whose records these are")
    mapping = load(path, f"{name}/{SOURCE}").mapping(SOURCE)
    mapping.only(SOURCE_KEYS, "key")
    return mapping


def extended(directory: Path, node: Node) -> Path:
    """Return the folder that ``extends`` means."""
    if node.value != "core":
        raise node.spot.broken("a pack can extend 'core' and nothing else")
    beside = directory.parent / "core"
    return beside if (beside / SOURCE).is_file() else packaged_core()


def rule_files(folder: Path) -> list[Path]:
    """Return a pack's files of rules in the order in which they are read."""
    found = [p for p in folder.rglob("*.yaml") if p.name != SOURCE]
    return sorted(p for p in found if "examples" not in p.relative_to(folder).parts)


def label_of(folder: Path, path: Path) -> str:
    """Return what complaints call a file of a pack."""
    return f"{folder.name}/{path.relative_to(folder).as_posix()}"


def constants_of(source: Mapping) -> dict[str, str]:
    """Return what ``%source.name`` means."""
    made = {}
    for key in ("institution", "time_zone"):
        node = source.get(key)
        if node is not None:
            made[key] = node.text(key)
    node = source.get("constants")
    if node is not None:
        given = node.mapping("constants")
        made |= {name: given.require(name).text(name) for name in given.names()}
    return made


def version_of(source: Mapping) -> FhirVersion:
    node = source.get("fhir_version")
    if node is None:
        return FhirVersion.R4
    if node.value not in FhirVersion.__members__:
        raise node.spot.broken(f"'fhir_version' must be one of {', '.join(FhirVersion.__members__)}")
    return FhirVersion(str(node.value))


def zone_of(source: Mapping) -> ZoneInfo | None:
    """Return the zone in which the institution's clocks run, or None where the pack does not say."""
    node = source.get("time_zone")
    if node is None:
        return None
    try:
        return ZoneInfo(node.text("time_zone"))
    except (ZoneInfoNotFoundError, ValueError):
        raise node.spot.broken("'time_zone' is not an IANA time zone, such as Europe/Vienna") from None


def _base_urls(source: Mapping) -> frozenset[str]:
    node = source.get("base_urls")
    return frozenset(n.text("base_urls").rstrip("/") for n in node.items("base_urls")) if node else frozenset()


def _load_tables(source: Mapping, folder: Path, tables: Tables) -> None:
    for kind in TABLE_KINDS:
        for name, entry in declared(source, kind):
            getattr(tables, kind)[name] = load_table(kind, name, entry, folder, folder.name)


def declared(source: Mapping, key: str) -> Iterator[tuple[str, Mapping]]:
    """Yield the tables that ``source.yaml`` declares under ``key``, by name."""
    node = source.get(key)
    if node is not None:
        given = node.mapping(key)
        for name in given.names():
            yield name, given.require(name).mapping(name)


def _refuse_double(rule: Mapping, seen: dict[str, Spot]) -> None:
    name = rule.require("rule").text("rule")
    if name in seen:
        raise rule.spot.broken(f"rule {name!r} already stands at {seen[name].file}:{seen[name].line}")
    seen[name] = rule.spot


def _hash(layers: list[Path], profiles: bytes) -> str:
    hasher = blake3(b"fhir-bridge/ruleset/" + ENGINE.encode() + profiles)
    for folder in layers:
        for path in files_of(folder):
            name, content = path.relative_to(folder).as_posix().encode(), path.read_bytes()
            for part in (name, content):
                hasher.update(len(part).to_bytes(8, "big") + part)
        hasher.update(bytes(8))
    return hasher.hexdigest()


def _counts(path: Path, maps: set[str]) -> bool:
    if path.suffix == ".json":
        return path.as_posix() in maps
    return "examples" not in path.parts and path.suffix in (".yaml", ".csv")
