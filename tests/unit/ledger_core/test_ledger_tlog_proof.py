"""Every claim in both spellings: what C2SP tlog-proof says of the text, and that no change goes unnoticed."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core import Receipt, ReceiptInvalid, RecordMismatch, verify_receipt
from ledger_core.codec import decode, encode
from ledger_core.receipt import LogPath
from tests.unit.ledger_core.ledger_receipt_samples import (
    ENTRIES,
    ENVELOPES,
    POLICY,
    RECEIPTS,
    ROOTS,
    content_of,
    cosigned,
    cosigner,
    inclusion,
    leaf,
    path_to,
    refuse,
    subtree,
)

KINDS = sorted(RECEIPTS)
PRIMARY = {
    "record": ENVELOPES[0],
    "records of one batch": ENVELOPES[0],
    "records": ENVELOPES[0],
    "transaction": ENVELOPES[1],
    "present": ROOTS[3],
    "absent": ROOTS[3],
    "past present": ROOTS[1],
    "past absent": ROOTS[0],
    "consent revoked": ROOTS[3],
    "member rotated": ROOTS[3],
}
SAID = {
    "record": "record",
    "records of one batch": "3 records",
    "records": "6 records",
    "transaction": "transaction",
    "present": "state present",
    "absent": "state absent",
    "past present": "state present as of height 1",
    "past absent": "state absent as of height 0",
    "consent revoked": "state of height 1 revoked: owner's list replaced",
    "member rotated": "state of height 1 revoked: key was rotated",
}


@pytest.mark.parametrize("kind", KINDS)
def test_both_spellings_prove_the_same(kind: str) -> None:
    receipt = RECEIPTS[kind]
    for text in (receipt.encode(), receipt.encode_text()):
        assert Receipt.decode(text) == receipt
        outcome = verify_receipt(text, policy=POLICY)
        assert (outcome.vouched, outcome.claim) == ("operator-attested", SAID[kind])
        assert verify_receipt(text).vouched == "not-authenticated"


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_is_a_tlog_proof_of_the_primary_entry(kind: str) -> None:
    # Read by the words of the specification alone; the checkpoint is checked elsewhere.
    head, _, note = RECEIPTS[kind].encode_text().partition("\n\n")
    first, extra, index, *hashes = head.split("\n")
    assert first == "c2sp.org/tlog-proof@v1"
    assert index == f"index {ENTRIES.index(PRIMARY[kind])}"
    assert [base64.b64decode(line) for line in hashes] == list(
        inclusion([leaf(item) for item in ENTRIES], ENTRIES.index(PRIMARY[kind]))
    )
    assert note == RECEIPTS[kind].checkpoint
    assert note.split("\n")[2] == base64.b64encode(subtree([leaf(item) for item in ENTRIES])).decode()
    assert PRIMARY[kind] in base64.b64decode(extra.removeprefix("extra "))


def test_a_log_of_one_entry_has_no_path_lines() -> None:
    text = replace(RECEIPTS["transaction"], log=LogPath(0, ())).encode_text()
    assert "\nindex 0\n\ntest.example/ledger\n" in text
    assert Receipt.decode(text).log == LogPath(0, ())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_text", [False, True], ids=["json", "text"])
def test_changing_bytes_of_the_receipt_is_noticed(kind: str, is_text: bool) -> None:
    receipt = RECEIPTS[kind]
    text = receipt.encode_text() if is_text else receipt.encode()
    verify_receipt(text, policy=POLICY)
    for place in range(0, len(text), 7):
        other = "x" if text[place] != "x" else "y"
        refuse(text[:place] + other + text[place + 1 :])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_text", [False, True], ids=["json", "text"])
def test_changing_dropping_or_doubling_each_single_byte_is_noticed(kind: str, is_text: bool) -> None:
    receipt = RECEIPTS[kind]
    text = receipt.encode_text() if is_text else receipt.encode()
    for place, found in enumerate(text):
        for other in ("A", "B", "\n", " ", "0", "", found * 2, chr(ord(found) ^ 1)):
            if other != found:
                refuse(text[:place] + other + text[place + 1 :])


@pytest.mark.parametrize("kind", KINDS)
def test_changing_bytes_of_the_extra_data_is_noticed(kind: str) -> None:
    text = RECEIPTS[kind].encode_text()
    lines = text.split("\n")
    extra = base64.b64decode(lines[1].removeprefix("extra "))
    for place in range(0, len(extra), 1 + len(extra) // 500):
        spoilt = extra[:place] + bytes((extra[place] ^ 1,)) + extra[place + 1 :]
        lines[1] = f"extra {base64.b64encode(spoilt).decode()}"
        refuse("\n".join(lines))


def _trails(value: Any, trail: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a tree of arrays and objects, inner nodes too."""
    yield trail
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _trails(item, (*trail, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _trails(item, (*trail, index))


def _thaw(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _thaw(item) for key, item in value.items()}
    return [_thaw(item) for item in value] if isinstance(value, list | tuple) else value


def _changes(value: Any) -> list[Any]:
    """Other values for one place: wrong types, neighbours, and for containers one member more or less."""
    if isinstance(value, dict):
        fewer = [{key: item for key, item in value.items() if key != gone} for gone in value]
        return [None, [], *fewer, {**value, "note": "harmless"}]
    if isinstance(value, list):
        shorter = [value[:index] + value[index + 1 :] for index in range(len(value))]
        return [None, {}, *shorter, [*value, value[-1] if value else b""], value[::-1], [*value, "AAAA"]]
    if isinstance(value, int):
        return [value + 1, value - 1, str(value), None, -value - 1, 2**63]
    if isinstance(value, bytes):
        middle = len(value) // 2
        flipped = value[:middle] + bytes((value[middle] ^ 0x80,)) + value[middle + 1 :] if value else b"x"
        return [flipped, value + b"\0", value[:-1], None, 0, value.hex(), bytes(32)]
    if isinstance(value, str):
        return [value + "A", value[:-1], None, 0, value.encode(), value.swapcase()]
    return [b"", 0, False, "", bytes(32)]


def _put(content: Any, trail: tuple[Any, ...], value: Any) -> Any:
    if not trail:
        return value
    changed = dict(content) if isinstance(content, dict) else list(content)
    changed[trail[0]] = _put(content[trail[0]], trail[1:], value)
    return changed


def _at(content: Any, trail: tuple[Any, ...]) -> Any:
    for step in trail:
        content = content[step]
    return content


@pytest.mark.parametrize("kind", KINDS)
def test_changing_any_field_of_the_extra_data_is_noticed(kind: str) -> None:
    lines = RECEIPTS[kind].encode_text().split("\n")
    content = _thaw(decode(base64.b64decode(lines[1].removeprefix("extra "))))
    tried = 0
    for trail in _trails(content):
        before = _at(content, trail)
        for value in _changes(before):
            if value == before and type(value) is type(before):
                continue
            lines[1] = f"extra {base64.b64encode(encode(_put(content, trail, value))).decode()}"
            refuse("\n".join(lines))
            tried += 1
    assert tried > 20


@pytest.mark.parametrize("kind", KINDS)
def test_changing_any_field_of_the_json_is_noticed(kind: str) -> None:
    content = json.loads(RECEIPTS[kind].encode())
    tried = 0
    for trail in _trails(content):
        before = _at(content, trail)
        for value in _changes(before):
            if isinstance(value, bytes) or value == before or _holds_bytes(value):
                continue
            refuse(json.dumps(_put(content, trail, value), indent=2, ensure_ascii=False) + "\n")
            tried += 1
    assert tried > 60


def _holds_bytes(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, bytes) for item in value)


def test_fields_of_two_valid_receipts_cannot_be_spliced() -> None:
    texts = [receipt.encode() for receipt in RECEIPTS.values()]
    valid = set(texts)
    for text in texts:
        for other in texts:
            content, donor = json.loads(text), json.loads(other)
            for name in content.keys() & donor.keys():
                spliced = json.dumps({**content, name: donor[name]}, indent=2, ensure_ascii=False) + "\n"
                if spliced not in valid:
                    refuse(spliced)


@given(st.text(max_size=300), st.sampled_from(KINDS), st.data())
def test_text_put_anywhere_is_refused_by_an_error_of_ours(noise: str, kind: str, data: st.DataObject) -> None:
    text = RECEIPTS[kind].encode_text()
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, len(text)))
    spoilt = text[:begin] + noise + text[end:]
    if spoilt != text:
        refuse(spoilt)


