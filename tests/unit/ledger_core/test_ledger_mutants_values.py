"""State values, state-root entries and payloads, field by field; encoded by cbor2."""

from typing import Any, Final

import cbor2
import pytest

from ledger_core.errors import IntegrityBroken
from ledger_core.payloads import (
    KINDS,
    KNOWN_SUITES,
    AccessHead,
    AllowSuite,
    Anchor,
    Attest,
    ChangeOwner,
    Join,
    Leave,
    OpenPath,
    Payload,
    RegisterPolicy,
    RegisterRuleset,
    Rejection,
    Restrict,
    RetireSuite,
    Rotate,
    SetConsent,
    SetThreshold,
    UseRuleset,
    is_count,
    is_hash,
    is_key,
    is_name,
    is_positive,
    is_threshold,
    named_suite,
    new_keys,
    payload_map,
    read_payload,
)
from ledger_core.stateroot import StateEntry, read_state_entry
from ledger_core.values import (
    ACTIVE,
    CONFIG_PATH,
    LEFT,
    ROTATED,
    AccessState,
    Config,
    ConsentState,
    DefaultPolicy,
    Held,
    Member,
    Ruleset,
    decode_any,
    encode_held,
    state_path,
    tree_suite_of,
)
from tests.support.naive_trees import sha, tagged
from tests.unit.ledger_core.ledger_network import LATTICE
from tests.unit.ledger_core.ledger_samples import NORTH, filler

ONE, TWO, THREE = filler(1), filler(2), filler(3)
CONFIG: Final = Config(3, True, (2, 5), 2, (1, 2), (1,), (1,))
HELD: Final[list[tuple[Held, list[Any]]]] = [
    (CONFIG, ["config", 1, 3, True, [2, 5], 2, [1, 2], [1], [1]]),
    (Member(ONE, "north", "left", 9), ["member", 1, ONE, "north", "left", 9]),
    (ConsentState(ONE, TWO, THREE, 1, ONE, 2, TWO, 3), ["consent", 1, ONE, TWO, THREE, 1, ONE, 2, TWO, 3]),
    (Ruleset(ONE), ["ruleset", 1, ONE, 1]),
    (DefaultPolicy(ONE, 2), ["policy", 1, ONE, 2]),
    (DefaultPolicy(ONE), ["policy", 1, ONE, 1]),
    (AccessState(4, ONE, 5), ["access", 1, 4, ONE, 5]),
]


@pytest.mark.parametrize(("held", "parts"), HELD)
def test_a_state_value_is_its_kind_version_and_fields(held: Held, parts: list[Any]) -> None:
    raw = cbor2.dumps(parts, canonical=True)
    assert encode_held(held) == raw
    assert decode_any(raw) == held


@pytest.mark.parametrize("parts", [parts for _, parts in HELD])
def test_a_state_value_with_any_part_of_another_kind_is_broken(parts: list[Any]) -> None:
    for place, value in enumerate(parts):
        for other in (
            None,
            not value if isinstance(value, bool) else True,
            "x" if not isinstance(value, str) else b"x",
        ):
            if type(other) is type(value) and place > 1:
                continue
            with pytest.raises(IntegrityBroken):
                decode_any(cbor2.dumps([*parts[:place], other, *parts[place + 1 :]], canonical=True))
    for wrong in (
        parts[:-1],
        [*parts, 0],
        [parts[0], 0, *parts[2:]],
        [parts[0], 2, *parts[2:]],
        parts[:1],
        parts[:2],
        [],
    ):
        with pytest.raises(IntegrityBroken):
            decode_any(cbor2.dumps(wrong, canonical=True))


@pytest.mark.parametrize(
    "parts", ["config", {"a": 1}, {"a": 1, "b": 2}, ["claim", 1], [{"a": 1}, 1], [1, 1], None, 5, b"ab"]
)
def test_what_is_no_state_value_is_broken(parts: Any) -> None:
    with pytest.raises(IntegrityBroken):
        decode_any(cbor2.dumps(parts, canonical=True))


@pytest.mark.parametrize("raw", [b"", b"\xff"])
def test_bytes_that_are_not_canonical_are_no_state_value(raw: bytes) -> None:
    with pytest.raises(IntegrityBroken, match="not canonical"):
        decode_any(raw)


@pytest.mark.parametrize("counts", [[2, "5"], ["2", 5], [True, 5], [2, None]])
def test_a_list_of_numbers_holds_numbers_only(counts: list[Any]) -> None:
    with pytest.raises(IntegrityBroken, match="members"):
        decode_any(cbor2.dumps(["config", 1, 3, True, counts, 2, [1], [1], [1]], canonical=True))


def test_a_member_has_one_of_three_conditions() -> None:
    assert (ACTIVE, ROTATED, LEFT) == ("active", "rotated", "left")


