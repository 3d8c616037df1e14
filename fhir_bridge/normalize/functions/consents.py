"""Say in R4 what a Consent of STU3 or R5 permits and denies, and what it does not.

Called by rules of ``core/stu3`` and ``core/r5``. R4 has one ``provision`` whose parts are exceptions to it
(R4 consent.html); R5 has a list of exceptions to ``decision``, each level negating the one above, and STU3 a list
``except`` beside the terms of the whole.
"""

from __future__ import annotations

from typing import Any

from fhir_bridge.errors import Issue
from fhir_bridge.normalize.draft import Draft, Unconvertible
from fhir_bridge.normalize.functions.editing import swap
from fhir_bridge.normalize.regrouping import regroup
from fhir_bridge.normalize.verb_args import Act, Args

_ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
_RULES = {"permit": "OPTIN", "deny": "OPTOUT"}
_OPPOSITE = {"permit": "deny", "deny": "permit"}
# R5 consent.html names what R4 calls otherwise; the rest of each part has the same name.
_RENAMED = {"subject": "patient", "date": "dateTime"}
# What R4 cannot say: in its class, a type of document would be an alternative to the types of records beside it.
_UNSAYABLE = ("documentType", "expression")
_TERMS = ("period", "actor", "action", "securityLabel", "purpose", "class", "code", "dataPeriod", "data")


def consent_r5(args: Args) -> Act:
    """Turn ``decision`` and its exceptions into ``policyRule`` and ``provision``."""
    by = args.bench.by

    def act(draft: Draft) -> None:
        body = draft.body
        if "decision" not in body and "subject" not in body:
            return
        before = dict(body)
        for old, new in _RENAMED.items():
            if old in body:
                body[new] = body.pop(old)
        parties = [*body.pop("grantor", ()), *body.pop("grantee", ())]
        if parties:
            body["performer"] = parties
        keepers = [*body.pop("manager", ()), *body.pop("controller", ())]
        if keepers:
            body["organization"] = keepers
        decision = body.pop("decision", None)
        if decision is not None:
            body["policyRule"] = {"coding": [{"system": _ACT_CODE, "code": _RULES[decision]}]}
        elif "provision" in body:
            raise Unconvertible(Issue("error", "not-supported", "exceptions without a decision", "Consent.provision"))
        root = {"period": body.pop("period")} if "period" in body else {}
        if "provision" in body:
            root["provision"] = [_exception(each, _OPPOSITE[decision]) for each in body.pop("provision")]
        if root:
            body["provision"] = root
        read = {"policyRule": {"coding[0].code": "Consent.decision"}}
        regroup(draft, by, "Consent", before, body, read)

    return act


def _exception(part: dict[str, Any], kind: str) -> dict[str, Any]:
    for key in _UNSAYABLE:
        if key in part:
            text = f"R4 has no place for {key}, which says what a provision is about"
            raise Unconvertible(Issue("error", "not-supported", text, "Consent.provision"))
    made = {"type": kind, **{key: value for key, value in part.items() if key not in ("resourceType", "provision")}}
    if "resourceType" in part:
        made["class"] = part["resourceType"]
    if "provision" in part:
        made["provision"] = [_exception(each, _OPPOSITE[kind]) for each in part["provision"]]
    return made


def consent_stu3(args: Args) -> Act:
    """Gather the terms of the whole and its exceptions in ``provision``."""
    by = args.bench.by

    def act(draft: Draft) -> None:
        body = draft.body
        # R4's own provision is a single object, so a second run finds none of these.
        terms = {key: body[key] for key in _TERMS if key in body}
        exceptions = body.get("except", ())
        if not terms and not exceptions:
            return
        provision = {**terms, "provision": [_coded(each) for each in exceptions]} if exceptions else terms
        gone = dict.fromkeys((*terms, "except"))
        swap(draft, by, body, "Consent", **gone, provision=_coded(provision))

    return act


def _coded(part: dict[str, Any]) -> dict[str, Any]:
    """STU3's ``code`` is a list of Codings, R4's of CodeableConcepts."""
    codes = part.get("code")
    if type(codes) is list and not any("coding" in each for each in codes):
        return {**part, "code": [{"coding": [each]} for each in codes]}
    return part
