"""Deterministic CBOR (RFC 8949 section 4.2.1): one value, one encoding.

For everything that is hashed or signed. Allowed are unsigned and negative
64-bit integers, byte strings, text, arrays, maps with text keys, booleans and
null: no floats, tags, undefined, or indefinite lengths, because none of them
is needed and each has more than one spelling.

The reader is written out here rather than taken from a general library so that
a verifier can see the whole of it, and so that a foreign encoding is refused at
the first byte that is not the shortest, without calling any tag handler.

Invariants:
    * ``encode(decode(data)) == data`` for whatever ``decode`` returns;
    * ``decode`` never yields a value that ``encode`` would refuse;
    * arrays come back as tuples, so a decoded value can be shared.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import TypeAlias

from ledger_core.errors import NotCanonical

Value: TypeAlias = "int | bytes | str | bool | Sequence[Value] | Mapping[str, Value] | None"

MAX_DEPTH = 16
MAX_INTEGER = 2**64 - 1

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_SIMPLE_VALUES: Mapping[int, Value] = {20: False, 21: True, 22: None}
_WIDTHS: Mapping[int, tuple[int, int]] = {24: (1, 24), 25: (2, 2**8), 26: (4, 2**16), 27: (8, 2**32)}
# The heads of arguments below 256, by major type: nearly all there are.
_HEADS = tuple(
    tuple(bytes((major << 5 | least,)) if least < 24 else bytes((major << 5 | 24, least)) for least in range(256))
    for major in range(_TAG)
)


_by_key = itemgetter(0)


def encode(value: Value) -> bytes:
    """Return the deterministic encoding of ``value``.

    Raises:
        NotCanonical: The value holds a type or an integer outside the profile.
    """
    out = bytearray()
    _write(out, (value,), 0)
    return bytes(out)


def decode(data: bytes) -> Value:
    """Return the value that ``data`` encodes, and refuse any other spelling of it.

    Cost is linear in ``data``; nesting is limited to 16 levels.

    Raises:
        NotCanonical: Truncated, trailing bytes, a longer form than needed, keys
            out of order or repeated, bad UTF-8, or a type outside the profile.
    """
    values: list[Value] = []
    end = _read(data, 0, 1, 0, values)
    if end != len(data):
        raise NotCanonical(f"{len(data) - end} bytes follow the value")
    return values[0]


def decode_base64(text: str) -> bytes:
    """Return the bytes of canonical standard base64, or nothing at all if it is not that."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return data if base64.b64encode(data).decode() == text else b""


def _write(out: bytearray, values: Sequence[Value], depth: int) -> None:
    """Append the encodings of ``values``; one call a container and none a leaf, as in reading."""
    if values and depth > MAX_DEPTH:
        raise NotCanonical("nested too deeply")
    for value in values:
        if isinstance(value, bytes):
            out += _head(_BYTES, len(value))
            out += value
        elif isinstance(value, str):
            text = _utf8(value)
            out += _head(_TEXT, len(text))
            out += text
        elif value is None or isinstance(value, bool):
            out.append(0xF6 if value is None else 0xF5 if value else 0xF4)
        elif isinstance(value, int):
            out += _head(_NEGATIVE, -1 - value) if value < 0 else _head(_UNSIGNED, value)
        elif isinstance(value, list | tuple):
            out += _head(_ARRAY, len(value))
            _write(out, value, depth + 1)
        elif isinstance(value, Mapping):
            _write_map(out, value, depth)
        else:
            raise NotCanonical(f"type {type(value).__name__} has no encoding here")


def _write_map(out: bytearray, value: Mapping[str, Value], depth: int) -> None:
    keys = _in_order(tuple(value))
    out += _head(_MAP, len(keys))
    for encoded, key in keys:
        item = value[key]
        out += encoded
        if depth >= MAX_DEPTH:
            _write(out, (item,), depth + 1)
        elif type(item) is bytes:
            out += _head(_BYTES, len(item))
            out += item
        elif type(item) is str:
            text = _utf8(item)
            out += _head(_TEXT, len(text))
            out += text
        elif type(item) is dict:
            _write_map(out, item, depth + 1)
        else:
            _write(out, (item,), depth + 1)


