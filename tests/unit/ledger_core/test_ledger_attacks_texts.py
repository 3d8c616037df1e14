"""Texts that are not what they seem: doubled fields, second spellings, sizes that would exhaust a verifier."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ledger_core import (
    Anchor,
    NoteInvalid,
    Receipt,
    ReceiptInvalid,
    Transaction,
    signing_message,
    verify_receipt,
)
from ledger_core import checkpoint as notes
from ledger_core.codec import encode
from ledger_core.receipt import RecordClaim, TransactionClaim, fields, spelling
from ledger_core.verify import claims
from ledger_core.verify.command import main
from tests.unit.ledger_core.ledger_attacks import stopped
from tests.unit.ledger_core.ledger_receipt_samples import (
    NETWORK,
    POLICY,
    RECEIPTS,
    Batch,
    inclusion,
    opening_of,
    receipt_of,
    record_claim,
)
from tests.unit.ledger_core.ledger_samples import NORTH, filler

DECODE = Receipt.decode


def show(receipt: Receipt) -> None:
    """Hand the receipt to a verifier who trusts the log's key."""
    verify_receipt(receipt.encode(), policy=POLICY)


def reread(change: Callable[[str], str], *, is_text: bool = False) -> None:
    """Hand over the receipt of a record, its text changed."""
    sound = RECEIPTS["record"]
    text = sound.encode_text() if is_text else sound.encode()
    changed = change(text)
    assert changed != text
    verify_receipt(changed, policy=POLICY)


def test_field_told_twice() -> None:
    with stopped(DECODE, ReceiptInvalid, "not spelled"):
        reread(lambda text: text.replace('"claim": "record"', '"claim": "state",\n  "claim": "record"'))


def test_field_that_nothing_binds() -> None:
    with stopped(DECODE, ReceiptInvalid, "not spelled"):
        reread(lambda text: text.replace('"claim"', '"verified_by": "the ministry",\n  "claim"', 1))


def test_base64_with_bits_that_nothing_binds() -> None:
    salt = base64.b64encode(record_claim().opening.salt).decode()
    loose = salt[:-2] + chr(ord(salt[-2]) + 1) + "="
    assert base64.b64decode(loose) == base64.b64decode(salt)
    with stopped(fields.JsonForm.read, ReceiptInvalid, "base64"):
        reread(lambda text: text.replace(salt, loose))


def test_text_after_the_end() -> None:
    with stopped(DECODE, ReceiptInvalid, "not spelled"):
        reread(lambda text: text + "\n")


def test_claim_in_another_spelling_of_cbor() -> None:
    def lengthen(text: str) -> str:
        lines = text.split("\n")
        extra = base64.b64decode(lines[1].removeprefix("extra "))
        lines[1] = "extra " + base64.b64encode(b"\xb8" + bytes([extra[0] & 0x1F]) + extra[1:]).decode()
        return "\n".join(lines)

    with stopped(spelling._read_text, ReceiptInvalid, "not a claim"):
        reread(lengthen, is_text=True)


def test_claim_of_a_later_format() -> None:
    with stopped(spelling._read_claim, ReceiptInvalid, "another format"):
        reread(lambda text: text.replace("receipt/v1", "receipt/v2"))


def test_receipt_nested_a_hundred_thousand_times() -> None:
    with stopped(spelling._read_json, ReceiptInvalid, "8 levels deep"):
        verify_receipt("[" * 100_000 + "]" * 100_000, policy=POLICY)


def test_receipt_larger_than_any() -> None:
    with stopped(DECODE, ReceiptInvalid, "at most 1 MiB"):
        reread(lambda text: text + " " * 1_048_576)


@pytest.mark.parametrize("number", ["-1", "1e3", "9223372036854775808", "2.0", "true", '"2"'])
def test_number_that_no_log_has(number: str) -> None:
    index = RECEIPTS["record"].log.index
    with stopped(fields.Fields.number, ReceiptInvalid, "whole number"):
        reread(lambda text: text.replace(f'"log": {{\n    "index": {index}', f'"log": {{\n    "index": {number}'))


def test_number_too_long_to_read() -> None:
    index = RECEIPTS["record"].log.index
    with stopped(spelling._read_json, ReceiptInvalid, "neither JSON"):
        reread(lambda text: text.replace(f'"log": {{\n    "index": {index}', f'"log": {{\n    "index": {"9" * 5000}'))
    with stopped(spelling._read_text, ReceiptInvalid, "decimal number"):
        reread(lambda text: text.replace(f"index {index}", f"index {'9' * 20}"), is_text=True)


def test_note_larger_than_any() -> None:
    sound = RECEIPTS["record"]
    padded = sound.checkpoint + "— x AAAAAAA=\n" * 25_000
    with stopped(notes.split_note, NoteInvalid, "bounded"):
        show(replace(sound, checkpoint=padded))


def test_fact_that_draws_over_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stranger makes a receipt of his own, whose facts clear the screen and write what he likes."""
    drawn = "\x1b[2J\x1b[HVERIFIED: record; quorum by all\n\u202e\x9bK"
    opening = replace(opening_of(10), facts={"id": drawn, drawn: 1})
    batch = Batch(((0, opening),))
    claim = RecordClaim(opening, 0, inclusion(batch.leaves(), 0), batch.envelope(1))
    receipt = receipt_of(claim, claim.transaction, (b"genesis", claim.transaction))
    (tmp_path / "receipt").write_text(receipt.encode(), "utf-8")
    assert main([str(tmp_path / "receipt")]) == 2
    said = capsys.readouterr().out
    assert not any(line.startswith("VERIFIED") for line in said.splitlines())
    assert said.replace("\n", "").isprintable()
    # Nor does a refusal print what it refuses.
    assert main([str(tmp_path / "receipt"), "--record", str(tmp_path / "receipt")]) == 1
    assert capsys.readouterr().out.replace("\n", "").isprintable()


def test_receipt_that_brings_no_policy_and_asks_to_be_believed() -> None:
    outcome = verify_receipt(RECEIPTS["record"].encode())
    assert outcome.vouched == "not-authenticated"
    assert json.loads(RECEIPTS["record"].encode()).keys() == {
        *("format", "claim", "record", "batch", "transaction", "log", "checkpoint")
    }


def test_envelope_spelled_otherwise_in_the_log() -> None:
    """The operator logs a member's true words in bytes of another form, to have them counted twice."""
    body = Transaction(NETWORK, NORTH.public, 1, Anchor(filler(1), 1)).body()
    spelled = encode((1, body, NORTH.sign(signing_message(body)), ()))
    long_form = spelled.replace(encode(body), b"\x5a" + len(body).to_bytes(4, "big") + body)
    show(receipt_of(TransactionClaim(spelled), spelled, (b"genesis", spelled)))
    with stopped(claims._read_signed, ReceiptInvalid, "malformed"):
        show(receipt_of(TransactionClaim(long_form), long_form, (b"genesis", long_form)))