@pytest.mark.parametrize("kind", ["config", "member", "consent", "ruleset", "policy", "access", "later"])
@pytest.mark.parametrize("key", [b"", ONE, LATTICE.public])
def test_a_state_path_is_framed(kind: str, key: bytes) -> None:
    assert state_path(kind, key) == sha(tagged("ledger-core/state-path/v1", kind.encode(), key))


def test_the_configuration_has_the_empty_key() -> None:
    assert sha(tagged("ledger-core/state-path/v1", b"config", b"")) == CONFIG_PATH


@pytest.mark.parametrize(
    ("members", "signatures", "threshold", "active", "needed"),
    [
        ((3, 2), (1,), 9, 3, 3),
        ((3, 2), (2,), 1, 2, 1),
        ((3, 2), (1, 2), 4, 5, 4),
        ((3, 2), (1, 2), 5, 5, 5),
        ((0, 0), (1, 2), 1, 0, 0),
    ],
)
def test_those_who_can_act_have_keys_of_a_suite_in_use(
    members: tuple[int, ...], signatures: tuple[int, ...], threshold: int, active: int, needed: int
) -> None:
    config = Config(threshold, True, members, 1, signatures, (1,), (1,))
    assert (config.active, config.needed) == (active, needed)


def test_the_tree_suite_is_that_of_the_configuration() -> None:
    assert tree_suite_of(None) == 1
    assert tree_suite_of(encode_held(CONFIG)) == 2
    with pytest.raises(IntegrityBroken, match="something else"):
        tree_suite_of(encode_held(Ruleset(ONE)))


@pytest.mark.parametrize("suite", [1, 2])
def test_a_state_root_entry_is_its_five_parts(suite: int) -> None:
    raw = cbor2.dumps([2, suite, 7, 1_000, ONE], canonical=True)
    entry = StateEntry(7, 1_000, ONE, suite)
    assert (entry.entry(), read_state_entry(raw)) == (raw, entry)
    assert StateEntry(7, 1_000, ONE).suite == 1


@pytest.mark.parametrize(
    "parts",
    [
        [2, 1, 7, 1_000, ONE, 0],
        [2, 1, 7, 1_000],
        [1, 1, 7, 1_000, ONE],
        [3, 1, 7, 1_000, ONE],
        [2, 0, 7, 1_000, ONE],
        [2, 3, 7, 1_000, ONE],
        [2, True, 7, 1_000, ONE],
        [2, 1, True, 1_000, ONE],
        [2, 1, 7, True, ONE],
        [2, 1, "7", 1_000, ONE],
        [2, 1, 7, b"7", ONE],
        [2, "1", 7, 1_000, ONE],
        [2, 1, 7, 1_000, ONE[:31]],
        [2, 1, 7, 1_000, ONE + b"\0"],
        [2, 1, 7, 1_000, "r" * 32],
        [2, 1, 7, 1_000, None],
        {"2": 1},
        "12345",
        12345,
    ],
)
def test_an_entry_of_other_parts_is_no_state_root(parts: Any) -> None:
    assert read_state_entry(cbor2.dumps(parts, canonical=True)) is None
    assert read_state_entry(b"\xff") is None


PAYLOADS: Final[list[tuple[Payload, str, dict[str, Any]]]] = [
    (Join(ONE, "n"), "member", {"op": "join", "key": ONE, "name": "n"}),
    (Rotate(ONE), "member", {"op": "rotate", "key": ONE}),
    (Leave(ONE), "member", {"op": "leave", "key": ONE}),
    (SetThreshold(16), "member", {"op": "threshold", "threshold": 16}),
    (AllowSuite("state-tree", 2), "suite", {"op": "allow", "use": "state-tree", "suite": 2}),
    (RetireSuite("signature", 1), "suite", {"op": "retire", "use": "signature", "suite": 1}),
    (Anchor(ONE, 1), "anchor", {"root": ONE, "count": 1, "suite": 1}),
    (OpenPath(ONE, TWO, THREE), "consent", {"op": "open", "path": ONE, "owner": TWO, "secret": THREE}),
    (SetConsent(ONE, 1, TWO), "consent", {"op": "set", "path": ONE, "counter": 1, "list_hash": TWO}),
    (ChangeOwner(ONE, 1, TWO), "consent", {"op": "owner", "path": ONE, "counter": 1, "owner": TWO}),
    (Restrict(ONE, 1, TWO), "consent", {"op": "restrict", "path": ONE, "counter": 1, "list_hash": TWO}),
    (Attest(ONE, 1, TWO), "consent", {"op": "attest", "path": ONE, "counter": 1, "list_hash": TWO}),
    (RegisterRuleset(ONE), "ruleset", {"digest": ONE, "suite": 1}),
    (
        UseRuleset(ONE, THREE, TWO, 500),
        "ruleset",
        {"op": "use", "digest": ONE, "institution": THREE, "author": TWO, "share": 500, "suite": 1},
    ),
    (RegisterPolicy(ONE, 2), "policy", {"digest": ONE, "suite": 2}),
    (AccessHead(0, ONE, 0), "access", {"epoch": 0, "root": ONE, "count": 0}),
]


