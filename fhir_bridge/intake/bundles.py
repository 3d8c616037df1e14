"""Judge a Bundle: its own structure, each entry, and what entries say about each other.

Rules of FHIR R4 http.html#transaction and bundle.html. A Bundle's entries are validated one by one with their place
in the Bundle, so that a sender finds the fault in a message of thousands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.bundles import BundleParts, EntryParts
from fhir_bridge.fhir.reference_text import ReferenceKind, parse_reference
from fhir_bridge.fhir.validate import is_refused
from fhir_bridge.intake.limits import Limits
from fhir_bridge.intake.releases import Validator, validator_of
from fhir_bridge.intake.requests import read_request
from fhir_bridge.model.ingest import FhirVersion, Interaction, Reception, Refusal, Validated

if TYPE_CHECKING:
    from fhir_bridge.fhir.profiles import Profiles

TAKEN = frozenset({"transaction", "batch", "collection"})
MAX_REPORTED = 500
# Judged here entry by entry, so that one entry of a batch does not refuse the others.
_JUDGED_HERE = ("bdl-3:", "bdl-7:")
_ENTRY = re.compile(r"Bundle\.entry\[(\d+)\]")


def receive_bundle(
    parts: BundleParts,
    version: FhirVersion,
    limits: Limits,
    profiles: Profiles | None = None,
    zone: ZoneInfo | None = None,
) -> Reception:
    """Judge a decoded and cut Bundle."""
    kind = parts.type or ""
    refused = _refuse_kind(parts, limits)
    if refused:
        return Reception(kind if kind in TAKEN else "single", refused=refused)
    return _Judge(parts, validator_of(version, profiles, zone)).reception()


def _refuse_kind(parts: BundleParts, limits: Limits) -> tuple[Issue, ...]:
    if "type" not in parts.value:
        return (Issue("error", "required", "a required element is missing", "Bundle.type"),)
    if parts.type not in TAKEN:
        text = f"of Bundles only {', '.join(sorted(TAKEN))} are taken here"
        return (Issue("error", "not-supported", text, "Bundle.type"),)
    if len(parts.entries) > limits.max_entries:
        text = f"a Bundle may hold at most {limits.max_entries} entries; send several"
        return (Issue("error", "too-costly", text, "Bundle.entry"),)
    return ()


class _Judge:
    """One Bundle under judgement."""

    def __init__(self, parts: BundleParts, validate: Validator) -> None:
        self._validate = validate
        self._parts = parts
        self._kind = parts.type or ""
        self._types_by_url = _types_by_url(parts.entries)
        self._issues: list[list[Issue]] = [[] for _ in parts.entries]
        self._whole: list[Issue] = []

    def reception(self) -> Reception:
        """Judge everything, then decide what is taken."""
        self._judge_shell()
        found = [self._judge_entry(entry) for entry in self._parts.entries]
        self._judge_together(found)
        entries = tuple(self._entry(e, i) for e, i in zip(self._parts.entries, found, strict=True))
        errors = [i for i in self._whole if i.severity == "error"]
        if errors or (self._kind == "transaction" and any(isinstance(e, Refusal) for e in entries)):
            return Reception(self._kind, refused=self._refusal(), bundle_id=self._parts.id)
        return Reception(self._kind, entries, bundle_id=self._parts.id)

    def _refusal(self) -> tuple[Issue, ...]:
        """Every finding, errors first and no more than a sender can read."""
        every = [*self._whole, *(i for issues in self._issues for i in issues)]
        every.sort(key=lambda issue: issue.severity != "error")
        return tuple(every[:MAX_REPORTED])

    def _judge_shell(self) -> None:
        """The Bundle without the resources in it."""
        for issue in self._validate(self._parts.value, entries=False):
            match = _ENTRY.match(issue.expression)
            if issue.diagnostics.startswith(_JUDGED_HERE):
                continue
            if match and int(match[1]) < len(self._issues):
                self._issues[int(match[1])].append(issue)
            else:
                self._whole.append(issue)

    def _judge_entry(self, entry: EntryParts) -> Interaction | None:
        issues, place = self._issues[entry.index], f"Bundle.entry[{entry.index}]"
        if is_refused(issues) and type(entry.value) is not dict:
            return None
        interaction = read_request(entry, self._kind, place, issues)
        deletes = interaction is not None and interaction.method == "DELETE"
        if entry.resource is not None and not deletes:
            where = f"{place}.resource"
            issues += self._validate(entry.resource, place=where, types_by_url=self._types_by_url)
            _judge_identity(entry, place, issues)
        return interaction

    def _judge_together(self, found: list[Interaction | None]) -> None:
        """No two entries of one fullUrl (bdl-7) or about one resource (http.html#trules)."""
        urls: set[str] = set()
        targets: set[tuple[str, str]] = set()
        for entry, interaction in zip(self._parts.entries, found, strict=True):
            place = f"Bundle.entry[{entry.index}]"
            if entry.full_url is not None:
                if entry.full_url in urls:
                    text = "bdl-7: another entry has the same fullUrl"
                    self._add(entry, Issue("error", "invariant", text, f"{place}.fullUrl"))
                urls.add(entry.full_url)
            if interaction is not None and interaction.id is not None:
                target = (interaction.type, interaction.id)
                if target in targets:
                    text = "another entry is about the same resource"
                    self._add(entry, Issue("error", "duplicate", text, place))
                targets.add(target)

    def _entry(self, entry: EntryParts, interaction: Interaction | None) -> Validated | Refusal:
        issues = tuple(self._issues[entry.index])
        if interaction is None or is_refused(list(issues)):
            return Refusal(entry.index, issues)
        resource = None if interaction.method == "DELETE" else entry.resource
        return Validated(entry.index, interaction, entry.full_url, entry.raw, resource, issues)

    def _add(self, entry: EntryParts, issue: Issue) -> None:
        self._issues[entry.index].append(issue)


def _types_by_url(entries: Iterable[EntryParts]) -> dict[str, str]:
    types: dict[str, str] = {}
    for entry in entries:
        name = entry.resource.get("resourceType") if type(entry.resource) is dict else None
        if entry.full_url is not None and type(name) is str:
            types[entry.full_url] = name
    return types


def _judge_identity(entry: EntryParts, place: str, issues: list[Issue]) -> None:
    """An absolute fullUrl must agree with the type and id of its resource (bundle.html#Bundle.entry.fullUrl)."""
    resource: Any = entry.resource
    if type(resource) is not dict:
        return
    if resource.get("resourceType") == "Bundle":
        issues.append(Issue("error", "not-supported", "a Bundle in a Bundle is not taken", f"{place}.resource"))
    parsed = parse_reference(entry.full_url or "")
    if parsed.kind is not ReferenceKind.ABSOLUTE:
        return
    if (parsed.type, parsed.id) != (resource.get("resourceType"), resource.get("id", parsed.id)):
        text = "fullUrl names another type or id than the resource"
        issues.append(Issue("error", "invalid", text, f"{place}.fullUrl"))
