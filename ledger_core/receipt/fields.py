"""How values stand in the two spellings, and reading with every type checked.

Both spellings hold the same fields. CBOR has byte strings of its own; in JSON
bytes are base64, and a fact that is bytes is ``{"base64": …}`` because a fact
may be text as well.

Invariant: what a reader returns, the writer of the same spelling writes back
to the same value or the receipt is refused; nothing is trimmed or defaulted.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Protocol

from ledger_core.codec import Value, decode_base64
from ledger_core.commitment import Fact
from ledger_core.errors import ReceiptInvalid


class Form(Protocol):
    """How one spelling writes and reads bytes and facts."""

    def write(self, data: bytes) -> Value:
        """Return what stands for ``data``."""
        ...

    def write_fact(self, fact: Fact) -> Value:
        """Return what stands for a fact, text and bytes told apart."""
        ...

    def read(self, value: object) -> bytes:
        """Return the bytes that ``value`` stands for, or raise ReceiptInvalid."""
        ...

    def read_fact(self, value: object) -> Fact:
        """Return the fact that ``value`` stands for, or raise ReceiptInvalid."""
        ...


class JsonForm:
    """Bytes as canonical standard base64."""

    def write(self, data: bytes) -> Value:
        return to_base64(data)

    def write_fact(self, fact: Fact) -> Value:
        return {"base64": to_base64(fact)} if isinstance(fact, bytes) else fact

    def read(self, value: object) -> bytes:
        text = as_text(value)
        data = decode_base64(text)
        if text and not data:
            raise ReceiptInvalid("a base64 value was expected")
        return data

    def read_fact(self, value: object) -> Fact:
        if isinstance(value, dict):
            return Fields(value, self).data("base64")
        return value if type(value) is int else as_text(value)


class CborForm:
    """Bytes as byte strings."""

    def write(self, data: bytes) -> Value:
        return data

    def write_fact(self, fact: Fact) -> Value:
        return fact

    def read(self, value: object) -> bytes:
        if not isinstance(value, bytes):
            raise ReceiptInvalid("a byte string was expected")
        return value

    def read_fact(self, value: object) -> Fact:
        if isinstance(value, bytes) or type(value) is int:
            return value
        return as_text(value)


class Fields:
    """An object being read: every read checks presence and type."""

    def __init__(self, content: object, form: Form) -> None:
        if not isinstance(content, Mapping):
            raise ReceiptInvalid("an object was expected")
        self._content: Mapping[str, object] = content
        self._form = form

    def names(self) -> list[str]:
        return list(self._content)

    def has(self, name: str) -> bool:
        return name in self._content

    def take(self, name: str) -> object:
        if name not in self._content:
            raise ReceiptInvalid(f"field {name!r} is missing")
        return self._content[name]

    def text(self, name: str) -> str:
        return as_text(self.take(name))

    def number(self, name: str) -> int:
        value = self.take(name)
        if type(value) is not int or not 0 <= value < 2**63:
            raise ReceiptInvalid(f"field {name!r} must be a whole number")
        return value

    def data(self, name: str) -> bytes:
        return self._form.read(self.take(name))

    def data_or_none(self, name: str) -> bytes | None:
        return None if self.take(name) is None else self.data(name)

    def fact(self, name: str) -> Fact:
        return self._form.read_fact(self.take(name))

    def hashes(self, name: str) -> tuple[bytes, ...]:
        return tuple(self._form.read(item) for item in self.items(name))

    def items(self, name: str) -> Sequence[object]:
        value = self.take(name)
        if not isinstance(value, list | tuple):
            raise ReceiptInvalid(f"field {name!r} must be a list")
        return value

    def fields(self, name: str) -> "Fields":
        return Fields(self.take(name), self._form)

    def each(self, name: str) -> "list[Fields]":
        return [Fields(item, self._form) for item in self.items(name)]


def as_text(value: object) -> str:
    if not isinstance(value, str):
        raise ReceiptInvalid("a text was expected")
    return value


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