@given(st.binary(max_size=200))
def test_extra_data_of_any_bytes_is_refused_by_an_error_of_ours(extra: bytes) -> None:
    lines = RECEIPTS["transaction"].encode_text().split("\n")
    lines[1] = f"extra {base64.b64encode(extra).decode()}"
    refuse("\n".join(lines))


@pytest.mark.parametrize(
    "text",
    [
        "c2sp.org/tlog-proof@v1\n",
        "c2sp.org/tlog-proof@v1\nindex 0\n\nnote\n",
        "c2sp.org/tlog-proof@v1\nextra AA==\nindex 00\n\nnote\n",
        "c2sp.org/tlog-proof@v1\nextra AA==\nindex -1\n\nnote\n",
        "c2sp.org/tlog-proof@v1\nextra AA==\nindex 0\n\nnote\n",
        "c2sp.org/tlog-proof@v1\nextra oA==\nindex 0\n\nnote\n",
        "c2sp.org/tlog-proof@v2\nextra AA==\nindex 0\n\nnote\n",
        "c2sp.org/tlog-proof@v1\nextra \nindex 0\n\nnote\n",
        "\ud800",
        '{"format": "\ud800"}',
    ],
)
def test_what_is_no_tlog_proof_is_refused(text: str) -> None:
    with pytest.raises(ReceiptInvalid):
        Receipt.decode(text)


