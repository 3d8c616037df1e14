"""A generator of questions for each of the twenty-two channels through which others leaked.

``CHANNELS`` maps the number in consent-and-search's table to a function that
makes one case. Each aims at what its channel would give away: a hidden
record's values in criteria, its id in every interaction, its mark on totals,
order, links, histories, writes and logs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.leak.scene import ABSENT, Case, Question, Scene, get, post, posted, put, search
from tests.support.worlds import ASKING, INSTITUTIONS, Json, Version
from tests.support.worlds_records import ACT_CODE, CONFIDENTIALITY, LEVELS, LOINC, TOPICS, TYPES

TAG = "urn:fhir-bridge:institution"
_COUNTS = ("1", "2", "3", "5", "7", "1000", "0")


def criteria(scene: Scene) -> Case:
    """1: ask with the very values of a hidden record, in every kind of parameter, chains and ``_has`` included."""
    across = _across(scene) if scene.random.random() < 0.5 else None
    if across is not None:
        return Case(1, _linked(scene, *across))
    version, _ = scene.probe()
    params = [(_patient_parameter(scene), scene.people())]
    params += [_criterion(scene, version) for _ in range(scene.random.choice([1, 1, 2]))]
    if scene.random.random() < 0.3:
        params.append(("_summary", "count"))
    question = search(version.type, *params)
    if scene.random.random() < 0.15:
        question = replace(question, headers=(("Prefer", "handling=lenient"),))
    return Case(1, posted(question) if scene.random.random() < 0.25 else question)


def _across(scene: Scene) -> tuple[Version, Version] | None:
    """Return two records of which the first refers to the second, one of them hidden if there are such two."""
    shown = {version.name: version for version, _ in scene.shown if version.body}
    hidden = {version.name: version for version, _ in scene.hidden if version.body and version.name not in shown}
    every = shown | hidden
    pairs = [(one, every[name]) for one in every.values() for name in one.refers if name in every]
    named = [(one, two) for one, two in pairs if (one.type, two.type) in _LINKS]
    mixed = [(one, two) for one, two in named if (one.name in hidden) != (two.name in hidden)]
    picked = mixed if mixed and scene.random.random() < 0.85 else named
    return scene.random.choice(picked) if picked else None


def _linked(scene: Scene, one: Version, two: Version) -> Question:
    """Ask for the one by what only the other tells, along the reference between them."""
    link = _LINKS[one.type, two.type]
    who = scene.patient_of(one.person, ASKING) if _is_at_home(scene, one.person) else scene.people()
    if scene.random.random() < 0.5:
        told, value = _telling(scene, two)
        chained = scene.pick(f"{link}.{told}", f"{link}:{two.type}.{told}")
        return search(one.type, ("patient", who), (chained, value))
    if scene.random.random() < 0.2:
        return search(one.type, ("patient", who), (f"{link}:missing", scene.pick("true", "false")))
    told, value = _telling(scene, one)
    return search(two.type, ("patient", who), (f"_has:{one.type}:{link}:{told}", value))


def _is_at_home(scene: Scene, person: str) -> bool:
    return ASKING in dict(scene.script.homes[person])


def _telling(scene: Scene, version: Version) -> tuple[str, str]:
    mark = version.extra[0] if version.extra else "none"
    code = min(version.codes, default=f"{LOINC}|none")
    named = {"Encounter": "type", "Immunization": "vaccine-code", "CarePlan": "category"}.get(version.type, "code")
    choices = [("identifier", mark), ("_id", scene.id_of(version)), (named, code)]
    return scene.random.choice(choices)


_LINKS = {
    ("Observation", "Encounter"): "encounter",
    ("Observation", "Observation"): "has-member",
    ("Condition", "Encounter"): "encounter",
    ("Condition", "Observation"): "evidence-detail",
    ("Condition", "DiagnosticReport"): "evidence-detail",
    ("Encounter", "Condition"): "reason-reference",
    ("Procedure", "Encounter"): "encounter",
    ("Procedure", "Condition"): "reason-reference",
    ("MedicationRequest", "Encounter"): "encounter",
    ("DiagnosticReport", "Observation"): "result",
    ("DiagnosticReport", "Encounter"): "encounter",
    ("DocumentReference", "Encounter"): "encounter",
    ("Composition", "Condition"): "entry",
    ("Composition", "Observation"): "entry",
    ("Composition", "Encounter"): "encounter",
    ("CarePlan", "Condition"): "condition",
}
"""Type of a record, type of what it refers to → the search parameter that follows the reference."""


def _criterion(scene: Scene, version: Version) -> tuple[str, str]:
    mark = version.extra[0] if version.extra else "none"
    target = scene.random.choice(version.refers) if version.refers else None
    place = scene.names.reference(target) if target else "Encounter/none"
    about = _reference_parameter(scene, version.type)
    day = str(version.days[0]) if version.days else "2024-06-01"
    when = f"{scene.pick('', 'eq', 'ne', 'lt', 'gt', 'ge', 'le', 'sa', 'eb', 'ap')}{day}"
    return scene.random.choice(
        [
            ("identifier", f"urn:test:n|{mark}"),
            ("identifier", mark),
            ("identifier:not", f"urn:test:n|{mark}"),
            ("code", scene.pick(f"{LOINC}|{scene.code()}", scene.code(), f"{LOINC}|")),
            ("code:not", scene.code()),
            ("code:text", f"d{scene.code()}"),
            ("code:missing", scene.pick("true", "false")),
            ("code:in", "http://hl7.org/fhir/ValueSet/observation-vitalsignresult"),
            ("date", when),
            ("date:missing", scene.pick("true", "false")),
            ("_lastUpdated", f"{scene.pick('lt', 'gt', 'ge')}2026-03-01T{scene.pick('08', '09', '10', '12')}:00:00Z"),
            ("_security", f"{CONFIDENTIALITY}|{scene.pick(*LEVELS)}"),
            ("_security", f"{ACT_CODE}|{scene.pick(*TOPICS)}"),
            ("_security:not", f"{ACT_CODE}|{scene.pick(*TOPICS)}"),
            ("_tag", f"{TAG}|{scene.pick(*INSTITUTIONS)}"),
            ("_source", f"urn:fhir-bridge:institution:{scene.pick(*INSTITUTIONS)}"),
            ("_id", scene.id_of(version)),
            ("_id", version.id),
            ("status", scene.pick("final", "active", "completed", "finished")),
            ("value-quantity", f"{scene.pick('gt', 'lt', '')}{_amount(scene.random.randrange(40, 180))}"),
            ("code-value-quantity", f"{LOINC}|{scene.code()}$gt60"),
            (about, place),
            (about, place.partition("/")[2]),
            (f"{about}:missing", scene.pick("true", "false")),
            (f"{about}:identifier", f"urn:test:n|{mark}"),
            ("patient.identifier", mark),
            ("patient.family", scene.pick("Fam", f"Fam{mark}")),
            ("subject:Patient.birthdate", "lt2000-01-01"),
            (f"{about}.identifier", f"urn:test:n|{mark}"),
            ("encounter.reason-reference.code", scene.code()),
            ("encounter.type", scene.code()),
            ("_has:Observation:encounter:code", scene.code()),
            ("_has:Condition:evidence-detail:code", scene.code()),
            ("_has:DiagnosticReport:result:identifier", mark),
            ("_has:Observation:has-member:_id", scene.id_of(version)),
            ("_text", f"Text{mark}"),
            ("_content", mark),
            ("title:contains", mark),
            ("lot-number", f"Lot{mark}"),
        ]
    )


def _amount(number: int) -> str:
    """A number, or the same in percent: the records are in unity."""
    return f"{number * 100}|http://unitsofmeasure.org|%" if number % 2 else str(number)


def _patient_parameter(scene: Scene) -> str:
    return scene.pick("patient", "patient", "subject", "patient:Patient", "subject:Patient")


def _reference_parameter(scene: Scene, type_name: str) -> str:
    named = {
        "Observation": ("encounter", "has-member", "performer"),
        "Condition": ("encounter", "evidence-detail", "asserter"),
        "Encounter": ("reason-reference", "participant", "practitioner"),
        "DiagnosticReport": ("result", "encounter", "performer"),
        "Composition": ("entry", "encounter", "author"),
        "DocumentReference": ("encounter", "author"),
        "Procedure": ("encounter", "reason-reference", "performer"),
        "CarePlan": ("condition", "performer"),
    }
    return scene.pick(*named.get(type_name, ("encounter", "performer")))


def totals(scene: Scene) -> Case:
    """2: counts of every kind, and pages to the end so that an empty last one shows."""
    params = [("patient", scene.people())]
    type_name = scene.pick(*TYPES) if scene.random.random() < 0.8 else scene.pick("Consent", "Patient", "Provenance")
    if scene.random.random() < 0.4:
        params.append(_criterion(scene, scene.probe()[0]))
    pick = scene.random.randrange(4)
    if pick == 0:
        return Case(2, search(type_name, *params, ("_summary", "count")))
    if pick == 1:
        return Case(2, search(type_name, *params, ("_count", "0")))
    if pick == 2:
        return Case(2, search(type_name, *params, ("_total", scene.pick("accurate", "estimate", "none"))))
    return Case(2, search(type_name, *params, ("_count", scene.pick("1", "2", "3"))), follows=True)


def includes(scene: Scene) -> Case:
    """3: includes in both directions that reach for what is hidden."""
    pairs = (
        ("Observation", "_include", "Observation:encounter"),
        ("Observation", "_include", "Observation:has-member"),
        ("Observation", "_include:iterate", "Observation:has-member"),
        ("Observation", "_include", "*"),
        ("Condition", "_include", "Condition:evidence-detail"),
        ("Condition", "_include", "Condition:encounter:Encounter"),
        ("Encounter", "_include:iterate", "Encounter:reason-reference:Condition"),
        ("Encounter", "_revinclude", "Observation:encounter"),
        ("Encounter", "_revinclude", "Condition:encounter"),
        ("Encounter", "_revinclude:iterate", "DiagnosticReport:result"),
        ("Encounter", "_revinclude", "*"),
        ("DiagnosticReport", "_include", "DiagnosticReport:result"),
        ("DiagnosticReport", "_include", "DiagnosticReport:subject"),
        ("Composition", "_include", "Composition:entry"),
        ("Patient", "_revinclude", "Observation:subject"),
        ("Patient", "_revinclude", "Condition:patient"),
        ("Patient", "_include", "Patient:general-practitioner"),
        ("Observation", "_revinclude", "DiagnosticReport:result"),
        ("Observation", "_revinclude", "Provenance:target"),
    )
    type_name, name, value = scene.random.choice(pairs)
    across = _across(scene) if scene.random.random() < 0.4 else None
    if across is not None:
        one, two = across
        link = f"{one.type}:{_LINKS[one.type, two.type]}"
        types = (one.type, two.type)
        type_name, name, value = scene.random.choice([(types[0], "_include", link), (types[1], "_revinclude", link)])
    who = scene.people()
    params = [("_id" if type_name == "Patient" else "patient", who), (name, value)]
    if scene.random.random() < 0.4:
        params.append(scene.random.choice([each[1:] for each in pairs if each[0] == type_name] or [(name, value)]))
    if scene.random.random() < 0.3:
        params.append(("_count", scene.pick(*_COUNTS)))
    return Case(3, search(type_name, *params), follows=scene.random.random() < 0.3)


def bulk(scene: Scene) -> Case:
    """4: everything at once, with every narrowing, page by page, and export as far as there is one."""
    params: list[tuple[str, str]] = []
    if scene.random.random() < 0.6:
        params.append(("_count", scene.pick(*_COUNTS)))
    if scene.random.random() < 0.4:
        params.append(("_type", ",".join(scene.random.sample([*TYPES, "Patient", "Consent"], 2))))
    if scene.random.random() < 0.25:
        params.append(("_since", f"2026-03-01T{scene.pick('08', '09', '10')}:30:00Z"))
    if scene.random.random() < 0.25:
        params += [("start", "2024-03-01"), ("end", "2025-03-01")]
    if scene.random.random() < 0.15:
        params.append((scene.pick("_elements", "_summary"), scene.pick("id", "true", "data", "text")))
    what = scene.random.random()
    if what < 0.06:
        return Case(4, get(scene.pick("$export", "Patient/$export", f"Group/{ABSENT}/$export", "Patient")))
    if what < 0.14:
        return Case(4, get(f"Patient/{scene.people()}/$duplicates{scene.pick('', '?_type=' + scene.pick(*TYPES))}"))
    question = search(f"Patient/{scene.people()}/$everything", *params)
    return Case(4, question, follows=scene.random.random() < 0.7)


def nested(scene: Scene) -> Case:
    """5: contained resources, sections and narrative, whole or in part."""
    type_name = scene.pick("Composition", "MedicationRequest", "DocumentReference", "DiagnosticReport")
    across = _across(scene) if scene.random.random() < 0.5 else None
    if across is not None:
        type_name = across[0].type
    params = [("patient", scene.people())]
    extra = scene.random.choice(
        [
            ("_elements", scene.pick("section", "text", "contained", "title,author", "result")),
            ("_summary", scene.pick("text", "data", "true", "false")),
            ("_containedType", "contained"),
            ("_contained", "both"),
            ("code", scene.code()),
            ("entry", scene.any_id()),
            ("_sort", scene.pick("date", "-date", "_id")),
        ]
    )
    if scene.random.random() < 0.3:
        one = [v for v, _ in scene.shown + scene.hidden if v.type == type_name]
        if one:
            place = scene.place(scene.random.choice(one))
            return Case(5, get(place + scene.pick("", "/_history", "/$document", "?_summary=text", "?_elements=id")))
    return Case(5, search(type_name, *params, extra))


def notices(scene: Scene) -> Case:
    """6: subscriptions, of any form: not offered, and refused alike whatever they ask for."""
    version, _ = scene.probe()
    body = {
        "resourceType": "Subscription",
        "id": "sub",
        "status": "requested",
        "reason": "to learn",
        "criteria": f"{version.type}?_id={scene.id_of(version)}",
        "channel": {"type": "rest-hook", "endpoint": "http://127.0.0.1:9/hook"},
    }
    return Case(
        6,
        scene.random.choice(
            [
                post("Subscription", body),
                put("Subscription/sub", body),
                get(f"Subscription?criteria={version.type}"),
                get("Subscription/sub/$status"),
                get(f"{scene.place(version)}/$subscribe"),
            ]
        ),
    )


def after_change(scene: Scene) -> Case:
    """7: the same question again; in worlds made for it, permits were taken back since it was asked first.

    Or its next page, by the cursor of a first page from before that.
    """
    if scene.random.random() < 0.6:
        return replace(_plain(scene), channel=7, twice=True)
    who, count = scene.own_patient(), scene.pick("1", "2", "3")
    type_name = scene.seen()[0].type if scene.random.random() < 0.3 else scene.probe()[0].type
    sort = scene.pick("date", "-date", "_lastUpdated", "-_lastUpdated", "_id")
    question = scene.random.choice(
        [
            get(f"Patient/{who}/$everything?_count={count}"),
            search(type_name, ("patient", who), ("_sort", sort), ("_count", count)),
            search(type_name, ("patient", who), ("_count", count)),
            get(f"_history?patient={who}&_count={count}"),
        ]
    )
    return Case(7, question, twice=True, begun=True)


def after_others(scene: Scene) -> Case:
    """8: the same question right after others asked it who may see more, or less."""
    return replace(_plain(scene), channel=8, others_first=True)


def _plain(scene: Scene) -> Case:
    """One of the questions that anybody would ask of a chart."""
    version, version_id = scene.probe()
    who = scene.people()
    return Case(
        0,
        scene.random.choice(
            [
                get(f"Patient/{who}/$everything"),
                get(f"Patient/{who}/$everything?_count=1000"),
                get(f"{version.type}?patient={who}"),
                get(f"{version.type}?patient={who}&_count=2"),
                get(f"{version.type}?patient={who}&_summary=count"),
                get(scene.place(version)),
                get(f"{scene.place(version)}/_history"),
                get(f"{scene.place(version)}/_history/{version_id}"),
                get(f"Provenance?target={scene.place(version)}"),
                get(f"{version.type}?_id={scene.id_of(version)}"),
            ]
        ),
    )


def periods(scene: Scene) -> Case:
    """9: what a period would open or close, in worlds whose consents have ended or not begun."""
    return replace(_plain(scene), channel=9)


def errors(scene: Scene) -> Case:
    """10: every interaction with the id of a hidden record, right and wrong in every way."""
    version, version_id = scene.probe()
    place, record = scene.place(version), scene.id_of(version)
    wrong = scene.pick(*[name for name in TYPES if name != version.type])
    match = ("If-Match", f'W/"{version_id}"')
    bare: Json = {"resourceType": version.type, "id": record}
    return Case(
        10,
        scene.random.choice(
            [
                get(place),
                Question("HEAD", place),
                get(place, ("If-None-Match", f'W/"{version_id}"')),
                get(place, ("If-Modified-Since", "Mon, 02 Mar 2026 00:00:00 GMT")),
                get(f"{place}/_history"),
                get(f"{place}/_history?_count=1"),
                get(f"{place}/_history/{version_id}"),
                Question("HEAD", f"{place}/_history/{version_id}"),
                get(f"{place}/_history/aaaabbbbccccddddeeee"),
                get(f"{wrong}/{record}"),
                get(f"{wrong}/{record}/_history/{version_id}"),
                get(f"{place}/$receipt"),
                get(f"{place}/unknown"),
                get(f"{place}/$everything"),
                get(f"{version.type}?_id={record}"),
                get(f"{version.type}?_id={record},{ABSENT}"),
                get(f"{version.type}?_id={record}&_id={record}"),
                get(f"{place}%00"),
                get(f"{version.type}/{record.upper()}"),
                get(f"{version.type}/{record[:-1]}"),
                get(f"{version.type}/{version.id}"),
                get(f"{version.type.lower()}/{record}"),
                put(place, bare, match),
                put(place, bare, ("If-None-Match", "*")),
                put(place, b"nothing".decode()),
                put(f"{wrong}/{record}", bare),
                Question("DELETE", place, headers=(match,)),
                Question("DELETE", place),
                Question("PATCH", place, b"[]", (("Content-Type", "application/json-patch+json"),)),
                Question("OPTIONS", place),
                post(place, bare),
            ]
        ),
    )


def emergency_doors(scene: Scene) -> Case:
    """10: opening emergency access is answered alike whoever stands behind an id, and whether or not anybody does.

    To be asked last: what is opened changes what may be seen.
    """
    reason = scene.pick("unconscious after a fall", "unconscious after a fall", "no", "")
    listed: list[Json] = [{"name": "reason", "valueString": reason}]
    if scene.random.random() < 0.7:
        listed.append({"name": "minutes", "valuePositiveInt": scene.random.choice([1, 30, 1_440, 1_441])})
    body = {"resourceType": "Parameters", "parameter": listed}
    who = scene.patient() if scene.random.random() < 0.7 else scene.id_of(scene.probe()[0])
    return Case(10, post(f"Patient/{who}/$emergency-access", body))


def links(scene: Scene) -> Case:
    """11: other institutions' Patient ids of the same person, and of persons nobody linked."""
    person = scene.random.choice(sorted(scene.script.homes))
    institution, local = scene.random.choice(scene.script.homes[person])
    patient = scene.patient_of(person, institution)
    mrn = next((v.extra[0] for v, _ in scene.shown + scene.hidden if v.type == "Patient" and v.id == local), "none")
    type_name = scene.pick(*TYPES)
    return Case(
        11,
        scene.random.choice(
            [
                get(f"Patient/{patient}"),
                get(f"Patient/{patient}/_history"),
                get(f"Patient/{patient}/$everything?_count=3"),
                get(f"Patient?_id={patient}"),
                get(f"Patient?identifier=https://{institution}.example.org/mrn|{mrn}"),
                get(f"Patient?identifier={mrn}"),
                get(f"Patient?family=Fam{mrn}"),
                get(f"Patient?link=Patient/{patient}"),
                get(f"{type_name}?patient={patient}"),
                get(f"{type_name}?subject=Patient/{patient}&_count=1"),
                get(f"{type_name}?patient={local}"),
                get(f"{type_name}?patient={patient},{scene.own_patient()}"),
                get(f"{type_name}?patient={scene.own_patient()}&subject=Patient/{patient}"),
                get(f"{type_name}?patient:identifier=https://{institution}.example.org/mrn|{mrn}"),
                get(f"Provenance?target=Patient/{patient}"),
                get(f"Patient/{patient}/$match"),
            ]
        ),
        follows=scene.random.random() < 0.3,
    )


