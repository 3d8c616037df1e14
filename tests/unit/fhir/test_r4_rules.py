"""Single rules of R4: choices, bindings, references, invariants, extensions, contained resources."""

from typing import Any

import pytest

from fhir_bridge.fhir.json import parse, render
from fhir_bridge.fhir.validate import validate_r4, validate_stu3
from tests.unit.fhir.fhir_samples import Json, changed, errors, flags, observation, patient, quantity

ACTIVE = "http://terminology.hl7.org/CodeSystem/condition-clinical"
VERIFIED = "http://terminology.hl7.org/CodeSystem/condition-ver-status"


def concept(system: str, code: str) -> Json:
    return {"coding": [{"system": system, "code": code}]}


def condition(**changes: Any) -> Json:
    base = {
        "resourceType": "Condition",
        "clinicalStatus": concept(ACTIVE, "active"),
        "code": {"text": "x"},
        "subject": {"reference": "Patient/1"},
    }
    return changed(base, changes)


def medication_request(**changes: Any) -> Json:
    base = {
        "resourceType": "MedicationRequest",
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": {"text": "x"},
        "subject": {"reference": "Patient/1"},
    }
    return changed(base, changes)


VALID = {
    "observation": observation(),
    "patient": patient(),
    "condition": condition(),
    "medication request": medication_request(),
    "birth date only as extension": patient(_birthDate={"extension": [{"url": "http://x", "valueCode": "unknown"}]}),
    "required element only as extension": observation(
        status=None, _status={"extension": [{"url": "http://x", "valueCode": "unknown"}]}
    ),
    "null beside an extension": patient(
        name=[{"given": ["A", None], "_given": [None, {"extension": [{"url": "http://x", "valueString": "y"}]}]}]
    ),
    "conditional reference": observation(subject={"reference": "Patient?identifier=http://x|1"}),
    "logical reference": observation(subject={"identifier": {"system": "http://x", "value": "1"}}),
    "versioned reference": observation(subject={"reference": "Patient/1/_history/2"}),
    "absolute reference": observation(subject={"reference": "https://x.example/fhir/Patient/1"}),
    "urn reference": observation(subject={"reference": "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"}),
    "display only": observation(subject={"display": "x"}),
    "extension in extension": patient(
        extension=[{"url": "http://x", "extension": [{"url": "a", "valueString": "b"}]}]
    ),
}


@pytest.mark.parametrize("name", VALID)
def test_valid_resources_are_accepted(name: str) -> None:
    assert errors(validate_r4(parse(render(VALID[name])))) == set()


