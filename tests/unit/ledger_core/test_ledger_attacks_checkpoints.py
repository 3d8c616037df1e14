"""Lies about who stands behind a checkpoint: moved, re-dated, doubled and invented signatures."""

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ledger_core import Genesis, NoteInvalid, Policy, PolicyInvalid, PolicyUnmet, open_ledger, verify_receipt
from ledger_core import checkpoint as notes
from ledger_core import policy as policies
from ledger_core.checkpoint import (
    Checkpoint,
    NoteKey,
    cosign,
    cosigner_key,
    log_key,
    parse_checkpoint,
    sign_checkpoint,
    split_note,
)
from ledger_core.keys import Identity
from ledger_core.verify import trust
from tests.unit.ledger_core.ledger_attacks import stopped
from tests.unit.ledger_core.ledger_receipt_samples import (
    ORIGIN,
    POLICY,
    RECEIPTS,
    SIGNED_S,
    cosigned,
    cosigner,
    note_over,
)
from tests.unit.ledger_core.ledger_samples import LOG_KEY, OPERATOR, filler, identity

WITNESSES = tuple(cosigner(31 + number, f"w{number}.example") for number in range(3))
LATTICE = cosigner(39, "lattice.example", suite=2)
REPLAYING = cosigner(41, "r.example")
SOUND = RECEIPTS["present"]
WITNESSED = replace(POLICY, witnesses=tuple(key for key, _ in WITNESSES), quorum=2)
SIGNED_AT = datetime.fromtimestamp(SIGNED_S, UTC)
HOUR = timedelta(hours=1)


def show(note: str, policy: Policy = WITNESSED, *, now: datetime = SIGNED_AT) -> None:
    verify_receipt(replace(SOUND, checkpoint=note).encode(), policy=policy, now=now)


def lines_of(note: str) -> list[str]:
    """The signature lines of a note, each with its newline."""
    return note.partition("\n\n")[2].splitlines(keepends=True)


def line(name: str, material: bytes) -> str:
    return f"— {name} {base64.b64encode(material).decode()}\n"


def moved(source: str, target: str, *, number: int = -1) -> str:
    """``target`` with a signature line that was made for ``source``."""
    return target + lines_of(source)[number]


# --- the log's own signatures ---------------------------------------------------------------------


def test_checkpoint_signed_by_another_key_under_the_logs_name() -> None:
    checkpoint = parse_checkpoint(split_note(SOUND.checkpoint)[0])
    with stopped(notes.verify_note, NoteInvalid, "no known key"):
        show(sign_checkpoint(checkpoint, OPERATOR, time_s=SIGNED_S), POLICY)


def test_false_signature_with_the_key_id_of_the_log() -> None:
    text = split_note(SOUND.checkpoint)[0]
    forged = line(ORIGIN, log_key(ORIGIN, LOG_KEY.public).id + OPERATOR.sign(text.encode()))
    with stopped(notes._check_line, NoteInvalid, "is false"):
        show(f"{text}\n{forged}", POLICY)


def test_root_exchanged_under_the_logs_signature() -> None:
    text, rest = SOUND.checkpoint.split("\n\n")
    other = Checkpoint(ORIGIN, parse_checkpoint(text + "\n").size, filler(1)).text()
    with stopped(notes._check_line, NoteInvalid, "is false"):
        show(f"{other}\n{rest}", replace(POLICY, log_keys=POLICY.log_keys[:1]))


def test_checkpoint_of_another_log_by_the_same_key() -> None:
    """The operator runs two logs with one key and shows the one that suits him."""
    text = split_note(note_over(origin="other.example/ledger"))[0]
    note = f"{text}\n" + line(ORIGIN, log_key(ORIGIN, LOG_KEY.public).id + LOG_KEY.sign(text.encode()))
    timed = cosign(note, cosigner_key(ORIGIN, LOG_KEY.public), LOG_KEY, time_s=SIGNED_S)
    with stopped(trust.apply_policy, PolicyUnmet, "another log"):
        show(timed, POLICY)


def test_time_of_the_log_cut_away() -> None:
    text, _ = SOUND.checkpoint.split("\n\n")
    with stopped(trust.apply_policy, PolicyUnmet, "or not its time"):
        show(f"{text}\n\n{lines_of(SOUND.checkpoint)[0]}", POLICY)


def test_time_of_the_log_edited() -> None:
    head = SOUND.checkpoint.removesuffix(lines_of(SOUND.checkpoint)[-1])
    made = split_note(SOUND.checkpoint)[1][-1]
    later = line(ORIGIN, made.key_id + (SIGNED_S + 3600).to_bytes(8, "big") + made.signature[8:])
    with stopped(notes._check_line, NoteInvalid, "is false"):
        show(head + later, POLICY)


def test_signature_of_a_checkpoint_passed_off_as_a_cosignature() -> None:
    """The same key makes both; what it signed without a time must not date anything."""
    text = split_note(SOUND.checkpoint)[0]
    signature = LOG_KEY.sign(text.encode())
    timed = cosigner_key(ORIGIN, LOG_KEY.public).id + SIGNED_S.to_bytes(8, "big") + signature
    with stopped(notes._check_line, NoteInvalid, "is false"):
        show(f"{text}\n{lines_of(SOUND.checkpoint)[0]}{line(ORIGIN, timed)}", POLICY)