def uniqueness(scene: Scene) -> Case:
    """12: conditional writes, and ids that are taken, by others or not at all."""
    version, version_id = scene.probe()
    mark = version.extra[0] if version.extra else "none"
    fresh = f"new-{scene.random.randrange(50)}"
    system = "urn:test:n"
    if version.type == "Patient":
        system = f"https://{version.institution}.example.org/mrn"
    condition = f"identifier={system}|{mark}"
    body = _body_of(scene, version, fresh)
    named = body | {"id": scene.id_of(version)}
    return Case(
        12,
        scene.random.choice(
            [
                post(version.type, body, ("If-None-Exist", condition)),
                put(f"{version.type}/{fresh}", body, ("If-Match", f'W/"{version_id}"')),
                put(scene.place(version), named, ("If-Match", f'W/"{version_id}"')),
                put(scene.place(version), named, ("If-None-Match", "*")),
                put(scene.place(version), named, ("Prefer", "return=minimal")),
                put(f"{version.type}?{condition}", body),
                Question("DELETE", f"{version.type}?{condition}"),
                get(f"{version.type}?{condition}"),
                _transaction(body, condition),
            ]
        ),
    )


def _body_of(scene: Scene, version: Version, fresh: str) -> Json:
    """Return a body of the requester's own, about a patient who may be hidden."""
    if version.type == "Patient":
        return {"resourceType": "Patient", "id": fresh, "gender": "other"}
    about = scene.random.choice([scene.people(), "pat-p-n"])
    return {
        "resourceType": "Observation",
        "id": fresh,
        "status": "final",
        "code": {"text": "a question"},
        "subject": {"reference": f"Patient/{about}"},
        "encounter": {"reference": f"Encounter/{scene.id_of(scene.probe()[0])}"},
    } | ({"resourceType": version.type} if version.type == "Observation" else {})


