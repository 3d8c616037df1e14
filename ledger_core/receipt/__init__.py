"""Receipts: self-contained proofs that somebody else can check.

``claims`` says what a receipt can claim, ``fields`` how values are spelled, and
``spelling`` reads and writes the two forms: JSON for browsers, C2SP tlog-proof
text for everything else.
"""

from ledger_core.receipt.claims import (
    AnchoredRecords,
    Claim,
    LogPath,
    PastStateClaim,
    RecordClaim,
    RecordsClaim,
    RevocationClaim,
    StateClaim,
    TransactionClaim,
)
from ledger_core.receipt.spelling import MAX_RECEIPT_BYTES, TLOG_PROOF, Receipt

__all__ = [
    "MAX_RECEIPT_BYTES",
    "TLOG_PROOF",
    "AnchoredRecords",
    "Claim",
    "LogPath",
    "PastStateClaim",
    "Receipt",
    "RecordClaim",
    "RecordsClaim",
    "RevocationClaim",
    "StateClaim",
    "TransactionClaim",
]
