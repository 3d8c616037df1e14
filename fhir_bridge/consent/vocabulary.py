"""Code systems that consents are written in, and the two hierarchies that matter.

For compiling and matching. The tables are copied by hand from HL7 Terminology
as FHIR R4 (4.0.1) carries it; a code that is not here is not understood, never
guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ACT_CODE: Final = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
ACT_REASON: Final = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
CONFIDENTIALITY: Final = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
CONSENT_ACTION: Final = "http://terminology.hl7.org/CodeSystem/consentaction"
CONSENT_CATEGORY: Final = "http://terminology.hl7.org/CodeSystem/consentcategorycodes"
CONSENT_SCOPE: Final = "http://terminology.hl7.org/CodeSystem/consentscope"
DIAGNOSTIC_SECTION: Final = "http://terminology.hl7.org/CodeSystem/v2-0074"
LOINC: Final = "http://loinc.org"
PARTICIPATION_TYPE: Final = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
PRACTITIONER_ROLE: Final = "http://terminology.hl7.org/CodeSystem/practitioner-role"
RESOURCE_TYPES: Final = "http://hl7.org/fhir/resource-types"

PCF_POLICY: Final = "https://profiles.ihe.net/ITI/PCF/"
"""Base of the overarching policies that IHE PCF 1.1 names (volume 1, 53.2.1)."""

LEVELS: Final[Mapping[str, int]] = {"U": 0, "L": 1, "M": 2, "N": 3, "R": 4, "V": 5}
"""v3-Confidentiality from unrestricted to very restricted."""

RECIPIENT_ROLES: Final = frozenset({"IRCP", "PRCP", "RCV"})
"""v3-ParticipationType codes that make an actor the one who gets to see the data."""

EMERGENCIES: Final = ("BTG", "ERTREAT", "ETREAT")
"""v3-ActReason codes of care in an emergency: break the glass, emergency room, emergency treatment."""

READING: Final = frozenset({"access", "disclose", "use"})
"""consentaction codes that an answer exercises."""

ACTIONS: Final = READING | {"collect", "correct"}

FREE_TEXT_TYPES: Final = frozenset({"DocumentReference", "DocumentManifest", "Composition", "Binary", "Media"})
"""Types whose content no code describes, so that a sensitive topic may hide in them."""

_CHILDREN: Final = {
    "HOPERAT": (
        "CAREMGT DONAT FRAUD GOV HACCRED HCOMPL HDECD HDIRECT HDM HLEGAL HOUTCOMS HPRGRP HQUALIMP HSYSADMIN"
        " MEMADMIN MILCDM PATADMIN PATSFTY PERFMSR RECORDMGT SYSDEV TRAIN"
    ),
    "HSYSADMIN": "LABELING METAMGT",
    "SYSDEV": "HTEST",
    "HPAYMT": "CLMATTCH COVAUTH COVERAGE REMITADV",
    "COVERAGE": "ELIGDTRM ELIGVER ENROLLM MILDCRG",
    "HRESCH": "BIORCH CLINTRCH DSRCH POARCH TRANSRCH",
    "CLINTRCH": "CLINTRCHNPC CLINTRCHPC PRECLINTRCH",
    "PATRQT": "FAMRQT PWATRNY SUPNWK",
    "PUBHLTH": "DISASTER THREAT",
    "TREAT": "CLINTRL COC ETREAT POPHLTH",
    "ETREAT": "BTG ERTREAT",
}
_PARENT: Final = {child: parent for parent, names in _CHILDREN.items() for child in names.split()}


def purposes_of(purpose: str) -> frozenset[str]:
    """Return a purpose of use with everything it is a case of, as ``system|code``.

    Break-glass (``BTG``) is a case of emergency treatment, which is a case of
    treatment (v3-ActReason).

    Args:
        purpose: ``code`` of v3-ActReason, or ``system|code``; empty for none stated.
    """
    if not purpose:
        return frozenset()
    system, bar, code = purpose.rpartition("|")
    if bar and system != ACT_REASON:
        return frozenset({purpose})
    found = [code]
    while found[-1] in _PARENT:
        found.append(_PARENT[found[-1]])
    return frozenset(f"{ACT_REASON}|{name}" for name in found)