REFUSED: dict[str, tuple[Json, str, str]] = {
    "two choices": (observation(valueString="x", valueInteger=1), "structure", "Observation.valueInteger"),
    "choice and the extension of another": (
        observation(valueString="x", _valueInteger={"id": "a", "extension": [{"url": "u", "valueCode": "c"}]}),
        "structure",
        "Observation.valueInteger",
    ),
    "choice of another type": (observation(valueAddress={"city": "x"}), "structure", "Observation.valueAddress"),
    "choice without a type": (observation(value="x"), "structure", "Observation.value"),
    "choice missing": (
        medication_request(medicationCodeableConcept=None),
        "required",
        "MedicationRequest.medication[x]",
    ),
    "required element missing": (observation(code=None), "required", "Observation.code"),
    "required backbone element missing": (
        observation(component=[{"valueString": "x"}]),
        "required",
        "Observation.component[0].code",
    ),
    "code outside a required list": (patient(gender="alien"), "code-invalid", "Patient.gender"),
    "code in the wrong case": (patient(gender="Female"), "code-invalid", "Patient.gender"),
    "nested code outside its list": (
        patient(name=[{"use": "nick", "family": "x"}]),
        "code-invalid",
        "Patient.name[0].use",
    ),
    "concept outside a required set": (
        condition(clinicalStatus=concept(ACTIVE, "finished")),
        "code-invalid",
        "Condition.clinicalStatus",
    ),
    "concept of another system": (
        condition(clinicalStatus=concept("http://snomed.info/sct", "active")),
        "code-invalid",
        "Condition.clinicalStatus",
    ),
    "concept without a code": (
        condition(clinicalStatus={"text": "active"}),
        "code-invalid",
        "Condition.clinicalStatus",
    ),
    "unit of time outside its list": (
        medication_request(dosageInstruction=[{"timing": {"repeat": {"period": 1, "periodUnit": "day"}}}]),
        "code-invalid",
        "MedicationRequest.dosageInstruction[0].timing.repeat.periodUnit",
    ),
    "reference to another type": (
        observation(subject={"reference": "Medication/1"}),
        "invalid",
        "Observation.subject.reference",
    ),
    "absolute reference to another type": (
        observation(encounter={"reference": "https://x.example/fhir/Patient/1"}),
        "invalid",
        "Observation.encounter.reference",
    ),
    "conditional reference to another type": (
        observation(performer=[{"reference": "Medication?identifier=a|b"}]),
        "invalid",
        "Observation.performer[0].reference",
    ),
    "stated type that is not allowed": (
        observation(subject={"type": "Medication", "identifier": {"value": "1"}}),
        "invalid",
        "Observation.subject.type",
    ),
    "stated type that disagrees": (
        observation(subject={"type": "Group", "reference": "Patient/1"}),
        "invalid",
        "Observation.subject.type",
    ),
    "reference to a type of another release": (
        observation(basedOn=[{"reference": "ProcedureRequest/1"}]),
        "invalid",
        "Observation.basedOn[0].reference",
    ),
    "reference that is none": (observation(subject={"reference": "p1"}), "value", "Observation.subject.reference"),
    "reference in a backbone element": (
        {
            "resourceType": "Encounter",
            "status": "finished",
            "class": {"code": "AMB"},
            "participant": [{"individual": {"reference": "Patient/1"}}],
        },
        "invalid",
        "Encounter.participant[0].individual.reference",
    ),
    "modifier extension": (
        observation(modifierExtension=[{"url": "urn:x", "valueBoolean": True}]),
        "not-supported",
        "Observation.modifierExtension[0]",
    ),
    "modifier extension in a backbone element": (
        patient(contact=[{"name": {"family": "x"}, "modifierExtension": [{"url": "urn:x", "valueBoolean": True}]}]),
        "not-supported",
        "Patient.contact[0].modifierExtension[0]",
    ),
    "implicit rules": (observation(implicitRules="http://x"), "not-supported", "Observation.implicitRules"),
    "extension without url": (patient(extension=[{"valueString": "x"}]), "required", "Patient.extension[0].url"),
    "extension of a primitive without url": (
        patient(birthDate="1970", _birthDate={"extension": [{"valueString": "x"}]}),
        "required",
        "Patient._birthDate.extension[0].url",
    ),
    "extension with value and extensions": (
        patient(extension=[{"url": "u", "valueString": "x", "extension": [{"url": "a", "valueCode": "b"}]}]),
        "invariant",
        "Patient.extension[0]",
    ),
    "extension with nothing": (patient(extension=[{"url": "u"}]), "invariant", "Patient.extension[0]"),
    "extension with two values": (
        patient(extension=[{"url": "u", "valueString": "x", "valueCode": "b"}]),
        "structure",
        "Patient.extension[0].valueCode",
    ),
    "null in an array": (patient(name=[{"given": ["A", None]}]), "structure", "Patient.name[0].given[1]"),
    "null for a value": (patient(active=None, birthDate="1970", _active={}), "structure", "Patient._active"),
    "arrays of values and extensions of different length": (
        patient(name=[{"given": ["A", "B"], "_given": [None]}]),
        "structure",
        "Patient.name[0]._given",
    ),
    "object with nothing but an id": (patient(maritalStatus={"id": "x"}), "structure", "Patient.maritalStatus"),
    "element of a data type misspelt": (patient(name=[{"famly": "x"}]), "structure", "Patient.name[0]"),
    "element of a later release": (
        observation(instantiatesCanonical="http://x"),
        "structure",
        "Observation.instantiatesCanonical",
    ),
    "comments of DSTU2": (patient(fhir_comments=["x"]), "structure", "Patient"),
    "contained that nobody refers to": (
        observation(contained=[{"resourceType": "Patient", "id": "c"}]),
        "invariant",
        "Observation.contained[0]",
    ),
    "reference to nothing contained": (
        observation(subject={"reference": "#nobody"}),
        "invariant",
        "Observation.subject.reference",
    ),
    "reference to a contained resource of another type": (
        observation(contained=[{"resourceType": "Medication", "id": "c"}], subject={"reference": "#c"}),
        "invalid",
        "Observation.subject.reference",
    ),
    "contained in contained": (
        observation(
            contained=[
                {"resourceType": "Patient", "id": "c", "contained": [{"resourceType": "Organization", "id": "d"}]}
            ],
            subject={"reference": "#c"},
        ),
        "invariant",
        "Observation.contained[0].contained",
    ),
    "contained with a version": (
        observation(
            contained=[{"resourceType": "Patient", "id": "c", "meta": {"versionId": "1"}}],
            subject={"reference": "#c"},
        ),
        "invariant",
        "Observation.contained[0].meta",
    ),
    "two contained of one id": (
        observation(
            contained=[{"resourceType": "Patient", "id": "c"}, {"resourceType": "Patient", "id": "c"}],
            subject={"reference": "#c"},
        ),
        "duplicate",
        "Observation.contained[1]",
    ),
    "contained with an object for an id": (
        observation(contained=[{"resourceType": "Patient", "id": {"a": 1}}], subject={"reference": "#c"}),
        "structure",
        "Observation.contained[0].id",
    ),
    "contained with a list for an id": (
        observation(contained=[{"resourceType": "Patient", "id": ["c"]}], subject={"reference": "#c"}),
        "structure",
        "Observation.contained[0].id",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_faults_are_refused_with_code_and_place(name: str) -> None:
    resource, code, place = REFUSED[name]
    assert (code, place) in errors(validate_r4(parse(render(resource))))


def _repeat(**repeat: Any) -> Json:
    return medication_request(dosageInstruction=[{"timing": {"repeat": repeat}}])


PERIOD_BACKWARDS = {"start": "2026-03-02", "end": "2026-03-01"}

# Key of the standard → a resource that breaks it.
INVARIANTS: dict[str, Json] = {
    "obs-3": observation(referenceRange=[{"appliesTo": [{"text": "x"}]}]),
    "obs-6": observation(valueString="x", dataAbsentReason={"text": "unknown"}),
    "obs-7": observation(
        valueString="x",
        component=[{"code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]}, "valueString": "y"}],
    ),
    "qty-3": observation(valueQuantity={"value": 1, "code": "kg"}),
    "rng-2": observation(valueRange={"low": {"value": 2, "unit": "x"}, "high": {"value": 1, "unit": "x"}}),
    "rat-1": observation(valueRatio={"numerator": {"value": 1}}),
    "per-1": observation(effectiveDateTime=None, effectivePeriod=PERIOD_BACKWARDS),
    "pat-1": patient(contact=[{"gender": "female"}]),
    "att-1": patient(photo=[{"data": "QQ=="}]),
    "cpt-2": patient(telecom=[{"value": "1"}]),
    "con-1": condition(stage=[{"type": {"text": "x"}}]),
    "con-4": condition(abatementDateTime="2026"),
    "con-5": condition(verificationStatus=concept(VERIFIED, "entered-in-error")),
    "org-1": {"resourceType": "Organization", "active": True},
    "org-2": {"resourceType": "Organization", "name": "x", "address": [{"use": "home", "city": "x"}]},
    "org-3": {"resourceType": "Organization", "name": "x", "telecom": [{"use": "home"}]},
    "tim-1": _repeat(duration=1),
    "tim-2": _repeat(period=1),
    "tim-4": _repeat(duration=-1, durationUnit="h"),
    "tim-5": _repeat(period=-1, periodUnit="h"),
    "tim-6": _repeat(periodMax=2),
    "tim-7": _repeat(durationMax=2),
    "tim-8": _repeat(countMax=2),
    "tim-9": _repeat(offset=5),
    "tim-10": _repeat(timeOfDay=["08:00:00"], when=["AC"]),
    "mad-1": {
        "resourceType": "MedicationAdministration",
        "status": "completed",
        "medicationCodeableConcept": {"text": "x"},
        "subject": {"reference": "Patient/1"},
        "effectiveDateTime": "2026",
        "dosage": {"text": "x"},
    },
    "mdd-1": {
        "resourceType": "MedicationDispense",
        "status": "completed",
        "medicationCodeableConcept": {"text": "x"},
        "whenPrepared": "2026-03-02",
        "whenHandedOver": "2026-03-01",
    },
    "cpl-3": {
        "resourceType": "CarePlan",
        "status": "active",
        "intent": "plan",
        "subject": {"reference": "Patient/1"},
        "activity": [{"reference": {"reference": "Task/1"}, "detail": {"status": "completed"}}],
    },
    "ait-1": {"resourceType": "AllergyIntolerance", "patient": {"reference": "Patient/1"}, "code": {"text": "x"}},
    "prr-1": {
        "resourceType": "ServiceRequest",
        "status": "active",
        "intent": "order",
        "subject": {"reference": "Patient/1"},
        "orderDetail": [{"text": "x"}],
    },
    "sev-1": {
        "resourceType": "AuditEvent",
        "type": {"code": "x"},
        "recorded": "2026-01-01T00:00:00Z",
        "agent": [{"requestor": True}],
        "source": {"observer": {"display": "x"}},
        "entity": [{"name": "x", "query": "QQ=="}],
    },
    "ppc-1": {
        "resourceType": "Consent",
        "status": "active",
        "scope": {"text": "x"},
        "category": [{"text": "x"}],
        "patient": {"reference": "Patient/1"},
    },
    "lst-2": {
        "resourceType": "List",
        "status": "current",
        "mode": "working",
        "entry": [{"deleted": True, "item": {"display": "x"}}],
    },
    "fhs-1": {
        "resourceType": "FamilyMemberHistory",
        "status": "completed",
        "patient": {"reference": "Patient/1"},
        "relationship": {"text": "x"},
        "ageString": "5",
        "bornString": "x",
    },
    "que-2": {
        "resourceType": "Questionnaire",
        "status": "draft",
        "item": [{"linkId": "1", "type": "string"}, {"linkId": "1", "type": "string"}],
    },
    "bdl-1": {"resourceType": "Bundle", "type": "collection", "total": 1},
    "bdl-3": {"resourceType": "Bundle", "type": "batch", "entry": [{"resource": patient()}]},
    "bdl-5": {"resourceType": "Bundle", "type": "collection", "entry": [{"fullUrl": "http://x"}]},
    "bdl-7": {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [
            {"fullUrl": "urn:oid:1.2", "resource": patient()},
            {"fullUrl": "urn:oid:1.2", "resource": patient()},
        ],
    },
    "bdl-8": {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"fullUrl": "http://x/Patient/1/_history/1", "resource": patient()}],
    },
    "inv-1": {"resourceType": "Parameters", "parameter": [{"name": "x"}]},
}


@pytest.mark.parametrize("key", INVARIANTS)
def test_a_broken_invariant_is_refused_under_its_key(key: str) -> None:
    found = [i for i in validate_r4(parse(render(INVARIANTS[key]))) if i.severity == "error"]
    assert [i.diagnostics.split(":")[0] for i in found] == [key]
    assert found[0].code == "invariant"


def test_a_period_that_might_be_in_order_is_accepted() -> None:
    same_day = {"start": "2026-03-01T23:00:00+05:00", "end": "2026-03-01"}
    assert errors(validate_r4(observation(effectiveDateTime=None, effectivePeriod=same_day))) == set()


def test_an_unread_modifier_on_basic_is_flagged() -> None:
    basic: Json = {
        "resourceType": "Basic",
        "code": {"text": "x"},
        "modifierExtension": [{"url": "urn:x", "valueBoolean": True}],
    }
    issues = validate_r4(basic)
    assert (errors(issues), flags(issues)) == (set(), {("not-supported", "Basic.modifierExtension[0]")})


def test_stu3_on_the_r4_channel_is_a_matter_of_structure() -> None:
    stu3: Json = {
        "resourceType": "Condition",
        "clinicalStatus": "active",
        "verificationStatus": "confirmed",
        "code": {"text": "x"},
        "subject": {"reference": "Patient/1"},
        "assertedDate": "2019-01-01",
    }
    assert {code for code, _ in errors(validate_r4(stu3))} == {"structure"}
    assert errors(validate_stu3(stu3)) == set()
    assert errors(validate_stu3(condition())) != set()


@pytest.mark.parametrize(
    ("types", "expected"),
    [({"urn:uuid:c757873d-ec9a-4326-a141-556f43239520": "Medication"}, "invalid"), ({"urn:uuid:x": "Patient"}, None)],
)
def test_a_urn_is_judged_by_the_entry_it_names(types: dict[str, str], expected: str | None) -> None:
    resource = observation(subject={"reference": "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"})
    found = {code for code, _ in errors(validate_r4(resource, types_by_url=types))}
    assert found == ({expected} if expected else set())


def test_no_finding_repeats_what_the_sender_wrote() -> None:
    for resource in (
        patient(gender="Zzcanary", birthDate="Zzcanary", Zzcanary="Zzcanary", id="Zzcanary Zzcanary"),
        patient(name=[{"Zzcanary": "x"}], extension=[{"url": "Zzcanary Zz"}]),
        observation(subject={"reference": "Zzcanary"}, valueQuantity=quantity(-5, "Zzcanary")),
    ):
        assert "anary" not in repr(validate_r4(resource))


def test_findings_are_bounded() -> None:
    assert len(validate_r4(patient(name=[{"use": "zz"}] * 5000))) == 100


@pytest.mark.parametrize(
    ("coding", "code", "flagged"),
    [
        ({"system": "http://hl7.org/fhir/action-type", "code": "create"}, None, False),
        ({"code": "create"}, None, True),
        ({"display": "x"}, None, False),
        ({"system": "http://hl7.org/fhir/action-type", "code": "creates"}, "code-invalid", False),
        ({"system": "http://x.example", "code": "create"}, "code-invalid", False),
        ({"code": "creates"}, "code-invalid", False),
    ],
)
def test_a_coding_under_a_required_binding_is_judged_with_its_system(
    coding: Json, code: str | None, flagged: bool
) -> None:
    """``PlanDefinition.action.type`` of STU3, the one such element."""
    issues = validate_stu3({"resourceType": "PlanDefinition", "status": "draft", "action": [{"type": coding}]})
    place = "PlanDefinition.action[0].type.code"
    assert errors(issues) == ({(code, place)} if code else set())
    assert flags(issues) == ({("code-invalid", place)} if flagged else set())


@pytest.mark.parametrize(("most", "broken"), [("-1", True), ("1", False), ("*", False)])
def test_an_invariant_of_a_primitive_element_is_checked_at_its_place(most: str, broken: bool) -> None:
    """eld-3 stands on ``ElementDefinition.max``."""
    element = {"id": "Patient.x", "path": "Patient.x", "max": most}
    definition: Json = {
        "resourceType": "StructureDefinition",
        "url": "http://x.example/a",
        "name": "A",
        "status": "draft",
        "kind": "resource",
        "abstract": False,
        "type": "Patient",
        "baseDefinition": "http://hl7.org/fhir/StructureDefinition/Patient",
        "derivation": "constraint",
        "differential": {"element": [{"id": "Patient", "path": "Patient"}, element]},
    }
    place = "StructureDefinition.differential.element[1].max"
    assert errors(validate_r4(definition)) == ({("invariant", place)} if broken else set())


def test_resources_in_a_bundle_are_judged_unless_told_otherwise() -> None:
    bundle: Json = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": patient(gender="x")}]}
    assert errors(validate_r4(bundle)) == {("code-invalid", "Bundle.entry[0].resource.gender")}
    assert errors(validate_r4(bundle, entries=False)) == set()
