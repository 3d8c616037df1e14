"""Whose word a receipt rests on: roles, quorums, both policy forms, and ML-DSA-44 in every role."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core import LedgerError, Policy, PolicyInvalid, PolicyUnmet, verify_main, verify_receipt
from ledger_core.checkpoint import NoteKey, cosigner_key, log_key, split_note
from ledger_core.keys import Identity
from ledger_core.policy import Group
from tests.unit.ledger_core.ledger_receipt_samples import (
    ORIGIN,
    POLICY,
    RECEIPTS,
    SIGNED_S,
    content_of,
    cosigned,
    cosigner,
)
from tests.unit.ledger_core.ledger_samples import LOG_KEY, identity

Cosigner = tuple[NoteKey, Identity]

WITNESSES = [cosigner(31, "w1.example"), cosigner(32, "w2.example"), cosigner(33, "w3.example", suite=2)]
REPLAYING = [cosigner(41, "r1.example"), cosigner(42, "r2.example", suite=2)]
VALIDATORS = [cosigner(50 + number, f"v{number}.example", suite=1 + number % 2) for number in range(4)]
PLAIN = RECEIPTS["present"]
SIGNED_AT = datetime.fromtimestamp(SIGNED_S, UTC)


def keys_of(cosigners: list[Cosigner]) -> tuple[NoteKey, ...]:
    return tuple(key for key, _ in cosigners)


FULL = replace(
    POLICY,
    witnesses=keys_of(WITNESSES),
    quorum=2,
    replaying=keys_of(REPLAYING),
    replaying_quorum=1,
    validators=keys_of(VALIDATORS),
)


def test_every_role_met_is_named_and_the_strongest_is_the_word() -> None:
    signed = cosigned(PLAIN, *WITNESSES[1:], REPLAYING[1], *VALIDATORS[:3])
    for text in (signed.encode(), signed.encode_text()):
        outcome = verify_receipt(text, policy=FULL)
        assert outcome.vouched == "quorum"
        assert dict(outcome.vouchers) == {
            "operator-attested": (ORIGIN,),
            "witnessed": ("w2.example", "w3.example"),
            "replayed": ("r2.example",),
            "quorum": ("v0.example", "v1.example", "v2.example"),
        }
        assert outcome.signed_at == SIGNED_AT


@pytest.mark.parametrize(
    ("policy", "cosigners", "word"),
    [
        (POLICY, [*WITNESSES, *REPLAYING, *VALIDATORS], "operator-attested"),
        (replace(FULL, replaying_quorum=0, validators=()), [*WITNESSES, *REPLAYING], "witnessed"),
        (replace(FULL, quorum=0, validators=()), [*WITNESSES, *REPLAYING], "replayed"),
        (replace(FULL, quorum=0, replaying_quorum=0), [*WITNESSES, *VALIDATORS], "quorum"),
    ],
)
def test_the_word_is_of_what_the_policy_asks_for(policy: Policy, cosigners: list[Cosigner], word: str) -> None:
    outcome = verify_receipt(cosigned(PLAIN, *cosigners).encode_text(), policy=policy)
    assert outcome.vouched == word
    assert list(outcome.vouchers)[-1] == word


@pytest.mark.parametrize(
    ("cosigners", "word"),
    [
        ([WITNESSES[0], *REPLAYING, *VALIDATORS], "witnessed"),
        ([*WITNESSES, *VALIDATORS], "replayed"),
        ([*WITNESSES, *REPLAYING, *VALIDATORS[:2]], "quorum"),
    ],
)
def test_one_role_unmet_and_nothing_is_verified(cosigners: list[Cosigner], word: str) -> None:
    with pytest.raises(PolicyUnmet, match=f"too few cosigned to call it {word}"):
        verify_receipt(cosigned(PLAIN, *cosigners).encode(), policy=FULL)


@pytest.mark.parametrize(("count", "needed"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (10, 7)])
def test_validators_need_more_than_two_thirds(count: int, needed: int) -> None:
    # Written as a table: more than 2/3 of 3 is 3, of 6 is 5.
    policy = replace(POLICY, validators=keys_of([cosigner(60 + item, f"v{item}") for item in range(count)]))
    assert policy.validator_group() == Group(needed, tuple(f"v{item}" for item in range(count)))


def test_two_keys_of_one_witness_count_once() -> None:
    both = [cosigner(31, "w1.example"), cosigner(34, "w1.example", suite=2)]
    policy = replace(POLICY, witnesses=keys_of([*both, WITNESSES[1]]), quorum=2)
    with pytest.raises(PolicyUnmet, match="1 did, 2 are needed"):
        verify_receipt(cosigned(PLAIN, *both).encode(), policy=policy)
    assert verify_receipt(cosigned(PLAIN, both[1], WITNESSES[1]).encode(), policy=policy).vouched == "witnessed"
    with pytest.raises(PolicyInvalid, match="exceeds"):
        replace(policy, quorum=3)


def test_no_key_and_no_name_stands_in_two_roles() -> None:
    same_key = cosigner_key("r1.example", identity(31).public)
    same_name = cosigner_key("w1.example", identity(99).public)
    own = cosigner_key("w.example", LOG_KEY.public)
    log_named = cosigner_key(ORIGIN, identity(98).public)
    one = keys_of(WITNESSES[:1])
    spoilt_policies: tuple[Callable[[], Policy], ...] = (
        lambda: replace(POLICY, witnesses=one, replaying=one),
        lambda: replace(POLICY, witnesses=one, replaying=(same_key,)),
        lambda: replace(POLICY, witnesses=one, replaying=(same_name,)),
        lambda: replace(POLICY, replaying=one, validators=(same_name,)),
        lambda: replace(POLICY, witnesses=(own,)),
        lambda: replace(POLICY, validators=(log_named,)),
        lambda: replace(POLICY, witnesses=(one[0], one[0])),
        lambda: replace(POLICY, witnesses=(one[0], cosigner_key("w9.example", one[0].public))),
        lambda: replace(POLICY, replaying=(log_key("r", identity(97).public),)),
        lambda: replace(POLICY, validators=(log_key("v", identity(97).public),)),
        lambda: replace(POLICY, replaying=one, replaying_quorum=2),
        lambda: replace(POLICY, replaying=one, replaying_quorum=-1),
        lambda: replace(POLICY, log_keys=()),
    )
    for spoilt in spoilt_policies:
        with pytest.raises(PolicyInvalid):
            spoilt()


def test_the_log_may_sign_with_ml_dsa_as_well_and_then_must() -> None:
    own = cosigner(70, ORIGIN, suite=2)
    policy = replace(POLICY, log_keys=(*POLICY.log_keys, own[0]))
    with pytest.raises(PolicyUnmet, match="has not signed"):
        verify_receipt(PLAIN.encode(), policy=policy)
    signed = cosigned(PLAIN, own)
    assert verify_receipt(signed.encode(), policy=policy).vouched == "operator-attested"
    assert verify_receipt(signed.encode(), policy=replace(POLICY, log_keys=(own[0],))).vouched == "operator-attested"
    # Each byte of the third signature counts too.
    line = signed.checkpoint.splitlines()[-1]
    spoilt = signed.checkpoint.replace(line, line[:90] + ("A" if line[90] != "A" else "B") + line[91:])
    with pytest.raises(LedgerError):
        verify_receipt(replace(signed, checkpoint=spoilt).encode(), policy=policy)


def test_a_cosignature_moved_to_another_name_or_time_is_refused() -> None:
    for suite in (1, 2):
        key, own = cosigner(35, "w5.example", suite=suite)
        policy = replace(POLICY, witnesses=(key,), quorum=1)
        note = cosigned(PLAIN, (key, own)).checkpoint
        line = split_note(note)[1][-1]
        assert line.signature[:8] == SIGNED_S.to_bytes(8, "big")
        later = cosigned(PLAIN, (key, own), time_s=SIGNED_S + 1).checkpoint
        verify_receipt(replace(PLAIN, checkpoint=later).encode(), policy=policy)
        # The name in front is moved; an ML-DSA message holds the name, an Ed25519 key id does.
        moved = note.replace("— w5.example", "— w6.example")
        renamed = replace(policy, witnesses=(cosigner_key("w6.example", own.public),))
        with pytest.raises(LedgerError):
            verify_receipt(replace(PLAIN, checkpoint=moved).encode(), policy=renamed)


def test_freshness_is_that_of_those_who_are_needed() -> None:
    old, new = SIGNED_S - 3600, SIGNED_S
    note = cosigned(cosigned(PLAIN, *WITNESSES[:2], time_s=new), REPLAYING[0], time_s=old)
    policy = replace(FULL, validators=(), max_age_ms=60_000)
    now = SIGNED_AT + timedelta(seconds=30)
    # The witnesses are fresh; the replaying one vouched for the state an hour ago.
    with pytest.raises(PolicyUnmet, match="older"):
        verify_receipt(note.encode(), policy=policy, now=now)
    assert verify_receipt(note.encode(), policy=replace(policy, max_age_ms=None), now=now).signed_at == (
        SIGNED_AT - timedelta(hours=1)
    )
    witnessed = replace(policy, replaying_quorum=0)
    assert verify_receipt(note.encode(), policy=witnessed, now=now).signed_at == SIGNED_AT
    # A third witness with an old time changes nothing: two fresh ones are enough.
    third = cosigned(note, WITNESSES[2], time_s=old)
    assert verify_receipt(third.encode(), policy=witnessed, now=now).signed_at == SIGNED_AT


def test_an_ml_dsa_cosignature_without_a_time_vouches_and_dates_nothing() -> None:
    policy = replace(POLICY, witnesses=keys_of(WITNESSES[2:]), quorum=1)
    timeless = cosigned(PLAIN, WITNESSES[2], time_s=0)
    outcome = verify_receipt(timeless.encode(), policy=policy)
    assert (outcome.vouched, outcome.signed_at) == ("witnessed", None)
    with pytest.raises(PolicyUnmet, match="signed a time"):
        verify_receipt(timeless.encode(), policy=replace(policy, max_age_ms=10**15))


def test_roles_and_groups_travel_as_json() -> None:
    grouped = replace(FULL, quorum=Group(2, ("w1.example", Group(1, ("w2.example", "w3.example")))))
    for policy in (FULL, grouped):
        assert Policy.decode(policy.encode()) == policy
    content = json.loads(grouped.encode())
    for quorum in (
        {"needed": 3, "of": ["w1.example", "w2.example"]},
        {"needed": 0, "of": ["w1.example"]},
        {"needed": 1, "of": []},
        {"needed": 1, "of": ["w1.example", "w1.example"]},
        {"needed": 1, "of": ["w1.example", {"needed": 1, "of": ["w1.example"]}]},
        {"needed": 1, "of": ["r1.example"]},
        {"needed": 1, "of": [1]},
        {"needed": 1, "of": {"w1.example": 1}},
        {"needed": True, "of": ["w1.example"]},
        {"needed": 1, "of": ["w1.example"], "more": 1},
        {"needed": 1},
        "w1.example",
        None,
    ):
        with pytest.raises(PolicyInvalid):
            Policy.decode(json.dumps({**content, "quorum": quorum}))
    for field, value in (
        ("replaying", "x"),
        ("validators", 1),
        ("replaying_quorum", 3),
        ("replaying_quorum", None),
        ("log_keys", [5]),
        ("origin", 5),
    ):
        with pytest.raises(PolicyInvalid):
            Policy.decode(json.dumps({**content, field: value}))


LOG_LINE = f"log {POLICY.log_keys[0].vkey()} https://log.example/\n"
WITNESS_LINES = "".join(f"witness W{number} {key.vkey()}\n" for number, (key, _) in enumerate(WITNESSES, 1))


@pytest.mark.parametrize(
    ("lines", "met"),
    [
        ("quorum W1\n", {"1", "12", "13", "123"}),
        ("group G any W1 W2\nquorum G\n", {"1", "2", "12", "13", "23", "123"}),
        ("group G all W1 W3\nquorum G\n", {"13", "123"}),
        ("group G 2 W1 W2 W3\nquorum G\n", {"12", "13", "23", "123"}),
        ("group A any W1 W2\ngroup B 2 A W3\nquorum B\n", {"13", "23", "123"}),
    ],
)
def test_a_tlog_policy_is_met_by_exactly_the_sets_it_means(lines: str, met: set[str]) -> None:
    policy = Policy.decode(f"# who watches\n\n\t{LOG_LINE}{WITNESS_LINES}{lines}")
    for number in range(8):
        chosen = [place for place in range(3) if number >> place & 1]
        text = cosigned(PLAIN, *(WITNESSES[place] for place in chosen)).encode_text()
        if "".join(str(place + 1) for place in chosen) in met:
            assert verify_receipt(text, policy=policy).vouched == "witnessed"
        else:
            with pytest.raises(PolicyUnmet):
                verify_receipt(text, policy=policy)
    assert Policy.decode(policy.encode()) == policy


def test_a_tlog_policy_without_witnesses_trusts_the_operator() -> None:
    policy = Policy.decode(LOG_LINE + "quorum none")
    assert verify_receipt(PLAIN.encode(), policy=policy).vouched == "operator-attested"
    # Any one of several logs is enough: here two keys of one type, of which one has signed.
    two = Policy.decode(f"{LOG_LINE}log {log_key(ORIGIN, identity(96).public).vkey()}\nquorum none\n")
    assert verify_receipt(PLAIN.encode(), policy=two).vouched == "operator-attested"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "quorum none\n",
        LOG_LINE,
        f"{LOG_LINE}quorum none\nquorum none\n",
        f"{LOG_LINE}quorum W1\n{WITNESS_LINES}",
        f"{LOG_LINE}quorum nobody\n",
        f"{LOG_LINE}{LOG_LINE}quorum none\n",
        f"{LOG_LINE}log {log_key('other.example', identity(95).public).vkey()}\nquorum none\n",
        f"{LOG_LINE}log {cosigner(70, ORIGIN, suite=2)[0].vkey()}\nquorum none\n",
        f"log nonsense\n{LOG_LINE}quorum none\n",
        f"{LOG_LINE}{WITNESS_LINES}{WITNESS_LINES}quorum none\n",
        f"{LOG_LINE}witness none {WITNESSES[0][0].vkey()}\nquorum none\n",
        f"{LOG_LINE}witness A {WITNESSES[0][0].vkey()}\nwitness B {WITNESSES[0][0].vkey()}\nquorum A\n",
        f"{LOG_LINE}witness A {POLICY.log_keys[0].vkey()}\nquorum A\n",
        f"{LOG_LINE}{WITNESS_LINES}group G 4 W1 W2 W3\nquorum G\n",
        f"{LOG_LINE}{WITNESS_LINES}group G 0 W1\nquorum G\n",
        f"{LOG_LINE}{WITNESS_LINES}group G 01 W1\nquorum G\n",
        f"{LOG_LINE}{WITNESS_LINES}group G most W1\nquorum G\n",
        f"{LOG_LINE}{WITNESS_LINES}group G all\nquorum G\n",
        f"{LOG_LINE}{WITNESS_LINES}group G 2 W1 W1\nquorum G\n",
        f"{LOG_LINE}{WITNESS_LINES}group G 1 W1\ngroup H 1 W1\nquorum H\n",
        f"{LOG_LINE}{WITNESS_LINES}group G 1 none\nquorum G\n",
        f"{LOG_LINE}{WITNESS_LINES}group G 1 H\ngroup H 1 W1\nquorum G\n",
        f"{LOG_LINE}{WITNESS_LINES}group W1 1 W2\nquorum W1\n",
        f"{LOG_LINE}quorum none more\n",
        f"{LOG_LINE}quorum none\r\n",
        f"{LOG_LINE}quorum none\x00\n",
        f"# \x07\n{LOG_LINE}quorum none\n",
        f"{LOG_LINE}trust everyone\nquorum none\n",
        "[]",
        '"policy"',
        "{",
        f"{LOG_LINE}quorum none\n" + "#" * 1_048_577,
        f"{LOG_LINE}witness A {WITNESSES[0][0].vkey()}\nwitness B {cosigner(36, 'w1.example')[0].vkey()}\nquorum A\n",
    ],
)
def test_what_is_no_tlog_policy_is_refused(text: str) -> None:
    with pytest.raises(PolicyInvalid):
        Policy.decode(text)


def test_a_tlog_policy_of_no_log_or_of_two_is_refused_for_that_reason() -> None:
    other = f"log {log_key('other.example', identity(95).public).vkey()}\n"
    for logs in ("", LOG_LINE + other):
        with pytest.raises(PolicyInvalid, match="exactly one log"):
            Policy.decode(f"{logs}quorum none\n")


def test_groups_in_groups_are_bounded() -> None:
    chain = "".join(f"group G{number} 1 G{number - 1}\n" for number in range(1, 300))
    with pytest.raises(PolicyInvalid, match="at most 128 groups"):
        Policy.decode(f"{LOG_LINE}{WITNESS_LINES}group G0 1 W1\n{chain}quorum G299\n")
    deep: object = "w1.example"
    for _ in range(200):
        deep = {"needed": 1, "of": [deep]}
    with pytest.raises(PolicyInvalid):
        Policy.decode(json.dumps({**json.loads(FULL.encode()), "quorum": deep}))
    allowed = chain.split("group G127 ")[0]
    policy = Policy.decode(f"{LOG_LINE}{WITNESS_LINES}group G0 1 W1\n{allowed}quorum G126\n")
    assert Policy.decode(policy.encode()) == policy
    assert verify_receipt(cosigned(PLAIN, WITNESSES[0]).encode(), policy=policy).vouched == "witnessed"


@given(st.text(max_size=200))
def test_any_text_is_a_policy_or_refused_by_an_error_of_ours(text: str) -> None:
    for prefix in ("", LOG_LINE, LOG_LINE + "quorum ", "{", FULL.encode()[:-4]):
        try:
            Policy.decode(prefix + text)
        except PolicyInvalid:
            continue


def test_the_command_line_names_everybody_in_words_and_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    receipt, policy = tmp_path / "r.tlog-proof", tmp_path / "policy.json"
    signed = cosigned(RECEIPTS["past present"], *WITNESSES[:2], REPLAYING[0])
    receipt.write_text(signed.encode_text(), "utf-8")
    policy.write_text(replace(FULL, validators=()).encode(), "utf-8")
    asked = [str(receipt), "--policy", str(policy)]
    assert verify_main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "VERIFIED: state present as of height 1; replayed by r1.example"
    assert "  witnessed: w1.example, w2.example" in lines
    assert any(line.startswith("  checkpoint signed at: 2023-11-14T22:13:20+00:00 (") for line in lines)
    assert verify_main([*asked, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["outcome"], said["claim"], said["size"]) == ("replayed", "state present as of height 1", 11)
    assert said["vouchers"]["replayed"] == ["r1.example"]
    assert said["age_s"] > 0
    assert verify_main([str(receipt), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["outcome"] == "not-authenticated"
    policy.write_text(FULL.encode(), "utf-8")
    assert verify_main([*asked, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["outcome"], said["code"]) == ("refused", "policy-unmet")
    policy.write_bytes(b"\xff")
    assert verify_main(asked) == 3


def test_the_command_line_tells_many_records_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    receipt, record, policy = tmp_path / "r.json", tmp_path / "record", tmp_path / "policy.json"
    receipt.write_text(RECEIPTS["records"].encode(), "utf-8")
    record.write_bytes(content_of(40))
    policy.write_text(POLICY.encode(), "utf-8")
    assert verify_main([str(receipt), "--policy", str(policy), "--record", str(record)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "VERIFIED: 6 records; operator-attested"
    assert [line for line in lines if "file is" in line] == ["  record 4, file is its form: normalised"]
