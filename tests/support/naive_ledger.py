"""The simplest possible ledger, written from docs/formats/ledger.md, to compare the real one with.

Lists, dicts and recursion; every root is computed anew from everything there
is. Of ``ledger_core`` it uses the CBOR codec only (held to other people's
encoders elsewhere): no rule, hash or proof of the real ledger.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

from ledger_core.codec import decode, encode
from ledger_core.errors import NotCanonical
from tests.support.naive_trees import NOTHING, log_root, sha, state_root, tagged

Check = Callable[[Any], bool]
# A CBOR array, as it was decoded or will be encoded.
Array = tuple[Any, ...]
Path = tuple[str, bytes]

CONFIG: Path = ("config", b"")
SUITE_OF_KEY = {32: 1, 1312: 2}
SIGNATURE_BYTES = {32: 64, 1312: 2420}


def tree_path(path: Path) -> bytes:
    return sha(tagged("ledger-core/state-path/v1", path[0].encode(), path[1]))


def is_hash(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) == 32


def is_key(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) in SUITE_OF_KEY


def is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**64


def is_positive(value: Any) -> bool:
    return is_number(value) and value > 0


def is_unnameable(code: int) -> bool:
    if code < 0x10000:
        control = code < 0x20 or 0x7F <= code < 0xA0 or code in (0xAD, 0x61C, 0x180E, 0xFEFF)
        unseen = 0x200B <= code < 0x2010 or 0x2028 <= code < 0x202F or 0x2060 <= code < 0x2070
        return control or unseen or 0xD800 <= code < 0xE000 or (code >= 0xFFF9 and code not in (0xFFFC, 0xFFFD))
    return code >> 12 == 0xE0


def is_name(value: Any) -> bool:
    if not isinstance(value, str) or any(is_unnameable(ord(each)) for each in value):
        return False
    return 1 <= len(value.encode()) <= 200


def is_threshold(value: Any) -> bool:
    return is_positive(value) and value <= 16


def is_share(value: Any) -> bool:
    return is_number(value) and value <= 10_000


def is_use(value: Any) -> bool:
    return value in ("signature", "state-tree", "digest", "batch-tree")


FIELDS: dict[tuple[str, str], dict[str, Check]] = {
    ("member", "join"): {"key": is_key, "name": is_name},
    ("member", "rotate"): {"key": is_key},
    ("member", "leave"): {"key": is_key},
    ("member", "threshold"): {"threshold": is_threshold},
    ("suite", "allow"): {"use": is_use, "suite": is_positive},
    ("suite", "retire"): {"use": is_use, "suite": is_positive},
    ("anchor", ""): {"root": is_hash, "count": is_positive, "suite": is_positive},
    ("consent", "open"): {"path": is_hash, "owner": is_key, "secret": is_hash},
    ("consent", "set"): {"path": is_hash, "counter": is_positive, "list_hash": is_hash},
    ("consent", "owner"): {"path": is_hash, "counter": is_positive, "owner": is_key},
    ("consent", "restrict"): {"path": is_hash, "counter": is_positive, "list_hash": is_hash},
    ("consent", "attest"): {"path": is_hash, "counter": is_positive, "list_hash": is_hash},
    ("ruleset", ""): {"digest": is_hash, "suite": is_positive},
    ("ruleset", "use"): {
        "digest": is_hash,
        "institution": is_key,
        "author": is_key,
        "share": is_share,
        "suite": is_positive,
    },
    ("policy", ""): {"digest": is_hash, "suite": is_positive},
    ("access", ""): {"epoch": is_number, "root": is_hash, "count": is_number},
}
KNOWN_SUITES = {"signature": {1, 2}, "state-tree": {1, 2}, "digest": {1, 2}, "batch-tree": {1}}
SUITE_USE = {"anchor": "batch-tree", "ruleset": "digest", "policy": "digest"}
NEW_KEY = {("member", "join"): "key", ("member", "rotate"): "key", ("consent", "open"): "owner"}
NEW_KEY["consent", "owner"] = "owner"
BY_OWNER = {("consent", "set"), ("consent", "owner")}


class Refused(Exception):
    """A transaction's code of refusal."""


def need(holds: bool, code: str) -> None:
    if not holds:
        raise Refused(code)


