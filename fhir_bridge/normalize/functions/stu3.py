"""Conversions from STU3 in which one element becomes several, or several one.

Called by rules of ``core/stu3``; each names the page of R4 whose "R3 Diff" it follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fhir_bridge.normalize.draft import By, Draft
from fhir_bridge.normalize.functions.fit import CROSS_VERSION
from fhir_bridge.normalize.verb_args import Act, Args

_OID = "urn:oid:"


def lift(args: Args) -> Act:
    """Put one child of a part in the place of the part: ``requester.agent`` becomes ``requester``.

    What else stood in the part follows as an extension of the child.
    """
    place, by = args.place("path"), args.bench.by
    child = args.text("child")

    def act(draft: Draft) -> None:
        for found in place.find(draft.body):
            before = found.value
            items = before if type(before) is list else [before]
            if not any(type(item) is dict and child in item for item in items):
                continue
            sources: dict[str, str] = {}
            made = []
            for item, where in found.each():
                lifted, inner = _lifted(item, child, f"{draft.sent_type}.{place.text}", where)
                at = where.removeprefix(found.place)
                sources |= {f"{at}.{to}".strip(".") if to else at: source for to, source in inner.items()}
                made.append(lifted)
            found.parent[found.key] = made if type(before) is list else made[0]
            draft.changed(by, found.place, before, found.parent[found.key], sources=sources)

    return act


def _lifted(part: dict[str, Any], child: str, path: str, place: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the child of a part with what stood beside it, and where each piece of that comes from."""
    if child not in part:
        return part, {}
    made, sources = dict(part[child]), {"": f"{place}.{child}"}
    rest = {k: v for k, v in part.items() if k not in (child, "id", "extension")}
    if rest:
        held = made.pop("extension", [])
        beside = list(_beside(rest, path, place))
        for index, (extension, source) in enumerate(beside, len(held)):
            # A url beside it is not in the child; the rule writes it.
            sources[f"extension[{index}].{list(extension)[-1]}"] = source
        # An extension stands in front of what it belongs to.
        made = {"extension": [*held, *(extension for extension, _ in beside)], **made}
    return made, sources


def _beside(parts: Mapping[str, Any], path: str, place: str) -> Iterator[tuple[dict[str, Any], str]]:
    for key, value in parts.items():
        for index, item in enumerate(value if type(value) is list else [value]):
            kind = "CodeableConcept" if type(item) is dict and ("coding" in item or "text" in item) else "Reference"
            value_key = "valueString" if type(item) is str else f"value{kind}"
            source = f"{place}.{key}[{index}]" if type(value) is list else f"{place}.{key}"
            yield {"url": f"{CROSS_VERSION}{path}.{key}", value_key: item}, source


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
        before = {key: body[key] for key in ("uid", "accession", "availability") if key in body}
        identifiers, sources = [], {}
        if "uid" in body:
            identifiers.append(_uid_identifier(body.pop("uid")))
            sources["[0].value"] = "ImagingStudy.uid"
        if "accession" in body:
            sources[f"[{len(identifiers)}]"] = "ImagingStudy.accession"
            identifiers.append(body.pop("accession"))
        if identifiers:
            held = body.get("identifier")
            body["identifier"] = [*identifiers, *(held or ())]
            sources |= {f"[{len(identifiers) + i}]": f"ImagingStudy.identifier[{i}]" for i in range(len(held or ()))}
            draft.changed(by, "ImagingStudy.identifier", held, body["identifier"], sources=sources)
        if "status" not in body:
            body["status"] = _study_status(body)
            draft.changed(by, "ImagingStudy.status", None, body["status"])
        for key in ("uid", "accession"):
            draft.changed(by, f"ImagingStudy.{key}", before.get(key), None)
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
            instance["sopClass"] = {"system": "urn:ietf:rfc:3986", "code": before}
            sources = {"code": f"{where}.sopClass"}
            draft.changed(by, f"{where}.sopClass", before, instance["sopClass"], sources=sources)


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
        udi = body.pop("udi", None)
        if type(udi) is dict:
            carrier = {k: v for k, v in udi.items() if k != "name"}
            body["udiCarrier"] = [carrier]
            draft.changed(by, "Device.udiCarrier", None, [carrier], sources={"[0]": "Device.udi"})
            if "name" in udi:
                named = {"name": udi["name"], "type": "udi-label-name"}
                _append(draft, by, "deviceName", named, {"name": "Device.udi.name"})
            draft.changed(by, "Device.udi", udi, None)
            _serial_number(draft, by, carrier)
        if "model" in body:
            body["modelNumber"] = model = body.pop("model")
            draft.moved(by, "Device.model", "Device.modelNumber", model)
        if type(body.get("version")) is str:
            before = body["version"]
            body["version"] = [{"value": before}]
            draft.changed(by, "Device.version", before, body["version"], sources={"[0].value": "Device.version"})

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


def _append(draft: Draft, by: By, key: str, item: dict[str, Any], sources: Mapping[str, str]) -> None:
    held = draft.body.get(key) or []
    draft.body[key] = [*held, item]
    draft.changed(by, f"{draft.body['resourceType']}.{key}[{len(held)}]", None, item, sources=sources)


# R4 adjudication codes for what STU3 had as elements of their own (explanationofbenefit.html).
_TOTALS = (("totalCost", "submitted"), ("totalBenefit", "benefit"), ("unallocDeductable", "deductible"))
_ADJUDICATION = "http://terminology.hl7.org/CodeSystem/adjudication"


def benefit_totals(args: Args) -> Act:
    """STU3's three totals become entries of R4's ``total``."""
    by = args.bench.by

    def act(draft: Draft) -> None:
        for key, code in _TOTALS:
            if key in draft.body:
                amount, place = draft.body.pop(key), f"ExplanationOfBenefit.{key}"
                category = {"coding": [{"system": _ADJUDICATION, "code": code}]}
                _append(draft, by, "total", {"category": category, "amount": amount}, {"amount": place})
                draft.changed(by, place, amount, None)

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
        for index, item in enumerate(related):
            key = _RELATED.get(item.get("type"))
            if key and "target" in item:
                _append(draft, by, key, item["target"], {"": f"Observation.related[{index}].target"})
            else:
                left.append(item)
        if left != related:
            draft.changed(by, "Observation.related", related, left or None)
            draft.body["related"] = left
            if not left:
                del draft.body["related"]

    return act


def become(args: Args) -> Act:
    """Give the resource the type that R4 calls it."""
    by, name = args.bench.by, args.text("type")

    def act(draft: Draft) -> None:
        before = draft.body["resourceType"]
        draft.body["resourceType"] = name
        draft.changed(by, f"{before}.resourceType", before, name)

    return act
