"""The two spellings of a receipt: JSON and C2SP tlog-proof text.

Invariants:
    * each spelling gives the same fields, so that claims are read by one code;
    * what is read is spelled in the one way the page allows.
"""

import json
from dataclasses import dataclass
from typing import Protocol

from tests.support.second_verifier.cbor import Value, decode
from tests.support.second_verifier.notes import from_base64, from_decimal
from tests.support.second_verifier.refusal import Refused, require

FORMAT = "ledger-core/receipt/v1"
HEADER = "c2sp.org/tlog-proof@v1"
MAX_RECEIPT = 1_048_576
MAX_LEVELS = 8
CLAIMS: dict[str, tuple[str, ...]] = {
    "record": ("record", "batch", "transaction"),
    "records": ("batches", "path"),
    "transaction": ("transaction",),
    "state": ("state", "entry"),
    "past-state": ("state", "entry"),
    "revocation": ("kind", "key", "current", "past"),
}


class Spelling(Protocol):
    """How bytes and maps are read in one spelling."""

    def data(self, value: Value) -> bytes:
        """Bytes."""

    def fact(self, value: Value) -> str | int | bytes:
        """The value of a fact."""

    def fields(self, value: Value, *names: str) -> list[Value]:
        """The values of a map with exactly these fields."""

    def table(self, value: Value) -> dict[str, Value]:
        """A map with names of the writer's choice."""


@dataclass(frozen=True, slots=True)
class Spelled:
    """A receipt taken apart, its claim not yet read."""

    spelling: Spelling
    claim: str
    fields: list[Value]
    index: int
    path: list[bytes]
    note: str


def text_of(value: Value) -> str:
    if not isinstance(value, str):
        raise Refused("a field that should be text")
    return value


def number_of(value: Value) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise Refused("a field that should be an unsigned number")
    return value


def index_of(value: Value) -> int:
    number = number_of(value)
    require(number < 1 << 63, "a position beyond 2^63")
    return number


def list_of(value: Value) -> list[Value]:
    if not isinstance(value, list):
        raise Refused("a field that should be a list")
    return value


class JsonSpelling:
    """Bytes are base64; fields stand in the page's order, names sorted."""

    def data(self, value: Value) -> bytes:
        return from_base64(text_of(value))

    def fact(self, value: Value) -> str | int | bytes:
        if isinstance(value, dict):
            return self.data(self.fields(value, "base64")[0])
        return _plain_fact(value)

    def fields(self, value: Value, *names: str) -> list[Value]:
        if not isinstance(value, dict) or tuple(value) != names:
            raise Refused("an object with other fields, or in another order")
        return list(value.values())

    def table(self, value: Value) -> dict[str, Value]:
        if not isinstance(value, dict) or list(value) != sorted(value):
            raise Refused("names out of order")
        return value


class CborSpelling:
    """Bytes are byte strings; CBOR has put the fields in order."""

    def data(self, value: Value) -> bytes:
        if not isinstance(value, bytes):
            raise Refused("a field that should be bytes")
        return value

    def fact(self, value: Value) -> str | int | bytes:
        return value if isinstance(value, bytes) else _plain_fact(value)

    def fields(self, value: Value, *names: str) -> list[Value]:
        if not isinstance(value, dict) or set(value) != set(names):
            raise Refused("a map with other fields")
        return [value[name] for name in names]

    def table(self, value: Value) -> dict[str, Value]:
        if not isinstance(value, dict):
            raise Refused("a field that should be a map")
        return value


def _plain_fact(value: Value) -> str | int:
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise Refused("a fact that is neither text, nor integer, nor bytes")


def read(receipt: str) -> Spelled:
    """Take a receipt apart, in whichever spelling it is."""
    require(len(receipt) <= MAX_RECEIPT, "the receipt is too long")
    try:
        receipt.encode()
    except UnicodeEncodeError as error:
        raise Refused("the receipt is not text that UTF-8 can hold") from error
    return _read_proof(receipt) if receipt.startswith(HEADER + "\n") else _read_json(receipt)


def _claim_of(spelling: Spelling, value: Value, *after: str) -> tuple[str, list[Value]]:
    claim = value.get("claim") if isinstance(value, dict) else None
    if not isinstance(claim, str) or claim not in CLAIMS:
        raise Refused("an unknown claim")
    fields = spelling.fields(value, "format", "claim", *CLAIMS[claim], *after)
    require(fields[0] == FORMAT, "an unknown format")
    return claim, fields[2:]


def _read_json(receipt: str) -> Spelled:
    try:
        value: Value = json.loads(receipt)
    except (ValueError, RecursionError) as error:
        raise Refused("not JSON") from error
    _check_levels(value, 1)
    spelling = JsonSpelling()
    claim, fields = _claim_of(spelling, value, "log", "checkpoint")
    rewritten = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    require(rewritten == receipt, "JSON spelled otherwise")
    *fields, log, checkpoint = fields
    index, path = spelling.fields(log, "index", "path")
    lines = [text_of(line) for line in list_of(checkpoint)]
    require(not any("\n" in line for line in lines), "a newline within a line of the note")
    hashes = [spelling.data(each) for each in list_of(path)]
    return Spelled(spelling, claim, fields, index_of(index), hashes, "\n".join(lines))


def _check_levels(value: Value, level: int) -> None:
    if isinstance(value, dict | list):
        require(level <= MAX_LEVELS, "JSON nested too deeply")
        for item in value.values() if isinstance(value, dict) else value:
            _check_levels(item, level + 1)


def _read_proof(receipt: str) -> Spelled:
    head, parted, note = receipt.partition("\n\n")
    require(bool(parted), "no empty line before the note")
    lines = head.split("\n")
    require(len(lines) >= 3, "a line is missing")
    require(lines[1].startswith("extra ") and lines[2].startswith("index "), "extra or index is missing")
    spelling = CborSpelling()
    claim, fields = _claim_of(spelling, decode(from_base64(lines[1].removeprefix("extra "))))
    index = from_decimal(lines[2].removeprefix("index "))
    return Spelled(spelling, claim, fields, index, list(map(from_base64, lines[3:])), note)