def test_log_named_as_the_header_of_a_cosignature(tmp_path: Path) -> None:
    """Under such a name the text of a checkpoint would begin as a cosignature's message does."""
    with stopped(notes.check_origin, NoteInvalid, "origin"):
        open_ledger(tmp_path / "ledger", log_identity=LOG_KEY, genesis=Genesis("cosignature/v1", OPERATOR.public))


def test_checkpoint_with_lines_that_not_every_signature_covers() -> None:
    """An ML-DSA-44 cosignature covers origin, size and root alone, so nothing else may be in the text."""
    text = split_note(SOUND.checkpoint)[0] + "state root: somewhere else\n"
    signed = f"{text}\n" + line(ORIGIN, log_key(ORIGIN, LOG_KEY.public).id + LOG_KEY.sign(text.encode()))
    with stopped(notes.parse_checkpoint, NoteInvalid, "exactly three lines"):
        show(signed, replace(POLICY, log_keys=(log_key(ORIGIN, LOG_KEY.public),)))


# --- time -----------------------------------------------------------------------------------------


def test_checkpoint_redated_by_the_operators_own_clock() -> None:
    """The witnesses saw it an hour ago; the operator signs it anew and says it is of now."""
    fresh = note_over(time_s=SIGNED_S + 3600)
    old = cosigned(SOUND, *WITNESSES[:2]).checkpoint
    note = fresh + "".join(lines_of(old)[-2:])
    policy = replace(WITNESSED, max_age_ms=60_000)
    verify_receipt(replace(SOUND, checkpoint=note).encode(), policy=policy, now=SIGNED_AT)
    with stopped(trust._check_age, PolicyUnmet, "older"):
        show(note, policy, now=SIGNED_AT + HOUR)


def test_one_witness_of_two_dates_an_old_checkpoint() -> None:
    note = cosigned(cosigned(SOUND, WITNESSES[0]), WITNESSES[1], time_s=SIGNED_S + 3600).checkpoint
    with stopped(trust._check_age, PolicyUnmet, "older"):
        show(note, replace(WITNESSED, max_age_ms=60_000), now=SIGNED_AT + HOUR)


def test_checkpoint_dated_ahead_to_stay_fresh_for_long() -> None:
    note = cosigned(SOUND, *WITNESSES[:2], time_s=SIGNED_S + 86_400).checkpoint
    with stopped(trust._check_age, PolicyUnmet, "in the future"):
        show(note)


def test_cosignature_without_a_time_under_a_policy_that_asks_for_one() -> None:
    note = cosigned(SOUND, LATTICE, time_s=0).checkpoint
    policy = replace(POLICY, witnesses=(LATTICE[0],), quorum=1, max_age_ms=60_000)
    with stopped(trust._check_age, PolicyUnmet, "signed a time"):
        show(note, policy)


@pytest.mark.parametrize("witness", [WITNESSES[0], LATTICE], ids=["Ed25519", "ML-DSA-44"])
def test_cosignature_with_its_time_edited(witness: tuple[NoteKey, object]) -> None:
    key = witness[0]
    note = cosigned(SOUND, WITNESSES[0], LATTICE).checkpoint
    made = next(item for item in split_note(note)[1] if item.name == key.name)
    later = line(key.name, made.key_id + (SIGNED_S + 1).to_bytes(8, "big") + made.signature[8:])
    with stopped(notes._check_line, NoteInvalid, "is false"):
        show(SOUND.checkpoint + later, replace(POLICY, witnesses=(key,), quorum=1))


def test_cosignature_of_a_time_that_never_comes() -> None:
    key = WITNESSES[0][0]
    never = line(key.name, key.id + (2**63).to_bytes(8, "big") + bytes(64))
    with stopped(notes._check_line, NoteInvalid, "no possible time"):
        show(SOUND.checkpoint + never)


# --- cosignatures moved from elsewhere ------------------------------------------------------------


@pytest.mark.parametrize("witness", [WITNESSES[0], LATTICE], ids=["Ed25519", "ML-DSA-44"])
@pytest.mark.parametrize("what", ["origin", "size", "root"])
def test_cosignature_moved_from_another_checkpoint(witness: tuple[NoteKey, Identity], what: str) -> None:
    checkpoint = parse_checkpoint(split_note(SOUND.checkpoint)[0])
    others = {
        "origin": replace(checkpoint, origin="other.example"),
        "size": replace(checkpoint, size=checkpoint.size + 1),
        "root": replace(checkpoint, root=filler(1)),
    }
    source = cosign(sign_checkpoint(others[what], LOG_KEY, time_s=SIGNED_S), *witness, time_s=SIGNED_S)
    with stopped(notes._check_line, NoteInvalid, "is false"):
        show(moved(source, SOUND.checkpoint), replace(POLICY, witnesses=(witness[0],), quorum=1))


