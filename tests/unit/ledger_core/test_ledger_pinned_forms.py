"""Forms that the formats page pins down: state values, places, origins, policies, ages, and files at hand."""

import base64
import json
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import cbor2
import pytest

from ledger_core import NoteInvalid, Policy, PolicyInvalid, PolicyUnmet, ProofInvalid, verify_receipt
from ledger_core.checkpoint import Checkpoint, log_key, parse_checkpoint, parse_vkey
from ledger_core.commitment import Opening, OpenPart, SealedPart
from ledger_core.errors import IntegrityBroken, OpeningRefused
from ledger_core.hashing import EMPTY_STATE, leaf_hash, sha256, state_leaf_hash, state_node_hash
from ledger_core.machine import begin
from ledger_core.payloads import is_name
from ledger_core.proofs import StateProof, verify_absence, verify_presence
from ledger_core.receipt import RecordClaim
from ledger_core.stateroot import read_state_entry
from ledger_core.transactions import Anchor, Transaction, seal_envelope, sign
from ledger_core.values import can_hold, decode_any
from tests.support import naive_ledger
from tests.support.second_verifier import forms
from tests.unit.ledger_core.ledger_receipt_samples import POLICY, RECEIPTS, SIGNED_S, receipt_of
from tests.unit.ledger_core.ledger_samples import GENESIS, LOG_KEY, NORTH, filler

KEY, LONG, HASH = filler(1), b"k" * 1312, filler(2)
CONFIG: Final[list[Any]] = ["config", 1, 16, True, [2, 2**64 - 1], 2, [1, 2], [1, 2], [1]]
MEMBER: Final[list[Any]] = ["member", 1, LONG, "é" * 100, "left", 2**64 - 1]
CONSENT: Final[list[Any]] = ["consent", 1, KEY, LONG, HASH, 0, HASH, 0, HASH, 2**64 - 1]
RULESET: Final[list[Any]] = ["ruleset", 1, KEY, 2]
ACCESS: Final[list[Any]] = ["access", 1, 0, HASH, 0]


@pytest.mark.parametrize("value", [CONFIG, MEMBER, CONSENT, RULESET, ["policy", *RULESET[1:]], ACCESS])
def test_a_value_at_its_limits_is_read(value: list[Any]) -> None:
    assert decode_any(cbor2.dumps(value, canonical=True)).kind == value[0]


@pytest.mark.parametrize(
    ("value", "at", "others"),
    [
        (CONFIG, 2, [0, 17, -1, True]),
        (CONFIG, 3, [0, 1, None]),
        (CONFIG, 4, [[1], [1, 0, 0], [1, -1], [1, True], [], {}, 1]),
        (CONFIG, 5, [0, 3, True, [1]]),
        (CONFIG, 6, [[2, 1], [1, 1], [3], [], [True], 1, ["1"]]),
        (CONFIG, 7, [[2, 1], [3], []]),
        (CONFIG, 8, [[2], [1, 1], []]),
        (MEMBER, 2, [b"", KEY[:31], LONG + b"x", "x" * 32]),
        (MEMBER, 3, ["", "é" * 101, "a\x7f", b"n"]),
        (MEMBER, 4, ["gone", "", "Active", b"left"]),
        (MEMBER, 5, [-1, True, "1"]),
        *((CONSENT, at, [KEY[:31], b"", "x" * 32]) for at in (2, 3, 4, 6, 8)),
        *((CONSENT, at, [-1, True, b"0"]) for at in (5, 7, 9)),
        (RULESET, 2, [b"", KEY[:31]]),
        (RULESET, 3, [0, 3, True]),
        (["policy", *RULESET[1:]], 3, [0, 3]),
        (ACCESS, 2, [-1, True]),
        (ACCESS, 3, [HASH[:31], LONG]),
        (ACCESS, 4, [-1, True]),
    ],
)
def test_a_value_with_a_field_beyond_its_form_is_none(value: list[Any], at: int, others: list[Any]) -> None:
    for other in others:
        with pytest.raises(IntegrityBroken, match=f"of kind {value[0]} has a wrong"):
            decode_any(cbor2.dumps([*value[:at], other, *value[at + 1 :]], canonical=True))


