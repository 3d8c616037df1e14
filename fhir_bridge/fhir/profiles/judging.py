"""Judge records of an institution by the profiles that were chosen for it.

For intake, after the standard's own rules have found no error. The packages are read and compiled once; what is found
carries the place in the record and the url of the profile.

Invariants:
    * the same packages and choices find the same, in the same order;
    * what cannot be judged is in ``notes``; nothing is passed off as judged;
    * no finding repeats what the sender wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from fhir_bridge.errors import Issue, ProfileBroken
from fhir_bridge.fhir.profiles.compile import ProfileCompiler
from fhir_bridge.fhir.profiles.expansion import Terms
from fhir_bridge.fhir.profiles.packages import Json, Package, read_package
from fhir_bridge.fhir.profiles.values import Item, ItemCheck, trial
from fhir_bridge.fhir.run import MAX_ISSUES, Place, Run, written
from fhir_bridge.fhir.tables import r4

ENGINE: Final = "3"
"""Counted up when this package's code judges otherwise, so that the hash of a ruleset tells."""
_UNKNOWN: Final = "the record claims a profile that the institution's package does not hold; it is not judged by it"
SEVERITIES: Final = ("error", "warning")


@dataclass(frozen=True, slots=True)
class Choice:
    """One entry of ``profiles`` in a pack.

    Attributes:
        package: The package whose profiles are meant.
        needs: Packages with definitions that it refers to.
        severity: ``error`` refuses the record, ``warning`` flags it.
        always: Canonical urls of the profiles that every record of their type is judged by; None for those that a
            record claims in ``meta.profile``.
    """

    package: Path
    needs: tuple[Path, ...]
    severity: str
    always: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile of a resource type, compiled."""

    url: str
    version: str
    type: str
    check: ItemCheck


@dataclass(frozen=True, slots=True)
class _Chosen:
    severity: str
    canonical: str
    declared: Mapping[str, Profile] | None
    always: Mapping[str, tuple[Profile, ...]]
    extensions: Mapping[str, Profile]


class Profiles:
    """The profiles of one institution.

    Attributes:
        notes: What the profiles demand and nobody judges here, one line a reason.
        digest: Over everything that can change a verdict.
    """

    def __init__(self, chosen: Sequence[_Chosen], notes: tuple[str, ...], digest: bytes) -> None:
        self._chosen = tuple(chosen)
        self.notes = notes
        self.digest = digest
        self._known = r4().element_names()

    def judge(
        self,
        resource: dict[str, Any],
        *,
        place: str = "",
        types_by_url: Mapping[str, str] | None = None,
        entries: bool = True,
    ) -> list[Issue]:
        """Return what the profiles find in a record that the standard's own rules have accepted.

        Args:
            resource: Valid R4.
            place: Path of the resource in its message; by default its type.
            types_by_url: ``fullUrl`` → type of the other entries of its bundle.
            entries: Whether to judge the resources in a Bundle's entries too.
        """
        root: Place = (None, place or resource["resourceType"])
        whole = Run(resource, self._known, True, types_by_url)
        issues: list[Issue] = []
        for chosen in self._chosen:
            found: list[Issue] = []
            _judge_by(chosen, resource, whole, root, found)
            for at, held in enumerate(resource.get("contained", ())):
                if len(found) < MAX_ISSUES:
                    _judge_by(chosen, held, whole, ((root, "contained"), at), found)
            issues += found
        if entries and resource["resourceType"] == "Bundle":
            issues += self._entries(resource, place or "Bundle")
        return issues

    def _entries(self, bundle: dict[str, Any], place: str) -> Iterator[Issue]:
        every = [(at, e) for at, e in enumerate(bundle.get("entry", ())) if "resource" in e]
        types = {e["fullUrl"]: e["resource"]["resourceType"] for _, e in every if "fullUrl" in e}
        for at, entry in every:
            yield from self.judge(entry["resource"], place=f"{place}.entry[{at}].resource", types_by_url=types)


def load_profiles(choices: Sequence[Choice]) -> Profiles:
    """Read and compile what an institution chose.

    Raises:
        ProfileBroken: A package cannot be read, a profile cannot be compiled, or a chosen url is no profile of it.
    """
    hasher = blake3(b"fhir-bridge/profiles/" + ENGINE.encode())
    chosen: list[_Chosen] = []
    notes: dict[str, None] = {}
    packages: dict[Path, Package] = {}
    for choice in choices:
        for path in (choice.package, *choice.needs):
            if path not in packages:
                packages[path] = read_package(path)
        own, *needed = (packages[path] for path in (choice.package, *choice.needs))
        always = ("always", *choice.always) if choice.always is not None else ("declared",)
        for part in (choice.severity, *always):
            hasher.update(len(part).to_bytes(8, "big") + part.encode())
        for package in (own, *needed):
            hasher.update(package.digest)
        found, lines = _compiled(choice, own, needed)
        chosen.append(found)
        notes |= dict.fromkeys(f"{own.name}: {line}" for line in lines)
    return Profiles(chosen, tuple(notes), hasher.digest())


def _compiled(choice: Choice, own: Package, needed: Sequence[Package]) -> tuple[_Chosen, tuple[str, ...]]:
    structures = _merged("StructureDefinition", own, needed)
    terms = Terms(_merged("ValueSet", own, needed), _merged("CodeSystem", own, needed), r4())
    compiler = ProfileCompiler(r4(), structures, terms)
    mine = {url: d for url, d in own.definitions["StructureDefinition"].items() if _is_profile(d)}
    for url in choice.always or ():
        if url not in mine or mine[url]["kind"] != "resource":
            raise ProfileBroken(f"{own.name} holds no profile {url} of a resource type")
    wanted = mine if choice.always is None else {url: mine[url] for url in choice.always}
    made = {url: _profile(compiler, d) for url, d in wanted.items() if d["kind"] == "resource"}
    extensions = {url: _profile(compiler, d) for url, d in structures.items() if _is_profile(d) and _of_extension(d)}
    always: dict[str, tuple[Profile, ...]] = {}
    if choice.always is not None:
        for each in made.values():
            always[each.type] = (*always.get(each.type, ()), each)
    declared = made if choice.always is None else None
    return _Chosen(choice.severity, own.canonical, declared, always, extensions), compiler.notes.lines()


def _merged(kind: str, own: Package, needed: Sequence[Package]) -> Mapping[str, Json]:
    found: dict[str, Json] = {}
    for package in (*reversed(needed), own):
        found |= package.definitions[kind]
    return found


def _is_profile(definition: Json) -> bool:
    return definition.get("derivation") == "constraint" and definition.get("kind") in ("resource", "complex-type")


def _of_extension(definition: Json) -> bool:
    return definition.get("type") == "Extension"


def _profile(compiler: ProfileCompiler, definition: Json) -> Profile:
    url, type_name = str(definition["url"]), str(definition.get("type"))
    if type_name not in r4().types:
        raise ProfileBroken(f"{url} is about {type_name}, which R4 does not have")
    try:
        check = compiler.profile(url)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ProfileBroken(f"{url}, or what it refers to, is not formed as FHIR defines it") from error
    return Profile(url, str(definition.get("version", "")), type_name, check)


# --- one record


def _judge_by(chosen: _Chosen, resource: dict[str, Any], whole: Run, place: Place, issues: list[Issue]) -> None:
    applied = chosen.always.get(resource["resourceType"], ()) if resource is whole.container else ()
    if chosen.declared is not None:
        applied = tuple(_claimed(chosen, resource, place, issues))
    if not applied:
        return
    for profile in applied:
        run = _run(resource, whole)
        if profile.type == resource["resourceType"]:
            profile.check(Item(resource, None, place, profile.type), run)
        else:
            run.error("structure", f"the profile is one of {profile.type}", place)
        _add(issues, _told(run, chosen.severity, profile.url))
    if chosen.extensions:
        for profile, value, where in _extensions(resource, place, chosen.extensions):
            run = _run(resource, whole)
            profile.check(Item(value, None, where, "Extension"), run)
            _add(issues, _told(run, chosen.severity, profile.url))
            if len(issues) >= MAX_ISSUES:
                return


def _run(resource: dict[str, Any], whole: Run) -> Run:
    run = trial(whole)
    run.resource = resource
    return run


def _claimed(chosen: _Chosen, resource: dict[str, Any], place: Place, issues: list[Issue]) -> Iterator[Profile]:
    """The profiles that a record claims, each once; claims that should be known and are not are flagged."""
    assert chosen.declared is not None
    meta = resource.get("meta")
    claims = {claim: at for at, claim in enumerate(meta.get("profile", ()) if meta else ()) if claim is not None}
    yielded: set[str] = set()
    for claim, at in claims.items():
        url, _, version = claim.partition("|")
        found = chosen.declared.get(url)
        if found is not None and version in ("", found.version):
            if url not in yielded:
                yielded.add(url)
                yield found
        elif chosen.canonical and url.startswith(chosen.canonical + "/"):
            path = written((((place, "meta"), "profile"), at))
            _add(issues, [Issue("warning", "not-found", _UNKNOWN, path)])


def _extensions(value: Any, place: Place, known: Mapping[str, Profile]) -> Iterator[tuple[Profile, Any, Place]]:
    """Every extension in a record whose definition is loaded, wherever it stands."""
    for key, held in value.items():
        if type(held) is dict:
            yield from _extensions(held, (place, key), known)
        elif type(held) is list:
            is_extension = key in ("extension", "modifierExtension")
            for at, each in enumerate(held):
                if type(each) is not dict:
                    continue
                here: Place = ((place, key), at)
                if is_extension:
                    found = known.get(each.get("url", ""))
                    if found is not None:
                        yield found, each, here
                if key != "contained":
                    yield from _extensions(each, here, known)


def _add(issues: list[Issue], more: Iterable[Issue]) -> None:
    """Add findings while there is room; warnings get half of it, so that no error is lost behind them."""
    for issue in more:
        if len(issues) < (MAX_ISSUES if issue.severity == "error" else MAX_ISSUES // 2):
            issues.append(issue)


def _told(run: Run, severity: str, url: str) -> Iterator[Issue]:
    for issue in run.issues:
        mode = severity if issue.severity == "error" else issue.severity
        yield Issue(mode, issue.code, f"{issue.diagnostics} (profile {url})", issue.expression)
