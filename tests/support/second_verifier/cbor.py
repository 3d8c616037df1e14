"""Read and write deterministic CBOR (RFC 8949 section 4.2.1) of the ledger's profile.

Invariants:
    * ``decode`` accepts exactly the bytes that ``encode`` can write;
    * maps have text keys, in the order of their encoded bytes.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from tests.support.second_verifier.refusal import Refused, require

Value: TypeAlias = "bool | int | str | bytes | float | list[Value] | dict[str, Value] | None"
"""What JSON and CBOR hold; CBOR here never holds a float, JSON never bytes."""

MAX_LEVELS = 16
SIMPLE: dict[int, bool | None] = {20: False, 21: True, 22: None}
WIDTHS = {24: 1, 25: 2, 26: 4, 27: 8}


def decode(data: bytes) -> Value:
    """Read one item that fills ``data``, or raise Refused."""
    value, end = _item(data, 0, 1)
    require(end == len(data), "bytes after the CBOR item")
    return value


def encode(value: object) -> bytes:
    """Write a value of the profile."""
    if value is None:
        return b"\xf6"
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return _head(0, value) if value >= 0 else _head(1, -1 - value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        text = value.encode()
        return _head(3, len(text)) + text
    if isinstance(value, Mapping):
        pairs = sorted((encode(name), encode(item)) for name, item in value.items())
        return _head(5, len(pairs)) + b"".join(name + item for name, item in pairs)
    if isinstance(value, Sequence):
        return _head(4, len(value)) + b"".join(map(encode, value))
    raise Refused(f"CBOR holds no {type(value).__name__}")


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for code, width in WIDTHS.items():
        if argument < 1 << 8 * width:
            return bytes([major << 5 | code]) + argument.to_bytes(width, "big")
    raise Refused("CBOR integer beyond 64 bits")


def _item(data: bytes, at: int, level: int) -> tuple[Value, int]:
    require(at < len(data), "CBOR ends too early")
    # The outermost value stands inside none and has level 1.
    require(level <= MAX_LEVELS + 1, "CBOR nested too deeply")
    major, code = data[at] >> 5, data[at] & 31
    if major == 7:
        require(code in SIMPLE, "CBOR float or unknown simple value")
        return SIMPLE[code], at + 1
    argument, at = _argument(data, at)
    if major == 0:
        return argument, at
    if major == 1:
        return -1 - argument, at
    if major in (2, 3):
        require(argument <= len(data) - at, "CBOR string ends too early")
        chunk = data[at : at + argument]
        return (chunk if major == 2 else _text(chunk)), at + argument
    require(major != 6, "CBOR tag")
    return _array(data, at, argument, level) if major == 4 else _map(data, at, argument, level)


def _argument(data: bytes, at: int) -> tuple[int, int]:
    code = data[at] & 31
    if code < 24:
        return code, at + 1
    require(code in WIDTHS, "CBOR of indefinite length or reserved form")
    end = at + 1 + WIDTHS[code]
    require(end <= len(data), "CBOR ends too early")
    argument = int.from_bytes(data[at + 1 : end], "big")
    shorter = 24 if code == 24 else 1 << 8 * (WIDTHS[code] // 2)
    require(argument >= shorter, "CBOR argument longer than needed")
    return argument, end


def _text(chunk: bytes) -> str:
    try:
        return chunk.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused("CBOR text is not UTF-8") from error


def _array(data: bytes, at: int, count: int, level: int) -> tuple[Value, int]:
    items: list[Value] = []
    for _ in range(count):
        item, at = _item(data, at, level + 1)
        items.append(item)
    return items, at


def _map(data: bytes, at: int, count: int, level: int) -> tuple[Value, int]:
    items: dict[str, Value] = {}
    last = b""
    for _ in range(count):
        start = at
        name, at = _item(data, at, level + 1)
        if not isinstance(name, str):
            raise Refused("CBOR map key is not text")
        require(data[start:at] > last, "CBOR map keys out of order or repeated")
        last = data[start:at]
        items[name], at = _item(data, at, level + 1)
    return items, at