def _transaction(body: Json, condition: str) -> Question:
    request = {"method": "POST", "url": body["resourceType"], "ifNoneExist": condition}
    entry = {"fullUrl": "urn:uuid:1f0c2f4e-6f1e-4a35-9a0b-0c6d1c0a7a11", "resource": body, "request": request}
    return post("", {"resourceType": "Bundle", "type": "transaction", "entry": [entry]})


def access_log(scene: Scene) -> Case:
    """13: who saw what, asked by those whom it concerns and those whom it does not.

    On one page: events of one instant are told by random ids, so that two worlds cut pages differently.
    """
    version, _ = scene.probe()
    who = scene.people()
    return Case(
        13,
        scene.random.choice(
            [
                get(f"AuditEvent?patient={who}&_count=1000"),
                get(f"AuditEvent?patient=Patient/{who}&_count=1000"),
                get(f"AuditEvent?entity={scene.place(version)}&_count=1000"),
                get(f"AuditEvent?patient={who}&entity={scene.place(version)}&_count=1000"),
                get("AuditEvent?_count=1000"),
                get(f"AuditEvent?patient={who}&_summary=count"),
                get(f"AuditEvent/{scene.id_of(version)}"),
                get(f"Patient/{who}/$everything?_type=AuditEvent"),
                posted(get(f"AuditEvent?patient={who}&_count=1000")),
            ]
        ),
    )


