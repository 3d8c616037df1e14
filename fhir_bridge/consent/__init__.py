"""Decide what a requester may see: FHIR Consent → policy → decision → permitted view.

Pure functions on values; no clock, no I/O. docs/consent.md holds the readings.
"""

from fhir_bridge.consent.compiling import compile_consent
from fhir_bridge.consent.deciding import EVALUATOR, ChartFacts, OwnRecords, compiled, decide
from fhir_bridge.consent.lists import SALT_BYTES, ConsentEntry, ConsentList, policy_commitment
from fhir_bridge.consent.policy import Clause, Policy, restricts
from fhir_bridge.consent.releases import consent_in_r4
from fhir_bridge.consent.view import permitted_view

__all__ = [
    "EVALUATOR",
    "SALT_BYTES",
    "ChartFacts",
    "Clause",
    "ConsentEntry",
    "ConsentList",
    "OwnRecords",
    "Policy",
    "compile_consent",
    "compiled",
    "consent_in_r4",
    "decide",
    "permitted_view",
    "policy_commitment",
    "restricts",
]
