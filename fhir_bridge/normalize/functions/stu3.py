"""Conversions from STU3 in which one element becomes several, or several one.

Called by rules of ``core/stu3``; each names the page of R4 whose "R3 Diff" it follows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fhir_bridge.normalize.draft import By, Draft
from fhir_bridge.normalize.functions.editing import listed, swap
from fhir_bridge.normalize.verb_args import Act, Args

_OID = "urn:oid:"


def not_done(args: Args) -> Act:
    """``notDone``/``notGiven`` true is the status ``not-done`` in R4; false says nothing that the status does not."""
    by = args.bench.by

    def act(draft: Draft) -> None:
        body, name = draft.body, draft.body["resourceType"]
        for key in ("notDone", "notGiven"):
            if key not in body:
                continue
            flag, place = body.pop(key), f"{name}.{key}"
            if flag is True and body.get("status") != "entered-in-error":
                draft.changed(by, f"{name}.status", body.get("status"), "not-done", sources={"": place})
                body["status"] = "not-done"
            draft.changed(by, place, flag, None)
        for key in ("notDoneReason", "notDoneReasonCodeableConcept", "reasonNotGiven"):
            if key in body and "statusReason" not in body:
                body["statusReason"] = value = body.pop(key)
                draft.moved(by, f"{name}.{key}", f"{name}.statusReason", value)

    return act


def imaging_study(args: Args) -> Act:
    """Study UID as identifier, status from what is there, SOP classes as codings (R4 imagingstudy.html)."""
    by = args.bench.by

    def act(draft: Draft) -> None:
        body = draft.body
        identifiers = [_uid_identifier(body["uid"])] if "uid" in body else []
        if "accession" in body:
            identifiers.append(body["accession"])
        if identifiers:
            held = listed(body.get("identifier"))
            swap(draft, by, body, "ImagingStudy", identifier=[*identifiers, *held], uid=None, accession=None)
        if "status" not in body:
            body["status"] = _study_status(body)
            draft.changed(by, "ImagingStudy.status", None, body["status"])
        for index, series in enumerate(body.get("series", ())):
            _dicom_parts(draft, by, series, f"ImagingStudy.series[{index}]")

    return act


def _uid_identifier(uid: str) -> dict[str, Any]:
    # R4 imagingstudy.html#notes: the Study Instance UID has the system urn:dicom:uid.
    return {"system": "urn:dicom:uid", "value": uid}


def _study_status(body: Mapping[str, Any]) -> str:
    """R4's ``available`` means that at least one instance belongs to the study, ``registered`` that none does yet."""
    instances = [i for series in body.get("series", ()) for i in series.get("instance", ())]
    if instances or body.get("availability") in ("ONLINE", "NEARLINE"):
        return "available"
    return "unknown"


def _dicom_parts(draft: Draft, by: By, series: dict[str, Any], place: str) -> None:
    _strip_oid(draft, by, series, place)
    for index, instance in enumerate(series.get("instance", ())):
        where = f"{place}.instance[{index}]"
        _strip_oid(draft, by, instance, where)
        before = instance.get("sopClass")
        if type(before) is str:
            beside = instance.get("_sopClass", {})
            made = {**beside, "system": "urn:ietf:rfc:3986", "code": before}
            sources = {"code": f"{where}.sopClass"} | {key: f"{where}._sopClass.{key}" for key in beside}
            instance["sopClass"] = made
            draft.changed(by, f"{where}.sopClass", before, made, sources=sources)
            if beside:
                draft.changed(by, f"{where}._sopClass", instance.pop("_sopClass"), None)


def _strip_oid(draft: Draft, by: By, holder: dict[str, Any], place: str) -> None:
    before = holder.get("uid")
    if type(before) is str and before.startswith(_OID):
        holder["uid"] = before.removeprefix(_OID)
        draft.changed(by, f"{place}.uid", before, holder["uid"])


def device(args: Args) -> Act:
    """``udi`` becomes ``udiCarrier`` and names; a serial number that its carrier spells out is filled in."""
    by = args.bench.by

    def act(draft: Draft) -> None:
        body = draft.body
        udi = body.get("udi")
        if type(udi) is dict:
            carrier = {k: v for k, v in udi.items() if k != "name"}
            named = [{"name": udi["name"], "type": "udi-label-name"}] if "name" in udi else []
            names = [*listed(body.get("deviceName")), *named]
            swap(draft, by, body, "Device", udiCarrier=[carrier], deviceName=names, udi=None)
            _serial_number(draft, by, carrier)
        if "model" in body:
            swap(draft, by, body, "Device", modelNumber=body["model"], model=None)
        if type(body.get("version")) is str:
            value = {"value": body["version"]} | ({"_value": body["_version"]} if "_version" in body else {})
            swap(draft, by, body, "Device", version=[value], _version=None)

    return act


# GS1 General Specifications, application identifier 21: serial number, up to 20 characters.
_SERIAL = re.compile(r"\(21\)([^()]{1,20})(?:\(|$)")


def _serial_number(draft: Draft, by: By, carrier: Mapping[str, Any]) -> None:
    text = carrier.get("carrierHRF")
    found = _SERIAL.search(text) if type(text) is str else None
    if found and "serialNumber" not in draft.body:
        draft.body["serialNumber"] = found[1]
        read = {"": "Device.udiCarrier[0].carrierHRF"}
        draft.changed(by, "Device.serialNumber", None, found[1], sources=read)


