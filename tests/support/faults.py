"""Faults put into good resources of northgate: the lines of broken/manifest.csv on other types.

Every fault names the issue code that the manifest fixes for its kind.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.hospitals import SMALL, lanes

Body = dict[str, Any]
_LONG = "x" * ((1 << 20) + 1)


@dataclass(frozen=True, slots=True)
class Fault:
    """A faulty message: what is wrong, on which type, the bytes, the issue code it must be refused with.

    ``place`` is where the finding must point to, empty where there is no element to point to. An element that the
    type does not have is reported at its parent.
    """

    name: str
    type: str
    message: bytes
    code: str
    place: str = ""


def good_resources() -> dict[str, Body]:
    """Return one good resource of every clinical type that northgate sends."""
    found: dict[str, Body] = {}
    for lane in lanes("northgate", SMALL):
        for message in lane.messages:
            for entry in json.loads(message)["entry"]:
                found.setdefault(entry["resource"]["resourceType"], _alone(entry["resource"], lane.key))
    return found


def faults() -> Iterator[Fault]:
    """Yield every fault on every type it can befall."""
    for name, good in sorted(good_resources().items()):
        for fault, text, code in _BYTES:
            yield Fault(fault, name, text(json.dumps(good)), code)
        for fault, change, code, place in _ANY_TYPE:
            yield _changed(fault, good, change, code, f"{name}.{place}" if place else "")
        for fault, change, code, place in _OF_TYPE.get(name, ()):
            yield _changed(fault, good, change, code, f"{name}.{place}".rstrip("."))
        yield from _bundles(good)


def _alone(resource: Body, patient: str) -> Body:
    """Make a resource stand alone: no references into its bundle but the one to its patient."""
    text = json.dumps(resource)
    alone: Body = json.loads(text.replace(f"urn:uuid:{patient}", f"Patient/{patient}"))
    return alone


def _changed(name: str, good: Body, change: Callable[[Body], None], code: str, place: str) -> Fault:
    body = copy.deepcopy(good)
    change(body)
    return Fault(name, good["resourceType"], json.dumps(body).encode(), code, place)


def _bundles(good: Body) -> Iterator[Fault]:
    name, url = good["resourceType"], f"{good['resourceType']}/{good['id']}"
    patient = {"resourceType": "Patient", "id": "bundled", "gender": "other"}
    whole = {"resource": patient, "request": {"method": "PUT", "url": "Patient/bundled"}}
    wrong = copy.deepcopy(good)
    wrong["unheardOf"] = True
    for fault, entry, code, place in (
        ("no-request", {"resource": good}, "required", "Bundle.entry[1].request"),
        (
            "atomic",
            {"resource": wrong, "request": {"method": "PUT", "url": url}},
            "structure",
            "Bundle.entry[1].resource",
        ),
        (
            "url-type-mismatch",
            {"resource": good, "request": {"method": "PUT", "url": f"Basic/{good['id']}"}},
            "invalid",
            "Bundle.entry[1].request.url",
        ),
    ):
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [whole, entry]}
        yield Fault(f"bundle-{fault}", name, json.dumps(bundle).encode(), code, place)


def _set(**elements: Any) -> Callable[[Body], None]:
    return lambda body: body.update(elements)


def _drop(name: str) -> Callable[[Body], None]:
    return lambda body: body.__delitem__(name)


_BYTES: tuple[tuple[str, Callable[[str], bytes], str], ...] = (
    ("json-truncated", lambda text: text[:-20].encode(), "structure"),
    ("json-duplicate-key", lambda text: (text[:-1] + ', "resourceType": "Patient"}').encode(), "structure"),
    ("json-single-quotes", lambda text: text.replace('"', "'").encode(), "structure"),
    ("json-latin1", lambda text: (text[:-1] + ', "language": "espa\u00f1ol"}').encode("latin-1"), "structure"),
    ("json-array-root", lambda text: f"[{text}]".encode(), "structure"),
    ("json-lone-surrogate", lambda text: (text[:-1] + ', "language": "\\ud800"}').encode(), "value"),
    (
        "xml-entity",
        lambda _: b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><Patient>&e;</Patient>',
        "security",
    ),
)
_ANY_TYPE: tuple[tuple[str, Callable[[Body], None], str, str], ...] = (
    ("type-missing", _drop("resourceType"), "structure", ""),
    ("type-number", _set(resourceType=7), "structure", ""),
    ("unknown-nested", _set(text={"status": "generated", "div": "<div/>", "more": 1}), "structure", "text"),
    ("empty-object", _set(text={}), "structure", "text"),
    ("empty-string", _set(language=""), "value", "language"),
    ("bad-id", _set(id="bad id!"), "value", "id"),
    ("extension-no-url", _set(extension=[{"valueString": "x"}]), "required", "extension[0].url"),
    ("very-long-string", _set(implicitRules=_LONG), "too-long", "implicitRules"),
    ("instant-date-only", _set(meta={"lastUpdated": "2020-01-01"}), "value", "meta.lastUpdated"),
)
_VERIFICATION = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
_WRONG = {"reference": "Medication/one"}
_OF_TYPE: dict[str, tuple[tuple[str, Callable[[Body], None], str, str], ...]] = {
    "Condition": (
        ("required", _drop("subject"), "required", "subject"),
        ("single-for-array", _set(category={"text": "one"}), "structure", "category"),
        ("wrong-choice", _set(onsetQuantity={"value": 1}), "structure", ""),
        ("date-impossible", _set(recordedDate="2023-02-30"), "value", "recordedDate"),
        ("ref-wrong-type", _set(subject=_WRONG), "invalid", "subject"),
        (
            "invariant",
            _set(verificationStatus={"coding": [{"system": _VERIFICATION, "code": "entered-in-error"}]}),
            "invariant",
            "",
        ),
    ),
    "Encounter": (
        ("required", _drop("class"), "required", "class"),
        ("bad-code", _set(status="alien"), "code-invalid", "status"),
        ("single-for-array", _set(type={"text": "one"}), "structure", "type"),
        ("date-impossible", _set(period={"start": "2023-13-01"}), "value", "period.start"),
        ("ref-wrong-type", _set(subject=_WRONG), "invalid", "subject"),
    ),
    "Procedure": (
        ("required", _drop("status"), "required", "status"),
        ("bad-code", _set(status="alien"), "code-invalid", "status"),
        ("wrong-choice", _set(performedBoolean=True), "structure", ""),
        ("ref-wrong-type", _set(subject=_WRONG), "invalid", "subject"),
    ),
    "MedicationRequest": (
        ("required", _drop("intent"), "required", "intent"),
        ("bad-code", _set(intent="alien"), "code-invalid", "intent"),
        ("date-impossible", _set(authoredOn="2023-02-30"), "value", "authoredOn"),
        ("ref-wrong-type", _set(subject=_WRONG), "invalid", "subject"),
    ),
    "DiagnosticReport": (
        ("required", _drop("code"), "required", "code"),
        ("bad-code", _set(status="alien"), "code-invalid", "status"),
        ("bad-base64", _set(presentedForm=[{"data": "no base64!"}]), "value", "presentedForm[0].data"),
        ("ref-wrong-type", _set(result=[_WRONG]), "invalid", "result[0]"),
    ),
    "Immunization": (
        ("required", _drop("vaccineCode"), "required", "vaccineCode"),
        ("bad-code", _set(status="alien"), "code-invalid", "status"),
        ("ref-wrong-type", _set(patient=_WRONG), "invalid", "patient"),
    ),
    "Patient": (
        ("bad-code", _set(gender="alien"), "code-invalid", "gender"),
        ("date-impossible", _set(birthDate="2023-02-30"), "value", "birthDate"),
        ("single-for-array", _set(name={"family": "One"}), "structure", "name"),
        ("invariant", _set(contact=[{"gender": "other"}]), "invariant", "contact[0]"),
    ),
}