def test_brackets_in_text_do_not_hide_depth() -> None:
    hidden = '{"a": "' + "]" * 50 + '", "b": ' + "[" * 20 + "]" * 20 + "}"
    with pytest.raises(ReceiptInvalid, match="8 levels"):
        Receipt.decode(hidden)


@pytest.mark.timeout(20)
def test_a_string_without_an_end_is_refused_at_once() -> None:
    # Each of its quotes might begin a string: looked at anew from each, a whole mebibyte took hours (2026-11).
    with pytest.raises(ReceiptInvalid, match="neither JSON"):
        Receipt.decode('["' + '\\"' * 500_000)


def test_files_are_found_among_many_records() -> None:
    text = RECEIPTS["records"].encode_text()
    # Record 40 is digested under suite 2 (SHA-256), the others under suite 1.
    outcome = verify_receipt(text, records=[content_of(40), content_of(10)], policy=POLICY)
    assert [item.matched for item in outcome.records] == [("normalised",), (), (), ("normalised",), (), ()]
    assert [item.facts["id"] for item in outcome.records] == ["r10", "r20", "r30", "r40", "r50", "abc"]
    with pytest.raises(RecordMismatch, match="no part"):
        verify_receipt(text, records=[content_of(40), content_of(41)], policy=POLICY)
    with pytest.raises(RecordMismatch, match="newline"):
        verify_receipt(text, record=content_of(40) + b"\n", policy=POLICY)
    with pytest.raises(RecordMismatch, match="no record"):
        verify_receipt(RECEIPTS["absent"].encode_text(), record=b"", policy=POLICY)


def test_a_receipt_of_a_big_log_with_three_witnesses_is_small() -> None:
    # 10 million leaves: 24 hashes. Sizes do not depend on the hashes being true.
    witnesses = [cosigner(30 + number, f"w{number}.example") for number in range(3)]
    receipt = cosigned(RECEIPTS["transaction"], *witnesses)
    large = replace(receipt, log=LogPath(9_999_999, tuple(bytes(32) for _ in range(24))))
    without_claim = len(large.encode_text()) - len(large.encode_text().split("\n")[1])
    assert without_claim < 1_800
    assert len(large.encode_text()) < 2_300


def test_the_path_of_one_entry_is_that_of_no_other() -> None:
    for kind in KINDS:
        receipt = RECEIPTS[kind]
        for entry in ENTRIES:
            if entry != PRIMARY[kind]:
                refuse(replace(receipt, log=path_to(entry)).encode_text())