def test_only_a_known_kind_under_a_key_of_its_form_can_be_held() -> None:
    lengths = {kind: {32} for kind in ("consent", "ruleset", "policy")}
    lengths |= {"config": {0}, "member": {32, 1312}, "access": {32, 1312}, "later": set(), "": set()}
    for kind, right in lengths.items():
        for length in (0, 1, 31, 32, 33, 1311, 1312, 1313):
            assert can_hold(kind, b"k" * length) == (length in right)


def test_a_state_root_has_numbers_of_64_bits() -> None:
    top = 2**64 - 1
    for height, time_ms in ((0, 0), (top, top)):
        found = read_state_entry(cbor2.dumps([2, 1, height, time_ms, HASH], canonical=True))
        assert found is not None
        assert (found.height, found.time_ms) == (height, time_ms)
    for items in ([2, 1, -1, 0, HASH], [2, 1, 0, -1, HASH], [2, 0, 0, 0, HASH], [2, 3, 0, 0, HASH]):
        assert read_state_entry(cbor2.dumps(items, canonical=True)) is None
    for items in ([2, True, 0, 0, HASH], [2, 1, True, 0, HASH], [2, 1, 0, True, HASH], [2, 1, 0, 0, HASH[:31]]):
        assert read_state_entry(cbor2.dumps(items, canonical=True)) is None


def test_no_node_stands_above_one_leaf_or_none() -> None:
    path, value = bytes(32), b"value"
    alone = state_leaf_hash(path, sha256(value))
    below = StateProof((EMPTY_STATE,))
    with pytest.raises(ProofInvalid, match="deeper than a tree"):
        verify_presence(path=path, value=value, proof=below, root=state_node_hash(alone, EMPTY_STATE))
    with pytest.raises(ProofInvalid, match="deeper than a tree"):
        verify_absence(path=path, proof=below, root=state_node_hash(EMPTY_STATE, EMPTY_STATE))
    neighbour = StateProof((EMPTY_STATE,), (b"\x01" + bytes(31), sha256(value)))
    other = state_leaf_hash(b"\x01" + bytes(31), sha256(value))
    with pytest.raises(ProofInvalid, match="deeper than a tree"):
        verify_absence(path=path, proof=neighbour, root=state_node_hash(other, EMPTY_STATE))
    # Higher up an empty sibling is in order: two leaves that part at the second bit.
    beside = filler(7)
    inner = state_node_hash(alone, beside)
    proof = StateProof((EMPTY_STATE, beside))
    verify_presence(path=path, value=value, proof=proof, root=state_node_hash(inner, EMPTY_STATE))


@pytest.mark.parametrize("origin", ["cosignature/v1", "", "a b", "a+b", "a\x00", "a\u00a0b", "a\u2028b"])
def test_such_an_origin_is_none_in_a_checkpoint_and_in_a_policy(origin: str) -> None:
    with pytest.raises(NoteInvalid):
        parse_checkpoint(Checkpoint(origin, 1, HASH).text())
    with pytest.raises(PolicyInvalid, match="origin"):
        Policy(origin, (log_key(origin, LOG_KEY.public),))


def test_an_origin_that_only_looks_reserved_is_one() -> None:
    for origin in ("cosignature/v1.example", "cosignature/v2", "Cosignature/v1"):
        assert parse_checkpoint(Checkpoint(origin, 1, HASH).text()).origin == origin
        assert Policy(origin, (log_key(origin, LOG_KEY.public),)).origin == origin


def test_a_size_is_below_two_to_the_63() -> None:
    root = base64.b64encode(HASH).decode()
    assert parse_checkpoint(f"o\n{2**63 - 1}\n{root}\n").size == 2**63 - 1
    with pytest.raises(NoteInvalid, match="below 2\\^63"):
        parse_checkpoint(f"o\n{2**63}\n{root}\n")