def test_cosignature_under_the_name_of_another_witness() -> None:
    """The operator has one friend and needs two: the friend's line is repeated under the second name."""
    friend, other = WITNESSES[0][0], WITNESSES[1][0]
    note = cosigned(SOUND, WITNESSES[0]).checkpoint
    made = split_note(note)[1][-1]
    with stopped(trust._meet, PolicyUnmet, "1 did, 2 are needed"):
        show(note + line(other.name, friend.id + made.signature))
    with stopped(notes._check_line, NoteInvalid, "is false"):
        show(note + line(other.name, other.id + made.signature))


def test_ml_dsa_cosignature_renamed() -> None:
    """Its message holds the cosigner's name: the same key under another name says nothing."""
    key, own = LATTICE
    renamed = replace(key, name="other.example")
    made = split_note(cosigned(SOUND, LATTICE).checkpoint)[1][-1]
    with stopped(notes._check_line, NoteInvalid, "is false"):
        note = SOUND.checkpoint + line(renamed.name, renamed.id + made.signature)
        show(note, replace(POLICY, witnesses=(renamed,), quorum=1))
    assert own.public == key.public


def test_cosignature_repeated_to_count_twice() -> None:
    note = cosigned(SOUND, WITNESSES[0]).checkpoint
    with stopped(notes.verify_note, NoteInvalid, "signed twice"):
        show(moved(note, note))


# --- who counts -----------------------------------------------------------------------------------


def test_fork_shown_with_as_many_witnesses_as_could_be_fooled() -> None:
    """Two of three saw the other branch and sign no second one: one signature is left for this one."""
    with stopped(trust._meet, PolicyUnmet, "too few cosigned to call it witnessed"):
        show(cosigned(SOUND, WITNESSES[2]).checkpoint)


def test_witnesses_invented_by_the_operator() -> None:
    invented = [cosigner(90 + number, f"w{number}.example") for number in range(3)]
    with stopped(trust._meet, PolicyUnmet, "0 did, 2 are needed"):
        show(cosigned(SOUND, *invented).checkpoint)


def test_plain_witness_passed_off_as_a_replaying_one() -> None:
    policy = replace(WITNESSED, replaying=(REPLAYING[0],), replaying_quorum=1)
    with stopped(trust._meet, PolicyUnmet, "too few cosigned to call it replayed"):
        show(cosigned(SOUND, *WITNESSES).checkpoint, policy)


def test_two_thirds_of_the_validators_and_not_more() -> None:
    validators = [cosigner(50 + number, f"v{number}.example") for number in range(3)]
    policy = replace(POLICY, validators=tuple(key for key, _ in validators))
    with stopped(trust._meet, PolicyUnmet, "2 did, 3 are needed"):
        show(cosigned(SOUND, *validators[:2]).checkpoint, policy)


def test_one_witness_with_keys_of_two_types_counted_twice() -> None:
    both = [cosigner(31, "w0.example"), cosigner(34, "w0.example", suite=2)]
    policy = replace(POLICY, witnesses=(both[0][0], both[1][0], WITNESSES[1][0]), quorum=2)
    with stopped(trust._meet, PolicyUnmet, "1 did, 2 are needed"):
        show(cosigned(SOUND, *both).checkpoint, policy)


def _spoilt_policies() -> dict[str, Callable[[], Policy]]:
    own = cosigner_key("w.example", LOG_KEY.public)
    named = cosigner_key(ORIGIN, identity(98).public)
    twice = cosigner_key("w9.example", WITNESSES[0][0].public)
    return {
        "the log's key as a witness": lambda: replace(POLICY, witnesses=(own,)),
        "a witness under the log's name": lambda: replace(POLICY, witnesses=(named,)),
        "one key under two names": lambda: replace(POLICY, witnesses=(WITNESSES[0][0], twice)),
        "one key in two roles": lambda: replace(WITNESSED, replaying=(WITNESSES[0][0],)),
    }


@pytest.mark.parametrize("how", _spoilt_policies())
def test_witness_counted_for_more_than_it_is(how: str) -> None:
    """A policy into which the operator talked somebody: the log as its own witness, one witness as two."""
    with stopped(policies._check_apart, PolicyInvalid, "two roles or under two names"):
        _spoilt_policies()[how]()


def test_group_of_witnesses_with_one_named_twice() -> None:
    group = policies.Group(2, ("w0.example", policies.Group(1, ("w0.example", "w1.example"))))
    with stopped(policies._check_quorum, PolicyInvalid, "names a witness twice"):
        replace(WITNESSED, quorum=group)


def test_policy_that_says_a_thing_twice() -> None:
    text = WITNESSED.encode().replace('"quorum": 2', '"quorum": 2,\n  "quorum": 0')
    with stopped(policies._read_json, PolicyInvalid, "neither JSON"):
        Policy.decode(text)


def test_policy_with_a_misspelt_condition() -> None:
    """A condition that is not understood must not be one that is not asked for."""
    text = WITNESSED.encode().replace('"quorum": 2', '"quorun": 2')
    with stopped(policies._read_json, PolicyInvalid, "fields that this verifier does not know"):
        Policy.decode(text)