def consents_asked(scene: Scene) -> Case:
    """13: the Consents themselves, which name what they hide: the patient's, papers, what guardians signed."""
    who = scene.people()
    return Case(
        13,
        get(
            scene.pick(
                f"Consent?patient={who}",
                f"Consent?patient={who}&_summary=count",
                f"Consent?patient={who}&_count=1&_sort=-_lastUpdated",
                f"Consent?patient={who}&status=active",
                f"Consent?patient={who}&actor=Organization/{scene.organizations[ASKING]}",
                f"Patient/{who}/Consent",
                f"Consent/_history?patient={who}",
                f"Patient?_id={who}&_revinclude=Consent:patient",
            )
        ),
        follows=True,
    )


def silence(scene: Scene) -> Case:
    """14: charts of whom no consent speaks."""
    return replace(_plain(scene), channel=14)


def missing_attribute(scene: Scene) -> Case:
    """15: a token that does not state what the consents ask for."""
    return replace(_plain(scene), channel=15)


def conditions(scene: Scene) -> Case:
    """16: every kind of condition, in worlds whose consents hold one or two of them."""
    return replace(_plain(scene), channel=16)


def gates(scene: Scene) -> Case:
    """17: every door without a token, or with one that is none."""
    token = scene.random.choice([None, "Bearer", "Bearer e30.e30.", "Basic bm9ydGhnYXRlOng=", "bearer x.y.z"])
    case = scene.random.choice([errors, bulk, criteria, access_log, evidence, lineage])(scene)
    return Case(17, replace(case.question, token=token))


