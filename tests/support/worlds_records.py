"""Make up charts: records of many types that refer to each other, with versions, deletions and labels.

For the two-world harness. Every code is harmless (no sensitivity table knows
it), so a record's labels are those that are written here and no other.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random

from tests.support.worlds import ASKING, Json, Name, Version

LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"
THO = "http://terminology.hl7.org/CodeSystem/"
CONFIDENTIALITY = f"{THO}v3-Confidentiality"
ACT_CODE = f"{THO}v3-ActCode"
SECTION = f"{THO}v2-0074"
LEVELS = ("U", "N", "R", "V")
TOPICS = ("PSY", "SDV", "HIV")
CODES = ("8867-4", "8310-5", "29463-7", "2339-0")
DOCTORS = ("dr-a", "dr-b")
FIRST_DAY = date(2024, 1, 1)

Content = tuple[Json, set[str], tuple[date, date] | None, list[Name], list[Name]]


@dataclass(frozen=True, slots=True)
class Chart:
    """One patient at one institution."""

    institution: str
    person: str
    patient: str

    def name(self, type_name: str, local: str) -> Name:
        """Name a record of this chart's institution."""
        return self.institution, type_name, local


class Maker:
    """Makes the records of one chart."""

    def __init__(self, chart: Chart, random: Random) -> None:
        self.chart = chart
        self._random = random
        self._count = 0
        self.made: list[Version] = []

    def patient(self) -> Version:
        """Return the Patient, with a record number, a name and a birth date of its own."""
        number = self._mark()
        doctor, name = self.doctor()
        body: Json = {
            "resourceType": "Patient",
            "id": self.chart.patient,
            "identifier": [{"system": f"https://{self.chart.institution}.example.org/mrn", "value": number}],
            "name": [{"family": f"Fam{number}", "given": [f"Giv{number}"]}],
            "gender": self._random.choice(["male", "female"]),
            "birthDate": str(FIRST_DAY - timedelta(days=self._random.randrange(30_000))),
            "generalPractitioner": [doctor],
        }
        version = self._labelled(body, set(), None, [name], [], 0.1, (number,))
        self.made.append(version)
        return version

    def record(self, type_name: str | None = None, local: str | None = None) -> Version:
        """Return a new record, or a new version of one; it may refer to what was made before."""
        name = type_name or self._random.choice(sorted(_MAKERS))
        local = local or f"{name[:3].lower()}-{self._mark()}"
        mark = self._mark()
        body, codes, days, refers, authors = _MAKERS[name](self, mark)
        subject = "patient" if name in _BY_PATIENT else "subject"
        common: Json = {
            "resourceType": name,
            "id": local,
            "identifier": [{"system": "urn:test:n", "value": mark}],
            subject: {"reference": f"Patient/{self.chart.patient}", "display": f"Disp{mark}"},
        }
        if name == "Composition":
            common["identifier"] = common["identifier"][0]
        elif self._random.random() < 0.25:
            common["note" if name in _NOTED else "language"] = [{"text": f"Note{mark}"}] if name in _NOTED else "en"
        if self._random.random() < 0.2:
            common["text"] = {
                "status": "generated",
                "div": f'<div xmlns="http://www.w3.org/1999/xhtml">Text{mark}</div>',
            }
        refers = [self._name("Patient", self.chart.patient), *refers, *authors]
        version = self._labelled(common | body, codes, days, refers, authors, 0.55, (mark,))
        self.made.append(version)
        return version

    def deleted(self, version: Version) -> Version:
        """Return the deletion of a record."""
        return Version(version.institution, version.person, version.type, version.id, None)

    def _labelled(
        self,
        body: Json,
        codes: set[str],
        days: tuple[date, date] | None,
        refers: list[Name],
        authors: list[Name],
        chance: float,
        extra: tuple[str, ...],
    ) -> Version:
        picked: list[tuple[str, str]] = []
        if self._random.random() < chance:
            picked = [(CONFIDENTIALITY, self._random.choice(LEVELS))] if self._random.random() < 0.7 else []
            if self._random.random() < 0.5:
                picked.append((ACT_CODE, self._random.choice(TOPICS)))
        if self._random.random() < 0.15:
            # What a sender says of the owner of what it sends counts for nothing.
            claimed = "urn:fhir-bridge:institution"
            body["meta"] = {"tag": [{"system": claimed, "code": ASKING}], "source": f"{claimed}:{ASKING}"}
        if picked:
            body["meta"] = body.get("meta", {}) | {
                "security": [{"system": system, "code": code} for system, code in picked]
            }
        return Version(
            self.chart.institution,
            self.chart.person,
            body["resourceType"],
            body["id"],
            body,
            tuple(f"{system}|{code}" for system, code in picked),
            frozenset(codes),
            days,
            tuple(dict.fromkeys(refers)),
            tuple(authors),
            extra,
        )

    # --- parts

    def _mark(self) -> str:
        """A text that occurs once in the world."""
        self._count += 1
        return f"{self.chart.institution[0]}{self.chart.person.lower()}{self._count:03d}"

    def _name(self, type_name: str, local: str) -> Name:
        return self.chart.name(type_name, local)

    def day(self) -> date:
        """A day of the last two years."""
        return FIRST_DAY + timedelta(days=self._random.randrange(700))

    def code(self) -> tuple[Json, set[str]]:
        """A concept with one or two codings."""
        picked = self._random.sample(CODES, self._random.choice([1, 1, 2]))
        codings = [{"system": LOINC, "code": code, "display": f"d{code}"} for code in picked]
        return {"coding": codings}, {f"{LOINC}|{code}" for code in picked}

    def doctor(self) -> tuple[Json, Name]:
        """A practitioner of the institution."""
        picked = self._random.choice(DOCTORS)
        return {"reference": f"Practitioner/{picked}", "display": f"Dr {picked}"}, self._name("Practitioner", picked)

    def other(self, *types: str) -> list[tuple[Json, Name]]:
        """One earlier record of these types, or none."""
        known = sorted({each.name for each in self.made if each.type in types})
        if not known or self._random.random() < 0.35:
            return []
        name = self._random.choice(known)
        return [({"reference": f"{name[1]}/{name[2]}", "display": f"about {name[2]}"}, name)]

    def chance(self, of: float) -> bool:
        """True with this probability."""
        return self._random.random() < of

    def number(self) -> int:
        """A measured value."""
        return self._random.randrange(40, 180)


