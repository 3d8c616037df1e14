"""Receipts, Provenance and the access log: evidence for those who do not trust us."""

from fhir_bridge.proof.audit import Access, audit_event
from fhir_bridge.proof.chain import (
    GENESIS,
    AccessEpoch,
    BlindedHead,
    access_epoch,
    blinded,
    chain_head,
    entry_commitment,
    verify_chain,
)
from fhir_bridge.proof.delegation import delegation_event
from fhir_bridge.proof.emergency import Emergency, emergency_event
from fhir_bridge.proof.provenance import CHANGE_EXTENSION, provenance
from fhir_bridge.proof.receipts import OpenedRecord, ReceiptLedger, record_receipt

__all__ = [
    "CHANGE_EXTENSION",
    "GENESIS",
    "Access",
    "AccessEpoch",
    "BlindedHead",
    "Emergency",
    "OpenedRecord",
    "ReceiptLedger",
    "access_epoch",
    "audit_event",
    "blinded",
    "chain_head",
    "delegation_event",
    "emergency_event",
    "entry_commitment",
    "provenance",
    "record_receipt",
    "verify_chain",
]