def displays(scene: Scene) -> Case:
    """18: references to what is hidden, in what is shown, and what stands beside them."""
    version, _ = scene.seen()
    about = _reference_parameter(scene, version.type)
    question = scene.random.choice(
        [
            get(scene.place(version)),
            get(f"{version.type}?patient={scene.people()}&_count=1000"),
            get(f"{version.type}?_id={scene.id_of(version)}&_include={version.type}:encounter"),
            get(f"{version.type}?{about}={scene.any_id()}&patient={scene.people()}"),
            get(f"{version.type}?{about}:text=about&patient={scene.people()}"),
        ]
    )
    return Case(18, question)


def self_asserted(scene: Scene) -> Case:
    """19: what a writer says about owner, labels and tags of what it writes, and what it finds by them afterwards."""
    version, _ = scene.probe()
    other = scene.pick(*INSTITUTIONS)
    if scene.random.random() < 0.5:
        found = scene.pick(f"_tag={TAG}|{other}", f"_source=urn:fhir-bridge:institution:{other}", "_tag=x|y")
        return Case(19, get(f"Observation?patient={scene.people()}&{found}"))
    body = _body_of(scene, version, f"tag-{scene.random.randrange(20)}") | {"resourceType": "Observation"}
    body = {"status": "final", "code": {"text": "x"}} | {k: v for k, v in body.items() if k != "gender"}
    body.setdefault("subject", {"reference": f"Patient/{scene.people()}"})
    body["meta"] = {
        "source": f"urn:fhir-bridge:institution:{other}",
        "tag": [{"system": TAG, "code": other}],
        "security": [{"system": CONFIDENTIALITY, "code": scene.pick(*LEVELS)}],
    }
    return Case(19, put(f"Observation/{body['id']}", body))