@pytest.mark.parametrize(("payload", "kind", "content"), PAYLOADS)
def test_a_payload_is_the_map_of_its_fields(payload: Payload, kind: str, content: dict[str, Any]) -> None:
    assert payload_map(payload) == content
    assert payload.kind == kind
    assert read_payload(kind, content) == payload


@pytest.mark.parametrize(("payload", "kind", "content"), PAYLOADS)
def test_a_payload_with_any_field_missing_more_or_of_another_type_is_invalid(
    payload: Payload, kind: str, content: dict[str, Any]
) -> None:
    for name, value in content.items():
        without = {key: held for key, held in content.items() if key != name}
        assert read_payload(kind, without) == Rejection.PAYLOAD_INVALID
        spoilt: tuple[Any, ...] = (None, True, [], {}, "" if not isinstance(value, str) else 1, -1, ONE[:31])
        for other in spoilt:
            assert read_payload(kind, {**content, name: other}) == Rejection.PAYLOAD_INVALID
    assert read_payload(kind, {**content, "more": 1}) == Rejection.PAYLOAD_INVALID
    assert read_payload("claim", content) == Rejection.PAYLOAD_INVALID
    if not payload.op:
        assert read_payload(kind, {**content, "op": ""}) == Rejection.PAYLOAD_INVALID


def test_the_kinds_are_these() -> None:
    assert {"member", "suite", "anchor", "consent", "ruleset", "policy", "access"} == KINDS
    assert {"signature": {1, 2}, "state-tree": {1, 2}, "digest": {1, 2}, "batch-tree": {1}} == KNOWN_SUITES


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("anchor", {"root": ONE, "count": 1, "suite": 2}),
        ("ruleset", {"digest": ONE, "suite": 3}),
        ("policy", {"digest": ONE, "suite": 3}),
        ("ruleset", {"op": "use", "digest": ONE, "institution": THREE, "author": TWO, "share": 1, "suite": 3}),
        ("suite", {"op": "allow", "use": "signature", "suite": 3}),
        ("suite", {"op": "retire", "use": "batch-tree", "suite": 2}),
    ],
)
def test_an_unknown_suite_has_its_code(kind: str, content: dict[str, Any]) -> None:
    assert read_payload(kind, content) == Rejection.UNKNOWN_SUITE


def test_which_payloads_name_suites_and_bring_keys() -> None:
    suites = {type(payload): named_suite(payload) for payload, _, _ in PAYLOADS}
    assert {kind: named for kind, named in suites.items() if named is not None} == {
        Anchor: ("batch-tree", 1),
        RegisterRuleset: ("digest", 1),
        UseRuleset: ("digest", 1),
        RegisterPolicy: ("digest", 2),
        AllowSuite: ("state-tree", 2),
        RetireSuite: ("signature", 1),
    }
    keys = {type(payload): new_keys(payload) for payload, _, _ in PAYLOADS}
    assert {kind: new for kind, new in keys.items() if new} == {
        Join: (ONE,),
        Rotate: (ONE,),
        OpenPath: (TWO,),
        ChangeOwner: (TWO,),
    }


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (is_hash, [bytes(32)], [bytes(31), bytes(33), "h" * 32, None]),
        (is_key, [NORTH.public, LATTICE.public], [bytes(31), bytes(1311), bytes(2420), "k" * 32, None]),
        (is_count, [0, 1, 2**64 - 1], [-1, 2**64, True, False, "1", None]),
        (is_positive, [1, 2**64 - 1], [0, -1, 2**64, True, "1", None]),
        (is_threshold, [1, 16], [0, 17, -1, True, "1", None]),
        (is_name, ["n", "n" * 200, "é" * 100], ["", "n" * 201, "é" * 101, "a\tb", "a\u2028b", b"n", None]),
    ],
)
def test_every_check_of_a_form_has_its_bounds(check: Any, good: list[Any], bad: list[Any]) -> None:
    assert [check(value) for value in good] == [True] * len(good)
    assert [check(value) for value in bad] == [False] * len(bad)


def test_the_codes_of_refusal_are_public_and_never_change() -> None:
    codes = {name: code for name, code in vars(Rejection).items() if name.isupper()}
    assert sorted(codes.values()) == [
        *("already-exists", "approvals-missing", "attest-not-allowed", "bad-signature", "counter-stale"),
        *("last-member", "last-suite", "malformed", "nonce-stale", "not-a-member", "not-found", "not-permitted"),
        *("payload-invalid", "suite-not-allowed", "too-large", "unknown-kind", "unknown-suite", "unknown-version"),
        "wrong-network",
    ]
    assert all(code == name.lower().replace("_", "-") for name, code in codes.items())


@pytest.mark.parametrize("use", ["hash", "", "signature~"])
def test_a_use_nobody_knows_names_no_suites(use: str) -> None:
    assert read_payload("suite", {"op": "allow", "use": use, "suite": 1}) == Rejection.PAYLOAD_INVALID
