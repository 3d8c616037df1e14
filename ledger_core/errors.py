"""Every deliberate error of the ledger, in one tree, for callers who must tell them apart.

``code`` is public: it appears in command output and in the documentation, so a
released code never changes. Messages may change. ``retriable`` says that trying
again later can help and that nothing was done.

Invariant: a message holds sizes, positions, codes and digests, never payloads.
"""

from typing import ClassVar


class LedgerError(Exception):
    """Base of every deliberate error of the ledger."""

    code: ClassVar[str] = "ledger-error"
    retriable: ClassVar[bool] = False


class NotCanonical(LedgerError):
    """Bytes are not the one deterministic CBOR encoding of an allowed value."""

    code = "not-canonical"


class SignatureInvalid(LedgerError):
    """A signature does not belong to the message and key."""

    code = "signature-invalid"


class ProofInvalid(LedgerError):
    """A Merkle proof does not lead where it should."""

    code = "proof-invalid"


class NoteInvalid(LedgerError):
    """A signed note or checkpoint is malformed, or no trusted key signed it."""

    code = "note-invalid"


class ReceiptInvalid(LedgerError):
    """A receipt is malformed or one of its parts contradicts another."""

    code = "receipt-invalid"


class PolicyInvalid(LedgerError):
    """A verifier's policy is malformed."""

    code = "policy-invalid"


class PolicyUnmet(LedgerError):
    """A receipt is sound, but not what the policy asks for (keys, quorum, age, network)."""

    code = "policy-unmet"


class RecordMismatch(LedgerError):
    """The record at hand is not the one that the receipt speaks of."""

    code = "record-mismatch"


class TransactionRefused(LedgerError):
    """The machine's rules refuse a transaction; ``rejection`` is one of the fixed codes."""

    code = "transaction-refused"

    def __init__(self, rejection: str) -> None:
        super().__init__(f"transaction refused: {rejection}")
        self.rejection = rejection


class NotFound(LedgerError):
    """The ledger holds no such entry."""

    code = "not-found"


class LedgerUnavailable(LedgerError):
    """The ledger cannot take a transaction now; nothing was lost."""

    code = "ledger-unavailable"
    retriable = True


class LedgerBusy(LedgerUnavailable):
    """The queue is full and stayed full until the deadline; nothing was taken."""

    code = "ledger-busy"


class LedgerLocked(LedgerUnavailable):
    """Another process has this ledger open."""

    code = "ledger-locked"


class LedgerAway(LedgerUnavailable):
    """The server that keeps the ledger's rows does not answer; the ledger goes on by itself when it is back.

    A transaction submitted meanwhile is in the log or is not; submitting the same bytes again tells, and changes
    nothing twice.
    """

    code = "ledger-away"


class LedgerClosed(LedgerUnavailable):
    """The ledger was closed, or stopped after a storage failure; open it again."""

    code = "ledger-closed"


class OpeningRefused(LedgerError):
    """What the caller asks to open does not fit what is stored (format, genesis, keys)."""

    code = "opening-refused"


class IntegrityBroken(LedgerError):
    """Stored rows disagree with each other; stop and run fsck."""

    code = "integrity-broken"


class EvidenceInvalid(LedgerError):
    """A witness's evidence is malformed, or not signed by the keys it is checked under."""

    code = "evidence-invalid"


class ReplayRefused(LedgerError):
    """A log signed what the rules do not lead to; a replaying witness does not vouch for it."""

    code = "replay-refused"


class LogMismatch(LedgerUnavailable):
    """A log serves entries or hashes other than those it signed; nothing was taken from it."""

    code = "log-mismatch"
