"""A second verifier of receipts, written from docs/formats/ledger.md alone.

For tests that compare two verifiers: whoever wrote this one had not read ledger_core.

Invariants:
    * what judges a receipt imports no ledger_core, only the standard library, cryptography and blake3
      (samples, forge, forged and campaign, which make and compare cases, do);
    * every step is the plainest reading of its sentence, not the quickest;
    * what is false raises Refused inside; ``verify`` alone turns that into a verdict.
"""

from tests.support.second_verifier.verifier import Verdict, verify

__all__ = ["Verdict", "verify"]