def changed(**fields: object) -> str:
    return json.dumps({**json.loads(POLICY.encode()), **fields})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("origin", [None, 1, ["x"]]),
        ("log_keys", [None, "x", [1], ["x"]]),
        ("witnesses", [None, {}, ["x+y+z"]]),
        ("quorum", [None, "1", True, 1.0, -1, {"needed": 1}, {"needed": 1, "of": [1]}, {"needed": 2, "of": []}]),
        ("network", ["", "00", "0g" * 32, "AB" * 32, " ".join(["ab"] * 32), "ab" * 33, 5]),
        ("members", ["ab" * 32, ["ab" * 31], [5], ["AB" * 32], {}]),
        ("max_age_ms", [-1, "1", 1.5, True]),
        ("replaying", [None, 1]),
        ("replaying_quorum", [None, -1, "0", {"needed": 1, "of": []}]),
        ("validators", [None, [None]]),
        (
            "oldest_checkpoint",
            [
                *(5, "", "2026-01-01", "2026-01-01T00:00:00", "2026-01-01 00:00:00Z", "2026-01-01T00:00Z"),
                *("20260101T000000Z", "2026-W01-1T00:00:00Z", "2026-01-01T00:00:00+01", "2026-01-01T00:00:00z"),
                *("2026-01-01T00:00:00.Z", "2026-01-01T00:00:00.1234567Z", "2026-01-01T00:00:00,5Z"),
                *(
                    "2026-02-30T00:00:00Z",
                    "2026-01-01T00:00:60Z",
                    "0001-01-01T00:00:00+14:00",
                    "0000-01-01T00:00:00Z",
                ),
                "2026-01-01T00:00:00+01:00:01",
            ],
        ),
    ],
)
def test_a_policy_names_the_field_that_is_wrong(name: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(PolicyInvalid, match=f"field '{name}'"):
            Policy.decode(changed(**{name: value}))


def test_a_policy_names_the_field_that_is_missing() -> None:
    for name in ("origin", "log_keys"):
        content = json.loads(POLICY.encode())
        del content[name]
        with pytest.raises(PolicyInvalid, match=f"field '{name}'"):
            Policy.decode(json.dumps(content))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05.5+01:00", datetime(2026, 1, 2, 2, 4, 5, 500_000, tzinfo=UTC)),
        ("2026-01-02T03:04:05.000001-12:30", datetime(2026, 1, 2, 15, 34, 5, 1, tzinfo=UTC)),
    ],
)
def test_a_time_of_a_policy_has_a_zone(text: str, moment: datetime) -> None:
    policy = Policy.decode(changed(oldest_checkpoint=text))
    assert policy.oldest_checkpoint == moment
    assert Policy.decode(policy.encode()) == policy


def test_groups_stand_at_most_128_deep() -> None:
    group: object = "w"
    for _ in range(129):
        group = {"needed": 1, "of": [group]}
    with pytest.raises(PolicyInvalid, match="128 deep"):
        Policy.decode(changed(quorum=group))
    assert isinstance(group, dict)
    with pytest.raises(PolicyInvalid, match="does not list"):
        Policy.decode(changed(quorum=group["of"][0]))


def test_a_policy_of_lone_surrogates_is_refused_as_a_policy() -> None:
    with pytest.raises(PolicyInvalid):
        Policy.decode("log \ud800+00000000+AA==\nquorum none\n")
    plain = f"log {POLICY.log_keys[0].vkey()}\nquorum none\n"
    assert Policy.decode(plain).quorum == 0
    with pytest.raises(PolicyInvalid, match="control characters"):
        Policy.decode(f"# \ud800\n{plain}")
    for name in ("a\ud800", "\udfff"):
        vkey = f"{name}+00000000+{base64.b64encode(bytes((1, *KEY))).decode()}"
        with pytest.raises(NoteInvalid, match="malformed"):
            parse_vkey(vkey)
        with pytest.raises(PolicyInvalid, match="field 'witnesses'"):
            Policy.decode(changed(witnesses=[vkey]))


def test_an_age_at_the_limit_is_accepted_and_a_microsecond_more_is_not() -> None:
    signed = datetime.fromtimestamp(SIGNED_S, UTC)
    text = RECEIPTS["present"].encode()
    step = timedelta(microseconds=1)
    limited = replace(POLICY, max_age_ms=5)
    assert verify_receipt(text, policy=limited, now=signed + timedelta(milliseconds=5)).vouched
    with pytest.raises(PolicyUnmet, match="older"):
        verify_receipt(text, policy=limited, now=signed + timedelta(milliseconds=5) + step)
    assert verify_receipt(text, policy=replace(POLICY, oldest_checkpoint=signed), now=signed).vouched
    with pytest.raises(PolicyUnmet, match="older"):
        verify_receipt(text, policy=replace(POLICY, oldest_checkpoint=signed + step), now=signed)
    ahead = signed - timedelta(minutes=5)
    assert verify_receipt(text, policy=POLICY, now=ahead).vouched
    with pytest.raises(PolicyUnmet, match="future"):
        verify_receipt(text, policy=POLICY, now=ahead - step)
    assert verify_receipt(text, policy=replace(POLICY, max_age_ms=10**30), now=signed).vouched


