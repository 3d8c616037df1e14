"""Signed notes and checkpoints, against Go's published example and the words of C2SP."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from ledger_core.checkpoint import (
    COSIGNATURE_ML_DSA_44,
    Checkpoint,
    NoteKey,
    check_origin,
    cosign,
    cosigner_key,
    log_key,
    parse_checkpoint,
    parse_vkey,
    sign_checkpoint,
    split_note,
    verify_note,
)
from ledger_core.errors import NoteInvalid
from ledger_core.keys import Identity, is_signed
from tests.unit.ledger_core.ledger_samples import LOG_KEY, SOUTH, VECTORS, filler

NOTE = VECTORS["note"]
CHECKPOINT = Checkpoint("test.example/log", 7, filler(3))
KEYS = (log_key(CHECKPOINT.origin, LOG_KEY.public), cosigner_key(CHECKPOINT.origin, LOG_KEY.public))


def test_the_published_note_verifies() -> None:
    key = parse_vkey(NOTE["vkey"])
    assert key.vkey() == NOTE["vkey"]
    text, vouchings = verify_note(NOTE["signed"], [key])
    assert text == NOTE["text"]
    assert [item.key.name for item in vouchings] == ["PeterNeumann"]


def test_the_published_signature_is_what_we_would_sign() -> None:
    _, lines = split_note(NOTE["signed"])
    signer = Identity.from_private_bytes(bytes.fromhex(NOTE["seed"]))
    assert lines[0].signature == signer.sign(NOTE["text"].encode())


def test_a_checkpoint_is_three_lines_and_two_signatures() -> None:
    note = sign_checkpoint(CHECKPOINT, LOG_KEY, time_s=1_700_000_000)
    text = f"test.example/log\n7\n{base64.b64encode(filler(3)).decode()}\n"
    assert note.startswith(text + "\n— test.example/log ")
    assert verify_note(note, KEYS)[0] == text
    assert parse_checkpoint(text) == CHECKPOINT
    assert {item.time_s for item in verify_note(note, KEYS)[1]} == {None, 1_700_000_000}


def test_the_signed_time_is_that_of_the_cosignature_format() -> None:
    note = sign_checkpoint(CHECKPOINT, LOG_KEY, time_s=1_679_315_147)
    line = split_note(note)[1][1]
    key_id = hashlib.sha256(b"test.example/log\n\x04" + LOG_KEY.public).digest()[:4]
    assert line.key_id == key_id
    assert line.signature[:8] == (1_679_315_147).to_bytes(8, "big")
    message = b"cosignature/v1\ntime 1679315147\n" + CHECKPOINT.text().encode()
    assert is_signed(LOG_KEY.public, message, line.signature[8:])


def test_a_post_quantum_witness_counts_when_a_policy_names_it() -> None:
    private = MLDSA44PrivateKey.generate()
    key = NoteKey("w.example/1", COSIGNATURE_ML_DSA_44, private.public_key().public_bytes_raw())
    assert parse_vkey(key.vkey()) == key
    origin, name = CHECKPOINT.origin.encode(), b"w.example/1"
    message = b"subtree/v1\n\0" + bytes([len(name)]) + name + (1700).to_bytes(8, "big")
    message += bytes([len(origin)]) + origin + bytes(8) + (7).to_bytes(8, "big") + filler(3)
    blob = key.id + (1700).to_bytes(8, "big") + private.sign(message)
    note = sign_checkpoint(CHECKPOINT, LOG_KEY, time_s=1) + f"— w.example/1 {base64.b64encode(blob).decode()}\n"
    assert [item.time_s for item in verify_note(note, [key])[1]] == [1700]
    spoilt = note.replace("\n7\n", "\n8\n")
    with pytest.raises(NoteInvalid):
        verify_note(spoilt, [key])


def test_a_false_signature_by_a_known_key_refuses_the_note() -> None:
    note = cosign(sign_checkpoint(CHECKPOINT, LOG_KEY, time_s=5), cosigner_key("w", SOUTH.public), LOG_KEY, time_s=5)
    with pytest.raises(NoteInvalid, match="false"):
        verify_note(note, [*KEYS, cosigner_key("w", SOUTH.public)])
    # To a verifier who does not know that witness, the line is nothing.
    assert len(verify_note(note, KEYS)[1]) == 2


def test_one_key_signs_once() -> None:
    note = sign_checkpoint(CHECKPOINT, LOG_KEY, time_s=5)
    with pytest.raises(NoteInvalid, match="twice"):
        verify_note(note + note.splitlines(keepends=True)[-1], KEYS)


def test_unknown_keys_vouch_for_nothing() -> None:
    note = sign_checkpoint(CHECKPOINT, LOG_KEY, time_s=5)
    with pytest.raises(NoteInvalid, match="no known key"):
        verify_note(note, [log_key("test.example/log", SOUTH.public)])


@pytest.mark.parametrize(
    "note",
    [
        "",
        "text\n",
        "text\n\n",
        "text\n\n— name\n",
        "text\n\n- name AAAAAAAAAA==\n",
        "text\n\n— name AAAA\n",
        "text\n\n— name AAAAAAAAAA\n",
        "te\txt\n\n— name AAAAAAAAAAAA\n",
        "text\n\n— name AAAAAAAAAAAA",
        "text\r\n\n— name AAAAAAAAAAAA\n",
    ],
)
def test_malformed_notes_are_refused(note: str) -> None:
    with pytest.raises(NoteInvalid):
        split_note(note)


@pytest.mark.parametrize(
    "body", ["o\n07\n{}\n", "o\n-1\n{}\n", "o\n7\n{}\nmore\n", "\n7\n{}\n", "o\n7\nAAAA\n", "o\n7\n{}"]
)
def test_malformed_checkpoints_are_refused(body: str) -> None:
    with pytest.raises(NoteInvalid):
        parse_checkpoint(body.format(base64.b64encode(filler(3)).decode()))


@pytest.mark.parametrize(
    "vkey", ["", "a+b", "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "a+00000000+AQ=="]
)
def test_malformed_keys_are_refused(vkey: str) -> None:
    with pytest.raises(NoteInvalid):
        parse_vkey(vkey)


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "cosignature/v1", "a\nb"])
def test_origins_that_could_mislead_are_refused(origin: str) -> None:
    with pytest.raises(NoteInvalid):
        check_origin(origin)


@pytest.mark.parametrize(
    "key",
    [
        NoteKey("a b", 1, SOUTH.public),
        NoteKey("", 1, SOUTH.public),
        NoteKey("a", 6, SOUTH.public),
        NoteKey("a", 4, bytes(1312)),
        NoteKey("a", 2, SOUTH.public),
        NoteKey("a", 1, bytes(31)),
    ],
)
def test_keys_of_a_wrong_name_type_or_length_are_refused_though_their_id_fits(key: NoteKey) -> None:
    with pytest.raises(NoteInvalid):
        parse_vkey(key.vkey())


def test_only_cosigners_cosign_and_names_have_a_length() -> None:
    note = sign_checkpoint(CHECKPOINT, LOG_KEY, time_s=5)
    with pytest.raises(NoteInvalid, match="type 4 or 6"):
        cosign(note, log_key("w", SOUTH.public), SOUTH, time_s=5)
    large = Identity.generate(2)
    with pytest.raises(NoteInvalid, match="too long"):
        cosign(note, cosigner_key("w" * 256, large.public), large, time_s=5)
    with pytest.raises(NoteInvalid, match="unknown suite"):
        cosigner_key("w", bytes(31))
    longest = cosigner_key("w" * 255, large.public)
    signed = cosign(note, longest, large, time_s=5)
    assert verify_note(signed, [longest])[1][0].time_s == 5


def test_a_cosignature_has_a_time_below_two_to_the_63() -> None:
    key = cosigner_key("w", SOUTH.public)
    note = sign_checkpoint(CHECKPOINT, LOG_KEY, time_s=5)
    with pytest.raises(NoteInvalid, match="possible time"):
        verify_note(cosign(note, key, SOUTH, time_s=2**63), [key])
    short = note + f"— w {base64.b64encode(key.id + bytes(7)).decode()}\n"
    with pytest.raises(NoteInvalid, match="possible time"):
        verify_note(short, [key])


def test_text_that_cannot_be_written_is_no_note() -> None:
    note = sign_checkpoint(CHECKPOINT, LOG_KEY, time_s=5)
    with pytest.raises(NoteInvalid, match="control"):
        split_note(note.replace("test.example", "test\ud800example"))
    with pytest.raises(NoteInvalid, match="bounded"):
        split_note("x" * 262_144 + note)


def test_what_stands_at_the_edges_of_a_note_is_part_of_its_form() -> None:
    note = sign_checkpoint(CHECKPOINT, LOG_KEY, time_s=5)
    with pytest.raises(NoteInvalid, match="ending in a newline"):
        split_note(note.removesuffix("\n") + "X")
    for text in ("no separator\n", "— w AAAAAAAAAAAA\n", "text\n\n"):
        with pytest.raises(NoteInvalid, match="blank line"):
            split_note(text)
    with pytest.raises(NoteInvalid, match="three lines"):
        parse_checkpoint(CHECKPOINT.text() + "more")
    with pytest.raises(NoteInvalid, match="origin"):
        check_origin("a\x07b")
