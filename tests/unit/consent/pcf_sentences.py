"""What IHE PCF 1.1 says that each of its 23 example Consents means, in its words, and where.

For the tests that hold the evaluator to it: on IHE's own files
(``test_pcf_examples``) and on our own Consents of the same meaning
(``test_pcf_meanings``). ``notes`` is the page "Consent-ex-NAME-notes" beside an
example, ``description`` the description of the example itself.
"""

from __future__ import annotations

from typing import Final

SENTENCES: Final[dict[str, str]] = {
    "consent-basic-treat": (
        "notes: no residual; no token is issued for 'requests beyond the set of purpose of use'"
        " (Treatment, Payment and Operations)"
    ),
    "consent-basic-treat-infant": (
        "description: 'Consent for purposes of use involved in Treatment/Payment/Operations, to an infants data,"
        " given by the mother'"
    ),
    "consent-basic-ink": "notes: 'processing is exactly the same as Basic Consent to sharing for Treatment policy'",
    "consent-basic-reject": "notes: 'ITI-71 responds with an error response'",
    "consent-basic-research": "description: 'Consent for any healthcare research purpose'",
    "consent-expired-treat": (
        "notes: 'prior to expiration … the same as Basic Consent …'; 'after expiration … an error response'"
    ),
    "consent-intermediate-authoredby": (
        "notes: 'nothing BUT the information authored by the given practitioner is allowed'"
    ),
    "consent-intermediate-not-authoredby": (
        "notes: 'the residual need only express the forbid to information authored by the given practitioner'"
    ),
    "consent-intermediate-data": "notes: 'the data filter is at the root …nothing BUT the data is allowed'",
    "consent-intermediate-not-data": "notes: 'In this case one resource should be forbidden'",
    "consent-intermediate-encounter": ("notes: 'nothing BUT the information related to the encounter is allowed'"),
    "consent-intermediate-not-encounter": (
        "notes: 'the residual need only express the forbid to information related to the encounter'"
    ),
    "consent-intermediate-timeframe": ("notes: 'nothing BUT the information authored in that timeframe is allowed'"),
    "consent-intermediate-not-timeframe": (
        "notes: 'the residual need only express the forbid to information authored in a given timeframe'"
    ),
    "consent-intermediate-purpose": (
        "notes: 'only to a given Research organization for a given purpose of use'; else no token"
    ),
    "dissent-intermediate-break-glass": (
        "notes: 'denies all access except for break-glass'; who did not declare it, or may not, is rejected"
    ),
    "consent-advanced-normal": "notes: 'nothing BUT normal data is allowed'",
    "consent-advanced-normal-not-restricted": (
        "notes: 'First as a forbid everything', 'Second as a permit normal data',"
        " 'Third is a redundant forbid of restricted data'"
    ),
    "consent-advanced-normal-restricted": (
        "notes: forbid everything, then permit; the residual's label lists normal and restricted"
    ),
    "consent-advanced-normal-focused-restricted": (
        "notes: 'For most users … allow NORMAL data access'; for the Practitioner 'allow NORMAL and RESTRICTED'"
    ),
    "consent-advanced-normal-break-glass-restricted": (
        "notes: 'For most users … allow NORMAL data access'; for users 'that have declared break-glass'"
        " normal and restricted"
    ),
    "consent-advanced-normal-focused-psy": (
        "notes: 'carves out mental health data as accessible only to' the Practitioner"
    ),
    "consent-advanced-normal-focused-psy-or-sdv": (
        "notes: 'carves out mental health data and sexual health data as accessible only to' the Practitioner"
    ),
}