def order(scene: Scene) -> Case:
    """20: sorts of every kind, page by page; cursors, ETags, version gaps."""
    type_name = scene.pick(*TYPES)
    if scene.random.random() < 0.15:
        version, _ = scene.probe()
        whole = f"{scene.pick('', f'{version.type}/')}_history?_count={scene.pick('2', '5', '100')}"
        of_person = f"{whole}&patient={scene.people()}"
        return Case(20, get(scene.pick(f"{scene.place(version)}/_history", whole, of_person)), follows=True)
    if scene.random.random() < 0.1:
        return Case(
            20, get(f"{type_name}?patient={scene.people()}&_cursor={'A' * scene.random.choice([8, 86, 172])}")
        )
    sort = scene.pick("date", "-date", "_lastUpdated", "-_lastUpdated", "code", "-code", "_id", "status,-date")
    asked = search(
        type_name, ("patient", scene.people()), ("_sort", sort), ("_count", scene.pick("1", "2", "3", "50"))
    )
    question = posted(asked) if scene.random.random() < 0.15 else asked
    follows = scene.random.random() < 0.8
    return Case(20, question, follows=follows, again=follows and "_count=2" in asked.path)


def evidence(scene: Scene) -> Case:
    """21: receipts, checkpoints and whatever tells of the ledger."""
    if scene.random.random() < 0.3:
        # Cursors differ between the worlds, so the receipt is of a first page.
        return replace(_plain(scene), channel=21, proves=True)
    version, version_id = scene.probe()
    place = scene.place(version)
    return Case(
        21,
        get(
            scene.pick(
                f"{place}/$receipt",
                f"{place}/_history/{version_id}/$receipt",
                f"{place}/$receipt?x=1",
                f"{place}/$decision",
                f"AuditEvent/$decision-receipt?request={'0' * 32}",
                f"Patient/{scene.people()}/$decisions",
                "metadata",
                f"Patient/{scene.people()}/$receipt",
            )
        ),
    )