@lru_cache(maxsize=1024)
def _in_order(keys: tuple[str, ...]) -> tuple[tuple[bytes, str], ...]:
    """Return keys of a map, with and in the order of their encodings; maps of the same keys come again and again."""
    return tuple(sorted([(_key(key), key) for key in keys], key=_by_key))


@lru_cache(maxsize=1024)
def _key(key: str) -> bytes:
    """Return the encoding of a map's key; the same few come again and again."""
    if not isinstance(key, str):
        raise NotCanonical("map keys must be text")
    return encode(key)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise NotCanonical("text holds a lone surrogate") from None


def _head(major: int, argument: int) -> bytes:
    if argument < 256:
        return _HEADS[major][argument]
    for info, (width, _) in _WIDTHS.items():
        if argument < 1 << (8 * width):
            return bytes((major << 5 | info,)) + argument.to_bytes(width, "big")
    raise NotCanonical("integer does not fit 64 bits")


def _read(data: bytes, at: int, count: int, depth: int, out: list[Value]) -> int:
    """Append the ``count`` values that begin at ``at``; return where they end.

    One call a container and none a leaf: half of judging a transaction is spent here.
    """
    if count and depth > MAX_DEPTH:
        raise NotCanonical("nested too deeply")
    size = len(data)
    for _ in range(count):
        if at >= size:
            raise NotCanonical("value is cut short")
        major, argument = data[at] >> 5, data[at] & 0x1F
        at += 1
        if argument == 24 and major < _TAG and at < size and data[at] >= 24:
            # The commonest head by far: hashes, keys and signatures.
            argument, at = data[at], at + 1
        elif argument >= 24 and major < _TAG:
            argument, at = _read_argument(data, at, argument)
        if _BYTES <= major <= _TEXT:
            end = at + argument
            if end > size:
                raise NotCanonical("value is cut short")
            out.append(data[at:end] if major == _BYTES else _read_text(data, at, end))
            at = end
        elif major == _UNSIGNED:
            out.append(argument)
        elif major == _NEGATIVE:
            out.append(-1 - argument)
        elif major >= _TAG:
            out.append(_read_simple(major, argument))
        elif argument > size - at:
            raise NotCanonical("value is cut short")
        elif major == _MAP:
            at = _read_map(data, at, argument, depth, out)
        else:
            items: list[Value] = []
            at = _read(data, at, argument, depth + 1, items)
            out.append(tuple(items))
    return at


def _read_map(data: bytes, at: int, count: int, depth: int, out: list[Value]) -> int:
    items: list[Value] = []
    at = _read(data, at, 2 * count, depth + 1, items)
    previous = (-1, b"")
    for key in items[::2]:
        if not isinstance(key, str):
            raise NotCanonical("map keys must be text")
        raw = key.encode()
        # The order of encodings: a shorter text has a smaller head.
        place = (len(raw), raw)
        if place <= previous:
            raise NotCanonical("map keys are repeated or out of order")
        previous = place
    out.append(dict(zip(items[::2], items[1::2], strict=True)))  # type: ignore[arg-type]  # keys are text, see above
    return at


def _read_simple(major: int, argument: int) -> Value:
    if major == _TAG or argument not in _SIMPLE_VALUES:
        raise NotCanonical("tags, floats and other simple values are not allowed")
    return _SIMPLE_VALUES[argument]


def _read_text(data: bytes, at: int, end: int) -> str:
    try:
        return data[at:end].decode()
    except UnicodeDecodeError:
        raise NotCanonical("text is not UTF-8") from None


def _read_argument(data: bytes, at: int, info: int) -> tuple[int, int]:
    if info > 27:
        raise NotCanonical("indefinite lengths are not allowed")
    width, least = _WIDTHS[info]
    end = at + width
    if end > len(data):
        raise NotCanonical("value is cut short")
    argument = data[at] if width == 1 else int.from_bytes(data[at:end], "big")
    if argument < least:
        raise NotCanonical("a shorter form exists")
    return argument, end
