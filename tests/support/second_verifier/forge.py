"""Write receipts of any content under a log key that is at hand: what a malicious operator can do.

Everything is signed and hashed as docs/formats/ledger.md says, so only the rule under test can refuse it.
"""

import base64
import json
from collections.abc import Mapping, Sequence

from ledger_core import Identity
from tests.support.second_verifier.cbor import Value, encode
from tests.support.second_verifier.hashes import content_digest, frame, state_hash, tagged
from tests.support.second_verifier.samples import LOG, OPERATOR, Cosigner
from tests.support.second_verifier.trees import leaf, node, split

SECONDS = 1_700_000_000
NETWORK = bytes(range(32))
SALT = b"s" * 32
ANCHOR: dict[str, Value] = {"root": bytes(32), "count": 1, "suite": 1}
Signers = Sequence[tuple[Cosigner, int]]
POLICY = json.dumps({"format": "ledger-core/policy/v1", "origin": LOG.name, "log_keys": [LOG.vkey(1), LOG.vkey(4)]})
"""The policy of a verifier who trusts the log's key."""

LOG_LINES: Signers = ((LOG, 1), (LOG, 4))


def envelope(
    kind: object,
    payload: object,
    *approvers: Identity,
    signer: Identity = OPERATOR,
    nonce: object = 1,
    version: object = 1,
    network: object = NETWORK,
    signer_key: object = None,
) -> bytes:
    """A log entry: a transaction, truly signed, of whatever content."""
    body = encode([network, kind, version, signer_key or signer.public, nonce, payload])
    message = frame("ledger-core/transaction/v1", body)
    approvals = sorted((each.public, each.sign(message)) for each in approvers)
    return encode([1, body, signer.sign(message), [list(each) for each in approvals]])


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The tree hash of RFC 9162 section 2.1.1 over leaf hashes."""
    if len(hashes) == 1:
        return hashes[0]
    left = split(len(hashes))
    return node(root_of(hashes[:left]), root_of(hashes[left:]))


def path_of(hashes: Sequence[bytes], index: int) -> list[bytes]:
    if len(hashes) == 1:
        return []
    left = split(len(hashes))
    if index < left:
        return [*path_of(hashes[:left], index), root_of(hashes[left:])]
    return [*path_of(hashes[left:], index - left), root_of(hashes[:left])]


def note(text: str, signers: Signers = LOG_LINES, seconds: int = SECONDS) -> str:
    return f"{text}\n" + "".join(signer.line(text, seconds, kind) for signer, kind in signers)


def checkpoint(root: bytes, size: int, origin: str = LOG.name) -> str:
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def receipt(
    claim: str,
    fields: Mapping[str, object],
    entries: Sequence[bytes],
    index: int,
    *,
    signers: Signers = LOG_LINES,
    seconds: int = SECONDS,
) -> str:
    """A tlog-proof text of these fields in a log of these entries, the primary one at ``index``."""
    hashes = [leaf(entry) for entry in entries]
    extra = encode({"format": "ledger-core/receipt/v1", "claim": claim, **fields})
    path = [base64.b64encode(each).decode() for each in path_of(hashes, index)]
    head = ["c2sp.org/tlog-proof@v1", "extra " + base64.b64encode(extra).decode(), f"index {index}", *path]
    return "\n".join([*head, "", note(checkpoint(root_of(hashes), len(hashes)), signers, seconds)])


def state_root(root: object, height: object = 1, suite: object = 1, time_ms: object = 0) -> bytes:
    return encode([2, suite, height, time_ms, root])


def lone_leaf(kind: str, key: bytes, value: bytes, suite: int = 1) -> bytes:
    """The root of a state tree that holds this one value."""
    path = tagged("ledger-core/state-path/v1", kind.encode(), key)
    return state_hash(suite, b"\x10" + path + state_hash(suite, value))


def opening(facts: Mapping[str, object] | None = None, suite: int = 1) -> tuple[dict[str, object], bytes]:
    """An opening of one open part, and its commitment."""
    content = content_digest(suite, b"record")
    sealed = tagged("ledger-core/part/v1", SALT, content)
    said = dict(facts or {})
    bound = encode({"facts": said, "parts": {"fhir": sealed}, "suite": suite})
    opened = {"suite": suite, "salt": SALT, "facts": said, "parts": {"fhir": {"salt": SALT, "content": content}}}
    return opened, tagged("ledger-core/commitment/v1", SALT, bound)