_BY_PATIENT = frozenset({"AllergyIntolerance", "Immunization"})
_NOTED = frozenset({"Observation", "Condition", "Procedure", "MedicationRequest", "CarePlan", "ServiceRequest"})


def _single(day: date) -> tuple[date, date]:
    return day, day


def _with(body: Json, element: str, found: list[tuple[Json, Name]], *, is_list: bool = False) -> list[Name]:
    for reference, _ in found:
        body[element] = [reference] if is_list else reference
    return [name for _, name in found]


def _observation(m: Maker, mark: str) -> Content:
    code, codes = m.code()
    day = m.day()
    doctor, author = m.doctor()
    body: Json = {
        "status": "final",
        "code": code,
        "effectiveDateTime": str(day),
        "performer": [doctor],
        "valueQuantity": {"value": m.number(), "unit": "x", "system": "http://unitsofmeasure.org", "code": "1"},
    }
    if m.chance(0.2):
        body["component"] = [{"code": {"text": f"part {mark}"}, "valueQuantity": {"value": m.number()}}]
    refers = _with(body, "encounter", m.other("Encounter"))
    refers += _with(body, "hasMember", m.other("Observation"), is_list=True)
    if m.chance(0.15):
        del body["effectiveDateTime"]
        return body, codes, None, refers, [author]
    return body, codes, _single(day), refers, [author]


def _condition(m: Maker, mark: str) -> Content:
    code, codes = m.code()
    day = m.day()
    doctor, author = m.doctor()
    body: Json = {
        "clinicalStatus": {"coding": [{"system": f"{THO}condition-clinical", "code": "active"}]},
        "code": code | {"text": f"Text{mark}"},
        "onsetDateTime": str(day),
        "recorder": doctor,
        "asserter": doctor,
    }
    refers = _with(body, "encounter", m.other("Encounter"))
    evidence = m.other("Observation", "DiagnosticReport")
    if evidence:
        body["evidence"] = [{"detail": [evidence[0][0]]}]
        refers.append(evidence[0][1])
    return body, codes, _single(day), refers, [author]


def _encounter(m: Maker, mark: str) -> Content:
    code, codes = m.code()
    day = m.day()
    doctor, author = m.doctor()
    body: Json = {
        "status": "finished",
        "class": {"system": ACT_CODE, "code": "AMB"},
        "type": [code],
        "period": {"start": str(day), "end": str(day + timedelta(days=2))},
        "participant": [{"individual": doctor}],
    }
    refers = _with(body, "reasonReference", m.other("Condition"), is_list=True)
    return body, codes | {f"{ACT_CODE}|AMB"}, (day, day + timedelta(days=2)), refers, [author]


def _procedure(m: Maker, mark: str) -> Content:
    code, codes = m.code()
    day = m.day()
    doctor, author = m.doctor()
    body: Json = {
        "status": "completed",
        "code": code,
        "performedDateTime": str(day),
        "performer": [{"actor": doctor}],
    }
    refers = _with(body, "encounter", m.other("Encounter"))
    refers += _with(body, "reasonReference", m.other("Condition"), is_list=True)
    return body, codes, _single(day), refers, [author]


def _medication_request(m: Maker, mark: str) -> Content:
    code, codes = m.code()
    day = m.day()
    doctor, author = m.doctor()
    body: Json = {"status": "active", "intent": "order", "authoredOn": str(day), "requester": doctor}
    if m.chance(0.5):
        body["contained"] = [{"resourceType": "Medication", "id": "med", "code": code}]
        body["medicationReference"] = {"reference": "#med"}
    else:
        body["medicationCodeableConcept"] = code
    refers = _with(body, "encounter", m.other("Encounter"))
    return body, codes, _single(day), refers, [author]


