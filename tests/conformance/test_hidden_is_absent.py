"""Who lacks a permit learns nothing: what is hidden answers as what was never there, over real HTTP.

Judged in two ways. *By name*: every interaction with the id of a hidden record
gives the bytes that an id nobody ever used gives. *By world*: two services
start from the same keys and the same records; one of them then takes in what
the requester may not see. Every question must get the same answer from both:

    answer(q, D, who) == answer(q, visible(D, who), who)
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.hospitals import MRN_SYSTEM, Lane, directory, lanes, links
from tests.support.questions import Question, ask, difference
from tests.support.service import Feeder, Service, consent, patient_at, running

HIDDEN_TYPE = "Condition"
ABSENT_ID = "b7xk2ohq3v5dcm4nzr6tfy2wqaeuji3l"
"""Of the form of a canonical id, made by no institution's key."""
ABSENT_VERSION = "aaaabbbbccccddddeeee"
PERSON = "P0017"
STRANGER = "P0014"


@dataclass(frozen=True, slots=True)
class Worlds:
    """Two services and one requester; ``less`` never held what the requester may not see in ``full``.

    Attributes:
        hidden: (type, id, version) of records of harbor that northgate may not see.
        patient: Canonical Patient id of the person at northgate.
    """

    full: Service
    less: Service
    hidden: tuple[tuple[str, str, str], ...]
    patient: str
    stranger: str

    def who(self, service: Service) -> dict[str, str]:
        return service.token("northgate", practitioner="dr-a")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    """Both know northgate's and harbor's patients; a consent permits harbor's records but for its conditions.

    In ``less`` harbor has sent no conditions of that person, and nothing at all of the stranger, who permits nothing.
    """
    base = tmp_path_factory.mktemp("worlds")
    with running(base / "seed") as seed:
        seed.add_institutions(("northgate", "harbor"))
        for name in ("northgate", "harbor"):
            seed.ingest(name, directory(name))
        Feeder(seed, lanes("northgate", (PERSON, STRANGER))).run()
    shutil.copytree(base / "seed", base / "less")
    shutil.move(base / "seed", base / "full")
    with running(base / "full") as full, running(base / "less") as less:
        Feeder(full, lanes("harbor", (PERSON, STRANGER))).run()
        Feeder(less, [_without(HIDDEN_TYPE, lane) for lane in lanes("harbor", (PERSON,))]).run()
        full.order("/links", {"rows": [r for r in links((PERSON, STRANGER)) if r["institution"] != "cedar"]})
        less.order("/links", {"rows": [r for r in links((PERSON,)) if r["institution"] != "cedar"]})
        patient = ""
        for service in (full, less):
            patient, agent = service.enrol(patient_at(PERSON, "northgate"))
            ids = {each["name"]: each["id"] for each in service.ask("/institutions")}
            body = consent(patient, ids["northgate"], deny={"class": [_class(HIDDEN_TYPE)]})
            assert service.http.post("/fhir/Consent", headers=agent, json=body).status_code == 201
        yield Worlds(full, less, _hidden_of(full), patient, _canonical(full, STRANGER))


def _class(type_name: str) -> dict[str, str]:
    return {"system": "http://hl7.org/fhir/resource-types", "code": type_name}


def _without(type_name: str, lane: Lane) -> Lane:
    """Return a lane as its hospital would send it without one type: references to it name what was never sent."""
    messages = []
    for message in lane.messages:
        bundle = json.loads(message)
        removed = [e["fullUrl"] for e in bundle["entry"] if e["resource"]["resourceType"] == type_name]
        bundle["entry"] = [e for e in bundle["entry"] if e["resource"]["resourceType"] != type_name]
        # Through Python's float, but the generator's numbers are short; and a changed number would fail the test.
        text = json.dumps(bundle)
        for url in removed:
            text = text.replace(f'"{url}"', f'"{type_name}/{url.removeprefix("urn:uuid:")}"')
        messages.append(text.encode())
    return Lane(lane.hospital, lane.key, tuple(messages))


def _canonical(service: Service, person: str) -> str:
    where = patient_at(person, "northgate")
    return str(service.ask("/patients/resolve", patient=where.local_id, institution="northgate")["patient"])


def _hidden_of(full: Service) -> tuple[tuple[str, str, str], ...]:
    """Return what harbor itself sees and northgate may not: conditions of the person, and the stranger's records."""
    own = full.token("harbor")
    found: list[tuple[str, str, str]] = []
    for person, types in ((PERSON, (HIDDEN_TYPE,)), (STRANGER, ("Patient", "Observation", "Encounter", "Procedure"))):
        local = patient_at(person, "harbor").local_id
        for type_name in types:
            if type_name == "Patient":
                one = full.get(f"Patient/{local}", own).content
            else:
                one = next(full.entries(type_name, own, patient=local, _count="1"))
            found.append((type_name, json.loads(one)["id"], json.loads(one)["meta"]["versionId"]))
    return tuple(found)


