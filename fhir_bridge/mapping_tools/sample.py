"""Put a sample through intake and rules as the service would, store nothing, and see both sides of every record.

What needs the other records of a chart is left out: canonical ids, links and charts are the service's own and no
rule can change them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.value_set_files import packaged_sets
from fhir_bridge.intake import receive
from fhir_bridge.model.ingest import Body, Change, Received, Reception, Refusal, Validated
from fhir_bridge.normalize import Ruleset
from fhir_bridge.normalize.draft import Unconvertible
from fhir_bridge.normalize.message import faults_of, offline

PASSED, QUARANTINED, REFUSED = "passed", "quarantined", "refused"
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a sample and where it stands, such as ``feed.ndjson.gz:12``."""

    place: str
    body: bytes
    content_type: str = "application/fhir+json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one record of a sample.

    Attributes:
        place: Of its message, and ``#`` with the number of its entry.
        verdict: ``passed``, ``quarantined`` or ``refused``.
        sent: As it came; None where it could not be read or is a deletion.
        made: In R4, under the sender's ids; None unless it passed.
        issues: Why it did not pass.
    """

    place: str
    verdict: str
    type: str = ""
    id: str = ""
    sent: Body | None = None
    made: Body | None = None
    changes: tuple[Change, ...] = ()
    flags: tuple[Issue, ...] = ()
    issues: tuple[Issue, ...] = ()

    @property
    def name(self) -> str:
        """``Type/id``, or the place where the record has none."""
        return f"{self.type}/{self.id}" if self.id else self.place


def outcomes(messages: Iterable[Message], ruleset: Ruleset) -> Iterator[Outcome]:
    """Put messages through a ruleset one by one; nothing of one is kept when the next is read."""
    for message in messages:
        yield from outcomes_of(message, taken(message, ruleset), ruleset)


def taken(message: Message, ruleset: Ruleset) -> Reception:
    """What intake makes of a message that comes from a ruleset's institution."""
    received = Received("sample", ruleset.fhir_version, message.body, LONG_AGO, message.content_type)
    return receive(received, profiles=ruleset.profiles, formats=ruleset.formats, zone=ruleset.zone)


def outcomes_of(message: Message, reception: Reception, ruleset: Ruleset) -> Iterator[Outcome]:
    """What a ruleset makes of the entries that intake took; deletions are left out."""
    if not reception.entries:
        yield Outcome(message.place, REFUSED, issues=reception.refused)
    for entry in reception.entries:
        place = message.place if reception.kind == "single" else f"{message.place}#{entry.index}"
        if isinstance(entry, Refusal):
            yield Outcome(place, REFUSED, issues=entry.issues)
        elif entry.resource is not None:
            yield _of_entry(place, entry, entry.resource, ruleset)


def _of_entry(place: str, entry: Validated, sent: Body, ruleset: Ruleset) -> Outcome:
    named = place, str(sent["resourceType"]), str(sent.get("id", ""))
    try:
        draft = offline(sent, ruleset.fhir_version, ruleset, packaged_sets())
    except Unconvertible as verdict:
        return _outcome(named, QUARANTINED, sent, issues=(verdict.issue,))
    faults = faults_of(draft, ruleset.fhir_version, entry.flags, ruleset.profiles)
    changes, flags = tuple(draft.changes), (*entry.flags, *draft.flags)
    if faults:
        return _outcome(named, QUARANTINED, sent, changes=changes, issues=faults)
    return _outcome(named, PASSED, sent, made=draft.body, changes=changes, flags=flags)


def _outcome(
    named: tuple[str, str, str],
    verdict: str,
    sent: Body,
    *,
    made: Body | None = None,
    changes: tuple[Change, ...] = (),
    flags: tuple[Issue, ...] = (),
    issues: tuple[Issue, ...] = (),
) -> Outcome:
    place, type_name, local = named
    return Outcome(place, verdict, type_name, local, sent, made, changes, flags, issues)
