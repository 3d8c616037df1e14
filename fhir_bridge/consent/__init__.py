"""Decide what a requester may see: FHIR Consent → policy → decision → permitted view.

Pure functions on values; no clock, no I/O. docs/consent.md holds the readings.
"""

from fhir_bridge.consent.attesting import (
    GUARDIAN_SOURCE,
    PAPER_SOURCE,
    AttestationRules,
    Reach,
    attestation_of,
    attestation_tags,
)
from fhir_bridge.consent.compiling import compile_consent
from fhir_bridge.consent.deciding import EVALUATOR, decide
from fhir_bridge.consent.facts import ChartFacts
from fhir_bridge.consent.hearing import compiled, needs_rows
from fhir_bridge.consent.judging import FAIL_CLOSED, Inputs, judge, narrowed, of_person
from fhir_bridge.consent.lists import SALT_BYTES, ConsentEntry, ConsentList, policy_commitment
from fhir_bridge.consent.network_policy import (
    NO_POLICIES,
    EmergencyRules,
    NetworkPolicies,
    OwnRecords,
    StandingPolicy,
    load_policies,
    open_policies,
)
from fhir_bridge.consent.policy import Clause, Policy, restricts
from fhir_bridge.consent.releases import consent_in_r4
from fhir_bridge.consent.view import as_of, permitted_view
from fhir_bridge.consent.vocabulary import EMERGENCIES

__all__ = [
    "EMERGENCIES",
    "EVALUATOR",
    "FAIL_CLOSED",
    "GUARDIAN_SOURCE",
    "NO_POLICIES",
    "PAPER_SOURCE",
    "SALT_BYTES",
    "AttestationRules",
    "ChartFacts",
    "Clause",
    "ConsentEntry",
    "ConsentList",
    "EmergencyRules",
    "Inputs",
    "NetworkPolicies",
    "OwnRecords",
    "Policy",
    "Reach",
    "StandingPolicy",
    "as_of",
    "attestation_of",
    "attestation_tags",
    "compile_consent",
    "compiled",
    "consent_in_r4",
    "decide",
    "judge",
    "load_policies",
    "narrowed",
    "needs_rows",
    "of_person",
    "open_policies",
    "permitted_view",
    "policy_commitment",
    "restricts",
]
