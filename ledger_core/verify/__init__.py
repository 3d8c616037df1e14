"""Offline verifier: ``python -m ledger_core.verify RECEIPT --record FILE --policy FILE``.

For somebody who does not trust us and has no network: it reads a receipt, a
policy that came from elsewhere, and the record at hand, and says what is proved
and whose word it rests on.

Read in this order: ``trust`` (whose word), ``claims`` (what is proved),
``revocation`` (when one state supersedes another), ``receipts`` (both put
together), ``command`` (files, words and exit codes).
"""

from ledger_core.verify.command import main
from ledger_core.verify.receipts import Outcome, ProvedRecord, verify_receipt
from ledger_core.verify.trust import (
    NOT_AUTHENTICATED,
    OPERATOR_ATTESTED,
    QUORUM,
    REPLAYED,
    WITNESSED,
)

# The name under which the package's front door offers it.
verify_main = main

__all__ = [
    "NOT_AUTHENTICATED",
    "OPERATOR_ATTESTED",
    "QUORUM",
    "REPLAYED",
    "WITNESSED",
    "Outcome",
    "ProvedRecord",
    "main",
    "verify_main",
    "verify_receipt",
]