def _about_one(type_name: str, record_id: str, version: str) -> list[Question]:
    """Every interaction that names one record."""
    where = f"{type_name}/{record_id}"
    resource = json.dumps({"resourceType": type_name, "id": record_id}).encode()
    match = (("If-Match", f'W/"{version}"'),)
    return [
        Question("GET", where),
        Question("GET", f"{where}/_history"),
        Question("GET", f"{where}/_history?_count=1"),
        Question("GET", f"{where}/_history/{version}"),
        Question("GET", f"{where}/_history/{ABSENT_VERSION}"),
        Question("GET", f"{where}/$receipt"),
        Question("GET", f"{where}/_history/{version}/$receipt"),
        Question("GET", f"{type_name}?_id={record_id}"),
        Question("GET", f"{type_name}?_id={record_id}&_total=accurate"),
        Question("GET", f"Provenance?target={where}"),
        Question("GET", f"Provenance/{record_id}-{version}"),
        Question("GET", f"AuditEvent?entity={where}"),
        Question("GET", f"AuditEvent?patient={record_id}"),
        Question("POST", f"{type_name}/_search", f"_id={record_id}".encode(), _FORM),
        Question("PUT", where, resource, match),
        Question("DELETE", where, b"", match),
        Question("GET", f"{where}/unknown"),
        Question("PATCH", where, b"[]"),
    ]


_FORM = (("Content-Type", "application/x-www-form-urlencoded"),)


_OPAQUE = re.compile(rb"[a-z2-7]{32}|[a-z2-7]{20}")


def _about_patient(patient: str) -> list[Question]:
    """Every interaction that names a patient."""
    observation = (
        '{"resourceType":"Observation","id":"about","status":"final","code":{"text":"a question"},'
        f'"subject":{{"reference":"Patient/{patient}"}}}}'
    )
    return [
        Question("GET", f"Patient/{patient}/$everything"),
        Question("GET", f"Patient/{patient}/$everything?_count=1&_type=Observation"),
        Question("GET", f"Observation?patient={patient}"),
        Question("GET", f"Observation?subject=Patient/{patient}&_count=1"),
        Question("GET", f"Encounter?patient={patient}&_summary=count"),
        Question("GET", f"Condition?subject:Patient={patient}"),
        Question("GET", f"Observation?patient={patient}&_include=Observation:subject"),
        Question("GET", f"Patient?_id={patient}&_revinclude=Observation:subject"),
        Question("POST", "Observation/_search", f"patient={patient}".encode(), _FORM),
        Question("PUT", "Observation/about", observation.encode(), (("If-Match", f'W/"{ABSENT_VERSION}"'),)),
    ]


def test_a_hidden_id_answers_as_an_id_nobody_used(worlds: Worlds) -> None:
    who = worlds.who(worlds.full)
    for type_name, record_id, version in worlds.hidden:
        questions = _about_one(type_name, record_id, version)
        questions += _about_patient(record_id) if type_name == "Patient" else []
        for question in questions:
            absent = question.put_for(record_id, ABSENT_ID).put_for(version, ABSENT_VERSION)
            got = ask(worlds.full, who, question, record_id, version, ABSENT_VERSION)
            assert got == ask(worlds.full, who, absent, ABSENT_ID, ABSENT_VERSION, version), question


def test_conditional_writes_of_a_hidden_record_are_those_of_an_absent_one(worlds: Worlds) -> None:
    """Neither If-Match nor If-None-Exist tells one institution what another one has."""
    who = worlds.who(worlds.full)
    mrn = patient_at(STRANGER, "harbor").mrn
    for name, value in (("If-None-Exist", mrn), ("If-None-Exist", "00000000")):
        body = json.dumps({"resourceType": "Patient", "id": f"new-{value}", "gender": "other"}).encode()
        condition = f"identifier={MRN_SYSTEM.format('harbor')}|{value}"
        made = worlds.full.http.post(
            "/fhir/Patient", headers={**who, "Content-Type": "application/fhir+json", name: condition}, content=body
        )
        assert made.status_code == 201, value


def test_a_record_about_a_hidden_patient_is_answered_as_one_about_an_absent_patient(worlds: Worlds) -> None:
    """What is written goes to the writer's own chart either way; ids and versions differ because the local ids do."""
    who = worlds.who(worlds.full)
    hidden = next(record_id for type_name, record_id, _ in worlds.hidden if type_name == "Patient")
    answers = []
    for local_id, patient in (("about-one", hidden), ("about-two", ABSENT_ID)):
        body = _about_patient(patient)[-1].body.replace(b'"about"', f'"{local_id}"'.encode())
        got = ask(worlds.full, who, Question("PUT", f"Observation/{local_id}", body), patient, local_id)
        answers.append((got.status, [name for name, _ in got.headers], _OPAQUE.sub(b"(opaque)", got.body)))
    assert answers[0][0] == 201
    assert answers[0] == answers[1]


