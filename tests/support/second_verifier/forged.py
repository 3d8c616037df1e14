"""What a malicious operator can sign: every receipt here is hashed and signed as it should be.

Only the rule that a case is named after can refuse it. Each has the answer that docs/formats/ledger.md gives.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ledger_core import Identity
from tests.support.second_verifier.cbor import encode
from tests.support.second_verifier.forge import (
    ANCHOR,
    LOG_LINES,
    SALT,
    envelope,
    lone_leaf,
    opening,
    path_of,
    receipt,
    state_root,
)
from tests.support.second_verifier.hashes import state_hash, tagged
from tests.support.second_verifier.samples import MEMBER, MEMBER_ML, OPERATOR, OWNER
from tests.support.second_verifier.trees import leaf

HASH, LIST, MAX = bytes(32), b"L" * 32, 2**64 - 1
KEY, MEMBER_KEY = OPERATOR.public, MEMBER.public
CONSENT: tuple[object, ...] = ("consent", 1, MEMBER_KEY, KEY, HASH, 0, HASH, 0, HASH, 0)
MEMBER_VALUE: tuple[object, ...] = ("member", 1, KEY, "n", "active", 0)
CONFIG: tuple[object, ...] = ("config", 1, 1, True, [1, 0], 1, [1], [1], [1])


@dataclass(frozen=True, slots=True)
class Forged:
    """A receipt and whether the page lets it pass."""

    name: str
    receipt: str
    is_sound: bool


def forged() -> Iterator[Forged]:
    yield from _transactions()
    yield from _bodies()
    yield from _records()
    yield from _states()
    yield from _places()
    yield from _revocations()


def _transaction(name: str, entry: bytes, is_sound: bool) -> Forged:
    return Forged(
        f"transaction: {name}", receipt("transaction", {"transaction": entry}, [b"x", entry, b"y"], 1), is_sound
    )


def _transactions() -> Iterator[Forged]:
    """Payloads, each with one field at or beyond its limit."""

    def case(name: str, kind: str, payload: object, is_sound: bool, *approvers: Identity) -> Forged:
        return _transaction(name, envelope(kind, payload, *approvers), is_sound)

    join = {"op": "join", "key": MEMBER_KEY, "name": "x"}
    sound, others = (
        ("x" * 200, "a\u00a0b", "a\U0001fae8b", "a\ue000b"),
        ("x" * 201, "", "a\x7f", "a\u200bb", "a\U000e0020b"),
    )
    for name, is_fine in [*((name, True) for name in sound), *((name, False) for name in others)]:
        yield case(f"name {name[:3]!r} of {len(name)}", "member", {**join, "name": name}, is_fine, MEMBER)
    yield case("key of 31 bytes", "member", {**join, "key": HASH[:31]}, False, MEMBER)
    yield case("key of small order", "member", {**join, "key": HASH}, False, MEMBER)
    for number, is_fine in ((0, False), (1, True), (16, True), (17, False)):
        yield case(f"threshold {number}", "member", {"op": "threshold", "threshold": number}, is_fine)
    for use, suite, is_fine in (
        *(("signature", 2, True), ("signature", 3, False), ("state-tree", 2, True), ("state-tree", 3, False)),
        *(("digest", 2, True), ("batch-tree", 1, True), ("batch-tree", 2, False), ("log-tree", 1, False)),
    ):
        yield case(f"suite {suite} of {use}", "suite", {"op": "allow", "use": use, "suite": suite}, is_fine)
    for field, value, is_fine in (
        *(
            ("count", 0, False),
            ("count", 1, True),
            ("count", MAX, True),
            ("count", True, False),
            ("count", -1, False),
        ),
        *(("suite", 2, False), ("root", HASH[:31], False), ("op", "x", False), ("more", 1, False)),
    ):
        yield case(f"anchor with {field} {value!r}", "anchor", {**ANCHOR, field: value}, is_fine)
    yield case("anchor without suite", "anchor", {"root": HASH, "count": 1}, False)
    change = {"op": "set", "path": HASH, "counter": 1, "list_hash": HASH}
    yield case("consent set", "consent", change, True)
    yield case("consent of unknown op", "consent", {**change, "op": "get"}, False)
    yield case("ruleset of digest suite 3", "ruleset", {"digest": HASH, "suite": 3}, False)
    ruled = {"op": "use", "digest": HASH, "institution": MEMBER_KEY, "author": MEMBER_KEY, "share": 500, "suite": 1}
    yield case("use of a ruleset", "ruleset", ruled, True)
    for share, is_fine in ((0, True), (10_000, True), (10_001, False), (-1, False), (True, False)):
        yield case(f"use of a ruleset by {share!r}", "ruleset", {**ruled, "share": share}, is_fine)
    yield case("use without author", "ruleset", {k: v for k, v in ruled.items() if k != "author"}, False)
    yield case("unknown kind", "vote", ANCHOR, False)


def _bodies() -> Iterator[Forged]:
    many = [Identity.from_private_bytes(bytes([number]) * 32) for number in range(1, 66)]
    for name, entry, is_fine in (
        ("version 2", envelope("anchor", ANCHOR, version=2), False),
        ("version true", envelope("anchor", ANCHOR, version=True), False),
        ("nonce 0", envelope("anchor", ANCHOR, nonce=0), False),
        ("largest nonce", envelope("anchor", ANCHOR, nonce=MAX), True),
        ("network of 31 bytes", envelope("anchor", ANCHOR, network=HASH[:31]), False),
        ("another's key", envelope("anchor", ANCHOR, signer_key=MEMBER_KEY), False),
        ("ML-DSA-44 signer", envelope("anchor", ANCHOR, signer=MEMBER_ML), True),
        ("approvals of both suites", envelope("anchor", ANCHOR, MEMBER_ML, MEMBER, OWNER), True),
        ("approved by the signer", envelope("anchor", ANCHOR, OPERATOR), False),
        ("approved twice by one", envelope("anchor", ANCHOR, MEMBER, MEMBER), False),
        ("64 approvals", envelope("anchor", ANCHOR, *many[:64]), True),
        ("65 approvals", envelope("anchor", ANCHOR, *many), False),
        ("genesis", encode([0, 1, "n", KEY, "o", 1, True, 0]), False),
        ("a state root", state_root(HASH), False),
    ):
        yield _transaction(name, entry, is_fine)


def _record(name: str, facts: Mapping[str, object], is_sound: bool, suite: int = 1, **changed: object) -> Forged:
    opened, commitment = opening(facts, suite)
    kind = str(changed.pop("kind", "anchor"))
    payload = ANCHOR if kind == "anchor" else {"digest": HASH}
    entry = envelope(kind, {**payload, **({"root": leaf(commitment)} if kind == "anchor" else {}), "suite": 1})
    fields = {"record": {**opened, **changed}, "batch": {"index": 0, "path": []}, "transaction": entry}
    return Forged(f"record: {name}", receipt("record", fields, [entry], 0), is_sound)


def _records() -> Iterator[Forged]:
    for fact, is_fine in (
        *(
            (-(2**63), True),
            (MAX, True),
            ("", True),
            (b"", True),
            (True, False),
            (None, False),
            ([1], False),
            ({}, False),
        ),
    ):
        yield _record(f"fact {fact!r}", {"f": fact}, is_fine)
    yield _record("digest suite 2", {}, True, 2)
    yield _record("digest suite 3", {}, False, 3)
    yield _record("another salt", {}, False, salt=HASH)
    yield _record("a field too many", {}, False, more=1)
    yield _record("anchored by a ruleset", {}, False, kind="ruleset")
    yield _record(
        "a part both open and sealed", {}, False, parts={"fhir": {"salt": SALT, "content": HASH, "sealed": HASH}}
    )
    opened, commitment = opening()
    one, two = (envelope("anchor", {**ANCHOR, "root": leaf(commitment)}, nonce=nonce) for nonce in (1, 2))
    told = [
        {"index": index, "transaction": entry, "path": [], "records": [{"index": 0, **opened}]}
        for index, entry in enumerate((one, two))
    ]
    for name, batches, path, is_fine in (
        ("two batches", told, [leaf(one)], True),
        ("two batches, no path", told, [], False),
        ("two batches, a hash too many", told, [leaf(one), HASH], False),
        ("one batch", told[:1], [], True),
        ("one batch with a path", told[:1], [HASH], False),
        ("one batch twice", [told[0], told[0]], [leaf(two)], False),
        ("batches that fall", told[::-1], [leaf(two)], False),
        ("no batch", [], [], False),
        ("a batch of none", [{**told[0], "records": []}], [], False),
    ):
        yield Forged(
            f"records: {name}", receipt("records", {"batches": batches, "path": path}, [one, two], 0), is_fine
        )


def _state(
    name: str,
    kind: str,
    key: bytes,
    value: object,
    is_sound: bool,
    *,
    claim: str = "state",
    root: object = None,
    siblings: Sequence[bytes] = (),
    neighbour: Sequence[bytes] | None = None,
    entry: bytes = b"",
    is_last: bool = True,
) -> Forged:
    held = None if value is None else encode(value)
    found = HASH if held is None else lone_leaf(kind, key, held)
    primary = entry or state_root(found if root is None else root)
    state = {"kind": kind, "key": key, "value": held, "siblings": list(siblings), "neighbour": neighbour}
    entries = [b"g", primary] if is_last else [primary, b"g"]
    return Forged(
        f"{claim}: {name}", receipt(claim, {"state": state, "entry": primary}, entries, int(is_last)), is_sound
    )


def _changed(value: Sequence[object], at: int, item: object) -> list[object]:
    return [item if place == at else each for place, each in enumerate(value)]


def _states() -> Iterator[Forged]:
    """State values, each with one field of another form."""
    for kind, key, value in (("consent", HASH, CONSENT), ("member", KEY, MEMBER_VALUE), ("config", b"", CONFIG)):
        yield _state(kind, kind, key, value, True)
        yield _state(f"{kind} with a field too many", kind, key, [*value, 0], False)
        yield _state(f"{kind} with a field too few", kind, key, value[:-1], False)
        yield _state(f"{kind} of version 2", kind, key, _changed(value, 1, 2), False)
        yield _state(f"{kind} that calls itself policy", kind, key, _changed(value, 0, "policy"), False)
    for kind, key, value, at, item in (
        *(("consent", HASH, CONSENT, at, HASH[:31]) for at in (2, 3, 4, 6, 8)),
        *(("consent", HASH, CONSENT, at, -1) for at in (5, 7, 9)),
        *(("consent", HASH, CONSENT, at, True) for at in (5, 7, 9)),
        *(
            ("member", KEY, MEMBER_VALUE, at, item)
            for at, item in ((2, b""), (2, HASH), (3, ""), (4, "gone"), (5, -1), (5, "1"))
        ),
        *(("config", b"", CONFIG, 2, item) for item in (0, 17, True)),
        *(("config", b"", CONFIG, 4, item) for item in ([1], [1, 0, 0], [1, -1])),
        *(("config", b"", CONFIG, 6, item) for item in ([2, 1], [1, 1], [3])),
        *(("config", b"", CONFIG, at, item) for at, item in ((3, 1), (5, 3), (7, [2, 1]), (8, [2]))),
    ):
        said = f"of {len(item)} bytes" if isinstance(item, bytes) else repr(item)
        yield _state(f"{kind} with field {at} {said}", kind, key, _changed(value, at, item), False)


def _places() -> Iterator[Forged]:
    """Where a claim of state rests, and how the walk to it ends."""
    yield _state("not on the last entry", "consent", HASH, CONSENT, False, is_last=False)
    yield _state("not on the last entry", "consent", HASH, CONSENT, True, claim="past-state", is_last=False)
    for kind, key, is_fine in (
        *(("consent", HASH, True), ("consemt", HASH, False), ("consent", HASH[:31], False), ("config", b"", True)),
        *(("config", HASH, False), ("member", KEY, True), ("member", MEMBER_ML.public, True), ("member", b"", False)),
        *(("ruleset", HASH, True), ("ruleset", b"", False), ("policy", HASH, True), ("policy", b"x" * 33, False)),
        *(("access", KEY, True), ("access", MEMBER_ML.public[:-1], False)),
    ):
        yield _state(f"absent {kind} of {len(key)} bytes", kind, key, None, is_fine)
    alone = lone_leaf("consent", HASH, encode(CONSENT))
    for name, entry, is_fine in (
        ("suite 0", state_root(alone, suite=0), False),
        ("suite 3", state_root(alone, suite=3), False),
        ("suite 2 for a tree of suite 1", state_root(alone, suite=2), False),
        ("largest height", state_root(alone, MAX), True),
        ("height -1", state_root(alone, -1), False),
        ("time -1", state_root(alone, time_ms=-1), False),
        ("a field too many", encode([2, 1, 1, 0, alone, 0]), False),
    ):
        yield _state(f"an entry with {name}", "consent", HASH, CONSENT, is_fine, entry=entry)
    path = tagged("ledger-core/state-path/v1", b"consent", HASH)
    near, far = bytes([*path[:31], path[31] ^ 1]), bytes([path[0] ^ 0x80, *path[1:]])
    beside = b"\x11" * 32

    def above(below: bytes, sibling: bytes) -> bytes:
        return state_hash(1, b"\x11" + (sibling + below if path[0] & 0x80 else below + sibling))

    def as_leaf(at: bytes) -> bytes:
        return state_hash(1, b"\x10" + at + LIST)

    for name, value, root, siblings, neighbour, is_fine in (
        ("present beside another", CONSENT, above(alone, beside), [beside], None, True),
        ("present alone, yet below a node", CONSENT, above(alone, HASH), [HASH], None, False),
        ("present with a neighbour", CONSENT, alone, [], [far, LIST], False),
        ("absent from an empty tree", None, HASH, [], None, True),
        ("absent at an empty place", None, above(HASH, beside), [beside], None, True),
        ("absent at a neighbour", None, above(as_leaf(near), beside), [beside], [near, LIST], True),
        ("absent at a lone neighbour", None, as_leaf(far), [], [far, LIST], True),
        ("absent at a neighbour elsewhere", None, above(as_leaf(far), beside), [beside], [far, LIST], False),
        ("absent at itself", None, as_leaf(path), [], [path, LIST], False),
        ("absent below a node of nothing", None, above(HASH, HASH), [HASH], None, False),
    ):
        yield _state(name, "consent", HASH, value, is_fine, root=root, siblings=siblings, neighbour=neighbour)


def _revocations() -> Iterator[Forged]:
    def consent(**fields: object) -> list[object]:
        names = ["owner", "institution", "secret", "counter", "list", "own", "own_list", "attested"]
        return [*CONSENT[:2], *(fields.get(name, CONSENT[2 + place]) for place, name in enumerate(names))]

    def member(status: str, nonce: int = 1, key: bytes = KEY) -> list[object]:
        return ["member", 1, key, "n", status, nonce]

    new = {"counter": 1, "list": LIST}
    for name, kind, key, then, now, heights, is_fine in (
        ("by the owner", "consent", HASH, consent(), consent(**new), (1, 2), True),
        ("by the institution", "consent", HASH, consent(), consent(own=1, own_list=LIST), (1, 2), True),
        ("nothing", "consent", HASH, consent(), consent(), (1, 2), False),
        ("a counter alone", "consent", HASH, consent(), consent(counter=1), (1, 2), False),
        ("a list alone", "consent", HASH, consent(), consent(list=LIST), (1, 2), False),
        (
            "one's counter, the other's list",
            "consent",
            HASH,
            consent(),
            consent(counter=1, own_list=LIST),
            (1, 2),
            False,
        ),
        ("a counter fell", "consent", HASH, consent(own=2), consent(**new, own=1), (1, 2), False),
        ("another institution", "consent", HASH, consent(), consent(**new, institution=MEMBER_KEY), (1, 2), False),
        ("another secret", "consent", HASH, consent(), consent(**new, secret=LIST), (1, 2), False),
        ("of one height", "consent", HASH, consent(), consent(**new), (2, 2), False),
        ("of falling heights", "consent", HASH, consent(), consent(**new), (3, 2), False),
        ("left", "member", KEY, member("active"), member("left"), (1, 2), True),
        ("rotated", "member", KEY, member("active"), member("rotated", 2), (1, 2), True),
        ("still active", "member", KEY, member("active"), member("active", 2), (1, 2), False),
        ("active again", "member", KEY, member("left"), member("active"), (1, 2), False),
        ("left after rotation", "member", KEY, member("rotated"), member("left"), (1, 2), False),
        ("a nonce fell", "member", KEY, member("active", 2), member("left"), (1, 2), False),
        ("another member", "member", KEY, member("active"), member("left", key=MEMBER_KEY), (1, 2), False),
        ("of config", "config", b"", [*CONFIG], _changed(CONFIG, 2, 2), (1, 2), False),
    ):
        past, current = encode(then), encode(now)
        entries = [
            state_root(lone_leaf(kind, key, value), height)
            for value, height in zip((past, current), heights, strict=True)
        ]
        log = {"index": 0, "path": path_of([leaf(entry) for entry in entries], 0)}
        fields = {
            "kind": kind,
            "key": key,
            "current": {"value": current, "siblings": [], "entry": entries[1]},
            "past": {"value": past, "siblings": [], "entry": entries[0], "log": log},
        }
        yield Forged(f"revocation: {name}", receipt("revocation", fields, entries, 1, signers=LOG_LINES), is_fine)
