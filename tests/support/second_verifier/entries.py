"""Log entries that receipts rest on: signed envelopes and state roots."""

from dataclasses import dataclass

from tests.support.second_verifier.cbor import Value, decode
from tests.support.second_verifier.forms import check_payload, is_hash, is_key, is_number, is_positive
from tests.support.second_verifier.hashes import STATE_TREE_SUITES, check_signature, frame
from tests.support.second_verifier.refusal import Refused, require

MAX_ENTRY = 65_535
MAX_APPROVALS = 64


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a policy asks about, and the payload."""

    network: bytes
    kind: str
    signer: bytes
    payload: dict[str, Value]


@dataclass(frozen=True, slots=True)
class StateRoot:
    suite: int
    height: int
    root: bytes


def read_state_root(entry: bytes) -> StateRoot:
    _, suite, height, time, root = _fields(entry, 2, 5)
    if not (isinstance(suite, int) and isinstance(height, int) and isinstance(root, bytes)):
        raise Refused("a state root of another form")
    require(all(map(is_number, (suite, height, time))) and is_hash(root), "a state root of another form")
    require(suite in STATE_TREE_SUITES, "an unknown state-tree suite")
    return StateRoot(suite, height, root)


def read_transaction(entry: bytes) -> Transaction:
    """Read an envelope and verify every signature in it."""
    _, body, signature, approvals = _fields(entry, 1, 4)
    if not (isinstance(body, bytes) and isinstance(signature, bytes) and isinstance(approvals, list)):
        raise Refused("an envelope of another form")
    transaction = _read_body(body)
    signed = [(transaction.signer, signature), *_read_approvals(approvals, transaction.signer)]
    message = frame("ledger-core/transaction/v1", body)
    for key, each in signed:
        check_signature(key, message, each)
    return transaction


def _fields(entry: bytes, domain: int, count: int) -> list[Value]:
    require(len(entry) <= MAX_ENTRY, "an entry that is too long")
    fields = decode(entry)
    if not isinstance(fields, list) or len(fields) != count:
        raise Refused("an entry of another form")
    require(is_number(fields[0]) and fields[0] == domain, "an entry of another domain")
    return fields


def _read_body(body: bytes) -> Transaction:
    fields = decode(body)
    if not isinstance(fields, list) or len(fields) != 6:
        raise Refused("a body of another form")
    network, kind, version, signer, nonce, payload = fields
    if not (isinstance(network, bytes) and isinstance(kind, str) and isinstance(signer, bytes)):
        raise Refused("a body of another form")
    require(is_hash(network) and is_key(signer), "a body of another form")
    require(is_number(version) and version == 1, "a kind of another version")
    require(is_positive(nonce), "a nonce below 1")
    return Transaction(network, kind, signer, check_payload(kind, payload))


def _read_approvals(approvals: list[Value], signer: bytes) -> list[tuple[bytes, bytes]]:
    require(len(approvals) <= MAX_APPROVALS, "too many approvals")
    read: list[tuple[bytes, bytes]] = []
    for approval in approvals:
        if not isinstance(approval, list) or len(approval) != 2:
            raise Refused("an approval of another form")
        key, signature = approval
        if not (isinstance(key, bytes) and isinstance(signature, bytes)):
            raise Refused("an approval of another form")
        require(is_key(key) and key != signer, "an approval by the signer or by no key")
        require(not read or read[-1][0] < key, "approvals out of order or repeated")
        read.append((key, signature))
    return read