def test_a_file_at_hand_is_named_as_every_open_part_that_it_is() -> None:
    content = b"record"
    parts: dict[str, OpenPart | SealedPart] = {
        "b": OpenPart.of(filler(1), content),
        "a": OpenPart.of(filler(2), content),
        "other": OpenPart.of(filler(3), b"else"),
        "shut": OpenPart.of(filler(4), content),
    }
    opening = Opening(filler(5), {}, parts).sealing("shut")
    anchor = Anchor(leaf_hash(opening.commitment()), 1)
    envelope = sign(Transaction(filler(9), NORTH.public, 1, anchor), NORTH)
    text = receipt_of(RecordClaim(opening, 0, (), envelope), envelope, [envelope]).encode()
    assert verify_receipt(text, record=content).records[0].matched == ("a", "b")
    assert verify_receipt(text, records=[content, b"else", content]).records[0].matched == ("a", "b", "other")


def test_no_approval_is_of_a_key_that_anybody_can_sign_under() -> None:
    body = Transaction(filler(9), NORTH.public, 1, Anchor(HASH, 1)).body()
    signature = NORTH.sign(body)
    assert seal_envelope(body, signature, [(KEY, bytes(64))])
    # The point of order 1 and one of order 4 (RFC 8032 encodes a point by y and the sign of x).
    for weak in (b"\x01" + bytes(31), bytes(32)):
        with pytest.raises(ValueError, match="malformed"):
            seal_envelope(body, signature, [(weak, bytes(64))])


UNNAMEABLE: Final = """
    0000-001F 007F-009F 00AD 061C 180E 200B-200F 2028-202E 2060-206F
    D800-DFFF FEFF FFF9-FFFB FFFE-FFFF E0000-E0FFF
"""
# Format characters of Unicode 3.2 that are seen: Arabic and Syriac marks, beams and slurs of music.
SEEN: Final = {0x06DD, 0x070F, *range(0x1D173, 0x1D17B)}


def unnameable() -> set[int]:
    """The code points of the list above, one by one."""
    bounds = [each.split("-") for each in UNNAMEABLE.split()]
    return {code for each in bounds for code in range(int(each[0], 16), int(each[-1], 16) + 1)}


def test_no_name_has_one_of_6246_code_points_and_every_other_may_stand_in_one() -> None:
    refused = {code for code in range(0x110000) if not is_name(chr(code))}
    assert refused == unnameable()
    assert len(refused) == 32 + 33 + 3 + 5 + 7 + 16 + 2048 + 1 + 3 + 2 + 4096


@pytest.mark.parametrize("judge", [is_name, naive_ledger.is_name, forms.is_name])
def test_every_reader_judges_names_alike(judge: Callable[[Any], bool]) -> None:
    listed = unnameable()
    for code in {near for each in listed for near in (each - 1, each, each + 1)} & set(range(0x110000)):
        assert judge(f"a{chr(code)}b") == (code not in listed)
    for name in ("", "é" * 101, "n" * 201, b"n", None):
        assert not judge(name)
    # U+1FAE8 and U+11F02 came with Unicode 15, U+E000 is private use, U+0378 is nothing yet.
    for name in ("a b", "Zürich", "医院", "a\u00a0b", "\U0001fae8", "\U00011f02", "\ue000", "\u0378", "é" * 100):
        assert judge(name)


def test_what_unicode_3_2_calls_a_control_or_an_unseen_format_is_in_no_name() -> None:
    # The one table that every Python carries in the same version.
    category = unicodedata.ucd_3_2_0.category
    hidden = {code for code in range(0x110000) if category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert hidden - unnameable() == SEEN


def test_no_network_begins_with_a_name_that_hides_something() -> None:
    for name in ("\u202eten.htron", "north\u200b", "\ud800"):
        for changed_genesis in (replace(GENESIS, name=name), replace(GENESIS, operator_name=name)):
            with pytest.raises(OpeningRefused, match="two names"):
                begin(changed_genesis)
    assert begin(replace(GENESIS, operator_name="\U0001fae8")).state