def begging(scene: Scene) -> Case:
    """21: receipts and openings of what others were told, about this person, others or nobody."""
    if scene.random.random() < 0.3:
        return Case(21, get(f"Observation/{_absent(scene)}"), begs=True)
    return replace(_plain(scene), channel=21, begs=True)


def _absent(scene: Scene) -> str:
    """Return one of many ids that nobody has: each has its stand-in among all charts."""
    return ABSENT[:-3] + "".join(scene.random.choices("abcdefghijklmnopqrstuvwxyz234567", k=3))


def lineage(scene: Scene) -> Case:
    """22: where records come from, what was changed in them, notes and reports that name what is hidden."""
    version, version_id = scene.probe()
    place = scene.place(version)
    return Case(
        22,
        get(
            scene.pick(
                f"Provenance?target={place}",
                f"Provenance/{scene.id_of(version)}-{version_id}",
                f"Provenance?target={place}/_history/{version_id}",
                f"Provenance?patient={scene.people()}",
                f"Provenance?target={place}&_count=1",
                f"{version.type}?patient={scene.people()}&_revinclude=Provenance:target",
                f"DocumentReference?patient={scene.people()}",
                f"DiagnosticReport?patient={scene.people()}&_count=1000",
            )
        ),
    )


CHANNELS: dict[int, Callable[[Scene], Case]] = {
    1: criteria,
    2: totals,
    3: includes,
    4: bulk,
    5: nested,
    6: notices,
    7: after_change,
    8: after_others,
    9: periods,
    10: errors,
    11: links,
    12: uniqueness,
    13: access_log,
    14: silence,
    15: missing_attribute,
    16: conditions,
    17: gates,
    18: displays,
    19: self_asserted,
    20: order,
    21: evidence,
    22: lineage,
}

MADE_FOR = frozenset({7, 9, 14, 15, 16})
"""Channels that are looked at only in worlds made for them; in others their questions would prove nothing."""
