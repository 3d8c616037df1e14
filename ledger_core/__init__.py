"""A permissioned ledger for institutions that share health data; useful without FHIR too.

Signed transactions in one order, current state that can be proved present or
absent, and receipts that verify without us. These are the only names that other
packages import; everything else may change.

Names are loaded when first used, so ``python -m ledger_core.verify`` reads no
more of the package than a verifier needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ledger_core.checkpoint import Checkpoint as Checkpoint
    from ledger_core.commitment import Opening as Opening
    from ledger_core.commitment import OpenPart as OpenPart
    from ledger_core.commitment import SealedPart as SealedPart
    from ledger_core.commitment import commit as commit
    from ledger_core.commitment import new_salt as new_salt
    from ledger_core.commitment import part_digest as part_digest
    from ledger_core.errors import IntegrityBroken as IntegrityBroken
    from ledger_core.errors import LedgerAway as LedgerAway
    from ledger_core.errors import LedgerBusy as LedgerBusy
    from ledger_core.errors import LedgerClosed as LedgerClosed
    from ledger_core.errors import LedgerError as LedgerError
    from ledger_core.errors import LedgerLocked as LedgerLocked
    from ledger_core.errors import LedgerUnavailable as LedgerUnavailable
    from ledger_core.errors import NotCanonical as NotCanonical
    from ledger_core.errors import NoteInvalid as NoteInvalid
    from ledger_core.errors import NotFound as NotFound
    from ledger_core.errors import OpeningRefused as OpeningRefused
    from ledger_core.errors import PolicyInvalid as PolicyInvalid
    from ledger_core.errors import PolicyUnmet as PolicyUnmet
    from ledger_core.errors import ProofInvalid as ProofInvalid
    from ledger_core.errors import ReceiptInvalid as ReceiptInvalid
    from ledger_core.errors import RecordMismatch as RecordMismatch
    from ledger_core.errors import SignatureInvalid as SignatureInvalid
    from ledger_core.errors import TransactionRefused as TransactionRefused
    from ledger_core.fsck import Finding as Finding
    from ledger_core.hashing import content_digest as content_digest
    from ledger_core.keys import Identity as Identity
    from ledger_core.keys import verify_signature as verify_signature
    from ledger_core.ledger import Ledger as Ledger
    from ledger_core.ledger import ProvenState as ProvenState
    from ledger_core.log import MerkleBatch as MerkleBatch
    from ledger_core.machine import Accepted as Accepted
    from ledger_core.machine import Genesis as Genesis
    from ledger_core.opening import open_ledger as open_ledger
    from ledger_core.opening import read_transactions as read_transactions
    from ledger_core.opening import run_copy as run_copy
    from ledger_core.opening import run_export as run_export
    from ledger_core.opening import run_fsck as run_fsck
    from ledger_core.opening import run_import as run_import
    from ledger_core.opening import run_migrate as run_migrate
    from ledger_core.opening import run_restore as run_restore
    from ledger_core.opening import run_snapshot as run_snapshot
    from ledger_core.places import holds_ledger as holds_ledger
    from ledger_core.places import is_url as is_url
    from ledger_core.places import open_to_read as open_to_read
    from ledger_core.policy import Policy as Policy
    from ledger_core.ports import Moment as Moment
    from ledger_core.receipt import Receipt as Receipt
    from ledger_core.transactions import AccessHead as AccessHead
    from ledger_core.transactions import AllowSuite as AllowSuite
    from ledger_core.transactions import Anchor as Anchor
    from ledger_core.transactions import Attest as Attest
    from ledger_core.transactions import ChangeOwner as ChangeOwner
    from ledger_core.transactions import Join as Join
    from ledger_core.transactions import Leave as Leave
    from ledger_core.transactions import OpenPath as OpenPath
    from ledger_core.transactions import RegisterPolicy as RegisterPolicy
    from ledger_core.transactions import RegisterRuleset as RegisterRuleset
    from ledger_core.transactions import Rejection as Rejection
    from ledger_core.transactions import Restrict as Restrict
    from ledger_core.transactions import RetireSuite as RetireSuite
    from ledger_core.transactions import Rotate as Rotate
    from ledger_core.transactions import SetConsent as SetConsent
    from ledger_core.transactions import SetThreshold as SetThreshold
    from ledger_core.transactions import Transaction as Transaction
    from ledger_core.transactions import UseRuleset as UseRuleset
    from ledger_core.transactions import envelope_digest as envelope_digest
    from ledger_core.transactions import seal_envelope as seal_envelope
    from ledger_core.transactions import sign as sign
    from ledger_core.transactions import signing_message as signing_message
    from ledger_core.transfer import export_ledger as export_ledger
    from ledger_core.transfer import replay_export as replay_export
    from ledger_core.values import NO_LIST as NO_LIST
    from ledger_core.values import ConsentState as ConsentState
    from ledger_core.values import Member as Member
    from ledger_core.verify import Outcome as Outcome
    from ledger_core.verify import verify_main as verify_main
    from ledger_core.verify import verify_receipt as verify_receipt

_ERRORS = (
    "IntegrityBroken LedgerAway LedgerBusy LedgerClosed LedgerError LedgerLocked LedgerUnavailable "
    "NotCanonical NoteInvalid NotFound OpeningRefused PolicyInvalid PolicyUnmet ProofInvalid ReceiptInvalid "
    "RecordMismatch SignatureInvalid TransactionRefused"
)
_TRANSACTIONS = (
    "AccessHead AllowSuite Anchor Attest ChangeOwner Join Leave OpenPath RegisterPolicy RegisterRuleset Rejection "
    "Restrict RetireSuite Rotate SetConsent SetThreshold Transaction UseRuleset "
    "envelope_digest seal_envelope sign signing_message"
)
_OPENING = (
    "open_ledger read_transactions run_copy run_export run_fsck run_import run_migrate run_restore run_snapshot"
)
_PLACES = {
    "checkpoint": "Checkpoint",
    "commitment": "OpenPart Opening SealedPart commit new_salt part_digest",
    "errors": _ERRORS,
    "fsck": "Finding",
    "hashing": "content_digest",
    "keys": "Identity verify_signature",
    "ledger": "Ledger ProvenState",
    "log": "MerkleBatch",
    "machine": "Accepted Genesis",
    "opening": _OPENING,
    "places": "holds_ledger is_url open_to_read",
    "policy": "Policy",
    "ports": "Moment",
    "receipt": "Receipt",
    "transactions": _TRANSACTIONS,
    "transfer": "export_ledger replay_export",
    "values": "NO_LIST ConsentState Member",
    "verify": "Outcome verify_main verify_receipt",
}
_HOME = {name: place for place, names in _PLACES.items() for name in names.split()}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOME[name]}")
    value: object = getattr(module, name)
    globals()[name] = value
    return value
