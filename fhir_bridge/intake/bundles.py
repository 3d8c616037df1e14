"""Judge a Bundle: its own structure, each entry, and what entries say about each other.

Rules of FHIR R4 http.html#transaction and bundle.html. A Bundle's entries are validated one by one with their place
in the Bundle, so that a sender finds the fault in a message of thousands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.bundles import BundleParts, EntryParts
from fhir_bridge.fhir.reference_text import ReferenceKind, parse_reference
from fhir_bridge.fhir.run import MAX_ISSUES
from fhir_bridge.fhir.validate import is_refused
from fhir_bridge.intake.limits import Limits
from fhir_bridge.intake.releases import Validator, validator_of
from fhir_bridge.intake.requests import read_request
from fhir_bridge.model.ingest import Body, FhirVersion, Interaction, Reception, Refusal, Validated

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
        self._issues: list[list[Issue]] = []
        self._whole: list[Issue] = []
        self._found = 0
        self._broken: dict[Issue, None] = {}
        self._urls: set[str] = set()
        self._targets: set[tuple[str, str]] = set()

    def reception(self) -> Reception:
        """Judge everything, then decide what is taken."""
        entries: list[Validated | Refusal] = []
        for value, some in self._parts.blocks():
            self._judge_shell(value, some)
            entries += [self._entry(entry) for entry in some]
        for issue in self._broken if not self._found else ():
            self._note(issue)
        errors = [i for i in self._whole if i.severity == "error"]
        if errors or (self._kind == "transaction" and any(isinstance(e, Refusal) for e in entries)):
            return Reception(self._kind, refused=self._refusal(), bundle_id=self._parts.id)
        whole = None if self._parts.are_decoded else partial(_whole, self._parts.entries)
        return Reception(self._kind, tuple(entries), bundle_id=self._parts.id, whole=whole)

    def _refusal(self) -> tuple[Issue, ...]:
        """Every finding, errors first and no more than a sender can read."""
        every = [*self._whole, *(i for issues in self._issues for i in issues)]
        every.sort(key=lambda issue: issue.severity != "error")
        return tuple(every[:MAX_REPORTED])

    def _judge_shell(self, value: Body, some: Sequence[EntryParts]) -> None:
        """The Bundle with some of its entries, without the resources in them."""
        start = len(self._issues)
        self._issues += [[] for _ in some]
        for issue in self._validate(value, entries=False):
            if self._parts.are_decoded or self._is_news(issue, start):
                self._note(issue, start)

    def _is_news(self, issue: Issue, start: int) -> bool:
        """Tell whether a finding would be told of a Bundle that was judged at once, rather than in parts."""
        if issue.code == "invariant" and issue.expression == "Bundle":
            # Told in the end, for it is not judged where anything else is wrong.
            self._broken[issue] = None
            return False
        if start and not _ENTRY.match(issue.expression) and issue in self._whole:
            return False
        if self._found >= (MAX_ISSUES if issue.severity == "error" else MAX_ISSUES // 2):
            return False
        self._found += 1
        return True

    def _note(self, issue: Issue, start: int = 0) -> None:
        match = _ENTRY.match(issue.expression)
        if issue.diagnostics.startswith(_JUDGED_HERE):
            return
        if match is None:
            self._whole.append(issue)
            return
        index = start + int(match[1])
        place = f"Bundle.entry[{index}]{issue.expression[match.end() :]}"
        self._issues[index].append(replace(issue, expression=place) if start else issue)

    def _judge_entry(self, entry: EntryParts) -> Interaction | None:
        issues, place = self._issues[entry.index], f"Bundle.entry[{entry.index}]"
        if is_refused(issues) and type(entry.value) is not dict:
            return None
        interaction = read_request(entry, self._kind, place, issues)
        deletes = interaction is not None and interaction.method == "DELETE"
        if entry.resource is not None and not deletes:
            where = f"{place}.resource"
            issues += self._validate(entry.resource, place=where, types_by_url=self._parts.types_by_url)
            _judge_identity(entry, place, issues)
        return interaction

    def _judge_together(self, entry: EntryParts, interaction: Interaction | None) -> None:
        """No two entries of one fullUrl (bdl-7) or about one resource (http.html#trules)."""
        issues, place = self._issues[entry.index], f"Bundle.entry[{entry.index}]"
        if entry.full_url is not None:
            if entry.full_url in self._urls:
                text = "bdl-7: another entry has the same fullUrl"
                issues.append(Issue("error", "invariant", text, f"{place}.fullUrl"))
            self._urls.add(entry.full_url)
        if interaction is not None and interaction.id is not None:
            target = (interaction.type, interaction.id)
            if target in self._targets:
                text = "another entry is about the same resource"
                issues.append(Issue("error", "duplicate", text, place))
            self._targets.add(target)

    def _entry(self, entry: EntryParts) -> Validated | Refusal:
        interaction = self._judge_entry(entry)
        self._judge_together(entry, interaction)
        issues = tuple(self._issues[entry.index])
        if interaction is None or is_refused(list(issues)):
            return Refusal(entry.index, issues)
        if not self._parts.are_decoded:
            return Validated(entry.index, interaction, entry.full_url, b"", None, issues)
        resource = None if interaction.method == "DELETE" else entry.resource
        return Validated(entry.index, interaction, entry.full_url, entry.raw, resource, issues)


def _whole(entries: Sequence[EntryParts], judged: Validated) -> Validated:
    entry = entries[judged.index]
    resource = None if judged.interaction.method == "DELETE" else entry.resource
    return replace(judged, original=entry.raw, resource=resource)


def _judge_identity(entry: EntryParts, place: str, issues: list[Issue]) -> None:
    """An absolute fullUrl must agree with the type and id of its resource (bundle.html#Bundle.entry.fullUrl)."""
    resource: Any = entry.resource
    if type(resource) is not dict:
        return
    if resource.get("resourceType") == "Bundle":
        issues.append(Issue("error", "not-supported", "a Bundle in a Bundle is not taken", f"{place}.resource"))
    url = entry.full_url or ""
    name, local_id = resource.get("resourceType"), resource.get("id")
    # Ending like this, an address that names a type and id at all names these.
    is_plain = type(name) is str and type(local_id) is str and name.isalpha() and "/" not in local_id
    if is_plain and url.endswith(f"/{name}/{local_id}"):
        return
    parsed = parse_reference(url)
    if parsed.kind is not ReferenceKind.ABSOLUTE:
        return
    if (parsed.type, parsed.id) != (name, resource.get("id", parsed.id)):
        text = "fullUrl names another type or id than the resource"
        issues.append(Issue("error", "invalid", text, f"{place}.fullUrl"))