def test_an_identifier_of_another_hospital_finds_what_an_unknown_one_finds(worlds: Worlds) -> None:
    who = worlds.who(worlds.full)
    mrn = patient_at(STRANGER, "harbor").mrn
    question = Question("GET", f"Patient?identifier={MRN_SYSTEM.format('harbor')}|{mrn}")
    unknown = question.put_for(mrn, "99999999")
    assert ask(worlds.full, who, question, mrn) == ask(worlds.full, who, unknown, "99999999")


def _of_worlds(worlds: Worlds) -> list[Question]:
    """Questions about the person and the stranger by their ids at northgate, which both worlds know."""
    questions = []
    for patient in (worlds.patient, worlds.stranger):
        questions += _about_patient(patient)[:-1]
        for type_name in ("Condition", "Observation", "Encounter", "Procedure", "DiagnosticReport", "Immunization"):
            search = f"{type_name}?patient={patient}"
            questions += [
                Question("GET", f"{search}&_count=3"),
                Question("GET", f"{search}&_count=1000&_sort=-date" if type_name == "Observation" else search),
                Question("GET", f"{search}&_summary=count"),
                Question("GET", f"{search}&_total=accurate&_count=1"),
                Question("GET", f"{search}&code=http://loinc.org|8302-2"),
                Question("GET", f"{search}&_tag=urn:fhir-bridge:institution|harbor"),
            ]
        questions += [
            Question("GET", f"Patient/{patient}/$everything?_count=1000"),
            Question("GET", f"Patient/{patient}/$everything?_count=7"),
            Question("GET", f"Patient/{patient}/$everything?_type=Condition"),
            Question("GET", f"Patient/{patient}/$everything?_since=2020-01-01"),
            Question("GET", f"Patient/{patient}/$everything?start=2015-01-01&end=2020-01-01&_count=1000"),
            Question("GET", f"Encounter?patient={patient}&_revinclude=Condition:encounter&_count=1000"),
            Question("GET", f"Patient/{patient}"),
            Question("GET", f"Patient/{patient}/_history"),
            Question("GET", f"AuditEvent?patient={patient}"),
            Question("GET", f"Patient?_id={patient}"),
        ]
    return [*questions, Question("GET", "Organization?name=a&_count=100"), Question("GET", "metadata")]


def test_every_answer_is_that_of_a_store_without_what_is_hidden(worlds: Worlds) -> None:
    here, there = worlds.who(worlds.full), worlds.who(worlds.less)
    seen, leaks = 0, []
    for question in _of_worlds(worlds):
        got, wanted = ask(worlds.full, here, question), ask(worlds.less, there, question)
        if got != wanted:
            leaks.append(f"{question.path}: {difference(got, wanted)}")
        seen += got.body.count(b'"fullUrl"')
    assert not leaks, "\n".join(leaks)
    assert seen > 1000, "the questions must find something, else they prove nothing"


def test_the_hidden_records_are_there_for_their_owner(worlds: Worlds) -> None:
    """Else the tests above would compare nothing with nothing."""
    own = worlds.full.token("harbor")
    for type_name, record_id, _ in worlds.hidden:
        assert worlds.full.get(f"{type_name}/{record_id}", own).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer e30.e30."},
        {"Authorization": "Basic bm9ydGhnYXRlOng="},
        {"Authorization": "Bearer eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0.eyJpbnN0aXR1dGlvbiI6ImhhcmJvciJ9."},
    ],
    ids=["none", "empty", "garbage", "basic", "alg-none"],
)
def test_without_a_good_token_all_ids_are_alike(worlds: Worlds, header: dict[str, str]) -> None:
    type_name, record_id, version = worlds.hidden[0]
    for question in _about_one(type_name, record_id, version):
        absent = question.put_for(record_id, ABSENT_ID).put_for(version, ABSENT_VERSION)
        got = ask(worlds.full, header, question, record_id)
        assert got.status == 401 or question.method == "PATCH" or question.path.endswith("/unknown"), question
        assert got == ask(worlds.full, header, absent, ABSENT_ID)


def test_a_changed_or_foreign_token_is_refused(worlds: Worlds) -> None:
    """The unit suite has the long list of attacks; these go over HTTP against the service's own keys."""
    good = worlds.full.token("northgate")["Authorization"]
    head, claims, signature = good.removeprefix("Bearer ").split(".")
    other = worlds.less.token("northgate")["Authorization"]
    attacks = {
        "of another service": other,
        "signature cut off": f"Bearer {head}.{claims}.",
        "signature cut short": good[:-4],
        "claims of another": f"Bearer {head}.{other.split('.')[1]}.{signature}",
        "twice": f"{good}, {good}",
    }
    for name, value in attacks.items():
        answer = worlds.full.get(f"Patient/{worlds.patient}", {"Authorization": value})
        assert answer.status_code == 401, name
    assert worlds.full.get(f"Patient/{worlds.patient}", {"Authorization": good}).status_code == 200
