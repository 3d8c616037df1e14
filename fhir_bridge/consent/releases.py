"""Say in R4 what a Consent of R4B or R5 says, so that one compiler reads all three.

For the compiler and for the grant line, which stores R4. R4B's Consent is R4's.
R5 has no ``type`` on a provision: ``decision`` is the base rule and each level
of provisions negates the one above (R5 StructureDefinition Consent,
``decision``: "provisions assumed to be a negation of the previous level").

Invariants:
    * never raises for any JSON object;
    * what R4 has no words for becomes a rule or class of a system that nobody
      knows, so that the result can be stored and is "not understood".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fhir_bridge.consent.vocabulary import ACT_CODE, CONSENT_CATEGORY, CONSENT_SCOPE, LOINC
from fhir_bridge.fhir.dates import interval

UNSAID: Final = "urn:fhir-bridge:consent-element-without-r4"
"""System of the codes that stand for elements of R5 which R4 cannot say; no policy rule or class is of it."""

MAX_NESTING: Final = 60
"""Deeper than any Consent that is understood; what lies below is marked, not read."""

_STATUS: Final = {"not-done": "rejected", "unknown": "inactive"}
_RULES: Final = {"permit": "OPTIN", "deny": "OPTOUT"}
_OPPOSITE: Final = {"permit": "deny", "deny": "permit"}
_UNTOUCHED: Final = frozenset(
    [
        "id",
        "meta",
        "language",
        "text",
        "contained",
        "extension",
        "identifier",
        "category",
        "implicitRules",
        "modifierExtension",
    ]
)
_TOLD_OTHERWISE: Final = frozenset(
    [
        "resourceType",
        "status",
        "subject",
        "date",
        "period",
        "grantor",
        "grantee",
        "manager",
        "controller",
        "regulatoryBasis",
        "policyText",
        "decision",
        "provision",
        "verification",
        "sourceAttachment",
        "sourceReference",
        "policyBasis",
    ]
)
_PROVISION: Final = frozenset(
    [
        "id",
        "extension",
        "period",
        "actor",
        "action",
        "securityLabel",
        "purpose",
        "code",
        "dataPeriod",
        "data",
        "modifierExtension",
    ]
)
_DATA_SHARING: Final = frozenset(
    {
        *((LOINC, code) for code in ("59284-0", "57016-8", "57017-6", "64292-6")),
        *((ACT_CODE, code) for code in ("ICOL", "IDSCL", "INFA", "INFAO", "INFASO", "IRDSCL", "RESEARCH")),
        *((CONSENT_CATEGORY, code) for code in ("npp", "rsdid", "rsreid", "research")),
        *((CONSENT_SCOPE, code) for code in ("patient-privacy", "research")),
    }
)
"""Categories by which an R5 Consent, which has no scope, is about the flow of data."""
_CARE: Final = frozenset(
    {
        *((CONSENT_CATEGORY, code) for code in ("acd", "dnr", "emrgonly", "hcd", "polst")),
        *((CONSENT_SCOPE, code) for code in ("adr", "treatment")),
    }
)
"""Categories of advance directives and of consents to treatment: nothing about data."""


def consent_in_r4(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the R4 Consent that says what an R5 Consent says.

    Who granted, agreed, manages and enforces it (``grantor``, ``grantee``, ``manager``, ``controller``), on which
    regulation and in which text changes no outcome; it is kept where R4 has a place and else left to the original.
    """
    told: dict[str, Any] = {"resourceType": body.get("resourceType")}
    told |= {name: value for name, value in body.items() if name in _UNTOUCHED}
    status = body.get("status")
    told["status"] = _STATUS.get(status, status) if isinstance(status, str) else status
    told["scope"] = _scope(body.get("category"))
    told.setdefault("category", [{"coding": [{"system": LOINC, "code": "59284-0"}]}])
    for name, r4_name in (("subject", "patient"), ("date", "dateTime")):
        if name in body:
            told[r4_name] = body[name]
    told |= _parties(body) | _source(body)
    if "verification" in body:
        told["verification"] = _verification(body["verification"])
    told |= _rules(body)
    strangers = sorted(body.keys() - _UNTOUCHED - _TOLD_OTHERWISE)
    # As with R4's policy.uri: where the base rule is stated, the text behind it adds nothing, unless it says so.
    basis = body.get("policyBasis", {})
    if not isinstance(basis, dict) or "modifierExtension" in basis:
        strangers.append("policyBasis")
    if strangers:
        told["policyRule"] = {"coding": _marks(strangers)}
    return told