@dataclass
class Read:
    """An envelope taken apart."""

    network: bytes
    op: tuple[str, str]
    signer: bytes
    nonce: int
    payload: dict[str, Any]
    body: bytes
    signatures: list[tuple[bytes, bytes]]

    @property
    def keys(self) -> set[bytes]:
        return {key for key, _ in self.signatures}


def read(envelope: bytes) -> Read:
    need(len(envelope) <= 65_535, "too-large")
    outer = _array(envelope, 4)
    tag, body, signature, approvals = outer
    need(type(tag) is int and tag == 1 and isinstance(body, bytes) and isinstance(signature, bytes), "malformed")
    network, kind, version, signer, nonce, payload = _array(body, 6)
    need(is_hash(network) and isinstance(kind, str) and type(version) is int, "malformed")
    need(is_key(signer) and is_positive(nonce) and isinstance(payload, Mapping), "malformed")
    need(kind in {name for name, _ in FIELDS}, "unknown-kind")
    need(version == 1, "unknown-version")
    op = _check_payload(kind, payload)
    need(isinstance(approvals, tuple) and len(approvals) <= 64, "malformed")
    need(all(isinstance(pair, tuple) and len(pair) == 2 for pair in approvals), "malformed")
    signatures = [(signer, signature), *approvals]
    need(all(is_key(key) and isinstance(each, bytes) for key, each in signatures), "malformed")
    need(all(len(each) == SIGNATURE_BYTES[len(key)] for key, each in signatures), "malformed")
    names = [key for key, _ in approvals]
    need(names == sorted(set(names)) and signer not in names, "malformed")
    return Read(network, op, signer, nonce, dict(payload), body, signatures)


def _array(data: bytes, length: int) -> Array:
    try:
        found = decode(data)
    except NotCanonical:
        raise Refused("malformed") from None
    if not isinstance(found, tuple) or len(found) != length:
        raise Refused("malformed")
    return found


def _check_payload(kind: str, payload: Mapping[str, Any]) -> tuple[str, str]:
    op = payload.get("op", "")
    need(isinstance(op, str) and (kind, op) in FIELDS and ("op" not in payload or op != ""), "payload-invalid")
    checks = FIELDS[kind, op]
    need(set(payload) - {"op"} == set(checks), "payload-invalid")
    need(all(check(payload[name]) for name, check in checks.items()), "payload-invalid")
    use = payload["use"] if kind == "suite" else SUITE_USE.get(kind)
    need(use is None or payload["suite"] in KNOWN_SUITES[use], "unknown-suite")
    return kind, op


