"""Receipts: what they prove, and that no single change of one goes unnoticed."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ledger_core import (
    Attest,
    Ledger,
    LedgerError,
    OpenPath,
    Policy,
    PolicyInvalid,
    PolicyUnmet,
    ProofInvalid,
    Receipt,
    ReceiptInvalid,
    RecordMismatch,
    Restrict,
    SetConsent,
    commit,
    part_digest,
    verify_main,
    verify_receipt,
)
from ledger_core.checkpoint import cosign, cosigner_key, log_key
from ledger_core.codec import encode
from ledger_core.hashing import frame
from tests.unit.ledger_core.ledger_samples import (
    NORTH,
    OPERATOR,
    PATIENT,
    RECORD,
    SOUTH,
    Anchored,
    anchor_record,
    filler,
    identity,
    join,
    open_test_ledger,
    sample_opening,
)

PATH = filler(60)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_test_ledger(tmp_path) as opened:
        join(opened)
        yield opened


@pytest.fixture
def anchored(ledger: Ledger) -> Anchored:
    return anchor_record(ledger)


def record_receipt(ledger: Ledger, anchored: Anchored) -> str:
    return ledger.record_receipt(
        anchored.opening,
        batch_index=anchored.place,
        batch_path=anchored.batch.path(anchored.place),
        index=anchored.index,
    )


def state_receipt(ledger: Ledger, *, is_present: bool) -> str:
    for number in range(61, 69):
        ledger.send(OpenPath(filler(number), PATIENT.public, filler(1)), NORTH).result(10)
    if is_present:
        ledger.send(OpenPath(PATH, PATIENT.public, filler(1)), NORTH).result(10)
    return ledger.state_receipt("consent", PATH)


def test_a_commitment_is_the_framed_hash_that_the_format_says() -> None:
    part = part_digest(filler(1), b"content")
    body = encode({"facts": {"id": "a"}, "parts": {"normalised": part}, "suite": 1})
    # Frame by hand: u8 length and domain, then u64 length before each part.
    domain = b"ledger-core/commitment/v1"
    by_hand = bytes([len(domain)]) + domain
    by_hand += (32).to_bytes(8, "big") + filler(2) + len(body).to_bytes(8, "big") + body
    assert frame("ledger-core/commitment/v1", filler(2), body) == by_hand
    assert commit(filler(2), {"id": "a"}, {"normalised": part}) == hashlib.sha256(by_hand).digest()


def test_salts_and_digests_have_one_length() -> None:
    with pytest.raises(ReceiptInvalid, match="32 bytes"):
        commit(bytes(31), {}, {})
    with pytest.raises(ReceiptInvalid, match="32 bytes"):
        commit(bytes(32), {}, {"normalised": bytes(33)})


def test_sealing_a_part_keeps_the_commitment() -> None:
    opening = sample_opening()
    assert opening.sealing("original", "normalised").commitment() == opening.commitment()


def test_a_record_receipt_names_the_part_that_the_file_is(ledger: Ledger, anchored: Anchored) -> None:
    text = record_receipt(ledger, anchored)
    outcome = verify_receipt(text, record=RECORD, policy=ledger.policy(max_age_ms=60_000))
    assert (outcome.vouched, outcome.claim, outcome.matched) == ("operator-attested", "record", "normalised")
    assert outcome.facts["version"] == 3
    assert verify_receipt(text, record=b'{"id":"1"}', policy=ledger.policy()).matched == "original"


def test_every_leaf_of_the_batch_has_its_receipt(ledger: Ledger) -> None:
    for leaves, place in ((1, 0), (2, 1), (7, 6), (8, 3)):
        anchored = anchor_record(ledger, leaves=leaves, place=place)
        verify_receipt(record_receipt(ledger, anchored), record=RECORD, policy=ledger.policy())


def test_another_record_is_refused(ledger: Ledger, anchored: Anchored) -> None:
    text = record_receipt(ledger, anchored)
    with pytest.raises(RecordMismatch, match="no part"):
        verify_receipt(text, record=b"lineage", policy=ledger.policy())
    with pytest.raises(RecordMismatch, match="newline more"):
        verify_receipt(text, record=RECORD + b"\n", policy=ledger.policy())
    with pytest.raises(RecordMismatch, match="no record"):
        verify_receipt(ledger.transaction_receipt(anchored.index), record=RECORD, policy=ledger.policy())


def test_without_a_policy_nobody_vouches(ledger: Ledger, anchored: Anchored) -> None:
    outcome = verify_receipt(record_receipt(ledger, anchored), record=RECORD)
    assert (outcome.vouched, outcome.signed_at) == ("not-authenticated", None)


@pytest.mark.parametrize("is_present", [True, False])
def test_state_is_proved_present_or_absent(ledger: Ledger, is_present: bool) -> None:
    outcome = verify_receipt(state_receipt(ledger, is_present=is_present), policy=ledger.policy())
    assert outcome.claim == ("state present" if is_present else "state absent")
    assert dict(outcome.details)["height"] == str(ledger.height)


def test_a_state_receipt_says_whether_the_institutions_list_is_attested_as_it_is(ledger: Ledger) -> None:
    def said() -> str | None:
        outcome = verify_receipt(ledger.state_receipt("consent", PATH), policy=ledger.policy())
        return dict(outcome.details).get("institution's list")

    ledger.send(OpenPath(PATH, PATIENT.public, filler(1)), NORTH).result(10)
    assert said() is None
    for payload, expected in (
        (Restrict(PATH, 1, filler(2)), None),
        (Attest(PATH, 2, filler(3)), f"attested by institution {NORTH.public.hex()}"),
        (Restrict(PATH, 3, filler(4)), None),
    ):
        ledger.send(payload, NORTH).result(10)
        assert said() == expected


def test_an_older_state_under_a_newer_checkpoint_is_refused(ledger: Ledger) -> None:
    ledger.send(OpenPath(PATH, PATIENT.public, filler(1)), NORTH).result(10)
    older = Receipt.decode(ledger.state_receipt("consent", PATH))
    ledger.send(SetConsent(PATH, 1, filler(2)), PATIENT).result(10)
    # Everything in it is true, but the consent has changed since.
    log = replace(older.log, path=ledger.prove_transaction(older.log.index))
    stale = replace(older, log=log, checkpoint=ledger.checkpoint())
    with pytest.raises(ReceiptInvalid, match="last entry"):
        verify_receipt(stale.encode(), policy=ledger.policy())


def _leaves(value: Any, trail: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*trail, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, (*trail, index))
    else:
        yield trail


def _changes(value: Any) -> list[Any]:
    if isinstance(value, bool) or value is None:
        return ["", 1]
    if isinstance(value, int):
        return [value + 1, value - 1, str(value)]
    middle = len(value) // 2
    other = "B" if value[middle : middle + 1] == "A" else "A"
    return [value[:middle] + other + value[middle + 1 :], value + "A", value[:-1], None, 0]


def _receipts(ledger: Ledger, anchored: Anchored) -> dict[str, str]:
    return {
        "record": record_receipt(ledger, anchored),
        "transaction": ledger.transaction_receipt(anchored.index),
        "present": state_receipt(ledger, is_present=True),
        "absent": ledger.state_receipt("consent", filler(200)),
    }


@pytest.mark.parametrize("kind", ["record", "transaction", "present", "absent"])
def test_changing_any_single_field_is_noticed(ledger: Ledger, anchored: Anchored, kind: str) -> None:
    text = _receipts(ledger, anchored)[kind]
    policy = ledger.policy()
    verify_receipt(text, policy=policy)
    tried = 0
    for trail in _leaves(json.loads(text)):
        content = json.loads(text)
        holder = content
        for step in trail[:-1]:
            holder = holder[step]
        before = holder[trail[-1]]
        for value in _changes(before):
            if value == before:
                continue
            holder[trail[-1]] = value
            changed = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            with pytest.raises(LedgerError):
                verify_receipt(changed, policy=policy)
            tried += 1
    assert tried > 40


@pytest.mark.parametrize("kind", ["record", "absent"])
def test_dropping_or_adding_any_field_is_noticed(ledger: Ledger, anchored: Anchored, kind: str) -> None:
    text = _receipts(ledger, anchored)[kind]

    def holders(value: Any) -> Iterator[Any]:
        if isinstance(value, dict | list):
            yield value
            for item in value.values() if isinstance(value, dict) else value:
                yield from holders(item)

    count = len(list(holders(json.loads(text))))
    for number in range(count):
        for change in ("drop", "add"):
            content = json.loads(text)
            holder = list(holders(content))[number]
            if change == "add":
                holder.append("AAAA") if isinstance(holder, list) else holder.update(note="harmless")
            elif holder:
                holder.pop() if isinstance(holder, list) else holder.popitem()
            else:
                continue
            with pytest.raises(LedgerError):
                verify_receipt(json.dumps(content, indent=2, ensure_ascii=False) + "\n", policy=ledger.policy())


def test_changing_any_single_byte_is_noticed(ledger: Ledger, anchored: Anchored) -> None:
    text = record_receipt(ledger, anchored)
    policy = ledger.policy()
    # Each place gets one of three; the campaign of a million mutations tries the rest.
    for place, other in zip(range(0, len(text), 3), itertools.cycle("x 1"), strict=False):
        if text[place] != other:
            with pytest.raises(LedgerError):
                verify_receipt(text[:place] + other + text[place + 1 :], policy=policy)


def test_another_spelling_of_the_same_receipt_is_refused(ledger: Ledger, anchored: Anchored) -> None:
    content = json.loads(record_receipt(ledger, anchored))
    for spelled in (json.dumps(content), json.dumps(content, indent=2) + "\n", json.dumps(content, indent=2)):
        with pytest.raises(ReceiptInvalid):
            Receipt.decode(spelled)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", "[" * 100_000, '{"format": 1}', "x" * 2_000_000, '"\\ud800"']
)
def test_what_is_no_receipt_is_refused(text: str) -> None:
    with pytest.raises(ReceiptInvalid):
        Receipt.decode(text)


def test_a_policy_of_another_log_network_or_member_is_not_met(ledger: Ledger, anchored: Anchored) -> None:
    text = record_receipt(ledger, anchored)
    policy = ledger.policy()
    with pytest.raises(LedgerError):
        verify_receipt(text, policy=Policy.for_log(ledger.origin, SOUTH.public))
    with pytest.raises(LedgerError):
        verify_receipt(text, policy=Policy.for_log("other.example", ledger.log_public))
    with pytest.raises(PolicyUnmet, match="network"):
        verify_receipt(text, policy=replace(policy, network=filler(1)))
    with pytest.raises(PolicyUnmet, match="members"):
        verify_receipt(text, policy=replace(policy, members=frozenset({OPERATOR.public})))
    verify_receipt(text, policy=replace(policy, members=frozenset({NORTH.public})))


def test_a_checkpoint_too_old_or_from_the_future_is_refused(ledger: Ledger, anchored: Anchored) -> None:
    text = record_receipt(ledger, anchored)
    now = datetime.now(UTC)
    fresh = ledger.policy(max_age_ms=60_000)
    verify_receipt(text, policy=fresh, now=now)
    with pytest.raises(PolicyUnmet, match="older"):
        verify_receipt(text, policy=fresh, now=now + timedelta(seconds=70))
    with pytest.raises(PolicyUnmet, match="future"):
        verify_receipt(text, policy=fresh, now=now - timedelta(minutes=10))
    with pytest.raises(PolicyUnmet, match="older"):
        verify_receipt(text, policy=replace(ledger.policy(), oldest_checkpoint=now + timedelta(hours=1)))
    verify_receipt(text, policy=replace(ledger.policy(), oldest_checkpoint=now - timedelta(hours=1)))
    timeless = replace(fresh, log_keys=fresh.log_keys[:1])
    with pytest.raises(PolicyUnmet, match="too few trusted keys signed a time"):
        verify_receipt(text, policy=timeless)


def test_a_quorum_of_witnesses_makes_it_witnessed(ledger: Ledger, anchored: Anchored) -> None:
    plain = Receipt.decode(record_receipt(ledger, anchored))
    witnesses = [
        (cosigner_key(f"w{number}.example", identity(number).public), identity(number)) for number in (31, 32, 33)
    ]
    keys = tuple(key for key, _ in witnesses)
    policy = replace(ledger.policy(), witnesses=keys, quorum=2)
    now_s = int(datetime.now(UTC).timestamp())
    note = cosign(plain.checkpoint, *witnesses[0], time_s=now_s)
    with pytest.raises(PolicyUnmet, match="1 did, 2 are needed"):
        verify_receipt(replace(plain, checkpoint=note).encode(), policy=policy)
    note = cosign(note, *witnesses[2], time_s=now_s - 3600)
    outcome = verify_receipt(replace(plain, checkpoint=note).encode(), policy=policy)
    assert (outcome.vouched, outcome.witnesses) == ("witnessed", ("w31.example", "w33.example"))
    # The quorum is as old as its oldest needed member, whatever the operator's clock says.
    with pytest.raises(PolicyUnmet, match="older"):
        verify_receipt(replace(plain, checkpoint=note).encode(), policy=replace(policy, max_age_ms=60_000))


def test_policies_travel_as_text_and_contradictions_are_refused(ledger: Ledger) -> None:
    policy = replace(
        ledger.policy(max_age_ms=5),
        members=frozenset({NORTH.public}),
        oldest_checkpoint=datetime(2026, 1, 1, tzinfo=UTC),
        witnesses=(cosigner_key("w", SOUTH.public),),
        quorum=1,
    )
    assert Policy.decode(policy.encode()) == policy
    content = json.loads(policy.encode())
    changes: list[dict[str, object]] = [
        {"quorum": 2},
        {"quorum": "1"},
        {"quorum": True},
        {"log_keys": []},
        {"more": 1},
        {"format": "x"},
        {"origin": "other"},
        {"oldest_checkpoint": "2026-01-01T00:00:00"},
        {"witnesses": [policy.log_keys[1].vkey()]},
        {"max_age_ms": -1},
        {"witnesses": [log_key("w", SOUTH.public).vkey()]},
        {"log_keys": {key.vkey(): 1 for key in policy.log_keys}},
        {"members": NORTH.public.hex()},
        {"network": 5},
    ]
    for change in changes:
        with pytest.raises(PolicyInvalid):
            Policy.decode(json.dumps({**content, **change}))
    with pytest.raises(PolicyInvalid):
        Policy.decode(policy.encode().replace('"quorum": 1,', '"quorum": 1, "quorum": 1,'))


def test_a_receipt_for_a_transaction_that_anchors_nothing_of_a_record(ledger: Ledger, anchored: Anchored) -> None:
    ledger.send(OpenPath(PATH, PATIENT.public, filler(1)), NORTH).result(10)
    other = ledger.send(Restrict(PATH, 1, filler(3)), NORTH).result(10)
    text = ledger.record_receipt(
        anchored.opening,
        batch_index=anchored.place,
        batch_path=anchored.batch.path(anchored.place),
        index=other.index,
    )
    with pytest.raises(ReceiptInvalid, match="must be an anchor"):
        verify_receipt(text, policy=ledger.policy())


def test_a_commitment_that_was_not_in_the_batch_is_refused(ledger: Ledger, anchored: Anchored) -> None:
    opening = replace(anchored.opening, facts={"id": "abd"})
    spoilt = replace(anchored, opening=opening)
    with pytest.raises(ProofInvalid):
        verify_receipt(record_receipt(ledger, spoilt), policy=ledger.policy())


def test_the_command_line_says_it_in_one_line_and_an_exit_code(
    ledger: Ledger, anchored: Anchored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    receipt, record, policy = tmp_path / "r.json", tmp_path / "record", tmp_path / "policy.json"
    receipt.write_text(record_receipt(ledger, anchored), "utf-8")
    record.write_bytes(RECORD)
    policy.write_text(ledger.policy().encode(), "utf-8")
    asked = [str(receipt), "--record", str(record)]
    assert verify_main([*asked, "--policy", str(policy)]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "VERIFIED: record, file is its normalised form; operator-attested"
    assert verify_main(asked) == 2
    assert capsys.readouterr().out.startswith("NOT AUTHENTICATED")
    record.write_bytes(RECORD + b" ")
    assert verify_main([*asked, "--policy", str(policy)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("REFUSED (record-mismatch)")
    assert "canary" not in out
    assert verify_main([str(tmp_path / "missing")]) == 3


_LEAN = """
import sys
before = set(sys.modules)  # what the interpreter's own start-up files bring
from ledger_core.verify import main
code = main(sys.argv[1:])
loaded = {name.split(".")[0] for name in sys.modules}
heavy = loaded & {"sqlite3", "asyncio", "fhir_bridge", "pydantic", "msgspec", "fcntl"}
assert not heavy, heavy
places = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
foreign = {name.split(".")[0] for name, place in places.items()
           if "site-packages" in place and name not in before}
# PyNaCl is loaded for speed where it is installed; the joined verifier does without.
assert foreign <= {"blake3", "cryptography", "cffi", "_cffi_backend", "nacl", "_sodium"}, foreign
sys.exit(code)
"""


def test_the_verifier_runs_as_a_module_and_loads_little(ledger: Ledger, anchored: Anchored, tmp_path: Path) -> None:
    receipt, policy = tmp_path / "r.json", tmp_path / "policy.json"
    receipt.write_text(record_receipt(ledger, anchored), "utf-8")
    policy.write_text(ledger.policy().encode(), "utf-8")
    root = str(Path(__file__).parents[3])
    for program in (["-m", "ledger_core.verify"], ["-c", _LEAN]):
        done = subprocess.run(
            [sys.executable, "-W", "error", *program, str(receipt), "--policy", str(policy)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_deep_and_large_texts_are_refused_before_parsing() -> None:
    for text in ("[" * 9 + "]" * 9, "[" * 2_000_000, " " * 1_048_577):
        with pytest.raises(ReceiptInvalid, match="at most 1 MiB and 8 levels"):
            Receipt.decode(text)
