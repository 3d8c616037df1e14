"""Each kind of rule that a profile can give: what it accepts, what it refuses, and where it says so.

The meanings are those of FHIR R4 elementdefinition.html and profiling.html; every resource here is valid R4.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fhir_bridge.fhir.json import parse
from fhir_bridge.fhir.validate import is_refused, validate_r4
from tests.unit.fhir.profile_samples import BASE, code_system, extension, loaded, profile, told, url, value_set

Json = dict[str, Any]
LOINC = "http://loinc.org"
CODE = {"coding": [{"system": LOINC, "code": "8867-4"}]}


def patient(**more: Any) -> Json:
    return {"resourceType": "Patient", **more}


def observation(**more: Any) -> Json:
    return {"resourceType": "Observation", "status": "final", "code": CODE, **more}


class Rule(NamedTuple):
    """One rule: the definitions, what conforms, what does not, and the place of the finding."""

    name: str
    definitions: tuple[Json, ...]
    good: Json
    bad: Json
    place: str


NAMED = {"family": "Zzcanary"}
COLOURS = f"{BASE}/CodeSystem/colours"
COLOUR_CODES = code_system("colours", [{"code": "warm", "concept": [{"code": "red"}]}, {"code": "blue"}])
CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"


def bound(compose: Json, *more: Json) -> tuple[Json, ...]:
    binding = {"strength": "required", "valueSet": f"{BASE}/ValueSet/some|1"}
    element = {"path": "Observation.code", "binding": binding}
    return (profile("Observation", element), value_set("some", compose), COLOUR_CODES, *more)


def coloured(code: str) -> Json:
    return observation(code={"coding": [{"system": COLOURS, "code": code}]})


def sliced(path: str, kind: str, at: str, *parts: Json, **more: Any) -> Json:
    slicing = {"discriminator": [{"type": kind, "path": at}], "rules": "open", **more}
    return profile(path.split(".", 1)[0], {"path": path, "slicing": slicing}, *parts)


def category(*codes: str) -> list[Json]:
    return [{"coding": [{"system": CATEGORY, "code": code}]} for code in codes]


def part(path: str, name: str, **more: Any) -> Json:
    return {"path": f"{path}:{name}", "sliceName": name, **more}


VITAL = {"patternCodeableConcept": category("vital-signs")[0]}
LAB = {"patternCodeableConcept": category("laboratory")[0]}
PHONE = {"system": "phone", "use": "home", "value": "1"}
CATEGORIES = "Observation.category"
BODY = {"system": "http://unitsofmeasure.org", "code": "kg"}
PULSE = {"system": LOINC, "code": "8867-4"}
COLOUR = extension("colour", {"path": "Extension.value[x]", "min": 1, "type": [{"code": "code"}]})
WITH_COLOUR = profile(
    "Patient",
    part("Patient.extension", "colour", min=1, max="1", type=[{"code": "Extension", "profile": [url("colour")]}]),
)
RED = {"url": url("colour"), "valueCode": "red"}

RULES = [
    Rule(
        "least number",
        (profile("Patient", {"path": "Patient.name", "min": 2}),),
        patient(name=[NAMED, NAMED]),
        patient(name=[NAMED]),
        "Patient.name",
    ),
    Rule(
        "greatest number",
        (profile("Patient", {"path": "Patient.name", "max": "1"}),),
        patient(name=[NAMED]),
        patient(name=[NAMED, NAMED]),
        "Patient.name",
    ),
    Rule(
        "a forbidden element",
        (profile("Patient", {"path": "Patient.gender", "max": "0"}),),
        patient(),
        patient(gender="male"),
        "Patient.gender",
    ),
    Rule(
        "an element of an element that is there",
        (profile("Patient", {"path": "Patient.name.given", "min": 1}),),
        patient(),
        patient(name=[{"given": ["Zz"]}, NAMED]),
        "Patient.name[1].given",
    ),
    Rule(
        "a primitive that only says why it is absent is there",
        (profile("Patient", {"path": "Patient.birthDate", "min": 1}),),
        patient(_birthDate={"extension": [{"url": "http://example.org/why", "valueCode": "unknown"}]}),
        patient(),
        "Patient.birthDate",
    ),
    Rule(
        "a fixed value, numbers by their value",
        (profile("Observation", {"path": "Observation.value[x]", "fixedQuantity": {"value": 1, **BODY}}),),
        observation(valueQuantity={**BODY, "value": 1.0}),
        observation(valueQuantity={"value": 1, "unit": "kg", **BODY}),
        "Observation.valueQuantity",
    ),
    Rule(
        "a pattern, which more may stand beside",
        (profile("Observation", {"path": "Observation.code", "patternCodeableConcept": {"coding": [PULSE]}}),),
        observation(code={"coding": [{"system": "http://example.org", "code": "a"}, {**PULSE, "display": "pulse"}]}),
        observation(code={"coding": [{"system": LOINC, "code": "8310-5"}], "text": "pulse"}),
        "Observation.code",
    ),
    Rule(
        "fewer types of a choice",
        (
            profile(
                "Observation", {"path": "Observation.value[x]", "type": [{"code": "Quantity"}, {"code": "string"}]}
            ),
        ),
        observation(valueString="a"),
        observation(valueInteger=1),
        "Observation.valueInteger",
    ),
    Rule(
        "fewer types of a target",
        (
            profile(
                "Observation",
                {
                    "path": "Observation.subject",
                    "type": [{"code": "Reference", "targetProfile": [url("person")]}],
                },
            ),
            profile("Patient", {"path": "Patient.name", "min": 1}, name="person"),
        ),
        observation(subject={"reference": "Patient/1"}),
        observation(subject={"reference": "Group/1"}),
        "Observation.subject",
    ),
    Rule(
        "a profile of a data type",
        (
            profile("Patient", {"path": "Patient.name", "type": [{"code": "HumanName", "profile": [url("full")]}]}),
            profile("HumanName", {"path": "HumanName.family", "min": 1}, name="full"),
        ),
        patient(name=[NAMED]),
        patient(name=[{"given": ["Zz"]}]),
        "Patient.name[0].family",
    ),
    Rule(
        "one of several profiles of a data type",
        (
            profile(
                "Patient",
                {"path": "Patient.name", "type": [{"code": "HumanName", "profile": [url("full"), url("short")]}]},
            ),
            profile("HumanName", {"path": "HumanName.family", "min": 1}, name="full"),
            profile("HumanName", {"path": "HumanName.text", "min": 1}, name="short"),
        ),
        patient(name=[NAMED, {"text": "Zz"}]),
        patient(name=[NAMED, {"given": ["Zz"]}]),
        "Patient.name[1]",
    ),
    Rule(
        "a required binding to concepts that are listed",
        bound({"include": [{"system": COLOURS, "concept": [{"code": "red"}]}]}),
        coloured("red"),
        coloured("blue"),
        "Observation.code",
    ),
    Rule(
        "a required binding to a whole code system",
        bound({"include": [{"system": COLOURS}]}),
        coloured("warm"),
        coloured("green"),
        "Observation.code",
    ),
    Rule(
        "a required binding to what is below a concept",
        bound(
            {"include": [{"system": COLOURS, "filter": [{"property": "concept", "op": "is-a", "value": "warm"}]}]},
        ),
        coloured("red"),
        coloured("blue"),
        "Observation.code",
    ),
    Rule(
        "a required binding with an exclusion",
        bound({"include": [{"system": COLOURS}], "exclude": [{"system": COLOURS, "concept": [{"code": "red"}]}]}),
        coloured("blue"),
        coloured("red"),
        "Observation.code",
    ),
    Rule(
        "a required binding to what two value sets share",
        bound(
            {"include": [{"valueSet": [f"{BASE}/ValueSet/a", f"{BASE}/ValueSet/b"]}]},
            value_set("a", {"include": [{"system": COLOURS, "concept": [{"code": "red"}, {"code": "blue"}]}]}),
            value_set("b", {"include": [{"system": COLOURS, "concept": [{"code": "red"}]}]}),
        ),
        coloured("red"),
        coloured("blue"),
        "Observation.code",
    ),
    Rule(
        "a required binding of a unit",
        (
            profile(
                "Observation",
                {
                    "path": "Observation.value[x]",
                    "type": [{"code": "Quantity"}],
                    "binding": {"strength": "required", "valueSet": f"{BASE}/ValueSet/units"},
                },
            ),
            value_set("units", {"include": [{"system": BODY["system"], "concept": [{"code": "kg"}]}]}),
        ),
        observation(valueQuantity={"value": 70, **BODY}),
        observation(valueQuantity={"value": 70, **BODY, "code": "g"}),
        "Observation.valueQuantity",
    ),
    Rule(
        "an invariant of the resource",
        (
            profile(
                "Patient",
                {
                    "path": "Patient",
                    "constraint": [
                        {
                            "key": "x-1",
                            "severity": "error",
                            "human": "a name or a gender",
                            "expression": "name or gender",
                        }
                    ],
                },
            ),
        ),
        patient(gender="male"),
        patient(active=True),
        "Patient",
    ),
    Rule(
        "an invariant that speaks of another type of the choice too",
        (
            profile(
                "Observation",
                {
                    "path": "Observation.effective[x]",
                    "constraint": [
                        {
                            "key": "x-1",
                            "severity": "error",
                            "human": "a start",
                            "expression": "$this is dateTime or ($this as Period).start.exists()",
                        }
                    ],
                },
            ),
        ),
        observation(effectivePeriod={"start": "2026"}),
        observation(effectivePeriod={"end": "2026"}),
        "Observation.effectivePeriod",
    ),
    Rule(
        "an invariant of a date's precision",
        (
            profile(
                "Observation",
                {
                    "path": "Observation.effective[x]",
                    "constraint": [
                        {
                            "key": "vs-1",
                            "severity": "error",
                            "human": "a day at least",
                            "expression": "($this as dateTime).toString().length() >= 8",
                        }
                    ],
                },
            ),
        ),
        observation(effectiveDateTime="2026-03-01"),
        observation(effectiveDateTime="2026-03"),
        "Observation.effectiveDateTime",
    ),
    Rule(
        "a longest text",
        (profile("Patient", {"path": "Patient.name.text", "maxLength": 3}),),
        patient(name=[{"text": "Zzc"}]),
        patient(name=[{"text": "Zzca"}]),
        "Patient.name[0].text",
    ),
    Rule(
        "a least value",
        (profile("Observation", {"path": "Observation.value[x]", "minValueInteger": 0}),),
        observation(valueInteger=0),
        observation(valueInteger=-1),
        "Observation.valueInteger",
    ),
    Rule(
        "a greatest quantity in its unit",
        (profile("Observation", {"path": "Observation.value[x]", "maxValueQuantity": {"value": 300, **BODY}}),),
        observation(valueQuantity={"value": 300, "unit": "kilo", **BODY}),
        observation(valueQuantity={"value": 301, "unit": "kilo", **BODY}),
        "Observation.valueQuantity",
    ),
    Rule(
        "a slice by pattern that must be there",
        (sliced(CATEGORIES, "pattern", "$this", part(CATEGORIES, "vital", min=1, **VITAL)),),
        observation(category=category("laboratory", "vital-signs")),
        observation(category=category("laboratory")),
        CATEGORIES,
    ),
    Rule(
        "a slice that must be there where the element is not",
        (sliced(CATEGORIES, "pattern", "$this", part(CATEGORIES, "vital", min=1, **VITAL)),),
        observation(category=category("vital-signs")),
        observation(),
        CATEGORIES,
    ),
    Rule(
        "a slice by value below it",
        (
            sliced(
                CATEGORIES,
                "value",
                "coding.code",
                part(CATEGORIES, "vital", min=1),
                {"path": f"{CATEGORIES}:vital.coding.code", "fixedCode": "vital-signs"},
            ),
        ),
        observation(category=category("vital-signs")),
        observation(category=category("laboratory")),
        CATEGORIES,
    ),
    Rule(
        "a slice by the binding of its value",
        (
            sliced(
                CATEGORIES,
                "value",
                "$this",
                part(
                    CATEGORIES,
                    "some",
                    max="1",
                    binding={"strength": "required", "valueSet": f"{BASE}/ValueSet/some"},
                ),
            ),
            value_set("some", {"include": [{"system": CATEGORY, "concept": [{"code": "exam"}, {"code": "survey"}]}]}),
        ),
        observation(category=category("exam", "laboratory")),
        observation(category=category("exam", "survey")),
        CATEGORIES,
    ),
    Rule(
        "a slice that may be there once",
        (sliced(CATEGORIES, "pattern", "$this", part(CATEGORIES, "vital", max="1", **VITAL)),),
        observation(category=category("vital-signs", "laboratory")),
        observation(category=category("vital-signs", "vital-signs")),
        CATEGORIES,
    ),
    Rule(
        "one type of a choice, named by its key",
        (profile("Observation", {"path": "Observation.valueQuantity.code", "min": 1}),),
        observation(valueString="a"),
        observation(valueQuantity={"value": 1, "unit": "kg"}),
        "Observation.valueQuantity.code",
    ),
    Rule(
        "a quantity without a comparator",
        (
            profile(
                "Observation",
                {
                    "path": "Observation.value[x]",
                    "type": [
                        {"code": "Quantity", "profile": ["http://hl7.org/fhir/StructureDefinition/SimpleQuantity"]}
                    ],
                },
            ),
        ),
        observation(valueQuantity={"value": 1, **BODY}),
        observation(valueQuantity={"value": 1, "comparator": "<", **BODY}),
        "Observation.valueQuantity",
    ),
    Rule(
        "a resource inside another, by type",
        (profile("Bundle", {"path": "Bundle.entry.resource", "type": [{"code": "Patient"}, {"code": "Group"}]}),),
        {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": patient(active=True)}]},
        {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": observation()}]},
        "Bundle.entry[0].resource",
    ),
    Rule(
        "a resource inside another, by a profile that says the type",
        (
            profile(
                "Parameters",
                {"path": "Parameters.parameter.resource", "type": [{"code": "Resource", "profile": [url("named")]}]},
            ),
            profile("Patient", {"path": "Patient.name", "min": 1}, name="named"),
        ),
        {"resourceType": "Parameters", "parameter": [{"name": "a", "resource": patient(name=[NAMED])}]},
        {"resourceType": "Parameters", "parameter": [{"name": "a", "resource": patient(active=True)}]},
        "Parameters.parameter[0].resource.name",
    ),
    Rule(
        "an invariant of a resource inside another, which sees that one as %resource",
        (
            profile(
                "Bundle", {"path": "Bundle.entry.resource", "type": [{"code": "Patient", "profile": [url("named")]}]}
            ),
            profile(
                "Patient",
                {
                    "path": "Patient.name",
                    "constraint": [
                        {
                            "key": "x-1",
                            "severity": "error",
                            "human": "active",
                            "expression": "%resource.active.exists()",
                        }
                    ],
                },
                name="named",
            ),
        ),
        {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": patient(active=True, name=[NAMED])}]},
        {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": patient(name=[NAMED])}]},
        "Bundle.entry[0].resource.name[0]",
    ),
    Rule(
        "a slice by what the children of its value say",
        (
            sliced(
                CATEGORIES,
                "value",
                "$this",
                part(CATEGORIES, "vital", min=1),
                {"path": f"{CATEGORIES}:vital.coding.code", "fixedCode": "vital-signs"},
            ),
        ),
        observation(category=category("vital-signs")),
        observation(category=category("laboratory")),
        CATEGORIES,
    ),
    Rule(
        "a slice by what the profile of its type says",
        (
            sliced(
                CATEGORIES,
                "value",
                "coding.code",
                part(CATEGORIES, "vital", min=1, type=[{"code": "CodeableConcept", "profile": [url("vital")]}]),
            ),
            profile(
                "CodeableConcept", {"path": "CodeableConcept.coding.code", "fixedCode": "vital-signs"}, name="vital"
            ),
        ),
        observation(category=category("vital-signs")),
        observation(category=category("laboratory")),
        CATEGORIES,
    ),
    Rule(
        "a slice by a pattern that holds the path of its discriminator",
        (sliced(CATEGORIES, "value", "coding.code", part(CATEGORIES, "vital", min=1, **VITAL)),),
        observation(category=category("vital-signs")),
        observation(category=category("laboratory")),
        CATEGORIES,
    ),
    Rule(
        "a slice by an extension below it",
        (
            sliced(
                "Patient.name",
                "exists",
                f"extension('{url('colour')}')",
                part("Patient.name", "red", min=1),
                part(
                    "Patient.name:red.extension",
                    "colour",
                    min=1,
                    type=[{"code": "Extension", "profile": [url("colour")]}],
                ),
            ),
            COLOUR,
        ),
        patient(name=[{**NAMED, "extension": [RED]}]),
        patient(name=[NAMED]),
        "Patient.name",
    ),
    Rule(
        "a slice by two discriminators",
        (
            profile(
                "Patient",
                {
                    "path": "Patient.telecom",
                    "slicing": {
                        "discriminator": [{"type": "value", "path": "system"}, {"type": "value", "path": "use"}],
                        "rules": "open",
                    },
                },
                part("Patient.telecom", "home phone", max="1"),
                {"path": "Patient.telecom:home phone.system", "fixedCode": "phone"},
                {"path": "Patient.telecom:home phone.use", "fixedCode": "home"},
            ),
        ),
        patient(telecom=[PHONE, PHONE | {"use": "work"}, PHONE | {"system": "sms"}]),
        patient(telecom=[PHONE, PHONE]),
        "Patient.telecom",
    ),
    Rule(
        "closed slices",
        (sliced(CATEGORIES, "pattern", "$this", part(CATEGORIES, "vital", **VITAL), rules="closed"),),
        observation(category=category("vital-signs")),
        observation(category=category("vital-signs", "laboratory")),
        "Observation.category[1]",
    ),
    Rule(
        "slices in order",
        (
            sliced(
                CATEGORIES,
                "pattern",
                "$this",
                part(CATEGORIES, "vital", **VITAL),
                part(CATEGORIES, "lab", **LAB),
                ordered=True,
            ),
        ),
        observation(category=category("vital-signs", "laboratory")),
        observation(category=category("laboratory", "vital-signs")),
        "Observation.category[1]",
    ),
    Rule(
        "other values only after the slices",
        (sliced(CATEGORIES, "pattern", "$this", part(CATEGORIES, "vital", **VITAL), rules="openAtEnd"),),
        observation(category=category("vital-signs", "laboratory")),
        observation(category=category("laboratory", "vital-signs")),
        "Observation.category[1]",
    ),
    Rule(
        "what holds in a slice alone",
        (
            sliced(
                "Patient.identifier",
                "value",
                "system",
                part("Patient.identifier", "mrn"),
                {"path": "Patient.identifier:mrn.system", "fixedUri": "http://example.org/mrn"},
                {"path": "Patient.identifier:mrn.value", "min": 1},
            ),
        ),
        patient(
            identifier=[{"system": "http://example.org/other"}, {"system": "http://example.org/mrn", "value": "1"}]
        ),
        patient(identifier=[{"system": "http://example.org/other"}, {"system": "http://example.org/mrn"}]),
        "Patient.identifier[1].value",
    ),
    Rule(
        "a slice by the presence of an element",
        (
            sliced(
                "Patient.name",
                "exists",
                "period",
                part("Patient.name", "old"),
                {"path": "Patient.name:old.period", "min": 1},
                {"path": "Patient.name:old.family", "min": 1},
                part("Patient.name", "now", max="1"),
                {"path": "Patient.name:now.period", "max": "0"},
            ),
        ),
        patient(name=[{**NAMED, "period": {"start": "2020"}}, {"text": "Zz"}]),
        patient(name=[{"text": "Zz", "period": {"start": "2020"}}, {"text": "Zz"}]),
        "Patient.name[0].family",
    ),
    Rule(
        "a slice of a choice by type",
        (
            sliced(
                "Observation.value[x]",
                "type",
                "$this",
                part("Observation.value[x]", "valueQuantity", type=[{"code": "Quantity"}]),
                {"path": "Observation.value[x]:valueQuantity.code", "min": 1},
            ),
        ),
        observation(valueString="a"),
        observation(valueQuantity={"value": 70, "unit": "kg"}),
        "Observation.valueQuantity.code",
    ),
    Rule(
        "a slice by the type of a target",
        (
            sliced(
                "Observation.performer",
                "type",
                "resolve()",
                part(
                    "Observation.performer",
                    "who",
                    min=1,
                    type=[
                        {
                            "code": "Reference",
                            "targetProfile": ["http://hl7.org/fhir/StructureDefinition/Practitioner"],
                        }
                    ],
                ),
            ),
        ),
        observation(performer=[{"reference": "Organization/1"}, {"reference": "Practitioner/1"}]),
        observation(performer=[{"reference": "Organization/1"}]),
        "Observation.performer",
    ),
    Rule(
        "a slice of a slice",
        (
            sliced(
                "Patient.telecom",
                "value",
                "system",
                part(
                    "Patient.telecom",
                    "phone",
                    slicing={"discriminator": [{"type": "value", "path": "use"}], "rules": "open"},
                ),
                {"path": "Patient.telecom:phone.system", "fixedCode": "phone"},
                part("Patient.telecom", "phone/home", max="1"),
                {"path": "Patient.telecom:phone/home.use", "fixedCode": "home"},
            ),
        ),
        patient(
            telecom=[
                {"system": "phone", "value": "1", "use": "home"},
                {"system": "email", "value": "1", "use": "home"},
            ]
        ),
        patient(
            telecom=[
                {"system": "phone", "value": "1", "use": "home"},
                {"system": "phone", "value": "2", "use": "home"},
            ]
        ),
        "Patient.telecom",
    ),
    Rule(
        "an extension that must be there",
        (WITH_COLOUR, COLOUR),
        patient(extension=[{"url": "http://example.org/other", "valueCode": "a"}, RED]),
        patient(extension=[{"url": "http://example.org/other", "valueCode": "a"}]),
        "Patient.extension",
    ),
    Rule(
        "an extension's own definition, wherever it stands",
        (profile("Patient", {"path": "Patient.name", "min": 1}), COLOUR),
        patient(name=[{**NAMED, "_family": {"extension": [RED]}}]),
        patient(name=[{**NAMED, "_family": {"extension": [{"url": url("colour"), "valueString": "red"}]}}]),
        "Patient.name[0]._family.extension[0].valueString",
    ),
    Rule(
        "an element that is defined as one above it",
        (
            profile(
                "Questionnaire",
                {"path": "Questionnaire.item.text", "min": 1},
                {"path": "Questionnaire.item.item", "contentReference": "#Questionnaire.item"},
            ),
        ),
        {
            "resourceType": "Questionnaire",
            "status": "draft",
            "item": [
                {
                    "linkId": "1",
                    "text": "a",
                    "type": "group",
                    "item": [{"linkId": "2", "text": "b", "type": "string"}],
                }
            ],
        },
        {
            "resourceType": "Questionnaire",
            "status": "draft",
            "item": [{"linkId": "1", "text": "a", "type": "group", "item": [{"linkId": "2", "type": "string"}]}],
        },
        "Questionnaire.item[0].item[0].text",
    ),
    Rule(
        "the profile that a profile is made from",
        (
            profile("Patient", {"path": "Patient.active", "min": 1}, baseDefinition=url("q")),
            profile("Patient", {"path": "Patient.name", "min": 1}, name="q"),
        ),
        patient(active=True, name=[NAMED]),
        patient(active=True),
        "Patient.name",
    ),
    Rule(
        "slices that the profile below divides",
        (
            profile(
                "Observation",
                {"path": f"{CATEGORIES}:vital", "sliceName": "vital", "min": 1, **VITAL},
                baseDefinition=url("q"),
            ),
            {**sliced(CATEGORIES, "pattern", "$this"), "url": url("q")},
        ),
        observation(category=category("vital-signs")),
        observation(category=category("laboratory")),
        CATEGORIES,
    ),
    Rule(
        "a slice by the type of an element's choice",
        (
            sliced(
                "Observation.component",
                "type",
                "value",
                part("Observation.component", "size", min=1),
                {"path": "Observation.component:size.value[x]", "type": [{"code": "Quantity"}]},
            ),
        ),
        observation(component=[{"code": CODE, "valueQuantity": {"value": 1}}]),
        observation(component=[{"code": CODE, "valueString": "1"}]),
        "Observation.component",
    ),
    Rule(
        "an extension of a primitive that has a value",
        (
            profile(
                "Patient",
                {
                    "path": "Patient",
                    "constraint": [
                        {
                            "key": "x-1",
                            "severity": "error",
                            "human": "",
                            "expression": "birthDate.extension('why').exists() and name.given.hasExtension('a')",
                        }
                    ],
                },
            ),
        ),
        patient(
            birthDate="1970",
            _birthDate={"extension": [{"url": "why", "valueCode": "a"}]},
            name=[{"given": ["A", "B"], "_given": [None, {"extension": [{"url": "a", "valueCode": "a"}]}]}],
        ),
        patient(birthDate="1970", name=[{"given": ["A"]}]),
        "Patient",
    ),
    Rule(
        "an invariant of its own under a key that the standard has too",
        (
            profile(
                "Patient",
                {
                    "path": "Patient",
                    "constraint": [
                        {"key": "pat-1", "severity": "error", "human": "a name", "expression": "name.exists()"}
                    ],
                },
            ),
        ),
        patient(name=[NAMED]),
        patient(active=True),
        "Patient",
    ),
]


def decoded(resource: Json) -> Json:
    """As it comes off the wire: numbers are exact."""
    return parse(json.dumps(resource).encode())


@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
def test_a_rule_refuses_what_breaks_it_at_its_place_and_nothing_else(rule: Rule, tmp_path: Path) -> None:
    good, bad = decoded(rule.good), decoded(rule.bad)
    assert not is_refused(validate_r4(good))
    assert not is_refused(validate_r4(bad))
    profiles = loaded(tmp_path, *rule.definitions)
    assert ["in another unit" in note for note in profiles.notes] == [True] * ("quantity in its unit" in rule.name)
    assert profiles.judge(good) == []
    found = profiles.judge(bad)
    assert told(found) == [("error", rule.place)]
    assert f"(profile {BASE}/StructureDefinition/" in found[0].diagnostics


def test_a_bundle_is_divided_by_the_profiles_of_its_entries(tmp_path: Path) -> None:
    bundle = sliced(
        "Bundle.entry",
        "profile",
        "resource",
        part("Bundle.entry", "named", min=1, max="1"),
        {"path": "Bundle.entry:named.resource", "type": [{"code": "Patient", "profile": [url("named")]}]},
    )
    profiles = loaded(tmp_path, bundle, profile("Patient", {"path": "Patient.name", "min": 1}, name="named"))
    entries = [{"resource": patient(active=True)}, {"resource": patient(name=[NAMED])}]
    whole: Json = {"resourceType": "Bundle", "type": "collection", "entry": entries}
    assert profiles.judge(whole) == []
    assert told(profiles.judge(whole | {"entry": entries[:1]})) == [("error", "Bundle.entry")]
    assert told(profiles.judge(whole | {"entry": [*entries, entries[1]]})) == [("error", "Bundle.entry")]


def test_a_target_that_does_not_show_its_type_is_neither_missing_nor_too_much(tmp_path: Path) -> None:
    rule = next(rule for rule in RULES if rule.name == "a slice by the type of a target")
    profiles = loaded(tmp_path, *rule.definitions)
    hidden = "urn:uuid:8f4b6a5e-0000-4000-8000-000000000000"
    one = observation(performer=[{"reference": hidden}])
    assert profiles.judge(one) == []
    assert told(profiles.judge(one, types_by_url={hidden: "Organization"})) == [("error", "Observation.performer")]


def test_an_invariant_that_a_record_makes_no_sense_of_is_broken_and_not_a_fault_of_ours(tmp_path: Path) -> None:
    for at, expression in enumerate(
        ("(birthDate + 1).exists()", "extension(gender).exists()", "birthDate.substring(birthDate).exists()")
    ):
        constraint = {"key": "x-1", "severity": "error", "human": "", "expression": expression}
        (tmp_path / str(at)).mkdir()
        profiles = loaded(tmp_path / str(at), profile("Patient", {"path": "Patient", "constraint": [constraint]}))
        assert told(profiles.judge(patient(birthDate="1970-01-01"))) == [("error", "Patient")]
