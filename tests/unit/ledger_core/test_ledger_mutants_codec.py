"""Edges of deterministic CBOR that mutation testing found unstated; expected bytes after RFC 8949."""

import pytest

from ledger_core.codec import MAX_INTEGER, Value, decode, decode_base64, encode
from ledger_core.errors import NotCanonical

LEVELS = 16  # docs/formats/ledger.md: how deep a value may be nested


@pytest.mark.parametrize(
    ("argument", "spelling"),
    [
        (23, "17"),
        (24, "1818"),
        (255, "18ff"),
        (256, "190100"),
        (65_535, "19ffff"),
        (65_536, "1a00010000"),
        (4_294_967_295, "1affffffff"),
        (4_294_967_296, "1b0000000100000000"),
        (18_446_744_073_709_551_615, "1bffffffffffffffff"),
    ],
)
def test_the_width_of_an_integer_changes_where_section_3_says(argument: int, spelling: str) -> None:
    assert encode(argument).hex() == spelling
    assert decode(bytes.fromhex(spelling)) == argument
    negative = f"{int(spelling[:2], 16) + 0x20:02x}{spelling[2:]}"
    assert encode(-1 - argument).hex() == negative
    assert decode(bytes.fromhex(negative)) == -1 - argument


@pytest.mark.parametrize("spelling", ["1817", "1900ff", "1a0000ffff", "1b00000000ffffffff"])
def test_the_largest_integer_of_a_width_has_no_longer_form(spelling: str) -> None:
    with pytest.raises(NotCanonical):
        decode(bytes.fromhex(spelling))


def test_the_largest_integer_is_the_largest_of_64_bits() -> None:
    assert MAX_INTEGER == 18_446_744_073_709_551_615
    with pytest.raises(NotCanonical):
        encode(MAX_INTEGER + 1)


@pytest.mark.parametrize(
    "spelling", ["18", "19", "1901", "1aff", "1affffff", "1bffffffffffffff", "58", "78", "98", "b8"]
)
def test_a_head_that_is_cut_short_is_refused(spelling: str) -> None:
    with pytest.raises(NotCanonical):
        decode(bytes.fromhex(spelling))


@pytest.mark.parametrize("spelling", ["d4", "d5", "d6", "d400", "d81400", "f814", "f4f4"])
def test_a_tag_is_no_simple_value_though_its_number_be_one(spelling: str) -> None:
    with pytest.raises(NotCanonical):
        decode(bytes.fromhex(spelling))


def nested(levels: int, kind: str, inmost: Value) -> Value:
    value = inmost
    for _ in range(levels):
        value = {"a": value} if kind == "map" else [value] if kind == "list" else (value,)
    return value


@pytest.mark.parametrize("kind", ["map", "list", "tuple"])
@pytest.mark.parametrize(("inmost", "spelling"), [(0, "00"), ((), "80"), ({}, "a0")])
def test_sixteen_levels_can_be_written_and_read(kind: str, inmost: Value, spelling: str) -> None:
    data = bytes.fromhex(("a16161" if kind == "map" else "81") * LEVELS + spelling)
    assert encode(nested(LEVELS, kind, inmost)) == data
    assert encode(decode(data)) == data


@pytest.mark.parametrize("kind", ["map", "list", "tuple"])
def test_a_seventeenth_level_can_not(kind: str) -> None:
    with pytest.raises(NotCanonical, match="deeply"):
        encode(nested(LEVELS + 1, kind, 0))
    with pytest.raises(NotCanonical, match="deeply"):
        decode(bytes.fromhex(("a16161" if kind == "map" else "81") * (LEVELS + 1) + "00"))


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", b""),
        ("Zg==", b"f"),
        ("Zm8=", b"fo"),
        ("Zm9v", b"foo"),
        ("Zm9vYmFy", b"foobar"),
        ("+/+/", b"\xfb\xff\xbf"),
    ],
)
def test_base64_is_that_of_rfc_4648(text: str, data: bytes) -> None:
    assert decode_base64(text) == data


@pytest.mark.parametrize("text", ["Zh==", "Zg=", "Zg", "Zm9v\n", " Zm9v", "-_-_", "Zg==Zg==", "Zm=v", "é", "Z"])
def test_other_base64_is_nothing_at_all(text: str) -> None:
    assert decode_base64(text) == b""
