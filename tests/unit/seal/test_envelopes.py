"""Envelopes open under exactly one key, part and place; checked against RFC 5869 and a second reader."""

from __future__ import annotations

import hashlib
import hmac
from importlib.resources import files
from pathlib import Path

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_bridge.adapters.ambient import SystemRandomness
from fhir_bridge.errors import EnvelopeBroken, SetupWrong
from fhir_bridge.seal import open_blob, seal_blob
from fhir_bridge.seal.envelope import RANDOM_BYTES, open_bytes, pack, place, seal_bytes, size_class, unpack
from fhir_bridge.seal.frames import read_dictionary

KEY = bytes(range(32))
FIRST = zstandard.ZstdCompressionDict(files("fhir_bridge.seal").joinpath("dictionaries", "1.zdict").read_bytes())
RANDOM = SystemRandomness()
TELLING = b'{"resourceType":"Observation","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]}}'


def hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 section 2, written from its text."""
    prk = hmac.new(salt, key, hashlib.sha256).digest()
    okm, block, counter = b"", b"", 1
    while len(okm) < length:
        block = hmac.new(prk, block + info + bytes((counter,)), hashlib.sha256).digest()
        okm, counter = okm + block, counter + 1
    return okm[:length]


def test_the_second_reader_derives_as_rfc_5869_does() -> None:
    # RFC 5869 appendix A.1.
    okm = hkdf(b"\x0b" * 22, bytes(range(0x0D)), bytes(range(0xF0, 0xFA)), 42)
    assert okm.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"


def test_the_second_reader_derives_long_inputs_as_rfc_5869_does() -> None:
    # RFC 5869 appendix A.2.
    okm = hkdf(bytes(range(0x50)), bytes(range(0x60, 0xB0)), bytes(range(0xB0, 0x100)), 82)
    assert okm.hex() == (
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
    )


def test_an_envelope_is_laid_out_as_documented() -> None:
    """Open one by hand, from docs/formats/envelopes.md alone."""
    sealed = seal_bytes(KEY, "normalised", b"place", b"content", bytes(range(44)))
    assert sealed[0] == 1
    assert sealed[1:33] == bytes(range(32))
    assert sealed[65:77] == bytes(range(32, 44))
    material = hkdf(KEY, sealed[1:33], b"fhir-bridge/envelope/1\0normalised", 64)
    assert sealed[33:65] == material[32:]
    opened = AESGCM(material[:32]).decrypt(sealed[65:77], sealed[77:], b"place")
    assert opened == b"content" + bytes(249)


def test_a_blob_is_laid_out_as_documented() -> None:
    sealed = seal_blob(KEY, "letter", "l1", b"text" * 9, RANDOM)
    material = hkdf(KEY, sealed[1:33], b"fhir-bridge/envelope/1\0blob/letter", 64)
    associated = b"fhir-bridge/place/1\0\0\0\4blob\0\0\0\6letter\0\0\0\2l1"
    opened = AESGCM(material[:32]).decrypt(sealed[65:77], sealed[77:], associated)
    assert opened[:2] == b"\0\1"
    length = int.from_bytes(opened[2:6], "big")
    assert zstandard.ZstdDecompressor(FIRST).decompress(opened[6 : 6 + length]) == b"text" * 9
    assert not any(opened[6 + length :])


@settings(deadline=None)
@given(st.binary(max_size=3_000), st.text(max_size=20), st.text(max_size=20))
def test_what_was_sealed_opens(content: bytes, domain: str, where: str) -> None:
    assert open_blob(KEY, domain, where, seal_blob(KEY, domain, where, content, RANDOM)) == content


@pytest.mark.parametrize("at", [0, 1, 32, 33, 64, 65, 76, 77, 200, -16, -1])
def test_no_byte_can_be_changed(at: int) -> None:
    sealed = bytearray(seal_bytes(KEY, "part", b"place", b"content", RANDOM.token(RANDOM_BYTES)))
    sealed[at] ^= 1
    with pytest.raises(EnvelopeBroken):
        open_bytes(KEY, "part", b"place", bytes(sealed))


@pytest.mark.parametrize("length", [0, 1, 76, 77, 92])
def test_an_envelope_cut_short_is_refused(length: int) -> None:
    sealed = seal_bytes(KEY, "part", b"place", b"content", RANDOM.token(RANDOM_BYTES))
    with pytest.raises(EnvelopeBroken):
        open_bytes(KEY, "part", b"place", sealed[:length])


def test_another_key_part_or_place_does_not_open() -> None:
    sealed = seal_bytes(KEY, "part", b"place", b"content", RANDOM.token(RANDOM_BYTES))
    with pytest.raises(EnvelopeBroken, match="another key"):
        open_bytes(bytes(32), "part", b"place", sealed)
    with pytest.raises(EnvelopeBroken, match="another key"):
        open_bytes(KEY, "other", b"place", sealed)
    with pytest.raises(EnvelopeBroken, match="another place"):
        open_bytes(KEY, "part", b"other", sealed)


def test_a_ciphertext_made_for_two_keys_is_refused_by_the_commitment() -> None:
    """A forger who swaps the commitment and derives honestly still cannot name two keys: it is checked first."""
    ours = seal_bytes(KEY, "part", b"place", b"content", bytes(44))
    theirs = seal_bytes(bytes(32), "part", b"place", b"content", bytes(44))
    grafted = ours[:33] + theirs[33:65] + ours[65:]
    with pytest.raises(EnvelopeBroken, match="another key"):
        open_bytes(KEY, "part", b"place", grafted)


def test_equal_contents_give_unequal_envelopes() -> None:
    one, two = (seal_blob(KEY, "d", "w", b"same", RANDOM) for _ in range(2))
    assert one[1:33] != two[1:33]
    assert one[77:] != two[77:]


@settings(deadline=None)
@given(st.integers(0, 1 << 30))
def test_a_size_class_wastes_at_most_a_quarter(length: int) -> None:
    padded = size_class(length)
    assert padded >= length
    assert padded == 256 or padded <= length * 1.25


def test_there_are_four_size_classes_to_a_doubling() -> None:
    assert sorted({size_class(n) for n in range(2_049)}) == [
        *(256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048)
    ]


@settings(deadline=None)
@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_two_places_never_encode_alike(one: list[str], other: list[str]) -> None:
    assert (place(*one) == place(*other)) == (one == other)


def test_what_was_compressed_without_a_dictionary_is_read() -> None:
    frame = zstandard.ZstdCompressor(level=3).compress(b"sealed before 2026-11-30")
    packed = b"head" + b"\0\0" + len(frame).to_bytes(4, "big") + frame + bytes(9)
    assert unpack(packed, 4) == b"sealed before 2026-11-30"


def test_the_dictionary_is_what_its_number_stands_for() -> None:
    # Sealed by the first build that had it: a changed dictionary would make every vault unreadable.
    frame = bytes.fromhex("28b52ffd2071f50000684f22383836372d34227d5d7d7d04fcc27e12e0c5cd2e0ba41843150ff2")
    packed = b"\0\1" + len(frame).to_bytes(4, "big") + frame
    assert unpack(packed, 0) == TELLING


def test_a_dictionary_with_other_bytes_is_refused(tmp_path: Path) -> None:
    changed = tmp_path / "1.zdict"
    changed.write_bytes(FIRST.as_bytes()[:-1] + b"?")
    with pytest.raises(SetupWrong, match="dictionary 1"):
        read_dictionary(1, changed)


def test_only_short_contents_take_the_dictionary() -> None:
    text = b'{"resourceType":"Observation","status":"final"}'
    assert pack([], text)[:2] == b"\0\1"
    assert len(pack([], text)) < len(zstandard.compress(text))
    long = text * 2_000
    assert pack([], long)[:2] == b"\0\0"
    assert unpack(pack([], long), 0) == long


def test_a_dictionary_this_version_lacks_is_refused() -> None:
    packed = bytearray(pack([], b"content"))
    packed[1] = 7
    with pytest.raises(EnvelopeBroken, match="dictionary 7"):
        unpack(bytes(packed), 0)


def test_a_frame_that_does_not_unpack_is_refused() -> None:
    packed = bytearray(pack([], b"content"))
    packed[6] ^= 0xFF
    with pytest.raises(EnvelopeBroken):
        unpack(bytes(packed), 0)


def test_nothing_readable_is_left_in_an_envelope() -> None:
    canary = b"Zuckerkandl"
    assert canary not in seal_blob(KEY, "letter", "l1", canary * 100, RANDOM)
