"""What a made-up world holds, in values: charts, record versions, consents, and who asks.

For the two-world harness (docs/leak-hunt.md). A world is a script of steps, so
that it can be played into a service as a whole, or without what somebody may
not see. Everything follows from a seed; nothing here speaks to a service.

Invariants:
    * references name ``(institution, type, local id)``; canonical ids come in only when a step is played;
    * no two versions of one record have the same content.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

Json = dict[str, Any]
INSTITUTIONS = ("northgate", "harbor", "eastlake")
ASKING = "northgate"
"""The institution whose requesters are judged, besides patients."""

BEGIN = datetime(2026, 3, 1, 8, tzinfo=UTC)
STEP = timedelta(minutes=11)
ASKED_AT = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
"""When the questions are asked; every step is played before."""

Name = tuple[str, str, str]
"""A record: institution, type, the institution's own id."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a record as its institution sends it, with what its author meant by it.

    Attributes:
        person: Whose chart it is.
        body: FHIR JSON with the institution's own ids; None for a deletion.
        labels: ``system|code`` of ``meta.security``.
        codes: ``system|code`` of everything that says what the record is.
        days: First and last day of the clinical time; None if undated.
        refers: Records of the same institution that it refers to.
        authors: Those of them that are answerable for it.
        extra: Texts that occur in this version and nowhere else, for probes.
    """

    institution: str
    person: str
    type: str
    id: str
    body: Json | None
    labels: tuple[str, ...] = ()
    codes: frozenset[str] = frozenset()
    days: tuple[date, date] | None = None
    refers: tuple[Name, ...] = ()
    authors: tuple[Name, ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def name(self) -> Name:
        """The record it is a version of."""
        return self.institution, self.type, self.id


@dataclass(frozen=True, slots=True)
class Send:
    """An institution sends a transaction."""

    institution: str
    versions: tuple[Version, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """A cross-reference feed says whose charts these are: ``(institution, local patient id)``."""

    person: str
    charts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Enrol:
    """A patient gets an agent, at one chart."""

    person: str
    institution: str


@dataclass(frozen=True, slots=True)
class Sign:
    """A patient's agent signs a Consent; ``body`` None withdraws it by deletion.

    ``body`` names records as ``{"record": [institution, type, id]}`` where a literal reference will stand,
    and institutions as ``{"institution": name}``.
    """

    person: str
    id: str
    body: Json | None


@dataclass(frozen=True, slots=True)
class Who:
    """Who asks, as a token states it; ``person`` is set for a patient's agent.

    Attributes:
        types: For a patient's delegate, the resource types that the patient allowed; None for the agent itself.
        guardian: For a guardian of the person, the institution that attested it.
    """

    institution: str | None
    practitioner: str | None = None
    purpose: str = "TREAT"
    role: str | None = None
    person: str | None = None
    types: tuple[str, ...] | None = None
    guardian: str | None = None

    @property
    def statement(self) -> dict[str, str]:
        """Form fields of the token request."""
        stated = {"practitioner": self.practitioner, "role": self.role}
        return {"purpose": self.purpose} | {name: value for name, value in stated.items() if value}


@dataclass(frozen=True, slots=True)
class Open:
    """A clinician opens emergency access to a person, by the Patient id that one institution's chart has.

    Attributes:
        earlier_min: How long before the questions are asked, in minutes; the last of the steps.
        minutes: For how long.
    """

    who: Who
    person: str
    institution: str
    earlier_min: int
    minutes: int


@dataclass(frozen=True, slots=True)
class Delegate:
    """A patient's agent names a delegate who may read these types."""

    person: str
    types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Paper:
    """An institution enters a Consent that a patient signed on paper; ``body`` None ends it by deletion."""

    institution: str
    person: str
    id: str
    body: Json | None


@dataclass(frozen=True, slots=True)
class Guardian:
    """An institution attests a guardian of a person up to and with a day, at most one for each chart."""

    institution: str
    person: str
    until: str


@dataclass(frozen=True, slots=True)
class GuardianSign:
    """The guardian that an institution attested signs a Consent; ``body`` None withdraws it."""

    institution: str
    person: str
    id: str
    body: Json | None


@dataclass(frozen=True, slots=True)
class EndGuardian:
    """The institution ends the guardian's time."""

    institution: str
    person: str


@dataclass(frozen=True, slots=True)
class Warm:
    """The requester asks now, before what follows; the answers are thrown away."""


Attested = Paper | Guardian | GuardianSign | EndGuardian
"""What rests on an institution's word."""

Step = Send | Link | Enrol | Sign | Open | Delegate | Attested | Warm


@dataclass(frozen=True, slots=True)
class Script:
    """A world, step by step; step ``n`` happens at ``BEGIN + n * STEP``.

    Attributes:
        homes: Person → charts ``(institution, local patient id)``.
        policies: What the network decides by beside consents, as docs/consent.md has its file; None without one.
            Records and institutions are named as in :class:`Sign`, one person by a chart:
            ``{"patient": [institution, person]}``.
        flavours: Channels of consent-and-search that this world is made for (docs/leak-hunt.md).
    """

    seed: int
    who: Who
    steps: tuple[Step, ...]
    homes: dict[str, tuple[tuple[str, str], ...]]
    flavours: frozenset[int] = field(default_factory=frozenset)
    policies: Json | None = None

    @property
    def are_own_closed(self) -> bool:
        """Whether a consent may close to an institution what it wrote itself."""
        return self.policies is not None and bool(self.policies.get("own_records", "open") != "open")

    def versions(self) -> Iterator[tuple[int, Version]]:
        """Yield ``(step, version)`` of every record version, in order."""
        for number, step in enumerate(self.steps):
            if isinstance(step, Send):
                for version in step.versions:
                    yield number, version


def instant_of(step: int) -> datetime:
    """Return when a step is played."""
    return BEGIN + step * STEP