def _scope(category: object) -> dict[str, Any]:
    pairs = {
        (each.get("system"), each.get("code"))
        for concept in (category if isinstance(category, list) else ())
        for each in (concept.get("coding") or () if isinstance(concept, dict) else ())
        if isinstance(each, dict) and isinstance(each.get("system"), str) and isinstance(each.get("code"), str)
    }
    if pairs & _DATA_SHARING:
        code = "patient-privacy"
    elif pairs and pairs <= _CARE:
        code = "treatment"
    else:
        return {"text": "not stated"}
    return {"coding": [{"system": CONSENT_SCOPE, "code": code}]}


def _parties(body: Mapping[str, Any]) -> dict[str, Any]:
    named = [*_references(body.get("grantor")), *_references(body.get("grantee"))]
    keepers = [*_references(body.get("manager")), *_references(body.get("controller"))]
    keepers = [each for each in keepers if str(each.get("reference", "")).startswith("Organization/")]
    found = {"performer": named, "organization": keepers}
    return {name: value for name, value in found.items() if value}


def _references(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _source(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first source: R4 has room for one, and it changes no outcome."""
    for name in ("sourceAttachment", "sourceReference"):
        found = _references(body.get(name))
        if found:
            return {name: found[0]}
    return {}


def _verification(value: object) -> object:
    if not isinstance(value, list):
        return value
    return [_one_verification(item) if isinstance(item, dict) else item for item in value]


def _one_verification(item: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: item[name] for name in ("id", "extension", "modifierExtension", "verified") if name in item}
    if isinstance(item.get("verifiedWith"), dict):
        kept["verifiedWith"] = item["verifiedWith"]
    dates = item.get("verificationDate")
    if isinstance(dates, list) and dates and isinstance(dates[0], str) and interval(dates[0]) is not None:
        kept["verificationDate"] = dates[0]
    return kept


def _rules(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``policyRule`` and ``provision``; without a known decision neither, which is not understood."""
    decision = body.get("decision")
    if not isinstance(decision, str) or decision not in _RULES:
        return {"policyRule": {"coding": _marks(["decision"])}}
    root: dict[str, Any] = {"period": body["period"]} if "period" in body else {}
    listed = body.get("provision")
    if isinstance(listed, list):
        nested = [_provision(each, _OPPOSITE[decision], 1) for each in listed]
        root |= {"provision": nested} if nested else {}
    elif listed is not None:
        root = _marked(root, ["provision"])
    rule = {"policyRule": {"coding": [{"system": ACT_CODE, "code": _RULES[decision]}]}}
    return rule | ({"provision": root} if root else {})


def _provision(item: object, kind: str, depth: int) -> dict[str, Any]:
    if not isinstance(item, dict) or depth > MAX_NESTING:
        return _marked({"type": kind}, ["provision"])
    told: dict[str, Any] = {"type": kind}
    told |= {name: value for name, value in item.items() if name in _PROVISION}
    if "resourceType" in item:
        told["class"] = item["resourceType"]
    strangers = sorted(item.keys() - _PROVISION - {"resourceType", "provision"})
    listed = item.get("provision")
    if isinstance(listed, list):
        told["provision"] = [_provision(each, _OPPOSITE[kind], depth + 1) for each in listed]
    elif listed is not None:
        strangers.append("provision")
    return _marked(told, strangers)


def _marked(told: dict[str, Any], strangers: list[str]) -> dict[str, Any]:
    """Add a class that nobody knows for each element of a provision that is not carried over."""
    if not strangers:
        return told
    held = told.get("class")
    return told | {"class": [*(held if isinstance(held, list) else ()), *_marks(strangers)]}


def _marks(strangers: list[str]) -> list[dict[str, str]]:
    """Return a coding for each element; its name is the code if it is one that FHIR could have."""
    names = [name if name.isascii() and name.isalpha() and len(name) < 40 else "element" for name in strangers]
    return [{"system": UNSAID, "code": name} for name in names]
