"""What a generator of questions knows about a pair of worlds, and the questions it may make of it.

A case is one question, or one that is followed page by page to the end. Both
worlds are asked the same; neither knows which world it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from urllib.parse import quote

from tests.support.worlds import ASKING, Name, Script, Version
from tests.support.worlds_records import CODES
from tests.support.worlds_service import Names

FORM = ("Content-Type", "application/x-www-form-urlencoded")
JSON = ("Content-Type", "application/fhir+json")
ABSENT = "b7xk2ohq3v5dcm4nzr6tfy2wqaeuji3l"
"""Of the form of a canonical id, made by no institution's key."""


@dataclass(frozen=True, slots=True)
class Question:
    """One HTTP request below ``/fhir``.

    Attributes:
        token: ``""`` for the requester's own; else what stands in the Authorization header.
    """

    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    token: str | None = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison.

    Attributes:
        channel: Number in consent-and-search's table of channels.
        follows: Go on by ``next`` links to the end.
        others_first: Other requesters ask the same question before, answers thrown away.
        twice: The question is asked once before, the answer thrown away.
        begun: Its first pages are asked before the world's last change, and the rest by their cursor after it.
        again: Each page is asked once more by the same link.
        proves: The receipts of the decisions behind both answers are compared too.
        begs: Others ask the question, and the requester then asks for receipts and openings of what they were told,
            and for the list of decisions about the person.
    """

    channel: int
    question: Question
    follows: bool = False
    others_first: bool = False
    twice: bool = False
    begun: bool = False
    again: bool = False
    proves: bool = False
    begs: bool = False


@dataclass(slots=True)
class Scene:
    """Names, versions and values of both worlds, visible and hidden.

    Attributes:
        hidden: Versions that the requester may not see, with their version ids in the world that holds them.
        shown: Versions that the requester may see.
    """

    script: Script
    names: Names
    random: Random
    hidden: list[tuple[Version, str]]
    shown: list[tuple[Version, str]]
    organizations: dict[str, str] = field(default_factory=dict)

    # --- picking

    def probe(self) -> tuple[Version, str]:
        """Return a hidden version if there is one, three times out of four; else a shown one.

        A hidden past of a record that is shown is rare, and is taken more often than its share.
        """
        if self.random.random() < 0.15:
            shown = {version.name for version, _ in self.shown}
            past = [each for each in self.hidden if each[0].name in shown]
            if past:
                return self.random.choice(past)
        if self.hidden and (not self.shown or self.random.random() < 0.75):
            return self.random.choice(self.hidden)
        return self.random.choice(self.shown)

    def seen(self) -> tuple[Version, str]:
        """Return a shown version, or a hidden one if nothing is shown."""
        return self.random.choice(self.shown or self.hidden)

    def id_of(self, version: Version) -> str:
        """Return the canonical id of a version's record."""
        return self.names.canonical.get(version.name, ABSENT)

    def place(self, version: Version) -> str:
        """Return ``Type/id`` of a version's record."""
        return f"{version.type}/{self.id_of(version)}"

    def patient(self) -> str:
        """Return the canonical id of some Patient, more often the one who has charts everywhere."""
        person = self.random.choice([*["P"] * 3, *self.script.homes])
        return self.patient_of(person, self.random.choice(self.script.homes[person])[0])

    def patient_of(self, person: str, institution: str) -> str:
        """Return the canonical Patient id of a person at an institution."""
        local = dict(self.script.homes[person])[institution]
        return self.names.canonical[institution, "Patient", local]

    def own_patient(self) -> str:
        """Return the canonical id by which the requester knows the person best."""
        own = ASKING if self.script.who.person is None else self.script.homes["P"][0][0]
        own = self.script.who.guardian or own
        return self.patient_of("P", own)

    def people(self) -> str:
        """Return a Patient id: the well-known one, any, or an absent one."""
        pick = self.random.random()
        return self.own_patient() if pick < 0.6 else self.patient() if pick < 0.95 else ABSENT

    def any_id(self) -> str:
        """Return ``Type/id`` of a probe, or of nothing."""
        if self.random.random() < 0.1:
            return f"{self.random.choice(['Observation', 'Condition', 'Encounter'])}/{ABSENT}"
        return self.place(self.probe()[0])

    def code(self) -> str:
        """Return a code."""
        return self.random.choice(CODES)

    def pick(self, *choices: str) -> str:
        """Return one of the texts."""
        return self.random.choice(choices)

    def others_of(self, version: Version) -> Sequence[Name]:
        """Return what a version refers to."""
        return version.refers


def get(path: str, *headers: tuple[str, str]) -> Question:
    """Return a GET."""
    return Question("GET", path, headers=headers)


def search(type_name: str, *params: tuple[str, str]) -> Question:
    """Return a search by GET."""
    return get(f"{type_name}?{query(params)}" if params else type_name)


def posted(question: Question) -> Question:
    """Return the same search by POST."""
    path, _, criteria = question.path.partition("?")
    return replace(question, method="POST", path=f"{path}/_search", body=criteria.encode(), headers=(FORM,))


def put(path: str, body: object, *headers: tuple[str, str]) -> Question:
    """Return an update."""
    return Question("PUT", path, json.dumps(body).encode(), (JSON, *headers))


def post(path: str, body: object, *headers: tuple[str, str]) -> Question:
    """Return a create, or a bundle when the path is empty."""
    return Question("POST", path, json.dumps(body).encode(), (JSON, *headers))


def query(params: Sequence[tuple[str, str]]) -> str:
    """Return a query string."""
    return "&".join(f"{quote(name, safe=':_')}={quote(value, safe=':/|,-')}" for name, value in params)