# R4 adjudication codes for what STU3 had as elements of their own (explanationofbenefit.html).
_TOTALS = (("totalCost", "submitted"), ("totalBenefit", "benefit"), ("unallocDeductable", "deductible"))
_ADJUDICATION = "http://terminology.hl7.org/CodeSystem/adjudication"


def benefit_totals(args: Args) -> Act:
    """STU3's three totals become entries of R4's ``total``."""
    by = args.bench.by

    def act(draft: Draft) -> None:
        for key, code in _TOTALS:
            if key in draft.body:
                category = {"coding": [{"system": _ADJUDICATION, "code": code}]}
                total = {"category": category, "amount": draft.body[key]}
                totals = [*listed(draft.body.get("total")), total]
                swap(draft, by, draft.body, str(draft.body["resourceType"]), total=totals, **{key: None})

    return act


_RELATED = {"has-member": "hasMember", "derived-from": "derivedFrom"}


def observation_related(args: Args) -> Act:
    """``related`` splits by its type (observation.html); what has no element in R4 is left for an extension."""
    by = args.bench.by

    def act(draft: Draft) -> None:
        related = draft.body.get("related")
        if type(related) is not list:
            return
        left = []
        after: dict[str, list[Any]] = {}
        for item in related:
            key = _RELATED.get(item.get("type"))
            if key and set(item) == {"type", "target"}:
                after.setdefault(key, listed(draft.body.get(key))[:]).append(item["target"])
            else:
                left.append(item)
        if after:
            swap(draft, by, draft.body, "Observation", **after, related=left)

    return act


def explanation(args: Args) -> Act:
    """STU3 keeps why a vaccine was given, and why not, in one part; R4 in two elements (immunization.html)."""
    by = args.bench.by
    names = {"reason": "reasonCode", "reasonNotGiven": "statusReason"}

    def act(draft: Draft) -> None:
        part = draft.body.get("explanation")
        if type(part) is not dict or set(part) - set(names):
            return
        after = {new: part[old] for old, new in names.items() if old in part and new not in draft.body}
        swap(draft, by, draft.body, "Immunization", **after, explanation=None)

    return act


_PRISM = {"_prism": "_amount", "_base": "_base"}


def prisms(args: Args) -> Act:
    """STU3 has one prism with its base, R4 a list of both (visionprescription.html); R4 requires both."""
    by = args.bench.by

    def act(draft: Draft) -> None:
        for index, lens in enumerate(draft.body.get("dispense", ())):
            if not isinstance(lens.get("prism"), list) and "prism" in lens and "base" in lens:
                beside = {new: lens[old] for old, new in _PRISM.items() if old in lens}
                made = [{"amount": lens["prism"], "base": lens["base"], **beside}]
                gone = dict.fromkeys(("base", *_PRISM))
                swap(draft, by, lens, f"VisionPrescription.dispense[{index}]", prism=made, **gone)

    return act


def user_ids(args: Args) -> Act:
    """R4 auditevent.html: who and what, by reference and by identifier in one Reference."""
    by = args.bench.by

    def act(draft: Draft) -> None:
        for part, old, new in (("agent", "userId", "who"), ("entity", "identifier", "what")):
            for index, each in enumerate(draft.body.get(part, ())):
                if old in each and "identifier" not in each.get(new, {}):
                    made = {**each.get(new, {}), "identifier": each[old]}
                    swap(draft, by, each, f"AuditEvent.{part}[{index}]", **{new: made, old: None})

    return act


_COVERAGE_CLASS = "http://terminology.hl7.org/CodeSystem/coverage-class"
_GROUPINGS = {
    "group": "group",
    "subGroup": "subgroup",
    "plan": "plan",
    "subPlan": "subplan",
    "class": "class",
    "subClass": "subclass",
}


def coverage_classes(args: Args) -> Act:
    """R4 coverage.html: each grouping of STU3 is a ``class`` with type, value and name."""
    by = args.bench.by

    def act(draft: Draft) -> None:
        held = draft.body.get("grouping")
        if type(held) is not dict:
            return
        left, made = dict(held), []
        for key, code in _GROUPINGS.items():
            if key in left:
                each = {"type": {"coding": [{"system": _COVERAGE_CLASS, "code": code}]}, "value": left.pop(key)}
                name = left.pop(f"{key}Display", None)
                made.append({**each, "name": name} if name is not None else each)
        classes = [*listed(draft.body.get("class")), *made]
        swap(draft, by, draft.body, "Coverage", **{"class": classes, "grouping": left})

    return act


def package_batch(args: Args) -> Act:
    """R4 medication.html: the batch stands beside what it is a batch of; there is one."""
    by = args.bench.by

    def act(draft: Draft) -> None:
        package = draft.body.get("package")
        if type(package) is not dict:
            return
        batches = package.get("batch", [])
        if len(batches) == 1 and "batch" not in draft.body:
            left = {key: value for key, value in package.items() if key != "batch"}
            swap(draft, by, draft.body, "Medication", batch=batches[0], package=left)

    return act


def eligibility(args: Args) -> Act:
    """R4 healthcareservice.html: eligibility is a list of codes with comments."""
    by = args.bench.by

    def act(draft: Draft) -> None:
        held = draft.body.get("eligibility")
        if type(held) is dict:
            made = {"code": held}
            if "eligibilityNote" in draft.body:
                made["comment"] = draft.body["eligibilityNote"]
            swap(draft, by, draft.body, "HealthcareService", eligibility=[made], eligibilityNote=None)

    return act