def is_signed(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        if len(key) == 32:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
        else:
            MLDSA44PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


class NaiveLedger:
    """Everything in plain sight: ``entries``, ``state`` and what it was after each block in ``past``."""

    def __init__(self, genesis: Array) -> None:
        """``genesis`` is [0, 1, name, operator key, operator name, threshold, may attest, time ms]."""
        _, _, _, operator, name, threshold, may_attest, time_ms = genesis
        self.network = sha(tagged("ledger-core/network/v1", encode(genesis)))
        self.threshold, self.may_attest, self.height, self.time_ms = threshold, may_attest, 0, time_ms
        self.suites = {
            "signature": {SUITE_OF_KEY[len(operator)]},
            "state-tree": {1},
            "digest": {1},
            "batch-tree": {1},
        }
        self.state: dict[Path, Array] = {("member", operator): (operator, name, "active", 0)}
        self.entries: list[bytes] = [encode(genesis)]
        self.accepted: dict[bytes, tuple[int, int]] = {}
        self.past: list[dict[Path, bytes]] = []
        self.roots: list[tuple[int, bytes, bytes]] = []
        self._close(time_ms)

    def submit(self, envelopes: Sequence[bytes], time_ms: int) -> list[str | tuple[int, int, bool]]:
        """Make a block; return for each envelope its code, or (index, height, whether it is a repeat)."""
        new: dict[int, tuple[int, int, bool]] = {}
        codes: list[str] = []
        for place, envelope in enumerate(envelopes):
            try:
                self._judge(read(envelope))
                new[place] = len(self.entries), self.height + 1, False
                self.accepted[envelope] = len(self.entries), self.height + 1
                self.entries.append(envelope)
                codes.append("")
            except Refused as refused:
                codes.append(str(refused))
        if new:
            self.height += 1
            self._close(time_ms)
        return [
            new[place] if place in new else (*self.accepted[each], True) if each in self.accepted else codes[place]
            for place, each in enumerate(envelopes)
        ]

    def state_at(self, place: Path, height: int) -> Array:
        """Return the fields of a value as it was after block ``height``."""
        return decode(self.past[height][place])[2:]  # type: ignore[index, return-value]  # an array

    def app_hash(self, height: int) -> bytes:
        size, root, contents_root = self.roots[height]
        suite = decode(self.past[height][CONFIG])[5]  # type: ignore[index]  # an array
        parts = size.to_bytes(8, "big"), root, contents_root, suite.to_bytes(2, "big")  # type: ignore[union-attr]  # a number
        return sha(tagged("ledger-core/app-hash/v1", *parts))

    def _close(self, time_ms: int) -> None:
        assert time_ms >= self.time_ms
        self.time_ms = time_ms
        values = {path: encode((path[0], 1, *value)) for path, value in self.state.items()}
        values[CONFIG] = encode(("config", 1, *self._config()))
        (suite,) = self.suites["state-tree"]
        root = state_root({tree_path(path): value for path, value in values.items()}, suite)
        self.entries.append(encode((2, suite, self.height, time_ms, root)))
        self.past.append(values)
        self.roots.append((len(self.entries), log_root(self.entries), root))

    def _config(self) -> Array:
        members = tuple(len([key for key in self._active() if SUITE_OF_KEY[len(key)] == suite]) for suite in (1, 2))
        (tree,) = self.suites["state-tree"]
        others = (tuple(sorted(self.suites[use])) for use in ("signature", "digest", "batch-tree"))
        return self.threshold, self.may_attest, members, tree, *others

    def _active(self) -> set[bytes]:
        return {key for (kind, key), value in self.state.items() if kind == "member" and value[2] == "active"}

    def able(self) -> set[bytes]:
        """Return the active members whose keys are of a suite in use."""
        return {key for key in self._active() if SUITE_OF_KEY[len(key)] in self.suites["signature"]}

    def _judge(self, given: Read) -> None:
        need(given.network == self.network, "wrong-network")
        keys = set(given.keys)
        if given.op in NEW_KEY:
            keys.add(given.payload[NEW_KEY[given.op]])
        need({SUITE_OF_KEY[len(key)] for key in keys} <= self.suites["signature"], "suite-not-allowed")
        use = SUITE_USE.get(given.op[0])
        need(use is None or given.payload["suite"] in self.suites[use], "suite-not-allowed")
        signer = self.state.get(("member", given.signer))
        if given.op not in BY_OWNER:
            if signer is None or signer[2] != "active":
                raise Refused("not-a-member")
            need(given.nonce > signer[3], "nonce-stale")
        message = tagged("ledger-core/transaction/v1", given.body)
        need(all(is_signed(key, message, signature) for key, signature in given.signatures), "bad-signature")
        if given.op in BY_OWNER:
            self._by_owner(given)
            return
        assert signer is not None
        signer = (*signer[:3], given.nonce)
        writes = getattr(self, "_" + "_".join(part for part in given.op if part))(given, signer)
        self.state[("member", given.signer)] = signer
        self.state.update(writes)

    def _enough(self, given: Read, needed: int | None = None) -> bool:
        return len(given.keys & self._active()) >= (self._needed(self.threshold) if needed is None else needed)

    def _needed(self, threshold: int) -> int:
        return min(threshold, len(self.able()))

    def _member_join(self, given: Read, signer: Array) -> dict[Path, Array]:
        key = given.payload["key"]
        need(("member", key) not in self.state, "already-exists")
        need(key in given.keys and self._enough(given), "approvals-missing")
        return {("member", key): (key, given.payload["name"], "active", 0)}

    def _member_rotate(self, given: Read, signer: Array) -> dict[Path, Array]:
        key = given.payload["key"]
        need(("member", key) not in self.state, "already-exists")
        need(key in given.keys, "approvals-missing")
        old, new = ("member", given.signer), ("member", key)
        return {old: (*signer[:2], "rotated", signer[3]), new: (*signer[:2], "active", 0)}

    def _member_leave(self, given: Read, signer: Array) -> dict[Path, Array]:
        key = given.payload["key"]
        leaver = signer if key == given.signer else self.state.get(("member", key))
        if leaver is None or leaver[2] != "active":
            raise Refused("not-found")
        need(key == given.signer or self._enough(given), "approvals-missing")
        need(bool(self.able() - {key}), "last-member")
        return {("member", key): (*leaver[:2], "left", leaver[3])}

    def _member_threshold(self, given: Read, signer: Array) -> dict[Path, Array]:
        threshold = given.payload["threshold"]
        need(threshold != self.threshold, "already-exists")
        need(self._enough(given, max(self._needed(self.threshold), self._needed(threshold))), "approvals-missing")
        self.threshold = threshold
        return {}

    def _suite_allow(self, given: Read, signer: Array) -> dict[Path, Array]:
        use, suite = given.payload["use"], given.payload["suite"]
        need(suite not in self.suites[use], "already-exists")
        need(self._enough(given), "approvals-missing")
        self.suites[use] = {suite} if use == "state-tree" else self.suites[use] | {suite}
        return {}

    def _suite_retire(self, given: Read, signer: Array) -> dict[Path, Array]:
        use, suite = given.payload["use"], given.payload["suite"]
        need(suite in self.suites[use], "not-found")
        need(len(self.suites[use]) > 1, "last-suite")
        staying = {
            key for key in given.keys & self._active() if use != "signature" or SUITE_OF_KEY[len(key)] != suite
        }
        need(len(staying) >= self._needed(self.threshold), "approvals-missing")
        self.suites[use] = self.suites[use] - {suite}
        return {}

    def _anchor(self, given: Read, signer: Array) -> dict[Path, Array]:
        return {}

    def _ruleset(self, given: Read, signer: Array) -> dict[Path, Array]:
        place = (given.op[0], given.payload["digest"])
        need(place not in self.state, "already-exists")
        return {place: (signer[0], given.payload["suite"])}

    _policy = _ruleset

    def _ruleset_use(self, given: Read, signer: Array) -> dict[Path, Array]:
        place = ("ruleset", given.payload["digest"])
        signed = {given.payload["author"], given.payload["institution"]} <= given.keys
        need(signed and given.payload["institution"] in self._active(), "approvals-missing")
        need(place in self.state or given.payload["share"] != 0, "not-found")
        return {place: self.state.get(place, (signer[0], given.payload["suite"]))}

    def _access(self, given: Read, signer: Array) -> dict[Path, Array]:
        place = ("access", signer[0])
        need(place not in self.state or given.payload["epoch"] > self.state[place][0], "counter-stale")
        return {place: (given.payload["epoch"], given.payload["root"], given.payload["count"])}

    def _consent_open(self, given: Read, signer: Array) -> dict[Path, Array]:
        place = ("consent", given.payload["path"])
        need(place not in self.state, "already-exists")
        return {place: (given.payload["owner"], signer[0], given.payload["secret"], 0, NOTHING, 0, NOTHING, 0)}

    def _consent_restrict(self, given: Read, signer: Array) -> dict[Path, Array]:
        place, counter = ("consent", given.payload["path"]), given.payload["counter"]
        need(place in self.state, "not-found")
        old = self.state[place]
        need(old[1] == signer[0], "not-permitted")
        need(counter > old[5], "counter-stale")
        need(given.op[1] != "attest" or self.may_attest, "attest-not-allowed")
        attested = counter if given.op[1] == "attest" else old[7]
        return {place: (*old[:5], counter, given.payload["list_hash"], attested)}

    _consent_attest = _consent_restrict

    def _by_owner(self, given: Read) -> None:
        place, counter = ("consent", given.payload["path"]), given.payload["counter"]
        need(place in self.state, "not-found")
        owner, institution, secret, old, listed, *rest = self.state[place]
        need(owner == given.signer, "not-permitted")
        need(counter > old and counter == given.nonce, "counter-stale")
        if given.op[1] == "owner":
            owner = given.payload["owner"]
            need(owner in given.keys, "approvals-missing")
        else:
            listed = given.payload["list_hash"]
        self.state[place] = (owner, institution, secret, counter, listed, *rest)