def _report(m: Maker, mark: str) -> Content:
    code, codes = m.code()
    day = m.day()
    doctor, author = m.doctor()
    body: Json = {
        "status": "final",
        "code": code,
        "effectiveDateTime": str(day),
        "conclusion": f"Seen {mark}",
        "performer": [doctor],
    }
    if m.chance(0.6):
        body["category"] = [{"coding": [{"system": SECTION, "code": "LAB"}]}]
        codes = codes | {f"{SECTION}|LAB"}
    refers = _with(body, "result", m.other("Observation"), is_list=True)
    refers += _with(body, "encounter", m.other("Encounter"))
    return body, codes, _single(day), refers, [author]


def _document(m: Maker, mark: str) -> Content:
    code, codes = m.code()
    day = m.day()
    doctor, author = m.doctor()
    data = base64.b64encode(f"Letter {mark}".encode()).decode()
    body: Json = {
        "status": "current",
        "type": code,
        "author": [doctor],
        "content": [{"attachment": {"contentType": "text/plain", "data": data}}],
        "context": {"period": {"start": str(day), "end": str(day)}},
    }
    found = m.other("Encounter")
    if found:
        body["context"]["encounter"] = [found[0][0]]
    return body, codes, _single(day), [name for _, name in found], [author]


def _composition(m: Maker, mark: str) -> Content:
    code, codes = m.code()
    day = m.day()
    doctor, author = m.doctor()
    found = [*m.other("Condition"), *m.other("Observation")]
    div = f'<div xmlns="http://www.w3.org/1999/xhtml">Section {mark}</div>'
    section: Json = {"title": f"Part {mark}", "text": {"status": "generated", "div": div}}
    if found:
        section["entry"] = [reference for reference, _ in found]
    body: Json = {
        "status": "final",
        "type": code,
        "date": str(day),
        "author": [doctor],
        "title": f"Summary {mark}",
        "section": [section],
    }
    refers = [name for _, name in found]
    refers += _with(body, "encounter", m.other("Encounter"))
    return body, codes, _single(day), refers, [author]


def _allergy(m: Maker, mark: str) -> Content:
    code, codes = m.code()
    day = m.day()
    doctor, author = m.doctor()
    body: Json = {
        "clinicalStatus": {"coding": [{"system": f"{THO}allergyintolerance-clinical", "code": "active"}]},
        "code": code,
        "recordedDate": str(day),
        "recorder": doctor,
    }
    refers = _with(body, "encounter", m.other("Encounter"))
    return body, codes, _single(day), refers, [author]


def _immunization(m: Maker, mark: str) -> Content:
    code, codes = m.code()
    day = m.day()
    doctor, author = m.doctor()
    body: Json = {
        "status": "completed",
        "vaccineCode": code,
        "occurrenceDateTime": str(day),
        "performer": [{"actor": doctor}],
        "lotNumber": f"Lot{mark}",
    }
    refers = _with(body, "encounter", m.other("Encounter"))
    return body, codes, _single(day), refers, [author]


def _care_plan(m: Maker, mark: str) -> Content:
    code, codes = m.code()
    day = m.day()
    doctor, author = m.doctor()
    body: Json = {
        "status": "active",
        "intent": "plan",
        "category": [code],
        "period": {"start": str(day), "end": str(day + timedelta(days=9))},
        "author": doctor,
        "title": f"Plan {mark}",
    }
    refers = _with(body, "addresses", m.other("Condition"), is_list=True)
    # R4 defines no search parameter for CarePlan.author, so "authored by" does not reach it (docs/consent.md).
    return body, codes, (day, day + timedelta(days=9)), [*refers, author], []


def _service_request(m: Maker, mark: str) -> Content:
    code, codes = m.code()
    day = m.day()
    doctor, author = m.doctor()
    body: Json = {"status": "active", "intent": "order", "code": code, "authoredOn": str(day), "requester": doctor}
    refers = _with(body, "reasonReference", m.other("Condition"), is_list=True)
    refers += _with(body, "supportingInfo", m.other("Observation"), is_list=True)
    return body, codes, _single(day), refers, [author]


_MAKERS: dict[str, Callable[[Maker, str], Content]] = {
    "Observation": _observation,
    "Condition": _condition,
    "Encounter": _encounter,
    "Procedure": _procedure,
    "MedicationRequest": _medication_request,
    "DiagnosticReport": _report,
    "DocumentReference": _document,
    "Composition": _composition,
    "AllergyIntolerance": _allergy,
    "Immunization": _immunization,
    "CarePlan": _care_plan,
    "ServiceRequest": _service_request,
}
TYPES = tuple(sorted(_MAKERS))


def directory_of(institution: str) -> list[Json]:
    """Return an institution's own Organization, Practitioners and Location."""
    doctors = [
        {"resourceType": "Practitioner", "id": name, "name": [{"family": f"{institution}-{name}"}]}
        for name in DOCTORS
    ]
    return [
        {"resourceType": "Organization", "id": "org", "name": f"{institution} clinic"},
        {"resourceType": "Location", "id": "ward", "name": f"{institution} ward"},
        *doctors,
    ]
