"""A person at three hospitals whose consent opens and closes two of them, and what a third may ask meanwhile.

Every question is asked at rest first, with the consent in force and withdrawn.
An answer in a race must be one of the two, whole: anything else is a mixture.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import httpx

from tests.support.bridge_world import ROOT, Json, World, consent, observation, patient

State = Literal["open", "closed"]
OPEN: Final[State] = "open"
CLOSED: Final[State] = "closed"
READ: Final = "read"
SEARCH: Final = "search"
EVERYTHING: Final = "everything"
_MASKED = re.compile(rb"_cursor=[\w%.~-]+")
_OTHERS: Final = ("harbor", "cedar")
_WITHDRAWALS: Final = ("delete", "inactive", "denial")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked; ``only`` names the part to judge where the rest tells of the ledger's growth."""

    path: str
    body: str | None = None
    name: str = ""
    only: Literal["", "status", "sees"] = ""
    asker: Literal["clinician", "agent"] = "clinician"


@dataclass(slots=True)
class Scene:
    """One person, asked about by northgate; ``known`` maps a question and an answer to the states it is right in."""

    world: World
    number: int
    patient: str
    agent: Mapping[str, str]
    clinician: Mapping[str, str]
    clinic: str
    http: httpx.AsyncClient
    questions: list[Question] = field(default_factory=list)
    known: dict[tuple[Question, bytes], set[str]] = field(default_factory=dict)
    writes: Iterator[int] = field(default_factory=itertools.count)

    async def set(self, state: State) -> None:
        """Grant or withdraw, each time in another of the ways there are; in force when this returns."""
        number = next(self.writes)
        where = f"/fhir/Consent/mine-{self.number}"
        way = _WITHDRAWALS[number // 2 % len(_WITHDRAWALS)]
        if state == CLOSED and way == "delete":
            answer = await self.http.delete(where, headers=self.agent)
            assert answer.status_code == 204, answer.text
            return
        # The time differs, for a Consent that says what is stored already changes nothing.
        more: Json = {"id": f"mine-{self.number}", "dateTime": f"2026-01-01T00:00:00.{number % 1_000_000:06d}Z"}
        if state == CLOSED and way == "inactive":
            more["status"] = "inactive"
        is_denial = state == CLOSED and way == "denial"
        named = {"deny" if is_denial else "permit": self.clinic}
        body = consent(f"Patient/{self.patient}", **named) | more
        if is_denial:
            body["policyRule"]["coding"][0]["code"] = "OPTOUT"
        answer = await self.http.put(where, headers=self.agent, json=body)
        assert answer.status_code in (200, 201), answer.text

    async def ask(self, question: Question) -> frozenset[str]:
        """Ask, and return the states in which this is the answer; empty if in none."""
        return frozenset(self.known.get((question, await self.answer(question)), ()))

    async def answer(self, question: Question) -> bytes:
        """Return what tells one answer from another."""
        headers = dict(self.clinician if question.asker == "clinician" else self.agent)
        if question.body is None:
            told = await self.http.get(f"/fhir/{question.path}", headers=headers)
        else:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            told = await self.http.post(f"/fhir/{question.path}", headers=headers, content=question.body)
        assert told.status_code in (200, 404), told.text
        return hashlib.sha256(b"%d %b" % (told.status_code, _judged(question, told.content))).digest()

    def some(self, *names: str) -> list[Question]:
        """Return the questions of these names."""
        return [next(question for question in self.questions if question.name == name) for name in names]

    async def learn(self) -> None:
        """Ask everything in both states at rest; the answers must differ, or the question would judge nothing."""
        await self.set(OPEN)
        self.questions = await self._questions()
        for state in (OPEN, CLOSED):
            await self.set(state)
            for question in self.questions:
                self.known.setdefault((question, await self.answer(question)), set()).add(state)
        for question in self.questions:
            told = [states for (asked, _), states in self.known.items() if asked == question]
            assert sorted(told, key=sorted) == [{CLOSED}, {OPEN}], f"{question.path}: {told}"

    async def _questions(self) -> list[Question]:
        """Return every kind of answer that withdrawn records were in, next pages of open cursors included."""
        everything = f"Patient/{self.patient}/$everything"
        found = (await self._json(f"{everything}?_count=100"))["entry"]
        theirs = [each["resource"] for each in found if _is_of(each["resource"], _OTHERS)]
        one = next(each for each in theirs if each["resourceType"] == "Observation")
        where, version = f"Observation/{one['id']}", one["meta"]["versionId"]
        search = f"patient={self.patient}"
        pages = [
            await self._second_page(f"{everything}?_count=2"),
            await self._second_page(f"Observation?{search}&_count=2&_sort=date"),
            await self._second_page(f"_history?{search}&_count=2"),
        ]
        return [
            Question(where, name=READ),
            Question(f"{where}/_history/{version}"),
            Question(f"{where}/_history"),
            Question(f"{where}/$receipt", only="status"),
            Question(f"Provenance?target={where}"),
            Question(f"Provenance/{one['id']}-{version}"),
            Question(f"Observation?{search}", name=SEARCH),
            Question(f"Observation?{search}&_summary=count"),
            Question(f"Observation?_id={one['id']}"),
            Question("Observation/_search", f"{search}&code=http://loinc.org|8867-4&_total=accurate"),
            Question(f"Encounter?{search}&_revinclude=Observation:encounter"),
            Question(f"Observation?{search}&encounter.status=finished&_include=Observation:encounter"),
            Question(everything, name=EVERYTHING),
            Question(f"{everything}?_type=Observation&_count=100"),
            Question(f"Observation/_history?{search}"),
            *(Question(each) for each in pages),
            # The patient's own agent asks what a clinician of northgate would see: the same decisions, told.
            Question(f"Patient/{self.patient}/$simulate?institution=northgate", only="sees", asker="agent"),
        ]

    async def _json(self, path: str) -> Json:
        answer = await self.http.get(f"/fhir/{path}", headers=self.clinician)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    async def _second_page(self, path: str) -> str:
        links = (await self._json(path))["link"]
        (following,) = [link["url"] for link in links if link["relation"] == "next"]
        return str(following).partition("/fhir/")[2]


def _judged(question: Question, body: bytes) -> bytes:
    if question.only == "status":
        return b""
    if question.only == "sees":
        (told,) = [each for each in json.loads(body)["parameter"] if each["name"] == "requester"]
        return json.dumps([part for part in told["part"] if part["name"] == "sees"]).encode()
    return _MASKED.sub(b"_cursor=", body)


async def staged(world: World, number: int, http: httpx.AsyncClient | None = None) -> Scene:
    """Return person ``number`` with records at three hospitals, a learnt scene; ``http`` asks and signs."""
    await _admit(world, "cedar")
    charts = {name: f"{name[0]}{number}" for name in ("northgate", *_OTHERS)}
    for name, local in charts.items():
        await world.send(patient(local), name)
        await world.send(_visit(local), name)
        for at in range(2):
            made = observation(f"{local}-o{at}", local, effectiveDateTime=f"2026-03-0{at + 1}T10:00:00Z")
            made["encounter"] = {"reference": f"Encounter/{local}-v"}
            await world.send(made, name)
    await world.link(f"person-{number}", *charts.items())
    agent = await world.enrol(charts["northgate"])
    clinic = f"Organization/{await world.organization('northgate')}"
    scene = Scene(
        world,
        number,
        await world.patient_id(charts["northgate"]),
        agent,
        await world.token(practitioner="dr-a"),
        clinic,
        http or world.http,
    )
    await scene.learn()
    return scene


async def _admit(world: World, name: str) -> None:
    known = (await world.control.get("/institutions")).json()
    if any(each["name"] == name for each in known):
        return
    given = {"name": name, "fhir_version": "R4", "ruleset_dir": str(ROOT / "mappings" / "northgate")}
    answer = await world.control.post("/institutions", json=given)
    assert answer.status_code == 200, answer.text


def _visit(local: str) -> Json:
    return {
        "resourceType": "Encounter",
        "id": f"{local}-v",
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
        "subject": {"reference": f"Patient/{local}"},
    }


def _is_of(resource: Json, institutions: tuple[str, ...]) -> bool:
    return any(tag["code"] in institutions for tag in resource["meta"]["tag"])


__all__ = ["CLOSED", "EVERYTHING", "OPEN", "READ", "SEARCH", "Question", "Scene", "State", "staged"]
